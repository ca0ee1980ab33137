package kubectldr

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

const aboutArchived = `--archived reads what the archives of the agents have of runs: each as it was at its
end, or when it stopped. Where --agents and --agent-credentials say which and as who,
that needs no cluster.`

// runsFlags choose where runs are read that are only looked at.
type runsFlags struct {
	global   *globalFlags
	archived bool
}

func addRunsFlags(c *cobra.Command, g *globalFlags) *runsFlags {
	f := &runsFlags{global: g}
	c.Flags().BoolVar(&f.archived, "archived", false, "read what the archives of the agents have, in the place of the cluster")
	return f
}

func (f *runsFlags) where() string {
	if f.archived {
		return "any archive"
	}
	return "namespace " + f.global.namespace(nil)
}

// runs returns those of a plan, or with "" of all, newest first.
func (f *runsFlags) runs(ctx context.Context, e *env, planName string) ([]plan.RecoveryRun, error) {
	if f.archived {
		storage, err := f.storage(ctx, e)
		if err != nil {
			return nil, err
		}
		return run.Archived(ctx, storage, planName, e.now, e.hooks())
	}
	c, err := e.open(f.global.recovery, f.global.namespace(nil))
	if err != nil {
		return nil, err
	}
	return run.WithCopies(ctx, c.Client, c.Namespace, planName)
}

// storage leads to the agents. When all about them is given, there need not be a
// cluster.
func (f *runsFlags) storage(ctx context.Context, e *env) (*cluster.Storage, error) {
	opts := f.global.agentOptions()
	if len(opts.Addresses) > 0 && opts.Credentials != "" {
		var agents []string
		for node, address := range opts.Addresses {
			agents = append(agents, node+"="+address)
		}
		opts.Config = map[string]string{zfssnap.KeyAgents: strings.Join(agents, ",")}
		return e.storage(ctx, &cluster.Cluster{}, opts)
	}
	c, err := e.open(f.global.recovery, f.global.namespace(nil))
	if err != nil {
		return nil, err
	}
	return e.storage(ctx, c, opts)
}

// pick returns the run of a name, or with "" the newest, and the runs of its plan.
func (f *runsFlags) pick(ctx context.Context, e *env, name string) (*plan.RecoveryRun, []plan.RecoveryRun, error) {
	runs, err := f.runs(ctx, e, "")
	if err != nil {
		return nil, nil, err
	}
	var r *plan.RecoveryRun
	switch {
	case name != "":
		r = run.Named(runs, name)
	case len(runs) > 0:
		r = &runs[0]
	}
	switch {
	case r == nil && name == "":
		return nil, nil, hint.Errorf("kubectl dr drill rehearses a plan", "there was no run yet in %s", f.where())
	case r == nil && f.archived:
		return nil, nil, hint.Errorf("kubectl dr history --archived lists those that are there", "no archive has a report of run %q", name)
	case r == nil:
		return nil, nil, hint.Errorf("kubectl dr history lists runs; with --archived also those that the cluster has lost", "there is no run %q in %s", name, f.where())
	}
	picked := r.DeepCopy()
	return picked, slices.DeleteFunc(runs, func(r plan.RecoveryRun) bool { return r.Spec.Plan != picked.Spec.Plan }), nil
}
