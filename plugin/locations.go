package plugin

import (
	"context"
	"fmt"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// locationOf returns a backup's snapshot location of our provider, or nil.
// Velero has filled in the names and allows one location per provider.
func locationOf(ctx context.Context, sites *zfssnap.Sites, backup *velerov1api.Backup) (*velerov1api.VolumeSnapshotLocation, error) {
	for _, name := range backup.Spec.VolumeSnapshotLocations {
		vsl, err := getLocation(ctx, sites, backup.Namespace, name)
		if err != nil {
			return nil, err
		}
		if vsl.Spec.Provider == SnapshotterName {
			return vsl, nil
		}
	}
	return nil, nil
}

func getLocation(ctx context.Context, sites *zfssnap.Sites, namespace, name string) (*velerov1api.VolumeSnapshotLocation, error) {
	kube, err := sites.Kube()
	if err != nil {
		return nil, err
	}
	vsl := &velerov1api.VolumeSnapshotLocation{}
	if err := kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, vsl); err != nil {
		return nil, fmt.Errorf("get snapshot location %s: %w", name, err)
	}
	return vsl, nil
}
