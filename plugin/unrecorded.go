package plugin

import (
	"context"
	"fmt"

	"github.com/sirupsen/logrus"
	"github.com/vmware-tanzu/velero/pkg/kuberesource"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// UnrecordedAction deletes, with a backup, the snapshots of its volumes that
// Velero has no record of: where the plugin's process ended between taking a
// snapshot and answering, the record has no identifier, and Velero can not ask
// for its deletion.
type UnrecordedAction struct {
	Sites *zfssnap.Sites
	Log   logrus.FieldLogger
}

var _ velero.DeleteItemAction = (*UnrecordedAction)(nil)

// AppliesTo selects PersistentVolumes.
func (a *UnrecordedAction) AppliesTo() (velero.ResourceSelector, error) {
	return velero.ResourceSelector{IncludedResources: []string{kuberesource.PersistentVolumes.Resource}}, nil
}

// Execute deletes the snapshot that was taken of a volume for the backup, if there
// is one and Velero says that a snapshot failed: where none did, all have a record,
// and are Velero's to ask for. A snapshot's name has the uid of its backup, so that
// it is no other's: a backup that was synchronised from another cluster has another
// uid, and nothing of it is found. Velero logs an error, and goes on.
func (a *UnrecordedAction) Execute(input *velero.DeleteItemActionExecuteInput) error {
	ctx := context.Background()
	if input.Backup.Status.VolumeSnapshotsCompleted >= input.Backup.Status.VolumeSnapshotsAttempted {
		return nil
	}
	site, _, err := siteOf(ctx, a.Sites, input.Backup)
	if err != nil || site == nil {
		return err
	}
	vol, ours, err := site.Locate(ctx, input.Item)
	if err != nil {
		return fmt.Errorf("delete what backup %s has unrecorded: %w", input.Backup.Name, err)
	}
	if !ours {
		return nil
	}
	return site.DeleteBackedUp(ctx, vol, zfssnap.SnapshotName(input.Backup.Name, input.Backup.UID), a.Log)
}
