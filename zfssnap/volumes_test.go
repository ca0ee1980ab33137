package zfssnap

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

var update = flag.Bool("update", false, "write the wanted files anew")

// shapes are the kinds of PersistentVolume, each with a volume as its
// provisioner or its documentation has it, in testdata/volumes.
var shapes = []struct {
	file, title string
	dataset     string
	mountpoint  string // "" for a zvol
	exported    bool   // a restored volume is reached over the network
}{
	{"openebs-dataset", "OpenEBS ZFS-LocalPV, dataset", "zfspv-pool/pvc-73402f6e-d054-4ec2-95a4-eb8452724afb", "legacy", false},
	{"openebs-zvol", "OpenEBS ZFS-LocalPV, zvol with a file system", "znvm/k3s/pvc-37b07ad6-db68-11e9-bbb6-000c296e38d9", "", false},
	{"openebs-block", "OpenEBS ZFS-LocalPV, raw block", "zfspv-pool/pvc-0e5a1c6b-5f4d-4b4e-9f5b-8f3c3a1a2b10", "", false},
	{"openebs-imported", "OpenEBS ZFS-LocalPV, imported", "zfspv-pool/fio-vol", "legacy", false},
	{"democratic-csi-zfs-local-dataset", "democratic-csi `zfs-local-dataset`", "tank/k8s/local/v/pvc-5d2b2f7c-9a51-4e0e-9b0f-3b1f2f6c8a01", "legacy", false},
	{"democratic-csi-zfs-local-zvol", "democratic-csi `zfs-local-zvol`", "tank/k8s/local/v/pvc-5d2b2f7c-9a51-4e0e-9b0f-3b1f2f6c8a02", "", false},
	{"democratic-csi-zfs-generic-nfs", "democratic-csi `zfs-generic-nfs`", "tank/k8s/nfs/v/pvc-0c7a5eb1-0d0d-477d-8ed4-01d295ebf7e7", "/tank/k8s/nfs/v/pvc-0c7a5eb1-0d0d-477d-8ed4-01d295ebf7e7", true},
	{"democratic-csi-freenas-api-nfs", "democratic-csi `freenas-nfs`, `freenas-api-nfs`", "it-nas-6tb/k8s/volumes/pvc-0c6e4d07-d1e1-4db5-a49e-8049d70ba2b0", "/mnt/it-nas-6tb/k8s/volumes/pvc-0c6e4d07-d1e1-4db5-a49e-8049d70ba2b0", true},
	{"democratic-csi-zfs-generic-iscsi", "democratic-csi `zfs-generic-iscsi`", "tank/k8s/iscsi/v/pvc-2f0a6b0e-7d0f-4ac7-9a2b-6f5d1c2e3f40", "", true},
	{"democratic-csi-freenas-iscsi", "democratic-csi `freenas-iscsi`, `freenas-api-iscsi`", "tank/k8s/iscsi/v/pvc-8f4b1b9e-7c1d-4b66-8c5f-0f9a7d3c2b11", "", true},
	{"democratic-csi-zfs-generic-smb", "democratic-csi `zfs-generic-smb`", "tank/k8s/smb/v/pvc-6d4c0f1e-2f3b-4a7c-8a57-11aa22bb33cc", "/tank/k8s/smb/v/pvc-6d4c0f1e-2f3b-4a7c-8a57-11aa22bb33cc", true},
	{"democratic-csi-zfs-generic-nvmeof", "democratic-csi `zfs-generic-nvmeof`", "tank/k8s/nvmeof/v/pvc-7e1b0c55-3a7e-4c51-9d0f-0d6b0a6a5f33", "", true},
	{"democratic-csi-node-manual-nfs", "democratic-csi `node-manual` over NFS", "tank/media", "/tank/media", true},
	{"truenas-nfs", "TrueNAS CSI, NFS", "tank/pvc-9b1d6a7e-0c2f-4d5e-8f60-1a2b3c4d5e60", "/mnt/tank/pvc-9b1d6a7e-0c2f-4d5e-8f60-1a2b3c4d5e60", true},
	{"truenas-iscsi", "TrueNAS CSI, iSCSI", "tank/pvc-9b1d6a7e-0c2f-4d5e-8f60-1a2b3c4d5e61", "", true},
	{"zfs-provisioner-hostpath", "kubernetes-zfs-provisioner, hostPath", "tank/kubernetes/pvc-3f1e6f0c-9d3a-4a9c-8a6b-7c2c1f7d5e01", "/tank/kubernetes/pvc-3f1e6f0c-9d3a-4a9c-8a6b-7c2c1f7d5e01", false},
	{"zfs-provisioner-nfs", "kubernetes-zfs-provisioner, NFS", "tank/kubernetes/pvc-3f1e6f0c-9d3a-4a9c-8a6b-7c2c1f7d5e02", "/tank/kubernetes/pvc-3f1e6f0c-9d3a-4a9c-8a6b-7c2c1f7d5e02", true},
	{"local-directory", "`local`, directory", "nas/data", "/srv/data", false},
	{"local-block", "`local`, block device", "nas/disk", "", false},
	{"hostpath-directory", "`hostPath`", "nas/data", "/srv/data", false},
	{"nfs", "`nfs`", "tank/media", "/tank/media", true},
}

// sourceConfig and recoveryConfig are locations that know all shapes.
func sourceConfig() map[string]string {
	return map[string]string{
		KeyAgents: "hassio=10.0.0.20:7443,remote=remote.example.org:7443", KeyTarget: "remote", KeyTargetPrefix: "backup/replica",
		KeyStorageHosts:   "storage-1.domain.tld=hassio",
		KeyDatasetParents: "org.democratic-csi.iscsi=tank/k8s/iscsi/v,truenas-iscsi=tank/k8s/iscsi/v,org.democratic-csi.smb=tank/k8s/smb/v,org.democratic-csi.nvmeof=tank/k8s/nvmeof/v",
	}
}

func recoveryConfig(dataset string) map[string]string {
	return map[string]string{
		KeyAgents: "remote=remote.example.org:7443", KeyTargetPrefix: "backup/replica", KeyRestoreNode: "remote",
		KeyRestoreParents: path.Dir(dataset) + "=backup/k8s",
		KeyStorageHosts:   "storage-2.domain.tld=remote",
		KeyDatasetParents: "org.democratic-csi.iscsi=backup/k8s,truenas-iscsi=backup/k8s,org.democratic-csi.nvmeof=backup/k8s",
	}
}

func shapeOf(t *testing.T, file string) *unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "volumes", file+".yaml"))
	require.NoError(t, err)
	return pvFrom(t, string(text))
}

// TestShapes takes a volume of every kind through backup, restore and deletion. The
// restored objects are in testdata/volumes/restored, and what can be done with
// each kind is the table in docs/drivers.md.
func TestShapes(t *testing.T) {
	t.Parallel()
	rows := make([]string, len(shapes))
	t.Run("shape", func(t *testing.T) {
		for i, shape := range shapes {
			t.Run(shape.file, func(t *testing.T) {
				t.Parallel()
				dataset := &agentpb.Dataset{Name: shape.dataset, Type: typeFilesystem, Mountpoint: shape.mountpoint}
				if shape.mountpoint == "" {
					dataset.Type, dataset.Native = typeVolume, map[string]string{"volsize": "1073741824"}
				}
				pv := shapeOf(t, shape.file)
				before := pv.DeepCopy()

				primary := newWorld(t, sourceConfig())
				primary.agents["hassio"] = newFakeAgent(dataset)
				volumeID, err := primary.snap.GetVolumeID(pv)
				require.NoError(t, err)
				assert.Equal(t, before, pv, "the volume is not changed")
				require.Equal(t, VolumeID{Node: "hassio", Dataset: shape.dataset}.String(), volumeID)
				volumeType, _, err := primary.snap.GetVolumeInfo(volumeID, "")
				require.NoError(t, err)
				snapshot, err := primary.snap.CreateSnapshot(volumeID, "", backupTags)
				require.NoError(t, err)

				inKind, err := restoreShape(t, recoveryConfig(shape.dataset), ModeClone, snapshot, volumeType, dataset, pv)
				kind := "yes"
				switch {
				case err != nil:
					require.ErrorContains(t, err, "set "+KeyRestoreAs+": "+AsLocal, "there is another way")
					kind = "no"
				case shape.exported:
					kind = "yes, when the host exports it"
				}
				if err == nil {
					golden(t, shape.file, inKind)
				}

				config := recoveryConfig(shape.dataset)
				config[KeyRestoreAs] = AsLocal
				asLocal, err := restoreShape(t, config, ModeClone, snapshot, volumeType, dataset, pv)
				require.NoError(t, err)
				for _, mode := range []string{ModeCopy, modeArchive} {
					same, err := restoreShape(t, config, mode, snapshot, volumeType, dataset, pv)
					require.NoError(t, err)
					assert.Equal(t, asLocal, same, "by %s as by clone", mode)
				}
				golden(t, shape.file+"-as-local", asLocal)
				assert.Equal(t, before, pv, "the volume is not changed")

				require.NoError(t, primary.snap.DeleteSnapshot(snapshot))
				assert.Empty(t, primary.agents["hassio"].names(shape.dataset))

				enableCSI := "taken"
				if _, isCSI, _ := unstructured.NestedMap(pv.Object, "spec", "csi"); isCSI {
					enableCSI = "**skipped**"
				}
				rows[i] = fmt.Sprintf("| %s | %s | yes | %s | yes | yes, yes, yes | yes | %s |", shape.title, dataset.GetType(), kind, enableCSI)
			})
		}
	})
	want := strings.Join(append([]string{
		"| PersistentVolume | dataset | backed up | restored as it was | restored with `restoreAs: local` | by clone, copy, archive | deleted | snapshot with `EnableCSI` |",
		"|---|---|---|---|---|---|---|---|",
	}, rows...), "\n") + "\n"
	doc := filepath.Join("..", "docs", "drivers.md")
	text, err := os.ReadFile(doc)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), "<!-- written by go test ./zfssnap -update -->\n")
	require.True(t, ok, "%s has no place for the table", doc)
	have, after, ok := strings.Cut(rest, "<!-- end -->\n")
	require.True(t, ok, "the table in %s has no end", doc)
	if *update {
		require.NoError(t, os.WriteFile(doc, []byte(before+"<!-- written by go test ./zfssnap -update -->\n"+want+"<!-- end -->\n"+after), 0o644))
		return
	}
	assert.Equal(t, want, have)
}

// restoreShape restores a volume at the recovery site and returns the objects
// that describe it, after checking that they lead back to it.
func restoreShape(t *testing.T, config map[string]string, mode, snapshot, volumeType string, source *agentpb.Dataset, pv *unstructured.Unstructured) ([]map[string]any, error) {
	t.Helper()
	config = maps.Clone(config)
	if config[KeyRestoreMode] = mode; mode == modeArchive {
		config[KeyRestoreMode], config[KeyArchive] = ModeClone, "offsite"
	}
	w := newWorld(t, config, restoreObject("now", velerov1api.RestorePhaseInProgress))
	id, err := ParseSnapshotID(snapshot)
	require.NoError(t, err)
	replica := "backup/replica/" + source.GetName()
	w.agents["remote"] = newFakeAgent(&agentpb.Dataset{Name: replica, Type: source.GetType(), Mountpoint: "none"})
	if mode != modeArchive {
		w.agents["remote"].add(replica, id.GUID, id.Snapshot)
	}

	volumeID, err := w.snap.CreateVolumeFromSnapshot(snapshot, volumeType, "", nil)
	require.NoError(t, err)
	assert.Equal(t, mode, w.agents["remote"].made[0].GetMode())
	out, err := w.snap.SetVolumeID(pv, volumeID)
	if err != nil {
		assert.Len(t, w.agents["remote"].datasets, 1, "what was made for it is gone: the replica alone is there")
		return nil, err
	}
	restored := out.(*unstructured.Unstructured)
	again, err := w.snap.GetVolumeID(restored)
	require.NoError(t, err)
	assert.Equal(t, volumeID, again, "the restored volume leads to the dataset that was made")
	vol, err := ParseVolumeID(volumeID)
	require.NoError(t, err)
	assert.Equal(t, path.Base(vol.Dataset), restored.GetName())
	class := func(pv *unstructured.Unstructured) string {
		name, _, _ := unstructured.NestedString(pv.Object, "spec", "storageClassName")
		return name
	}
	assert.Equal(t, class(pv), class(restored))

	objects := []map[string]any{restored.Object}
	zv, err := getZFSVolume(t.Context(), w.kube, "openebs", restored.GetName())
	if err == nil {
		unstructured.RemoveNestedField(zv.Object, "metadata", "resourceVersion")
		objects = append(objects, zv.Object)
	}
	return objects, nil
}

func golden(t *testing.T, name string, objects []map[string]any) {
	t.Helper()
	var docs []string
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		require.NoError(t, err)
		docs = append(docs, string(text))
	}
	got, file := strings.Join(docs, "---\n"), filepath.Join("testdata", "volumes", "restored", name+".yaml")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}
