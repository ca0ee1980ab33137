package plugin

import (
	"context"
	"fmt"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// siteOf opens a backup's snapshot location of our provider, and returns its name
// too; nil when there is none. Velero has filled in the names and allows one
// location per provider.
func siteOf(ctx context.Context, sites *zfssnap.Sites, backup *velerov1api.Backup) (*zfssnap.Site, string, error) {
	for _, name := range backup.Spec.VolumeSnapshotLocations {
		vsl, err := getLocation(ctx, sites, backup.Namespace, name)
		if err != nil {
			return nil, "", err
		}
		if vsl.Spec.Provider == SnapshotterName {
			site, err := sites.OpenLocation(ctx, vsl)
			return site, name, err
		}
	}
	return nil, "", nil
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
