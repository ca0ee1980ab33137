package zfssnap

import (
	"context"
	"errors"
	"fmt"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// onNFS is a static nfs volume whose path is the mountpoint of a dataset on a
// host with an agent. As with paths, a directory inside a dataset is foreign,
// and so is a server that no agent is known on.
type onNFS struct{}

func (onNFS) claims(pv *corev1api.PersistentVolume) bool { return pv.Spec.NFS != nil }

func (onNFS) locate(ctx context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	node, err := s.nodeOf(pv.Spec.NFS.Server)
	if err != nil {
		return VolumeID{}, errForeign
	}
	return s.locateDataset(ctx, node, pv.Spec.NFS.Path, byMountpoint(pv.Spec.NFS.Path))
}

func (onNFS) rewrite(_ context.Context, s *Site, pv *unstructured.Unstructured, vol restored) error {
	dir, err := sharePath(vol.dataset)
	if err != nil {
		return err
	}
	have, _, _ := unstructured.NestedString(pv.Object, "spec", "nfs", "server")
	return setStrings(pv, []string{"spec", "nfs"}, map[string]string{"server": s.serverOf(vol.Node, have), "path": dir})
}

// sharePath is where a host exports a dataset.
func sharePath(ds *agentpb.Dataset) (string, error) {
	if ds.GetType() != typeFilesystem {
		return "", fmt.Errorf("dataset %s is a %s, which can not be shared over NFS", ds.GetName(), ds.GetType())
	}
	return devicePath(ds)
}

// setStrings sets fields of one map of an object.
func setStrings(obj *unstructured.Unstructured, at []string, fields map[string]string) error {
	var errs []error
	for name, value := range fields {
		errs = append(errs, unstructured.SetNestedField(obj.Object, value, append(at[:len(at):len(at)], name)...))
	}
	return errors.Join(errs...)
}
