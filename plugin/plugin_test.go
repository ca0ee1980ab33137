package plugin

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/plugin/clientmgmt"
	"github.com/vmware-tanzu/velero/pkg/plugin/clientmgmt/process"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework/common"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	vsv1 "github.com/vmware-tanzu/velero/pkg/plugin/velero/volumesnapshotter/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

func TestNames(t *testing.T) {
	t.Parallel()
	var names []string
	for _, name := range []string{SnapshotterName, ReplicationName, GroupName, RewriteName} {
		require.NoError(t, common.ValidatePluginName(name, names), "Velero only logs a bad name")
		names = append(names, name)
	}
}

// TestPlugin_throughVelero runs the real binary as Velero does: discovered,
// started as a child process and called over go-plugin. It is not parallel
// because Velero's client takes the child's command line from os.Args.
func TestPlugin_throughVelero(t *testing.T) {
	file, err := binary()
	require.NoError(t, err)

	// The registry also looks for plugins in the running program, which is the
	// velero server with its flags.
	args := os.Args
	os.Args = []string{file, "server", "--log-level", "debug", "--kubeconfig", filepath.Join(t.TempDir(), "none"), "--some-flag=of the server"}
	t.Cleanup(func() { os.Args = args })

	log := logrus.New()
	log.SetOutput(t.Output())
	registry := process.NewRegistry(t.TempDir(), log, logrus.DebugLevel)
	require.NoError(t, registry.DiscoverPlugins())
	manager := clientmgmt.NewManager(log, logrus.DebugLevel, registry)
	t.Cleanup(manager.CleanupClients)

	t.Run("snapshotter", func(t *testing.T) {
		// Velero's client refuses a second Init and makes a new one each time; the
		// instance behind them is the same.
		open := func(config map[string]string) (vsv1.VolumeSnapshotter, error) {
			vs, err := manager.GetVolumeSnapshotter(SnapshotterName)
			require.NoError(t, err)
			return vs, vs.Init(config)
		}
		_, err := open(map[string]string{"agents": "hassio=127.0.0.1:1", "tarket": "x"})
		require.ErrorContains(t, err, `unknown key "tarket" (known: agents, `)
		_, err = open(map[string]string{"agents": "hassio=127.0.0.1:1"})
		require.ErrorContains(t, err, "the snapshot location has no credential")
		vs, err := open(map[string]string{"agents": "hassio=127.0.0.1:1", "credentialsFile": writeBundle(t)})
		require.NoError(t, err)

		id, err := vs.GetVolumeID(object(t, "{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {nfs: {server: s, path: /p}}}"))
		require.NoError(t, err)
		assert.Empty(t, id)

		id, err = vs.GetVolumeID(object(t, openEBSPV))
		require.NoError(t, err)
		assert.Equal(t, "zfs1:hassio:znvm/k3s/pvc-1", id)

		_, err = vs.CreateSnapshot(id, "", map[string]string{"velero.io/backup": "nightly"})
		require.ErrorContains(t, err, "snapshot znvm/k3s/pvc-1: ", "there is no cluster here")
		require.NoError(t, vs.DeleteSnapshot(""))
		require.ErrorContains(t, vs.DeleteSnapshot("snap-1"), zfssnap.ErrInvalidID.Error())
		_, err = vs.CreateVolumeFromSnapshot("", "filesystem", "", nil)
		require.ErrorContains(t, err, "the backup has no snapshot of it")
	})

	t.Run("replication", func(t *testing.T) {
		action, err := manager.GetBackupItemActionV2(ReplicationName)
		require.NoError(t, err)
		selector, err := action.AppliesTo()
		require.NoError(t, err)
		assert.Equal(t, velero.ResourceSelector{IncludedResources: []string{"persistentvolumes"}}, selector)

		_, _, _, _, err = action.Execute(object(t, openEBSPV), nightly())
		require.Error(t, err, "there is no cluster here")
		_, err = action.Progress("garbage", nightly())
		require.ErrorContains(t, err, "operation ID garbage is invalid")
	})

	t.Run("rewrite", func(t *testing.T) {
		action, err := manager.GetRestoreItemActionV2(RewriteName)
		require.NoError(t, err)
		selector, err := action.AppliesTo()
		require.NoError(t, err)
		assert.Equal(t, velero.ResourceSelector{}, selector, "there is no cluster here to ask for restores")
		item := object(t, openEBSPV)
		run := &velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "run"}}
		out, err := action.Execute(&velero.RestoreItemActionExecuteInput{Item: item, ItemFromBackup: item, Restore: run})
		require.NoError(t, err)
		assert.Equal(t, item, out.UpdatedItem, "a restore without a profile is left alone")

		run.Labels = map[string]string{"kubectl-dr.io/profile": "drill"}
		_, err = action.Execute(&velero.RestoreItemActionExecuteInput{Item: item, ItemFromBackup: item, Restore: run})
		require.Error(t, err, "there is no cluster here")
	})
}
