// Package rebuild gives a cluster that comes up from Git what Git does not hold:
// volumes, bound to the claims that Git makes or has made, and the objects that
// nobody keeps in Git. What Git owns is left to it. No data is overwritten: a claim
// that may hold any is replaced by name alone, and its volume is kept.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Names of the steps.
const (
	StepLook    = "look at the volumes"
	StepStop    = "stop what runs"
	StepKeep    = "keep what claims hold"
	StepVolumes = "restore volumes"
	StepObjects = "restore what Git does not own"
	StepResume  = "resume GitOps"
	StepWait    = "wait for what Git brings"
	StepStart   = "start what was stopped"
)

// here is what steps call the cluster that is rebuilt.
const here = "the cluster"

// Rebuild is one rebuild.
type Rebuild struct {
	*run.Target
	Volumes Volumes
	// Sources finds the volumes that can come back, and says in a sentence where
	// from. It writes them into the journal.
	Sources func(ctx context.Context, journal *plan.RecoveryRun) ([]Source, string, error)
	// Objects returns those of the backup; nil for pools alone.
	Objects func(ctx context.Context) ([]*unstructured.Unstructured, error)
	// Live returns the objects in the application's namespaces.
	Live func(ctx context.Context) ([]*unstructured.Unstructured, error)
	// Notes are what to know besides, once Sources was called; may be nil.
	Notes func() []string
	Now   func() time.Time
	// StopTimeout, BindTimeout and GitTimeout bound waiting for pods to stop, for
	// claims to be bound, and for Git to be what the cluster is.
	StopTimeout, BindTimeout, GitTimeout time.Duration
}

// Name returns the name of a rebuild that starts at a time.
func Name(planName string, at time.Time) string { return failover.Name(planName, plan.RunRebuild, at) }

// Plan says what has to be done, and who owns what. It changes nothing.
func (r *Rebuild) Plan(ctx context.Context) (*report.Rebuild, []Judged, error) {
	all, _, err := r.survey(ctx)
	if err != nil {
		return nil, nil, err
	}
	rep := &report.Rebuild{TypeMeta: report.TypeMeta("RebuildPlan"), At: metav1.NewTime(r.Now()), Backup: r.Run.Spec.Backup}
	rep.Name = r.Run.Spec.Plan
	for _, j := range all {
		rep.Volumes = append(rep.Volumes, j.report())
		if j.changes() {
			rep.ToDo++
		}
	}
	for _, v := range r.Run.Status.Volumes {
		if v.Unprotected {
			rep.Notes = append(rep.Notes, fmt.Sprintf("volume %s/%s is left as it is: the backup does not hold its data", v.Namespace, v.Claim))
		}
	}
	if r.Notes != nil {
		rep.Notes = append(rep.Notes, r.Notes()...)
	}
	if !r.volumesOnly() {
		if rep.Objects, err = r.own(ctx); err != nil {
			return nil, nil, err
		}
	}
	for _, o := range rep.Objects {
		if o.Action == ObjectRestore {
			rep.ToDo++
		}
	}
	return rep, all, nil
}

func (r *Rebuild) volumesOnly() bool { return r.Run.Spec.Rebuild.VolumesOnly || r.Objects == nil }

func (r *Rebuild) own(ctx context.Context) ([]report.OwnedObject, error) {
	backup, err := r.Objects(ctx)
	if err != nil {
		return nil, err
	}
	live, err := r.Live(ctx)
	if err != nil {
		return nil, err
	}
	owners, err := gitops.NewOwners(ctx, r.Cluster.Client, gitops.Objects(r.Run.Spec.PlanSpec.GitOps), backup)
	if err != nil {
		return nil, err
	}
	also, err := AlsoLive(ctx, r.Cluster.Client, backup)
	if err != nil {
		return nil, err
	}
	kept, err := r.kept(ctx, backup)
	return Own(owners, kept, append(live, also...)), err
}

// kept returns the application's objects of a backup that the run's profile does
// not drop.
func (r *Rebuild) kept(ctx context.Context, backup []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	profile, err := r.rewrites(ctx)
	if err != nil {
		return nil, err
	}
	var kept []*unstructured.Unstructured
	for _, obj := range backup {
		if !concerns(obj) {
			continue
		}
		if profile != nil {
			result, err := profile.Apply(obj)
			if err != nil {
				return nil, err
			}
			if result.Drop {
				continue
			}
		}
		kept = append(kept, obj)
	}
	return kept, nil
}

// Steps returns all steps in order.
func (r *Rebuild) Steps() []run.Step {
	steps := []run.Step{r.look()}
	steps = append(steps, failover.PauseGitOps(r.Cluster.Client, r.Run, here, false)...)
	steps = append(steps, r.stop(), r.keep(), r.volumes())
	if !r.volumesOnly() {
		steps = append(steps, r.objects())
	}
	if r.Run.Spec.PlanSpec.GitOps != nil {
		steps = append(steps, r.resume())
	}
	if r.volumesOnly() {
		return append(steps, r.startAgain())
	}
	steps = append(steps, r.wait())
	steps = append(steps, r.Start(true)...)
	steps = append(steps, r.Probes()...)
	return append(steps, r.Measure())
}

// Execute runs the rebuild to its end, or goes on with one begun earlier. The error
// is a *failover.StoppedError when it can go on.
func (r *Rebuild) Execute(ctx context.Context, j *run.Journal) error {
	if err := j.Begin(ctx); err != nil {
		return err
	}
	err := j.Do(ctx, r.Steps()...)
	if err == nil {
		err = r.stopper().Forget(ctx)
	}
	if err != nil {
		stopped := &failover.StoppedError{Kind: r.Run.Spec.Kind, Run: r.Run.Name, Err: err}
		return errors.Join(stopped, j.Note(ctx, stopped.Error()))
	}
	return j.Finish(ctx, plan.PhasePassed, "passed")
}

// survey judges each volume by what the cluster has of it, and says where they come
// from.
func (r *Rebuild) survey(ctx context.Context) ([]Judged, string, error) {
	sources, from, err := r.Sources(ctx, r.Run)
	if err != nil {
		return nil, "", err
	}
	all := make([]Judged, 0, len(sources))
	for _, s := range sources {
		j, err := r.judge(ctx, s)
		if err != nil {
			return nil, "", err
		}
		all = append(all, j)
	}
	return all, from, nil
}

// judged looks at everything anew: what a step before has changed is done.
func (r *Rebuild) judged(ctx context.Context) ([]Judged, error) {
	all, _, err := r.survey(ctx)
	if err != nil {
		return nil, err
	}
	return all, Refused(all)
}

func (r *Rebuild) look() run.Step {
	return run.Step{Name: StepLook, About: "see where the volumes are to come from, and which claims are there",
		Do: func(ctx context.Context) (string, error) {
			all, from, err := r.survey(ctx)
			if err == nil {
				err = Refused(all)
			}
			if err != nil {
				return "", err
			}
			states := map[State]int{}
			for _, j := range all {
				states[j.State]++
			}
			var counted []string
			for _, state := range []State{Absent, Unbound, Empty, Written, Restored} {
				if n := states[state]; n > 0 {
					counted = append(counted, fmt.Sprintf("%d %s", n, state))
				}
			}
			if len(counted) > 0 {
				from += "; claims: " + strings.Join(counted, ", ")
			}
			return from, nil
		}}
}

// changes reports whether a claim is to be changed.
func (j Judged) changes() bool { return j.Action != None && j.Action != Keep }

// stopper stops what runs.
func (r *Rebuild) stopper() *failover.Source {
	return &failover.Source{Cluster: r.Cluster, Run: r.Run, Hooks: r.Hooks, Interval: r.Interval, Site: here, StopTimeout: r.StopTimeout}
}

func (r *Rebuild) stop() run.Step {
	stop := r.stopper().Stop()
	return run.Step{Name: StepStop, About: "stop workloads that are there already while their volumes are changed, remembering what they had",
		Do: func(ctx context.Context) (string, error) {
			all, err := r.judged(ctx)
			if err != nil {
				return "", err
			}
			if !slices.ContainsFunc(all, Judged.changes) {
				return "no volume is changed", nil
			}
			return stop.Do(ctx)
		}}
}

func (r *Rebuild) keep() run.Step {
	return run.Step{Name: StepKeep, About: "keep what replaced claims hold: a snapshot on its host, and the volume itself (Retain)",
		Do: func(ctx context.Context) (string, error) {
			all, err := r.judged(ctx)
			if err != nil {
				return "", err
			}
			var kept []string
			for _, j := range all {
				if j.LiveVolume == nil || j.Action != Replace && j.Action != Swap {
					continue
				}
				what, err := r.keepOne(ctx, j)
				if err != nil {
					return "", err
				}
				kept = append(kept, what)
			}
			if len(kept) == 0 {
				return "no claim is replaced", nil
			}
			return strings.Join(kept, ", "), nil
		}}
}

// keptSnapshot begins the name of a snapshot of what a claim held.
const keptSnapshot = "dr-kept-"

func (r *Rebuild) keepOne(ctx context.Context, j Judged) (string, error) {
	if err := failover.Retain(ctx, r.Cluster.Client, j.LiveVolume); err != nil {
		return "", err
	}
	v := r.journalled(j.Source)
	v.Left = j.LiveVolume.Name
	if j.On.Dataset == "" {
		return fmt.Sprintf("volume %s of %s", j.LiveVolume.Name, j.name()), nil
	}
	if j.Action == Replace {
		name := keptSnapshot + r.Run.Name
		err := r.Volumes.Keep(ctx, j.On.Node, j.On.Dataset, name, r.Run.Name)
		if errors.Is(err, agent.ErrUnreachable) {
			// Nothing will write to it any more: the claim goes, and the volume stays.
			r.Hooks.Warnf("%v; what %s held stays on that host as it is", err, j.name())
			return fmt.Sprintf("%s as %s:%s", j.name(), j.On.Node, j.On.Dataset), nil
		}
		if err != nil {
			return "", err
		}
		v.Kept = j.On.Node + ":" + j.On.Dataset + "@" + name
		return fmt.Sprintf("%s as %s", j.name(), v.Kept), nil
	}
	return fmt.Sprintf("%s as %s:%s", j.name(), j.On.Node, j.On.Dataset), nil
}

// journalled returns a volume in the run's journal.
func (r *Rebuild) journalled(s Source) *plan.Volume {
	i := slices.IndexFunc(r.Run.Status.Volumes, func(v plan.Volume) bool { return v.Namespace == s.Namespace && v.Claim == s.Volume.Claim })
	if i < 0 {
		r.Run.Status.Volumes = append(r.Run.Status.Volumes, s.Volume)
		i = len(r.Run.Status.Volumes) - 1
	}
	return &r.Run.Status.Volumes[i]
}

func (r *Rebuild) volumes() run.Step {
	return run.Step{Name: StepVolumes, About: "make the volumes, and bind them to the claims that Git makes or has made",
		Do: func(ctx context.Context) (string, error) {
			all, err := r.judged(ctx)
			if err != nil {
				return "", err
			}
			done := map[Action][]string{}
			for _, j := range all {
				if j.changes() {
					if err := r.putBack(ctx, j); err != nil {
						return "", err
					}
				}
				done[j.Action] = append(done[j.Action], j.name())
			}
			var parts []string
			for _, a := range []struct {
				Action
				words string
			}{{Restore, "restored with their claims"}, {Bind, "bound to claims that were there"}, {Swap, "swapped for empty ones"},
				{Replace, "in the place of what was kept"}, {None, "there already"}, {Keep, "left as they are"}} {
				if names := done[a.Action]; len(names) > 0 {
					parts = append(parts, a.words+": "+strings.Join(names, ", "))
				}
			}
			if len(parts) == 0 {
				return "there is none", nil
			}
			return strings.Join(parts, "; "), nil
		}}
}

func (r *Rebuild) objects() run.Step {
	return run.Step{Name: StepObjects, About: "have Velero restore the objects of the backup that are not there and that Git does not own",
		Do: func(ctx context.Context) (string, error) {
			owned, err := r.own(ctx)
			if err != nil {
				return "", err
			}
			only := rules.Selection{}
			waits := 0
			for _, o := range owned {
				switch o.Action {
				case ObjectRestore:
					only.Add(named(o))
				case ObjectWait:
					waits++
				}
			}
			restore := &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Namespace: r.Cluster.Namespace, Name: r.Run.Name,
				Labels: map[string]string{zfssnap.AnnotationOnly: r.Run.Name, zfssnap.LabelRun: r.Run.Name},
			}}
			if len(only) == 0 {
				return "there is none" + gitBrings(waits), client.IgnoreNotFound(r.Cluster.Client.Delete(ctx, restore))
			}
			restore.Data = map[string]string{"objects": only.String()}
			if err := r.Cluster.Client.Create(ctx, restore); err != nil && !apierrors.IsAlreadyExists(err) {
				return "", fmt.Errorf("create the list of objects to restore: %w", err)
			}
			warned, err := r.RestoreOnly(ctx, restore.Name, "persistentvolumes", "persistentvolumeclaims")
			if err != nil {
				return "", err
			}
			if err := r.Cluster.Client.Delete(ctx, restore); client.IgnoreNotFound(err) != nil {
				return "", fmt.Errorf("delete the list of restored objects: %w", err)
			}
			return fmt.Sprintf("%s from backup %s%s", report.Count(len(only), "object"), r.Run.Spec.Backup, warned+gitBrings(waits)), nil
		}}
}

func gitBrings(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %s left to Git", report.Count(n, "object"))
}

func named(o report.OwnedObject) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	if o.Group != "" {
		u.SetAPIVersion(o.Group + "/v1")
	}
	u.SetKind(o.Kind)
	u.SetNamespace(o.Namespace)
	u.SetName(o.Name)
	return u
}

func (r *Rebuild) resume() run.Step {
	return run.Step{Name: StepResume, About: "let Argo CD and Flux go on as before, each after what it depends on",
		Do: func(ctx context.Context) (string, error) {
			resumed, err := failover.ResumeGitOps(ctx, r.Cluster.Client, r.Run.Spec.PlanSpec, r.Run.Name)
			if err != nil {
				return "", err
			}
			for _, o := range gitops.Objects(r.Run.Spec.PlanSpec.GitOps) {
				if err := gitops.Refresh(ctx, r.Cluster.Client, o, r.Now()); err != nil {
					return "", err
				}
			}
			if len(resumed) == 0 {
				return "nothing was paused", nil
			}
			return strings.Join(resumed, ", "), nil
		}}
}

func (r *Rebuild) startAgain() run.Step {
	return run.Step{Name: StepStart, About: "start again what was stopped", Do: func(ctx context.Context) (string, error) {
		started, err := r.stopper().StartAgain(ctx)
		if err == nil && len(started) == 0 {
			return "nothing was stopped", nil
		}
		return strings.Join(started, ", "), err
	}}
}

// wait waits until Git has brought what it owns: as its engine says, and until every
// workload that is to be started is there.
func (r *Rebuild) wait() run.Step {
	objects := gitops.Objects(r.Run.Spec.PlanSpec.GitOps)
	about := "wait until the workloads of the plan are there"
	if len(objects) > 0 {
		about = "wait until what was resumed is in sync and healthy, and the workloads of the plan are there"
	}
	return run.Step{Name: StepWait, About: fmt.Sprintf("%s, up to %s", about, report.Age(r.GitTimeout)), Do: func(ctx context.Context) (string, error) {
		var waits []string
		err := cluster.Poll(ctx, r.Interval, r.GitTimeout, func(ctx context.Context) (bool, error) {
			now, err := r.waitsFor(ctx, objects)
			if err != nil {
				return false, err // of a look that was cut off, too: what the last one saw is what counts
			}
			if len(now) > 0 && !slices.Equal(now, waits) {
				r.Hooks.Progressf("waiting: %s", strings.Join(now, "; "))
			}
			waits = now
			return len(waits) == 0, nil
		})
		switch {
		case errors.Is(err, cluster.ErrTimedOut):
			return "", hint.Add(fmt.Errorf("after %s: %s", report.Age(r.GitTimeout), strings.Join(waits, "; ")),
				"see what Argo CD or Flux says of it; what nothing brings from Git by itself has to be applied")
		case err != nil:
			return "", err
		}
		if len(objects) == 0 {
			return "everything is there", nil
		}
		return "everything is in sync and healthy", nil
	}}
}

func (r *Rebuild) waitsFor(ctx context.Context, objects []gitops.Object) ([]string, error) {
	var waits []string
	for _, o := range objects {
		why, err := gitops.Health(ctx, r.Cluster.Client, o)
		if err != nil {
			return nil, err
		}
		if why != "" {
			waits = append(waits, why)
		}
	}
	missing, err := r.MissingWorkloads(ctx)
	if len(missing) > 0 {
		waits = append(waits, "not there yet: "+strings.Join(missing, ", "))
	}
	return waits, err
}

// namespace creates a namespace that volumes are restored to, unless it is there.
func (r *Rebuild) namespace(ctx context.Context, name string) error {
	ns := &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if r.Objects != nil {
		backup, err := r.Objects(ctx)
		if err != nil {
			return err
		}
		for _, obj := range backup {
			if obj.GetKind() == "Namespace" && obj.GetName() == name {
				ns.Labels, ns.Annotations = maps.Clone(obj.GetLabels()), maps.Clone(obj.GetAnnotations())
			}
		}
	}
	if err := r.Cluster.Client.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}
