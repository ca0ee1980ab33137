// Package drill rehearses a recovery: it restores an application beside
// production, in namespaces of its own that reach nothing outside, on clones of
// the copies, starts and probes it, measures, and removes what it made.
// Production and replication are not touched.
package drill

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	networkingv1api "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Names of the steps that only a drill has.
const (
	StepNamespaces = "create namespaces"
	StepCleanUp    = "clean up"
)

// isolation is the name of the NetworkPolicy in a drill's namespaces.
const isolation = "kubectl-dr-isolation"

// notRestored would let a drill's pods out: policies add up.
var notRestored = []string{
	"networkpolicies.networking.k8s.io",
	"networkpolicies.crd.projectcalico.org",
	"ciliumnetworkpolicies.cilium.io",
}

// Name returns the name of a drill that starts at a time.
func Name(planName string, at time.Time) string {
	return planName + "-drill-" + at.UTC().Format("20060102-150405")
}

// Mapping returns the namespaces that a drill restores into. They follow from
// the run's name, so a run that goes on finds them again.
func Mapping(runName string, namespaces []string) map[string]string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(runName))
	suffix := fmt.Sprintf("-drill-%05x", h.Sum32()&0xfffff)
	mapping := map[string]string{}
	for _, ns := range namespaces {
		keep := ns[:min(len(ns), validation.DNS1123LabelMaxLength-len(suffix))]
		mapping[ns] = strings.TrimRight(keep, "-") + suffix
	}
	return mapping
}

// Drill is one rehearsal.
type Drill struct {
	*run.Target
	Finder  *restorepoint.Finder
	Cleaner *Cleaner
	// CleanUpTimeout bounds cleaning up, which goes on after an interrupt.
	CleanUpTimeout time.Duration
}

// Kept reports whether what a drill made is still there because that was asked for.
func Kept(r *plan.RecoveryRun) bool {
	if r.Spec.Kind != plan.RunDrill || !r.Spec.Keep || r.InProgress() {
		return false
	}
	i := slices.IndexFunc(r.Status.Steps, func(s plan.Step) bool { return s.Name == StepCleanUp })
	return i >= 0 && r.Status.Steps[i].Phase == plan.PhaseSkipped
}

// KeptUntil is when a kept drill has outlived its time, nil when it has none.
func KeptUntil(r *plan.RecoveryRun) *time.Time {
	if !Kept(r) || r.Spec.TTL == nil || r.Status.EndedAt == nil {
		return nil
	}
	until := r.Status.EndedAt.Add(r.Spec.TTL.Duration)
	return &until
}

// FailedError says that a drill did not pass.
type FailedError struct {
	Run string
	Err error
}

func (e *FailedError) Error() string { return fmt.Sprintf("drill %s failed: %s", e.Run, e.Err) }
func (e *FailedError) Unwrap() error { return e.Err }

// Steps returns all steps in order.
func (d *Drill) Steps() []run.Step {
	return append(d.rehearsal(), d.cleanUp())
}

func (d *Drill) rehearsal() []run.Step {
	steps := []run.Step{d.Select(d.Finder), d.namespaces(), d.Restore(notRestored...)}
	steps = append(steps, d.Start(false)...)
	steps = append(steps, d.Probes()...)
	return append(steps, d.Measure())
}

func (d *Drill) cleanUp() run.Step {
	about := "delete the namespaces, volumes and clones of this run"
	if d.Run.Spec.Keep {
		about = "nothing: --keep leaves everything in place"
	}
	return run.Step{Name: StepCleanUp, About: about, Do: func(ctx context.Context) (string, error) {
		return d.Cleaner.CleanUp(ctx, d.Run.Name)
	}}
}

// Execute runs the drill to its end, goes on with one begun earlier, and cleans
// up whatever happens, unless the run keeps its objects. The error is a
// *FailedError when a step failed, the context's cause when it was interrupted.
func (d *Drill) Execute(ctx context.Context, j *run.Journal) error {
	if err := j.Begin(ctx); err != nil {
		return err
	}
	err := j.Do(ctx, d.rehearsal()...)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.CleanUpTimeout)
	defer cancel()
	if ctx.Err() != nil {
		d.Hooks.Warnf("interrupted; cleaning up")
	}
	var cleanErr error
	if d.Run.Spec.Keep {
		message := "kept: kubectl dr drill cleanup " + d.Run.Name
		if ttl := d.Run.Spec.TTL; ttl != nil {
			message = fmt.Sprintf("kept for %s: kubectl dr drill cleanup --expired, or %s", report.Age(ttl.Duration), d.Run.Name)
		}
		cleanErr = j.Skip(after, StepCleanUp, message)
	} else {
		cleanErr = j.Do(after, d.cleanUp())
	}
	if cleanErr != nil {
		cleanErr = &notCleanError{run: d.Run.Name, err: cleanErr}
	}
	phase, message := plan.PhasePassed, "passed"
	switch {
	case err != nil && ctx.Err() != nil:
		phase, message = plan.PhaseAborted, "interrupted"
	case err != nil:
		phase, message = plan.PhaseFailed, err.Error()
	case cleanErr != nil:
		phase, message = plan.PhaseFailed, cleanErr.Error()
	}
	finishErr := j.Finish(after, phase, message)
	if all := errors.Join(err, cleanErr); all != nil {
		if ctx.Err() == nil {
			all = &FailedError{Run: d.Run.Name, Err: all}
		}
		return errors.Join(all, finishErr)
	}
	return finishErr
}

type notCleanError struct {
	run string
	err error
}

func (e *notCleanError) Error() string { return "something is left: " + e.err.Error() }
func (e *notCleanError) Unwrap() error { return e.err }

// Hint says how to try again.
func (e *notCleanError) Hint() string { return "try again with: kubectl dr drill cleanup " + e.run }

func (d *Drill) namespaces() run.Step {
	return run.Step{
		Name:  StepNamespaces,
		About: fmt.Sprintf("create %s, isolated by a NetworkPolicy that allows DNS alone", strings.Join(d.Namespaces(), ", ")),
		Do: func(ctx context.Context) (string, error) {
			for _, source := range d.Run.Spec.PlanSpec.Source.Namespaces {
				if err := d.namespace(ctx, source, d.Namespace(source)); err != nil {
					return "", err
				}
			}
			return strings.Join(d.Namespaces(), ", "), nil
		},
	}
}

func (d *Drill) namespace(ctx context.Context, source, name string) error {
	labels := map[string]string{zfssnap.LabelRun: d.Run.Name, zfssnap.LabelPlan: d.Run.Spec.Plan}
	ns := &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: labels, Annotations: map[string]string{zfssnap.Domain + "/source-namespace": source},
	}}
	err := d.Cluster.Client.Create(ctx, ns)
	if apierrors.IsAlreadyExists(err) {
		if err = d.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(ns), ns); err == nil && ns.Labels[zfssnap.LabelRun] != d.Run.Name {
			err = errors.New("it exists and is not of this run")
		}
	}
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	if err := d.Cluster.Client.Create(ctx, policy(name, labels)); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create NetworkPolicy %s/%s: %w", name, isolation, err)
	}
	return nil
}

// policy lets a drill's pods talk to each other and ask DNS, and nothing else.
func policy(namespace string, labels map[string]string) *networkingv1api.NetworkPolicy {
	sameRun := networkingv1api.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{
		MatchLabels: map[string]string{zfssnap.LabelRun: labels[zfssnap.LabelRun]},
	}}
	dns := func(p corev1api.Protocol) networkingv1api.NetworkPolicyPort {
		return networkingv1api.NetworkPolicyPort{Protocol: &p, Port: ptr.To(intstr.FromInt32(53))}
	}
	return &networkingv1api.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: isolation, Labels: labels},
		Spec: networkingv1api.NetworkPolicySpec{
			PolicyTypes: []networkingv1api.PolicyType{networkingv1api.PolicyTypeIngress, networkingv1api.PolicyTypeEgress},
			Ingress:     []networkingv1api.NetworkPolicyIngressRule{{From: []networkingv1api.NetworkPolicyPeer{sameRun}}},
			Egress: []networkingv1api.NetworkPolicyEgressRule{
				{To: []networkingv1api.NetworkPolicyPeer{sameRun}},
				{Ports: []networkingv1api.NetworkPolicyPort{dns(corev1api.ProtocolUDP), dns(corev1api.ProtocolTCP)},
					To: []networkingv1api.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{
						MatchLabels: map[string]string{corev1api.LabelMetadataName: metav1.NamespaceSystem},
					}}}},
			},
		},
	}
}
