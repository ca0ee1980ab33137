package kubectldr

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/reprotect"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// atRecovery returns the run that moved the application to the recovery site; an
// error when it does not run there.
func atRecovery(planName string, runs []plan.RecoveryRun) (*plan.RecoveryRun, error) {
	move := run.LastMove(runs)
	if move == nil || move.Spec.Kind.Returns() {
		return nil, hint.Errorf("kubectl dr status "+planName+" says where it runs", "the application of plan %q does not run at the recovery site: no failover has brought it there", planName)
	}
	return move, nil
}

// protected is atRecovery for what is replicated back from there already.
func protected(planName string, runs []plan.RecoveryRun) (*plan.RecoveryRun, error) {
	move, err := atRecovery(planName, runs)
	if err != nil {
		return nil, err
	}
	if r := run.LastReprotect(runs); r == nil || r.Spec.Follows != move.Name {
		return nil, hint.Errorf("kubectl dr reprotect "+planName+" has it replicated back first", "what plan %q has at the recovery site since %s is not replicated to the source", planName, move.Name)
	}
	return move, nil
}

func newCmdReprotect(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "reprotect [PLAN | -f FILE]",
		Short:   "Replicate back to the source after a failover",
		GroupID: groupAct,
		Long: `Protect an application that a failover has moved: the recovery site becomes the
source of replication, and the old source receives what has changed since both
were the same. That commits the failover: kubectl dr rollback does not undo it any
more. Needs --source-context, and the source's agent.

First it is shown, for each volume, how much has to be sent, and how much was
written at the source since: by an application that ran on there, or before a
disaster. What diverged is kept as a snapshot named after the run. The volume that
the failover left is neither rolled back nor written to: what comes back is
received beside it, as a clone of the newest snapshot that both sides have. Where
there is none any more, everything is sent.

Of volumes on stretched pools nothing is sent. Their mirrors have to be whole: ONLINE
at the recovery site, and every disk seen by the source's host.

The schedule of the source is paused and its workloads are stopped; the recovery
site gets a schedule of that name, and a first backup. It has to be allowed to
write to a BackupStorageLocation: spec.failback.storageLocation of the plan.

Asks for the plan's name before it begins, unless --yes is given. One that stopped
goes on when the command is run again.` + exitStatus,
		Example: `  # What diverged, and how much would be sent?
  kubectl dr reprotect wordpress --source-context=primary --dry-run

  kubectl dr reprotect wordpress --source-context=primary`,
	}
	f := addMoveFlags(c, e, g)
	f.addBackup(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.validate(c.Name()); err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		return f.reprotect(ctx, e, s, p)
	})
	return c
}

func newCmdFailback(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "failback [PLAN | -f FILE]",
		Short:   "Move an application back to the source",
		GroupID: groupAct,
		Long: `Move an application back to the source, after kubectl dr reprotect: a planned
failover the other way. The schedule at the recovery site is paused, its workloads
are stopped, a last backup is taken and waited for, and that is restored at the
source with profile spec.profiles.failback: nothing is lost. If a step before that
fails, the recovery site gets back what it had. Needs --source-context.

Stretched pools are exported at the recovery site and imported at the source, whose
PersistentVolumes lead to the same datasets again.

Namespaces at the source in which the application was stopped are deleted before
the restore. Their volumes are kept: PersistentVolumes become Retain first.
Namespaces in which something runs are refused.

Asks for the plan's name before it begins, unless --yes is given. One that stopped
goes on when the command is run again.` + exitStatus,
		Example: `  # What would be done?
  kubectl dr failback wordpress --source-context=primary --dry-run

  kubectl dr failback wordpress --source-context=primary`,
	}
	f := &failoverFlags{moveFlags: addMoveFlags(c, e, g), back: true}
	f.addBackup(c)
	f.addRestore(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.moveFlags.validate(c.Name()); err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		return f.failover(ctx, e, s, p)
	})
	return c
}

// validate is for commands that need the source.
func (f *moveFlags) validate(verb string) error {
	switch {
	case f.abandon:
		return nil
	case !f.global.hasSource():
		return hint.Errorf("it names the cluster that the application was installed in", "%s needs --source-context or --source-kubeconfig", verb)
	}
	return nil
}

func (f *moveFlags) reprotect(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan) error {
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return err
	}
	defer release()
	r, err := f.toGoOn(ctx, e, s, p.Name, plan.RunReprotect)
	if err != nil || f.abandon {
		return err
	}
	runs, err := run.Runs(ctx, s.cluster.Client, s.cluster.Namespace, p.Name)
	if err != nil {
		return err
	}
	fresh := r == nil
	if fresh {
		move, err := atRecovery(p.Name, runs)
		if err != nil {
			return err
		}
		if done := run.LastReprotect(runs); done != nil && done.Spec.Follows == move.Name {
			return hint.Errorf("kubectl dr failback "+p.Name+" moves it back", "plan %q is replicated back since %s", p.Name, done.Name)
		}
		name := failover.Name(p.Name, plan.RunReprotect, e.now())
		r = run.NewRun(name, s.cluster.Namespace, plan.RecoveryRunSpec{
			Kind: plan.RunReprotect, Plan: p.Name, PlanSpec: p.Spec, Backup: name, Epoch: run.Epoch(runs) + 1, Follows: move.Name,
		}, nil)
	}
	source, err := f.sourceCluster(ctx, e, s, r)
	if err != nil {
		return err
	}
	rp := &reprotect.Reprotect{
		Run: r, Move: run.Named(runs, r.Spec.Follows), Storage: s.storage, Pools: s.storage, Finder: finder(source, s.storage.Back()), Hooks: e.hooks(),
		Old: f.side(e, r, source, s.cluster), New: f.side(e, r, s.cluster, source),
	}
	if rp.Move == nil {
		return hint.Errorf("end it with --abandon", "run %s follows %s, which is not there any more", r.Name, r.Spec.Follows)
	}
	rp.New.Site, rp.New.There = failover.RecoverySite, "at the source"
	if fresh {
		r.Status = run.NewRun(r.Name, r.Namespace, r.Spec, rp.Steps()).Status
		if err := rp.CheckLocation(ctx); err != nil {
			return err
		}
		if err := f.compared(ctx, e, r, rp); err != nil || f.dryRun {
			return err
		}
	} else if f.dryRun {
		return f.preview(e, r, rp.Steps())
	}
	e.begun(r, fresh)
	j := e.journal(f.global, s, r)
	return errors.Join(rp.Execute(ctx, j), f.out.result(e, typed(r)))
}

// comparison is a run that begins with a look at the volumes of both sides.
type comparison interface {
	Look(ctx context.Context) error
	Summary() string
	Steps() []run.Step
}

// compared shows what became of both sides and what would be done, and returns nil when
// that may begin. A dry run ends with it.
func (f *moveFlags) compared(ctx context.Context, e *env, r *plan.RecoveryRun, c comparison) error {
	if err := c.Look(ctx); err != nil {
		return err
	}
	if err := report.Sides(e.ErrOut, r); err != nil {
		return err
	}
	fmt.Fprintln(e.ErrOut, c.Summary())
	if f.dryRun {
		return f.preview(e, r, c.Steps())
	}
	return f.confirm(ctx, e, r, c.Steps())
}
