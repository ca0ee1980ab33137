// Package failover moves an application to the recovery site: after a disaster,
// from what has arrived there, or planned, with the source stopped and a final
// backup, so that nothing is lost.
package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1api "k8s.io/api/core/v1"
	networkingv1api "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

// Names of the steps that only a failover has.
const (
	StepFence    = "fence the copies"
	StepTraffic  = "direct traffic"
	StepVerify   = "verify traffic"
	StepRollBack = "roll back "
	StepResume   = "resume the schedule"
)

// Name returns the name of a run of a kind that starts at a time.
func Name(planName string, kind plan.RunKind, at time.Time) string {
	return fmt.Sprintf("%s-%s-%s", planName, kind.Verb(), at.UTC().Format("20060102-150405"))
}

// Fencer makes replicas refuse what is sent to them; *cluster.Storage does.
type Fencer interface {
	// Fence sets who fenced a replica; "" lets it receive again. Idempotent.
	// cluster.ErrExternal when it is not ours to fence.
	Fence(ctx context.Context, node, dataset, by string) error
}

// Failover is one failover, or a failback: that is a planned failover from the
// recovery site to the source.
type Failover struct {
	*run.Target
	Finder *restorepoint.Finder
	Fencer Fencer
	Pools  Pools
	// SourceFenced: the source's hosts are off, so disks of stretched pools that are
	// not seen where they are imported are not written to elsewhere.
	SourceFenced bool
	// Standby is the warm standby of the plan, which the run may say what to do with.
	Standby *standby.Standby
	// Names asks name servers; nil asks none.
	Names traffic.Names
	// Source is the side that the application leaves, nil in a disaster.
	Source *Source
	// Unfence are copies that the run before had fenced, and that a failback lets
	// go.
	Unfence []cluster.Copy
	// RollBackTimeout bounds giving the source back what it had.
	RollBackTimeout time.Duration
}

// StoppedError says that a failover stopped and can go on.
type StoppedError struct {
	Kind plan.RunKind
	Run  string
	Err  error
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("%s %s stopped at %s", e.Kind.Verb(), e.Run, e.Err)
}
func (e *StoppedError) Unwrap() error { return e.Err }

// Hint says how it goes on; what the cause knows comes first.
func (e *StoppedError) Hint() string {
	own := "run the same command again to go on from there, or with --abandon to end the run and leave everything as it is"
	if e.Kind == plan.RunPlannedFailover {
		own += "; kubectl dr rollback gives the source back what it had"
	}
	var cause interface{ Hint() string }
	if errors.As(e.Err, &cause) && cause.Hint() != "" {
		return cause.Hint() + "; then " + own
	}
	return own
}

// Steps returns all steps in order.
func (f *Failover) Steps() []run.Step { return append(f.before(), f.recovery()...) }

// before is what can be taken back.
func (f *Failover) before() []run.Step {
	if f.Source != nil {
		steps := append(f.Source.steps(), f.Lossless(f.Finder), f.fence())
		return append(append(steps, f.exportPools()...), f.importPools()...)
	}
	return append([]run.Step{f.Select(f.Finder), f.fence()}, f.importPools()...)
}

// Taken is the name of the last step that can be taken back: afterwards the source is
// not needed any more.
func (f *Failover) Taken() string {
	if len(f.stretchedPools()) > 0 {
		return StepImport
	}
	return StepFence
}

func (f *Failover) recovery() []run.Step {
	var steps []run.Step
	if f.Run.Spec.SetAside {
		steps = append(steps, f.setAside())
	}
	steps = append(steps, PauseGitOps(f.Cluster.Client, f.Run, f.site(), false)...)
	restore := f.restoreRest()
	switch f.Run.Spec.Standby {
	case plan.StandbyActivate:
		steps, restore = append(steps, f.refresh()), f.restoreOtherVolumes()
	case plan.StandbyRemove:
		steps = append(steps, f.removeStandby())
	}
	steps = append(append(steps, f.bindStretched()...), restore)
	steps = append(steps, f.Start(true)...)
	steps = append(steps, f.Probes()...)
	steps = append(steps, f.traffic()...)
	if f.Run.Spec.Kind == plan.RunFailback {
		steps = append(steps, f.resume())
	}
	return append(steps, f.Measure())
}

// site is where the application goes.
func (f *Failover) site() string {
	if f.Run.Spec.Kind.Returns() {
		return SourceSite
	}
	return RecoverySite
}

// Execute runs the failover to its end, or goes on with one begun earlier. The
// error is a *StoppedError when it can go on. A planned failover that does not
// reach the restore gives the source back what it had, and is over.
func (f *Failover) Execute(ctx context.Context, j *run.Journal) error {
	return f.execute(ctx, j, f.before(), f.recovery(), func(ctx context.Context) error {
		return errors.Join(f.setFence(ctx, ""), f.givePoolsBack(ctx), f.Source.rollBack(ctx))
	})
}

// execute does what can be taken back, and then the rest. Where the former fails, undo
// gives the side that the application leaves what it had.
func (f *Failover) execute(ctx context.Context, j *run.Journal, before, after []run.Step, undo func(context.Context) error) error {
	if err := j.Begin(ctx); err != nil {
		return err
	}
	// What was given back in part runs again: nothing that was done before it holds.
	if f.Source != nil && j.Begun(StepRollBack+f.Source.Site) {
		return f.rollBack(ctx, j, j.Failed(), undo)
	}
	err := j.Do(ctx, before...)
	if err != nil && f.Source != nil {
		return f.rollBack(ctx, j, err, undo)
	}
	if err == nil {
		err = j.Do(ctx, after...)
	}
	if err != nil {
		stopped := &StoppedError{Kind: f.Run.Spec.Kind, Run: f.Run.Name, Err: err}
		return errors.Join(stopped, j.Note(ctx, stopped.Error()))
	}
	return j.Finish(ctx, plan.PhasePassed, "passed")
}

func (f *Failover) rollBack(ctx context.Context, j *run.Journal, cause error, undo func(context.Context) error) error {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.RollBackTimeout)
	defer cancel()
	f.Hooks.Warnf("%s; giving %s back what it had", cause, f.Source.Site)
	err := j.Do(after, run.Step{Name: StepRollBack + f.Source.Site, Do: func(ctx context.Context) (string, error) {
		return f.Source.Site + " runs again", undo(ctx)
	}})
	if err != nil {
		stopped := &StoppedError{Kind: f.Run.Spec.Kind, Run: f.Run.Name, Err: errors.Join(cause, err)}
		return errors.Join(stopped, j.Note(after, stopped.Error()))
	}
	return errors.Join(fmt.Errorf("%s %s rolled back: %w", f.Run.Spec.Kind.Words(), f.Run.Name, cause),
		j.Finish(after, plan.PhaseFailed, "rolled back: "+cause.Error()))
}

// Replicas returns the datasets that received a run's copies.
func Replicas(r *plan.RecoveryRun) []cluster.Copy {
	var replicas []cluster.Copy
	for _, v := range r.Status.Volumes {
		dataset, _, _ := strings.Cut(v.Snapshot, "@")
		id, err := zfssnap.ParseSnapshotID(v.SnapshotID)
		if err != nil || dataset == "" || id.Node == v.Node {
			continue
		}
		replicas = append(replicas, cluster.Copy{Node: v.Node, Dataset: dataset})
	}
	return replicas
}

func (f *Failover) fence() run.Step {
	return run.Step{
		Name:  StepFence,
		About: "make the copies refuse a source that comes back and goes on sending",
		Do: func(ctx context.Context) (string, error) {
			var names []string
			for _, r := range Replicas(f.Run) {
				names = append(names, r.Node+":"+r.Dataset)
			}
			if len(names) == 0 {
				return "there is no copy to fence", nil
			}
			return strings.Join(names, ", "), f.setFence(ctx, f.Run.Name)
		},
	}
}

// setFence fences every replica, or lets all receive again, whatever becomes of
// the others. One that another tool replicates to cannot be fenced, and need not
// be: what is recovered are clones of it, which the tool does not touch.
func (f *Failover) setFence(ctx context.Context, by string) error {
	replicas := Replicas(f.Run)
	errs := make([]error, len(replicas))
	var group errgroup.Group
	group.SetLimit(fencesAtOnce)
	for i, r := range replicas {
		group.Go(func() error {
			errs[i] = f.Fencer.Fence(ctx, r.Node, r.Dataset, by)
			if errors.Is(errs[i], cluster.ErrExternal) {
				f.Hooks.Warnf("%s on node %s is replicated by another tool, which heeds no fence: see to it that the tool does not start again with the source", r.Dataset, r.Node)
				errs[i] = nil
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// fencesAtOnce bounds the requests to agents that run side by side.
const fencesAtOnce = 8

// resume protects the application again as it was before it was moved away.
func (f *Failover) resume() run.Step {
	name := f.Run.Spec.PlanSpec.Source.Schedule
	return run.Step{Name: StepResume, About: fmt.Sprintf("resume schedule %s, and let the copies at the recovery site go that the failover had fenced", name),
		Do: func(ctx context.Context) (string, error) {
			schedules, err := Schedules(ctx, f.Cluster, f.Run.Spec.Plan, name)
			if err != nil {
				return "", err
			}
			message := "it was not paused"
			for i := range schedules {
				schedule := &schedules[i]
				switch {
				case schedule.Spec.Paused && schedule.Annotations[stoppedBy] == "":
					f.Hooks.Warnf("schedule %s was paused by somebody else, and stays so", schedule.Name)
					if schedule.Name == name {
						message = "it stays paused: that was not done by a run"
					}
				case schedule.Spec.Paused:
					if err := Resume(ctx, f.Cluster.Client, schedule); err != nil {
						return "", err
					}
					if schedule.Name == name {
						message = "resumed"
					}
				}
			}
			resumed, err := ResumeGitOps(ctx, f.Cluster.Client, f.Run.Spec.PlanSpec, "")
			if err != nil {
				return "", err
			}
			if len(resumed) > 0 {
				message += ", and so were " + strings.Join(resumed, ", ")
			}
			// They only keep old backups from expiring now.
			for _, r := range f.Unfence {
				err := f.Fencer.Fence(ctx, r.Node, r.Dataset, "")
				if err != nil && !errors.Is(err, agent.ErrNotFound) && !errors.Is(err, cluster.ErrExternal) {
					return "", err
				}
			}
			return message, nil
		}}
}

// addresses returns what load balancers gave the restored objects.
func (f *Failover) addresses(ctx context.Context) ([]string, error) {
	var found []string
	for _, ns := range f.Namespaces() {
		services := &corev1api.ServiceList{}
		ingresses := &networkingv1api.IngressList{}
		if err := errors.Join(f.Cluster.Client.List(ctx, services, client.InNamespace(ns)), f.Cluster.Client.List(ctx, ingresses, client.InNamespace(ns))); err != nil {
			return nil, fmt.Errorf("list addresses in namespace %s: %w", ns, err)
		}
		for _, s := range services.Items {
			for _, in := range s.Status.LoadBalancer.Ingress {
				found = append(found, in.IP+in.Hostname)
			}
		}
		for _, i := range ingresses.Items {
			for _, in := range i.Status.LoadBalancer.Ingress {
				found = append(found, in.IP+in.Hostname)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// OccupiedError says that data is where the application would go.
type OccupiedError struct {
	Namespace string
	Claims    []string
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("namespace %s, where the application goes, holds claims already: %s", e.Namespace, strings.Join(e.Claims, ", "))
}

// Hint says why that matters.
func (e *OccupiedError) Hint() string {
	return "Velero restores nothing over what exists, so the old data would stay: the application may run here already; if not, delete the namespace first"
}

// CheckTarget refuses namespaces that hold claims: Velero would leave those as
// they are and say nothing.
func CheckTarget(ctx context.Context, c client.Reader, namespaces []string) error {
	for _, ns := range namespaces {
		claims := &corev1api.PersistentVolumeClaimList{}
		if err := c.List(ctx, claims, client.InNamespace(ns)); err != nil {
			return fmt.Errorf("list claims in namespace %s: %w", ns, err)
		}
		if len(claims.Items) == 0 {
			continue
		}
		occupied := &OccupiedError{Namespace: ns}
		for _, claim := range claims.Items {
			occupied.Claims = append(occupied.Claims, claim.Name)
		}
		return occupied
	}
	return nil
}

// CheckSides refuses a source that is the recovery cluster itself.
func CheckSides(ctx context.Context, source, recovery client.Reader) error {
	var uid [2]string
	for i, c := range []client.Reader{source, recovery} {
		ns := &corev1api.Namespace{}
		err := c.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, ns)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at the %s cluster: %w", []string{"source", "recovery"}[i], err)
		}
		uid[i] = string(ns.UID)
	}
	if uid[0] != "" && uid[0] == uid[1] {
		return errors.New("source and recovery cluster are the same; --source-context names the cluster the application runs in now")
	}
	return nil
}
