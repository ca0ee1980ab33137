package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

const (
	moved     = "backup/k3s/pvc-1-0a1b2c3d" // the volume that a failover made
	wayBack   = "znvm/replica/" + moved     // its replica at the old source
	recovered = "znvm/k3s/pvc-1-4e5f6a7b"   // what a failback makes of that
)

// failedOver is a world after a failover: the volume runs on remote, made from
// the copy of a snapshot, and the source has gone on by itself meanwhile.
func failedOver(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.hassio.policy.Identities = append(w.hassio.policy.Identities,
		agent.Grant{Name: "remote", Verbs: []agent.Verb{agent.Receive}, Prefixes: []string{"znvm/replica"}})
	w.hassio.restart(t, nil)
	common := w.snapshot(t, "b1")
	w.done(t, common)
	makeVolume(t, w.far, replica+"@dr-b1", common.GetGuid(), moved)
	_, err := w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: "run-1"}})
	require.NoError(t, err)
	require.NoError(t, w.remote.pool.Write(moved, "since", random(64<<10)))

	require.NoError(t, w.hassio.pool.Write(source, "diverged", random(32<<10)))
	w.snapshot(t, "b2")
	require.NoError(t, w.hassio.pool.Write(source, "diverged later", random(16<<10)))
	return w
}

func makeVolume(t *testing.T, c *agent.Client, snapshot string, guid uint64, dataset string) {
	t.Helper()
	_, err := c.CreateVolume(t.Context(), &agentpb.CreateVolumeRequest{Snapshot: snapshot, Guid: guid, Dataset: dataset, Mode: agent.ModeClone})
	require.NoError(t, err)
}

// back takes a snapshot of the moved volume and sends it to the old source.
func (w *world) back(t *testing.T, backup string) *agentpb.Transfer {
	t.Helper()
	tr := w.tryBack(t, backup)
	require.NoError(t, agent.TransferError(tr))
	return tr
}

func (w *world) tryBack(t *testing.T, backup string) *agentpb.Transfer {
	t.Helper()
	resp, err := w.far.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{moved}, Name: "dr-" + backup, Properties: map[string]string{zfssnap.PropBackup: backup},
	})
	require.NoError(t, err)
	tr, err := w.far.Replicate(t.Context(), &agentpb.ReplicateRequest{
		Dataset: moved, Snapshot: "dr-" + backup, Guid: resp.GetSnapshots()[0].GetGuid(),
		TargetNode: "hassio", TargetAddress: w.hassio.addr, TargetDataset: wayBack,
	})
	require.NoError(t, err)
	client := w.client
	w.client = w.far
	defer func() { w.client = client }()
	return w.wait(t, tr.GetId())
}

func TestReplicate_backSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := failedOver(t)
	before, err := w.hassio.zfs.Versions(t.Context(), source)
	require.NoError(t, err)

	tr := w.back(t, "b3")
	assert.Equal(t, replica+"@dr-b1", tr.GetBase(), "it starts from the snapshot that the volume was made from")
	assert.Less(t, tr.GetBytesSent(), uint64(128<<10))
	ds, err := w.hassio.zfs.Dataset(t.Context(), wayBack)
	require.NoError(t, err)
	assert.Equal(t, source+"@dr-b1", ds.Origin)
	assert.True(t, ds.ReadOnly)
	got, err := w.hassio.pool.Files(wayBack + "@dr-b3")
	require.NoError(t, err)
	want, err := w.remote.pool.Files(moved)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	// What diverged is as it was, in its own dataset.
	after, err := w.hassio.zfs.Versions(t.Context(), source)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	live, err := w.hassio.pool.Files(source)
	require.NoError(t, err)
	assert.Contains(t, live, "diverged later")
	for _, c := range w.hassio.pool.Commands() {
		assert.NotContains(t, c, "-F")
		assert.NotContains(t, c, "rollback")
	}

	require.NoError(t, w.remote.pool.Write(moved, "more", random(16<<10)))
	tr = w.back(t, "b4")
	assert.Equal(t, moved+"@dr-b3", tr.GetBase())
	assert.Less(t, tr.GetBytesSent(), uint64(32<<10))
}

func TestReplicate_thereAgainSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := failedOver(t)
	w.back(t, "b3")
	v, err := w.hassio.zfs.Lookup(t.Context(), wayBack+"@dr-b3")
	require.NoError(t, err)
	makeVolume(t, w.client, v.FullName(), v.GUID, recovered)
	require.NoError(t, w.hassio.pool.Write(recovered, "home", random(8<<10)))
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{recovered}, Name: "dr-b5"})
	require.NoError(t, err)
	tr := w.done(t, resp.GetSnapshots()[0])
	assert.Equal(t, wayBack+"@dr-b3", tr.GetBase())
	assert.Less(t, tr.GetBytesSent(), uint64(16<<10))
	w.requireSame(t, resp.GetSnapshots()[0])
}

func TestReplicate_backWithoutTheCommonSnapshotSendsAll(t *testing.T) {
	t.Parallel()
	w := failedOver(t)
	require.NoError(t, w.hassio.zfs.Release(t.Context(), zfssnap.HoldTag("backup"), source+"@dr-b1"))
	require.NoError(t, w.hassio.zfs.Release(t.Context(), zfssnap.HoldTag("replication"), source+"@dr-b1"))
	require.NoError(t, w.hassio.zfs.DestroySnapshots(t.Context(), source, []string{"dr-b1"}, false))
	tr := w.back(t, "b3")
	assert.Empty(t, tr.GetBase())
	assert.Greater(t, tr.GetBytesSent(), uint64(1<<20))
}

func TestReplicate_backGoesOnWhereItWasCut(t *testing.T) {
	t.Parallel()
	w := failedOver(t)
	require.NoError(t, w.remote.pool.Write(moved, "large", random(1<<20)))
	w.hassio.pool.Cut("receive", 600<<10)
	require.Error(t, agent.TransferError(w.tryBack(t, "b3")))
	w.tryBack(t, "b3") // a failure is said twice: by the transfer, and once to whoever asks for it again
	tr := w.back(t, "b3")
	assert.True(t, tr.GetResumed())
	ds, err := w.hassio.zfs.Dataset(t.Context(), wayBack)
	require.NoError(t, err)
	assert.Equal(t, source+"@dr-b1", ds.Origin)
}

func TestDestroySnapshot_ofAFencedReplicaIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, b := range []string{"b1", "b2"} {
		w.done(t, w.snapshot(t, b))
	}
	set := func(by string) {
		_, err := w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: by}})
		require.NoError(t, err)
	}
	set("run-1")
	_, err := w.far.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: replica, Name: "dr-b1"})
	require.ErrorIs(t, err, agent.ErrFenced, "a source that comes back expires nothing")
	w.remote.props(t, replica+"@dr-b1")
	set("")
	resp, err := w.far.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: replica, Name: "dr-b1"})
	require.NoError(t, err)
	assert.True(t, resp.GetExisted())
}
