package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// TestArchiveAlone takes backups that go to an archive and nowhere else, lets
// some expire, loses the source, and restores at the recovery site.
func TestArchiveAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.Mkdir(dir, 0o700))
	config, err := archive.ParseConfig(fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %s}, part_size: 8Ki}", dir))
	require.NoError(t, err)
	archives := map[string]*archive.Config{"offsite": config}

	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	all := agent.Grant{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}}
	source, target := zfstest.NewPool("znvm"), zfstest.NewPool("backup")
	volume := zfssnap.VolumeID{Node: "hassio", Dataset: "znvm/data"}
	from := &zfs.Client{Runner: source}
	require.NoError(t, from.Create(t.Context(), volume.Dataset, zfs.CreateOptions{Properties: map[string]string{"refquota": "4294967296", "recordsize": "16384"}}))
	hassio, loseSource := serveArchives(t, ca, "hassio", from, archives, all)
	to := &zfs.Client{Runner: target}
	remote, _ := serveArchives(t, ca, "remote", to, archives, all)

	scheme, err := newScheme()
	require.NoError(t, err)
	bundle, err := os.ReadFile(credential(t, ca))
	require.NoError(t, err)
	location := &velerov1api.VolumeSnapshotLocation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "zfs"},
		Spec: velerov1api.VolumeSnapshotLocationSpec{
			Provider:   SnapshotterName,
			Credential: &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: "client"}, Key: "tls.pem"},
			Config: map[string]string{
				"agents": "hassio=" + hassio + ",remote=" + remote, "archive": "offsite", "restoreNode": "remote", "restoreParents": "znvm=backup/znvm",
			},
		},
	}
	kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(location,
		&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "client"}, Data: map[string][]byte{"tls.pem": bundle}},
		&velerov1api.Restore{
			ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "lost", UID: "5e"},
			Status:     velerov1api.RestoreStatus{Phase: velerov1api.RestorePhaseInProgress},
		}).Build()
	log := logrus.New()
	log.SetOutput(t.Output())
	sites := &zfssnap.Sites{Connect: connect, Kube: func() (client.Client, error) { return kube, nil }}
	action := NewReplicationAction(sites, log)
	snapshotter := &zfssnap.Snapshotter{Sites: sites, Namespace: "velero", Log: log}
	settings := map[string]string{"credentialsFile": credential(t, ca)}
	for key, value := range location.Spec.Config {
		settings[key] = value
	}
	require.NoError(t, snapshotter.Init(settings))

	var snapshots []string
	volumeType := ""
	for i := range 3 {
		name := fmt.Sprint("b", i)
		require.NoError(t, source.Write(volume.Dataset, name, []byte("posts of "+name)))
		backup := &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name, UID: types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", i))}}
		require.NoError(t, kube.Create(t.Context(), backup))
		snapshot, err := snapshotter.CreateSnapshot(volume.String(), "", map[string]string{"velero.io/backup": name})
		require.NoError(t, err)
		volumeType, _, err = snapshotter.GetVolumeInfo(volume.String(), "")
		require.NoError(t, err)
		id, err := zfssnap.ParseSnapshotID(snapshot)
		require.NoError(t, err)
		op := operation{location: "zfs", snapshot: id.Snapshot, volume: volume}
		require.Eventually(t, func() bool {
			p, err := action.Progress(op.String(), backup)
			require.NoError(t, err)
			require.Empty(t, p.Err)
			if p.Completed {
				assert.Equal(t, "copied "+id.Name()+" to archive offsite", p.Description)
				assert.Positive(t, p.NCompleted)
			}
			return p.Completed
		}, 2*time.Minute, time.Millisecond)
		snapshots = append(snapshots, snapshot)
	}
	points := func() int {
		found, err := filepath.Glob(filepath.Join(dir, "points", "*.json"))
		require.NoError(t, err)
		return len(found)
	}
	require.NoError(t, snapshotter.DeleteSnapshot(snapshots[0]))
	assert.Equal(t, 3, points(), "the others are based on it")

	want, err := source.Files(volume.Dataset)
	require.NoError(t, err)
	loseSource()
	id, err := snapshotter.CreateVolumeFromSnapshot(snapshots[2], volumeType, "", nil)
	require.NoError(t, err)
	restored, err := zfssnap.ParseVolumeID(id)
	require.NoError(t, err)
	assert.Equal(t, "remote", restored.Node)
	got, err := target.Files(restored.Dataset)
	require.NoError(t, err)
	assert.Equal(t, want, got, "the same posts")
	native, err := to.Get(t.Context(), restored.Dataset, "refquota", "recordsize", "readonly")
	require.NoError(t, err)
	assert.Equal(t, "4294967296", native["refquota"].Value)
	assert.Equal(t, "16384", native["recordsize"].Value)
	assert.Equal(t, "off", native["readonly"].Value)

	// The source comes back, and the rest expires.
	hassio, _ = serveArchives(t, ca, "hassio", from, archives, all)
	settings["agents"] = "hassio=" + hassio + ",remote=" + remote
	require.NoError(t, snapshotter.Init(settings))
	require.NoError(t, snapshotter.DeleteSnapshot(snapshots[1]))
	require.NoError(t, snapshotter.DeleteSnapshot(snapshots[2]))
	assert.Zero(t, points(), "what had to stay goes with the last")
}
