package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

type pruneFlags struct {
	archiveFlags
	retention archive.Retention
	dryRun    bool
	yes       bool
}

type pruneOptions struct {
	*archiveOptions
	pruner *archive.Pruner
	dryRun bool
	yes    bool
}

func newPruneCommand(e env) *cobra.Command {
	f := &pruneFlags{retention: archive.Retention{Unfinished: archive.DefaultUnfinished}}
	cmd := &cobra.Command{
		Use:   "prune [DATASET...]",
		Short: "Delete restore points that no rule keeps",
		Long: `Delete restore points that no rule keeps, and what uploads that were cut off have
left behind.

The rules are applied to each dataset of each node on its own. What one of them keeps
stays, and so does all that it is based on: no chain is broken. --keep-within counts
from the newest point, so that an archive nothing is added to keeps what it has.
Without a rule nothing is deleted.

A point that the store has locked stays, and is told. Run it in one place at a time.` + archiveExitStatus,
		Example: `  # What would go?
  zfs-agent archive prune --keep-last=7 --keep-within=720h --dry-run

  # From a timer
  zfs-agent archive prune --keep-last=7 --keep-within=720h --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.toOptions(cmd, e, args)
			if err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&f.retention.Last, "keep-last", 0, "keep that many of the newest points of each dataset")
	flags.DurationVar(&f.retention.Within, "keep-within", 0, "keep points that are at most that much older than the newest of their dataset")
	flags.DurationVar(&f.retention.Unfinished, "unfinished-after", f.retention.Unfinished, "how long nothing was added to an unfinished upload before it is deleted")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the plan and do nothing")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

// leastUnfinished is the least age of an upload that is taken for cut off.
const leastUnfinished = time.Hour

func (f *pruneFlags) toOptions(cmd *cobra.Command, e env, args []string) (*pruneOptions, error) {
	if f.retention.Last <= 0 && f.retention.Within <= 0 {
		return nil, errors.New("say what to keep: --keep-last or --keep-within")
	}
	if f.retention.Unfinished < leastUnfinished {
		return nil, fmt.Errorf("--unfinished-after is below %s: an upload that still runs would lose its parts", leastUnfinished)
	}
	common, err := f.archiveFlags.toOptions(cmd, e)
	if err != nil {
		return nil, err
	}
	return &pruneOptions{
		archiveOptions: common, dryRun: f.dryRun, yes: f.yes,
		pruner: &archive.Pruner{Store: common.store, Retention: f.retention, Datasets: args, Clock: e.now},
	}, nil
}

func (o *pruneOptions) run(ctx context.Context) error {
	plan, err := o.pruner.Plan(ctx)
	if err != nil {
		return err
	}
	if err := o.show(plan); err != nil || o.dryRun {
		return err
	}
	if plan.Empty() {
		return nil
	}
	if !o.yes {
		if err := o.confirm(ctx, fmt.Sprintf("%d restore points and %d leftovers will be deleted.", len(plan.Delete), len(plan.Unfinished))); err != nil {
			return err
		}
	}
	o.pruner.Deleted = func(g archive.GUID) { fmt.Fprintf(o.cmd.ErrOrStderr(), "%s deleted\n", g) }
	return o.pruner.Prune(ctx, plan)
}

func (o *pruneOptions) show(plan *archive.PrunePlan) error {
	var deleted []string
	for _, v := range plan.Delete {
		deleted = append(deleted, v.Snapshot)
	}
	return o.print("ArchivePrunePlan", plan, deleted, func(t *table) {
		t.row([]string{"ACTION", "SNAPSHOT", "CREATED", "STORED", "REASON"}, "GUID", "SOURCE")
		row := func(action string, v archive.Verdict) {
			t.row([]string{action, v.Snapshot, at(v.Created), ibytes(v.Bytes), strings.Join(v.Reasons, ", ")}, v.GUID.String(), v.Source)
		}
		for _, v := range plan.Keep {
			row("keep", v)
		}
		for _, v := range plan.Delete {
			row("delete", v)
		}
		for _, l := range plan.Unfinished {
			t.row([]string{"delete", l.Snapshot, "", ibytes(l.Bytes), "no restore point"}, l.GUID.String())
		}
	})
}
