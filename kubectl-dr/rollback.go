package kubectldr

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/reprotect"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

func newCmdRollback(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "rollback [PLAN | -f FILE]",
		Short:   "Undo a failover that is not committed",
		GroupID: groupAct,
		Long: `Undo a failover: the source goes on where it stopped, and the recovery site is put
back. It can be done until kubectl dr reprotect commits the failover, also while that
has stopped on the way, and after a disaster whose source turns out to be alive. Needs
--source-context, and the source's agent.

First it is shown, for each volume, how much was written at the recovery site since
the failover: the source goes on without that. It is kept at the recovery site, in the
volumes and as a snapshot named after the run. A source that has not any more what the
failover left there is refused: claims, volumes, workloads of the plan's waves.

The recovery site is stopped first, so the application never runs at both. If a step
before the source is started fails, the recovery site gets back what it had. Then the
source is started in waves and probed, traffic is directed to it, and its schedule and
GitOps are resumed. Last, the namespaces that the failover has made are deleted; their
volumes are kept: PersistentVolumes become Retain first. A warm standby is brought back
to rest.

Asks for the plan's name before it begins, unless --yes is given. One that stopped
goes on when the command is run again.` + exitStatus,
		Example: `  # What was written, and what would be done?
  kubectl dr rollback wordpress --source-context=primary --dry-run

  kubectl dr rollback wordpress --source-context=primary`,
	}
	f := addMoveFlags(c, e, g)
	f.addStart(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.validate(c.Name()); err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		if len(p.Spec.Source.StretchedPools) > 0 && !f.abandon {
			return hint.Errorf("kubectl dr reprotect and failback take it home with all that was written: docs/sites.md, Stretched",
				"%s does not undo a failover of plan %q: it has stretched pools, and there is no state before it to go on from", c.Name(), p.Name)
		}
		return f.rollback(ctx, e, s, p)
	})
	return c
}

// uncommitted returns the failover that can be rolled back: nothing that changes a site
// has followed it. It may have stopped on the way, or have been abandoned.
func uncommitted(planName string, runs []plan.RecoveryRun) (*plan.RecoveryRun, error) {
	for i := range runs {
		r := &runs[i]
		if r.Status.Phase == plan.PhaseFailed {
			continue // it has given back what it had taken
		}
		switch r.Spec.Kind {
		case plan.RunFailover, plan.RunPlannedFailover:
			return r, nil
		case plan.RunReprotect:
			if slices.ContainsFunc(r.Status.Steps, func(s plan.Step) bool { return s.Name != reprotect.StepLook && s.StartedAt != nil }) {
				return nil, hint.Errorf("kubectl dr failback "+planName+" moves it back with all that was written", "%s has committed %s: it is not rolled back any more", r.Name, r.Spec.Follows)
			}
		case plan.RunFailback, plan.RunRollback:
			if r.Status.Phase == plan.PhasePassed {
				return nil, notMoved(planName)
			}
		}
	}
	return nil, notMoved(planName)
}

func notMoved(planName string) error {
	return hint.Errorf("kubectl dr status "+planName+" says where it runs", "the application of plan %q runs where it was installed: there is no failover to roll back", planName)
}

func (f *moveFlags) rollback(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan) error {
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return err
	}
	defer release()
	kinds := []plan.RunKind{plan.RunRollback}
	if !f.resume && !f.abandon {
		kinds = append(kinds, plan.RunFailover, plan.RunPlannedFailover) // which are what to roll back
	}
	r, err := f.toGoOn(ctx, e, s, p.Name, kinds...)
	if err != nil || f.abandon {
		return err
	}
	runs, err := run.Runs(ctx, s.cluster.Client, s.cluster.Namespace, p.Name)
	if err != nil {
		return err
	}
	fresh := r == nil || r.Spec.Kind != plan.RunRollback
	if fresh {
		move, err := uncommitted(p.Name, runs)
		if err != nil {
			return err
		}
		r = run.NewRun(failover.Name(p.Name, plan.RunRollback, e.now()), s.cluster.Namespace, plan.RecoveryRunSpec{
			Kind: plan.RunRollback, Plan: p.Name, PlanSpec: p.Spec, Epoch: run.Epoch(runs) + 1, Follows: move.Name,
		}, nil)
	}
	rb, err := f.undo(ctx, e, s, r, run.Named(runs, r.Spec.Follows))
	if err != nil {
		return err
	}
	if fresh {
		r.Status = run.NewRun(r.Name, r.Namespace, r.Spec, rb.Steps()).Status
		if err := f.compared(ctx, e, r, rb); err != nil || f.dryRun {
			return err
		}
	} else if f.dryRun {
		return f.preview(e, r, rb.Steps())
	}
	e.begun(r, fresh)
	return errors.Join(rb.Execute(ctx, e.journal(f.global, s, r)), f.out.result(e, typed(r)))
}

// undo makes the rollback of a failover that a run is.
func (f *moveFlags) undo(ctx context.Context, e *env, s *site, r, move *plan.RecoveryRun) (*failover.Rollback, error) {
	if move == nil {
		return nil, hint.Errorf("end it with --abandon", "run %s follows %s, which is not there any more", r.Name, r.Spec.Follows)
	}
	source, err := f.sourceCluster(ctx, e, s, r)
	if err != nil {
		return nil, err
	}
	rb := &failover.Rollback{
		Failover: &failover.Failover{
			Target: f.target(e, source, r), Fencer: s.storage, RollBackTimeout: f.cleanUpTimeout, Unfence: failover.Replicas(move),
			Standby: e.standby(s.cluster, r.Spec.Plan, r.Spec.PlanSpec.Source.Namespaces), Source: f.side(e, r, s.cluster, nil),
		},
		Move: move, Volumes: s.storage, Left: f.side(e, move, source, s.cluster), Now: e.now,
	}
	rb.Source.Site = failover.RecoverySite
	if t := r.Spec.PlanSpec.Traffic; t != nil {
		rb.Names = e.names(t.Resolver)
	}
	return rb, nil
}
