package cluster

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Leftover is a volume that was made for a Restore of Velero, and that nothing of
// the cluster leads to any more. A clone keeps the snapshot that it was made of.
type Leftover struct {
	zfssnap.VolumeID
	// Restore is its name, and Phase its phase, "" for one that is gone.
	Restore string
	Phase   velerov1api.RestorePhase
}

// State says what became of the Restore.
func (l Leftover) State() string {
	if l.Phase == "" {
		return "is gone"
	}
	return "is " + string(l.Phase)
}

// Over tells whether a Restore in this phase makes nothing more of its volumes.
func Over(phase velerov1api.RestorePhase) bool {
	switch phase {
	case velerov1api.RestorePhaseCompleted, velerov1api.RestorePhasePartiallyFailed,
		velerov1api.RestorePhaseFailed, velerov1api.RestorePhaseFailedValidation:
		return true
	}
	return false
}

// Leftovers finds what restores of Velero left on the nodes that volumes are
// recovered on. What was made for a run of ours is not among it, since that is
// cleaned up by its name, and neither is what a Restore that is not over made. Where
// it can not be told what a PersistentVolume leads to, nothing is known to be left.
func (s *Storage) Leftovers(ctx context.Context, c *Cluster) ([]Leftover, error) {
	made, err := s.restored(ctx)
	if err != nil || len(made) == 0 {
		return nil, err
	}
	restores := &velerov1api.RestoreList{}
	if err := c.Client.List(ctx, restores, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list restores in namespace %s: %w", c.Namespace, err)
	}
	// Looked at after the restores: what one that is over has made is there.
	used, err := s.used(ctx, c.Client)
	if err != nil {
		return nil, err
	}
	var left []Leftover
	for _, l := range made {
		i := slices.IndexFunc(restores.Items, func(r velerov1api.Restore) bool { return r.Name == l.Restore })
		if i >= 0 {
			l.Phase = restores.Items[i].Status.Phase
		}
		if i >= 0 && !Over(l.Phase) || used[l.VolumeID.String()] || used[path.Base(l.Dataset)] {
			continue
		}
		left = append(left, l)
	}
	return left, nil
}

// restored lists the volumes that were made for restores, not for runs.
func (s *Storage) restored(ctx context.Context) ([]Leftover, error) {
	var all []Leftover
	var errs []error
	for node, l := range s.restoreNodes() {
		resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListDatasetsResponse, error) {
			return a.ListDatasets(ctx, &agentpb.ListDatasetsRequest{Match: map[string]string{zfssnap.PropManaged: "true"}})
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list volumes on node %s: %w", node, err))
		}
		for _, d := range resp.GetDatasets() {
			props := d.GetProperties()
			if props[zfssnap.PropRestore] != "" && props[zfssnap.PropRun] == "" && props[zfssnap.PropSource] == "" {
				all = append(all, Leftover{VolumeID: zfssnap.VolumeID{Node: node, Dataset: d.GetName()}, Restore: props[zfssnap.PropRestore]})
			}
		}
	}
	return all, errors.Join(errs...)
}

// used returns the names of all PersistentVolumes, which those of restored volumes
// have too, and the datasets that they lead to.
func (s *Storage) used(ctx context.Context, c client.Client) (map[string]bool, error) {
	list := &corev1api.PersistentVolumeList{}
	if err := c.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list PersistentVolumes: %w", err)
	}
	used := map[string]bool{}
	for i := range list.Items {
		used[list.Items[i].Name] = true
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&list.Items[i])
		if err != nil {
			return nil, err
		}
		id, ours, err := s.Locate(ctx, c, &unstructured.Unstructured{Object: object})
		switch {
		case err != nil:
			return nil, fmt.Errorf("find the dataset of PersistentVolume %s: %w", list.Items[i].Name, err)
		case ours:
			used[id.String()] = true
		}
	}
	return used, nil
}

// DestroyLeftover destroys one, and nothing else.
func (s *Storage) DestroyLeftover(ctx context.Context, left Leftover, interval time.Duration) error {
	l, err := s.location(left.Node)
	if err != nil {
		return err
	}
	_, err = destroyEach(ctx, l, left.Node, map[string]map[string]string{left.Dataset: {
		zfssnap.PropManaged: "true", zfssnap.PropRestore: left.Restore, zfssnap.PropVolume: path.Base(left.Dataset),
	}}, interval)
	return err
}
