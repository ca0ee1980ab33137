package zfssnap

import (
	"context"
	"fmt"
	"path"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// zvolDir is where the devices of zvols lie.
const zvolDir = "/dev/zvol/"

// onPath is a static local or hostPath volume whose path is the mountpoint of a
// dataset, or the device of a zvol. A directory inside a dataset is foreign: a
// snapshot would hold, and a restore bring back, more than the volume.
type onPath struct{}

func (onPath) claims(pv *corev1api.PersistentVolume) bool { return pathOf(pv) != "" }

func pathOf(pv *corev1api.PersistentVolume) string {
	switch {
	case pv.Spec.Local != nil:
		return pv.Spec.Local.Path
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path
	}
	return ""
}

func (onPath) locate(ctx context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	node := pinnedTo(pv)
	if node == "" {
		node = s.onlySource()
	}
	if _, ok := s.Agents[node]; !ok {
		// Nothing says that the path is on ZFS at all.
		return VolumeID{}, errForeign
	}
	p := path.Clean(pathOf(pv))
	req := byMountpoint(p)
	if dataset, ok := strings.CutPrefix(p, zvolDir); ok {
		req = byName(dataset)
	}
	return s.locateDataset(ctx, node, p, req)
}

// locateDataset returns the volume that lies at a path of a node, or
// errForeign.
func (s *Site) locateDataset(ctx context.Context, node, at string, req *agentpb.ResolveDatasetRequest) (VolumeID, error) {
	ds, err := s.dataset(ctx, node, "find the dataset at "+at, req)
	if isNotFound(err) {
		return VolumeID{}, errForeign
	}
	if err != nil {
		return VolumeID{}, err
	}
	return VolumeID{Node: node, Dataset: ds.GetName()}, nil
}

// onlySource returns the one node that can hold source volumes, or "": a
// hostPath volume of a single-node cluster need not say where it is.
func (s *Site) onlySource() (only string) {
	for node := range s.Agents {
		if node == s.Target {
			continue
		}
		if only != "" {
			return ""
		}
		only = node
	}
	return only
}

func (onPath) rewrite(_ context.Context, _ *Site, pv *unstructured.Unstructured, vol restored) error {
	p, err := devicePath(vol.dataset)
	if err != nil {
		return err
	}
	for _, source := range []string{"local", "hostPath"} {
		if _, ok, _ := unstructured.NestedMap(pv.Object, "spec", source); ok {
			if err := unstructured.SetNestedField(pv.Object, p, "spec", source, "path"); err != nil {
				return err
			}
		}
	}
	return pin(pv, vol.Node, corev1api.LabelHostname)
}

// devicePath is where a node's pods find a dataset.
func devicePath(ds *agentpb.Dataset) (string, error) {
	if ds.GetType() == typeVolume {
		return zvolDir + ds.GetName(), nil
	}
	if !path.IsAbs(ds.GetMountpoint()) {
		return "", fmt.Errorf("dataset %s has mountpoint %q, so no path leads to it", ds.GetName(), ds.GetMountpoint())
	}
	return ds.GetMountpoint(), nil
}
