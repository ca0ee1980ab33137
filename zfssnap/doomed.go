package zfssnap

import (
	"context"
	"fmt"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Doomed returns the objects of the cluster whose drivers destroy datasets of a pool as
// soon as the node has it: of volumes that were deleted while it was elsewhere, which
// their drivers try again and again. A volume whose dataset can not be told is none.
func (s *Site) Doomed(ctx context.Context, node, pool string) ([]string, error) {
	kube, err := s.kube()
	if err != nil {
		return nil, err
	}
	volumes, err := s.doomedVolumes(ctx, kube, node, pool)
	if err != nil {
		return nil, err
	}
	zvs, err := s.doomedZFSVolumes(ctx, kube, node, pool)
	return append(volumes, zvs...), err
}

func (s *Site) doomedVolumes(ctx context.Context, kube client.Client, node, pool string) (doomed []string, err error) {
	list := &corev1api.PersistentVolumeList{}
	if err := kube.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list PersistentVolumes: %w", err)
	}
	for i := range list.Items {
		pv := &list.Items[i]
		released := pv.Status.Phase == corev1api.VolumeReleased || pv.Status.Phase == corev1api.VolumeFailed || pv.DeletionTimestamp != nil
		if !released || pv.Spec.PersistentVolumeReclaimPolicy != corev1api.PersistentVolumeReclaimDelete {
			continue
		}
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pv)
		if err != nil {
			return nil, err
		}
		id, ours, err := s.Locate(ctx, &unstructured.Unstructured{Object: object})
		if err == nil && ours && id.Node == node && poolOf(id.Dataset) == pool {
			doomed = append(doomed, "PersistentVolume "+pv.Name)
		}
	}
	return doomed, nil
}

func (s *Site) doomedZFSVolumes(ctx context.Context, kube client.Client, node, pool string) (doomed []string, err error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(zfsVolumeKind.GroupVersion().WithKind(zfsVolumeKind.Kind + "List"))
	err = kube.List(ctx, list, client.InNamespace(s.OpenEBSNamespace))
	if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
		return nil, nil // the driver isn't OpenEBS ZFS-LocalPV
	}
	if err != nil {
		return nil, fmt.Errorf("list ZFSVolumes in namespace %s: %w", s.OpenEBSNamespace, err)
	}
	for i := range list.Items {
		zv := &list.Items[i]
		owner, _, _ := unstructured.NestedString(zv.Object, "spec", "ownerNodeID")
		parent, _, _ := unstructured.NestedString(zv.Object, "spec", "poolName")
		if zv.GetDeletionTimestamp() != nil && owner == node && poolOf(parent) == pool {
			doomed = append(doomed, "ZFSVolume "+zv.GetNamespace()+"/"+zv.GetName())
		}
	}
	return doomed, nil
}
