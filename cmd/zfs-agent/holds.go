package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

type holdsOptions struct {
	env      env
	dataset  string
	reap     bool
	dryRun   bool
	tls      string
	hostRoot string
	output   string
}

// holdReport is what is printed as JSON and YAML.
type holdReport struct {
	At    time.Time    `json:"at"`
	Holds []holds.Hold `json:"holds"`
}

func newHoldsCommand(e env) *cobra.Command {
	o := &holdsOptions{env: e}
	cmd := &cobra.Command{
		Use:   "holds [DATASET]",
		Short: "List who keeps snapshots from being destroyed, and release what is dead",
		Long: `List the holds on the snapshots of this host, or of one dataset and what lies
below it: who placed each, for what, and whether it is

  live     needed, or its lease is not over
  expired  its lease is over
  orphan   ours, and what it was for is over or not known
  foreign  not ours

--reap releases the dead ones: those whose lease is over, those of a run that is
over, and those of replication when every replica has a newer snapshot. What the
next increment may start from is never released, nor is a hold of somebody else.
A serving agent does the same by itself, see zfs-agent serve --reap-every.

Replicas are asked what they have with the TLS bundle of this host's agent; where
none is given, or one does not answer, holds of replication stay.

Exit status: 0 done; 1 error, or a dead hold could not be released.`,
		Example: `  # Who holds snapshots of a volume?
  zfs-agent holds znvm/k3s/pvc-1 -o wide

  # What would be released, and release it
  zfs-agent holds --reap --dry-run --tls=/etc/zfs-agent/tls.pem
  zfs-agent holds --reap --tls=/etc/zfs-agent/tls.pem`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.dataset = args[0]
			}
			if err := o.validate(); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "output format: json, yaml, wide or name (default: a table)")
	f.BoolVar(&o.reap, "reap", false, "release the dead holds, and print those alone")
	f.BoolVar(&o.dryRun, "dry-run", false, "with --reap: print what would be released, and release nothing")
	f.StringVar(&o.tls, "tls", "", "TLS bundle of this host's agent, to ask replicas what they have")
	f.StringVar(&o.hostRoot, "host-root", "", "run the zfs and zpool of the file system mounted there, for an agent in a container")
	return cmd
}

func (o *holdsOptions) validate() error {
	if o.dryRun && !o.reap {
		return errors.New("--dry-run goes with --reap: without it nothing is released anyway")
	}
	if o.dataset != "" {
		if err := zfs.ValidateDataset(o.dataset); err != nil {
			return err
		}
	}
	return checkOutput(o.output)
}

func (o *holdsOptions) run(ctx context.Context, out, errOut io.Writer) error {
	client, err := o.env.zfs(o.hostRoot)
	if err != nil {
		return err
	}
	reaper := &holds.Reaper{ZFS: client, Now: o.env.now, Log: slog.New(slog.DiscardHandler)}
	if o.tls != "" {
		bundle, err := agent.LoadBundle(o.tls)
		if err != nil {
			return err
		}
		reaper.Ask = agent.AskTarget(bundle)
	}
	do := reaper.Look
	if o.reap && !o.dryRun {
		do = reaper.Reap
	}
	found, err := do(ctx, o.dataset)
	if err != nil {
		return err
	}
	if o.reap {
		found = slices.DeleteFunc(found, func(h holds.Hold) bool { return !h.Dead })
	}
	if len(found) == 0 && o.output != "json" && o.output != "yaml" {
		what := "holds"
		if o.reap {
			what = "dead holds"
		}
		fmt.Fprintf(errOut, "there are no %s\n", what)
		return nil
	}
	if err := o.print(out, found); err != nil {
		return err
	}
	failed := 0
	for _, h := range found {
		if h.Error != "" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d dead holds could not be released", failed, len(found))
	}
	return nil
}

func (o *holdsOptions) print(out io.Writer, found []holds.Hold) error {
	if found == nil {
		found = []holds.Hold{}
	}
	now := o.env.now()
	// The operands of zfs release.
	names := make([]string, 0, len(found))
	for _, h := range found {
		names = append(names, h.Tag+"\t"+h.Snapshot)
	}
	report := holdReport{At: now.UTC().Truncate(time.Second), Holds: found}
	return printResult(out, o.output, "HoldReport", report, names, func(t *table) {
		headers := []string{"SNAPSHOT", "TAG", "OWNER", "AGE", "STATE", "WHY"}
		if o.reap {
			headers = append(headers, "RESULT")
		}
		t.row(headers, "BY", "UNTIL")
		for _, h := range found {
			until := ""
			if !h.Until.IsZero() {
				until = at(h.Until)
			}
			row := []string{h.Snapshot, h.Tag, h.Owner, howOld(now.Sub(h.Placed)), string(h.State), h.Because()}
			if o.reap {
				row = append(row, reaped(h))
			}
			t.row(row, h.By, until)
		}
	})
}

func reaped(h holds.Hold) string {
	switch {
	case h.Released:
		return "released"
	case h.Error != "":
		return h.Error
	default:
		return "would be released"
	}
}
