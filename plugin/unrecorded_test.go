package plugin

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

const volumeOfPair = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  csi: {driver: zfs.csi.openebs.io, volumeHandle: data, volumeAttributes: {openebs.io/poolname: znvm}}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: openebs.io/nodeid, operator: In, values: [hassio]}]}]}}
`

func TestUnrecordedAction_deletesWhatItsBackupTook(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	pem, err := os.ReadFile(p.config["credentialsFile"])
	require.NoError(t, err)
	delete(p.config, "credentialsFile")
	vsl := snapshotLocation(p.config)
	require.NoError(t, p.kube.Create(t.Context(), vsl))
	require.NoError(t, p.kube.Create(t.Context(), &corev1api.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "zfs-agent-client"}, Data: map[string][]byte{"tls.pem": pem},
	}))
	kept, lost := p.backup(), p.backup()
	p.replicate(kept)
	p.replicate(lost)
	p.replicate(p.backup())
	backup := &velerov1api.Backup{}
	require.NoError(t, p.kube.Get(t.Context(), client.ObjectKey{Namespace: "velero", Name: "b2"}, backup))
	backup.Spec.VolumeSnapshotLocations = []string{vsl.Name}
	backup.Status.VolumeSnapshotsAttempted = 1

	action := &UnrecordedAction{Sites: p.snapshotter.Sites, Log: p.snapshotter.Log}
	deleteFor := func(backup *velerov1api.Backup, volume string) error {
		return action.Execute(&velero.DeleteItemActionExecuteInput{Item: object(t, volume), Backup: backup})
	}
	left := func(pool *zfstest.Pool, dataset string) (names []string) {
		all, err := (&zfs.Client{Runner: pool}).Versions(t.Context(), dataset)
		require.NoError(t, err)
		for _, v := range all {
			if !v.Bookmark {
				names = append(names, v.Name)
			}
		}
		return names
	}
	both := func() [2][]string {
		return [2][]string{left(p.source, "znvm/data"), left(p.target, "backup/replica/znvm/data")}
	}
	before := both()

	synchronised := backup.DeepCopy()
	synchronised.UID = "another"
	require.NoError(t, deleteFor(synchronised, volumeOfPair))
	nowhere := backup.DeepCopy()
	nowhere.Spec.VolumeSnapshotLocations = nil
	require.NoError(t, deleteFor(nowhere, volumeOfPair))
	require.NoError(t, deleteFor(backup, `{apiVersion: v1, kind: PersistentVolume, metadata: {name: nfs}, spec: {csi: {driver: nfs.csi.k8s.io, volumeHandle: x}}}`))
	recorded := backup.DeepCopy()
	recorded.Status.VolumeSnapshotsCompleted = 1
	require.NoError(t, deleteFor(recorded, volumeOfPair))
	assert.Equal(t, before, both(), "neither of a backup of that name elsewhere, nor what is not in our location, not on ZFS, or recorded")

	for range 2 {
		require.NoError(t, deleteFor(backup, volumeOfPair))
		for i, names := range both() {
			assert.NotContains(t, names, lost.Snapshot)
			assert.Len(t, names, len(before[i])-1)
		}
	}
	require.NoError(t, p.snapshotter.DeleteSnapshot(lost.String()), "Velero asks for it too, where it has a record")
	assert.Contains(t, left(p.source, "znvm/data"), kept.Snapshot)
}
