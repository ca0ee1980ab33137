package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const vol = "backup/dr/vol"

// withVolume is a world with a replica and a clone of it.
func withVolume(t *testing.T) (*world, *agentpb.Dataset) {
	t.Helper()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.done(t, v)
	ds, err := w.far.CreateVolume(t.Context(), &agentpb.CreateVolumeRequest{
		Snapshot: replica + "@dr-b1", Guid: v.GetGuid(), Dataset: vol, Mode: zfssnap.ModeClone,
		Properties: map[string]string{zfssnap.PropRun: "run-1"},
	})
	require.NoError(t, err)
	return w, ds
}

// lines are dependents in short.
func lines(ds []*agentpb.Dependent) (short []string) {
	for _, d := range ds {
		line := d.GetKind() + " " + d.GetName()
		if d.GetOurs() {
			line += " ours"
		}
		if d.GetReason() != "" {
			line += ": " + d.GetReason()
		}
		short = append(short, line)
	}
	return short
}

func TestDestroyVolume_showsWhatWouldGo(t *testing.T) {
	t.Parallel()
	w, _ := withVolume(t)
	ours := map[string]string{zfssnap.PropManaged: "true"}
	for _, name := range []string{vol + "/child", vol + "/theirs"} {
		require.NoError(t, w.remote.zfs.Create(t.Context(), name, zfs.CreateOptions{}))
	}
	require.NoError(t, w.remote.zfs.Set(t.Context(), vol+"/child", ours))
	require.NoError(t, w.remote.zfs.Snapshot(t.Context(), []string{vol + "@a", vol + "/child@a"}, ours))
	require.NoError(t, w.remote.zfs.Snapshot(t.Context(), []string{vol + "@mine"}, nil))
	require.NoError(t, w.remote.zfs.Hold(t.Context(), "keep", vol+"@a"))
	require.NoError(t, w.remote.zfs.Bookmark(t.Context(), vol+"@a", vol+"#a"))
	require.NoError(t, w.remote.zfs.Clone(t.Context(), vol+"@a", "backup/clone", nil))
	before := w.remote.pool.Names()

	req := &agentpb.DestroyVolumeRequest{Dataset: vol, Match: map[string]string{zfssnap.PropRun: "run-1"}, WithDependents: true, DryRun: true}
	plan, err := w.far.DestroyVolume(t.Context(), req)
	require.NoError(t, err)
	assert.True(t, plan.GetExisted())
	assert.Equal(t, []string{
		"snapshot " + vol + "/child@a ours", "filesystem " + vol + "/child ours",
		"snapshot " + vol + "@a ours", "bookmark " + vol + "#a", "filesystem " + vol + " ours",
	}, lines(plan.GetGoes()))
	assert.Equal(t, []string{
		"filesystem " + vol + "/theirs: not made by kubectl-dr",
		"clone backup/clone: a clone of " + vol + "@a",
		"hold keep: holds " + vol + "@a",
		"snapshot " + vol + "@mine: not made by kubectl-dr",
	}, lines(plan.GetBlocks()))

	req.DryRun = false
	_, err = w.far.DestroyVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrHasChildren)
	assert.ErrorContains(t, err, "clone backup/clone (a clone of "+vol+"@a)")
	assert.Equal(t, before, w.remote.pool.Names(), "nothing was destroyed")

	require.NoError(t, w.remote.zfs.Destroy(t.Context(), vol+"/theirs", zfs.DestroyOptions{}))
	_, err = w.far.DestroyVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrHasClones)
	require.NoError(t, w.remote.zfs.Destroy(t.Context(), "backup/clone", zfs.DestroyOptions{}))
	_, err = w.far.DestroyVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrHeld)
	require.NoError(t, w.remote.zfs.Release(t.Context(), "keep", vol+"@a"))
	require.NoError(t, w.remote.zfs.DestroySnapshots(t.Context(), vol, []string{"mine"}, false))

	req.WithDependents = false
	_, err = w.far.DestroyVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrHasChildren, "what depends on it goes only when that is asked for")
	req.WithDependents = true
	done, err := w.far.DestroyVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Len(t, done.GetGoes(), 5)
	assert.Equal(t, []string{"backup", "backup/dr", "backup/replica", "backup/replica/znvm", "backup/replica/znvm/k3s", replica, replica + "@dr-b1"}, w.remote.pool.Names())
}

func TestDestroySnapshot_saysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	w, _ := withVolume(t)
	v, err := w.remote.zfs.Lookup(t.Context(), replica+"@dr-b1")
	require.NoError(t, err)
	resp, err := w.far.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: replica, Name: "dr-b1", Guid: v.GUID})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"clone " + vol + ": a clone of " + replica + "@dr-b1",
		"hold kubectl-dr:replica ours: holds " + replica + "@dr-b1",
	}, lines(resp.GetWaitsFor()))
}

func TestPromoteVolume(t *testing.T) {
	t.Parallel()
	w, _ := withVolume(t)
	req := &agentpb.PromoteVolumeRequest{Dataset: vol, Match: map[string]string{zfssnap.PropRun: "run-1"}}
	_, err := w.far.PromoteVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrMismatch)
	assert.ErrorContains(t, err, "it is a clone of "+replica+", which would lose its snapshots to it")

	req.Origin = replica
	req.DryRun = true
	plan, err := w.far.PromoteVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, []string{"snapshot " + replica + "@dr-b1 ours"}, lines(plan.GetMoves()))
	assert.Equal(t, []string{"replica " + replica + " ours: it could receive no more from hassio:" + source + "; fence it first"}, lines(plan.GetBlocks()))
	req.DryRun = false
	_, err = w.far.PromoteVolume(t.Context(), req)
	require.ErrorContains(t, err, "fence it first")
	w.done(t, w.snapshot(t, "b2"))

	_, err = w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: "run-1"}})
	require.NoError(t, err)
	require.NoError(t, w.remote.zfs.Snapshot(t.Context(), []string{vol + "@dr-b1"}, nil))
	_, err = w.far.PromoteVolume(t.Context(), req)
	require.ErrorContains(t, err, vol+" has one of that name")
	require.NoError(t, w.remote.zfs.DestroySnapshots(t.Context(), vol, []string{"dr-b1"}, false))

	for range 2 {
		resp, err := w.far.PromoteVolume(t.Context(), req)
		require.NoError(t, err, "asked again, it is done already")
		assert.Empty(t, resp.GetDataset().GetOrigin())
	}
	assert.Contains(t, w.remote.pool.Names(), vol+"@dr-b1")
	d, err := w.remote.zfs.Dataset(t.Context(), replica)
	require.NoError(t, err)
	assert.Equal(t, vol+"@dr-b1", d.Origin)

	_, err = w.far.PromoteVolume(t.Context(), &agentpb.PromoteVolumeRequest{Dataset: replica, Origin: vol})
	require.ErrorIs(t, err, agent.ErrMismatch, "a replica is no volume")
	_, err = w.far.PromoteVolume(t.Context(), &agentpb.PromoteVolumeRequest{Dataset: "backup"})
	require.ErrorIs(t, err, agent.ErrForeign)
}

func TestRenameVolume(t *testing.T) {
	t.Parallel()
	w, ds := withVolume(t)
	const to = "backup/k3s/wordpress"
	req := &agentpb.RenameVolumeRequest{Dataset: vol, Guid: ds.GetGuid(), To: to, Match: map[string]string{zfssnap.PropRun: "run-1"}}
	refused := func(err error, change func(*agentpb.RenameVolumeRequest)) {
		t.Helper()
		changed := &agentpb.RenameVolumeRequest{Dataset: req.Dataset, Guid: req.Guid, To: req.To, Match: req.Match}
		change(changed)
		_, got := w.far.RenameVolume(t.Context(), changed)
		require.ErrorIs(t, got, err)
	}
	refused(agent.ErrInvalid, func(r *agentpb.RenameVolumeRequest) { r.To = "other/a" })
	refused(agent.ErrInvalid, func(r *agentpb.RenameVolumeRequest) { r.To = vol + "/a" })
	refused(agent.ErrMismatch, func(r *agentpb.RenameVolumeRequest) { r.Guid++ })
	refused(agent.ErrMismatch, func(r *agentpb.RenameVolumeRequest) { r.Match = map[string]string{zfssnap.PropRun: "run-2"} })
	refused(agent.ErrNotFound, func(r *agentpb.RenameVolumeRequest) { r.Dataset = "backup/none" })
	refused(agent.ErrExists, func(r *agentpb.RenameVolumeRequest) { r.To = "backup/replica" })
	require.NoError(t, w.remote.zfs.Create(t.Context(), vol+"/child", zfs.CreateOptions{}))
	refused(agent.ErrHasChildren, func(*agentpb.RenameVolumeRequest) {})
	require.NoError(t, w.remote.zfs.Destroy(t.Context(), vol+"/child", zfs.DestroyOptions{}))

	for range 2 {
		got, err := w.far.RenameVolume(t.Context(), req)
		require.NoError(t, err, "asked again, it is done already")
		assert.Equal(t, to, got.GetName())
		assert.Equal(t, ds.GetGuid(), got.GetGuid())
	}
	assert.NotContains(t, w.remote.pool.Names(), vol)
}
