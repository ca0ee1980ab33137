package zfssnap

import (
	"context"
	"errors"
	"fmt"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	trueNASDriver = "csi.truenas.io"

	trueNASPool      = "pool"
	trueNASNFSServer = "nfsServer"
	trueNASNFSPath   = "nfsPath"
	trueNASPortal    = "targetPortal"
)

// trueNAS is TrueNAS's own CSI driver. The volume handle is the dataset; the
// attributes are the storage class's parameters and how nodes reach the volume.
type trueNAS struct{}

func (trueNAS) claims(pv *corev1api.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.Driver == trueNASDriver
}

func (trueNAS) locate(_ context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	csi := pv.Spec.CSI
	if err := checkDataset(csi.VolumeHandle); err != nil {
		return VolumeID{}, fmt.Errorf("its volumeHandle is no dataset: %w", err)
	}
	node, err := s.nodeOf(csi.VolumeAttributes[trueNASNFSServer], csi.VolumeAttributes[trueNASPortal])
	return VolumeID{Node: node, Dataset: csi.VolumeHandle}, err
}

func (trueNAS) rewrite(_ context.Context, s *Site, pv *unstructured.Unstructured, vol restored) error {
	attributes := []string{"spec", "csi", "volumeAttributes"}
	attr, _, err := unstructured.NestedStringMap(pv.Object, attributes...)
	if err != nil {
		return fmt.Errorf("read volume attributes: %w", err)
	}
	set := map[string]string{}
	if attr[trueNASPool] != "" {
		set[trueNASPool] = poolOf(vol.Dataset)
	}
	if attr[trueNASNFSPath] != "" {
		dir, err := sharePath(vol.dataset)
		if err != nil {
			return err
		}
		set[trueNASNFSPath] = dir
		if attr[trueNASNFSServer] != "" {
			set[trueNASNFSServer] = s.serverOf(vol.Node, attr[trueNASNFSServer])
		}
	}
	if attr[trueNASPortal] != "" {
		set[trueNASPortal] = s.portalOf(vol.Node, attr[trueNASPortal])
		// The driver asks TrueNAS for the target of the zvol.
		unstructured.RemoveNestedField(pv.Object, append(attributes[:len(attributes):len(attributes)], "targetIQN")...)
	}
	return errors.Join(setStrings(pv, []string{"spec", "csi"}, map[string]string{"volumeHandle": vol.Dataset}), setStrings(pv, attributes, set))
}
