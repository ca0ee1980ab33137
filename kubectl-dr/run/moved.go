package run

import (
	"context"
	"fmt"
	"slices"
	"strings"

	storagev1api "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// UnconsumedHint says what to do about claims that no pod waits for.
const UnconsumedHint = "map the class in the profile to one with volumeBindingMode: Immediate, set restorePVC.ignoreDelayBinding of Velero's node-agent, or remove state: standby from the profile"

// Unconsumed returns those of the claims to which Velero would not bring back moved
// data under a profile, and their storage classes as the profile leaves them. Where the
// class binds volumes to pods' claims, Velero waits until the pod of one has a node
// (WaitPVCConsumed in its pkg/util/kube/pvc_pv.go), and a profile that holds workloads
// back waits for Velero.
func Unconsumed(ctx context.Context, c *cluster.Cluster, profile *rules.Profile, claims []*unstructured.Unstructured) ([]string, error) {
	if profile == nil || profile.State != rules.StateStandby || len(claims) == 0 {
		return nil, nil
	}
	if ignored, err := c.IgnoresDelayBinding(ctx); err != nil || ignored {
		return nil, err
	}
	var all []string
	for _, claim := range claims {
		rewritten, err := profile.Apply(claim)
		if err != nil {
			return nil, err
		}
		if rewritten.Drop {
			continue
		}
		name, _, _ := unstructured.NestedString(rewritten.Object.Object, "spec", "storageClassName")
		if name == "" {
			continue
		}
		class := &storagev1api.StorageClass{}
		err = c.Client.Get(ctx, client.ObjectKey{Name: name}, class)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get storage class %s: %w", name, err)
		}
		if ptr.Deref(class.VolumeBindingMode, storagev1api.VolumeBindingImmediate) == storagev1api.VolumeBindingWaitForFirstConsumer {
			all = append(all, fmt.Sprintf("%s/%s (storage class %s)", claim.GetNamespace(), claim.GetName(), name))
		}
	}
	return all, nil
}

// consumed refuses a profile under which Velero would wait for pods that wait for it.
func (t *Target) consumed(ctx context.Context, profile *rules.Profile, moved []string) error {
	if len(moved) == 0 {
		return nil
	}
	backup := &rewrite.Input{}
	if err := backup.Download(ctx, t.Cluster.Files, t.Run.Spec.Backup); err != nil {
		return err
	}
	claims := slices.DeleteFunc(backup.Objects, func(obj *unstructured.Unstructured) bool {
		return obj.GetKind() != "PersistentVolumeClaim" || !slices.Contains(moved, obj.GetNamespace()+"/"+obj.GetName())
	})
	unconsumed, err := Unconsumed(ctx, t.Cluster, profile, claims)
	if err != nil || len(unconsumed) == 0 {
		return err
	}
	return hint.Add(fmt.Errorf("%s: Velero brings its data back once its pod has a node, and profile %s holds the pods back until then",
		strings.Join(unconsumed, ", "), t.profile()), UnconsumedHint)
}
