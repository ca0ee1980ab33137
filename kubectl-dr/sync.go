package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

type syncFlags struct {
	*planFlags
	out    *outputFlags
	watch  *watchFlags
	backup string
	adopt  []string
	dryRun bool
	prune  bool
	strict bool
}

func newCmdSync(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "sync [PLAN | -f FILE]",
		Short:   "Keep a warm standby at the newest backup",
		GroupID: groupAct,
		Long: `Keep a warm standby: the objects of the newest recoverable backup are made in the
recovery cluster as profile spec.profiles.standby has them, with nothing running and
no name claimed. Volumes are left to the failover, which then restores them alone.

What is missing is created, what differs is changed by server-side apply, and what
the backup does not have any more is shown, and deleted with --prune. All of it
carries the plan's name in a label; an object that somebody else made is left as it
is, and is a conflict when it differs, unless it is taken over with --adopt. Status,
volumes, and what a controller owns are not touched. One that can't be changed in
place is made anew. Run again, it changes nothing.

It is refused while the application runs in the recovery cluster, while it is being
moved, and in namespaces that hold claims: those are no standby.

Exit status 2 says that something could not be done, or is a conflict; with --strict
also that something is left to do, as surplus objects, or differences in a dry run.` + exitStatus,
		Example: `  # What is missing, surplus or otherwise?
  kubectl dr sync wordpress --dry-run -o wide

  # Bring it up to date, and delete what the source does not have any more
  kubectl dr sync wordpress --prune

  # Take over what somebody else made
  kubectl dr sync wordpress --adopt=configmap/settings

  # Keep it current; examples/sync does so in the cluster
  kubectl dr sync wordpress --watch --interval=5m`,
	}
	f := &syncFlags{planFlags: addPlanFlags(c, e, g), out: addOutputFlags(c), watch: &watchFlags{}}
	fl := c.Flags()
	fl.StringVar(&f.backup, "backup", "", "backup to bring it to, instead of the newest that is recoverable")
	fl.StringSliceVar(&f.adopt, "adopt", nil, "objects to take over that somebody else made, as <kind>/<name> or <namespace>/<kind>/<name>")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	fl.BoolVar(&f.prune, "prune", false, "delete what is of the standby and not of the backup")
	fl.BoolVar(&f.strict, "strict", false, "exit with status 2 when something is left to do too")
	fl.BoolVarP(&f.watch.watch, "watch", "w", false, "sync again and again, until interrupted")
	fl.DurationVar(&f.watch.interval, "interval", 5*time.Minute, "between two syncs, with --watch")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.watch.validate(); err != nil {
			return err
		}
		adopt, err := f.names()
		if err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		return f.watch.repeat(ctx, e, func(ctx context.Context) error {
			r, err := f.sync(ctx, e, s, p, adopt)
			if err != nil {
				return err
			}
			return e.judged(f.out.result(e, r), r.State, f.strict)
		})
	})
	return c
}

func (f *syncFlags) names() ([]standby.Name, error) {
	var all []standby.Name
	for _, s := range f.adopt {
		name, err := standby.ParseName(s)
		if err != nil {
			return nil, fmt.Errorf("--adopt: %w", err)
		}
		all = append(all, name)
	}
	return all, nil
}

// standby is that of a plan in a cluster.
func (e *env) standby(c *cluster.Cluster, planName string, namespaces []string) *standby.Standby {
	return &standby.Standby{Client: c.Client, Namespace: c.Namespace, Plan: planName, Namespaces: namespaces, Interval: e.interval}
}

func (f *syncFlags) sync(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan, adopt []standby.Name) (*report.Sync, error) {
	profile, err := e.standbyProfile(ctx, s.cluster, p)
	if err != nil {
		return nil, err
	}
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := inactive(ctx, s.cluster, p); err != nil {
		return nil, err
	}
	point, err := s.point(ctx, p.Spec.Source, f.backup)
	if err != nil {
		return nil, err
	}
	objects, err := standby.Objects(ctx, s.cluster.Files, point.Backup)
	if err != nil {
		return nil, err
	}
	of := e.standby(s.cluster, p.Name, p.Spec.Source.Namespaces)
	of.DryRun, of.Prune, of.Adopt = f.dryRun, f.prune, adopt
	r, err := of.Sync(ctx, objects, profile)
	if err != nil {
		return nil, err
	}
	r.At, r.Backup, r.BackupAt, r.Profile = metav1.NewTime(e.now()), point.Backup, metav1.NewTime(point.StartedAt), profile.Name
	if f.dryRun {
		return r, nil
	}
	return r, of.Note(ctx, r)
}

// standbyProfile returns the profile of a plan's standby: one that starts nothing.
func (e *env) standbyProfile(ctx context.Context, c *cluster.Cluster, p *plan.RecoveryPlan) (*rules.Profile, error) {
	const shape = "a profile with state: standby and externalDNS: mute"
	name := p.Spec.Profiles.Standby
	if name == "" {
		return nil, hint.Errorf("add "+shape+" to the ConfigMap of profiles, and its name to the plan", "plan %q names no spec.profiles.standby", p.Name)
	}
	set, err := c.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	profile, err := set.Profile(name)
	if err != nil {
		return nil, hint.Errorf("correct spec.profiles.standby of the plan or the ConfigMap of profiles", "%w", err)
	}
	if profile.State != rules.StateStandby {
		return nil, hint.Errorf("spec.profiles.standby wants "+shape, "profile %s would start the application: it has no state: standby", name)
	}
	if profile.ExternalDNS != rules.ExternalDNSMute && profile.Traffic != rules.TrafficPassive {
		e.hooks().Warnf("profile %s has no externalDNS: mute: an external-dns here may publish the names of the standby", name)
	}
	return profile, nil
}

// inactive refuses a recovery cluster in which the application runs or goes to.
func inactive(ctx context.Context, c *cluster.Cluster, p *plan.RecoveryPlan) error {
	runs, err := run.Runs(ctx, c.Client, c.Namespace, p.Name)
	if err != nil {
		return err
	}
	if r := run.InProgress(runs); r != nil && r.Spec.Kind != plan.RunDrill {
		return hint.Errorf("end it first: kubectl dr "+r.Spec.Kind.Verb()+" "+p.Name+" --resume", "%s %s of plan %q is in progress", r.Spec.Kind.Words(), r.Name, p.Name)
	}
	if move, err := atRecovery(p.Name, runs); err == nil {
		return hint.Errorf("a standby is kept again after a failback", "the application of plan %q runs here since %s: it is no standby", p.Name, move.Name)
	}
	err = failover.CheckTarget(ctx, c.Client, p.Spec.Source.Namespaces)
	var occupied *failover.OccupiedError
	if errors.As(err, &occupied) {
		return hint.Errorf("delete the namespace if nothing in it is needed; volumes that are Retain are kept",
			"namespace %s holds claims, so it is no standby: an application runs there, or was left by a failback", occupied.Namespace)
	}
	return err
}

// standbySummary says how current the warm standby is, nil when there is none.
func (e *env) standbySummary(ctx context.Context, c *cluster.Cluster, p *plan.RecoveryPlan, status *report.Status) *report.StandbySummary {
	if status.Role != roleStandby || p.Spec.Profiles.Standby == "" {
		return nil
	}
	record, err := e.standby(c, p.Name, p.Spec.Source.Namespaces).Record(ctx)
	switch {
	case err != nil:
		return &report.StandbySummary{State: report.Warning, Message: err.Error()}
	case record.Backup == "":
		status.Next = append(status.Next, "kubectl dr sync "+p.Name+" (the plan has a standby profile)")
		return nil
	}
	b := &report.StandbySummary{
		Backup: record.Backup, At: metav1.NewTime(record.BackupAt), Age: metav1.Duration{Duration: e.now().Sub(record.BackupAt).Round(time.Second)},
		State: record.State, Message: record.Message,
	}
	if newest := status.RestorePoint; newest != nil && newest.Backup != record.Backup {
		b.State = report.Worse(b.State, report.Warning)
		status.Next = append(status.Next, "kubectl dr sync "+p.Name)
	}
	return b
}
