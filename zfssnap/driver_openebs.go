package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	openEBSDriver   = "zfs.csi.openebs.io"
	openEBSPoolName = "openebs.io/poolname"
)

// OpenEBSFinalizer has the driver destroy the dataset of a ZFSVolume that is
// deleted; pkg/zfs/volume.go of zfs-localpv.
const OpenEBSFinalizer = "zfs.openebs.io/finalizer"

var zfsVolumeKind = schema.GroupVersionKind{Group: "zfs.openebs.io", Version: "v1", Kind: "ZFSVolume"}

// openEBS is OpenEBS ZFS-LocalPV. The volume handle is the dataset's last
// component and the name of a ZFSVolume object, which is what the node driver
// mounts by; the pool name may itself have a parent dataset in it.
type openEBS struct{}

func (openEBS) claims(pv *corev1api.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.Driver == openEBSDriver
}

func (openEBS) locate(ctx context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	handle, pool, node := pv.Spec.CSI.VolumeHandle, pv.Spec.CSI.VolumeAttributes[openEBSPoolName], pinnedTo(pv)
	if handle == "" {
		return VolumeID{}, fmt.Errorf("it has no volumeHandle")
	}
	if pool == "" || node == "" {
		kube, err := s.kube()
		if err != nil {
			return VolumeID{}, err
		}
		zv, err := getZFSVolume(ctx, kube, s.OpenEBSNamespace, handle)
		if err != nil {
			return VolumeID{}, fmt.Errorf("it does not name both its pool and its node, and: %w", err)
		}
		if pool == "" {
			pool, _, _ = unstructured.NestedString(zv.Object, "spec", "poolName")
		}
		if node == "" {
			node, _, _ = unstructured.NestedString(zv.Object, "spec", "ownerNodeID")
		}
		if pool == "" || node == "" {
			return VolumeID{}, fmt.Errorf("neither it nor ZFSVolume %s/%s names pool and node", s.OpenEBSNamespace, handle)
		}
	}
	return VolumeID{Node: node, Dataset: pool + "/" + handle}, nil
}

func (openEBS) rewrite(ctx context.Context, s *Site, pv *unstructured.Unstructured, vol restored) error {
	parent, handle := path.Dir(vol.Dataset), path.Base(vol.Dataset)
	was, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", "volumeHandle")
	at := []string{"spec", "csi"}
	if err := errors.Join(
		setStrings(pv, at, map[string]string{"volumeHandle": handle}),
		setStrings(pv, append(at, "volumeAttributes"), map[string]string{openEBSPoolName: parent}),
	); err != nil {
		return err
	}
	if err := pin(pv, vol.Node, topologyOpenEBSNodeID); err != nil {
		return err
	}
	kube, err := s.kube()
	if err != nil {
		return err
	}
	want, err := newZFSVolume(s.OpenEBSNamespace, pv, vol)
	if err != nil {
		return err
	}
	if err := keepSharing(ctx, kube, was, pv, want); err != nil {
		return err
	}
	return ensureZFSVolume(ctx, kube, want)
}

// newZFSVolume describes a dataset that is already there. With the driver's
// finalizer the dataset is destroyed when the object is deleted, as the driver
// does when a volume with reclaim policy Delete is released. One that is to be
// retained has none, and its dataset outlives the object.
func newZFSVolume(namespace string, obj *unstructured.Unstructured, vol restored) (*unstructured.Unstructured, error) {
	pv, err := toPV(obj)
	if err != nil {
		return nil, err
	}
	capacity := pv.Spec.Capacity[corev1api.ResourceStorage]
	volumeType, fsType := "ZVOL", pv.Spec.CSI.FSType
	if vol.dataset.GetType() == typeFilesystem {
		volumeType, fsType = "DATASET", "zfs"
	}
	spec := map[string]any{
		"ownerNodeID": vol.Node,
		"poolName":    path.Dir(vol.Dataset),
		"capacity":    strconv.FormatInt(capacity.Value(), 10),
		"volumeType":  volumeType,
		"fsType":      fsType,
		// What is not set reads "no" to the driver.
		"thinProvision": "yes",
	}
	if reserves(vol.dataset.GetNative()) {
		spec["thinProvision"] = "no"
	}
	if q := vol.dataset.GetNative()["refquota"]; q != "" && q != "0" {
		spec["quotaType"] = "refquota"
	}
	zv := &unstructured.Unstructured{Object: map[string]any{
		"spec":   spec,
		"status": map[string]any{"state": "Ready"},
	}}
	zv.SetGroupVersionKind(zfsVolumeKind)
	zv.SetNamespace(namespace)
	zv.SetName(path.Base(vol.Dataset))
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1api.PersistentVolumeReclaimDelete {
		zv.SetFinalizers([]string{OpenEBSFinalizer})
	}
	labels := map[string]string{"kubernetes.io/nodename": vol.Node}
	for k, v := range vol.labels {
		labels[k] = v
	}
	zv.SetLabels(labels)
	return zv, nil
}

// keepSharing says whether several pods may mount a volume, which no property of a
// dataset tells: its source's ZFSVolume does while this cluster has that, else the
// storage class. What neither knows is left to the driver's default.
func keepSharing(ctx context.Context, kube client.Client, source string, pv *unstructured.Unstructured, want *unstructured.Unstructured) error {
	known := map[string]string{}
	zv, err := getZFSVolume(ctx, kube, want.GetNamespace(), source)
	switch {
	case err == nil:
		spec, _, _ := unstructured.NestedMap(zv.Object, "spec")
		for name, value := range spec {
			known[name], _ = value.(string)
		}
	case apierrors.IsNotFound(err):
		class := &storagev1api.StorageClass{}
		name, _, _ := unstructured.NestedString(pv.Object, "spec", "storageClassName")
		if err := client.IgnoreNotFound(kube.Get(ctx, client.ObjectKey{Name: name}, class)); err != nil {
			return fmt.Errorf("get storage class %s: %w", name, err)
		}
		if class.Provisioner == openEBSDriver {
			known = class.Parameters
		}
	default:
		return err
	}
	for name, value := range known {
		// The driver does not look at the case of a class's parameters.
		if strings.EqualFold(name, "shared") && value != "" {
			return setStrings(want, []string{"spec"}, map[string]string{"shared": value})
		}
	}
	return nil
}

// ensureZFSVolume creates a ZFSVolume unless it is there, and refuses one of
// the same name for another dataset.
func ensureZFSVolume(ctx context.Context, kube client.Client, want *unstructured.Unstructured) error {
	err := kube.Create(ctx, want.DeepCopy())
	if err == nil {
		return nil
	}
	name := want.GetNamespace() + "/" + want.GetName()
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ZFSVolume %s: %w", name, err)
	}
	have, err := getZFSVolume(ctx, kube, want.GetNamespace(), want.GetName())
	if err != nil {
		return err
	}
	for _, field := range []string{"ownerNodeID", "poolName"} {
		h, _, _ := unstructured.NestedString(have.Object, "spec", field)
		w, _, _ := unstructured.NestedString(want.Object, "spec", field)
		if h != w {
			return fmt.Errorf("create ZFSVolume %s: it exists with %s %q, not %q", name, field, h, w)
		}
	}
	return nil
}

func getZFSVolume(ctx context.Context, kube client.Client, namespace, name string) (*unstructured.Unstructured, error) {
	zv := &unstructured.Unstructured{}
	zv.SetGroupVersionKind(zfsVolumeKind)
	if err := kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, zv); err != nil {
		return nil, fmt.Errorf("get ZFSVolume %s/%s: %w", namespace, name, err)
	}
	return zv, nil
}
