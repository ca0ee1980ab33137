package zfssnap

import (
	"context"
	"fmt"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Annotations of kubernetes-zfs-provisioner.
const (
	provisionerDataset = "zfs.pv.kubernetes.io/zfs-dataset-path"
	provisionerHost    = "zfs.pv.kubernetes.io/zfs-host"
)

// zfsProvisioner is ccremer's kubernetes-zfs-provisioner. It makes hostPath and
// nfs volumes and destroys datasets by what it wrote into their annotations;
// the host it names is the one it reaches by SSH.
type zfsProvisioner struct{}

func (zfsProvisioner) claims(pv *corev1api.PersistentVolume) bool {
	return pv.Annotations[provisionerDataset] != "" && (pv.Spec.HostPath != nil || pv.Spec.NFS != nil)
}

func (zfsProvisioner) locate(_ context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	dataset := pv.Annotations[provisionerDataset]
	if err := checkDataset(dataset); err != nil {
		return VolumeID{}, fmt.Errorf("annotation %s: %w", provisionerDataset, err)
	}
	names := []string{pinnedTo(pv), pv.Annotations[provisionerHost]}
	if pv.Spec.NFS != nil {
		names = append(names, pv.Spec.NFS.Server)
	}
	node, err := s.nodeOf(names...)
	return VolumeID{Node: node, Dataset: dataset}, err
}

func (zfsProvisioner) rewrite(ctx context.Context, s *Site, pv *unstructured.Unstructured, vol restored) error {
	rewrite := onPath{}.rewrite
	if _, ok, _ := unstructured.NestedMap(pv.Object, "spec", "nfs"); ok {
		rewrite = onNFS{}.rewrite
	}
	annotations := pv.GetAnnotations()
	host := s.serverOf(vol.Node, annotations[provisionerHost])
	if err := rewrite(ctx, s, pv, vol); err != nil {
		return err
	}
	annotations[provisionerDataset], annotations[provisionerHost] = vol.Dataset, host
	pv.SetAnnotations(annotations)
	return nil
}
