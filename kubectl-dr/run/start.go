package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1api "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/probe"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// DefaultWaveTimeout is how long a wave may take that says nothing else.
const DefaultWaveTimeout = 5 * time.Minute

// StepStartRest starts what is in no wave.
const StepStartRest = "start the rest"

var gvks = map[string]schema.GroupVersionKind{
	"deployment":  appsv1api.SchemeGroupVersion.WithKind("Deployment"),
	"statefulset": appsv1api.SchemeGroupVersion.WithKind("StatefulSet"),
	"daemonset":   appsv1api.SchemeGroupVersion.WithKind("DaemonSet"),
}

// Startable are Kubernetes' own kinds, and those like them, that may be on standby
// after a restore, and that stop at the source before a planned failover.
var Startable = []schema.GroupVersionKind{
	gvks["deployment"],
	gvks["statefulset"],
	gvks["daemonset"],
	{Group: "apps", Version: "v1", Kind: "ReplicaSet"},
	{Group: "", Version: "v1", Kind: "ReplicationController"},
	{Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "batch", Version: "v1", Kind: "CronJob"},
	{Group: "", Version: "v1", Kind: "Pod"},
	{Group: "apps.openshift.io", Version: "v1", Kind: "DeploymentConfig"},
	{Group: "argoproj.io", Version: "v1alpha1", Kind: "Rollout"},
	{Group: "apps.kruise.io", Version: "v1alpha1", Kind: "DaemonSet"},
}

// jobKinds run to an end.
var jobKinds = []string{"Job", "CronJob", "JobSet", "BroadcastJob"}

// Start returns one step for each wave, with those of its hooks around it, and one for
// the rest. Without jobs, Jobs and CronJobs stay suspended: a drill sends no mail.
func (t *Target) Start(jobs bool) []Step {
	spec := t.Run.Spec.PlanSpec
	var steps []Step
	for _, wave := range spec.Start {
		timeout := cmpOr(wave.Timeout.Duration, DefaultWaveTimeout)
		steps = append(steps, t.hooks(wave.Before)...)
		steps = append(steps, Step{
			Name:  "start " + wave.Name,
			About: fmt.Sprintf("start %s and wait up to %s until ready", strings.Join(wave.Workloads, ", "), report.Age(timeout)),
			Do:    func(ctx context.Context) (string, error) { return t.startWave(ctx, wave, timeout) },
		})
		steps = append(steps, t.hooks(wave.After)...)
	}
	about := fmt.Sprintf("start what is in no wave and wait up to %s until ready", report.Age(DefaultWaveTimeout))
	if !jobs {
		about += "; Jobs and CronJobs stay suspended"
	}
	return append(steps, Step{Name: StepStartRest, About: about, Do: func(ctx context.Context) (string, error) {
		return t.startRest(ctx, jobs)
	}})
}

// hooks returns one step for each hook that the run has.
func (t *Target) hooks(hooks []plan.Hook) []Step {
	var steps []Step
	for _, h := range hooks {
		if !h.For(t.Run.Spec.Kind) {
			continue
		}
		p := h.Probe
		p.Name = "hook " + h.Name // the Job of a probe may have the hook's
		step := Step{Name: p.Name, About: probe.Describe(p), Do: func(ctx context.Context) (string, error) { return t.probe(ctx, p) }}
		if h.Prompt != "" {
			step.About = "ask: " + h.Prompt
			step.Do = func(ctx context.Context) (string, error) { return "answered yes", t.Ask(ctx, h.Name, h.Prompt) }
		}
		steps = append(steps, step)
	}
	return steps
}

func cmpOr(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

func (t *Target) startWave(ctx context.Context, wave plan.Wave, timeout time.Duration) (string, error) {
	var started []*unstructured.Unstructured
	for _, s := range wave.Workloads {
		obj, err := t.workload(ctx, s)
		if err != nil {
			return "", err
		}
		started = append(started, obj)
	}
	return t.start(ctx, started, timeout)
}

// workload returns a workload of a wave.
func (t *Target) workload(ctx context.Context, s string) (*unstructured.Unstructured, error) {
	w, err := plan.ParseWorkload(s, t.Run.Spec.PlanSpec.Source.Namespaces)
	if err != nil {
		return nil, err
	}
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(gvks[w.Kind])
	key := client.ObjectKey{Namespace: t.Namespace(w.Namespace), Name: w.Name}
	if err := t.Cluster.Client.Get(ctx, key, obj); err != nil {
		return nil, fmt.Errorf("get %s %s: %w", w.Kind, key, err)
	}
	return obj, nil
}

// MissingWorkloads returns those of the plan's waves that are not there.
func (t *Target) MissingWorkloads(ctx context.Context) ([]string, error) {
	var missing []string
	for _, wave := range t.Run.Spec.PlanSpec.Start {
		for _, s := range wave.Workloads {
			_, err := t.workload(ctx, s)
			switch {
			case apierrors.IsNotFound(err):
				missing = append(missing, s)
			case err != nil:
				return nil, err
			}
		}
	}
	return missing, nil
}

func (t *Target) startRest(ctx context.Context, jobs bool) (string, error) {
	profile, err := t.Cluster.Profile(ctx, t.profile())
	if err != nil {
		return "", err
	}
	var rest []*unstructured.Unstructured
	for _, ns := range t.Namespaces() {
		held, err := Held(ctx, t.Cluster.Client, ns, profile.Operated()...)
		if err != nil {
			return "", err
		}
		for _, obj := range held {
			if !jobs && slices.Contains(jobKinds, obj.GetKind()) {
				continue
			}
			rest = append(rest, obj)
		}
	}
	if len(rest) == 0 {
		return "there is none", nil
	}
	return t.start(ctx, rest, DefaultWaveTimeout)
}

// Held returns the objects in a namespace that are on standby; see [Workloads].
func Held(ctx context.Context, c client.Client, namespace string, operatedToo ...string) ([]*unstructured.Unstructured, error) {
	all, err := Workloads(ctx, c, namespace, operatedToo...)
	return slices.DeleteFunc(all, func(obj *unstructured.Unstructured) bool {
		_, remembers := obj.GetAnnotations()[rules.AnnotationOriginalState]
		return !remembers
	}), err
}

// Workloads returns the objects in a namespace that can be on standby and that
// no controller owns: of the known kinds, and of those that a profile knows besides
// ([rules.Profile.Operated]). Kinds the cluster doesn't have are passed over.
func Workloads(ctx context.Context, c client.Client, namespace string, operatedToo ...string) ([]*unstructured.Unstructured, error) {
	var found []*unstructured.Unstructured
	for _, gvk := range slices.Concat(Startable, operated(c, operatedToo)) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
			if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
				continue
			}
			return nil, fmt.Errorf("list %ss in namespace %s: %w", gvk.Kind, namespace, err)
		}
		for i := range list.Items {
			if metav1.GetControllerOf(&list.Items[i]) == nil {
				found = append(found, &list.Items[i])
			}
		}
	}
	return found, nil
}

// operated returns the kinds in the cluster whose workloads an operator makes and
// that can be on standby. Further ones are "<Kind>" or "<Kind>.<group>", whatever the
// case.
func operated(c client.Client, further []string) []schema.GroupVersionKind {
	var found []schema.GroupVersionKind
	for _, gk := range rules.StandbyKinds() {
		if mapping, err := c.RESTMapper().RESTMapping(gk); err == nil {
			found = append(found, mapping.GroupVersionKind)
		}
	}
	for _, kind := range further {
		name, group, _ := strings.Cut(kind, ".")
		plural, singular := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Group: group, Kind: name})
		for _, resource := range []schema.GroupVersionResource{plural, singular} {
			gvk, err := c.RESTMapper().KindFor(resource)
			if err != nil {
				continue
			}
			if !slices.Contains(slices.Concat(Startable, found), gvk) {
				found = append(found, gvk)
			}
			break
		}
	}
	return found
}

// Activate gives an object back the state it had before standby.
func Activate(ctx context.Context, c client.Client, obj *unstructured.Unstructured) error {
	patch, err := rules.ActivationPatch(obj)
	if err != nil {
		return err
	}
	if string(patch) == "{}" {
		return nil
	}
	if err := c.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("start %s %s: %w", strings.ToLower(obj.GetKind()), client.ObjectKeyFromObject(obj), err)
	}
	return nil
}

func (t *Target) start(ctx context.Context, objects []*unstructured.Unstructured, timeout time.Duration) (string, error) {
	var names []string
	for _, obj := range objects {
		if err := Activate(ctx, t.Cluster.Client, obj); err != nil {
			return "", err
		}
		names = append(names, strings.ToLower(obj.GetKind())+"/"+obj.GetName())
	}
	waiting := slices.Clone(objects)
	said := ""
	err := cluster.Poll(ctx, t.Interval, timeout, func(ctx context.Context) (bool, error) {
		still := waiting[:0]
		for _, obj := range waiting {
			if err := t.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
				if err = ignoreTransient(err); err != nil {
					return false, err
				}
			}
			if !ready(obj) {
				still = append(still, obj)
			}
		}
		waiting = still
		if len(waiting) > 0 {
			if now := t.waitingFor(waiting); now != said {
				said = now
				t.Hooks.Progressf("waiting for %s", now)
			}
		}
		return len(waiting) == 0, nil
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		return "", t.notReady(ctx, waiting, timeout)
	case err != nil:
		return "", err
	}
	return strings.Join(names, ", ") + " ready", nil
}

func (t *Target) waitingFor(objects []*unstructured.Unstructured) string {
	var names []string
	for _, obj := range objects {
		names = append(names, fmt.Sprintf("%s/%s (%s)", strings.ToLower(obj.GetKind()), obj.GetName(), progress(obj)))
	}
	return strings.Join(names, ", ")
}

func progress(obj *unstructured.Unstructured) string {
	ready, _ := number(obj, "status", "readyReplicas")
	want, _ := number(obj, "spec", "replicas")
	if obj.GetKind() == "DaemonSet" {
		ready, _ = number(obj, "status", "numberReady")
		want, _ = number(obj, "status", "desiredNumberScheduled")
	}
	return fmt.Sprintf("%d of %d ready", ready, want)
}

func number(obj *unstructured.Unstructured, at ...string) (int64, bool) {
	n, ok, err := unstructured.NestedInt64(obj.Object, at...)
	return n, ok && err == nil
}

// ready reports whether a workload runs as its spec asks. Kinds that have no
// such state always are.
func ready(obj *unstructured.Unstructured) bool {
	observed := func() bool {
		seen, _ := number(obj, "status", "observedGeneration")
		return seen >= obj.GetGeneration()
	}
	status := func(field string) int64 { n, _ := number(obj, "status", field); return n }
	want, set := number(obj, "spec", "replicas")
	if !set {
		want = 1
	}
	switch obj.GetKind() {
	case "Deployment":
		return observed() && status("updatedReplicas") >= want && status("availableReplicas") >= want
	case "StatefulSet":
		return observed() && status("readyReplicas") >= want
	case "DaemonSet":
		return observed() && status("numberReady") >= status("desiredNumberScheduled")
	case "ReplicaSet", "ReplicationController":
		return observed() && status("readyReplicas") >= want
	case "Pod":
		conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(c any) bool {
			m, _ := c.(map[string]any)
			return m["type"] == "Ready" && m["status"] == "True"
		})
	}
	return true
}

// notReady says which workloads are not ready, and why their pods aren't.
func (t *Target) notReady(ctx context.Context, objects []*unstructured.Unstructured, timeout time.Duration) error {
	var lines []string
	for _, obj := range objects {
		line := fmt.Sprintf("%s %s/%s: %s", strings.ToLower(obj.GetKind()), obj.GetNamespace(), obj.GetName(), progress(obj))
		if why := probe.WhyNotReady(ctx, t.Cluster.Client, obj); why != "" {
			line += ": " + why
		}
		lines = append(lines, line)
	}
	return hint.Add(fmt.Errorf("not ready after %s: %s", report.Age(timeout), strings.Join(lines, "; ")),
		"the workload's pods and events say more; a wave's timeout is spec.start[].timeout of the plan")
}

// Probes returns one step for each probe.
func (t *Target) Probes() []Step {
	var steps []Step
	for _, p := range t.Run.Spec.PlanSpec.Probes {
		steps = append(steps, Step{
			Name:  ProbeStep(p.Name),
			About: probe.Describe(p),
			Do:    func(ctx context.Context) (string, error) { return t.probe(ctx, p) },
		})
	}
	return steps
}

func (t *Target) probe(ctx context.Context, p plan.Probe) (string, error) {
	p, err := t.named(ctx, p)
	if err != nil {
		return "", err
	}
	return t.Prober.Probe(ctx, p, t.Run.Spec.PlanSpec.Source.Namespaces, t.Namespace)
}

// named returns a probe that asks for a host by the name which the run's profile gives
// it.
func (t *Target) named(ctx context.Context, p plan.Probe) (plan.Probe, error) {
	if p.HTTP == nil || p.HTTP.Host == "" || t.profile() == "" {
		return p, nil
	}
	rewrites, err := t.Cluster.Profile(ctx, t.profile())
	if err != nil {
		return p, err
	}
	p.HTTP = p.HTTP.DeepCopy()
	p.HTTP.Host = rewrites.Host(p.HTTP.Host)
	return p, nil
}

// ProbeStep is the name of a probe's step.
func ProbeStep(name string) string { return "probe " + name }

// StepMeasure compares a run with its plan's objectives.
const StepMeasure = "measure"

// Measure works out RPO and RTO. The RTO runs until the last step that ended
// before this one and proves something: the last probe, or else the last wave.
func (t *Target) Measure() Step {
	o := t.Run.Spec.PlanSpec.Objectives
	return Step{Name: StepMeasure, About: fmt.Sprintf("compare with the objectives: RPO %s, RTO %s", report.Age(o.RPO.Duration), report.Age(o.RTO.Duration)),
		Do: func(context.Context) (string, error) {
			s := &t.Run.Status
			var recovered time.Time
			for _, step := range s.Steps {
				last := strings.HasPrefix(step.Name, "probe ") || len(t.Run.Spec.PlanSpec.Probes) == 0 && strings.HasPrefix(step.Name, "start ")
				if last && step.EndedAt != nil && step.EndedAt.After(recovered) {
					recovered = step.EndedAt.Time
				}
			}
			if s.RestoredTo == nil {
				return "", errors.New("the journal does not say which time was restored")
			}
			rpo := max(0, s.StartedAt.Sub(s.RestoredTo.Time))
			rto := max(0, recovered.Sub(s.StartedAt.Time))
			s.RPO, s.RTO = &metav1.Duration{Duration: rpo.Round(time.Second)}, &metav1.Duration{Duration: rto.Round(time.Second)}
			s.RPOMet, s.RTOMet = ptr.To(rpo <= o.RPO.Duration), ptr.To(rto <= o.RTO.Duration)
			message := fmt.Sprintf("RPO %s (objective %s, %s), RTO %s (objective %s, %s)",
				report.Age(rpo), report.Age(o.RPO.Duration), met(*s.RPOMet), report.Age(rto), report.Age(o.RTO.Duration), met(*s.RTOMet))
			switch kind := t.Run.Spec.Kind; {
			case t.Run.Spec.Warm():
				message += ", from a warm standby"
			case kind == plan.RunFailover || kind == plan.RunPlannedFailover:
				message += ", cold"
			}
			return message, nil
		}}
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}
