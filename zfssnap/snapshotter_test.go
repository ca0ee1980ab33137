package zfssnap

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

var backupTags = map[string]string{"velero.io/backup": "nightly", "velero.io/pv": "pvc-1", "Team": "blog", "velero.io/schedule-name": "hourly", "empty": "", strings.Repeat("long", 60) + "/label": "x"}

func TestSnapshotter_isUsedBeforeInit(t *testing.T) {
	t.Parallel()
	s := &Snapshotter{}
	_, err := s.GetVolumeID(openEBSPV(t))
	require.ErrorIs(t, err, errNotInitialised)
}

func TestSnapshotter_backup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	w.agents["hassio"].datasets[volDataset].Native = map[string]string{"refquota": "4294967296", "compression": "zstd"}

	volumeID, err := w.snap.GetVolumeID(openEBSPV(t))
	require.NoError(t, err)
	assert.Equal(t, "zfs1:hassio:znvm/k3s/pvc-1", volumeID)

	volType, iops, err := w.snap.GetVolumeInfo(volumeID, "")
	require.NoError(t, err)
	assert.Nil(t, iops)
	assert.Equal(t, "filesystem?compression=zstd&refquota=4294967296", volType)

	first, err := w.snap.CreateSnapshot(volumeID, "", backupTags)
	require.NoError(t, err)
	assert.Equal(t, "zfs1:hassio:1:1700000000:znvm/k3s/pvc-1@dr-nightly-0f1e2d3c", first)
	assert.Equal(t, map[string]string{
		PropManaged: "true", PropBackup: "nightly", PropVersion: "dev", PropVolume: "pvc-1",
		"io.kubectl-dr:tag:team": "blog", "io.kubectl-dr:tag:velero.io:schedule-name": "hourly",
		names.ClaimProperty(volDataset): RecordClaim(openEBSPV(t), VolumeID{Dataset: volDataset}),
	}, w.agents["hassio"].taken[0].GetProperties())
	assert.Equal(t, HoldTag("backup"), w.agents["hassio"].taken[0].GetHold())

	again, err := w.snap.CreateSnapshot(volumeID, "", backupTags)
	require.NoError(t, err)
	assert.Equal(t, first, again, "the same volume and backup have one snapshot")

	namesake := backupObject("nightly")
	require.NoError(t, w.kube.Delete(t.Context(), namesake))
	namesake.UID = "another"
	require.NoError(t, w.kube.Create(t.Context(), namesake))
	later, err := w.snap.CreateSnapshot(volumeID, "", backupTags)
	require.NoError(t, err)
	assert.NotEqual(t, first, later, "another backup of that name has another")
}

func TestSnapshotter_errorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	_, err := w.snap.current.dataset(t.Context(), "other", "look up a", byName("a"))
	require.EqualError(t, err, `look up a on node other: no agent is known on node "other" (add other=<host:port> to "agents" in the config of the VolumeSnapshotLocation)`)
}

func TestSnapshotter_unresolvedVolume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	w.agents["hassio"].down = true
	pv := pvFrom(t, "{metadata: {name: pv}, spec: {local: {path: /srv/data}, "+onNode("kubernetes.io/hostname", "hassio")+"}}")

	volumeID, err := w.snap.GetVolumeID(pv)
	require.NoError(t, err, "Velero would swallow an error here")
	require.NotEmpty(t, volumeID)

	_, _, err = w.snap.GetVolumeInfo(volumeID, "")
	require.ErrorContains(t, err, "connection refused")
	_, err = w.snap.CreateSnapshot(volumeID, "", backupTags)
	require.ErrorContains(t, err, "find the dataset of PersistentVolume pv: find the dataset at /srv/data on node hassio")
}

// Velero does not ask for a snapshot after an error of GetVolumeInfo, and the
// backup would wait for a copy that nobody makes.
func TestSnapshotter_volumeThatCanNotBeLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	volume := VolumeID{Node: "hassio", Dataset: volDataset}
	w.agents["hassio"].down = true
	volumeType, _, err := w.snap.GetVolumeInfo(volume.String(), "")
	require.NoError(t, err)
	assert.Empty(t, volumeType, "no restore takes it for one")

	w.agents["hassio"].down = false
	_, err = w.snap.CreateSnapshot(volume.String(), "", backupTags)
	require.ErrorContains(t, err, "connection refused", "a snapshot without a type could not be restored")
	assert.Empty(t, w.agents["hassio"].names(volDataset))
	backup := &velerov1api.Backup{}
	require.NoError(t, w.kube.Get(t.Context(), client.ObjectKey{Namespace: "velero", Name: "nightly"}, backup))
	assert.True(t, SnapshotFailed(backup, volume), "who waits for the copy is told")
	assert.False(t, SnapshotFailed(backup, VolumeID{Node: "hassio", Dataset: "znvm/other"}))

	volumeType, _, err = w.snap.GetVolumeInfo(volume.String(), "")
	require.NoError(t, err)
	assert.NotEmpty(t, volumeType)
	_, err = w.snap.CreateSnapshot(volume.String(), "", backupTags)
	require.NoError(t, err, "the next backup is not held to it")
}

func TestSnapshotter_CreateSnapshot_fails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, volume string
		tags         map[string]string
		want         string
	}{
		{"without a backup", "zfs1:hassio:znvm/k3s/pvc-1", nil, "tag velero.io/backup is missing"},
		{"for a backup that is gone", "zfs1:hassio:znvm/k3s/pvc-1", map[string]string{"velero.io/backup": "gone"}, `get backup gone`},
		{"for a missing dataset", "zfs1:hassio:znvm/k3s/gone", backupTags, "no such dataset"},
		{"for a node nobody knows", "zfs1:other:znvm/k3s/pvc-1", backupTags, `no agent is known on node "other"`},
		{"for an identifier of another plugin", "vol-0123", backupTags, "it was not made by"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, primaryConfig())
			_, err := w.snap.CreateSnapshot(tt.volume, "", tt.tags)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestSnapshotter_servesSeveralLocations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	id, err := w.snap.CreateSnapshot("zfs1:hassio:znvm/k3s/pvc-1", "", backupTags)
	require.NoError(t, err)
	require.NoError(t, w.snap.Init(map[string]string{KeyAgents: "elsewhere=e:1"}))
	require.NoError(t, w.snap.DeleteSnapshot(id), "the identifier leads back to its own location")
	assert.Empty(t, w.agents["hassio"].names(volDataset))
}

// Deleting a backup initialises all its locations before it deletes a snapshot, and
// the last of them may have another target.
func TestSnapshotter_DeleteSnapshot_ofAnotherLocation(t *testing.T) {
	t.Parallel()
	const replica = "backup/replica/" + volDataset
	w := newWorld(t, primaryConfig())
	id, err := w.snap.CreateSnapshot("zfs1:hassio:"+volDataset, "", backupTags)
	require.NoError(t, err)
	parsed, err := ParseSnapshotID(id)
	require.NoError(t, err)
	w.agents["remote"].datasets[replica] = filesystem(replica)
	w.agents["remote"].add(replica, parsed.GUID, parsed.Snapshot)
	w.agents["remote"].add(replica, 77, "dr-of-another-backup")
	w.agents["third"] = newFakeAgent()
	w.agents["hassio"].add(volDataset, 77, "dr-of-another-backup")

	config := primaryConfig()
	config[KeyAgents], config[KeyTarget] = "hassio=127.0.0.1:31001,third=127.0.0.1:31003", "third"
	require.NoError(t, w.snap.Init(config))
	stale := primaryConfig()
	stale[KeyAgents], stale[KeyTarget] = "hassio=127.0.0.1:31001,gone=127.0.0.1:31004", "gone"
	require.NoError(t, w.snap.Init(stale))
	require.NoError(t, w.snap.Init(config))

	require.NoError(t, w.snap.DeleteSnapshot(id), "a location that leads nowhere is not in the way")
	assert.Equal(t, []string{"dr-of-another-backup"}, w.agents["hassio"].names(volDataset))
	assert.Equal(t, []string{"dr-of-another-backup"}, w.agents["remote"].names(replica), "the copy in the other location is gone")
}

func TestSnapshotter_isSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	pv := openEBSPV(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			config := primaryConfig()
			config[KeyReplicationTimeout] = fmt.Sprintf("%dh", i%2+1)
			assert.NoError(t, w.snap.Init(config))
			id, err := w.snap.GetVolumeID(pv)
			assert.NoError(t, err)
			assert.NoError(t, w.kube.Create(t.Context(), backupObject(fmt.Sprint("b", i))))
			snap, err := w.snap.CreateSnapshot(id, "", map[string]string{"velero.io/backup": fmt.Sprint("b", i)})
			assert.NoError(t, err)
			assert.NoError(t, w.snap.DeleteSnapshot(snap))
		})
	}
	wg.Wait()
	assert.Len(t, w.snap.Sites.open, 3, "one site per config")
}

func TestSnapshotter_DeleteSnapshot(t *testing.T) {
	t.Parallel()
	const replica = "backup/replica/" + volDataset
	tests := []struct {
		name               string
		source, target     []string // names; the guid is the place in this list: a=1, b=2, c=3
		delete             string
		targetDown, cloned bool
		wantSource         []string
		wantTarget         []string
		wantDeferred       []string
		remembered         bool
	}{
		{
			name:   "an old snapshot goes on both sides",
			source: []string{"a", "b"}, target: []string{"a", "b"}, delete: "a",
			wantSource: []string{"b"}, wantTarget: []string{"b"},
		},
		{
			name:   "the newest copy is left to the agent, for the next incremental builds on it",
			source: []string{"a", "b", "#b"}, target: []string{"a", "b"}, delete: "b",
			wantSource: []string{"a", "#b"}, wantTarget: []string{"a", "b"}, wantDeferred: []string{"b"},
		},
		{
			name:   "a newer source snapshot that has not been copied does not help",
			source: []string{"a", "b", "#b", "c"}, target: []string{"a", "b"}, delete: "b",
			wantSource: []string{"a", "#b", "c"}, wantTarget: []string{"a", "b"}, wantDeferred: []string{"b"},
		},
		{
			name:   "a newer copy of which the source kept a bookmark is enough",
			source: []string{"a", "#b"}, target: []string{"a", "b"}, delete: "a",
			wantSource: []string{"#b"}, wantTarget: []string{"b"},
		},
		{
			name:   "a newer copy that the source does not know is not",
			source: []string{"a"}, target: []string{"a", "b"}, delete: "a",
			wantTarget: []string{"a", "b"}, remembered: true,
		},
		{
			name:   "a copy that was never made is no error",
			source: []string{"a"}, delete: "a",
		},
		{
			name:   "a snapshot that is gone is no error",
			source: []string{"b"}, target: []string{"b"}, delete: "a",
			wantSource: []string{"b"}, wantTarget: []string{"b"},
		},
		{
			name:   "a target that does not answer keeps its copy",
			source: []string{"a", "b"}, target: []string{"a", "b"}, delete: "a", targetDown: true,
			wantSource: []string{"b"}, wantTarget: []string{"a", "b"}, remembered: true,
		},
		{
			name:   "a copy in use by a clone stays",
			source: []string{"a", "b"}, target: []string{"a", "b"}, delete: "a", cloned: true,
			wantSource: []string{"b"}, wantTarget: []string{"a", "b"}, remembered: true,
		},
	}
	guids := map[string]uint64{"a": 1, "b": 2, "#b": 2, "c": 3}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, primaryConfig())
			source, target := w.agents["hassio"], w.agents["remote"]
			target.datasets[replica] = filesystem(replica)
			for _, name := range tt.source {
				source.add(volDataset, guids[name], name)
			}
			for _, name := range tt.target {
				target.add(replica, guids[name], name)
			}
			target.replicas = true
			target.down, target.busy[guids[tt.delete]] = tt.targetDown, tt.cloned
			id := SnapshotID{Node: "hassio", Dataset: volDataset, Snapshot: tt.delete, GUID: guids[tt.delete], Created: time.Unix(1, 0)}
			require.NoError(t, w.snap.DeleteSnapshot(id.String()))
			assert.Equal(t, tt.wantSource, source.names(volDataset))
			assert.Equal(t, tt.wantTarget, target.names(replica))
			assert.Equal(t, tt.wantDeferred, target.deferred)
			_, remembered := source.datasets[volDataset].GetProperties()[names.PropExpired+fmt.Sprint(guids[tt.delete])]
			assert.Equal(t, tt.remembered, remembered)
		})
	}
}

func TestSnapshotter_DeleteSnapshot_triesAgainWhatHadToStay(t *testing.T) {
	t.Parallel()
	const replica = "backup/replica/" + volDataset
	w := newWorld(t, primaryConfig())
	source, target := w.agents["hassio"], w.agents["remote"]
	target.datasets[replica] = filesystem(replica)
	for guid, name := range []string{"a", "b", "c", "d"} {
		source.add(volDataset, uint64(guid+1), name)
		target.add(replica, uint64(guid+1), name)
	}
	target.replicas = true
	remove := func(name string, guid uint64) {
		t.Helper()
		id := SnapshotID{Node: "hassio", Dataset: volDataset, Snapshot: name, GUID: guid, Created: time.Unix(1, 0)}
		require.NoError(t, w.snap.DeleteSnapshot(id.String()))
	}
	target.down = true
	remove("a", 1)
	remove("b", 2)
	assert.Equal(t, []string{"a", "b", "c", "d"}, target.names(replica))
	assert.Len(t, source.datasets[volDataset].GetProperties(), 2)

	target.down, target.busy[2] = false, true
	remove("a", 1)
	assert.Equal(t, map[string]string{names.PropExpired + "2": "remote"}, source.datasets[volDataset].GetProperties())
	remove("c", 3)
	assert.Equal(t, []string{"b", "d"}, target.names(replica), "b is in use")
	assert.Equal(t, map[string]string{names.PropExpired + "2": "remote"}, source.datasets[volDataset].GetProperties())

	target.busy[2] = false
	remove("c", 3)
	assert.Equal(t, []string{"d"}, target.names(replica))
	assert.Empty(t, source.datasets[volDataset].GetProperties())

	delete(source.datasets, volDataset)
	target.down = true
	remove("d", 4)
}

// Copies that the two sides might yet be brought together by are of no use when
// nothing can be sent any more.
func TestSite_Delete_whereNothingIsLeftToSend(t *testing.T) {
	t.Parallel()
	const replica = "backup/replica/" + volDataset
	tests := []struct {
		name   string
		change func(w *world)
		stays  string
	}{
		{"the volume is there", func(*world) {}, "it is the newest that both sides know"},
		{"the volume is gone", func(w *world) {
			source := w.agents["hassio"]
			delete(source.datasets, volDataset)
			source.datasets["znvm/k3s"] = filesystem("znvm/k3s")
		}, ""},
		{"its pool is not imported", func(w *world) { clear(w.agents["hassio"].datasets) }, "it is the newest that both sides know"},
		{"its node does not answer", func(w *world) { w.agents["hassio"].down = true }, "on node hassio: rpc error"},
		{"its node is gone for good", func(w *world) {
			w.agents["hassio"].down = true
			w.snap.current.Gone = []string{"hassio"}
		}, ""},
		{"nobody knows its node", func(w *world) { delete(w.snap.current.Agents, "hassio") }, `no agent is known on node "hassio"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, primaryConfig())
			target := w.agents["remote"]
			target.datasets[replica] = filesystem(replica)
			target.add(replica, 1, "a")
			target.add(replica, 2, "b")
			tt.change(w)
			id := SnapshotID{Node: "hassio", Dataset: volDataset, Snapshot: "a", GUID: 1}

			itself, copied := w.snap.current.Stays(t.Context(), id)
			require.NoError(t, itself)
			left, err := w.snap.current.Delete(t.Context(), id)
			if tt.stays == "" {
				require.NoError(t, copied)
				require.NoError(t, err)
				assert.Empty(t, left)
				assert.Equal(t, []string{"b"}, target.names(replica))
				return
			}
			require.ErrorContains(t, copied, tt.stays)
			require.ErrorContains(t, errors.Join(append(left, err)...), tt.stays)
			assert.Equal(t, []string{"a", "b"}, target.names(replica))
		})
	}
}

func TestSnapshotter_DeleteSnapshot_identifiers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	require.NoError(t, w.snap.DeleteSnapshot(""), "Velero deletes failed snapshots too")
	for _, id := range []string{"snap-0123", "zfs1:hassio:x:y:z", "zfs9:hassio:1:1:a@b", "zfs1:hassio:a/b"} {
		require.ErrorIs(t, w.snap.DeleteSnapshot(id), ErrInvalidID, id)
	}
	w.agents["hassio"].down = true
	require.Error(t, w.snap.DeleteSnapshot("zfs1:hassio:1:1:znvm/k3s/pvc-1@dr-x"), "a source that does not answer keeps the backup")
}

const snapID = "zfs1:hassio:42:1700000000:znvm/k3s/pvc-1@dr-nightly"

// drWorld has the copy on remote and one restore in progress.
func drWorld(t *testing.T, config map[string]string) *world {
	t.Helper()
	w := newWorld(t, config, restoreObject("now", velerov1api.RestorePhaseInProgress), restoreObject("old", velerov1api.RestorePhaseCompleted))
	w.agents["remote"].datasets["backup/replica/"+volDataset] = filesystem("backup/replica/" + volDataset)
	w.agents["remote"].add("backup/replica/"+volDataset, 42, "dr-nightly")
	return w
}

func TestSnapshotter_restore(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?compression=zstd&refquota=4294967296", "", nil)
	require.NoError(t, err)
	again, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?compression=zstd&refquota=4294967296", "", nil)
	require.NoError(t, err)
	assert.Equal(t, volumeID, again, "a retry within a restore finds its volume")

	id, err := ParseVolumeID(volumeID)
	require.NoError(t, err)
	assert.Equal(t, "remote", id.Node)
	assert.Regexp(t, `^backup/znvm/k3s/pvc-1-[0-9a-f]{8}$`, id.Dataset)
	name := id.Dataset[len("backup/znvm/k3s/"):]
	req := w.agents["remote"].made[0]
	assert.Equal(t, "backup/replica/znvm/k3s/pvc-1@dr-nightly", req.GetSnapshot())
	assert.Equal(t, uint64(42), req.GetGuid())
	assert.Equal(t, ModeClone, req.GetMode())
	assert.Equal(t, map[string]string{PropManaged: "true", PropRestore: "now", PropRun: "run-now", PropVolume: name}, req.GetProperties())
	assert.Equal(t, map[string]string{"compression": "zstd", "refquota": "4294967296"}, req.GetNative())

	pv := openEBSPV(t)
	before := pv.DeepCopy()
	out, err := w.snap.SetVolumeID(pv, volumeID)
	require.NoError(t, err)
	assert.Equal(t, before, pv, "the given volume is not changed")

	want := openEBSPV(t)
	want.SetName(name)
	want.SetLabels(map[string]string{LabelVolume: "pvc-1", LabelRun: "run-now"})
	spec := want.Object["spec"].(map[string]any)
	csi := spec["csi"].(map[string]any)
	csi["volumeHandle"] = name
	csi["volumeAttributes"].(map[string]any)["openebs.io/poolname"] = "backup/znvm/k3s"
	spec["nodeAffinity"] = pvFrom(t, "{"+onNode("openebs.io/nodeid", "remote")+"}").Object["nodeAffinity"]
	assert.Equal(t, want, out)

	_, err = w.snap.SetVolumeID(pv, volumeID)
	require.NoError(t, err, "the ZFSVolume is made once")
	zv, err := getZFSVolume(t.Context(), w.kube, "openebs", name)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{
		"ownerNodeID": "remote", "poolName": "backup/znvm/k3s", "capacity": "4294967296",
		"volumeType": "DATASET", "fsType": "zfs", "quotaType": "refquota", "thinProvision": "yes",
	}, zv.Object["spec"])
	assert.Equal(t, map[string]any{"state": "Ready"}, zv.Object["status"])
	assert.Equal(t, []string{OpenEBSFinalizer}, zv.GetFinalizers(), "the dataset goes with a volume that is to be deleted")
	assert.Equal(t, map[string]string{"kubernetes.io/nodename": "remote", LabelVolume: "pvc-1", LabelRun: "run-now"}, zv.GetLabels())
}

func TestSnapshotter_restore_openEBS(t *testing.T) {
	t.Parallel()
	source := zfsVolume("pvc-1", "znvm/k3s", "hassio").(*unstructured.Unstructured)
	source.Object["spec"].(map[string]any)["shared"] = "yes"
	class := func(provisioner string) client.Object {
		return &storagev1api.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Name: "zfs-storage-znvm"},
			Provisioner: provisioner,
			Parameters:  map[string]string{"Shared": "yes", "thinprovision": "no", "recordsize": "16k"},
		}
	}
	tests := []struct {
		name       string
		policy     string
		there      []client.Object
		shared     any
		finalizers []string
	}{
		{name: "the dataset of a retained volume outlives it", policy: "Retain"},
		{name: "the dataset of a volume to be deleted does not", policy: "Delete", finalizers: []string{OpenEBSFinalizer}},
		{name: "the source's own settings are kept in its cluster", policy: "Retain", there: []client.Object{source}, shared: "yes"},
		{name: "those of the class in another", policy: "Retain", there: []client.Object{class(openEBSDriver)}, shared: "yes"},
		{name: "a class of another driver says nothing", policy: "Retain", there: []client.Object{class("ebs.csi.aws.com")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := drWorld(t, drConfig())
			for _, o := range tt.there {
				require.NoError(t, w.kube.Create(t.Context(), o.DeepCopyObject().(client.Object)))
			}
			volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
			require.NoError(t, err)
			pv := openEBSPV(t)
			require.NoError(t, unstructured.SetNestedField(pv.Object, tt.policy, "spec", "persistentVolumeReclaimPolicy"))
			out, err := w.snap.SetVolumeID(pv, volumeID)
			require.NoError(t, err)
			zv, err := getZFSVolume(t.Context(), w.kube, "openebs", out.(*unstructured.Unstructured).GetName())
			require.NoError(t, err)
			spec := zv.Object["spec"].(map[string]any)
			assert.Equal(t, tt.shared, spec["shared"])
			assert.Equal(t, "yes", spec["thinProvision"], "it reserves nothing, whatever the class would have")
			assert.NotContains(t, spec, "recordsize", "the dataset has it")
			assert.Equal(t, tt.finalizers, zv.GetFinalizers())
		})
	}
}

func TestSnapshotter_restore_pathVolume(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?mountpoint=%2Fsrv%2Fdata", "", nil)
	require.NoError(t, err)
	id, err := ParseVolumeID(volumeID)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"mountpoint": "/" + id.Dataset}, w.agents["remote"].made[0].GetNative())

	for _, source := range []string{"local", "hostPath"} {
		pv := pvFrom(t, "{metadata: {name: pv}, spec: {"+source+": {path: /srv/data, type: Directory}, "+onNode("kubernetes.io/hostname", "hassio")+"}}")
		out, err := w.snap.SetVolumeID(pv, volumeID)
		require.NoError(t, err)
		got, _, _ := unstructured.NestedMap(out.UnstructuredContent(), "spec", source)
		assert.Equal(t, map[string]any{"path": "/" + id.Dataset, "type": "Directory"}, got)
		typed, err := toPV(out)
		require.NoError(t, err)
		assert.Equal(t, "remote", pinnedTo(typed))
	}
}

func TestSnapshotter_restore_zvol(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	w.agents["remote"].datasets["backup/replica/"+volDataset].Type = typeVolume
	volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "volume?refreservation=1107820544&volsize=1073741824", "", nil)
	require.NoError(t, err)
	id, _ := ParseVolumeID(volumeID)
	assert.Equal(t, map[string]string{"volsize": "1073741824", "refreservation": "1107820544"}, w.agents["remote"].made[0].GetNative())

	pv := openEBSPV(t)
	require.NoError(t, unstructured.SetNestedField(pv.Object, "ext4", "spec", "csi", "fsType"))
	out, err := w.snap.SetVolumeID(pv, volumeID)
	require.NoError(t, err)
	zv, err := getZFSVolume(t.Context(), w.kube, "openebs", out.(*unstructured.Unstructured).GetName())
	require.NoError(t, err)
	assert.Equal(t, "ZVOL", zv.Object["spec"].(map[string]any)["volumeType"])
	assert.Equal(t, "ext4", zv.Object["spec"].(map[string]any)["fsType"])
	assert.Equal(t, "no", zv.Object["spec"].(map[string]any)["thinProvision"])

	block := pvFrom(t, "{metadata: {name: pv}, spec: {volumeMode: Block, local: {path: /dev/zvol/znvm/k3s/pvc-1}, "+onNode("kubernetes.io/hostname", "hassio")+"}}")
	out, err = w.snap.SetVolumeID(block, volumeID)
	require.NoError(t, err)
	got, _, _ := unstructured.NestedString(out.UnstructuredContent(), "spec", "local", "path")
	assert.Equal(t, "/dev/zvol/"+id.Dataset, got)
}

// Velero makes no volume of what can not be described, and nobody would find what
// was made for it.
func TestSnapshotter_SetVolumeID_leavesNothing(t *testing.T) {
	t.Parallel()
	taken := func(w *world, volumeID string) {
		id, err := ParseVolumeID(volumeID)
		require.NoError(t, err)
		require.NoError(t, w.kube.Create(t.Context(), zfsVolume(path.Base(id.Dataset), "another/pool", "remote")))
	}
	tests := []struct {
		name   string
		before func(w *world, volumeID string)
		want   string
		stays  bool
	}{
		{name: "another ZFSVolume of its name", want: "; the volume that was made for it is gone again"},
		{
			name: "which a PersistentVolume has",
			before: func(w *world, volumeID string) {
				id, _ := ParseVolumeID(volumeID)
				require.NoError(t, w.kube.Create(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: path.Base(id.Dataset)}}))
			},
			want: "; the volume that was made for it stays: destroy backup/znvm/k3s/pvc-1-", stays: true,
		},
		{
			name: "which is of another restore",
			before: func(w *world, volumeID string) {
				id, _ := ParseVolumeID(volumeID)
				w.agents["remote"].datasets[id.Dataset].Properties[PropRestore] = "other"
			},
			want: "not the same", stays: true,
		},
		{
			name:   "whose agent does not answer",
			before: func(w *world, _ string) { w.agents["remote"].down = true },
			want:   "connection refused", stays: true,
		},
		{
			name:   "which this process has not made",
			before: func(w *world, _ string) { w.snap.made.Clear() },
			want:   `it exists with poolName "another/pool"`, stays: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := drWorld(t, drConfig())
			volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
			require.NoError(t, err)
			taken(w, volumeID)
			if tt.before != nil {
				tt.before(w, volumeID)
			}
			_, err = w.snap.SetVolumeID(openEBSPV(t), volumeID)
			require.ErrorContains(t, err, tt.want)
			id, _ := ParseVolumeID(volumeID)
			assert.Equal(t, tt.stays, w.agents["remote"].datasets[id.Dataset] != nil)
		})
	}
}

// A rehearsal says so, and so may who restores where there is no room.
func TestSnapshotter_restore_thin(t *testing.T) {
	t.Parallel()
	for _, mark := range []func(*velerov1api.Restore, map[string]string){
		func(r *velerov1api.Restore, m map[string]string) { r.Annotations = m },
		func(r *velerov1api.Restore, m map[string]string) { r.Labels = m },
	} {
		restore := restoreObject("now", velerov1api.RestorePhaseInProgress)
		mark(restore, map[string]string{AnnotationThin: "true"})
		w := newWorld(t, drConfig(), restore)
		w.agents["remote"].datasets["backup/replica/"+volDataset] = filesystem("backup/replica/" + volDataset)
		w.agents["remote"].add("backup/replica/"+volDataset, 42, "dr-nightly")
		volumeID, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?quota=4096&refreservation=4096&reservation=4096", "", nil)
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"quota": "4096"}, w.agents["remote"].made[0].GetNative())
		out, err := w.snap.SetVolumeID(openEBSPV(t), volumeID)
		require.NoError(t, err)
		zv, err := getZFSVolume(t.Context(), w.kube, "openebs", out.(*unstructured.Unstructured).GetName())
		require.NoError(t, err)
		assert.Equal(t, "yes", zv.Object["spec"].(map[string]any)["thinProvision"])
	}
}

func TestSnapshotter_restore_noRoom(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	w.agents["remote"].full = true
	_, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?refreservation=4096", "", nil)
	require.ErrorContains(t, err, "out of space (its source reserves space; make room in the pool, or restore with the label kubectl-dr.io/thin=true to reserve none)")
	_, err = w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
	require.ErrorContains(t, err, "out of space")
	assert.NotContains(t, err.Error(), AnnotationThin, "it would not help")
}

func TestSnapshotter_restore_where(t *testing.T) {
	t.Parallel()
	shared := func() map[string]string {
		c := primaryConfig()
		c[KeyRestoreParents] = "znvm/k3s=backup/znvm/k3s"
		return c
	}
	archived := func() map[string]string {
		c := shared()
		c[KeyArchive] = "offsite"
		return c
	}
	tests := []struct {
		name       string
		config     map[string]string
		atSource   bool
		sourceDown bool
		noReplica  bool
		want       string
		wantMode   string // clone unless given
		wantErr    string
	}{
		{name: "by clone while there is a replica, archive or not", config: archived(), want: `^zfs1:remote:backup/znvm/k3s/pvc-1-`},
		{name: "from the archive beside its source", config: archived(), noReplica: true, want: `^zfs1:hassio:znvm/k3s/pvc-1-`, wantMode: modeArchive},
		{name: "from the archive on the target when the source does not answer", config: archived(), noReplica: true, sourceDown: true, want: `^zfs1:remote:backup/znvm/k3s/pvc-1-`, wantMode: modeArchive},
		{
			name:      "from the archive on the recovery site alone",
			config:    map[string]string{KeyAgents: "remote=r:1", KeyRestoreNode: "remote", KeyRestoreParents: "znvm/k3s=fast/k3s", KeyArchive: "offsite"},
			noReplica: true, want: `^zfs1:remote:fast/k3s/pvc-1-`, wantMode: modeArchive,
		},
		{name: "nowhere without a replica or an archive", config: shared(), noReplica: true, wantErr: "find snapshot with guid 42 on node remote"},
		{name: "on its own node while that has the snapshot", config: shared(), atSource: true, want: `^zfs1:hassio:znvm/k3s/pvc-1-`},
		{name: "on the target when the source has lost it", config: shared(), want: `^zfs1:remote:backup/znvm/k3s/pvc-1-`},
		{name: "on the target when the source does not answer", config: shared(), atSource: true, sourceDown: true, want: `^zfs1:remote:backup/znvm/k3s/pvc-1-`},
		{name: "nowhere without a parent", config: primaryConfig(), wantErr: `restoreParents has no entry for "znvm/k3s"`},
		{
			name:    "not across pools by clone",
			config:  map[string]string{KeyAgents: "remote=r:1", KeyRestoreNode: "remote", KeyRestoreParents: "znvm/k3s=fast/k3s"},
			wantErr: "a clone stays in the pool of its snapshot",
		},
		{
			name:   "across pools by copy",
			config: map[string]string{KeyAgents: "remote=r:1", KeyRestoreNode: "remote", KeyRestoreParents: "znvm/k3s=fast/k3s", KeyRestoreMode: ModeCopy},
			want:   `^zfs1:remote:fast/k3s/pvc-1-`, wantMode: ModeCopy,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := drWorld(t, tt.config)
			if tt.atSource {
				w.agents["hassio"].add(volDataset, 42, "dr-nightly")
			}
			w.agents["hassio"].down = tt.sourceDown
			if tt.noReplica {
				w.agents["remote"].versions = map[string][]*agentpb.Version{}
			}
			id, err := w.snap.CreateVolumeFromSnapshot(snapID, "filesystem?refquota=4294967296", "", nil)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Regexp(t, tt.want, id)
			made := slices.Concat(w.agents["hassio"].made, w.agents["remote"].made)
			require.Len(t, made, 1)
			assert.Equal(t, cmp.Or(tt.wantMode, ModeClone), made[0].GetMode())
			assert.Equal(t, uint64(42), made[0].GetGuid())
			assert.Equal(t, "4294967296", made[0].GetNative()["refquota"])
			assert.Equal(t, tt.wantMode == modeArchive, made[0].GetArchive() == "offsite")
			assert.Equal(t, tt.wantMode == modeArchive, made[0].GetSnapshot() == "")
		})
	}
}

func TestSnapshotter_DeleteSnapshot_archived(t *testing.T) {
	t.Parallel()
	config := primaryConfig()
	config[KeyArchive] = "offsite"
	w := newWorld(t, config)
	source := w.agents["hassio"]
	w.agents["remote"].down = true
	remove := func(name string, guid uint64) {
		t.Helper()
		id := SnapshotID{Node: "hassio", Dataset: volDataset, Snapshot: name, GUID: guid, Created: time.Unix(1, 0)}
		require.NoError(t, w.snap.DeleteSnapshot(id.String()))
	}
	source.archiveDown = true
	remove("a", 1)
	assert.Equal(t, map[string]string{names.PropExpired + "1": "remote", names.PropArchiveExpired + "1": "offsite"},
		source.datasets[volDataset].GetProperties(), "for each of the two")

	source.archiveDown, source.based = false, map[uint64]bool{2: true}
	w.agents["remote"].down = false
	remove("b", 2)
	assert.Equal(t, map[string]string{names.PropArchiveExpired + "2": "offsite"}, source.datasets[volDataset].GetProperties(), "another is based on it")

	source.based = nil
	remove("c", 3)
	assert.Empty(t, source.datasets[volDataset].GetProperties())
	assert.Equal(t, [][]uint64{{2, 1}, {3, 2}}, source.expired, "a chain goes as a whole")
}

func TestSnapshotter_CreateVolumeFromSnapshot_fails(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	_, err := w.snap.CreateVolumeFromSnapshot("", "filesystem", "", nil)
	require.ErrorContains(t, err, "the backup has no snapshot of it")
	_, err = w.snap.CreateVolumeFromSnapshot("snap-1", "filesystem", "", nil)
	require.ErrorIs(t, err, ErrInvalidID)
	_, err = w.snap.CreateVolumeFromSnapshot("zfs1:hassio:7:1:znvm/k3s/pvc-1@dr-x", "filesystem", "", nil)
	require.ErrorContains(t, err, "find snapshot with guid 7 on node remote")

	w.snap.Admit = func(r *velerov1api.Restore) error { return fmt.Errorf("%s is refused", r.Name) }
	_, err = w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
	require.ErrorContains(t, err, "now is refused")
	assert.Empty(t, w.agents["remote"].made)

	require.NoError(t, w.kube.Create(t.Context(), restoreObject("second", velerov1api.RestorePhaseInProgress)))
	_, err = w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
	require.ErrorContains(t, err, `find the restore in progress: namespace velero has 2, not 1: ["now" "second"]`)
}

func TestRestoredName(t *testing.T) {
	t.Parallel()
	restore := restoreObject("now", velerov1api.RestorePhaseInProgress)
	tests := []struct{ name, dataset, want string }{
		{"keeps a plain name", "znvm/k3s/pvc-1", `^pvc-1-[0-9a-f]{8}$`},
		{"keeps the end of a uuid", "znvm/pvc-73402f6e-d054-4ec2-95a4-eb8452724afb", `^pvc-73402f6e-d054-4ec2-95a4-eb8452724afb-[0-9a-f]{8}$`},
		{"replaces the suffix of an earlier restore", "backup/pvc-1-0123abcd", `^pvc-1-[0-9a-f]{8}$`},
		{"makes a name that objects can have", "tank/My_Data:1", `^my-data-1-[0-9a-f]{8}$`},
		{"has a name for what has none", "tank/___", `^volume-[0-9a-f]{8}$`},
		{"fits a label", "tank/" + fmt.Sprintf("%0200d", 1), `^0{54}-[0-9a-f]{8}$`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := restoredName(SnapshotID{Dataset: tt.dataset, GUID: 42}, restore)
			assert.Regexp(t, tt.want, got)
			assert.Empty(t, validation.IsDNS1123Subdomain(got))
		})
	}
	id := SnapshotID{Dataset: "a/b", GUID: 42}
	other := SnapshotID{Dataset: "a/b", GUID: 43}
	assert.NotEqual(t, restoredName(id, restore), restoredName(other, restore))
	assert.NotEqual(t, restoredName(id, restore), restoredName(id, restoreObject("next", velerov1api.RestorePhaseInProgress)))
}

func TestSnapshotter_SetVolumeID_fails(t *testing.T) {
	t.Parallel()
	w := drWorld(t, drConfig())
	var volumeID string
	again := func() {
		var err error
		volumeID, err = w.snap.CreateVolumeFromSnapshot(snapID, "filesystem", "", nil)
		require.NoError(t, err)
	}
	again()
	_, err := w.snap.SetVolumeID(pvFrom(t, "{metadata: {name: pv}, spec: {awsElasticBlockStore: {volumeID: vol-1}}}"), volumeID)
	require.ErrorContains(t, err, "of a kind this plugin does not know")
	_, err = w.snap.SetVolumeID(openEBSPV(t), "zfs1:remote:backup/none")
	require.ErrorContains(t, err, "look up backup/none on node remote")
	again()
	_, err = w.snap.SetVolumeID(pvFrom(t, "{metadata: {name: pv}, spec: {local: {path: /srv/data}}}"), volumeID)
	require.ErrorContains(t, err, `has mountpoint "legacy", so no path leads to it`)

	again()
	id, _ := ParseVolumeID(volumeID)
	require.NoError(t, w.kube.Create(t.Context(), zfsVolume(id.Dataset[len("backup/znvm/k3s/"):], "other/pool", "remote")))
	_, err = w.snap.SetVolumeID(openEBSPV(t), volumeID)
	require.ErrorContains(t, err, `it exists with poolName "other/pool", not "backup/znvm/k3s"`)
}

func TestVolumeType_roundTrip(t *testing.T) {
	t.Parallel()
	for _, ds := range []*agentpb.Dataset{
		{Type: typeFilesystem, Mountpoint: "legacy"},
		{Type: typeFilesystem, Mountpoint: "/srv/a&b=c d", Native: map[string]string{"recordsize": "16384", "compression": "zstd-3"}},
		{Type: typeVolume, Native: map[string]string{"volsize": "1073741824"}},
	} {
		want := volumeTypeOf(ds)
		got, err := parseVolumeType(want.String())
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := parseVolumeType("gp3")
	require.Error(t, err)
}

func TestSite_Replicate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, primaryConfig())
	vol := VolumeID{Node: "hassio", Dataset: volDataset}
	_, err := w.site(t).Replicate(t.Context(), vol, "dr-nightly")
	require.ErrorIs(t, err, ErrNoSnapshot)

	w.agents["hassio"].add(volDataset, 42, "#dr-nightly")
	_, err = w.site(t).Replicate(t.Context(), vol, "dr-nightly")
	require.ErrorIs(t, err, ErrNoSnapshot, "a bookmark has no data to send")

	w.agents["hassio"].add(volDataset, 42, "dr-nightly")
	_, err = w.site(t).Replicate(t.Context(), vol, "dr-nightly")
	require.NoError(t, err)
	req := w.agents["hassio"].copied[0]
	assert.Equal(t, "remote 127.0.0.1:31002 backup/replica/znvm/k3s/pvc-1 42",
		fmt.Sprint(req.GetTargetNode(), " ", req.GetTargetAddress(), " ", req.GetTargetDataset(), " ", req.GetGuid()))

	w.agents["hassio"].down = true
	_, err = w.site(t).Replicate(t.Context(), vol, "dr-nightly")
	require.True(t, Unreachable(err))
}

func TestSite_Copies(t *testing.T) {
	t.Parallel()
	config := primaryConfig()
	config[KeyArchive] = "offsite"
	w := newWorld(t, config)
	w.agents["hassio"].add(volDataset, 42, "dr-nightly")
	vol := VolumeID{Node: "hassio", Dataset: volDataset}
	copies := w.site(t).Copies(t.Context(), vol, "dr-nightly")
	require.Len(t, copies, 2)
	assert.Equal(t, "remote:backup/replica/znvm/k3s/pvc-1", copies[0].To)
	assert.Equal(t, "t1", copies[0].Transfer.GetId())
	assert.Equal(t, "archive offsite", copies[1].To)
	assert.Equal(t, "t2", copies[1].Transfer.GetId())
	req := w.agents["hassio"].archived[0]
	assert.Equal(t, "offsite znvm/k3s/pvc-1@dr-nightly 42", fmt.Sprintf("%s %s@%s %d", req.GetArchive(), req.GetDataset(), req.GetSnapshot(), req.GetGuid()))

	for _, c := range w.site(t).Copies(t.Context(), vol, "dr-other") {
		require.ErrorIs(t, c.Err, ErrNoSnapshot)
	}
}
