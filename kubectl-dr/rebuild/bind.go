package rebuild

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// putBack makes a volume and binds it to its claim. Of a claim that is swapped or
// replaced, what Git has made of it is kept: labels, annotations, size and class.
func (r *Rebuild) putBack(ctx context.Context, j Judged) error {
	if err := r.namespace(ctx, j.Namespace); err != nil {
		return err
	}
	profile, err := r.rewrites(ctx)
	if err != nil {
		return err
	}
	claim, err := r.claim(j, profile)
	if err != nil {
		return err
	}
	// It is made before anything is taken away: that there is a copy was only said.
	made, err := r.Volumes.Make(ctx, r.Cluster.Client, j.Origin, r.Run.Name, r.Run.UID)
	if err != nil {
		return err
	}
	pv, err := rewrite.VolumeFor(claim, made, profile)
	if err != nil {
		return err
	}
	if j.Action == Swap || j.Action == Replace {
		if err := r.takeAway(ctx, j); err != nil {
			return err
		}
	}
	if err := r.create(ctx, pv); err != nil {
		return err
	}
	if j.Action == Bind {
		// A provisioner that is about to make a volume sees that there is one.
		before := j.Live.DeepCopy()
		j.Live.Spec.VolumeName = pv.GetName()
		if err := r.Cluster.Client.Patch(ctx, j.Live, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("bind claim %s to volume %s: %w", j.name(), pv.GetName(), err)
		}
	} else {
		_ = unstructured.SetNestedField(claim.Object, pv.GetName(), "spec", "volumeName")
		if err := r.Cluster.Client.Create(ctx, claim); err != nil {
			return fmt.Errorf("create claim %s: %w", j.name(), err)
		}
	}
	return r.awaitBound(ctx, j)
}

// rewrites returns the profile of the run, nil for none.
func (r *Rebuild) rewrites(ctx context.Context) (*rules.Profile, error) {
	return r.Cluster.Profile(ctx, r.Run.Spec.PlanSpec.Profile(r.Run.Spec.Kind))
}

// apply applies a profile, if there is one.
func apply(p *rules.Profile, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	obj, err := rewrite.ApplyTo(p, obj)
	if err != nil {
		return nil, hint.Add(err, "name the claim with --keep-claim if it is not to come back")
	}
	return obj, nil
}

// claim returns the claim to bind to: the one that is there as Git has made it, or
// else the one that was.
func (r *Rebuild) claim(j Judged, profile *rules.Profile) (*unstructured.Unstructured, error) {
	if j.Live == nil {
		return apply(profile, rewrite.Unbound(j.Claim))
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(j.Live)
	if err != nil {
		return nil, err
	}
	claim := rewrite.Restored(&unstructured.Unstructured{Object: content})
	claim.SetAPIVersion("v1")
	claim.SetKind("PersistentVolumeClaim")
	claim.SetFinalizers(nil)
	kept := claim.GetAnnotations()["kubectl.kubernetes.io/last-applied-configuration"]
	rewrite.WithoutGiven(claim)
	if kept != "" {
		// What applied it knows by this what it may change.
		annotations := claim.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["kubectl.kubernetes.io/last-applied-configuration"] = kept
		claim.SetAnnotations(annotations)
	}
	rewrite.Unbind(claim)
	return claim, nil
}

// takeAway deletes a claim and leaves its volume, which is Retain by now.
func (r *Rebuild) takeAway(ctx context.Context, j Judged) error {
	if pv := j.LiveVolume; pv != nil {
		if err := r.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(pv), pv); err != nil {
			return fmt.Errorf("get volume %s: %w", pv.Name, err)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != corev1api.PersistentVolumeReclaimRetain {
			return fmt.Errorf("delete claim %s: its volume %s would go with it, for it is %s and not Retain", j.name(), pv.Name, pv.Spec.PersistentVolumeReclaimPolicy)
		}
	}
	err := r.Cluster.Client.Delete(ctx, j.Live, client.Preconditions{UID: &j.Live.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete claim %s: %w", j.name(), err)
	}
	err = cluster.Poll(ctx, r.Interval, r.BindTimeout, func(ctx context.Context) (bool, error) {
		err := r.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(j.Live), &corev1api.PersistentVolumeClaim{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return hint.Add(fmt.Errorf("wait for claim %s to go: it is still there after %s", j.name(), report.Age(r.BindTimeout)),
			"a pod that uses it keeps it: kubectl describe pvc says which")
	}
	return err
}

// create creates a volume, unless the run has done so before.
func (r *Rebuild) create(ctx context.Context, pv *unstructured.Unstructured) error {
	err := r.Cluster.Client.Create(ctx, pv)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("create volume %s: %w", pv.GetName(), err)
		}
		return nil
	}
	have := &corev1api.PersistentVolume{}
	if err := r.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(pv), have); err != nil {
		return fmt.Errorf("get volume %s: %w", pv.GetName(), err)
	}
	if have.Labels[zfssnap.LabelRun] != r.Run.Name {
		return fmt.Errorf("create volume %s: one of that name exists and is not of this run", pv.GetName())
	}
	return nil
}

func (r *Rebuild) awaitBound(ctx context.Context, j Judged) error {
	claim := &corev1api.PersistentVolumeClaim{}
	err := cluster.Poll(ctx, r.Interval, r.BindTimeout, func(ctx context.Context) (bool, error) {
		err := r.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: j.Namespace, Name: j.Volume.Claim}, claim)
		return claim.Status.Phase == corev1api.ClaimBound, err
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return hint.Add(fmt.Errorf("wait for claim %s to be bound to volume %s: it is %s after %s", j.name(), claim.Spec.VolumeName,
			strings.ToLower(string(claim.Status.Phase)), report.Age(r.BindTimeout)), "kubectl describe pvc says why; class, access modes and size of both have to agree")
	}
	return err
}
