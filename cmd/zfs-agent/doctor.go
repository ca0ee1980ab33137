package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/doctor"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
)

type doctorOptions struct {
	env      env
	output   string
	node     string
	tls      string
	hostRoot string
	strict   bool
	timeout  time.Duration
	receive  time.Duration
}

// doctorReport is what is printed as JSON and YAML.
type doctorReport struct {
	Metadata reportMeta     `json:"metadata"`
	At       time.Time      `json:"at"`
	State    doctor.State   `json:"state"`
	OK       int            `json:"ok"`
	Warnings int            `json:"warnings"`
	Problems int            `json:"problems"`
	Groups   []doctor.Group `json:"groups"`
}

type reportMeta struct {
	Name string `json:"name"`
}

func newDoctorCommand(e env) *cobra.Command {
	o := &doctorOptions{env: e}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine this host, and say what to do about what is wrong",
		Long: `Examine this host: the release of OpenZFS against known defects, pools, their
space and features, replicas that could be written to, interrupted receives that
nobody goes on with, leaked holds, clock and certificates. Each finding is ok, a
warning or a problem with what to do about it.

Nothing is changed. Each command has a deadline, and a pool that does not answer
is not asked again.

Exit status: 0 ok, or warnings without --strict; 1 error or wrong usage; 2 problems
found.`,
		Example: `  # Is this host fit?
  zfs-agent doctor --tls=/etc/zfs-agent/tls.pem

  # In a monitoring script
  zfs-agent doctor --strict -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "output format: json, yaml, wide or name (default: a table)")
	f.StringVar(&o.node, "node", "", "name of this node (default: the host's name)")
	f.StringVar(&o.tls, "tls", "", "TLS bundle of this host's agent, whose certificates are looked at")
	f.StringVar(&o.hostRoot, "host-root", "", "run the zfs and zpool of the file system mounted there, for an agent in a container")
	f.BoolVar(&o.strict, "strict", false, "exit with status 2 on warnings too")
	f.DurationVar(&o.timeout, "timeout", doctor.DefaultTimeout, "how long each command may take")
	f.DurationVar(&o.receive, "receive-age", doctor.DefaultReceiveAge, "how old an interrupted receive may be")
	return cmd
}

func (o *doctorOptions) run(ctx context.Context, out, errOut io.Writer) error {
	if o.node == "" {
		name, err := o.env.hostname()
		if err != nil {
			return fmt.Errorf("name this node: %w", err)
		}
		o.node = name
	}
	client, err := o.env.zfs(o.hostRoot)
	if err != nil {
		return err
	}
	d := &doctor.Doctor{
		ZFS: client, Now: o.env.now, Timeout: o.timeout, ReceiveAge: o.receive, Roots: []string{""}, PoolStates: o.env.poolStates,
		Holds:        &holds.Reaper{Now: o.env.now, Log: slog.New(slog.DiscardHandler)},
		Synchronized: o.env.synchronized, Delegated: o.env.user != 0,
	}
	if o.tls != "" {
		bundle, err := agent.LoadBundle(o.tls)
		if err != nil {
			return err
		}
		d.Certificates = bundle.Certificates()
	}
	groups, err := d.Examine(ctx)
	if err != nil {
		return err
	}
	r := doctorReport{
		Metadata: reportMeta{o.node}, At: o.env.now().UTC().Truncate(time.Second), State: doctor.Overall(groups), Groups: groups,
	}
	var names []string
	for _, g := range groups {
		for _, i := range g.Items {
			names = append(names, i.Name)
			switch i.State {
			case doctor.OK:
				r.OK++
			case doctor.Warning:
				r.Warnings++
			case doctor.Problem:
				r.Problems++
			}
		}
	}
	err = printResult(out, o.output, "DoctorReport", r, names, func(t *table) {
		t.row([]string{"STATE", "CHECK", "MESSAGE", "REMEDY"}, "GROUP")
		for _, g := range groups {
			for _, i := range g.Items {
				t.row([]string{string(i.State), i.Name, i.Message, i.Remedy}, g.Name)
			}
		}
	})
	if err != nil {
		return err
	}
	counts := fmt.Sprintf("%d ok, warnings: %d, problems: %d", r.OK, r.Warnings, r.Problems)
	if r.State == doctor.Problem || o.strict && r.State == doctor.Warning {
		return fmt.Errorf("%w: %s", errUnhealthy, counts)
	}
	fmt.Fprintln(errOut, counts)
	return nil
}
