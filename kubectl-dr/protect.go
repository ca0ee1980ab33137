package kubectldr

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/protect"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// nextRuns are shown of each Schedule.
const nextRuns = 3

type protectFlags struct {
	*planFlags
	out           *outputFlags
	dryRun, prune bool
}

func newCmdProtect(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "protect [PLAN | -f FILE]",
		Short:   "Have Velero take the backups of a plan",
		GroupID: groupAct,
		Long: `Have Velero at the source take the backups that spec.protect of a plan asks for: up
to four classes, interval, daily, weekly and monthly, each with a Schedule of its
own and so many backups kept. The interval's Schedule is spec.source.schedule,
whose backups are the restore points. Shows when the next backups are taken.

Can be repeated: Schedules become what the plan says. A Schedule that was not made
for the plan is never touched, nor what the plan says nothing of, as hooks, nor
whether one is paused. Schedules of classes that the plan does not have any more
are shown, and deleted with --prune alone; their backups stay.

Needs --source-context: backups are taken where the application runs.` + exitStatus,
		Example: `  # What would be made, and when would backups be taken?
  kubectl dr protect wordpress --source-context=primary --dry-run

  # Before there is a recovery cluster
  kubectl dr protect -f plan.yaml --source-context=primary`,
	}
	f := &protectFlags{planFlags: addPlanFlags(c, e, g), out: addOutputFlags(c)}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	c.Flags().BoolVar(&f.prune, "prune", false, "delete the plan's Schedules of classes that it does not have any more")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if !g.hasSource() {
			return hint.Errorf("it names the cluster that the application runs in", "protect needs --source-context or --source-kubeconfig")
		}
		return f.protect(ctx, e, args)
	})
	return c
}

func (f *protectFlags) protect(ctx context.Context, e *env, args []string) error {
	_, p, err := f.load(ctx, e, args)
	if err != nil {
		return err
	}
	source, err := e.open(f.global.source, f.global.namespace(p))
	if err != nil {
		return fmt.Errorf("source cluster: %w", err)
	}
	protector := &protect.Protector{Client: source.Client, Namespace: source.Namespace}
	items, err := protector.Plan(ctx, p)
	if err != nil {
		return err
	}
	var errs []error
	if !f.dryRun {
		for i := range items {
			if items[i].Action == protect.Surplus && !f.prune {
				continue
			}
			errs = append(errs, protector.Apply(ctx, &items[i]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r, err := f.report(e, p, items)
	if err != nil {
		return err
	}
	return f.out.result(e, r)
}

func (f *protectFlags) report(e *env, p *plan.RecoveryPlan, items []protect.Item) (*report.Protection, error) {
	r := &report.Protection{TypeMeta: report.TypeMeta("ProtectionReport"), ObjectMeta: metav1.ObjectMeta{Name: p.Name}, At: metav1.NewTime(e.now())}
	for _, item := range items {
		s := item.Schedule
		row := report.ScheduleInfo{
			Class: item.Class.Name, Schedule: s.Name, When: s.Spec.Schedule, Keep: item.Class.Keep, TTL: s.Spec.Template.TTL,
			State: f.state(item.Action), Paused: s.Spec.Paused, LastBackup: s.Status.LastBackup,
		}
		next, err := protect.Next(s, e.now(), nextRuns)
		if err != nil {
			return nil, err
		}
		if row.State != "deleted" {
			for _, at := range next {
				row.Next = append(row.Next, metav1.NewTime(at))
			}
		}
		r.Schedules = append(r.Schedules, row)
	}
	return r, nil
}

// state words what was done, or would be.
func (f *protectFlags) state(a protect.Action) string {
	if f.dryRun {
		return map[protect.Action]string{protect.Create: "to create", protect.Change: "to change", protect.Surplus: "surplus", protect.Unchanged: "unchanged"}[a]
	}
	if a == protect.Surplus && f.prune {
		return "deleted"
	}
	return map[protect.Action]string{protect.Create: "created", protect.Change: "changed", protect.Surplus: "surplus", protect.Unchanged: "unchanged"}[a]
}
