package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// StepSetAside makes room where an earlier run stopped the application.
const StepSetAside = "set the old application aside"

// RunningError says that something runs where the application would go.
type RunningError struct {
	Namespace string
	What      []string
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("namespace %s, where the application goes, is in use: %s", e.Namespace, strings.Join(e.What, ", "))
}

// Hint says why that matters.
func (e *RunningError) Hint() string {
	return "only what a failover or kubectl dr reprotect stopped is set aside; stop the rest yourself, or delete the namespace if nothing in it is needed"
}

// CheckStopped refuses namespaces in which something runs, or that hold claims
// without anything that a run has stopped: those are not ours to set aside.
func CheckStopped(ctx context.Context, c client.Client, namespaces []string) error {
	for _, ns := range namespaces {
		running := &RunningError{Namespace: ns}
		pods := &corev1api.PodList{}
		if err := c.List(ctx, pods, client.InNamespace(ns)); err != nil {
			return fmt.Errorf("list pods in namespace %s: %w", ns, err)
		}
		for _, p := range pods.Items {
			if p.Status.Phase != corev1api.PodSucceeded && p.Status.Phase != corev1api.PodFailed {
				running.What = append(running.What, "pod/"+p.Name)
			}
		}
		workloads, err := run.Workloads(ctx, c, ns)
		if err != nil {
			return err
		}
		stopped := 0
		for _, obj := range workloads {
			switch {
			case obj.GetAnnotations()[stoppedBy] != "" && rules.OnStandby(obj):
				stopped++
			case obj.GetKind() == "Pod", obj.GetKind() == "Job" && Finished(obj):
			default:
				running.What = append(running.What, strings.ToLower(obj.GetKind())+"/"+obj.GetName())
			}
		}
		if len(running.What) > 0 {
			return running
		}
		if stopped > 0 {
			continue
		}
		if err := CheckTarget(ctx, c, []string{ns}); err != nil {
			return err
		}
	}
	return nil
}

// setAside deletes the namespaces that the application is restored to, and keeps
// their volumes: their reclaim policy becomes Retain first.
func (f *Failover) setAside() run.Step {
	return run.Step{
		Name:  StepSetAside,
		About: fmt.Sprintf("delete namespace %s where the application goes, in which a run stopped it; its volumes are kept (Retain)", strings.Join(f.Namespaces(), ", ")),
		Do: func(ctx context.Context) (string, error) {
			var kept []string
			for _, ns := range f.Namespaces() {
				names, err := clearNamespace(ctx, f.Cluster.Client, ns, func(ctx context.Context) error {
					return CheckStopped(ctx, f.Cluster.Client, []string{ns})
				}, f.Interval, f.RestoreTimeout)
				kept = append(kept, names...)
				if err != nil {
					return "", err
				}
			}
			if len(kept) == 0 {
				return "there is no volume of it", nil
			}
			slices.Sort(kept)
			return "kept volumes " + strings.Join(kept, ", "), nil
		},
	}
}

// clearNamespace deletes a namespace in which nothing runs, which is checked before, and
// keeps its volumes, which it returns.
func clearNamespace(ctx context.Context, c client.Client, name string, check func(context.Context) error, interval, timeout time.Duration) (kept []string, err error) {
	ns := &corev1api.Namespace{}
	err = c.Get(ctx, client.ObjectKey{Name: name}, ns)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get namespace %s: %w", name, err)
	}
	// One that is going was looked at before.
	if ns.DeletionTimestamp.IsZero() {
		if err := check(ctx); err != nil {
			return nil, err
		}
		if kept, err = retain(ctx, c, name); err != nil {
			return nil, err
		}
		if err := cluster.DeleteClaims(ctx, c, name, interval, timeout); err != nil && !errors.Is(err, cluster.ErrTimedOut) {
			return kept, err
		}
		if err := c.Delete(ctx, ns, client.Preconditions{UID: &ns.UID}); err != nil && !apierrors.IsNotFound(err) {
			return kept, fmt.Errorf("delete namespace %s: %w", name, err)
		}
	}
	err = cluster.Poll(ctx, interval, timeout, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKey{Name: name}, &corev1api.Namespace{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		err = fmt.Errorf("wait for namespace %s to go: it is still there after %s", name, timeout)
	}
	return kept, err
}

// retain keeps the volumes of a namespace when their claims are deleted.
func retain(ctx context.Context, c client.Client, namespace string) ([]string, error) {
	claims := &corev1api.PersistentVolumeClaimList{}
	if err := c.List(ctx, claims, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list claims in namespace %s: %w", namespace, err)
	}
	var kept []string
	for _, claim := range claims.Items {
		if claim.Spec.VolumeName == "" {
			continue
		}
		pv := &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: claim.Spec.VolumeName}}
		err := c.Get(ctx, client.ObjectKeyFromObject(pv), pv)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("keep volume %s: %w", pv.Name, err)
		}
		if err := Retain(ctx, c, pv); err != nil {
			return nil, err
		}
		kept = append(kept, pv.Name)
	}
	return kept, nil
}

// Retain keeps a volume when its claim is deleted.
func Retain(ctx context.Context, c client.Client, pv *corev1api.PersistentVolume) error {
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1api.PersistentVolumeReclaimRetain {
		return nil
	}
	before := pv.DeepCopy()
	pv.Spec.PersistentVolumeReclaimPolicy = corev1api.PersistentVolumeReclaimRetain
	if err := c.Patch(ctx, pv, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("keep volume %s: %w", pv.Name, err)
	}
	return nil
}
