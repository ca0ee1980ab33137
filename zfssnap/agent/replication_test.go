package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agenttest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func TestReplicate_fullThenIncremental(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	tr := w.done(t, first)
	assert.Empty(t, tr.GetBase())
	assert.Greater(t, tr.GetBytesSent(), uint64(1<<20))
	assert.Equal(t, tr.GetBytesSent(), tr.GetBytesTotal(), "what was an estimate is known when it is done")
	w.requireSame(t, first)

	ds, err := w.far.ResolveDataset(t.Context(), &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: replica}})
	require.NoError(t, err)
	assert.True(t, ds.GetReadonly())
	assert.False(t, ds.GetMounted())
	assert.Equal(t, map[string]string{zfssnap.PropManaged: "true", zfssnap.PropSource: "hassio:" + source, zfssnap.PropStream: "Lce"}, ds.GetProperties())
	assert.Equal(t, map[string]string{zfssnap.PropManaged: "true", zfssnap.PropSource: "hassio:" + source, zfssnap.PropBackup: "b1"},
		w.remote.props(t, replica+"@dr-b1"))
	parent, err := w.remote.zfs.Get(t.Context(), "backup/replica/znvm/k3s", "canmount", "mountpoint", zfssnap.PropManaged)
	require.NoError(t, err)
	assert.Equal(t, "off", parent["canmount"].Value)
	assert.Equal(t, zfs.Property{Value: "none", Source: zfs.SourceLocal}, parent["mountpoint"])
	assert.Equal(t, zfs.Property{Value: "true", Source: zfs.SourceLocal}, parent[zfssnap.PropManaged])

	require.NoError(t, w.hassio.pool.Write(source, "more", random(64<<10)))
	second := w.snapshot(t, "b2")
	tr = w.done(t, second)
	assert.Equal(t, source+"@dr-b1", tr.GetBase())
	assert.Less(t, tr.GetBytesSent(), uint64(128<<10), "only what changed is sent")
	w.requireSame(t, second)
	w.requireSame(t, first)

	// Both sides keep what the next increment needs, and no more.
	assert.ElementsMatch(t, []string{"kubectl-dr:backup"}, w.hassio.holds(t, source+"@dr-b1"))
	assert.ElementsMatch(t, []string{"kubectl-dr:backup", "kubectl-dr:replication"}, w.hassio.holds(t, source+"@dr-b2"))
	assert.Empty(t, w.remote.holds(t, replica+"@dr-b1"))
	assert.Equal(t, []string{"kubectl-dr:replica"}, w.remote.holds(t, replica+"@dr-b2"))
	assert.Equal(t, []uint64{second.GetGuid()}, w.hassio.bookmarks(t, source))

	sent, received := w.hassio.events.take(), w.remote.events.take()
	require.Len(t, sent, 2)
	require.Len(t, received, 2)
	assert.Equal(t, sent[1].Bytes, received[1].Bytes)
	assert.Equal(t, "remote", sent[1].Peer)
	assert.Equal(t, "hassio", received[1].Peer)
}

func TestReplicate_volume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const vol = "nas/k3s/pvc-2"
	require.NoError(t, w.hassio.zfs.Create(t.Context(), vol, zfs.CreateOptions{Parents: true, VolumeSize: 1 << 20, Sparse: true}))
	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{vol + "@a"}, nil))
	v, err := w.hassio.zfs.Lookup(t.Context(), vol+"@a")
	require.NoError(t, err)
	w.done(t, &agentpb.Version{Dataset: vol, Name: "a", Guid: v.GUID})
	got, err := w.remote.zfs.Get(t.Context(), "backup/replica/"+vol, "volmode", "refreservation", "readonly", "volsize")
	require.NoError(t, err)
	assert.Equal(t, "none", got["volmode"].Value)
	assert.Equal(t, "on", got["readonly"].Value)
	assert.Equal(t, "1048576", got["volsize"].Value)
}

func TestReplicate_encryptedTravelsRaw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const enc = "znvm/secret"
	require.NoError(t, w.hassio.zfs.Create(t.Context(), enc, zfs.CreateOptions{Properties: map[string]string{
		"encryption": "on", "keyformat": "raw", "keylocation": "file:///etc/key",
	}}))
	require.NoError(t, w.hassio.pool.Write(enc, "f", random(1000)))
	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{enc + "@a"}, nil))
	w.hassio.pool.SetKeyLoaded(enc, false)
	v, err := w.hassio.zfs.Lookup(t.Context(), enc+"@a")
	require.NoError(t, err)
	w.done(t, &agentpb.Version{Dataset: enc, Name: "a", Guid: v.GUID})
	for _, c := range w.hassio.pool.Commands() {
		if c[1] == "send" {
			assert.Contains(t, c, "-w")
			assert.NotContains(t, c, "-L")
		}
	}
	ds, err := w.remote.zfs.Dataset(t.Context(), "backup/replica/"+enc)
	require.NoError(t, err)
	assert.Equal(t, "unavailable", ds.KeyStatus, "the key stays at the source")
}

func TestReplicate_isIdempotent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	first := w.done(t, v)
	again := w.done(t, v)
	assert.Equal(t, first, again, "while it is remembered, the same state is returned")

	w.hassio.clock.advance(61 * time.Minute)
	again = w.done(t, v)
	assert.Equal(t, first.GetId(), again.GetId())
	assert.Zero(t, again.GetBytesSent(), "what is there is not sent again")

	w.hassio.stop(t)
	w.hassio.start(t)
	w.forgotten(t, first.GetId())
	again = w.done(t, v)
	assert.Zero(t, again.GetBytesSent())
	assert.Equal(t, []string{"kubectl-dr:replica"}, w.remote.holds(t, replica+"@dr-b1"))
}

func TestReplicate_whatIsThereWaitsForNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	first := w.done(t, v)
	w.hassio.stop(t)
	w.hassio.start(t)
	w.forgotten(t, first.GetId())

	// As many others as may send at once do, and don't get on.
	release := make(chan struct{})
	sending := make(chan struct{}, 2)
	stop := w.hassio.during("send", func() error {
		sending <- struct{}{}
		<-release
		return nil
	})
	var others []string
	for _, name := range []string{"znvm/a", "znvm/b"} {
		require.NoError(t, w.hassio.zfs.Create(t.Context(), name, zfs.CreateOptions{}))
		require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{name + "@s"}, nil))
		o, err := w.hassio.zfs.Lookup(t.Context(), name+"@s")
		require.NoError(t, err)
		tr, err := w.client.Replicate(t.Context(), w.request(&agentpb.Version{Dataset: name, Name: "s", Guid: o.GUID}))
		require.NoError(t, err)
		others = append(others, tr.GetId())
		<-sending
	}

	before := [2]int{len(w.hassio.pool.Commands()), len(w.remote.pool.Commands())}
	assert.Zero(t, w.done(t, v).GetBytesSent())
	for i, h := range []*host{w.hassio, w.remote} {
		for _, c := range h.pool.Commands()[before[i]:] {
			if what := c[len(c)-1]; what == "znvm/a" || what == "znvm/b" {
				continue // the others write their leases when they come to it
			}
			assert.Contains(t, []string{"list", "get", "holds"}, c[1], "%v on %s", c, h.node)
		}
	}
	close(release)
	for _, id := range others {
		assert.Equal(t, agentpb.Transfer_DONE, w.wait(t, id).GetState())
	}
	stop()
}

func TestReplicate_restoresWhatTheNextIncrementNeeds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		lose func(w *world) error
	}{
		{"the hold at the source", func(w *world) error {
			return w.hassio.zfs.Release(t.Context(), "kubectl-dr:replication", source+"@dr-b2")
		}},
		{"every hold at the source", func(w *world) error {
			return errors.Join(w.hassio.zfs.Release(t.Context(), "kubectl-dr:replication", source+"@dr-b2"),
				w.hassio.zfs.Release(t.Context(), "kubectl-dr:backup", source+"@dr-b2"))
		}},
		{"the bookmark", func(w *world) error {
			vs, err := w.hassio.zfs.Versions(t.Context(), source)
			for _, v := range vs {
				if v.Bookmark {
					err = errors.Join(err, w.hassio.zfs.DestroyBookmark(t.Context(), v.FullName()))
				}
			}
			return err
		}},
		{"the hold of the replica", func(w *world) error {
			return w.remote.zfs.Release(t.Context(), "kubectl-dr:replica", replica+"@dr-b2")
		}},
		{"the end of the hold before, and of the agent", func(w *world) error {
			w.hassio.restart(t, w.hassio.tune)
			w.client = w.dial(t, w.hassio, "velero")
			return w.hassio.zfs.Hold(t.Context(), "kubectl-dr:replication", source+"@dr-b1")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.done(t, w.snapshot(t, "b1"))
			v := w.snapshot(t, "b2")
			w.done(t, v)
			require.NoError(t, tt.lose(w))
			w.hassio.clock.advance(61 * time.Minute)
			assert.Zero(t, w.done(t, v).GetBytesSent())
			assert.Contains(t, w.hassio.holds(t, source+"@dr-b2"), "kubectl-dr:replication")
			assert.NotContains(t, w.hassio.holds(t, source+"@dr-b1"), "kubectl-dr:replication")
			assert.Equal(t, []uint64{v.GetGuid()}, w.hassio.bookmarks(t, source))
			assert.Equal(t, []string{"kubectl-dr:replica"}, w.remote.holds(t, replica+"@dr-b2"))
		})
	}
}

// What an increment costs where little has changed: each command is a process.
func TestReplicate_takesFewCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	v := w.snapshot(t, "b2")
	requireCommands := func(atSource, atTarget []string) string {
		t.Helper()
		before := [2]int{len(w.hassio.pool.Commands()), len(w.remote.pool.Commands())}
		id := w.done(t, v).GetId()
		for i, want := range [][]string{atSource, atTarget} {
			h := []*host{w.hassio, w.remote}[i]
			var verbs []string
			for _, c := range h.pool.Commands()[before[i]:] {
				verbs = append(verbs, c[1])
			}
			require.ElementsMatch(t, want, verbs, "on %s", h.node)
		}
		return id
	}
	id := requireCommands(
		[]string{"list", "list", "hold", "bookmark", "send", "destroy", "release"},
		[]string{"get", "list", "receive", "get", "get", "set", "hold", "release"})

	w.hassio.stop(t)
	w.hassio.start(t)
	w.forgotten(t, id)
	requireCommands([]string{"list", "holds"}, []string{"list", "get"})
}

func TestReplicate_skipsSnapshotsBetween(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	skipped := w.snapshot(t, "b2")
	w.done(t, w.snapshot(t, "b3"))
	assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b2")

	tr := w.replicate(t, skipped)
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrSuperseded)
	assert.Equal(t, "SUPERSEDED", tr.GetReason())
	assert.NotContains(t, w.hassio.holds(t, source+"@dr-b2"), "kubectl-dr:replication")
}

func TestReplicate_fromABookmark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	w.done(t, first)
	resp, err := w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "dr-b1", Guid: first.GetGuid()})
	require.NoError(t, err)
	assert.True(t, resp.GetExisted())
	assert.True(t, resp.GetKeptBookmark())
	assert.NotContains(t, w.hassio.pool.Names(), source+"@dr-b1")

	second := w.snapshot(t, "b2")
	tr := w.done(t, second)
	assert.Contains(t, tr.GetBase(), source+"#kubectl-dr_remote_")
	w.requireSame(t, second)
	assert.Equal(t, []uint64{second.GetGuid()}, w.hassio.bookmarks(t, source))
}

func TestReplicate_resumesAfterACut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := agenttest.NewLink(t, w.remote.addr)
	k.Limit.Store(600 << 10)
	v := w.snapshot(t, "b1")
	req := w.request(v)
	req.TargetAddress = k.Addr()
	tr, err := w.client.Replicate(t.Context(), req)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pools, err := w.remote.zfs.Pools(t.Context())
		return err == nil && pools[0].Free < 1<<40-256<<10
	}, 2*time.Minute, 2*time.Millisecond, "some of it is received")
	k.Cut()
	tr = w.wait(t, tr.GetId())
	require.NoError(t, agent.TransferError(tr))
	assert.True(t, tr.GetResumed())
	assert.Empty(t, tr.GetError())
	w.requireSame(t, v)

	// What the first stream set is still there, and what the last one brings.
	assert.Equal(t, map[string]string{zfssnap.PropManaged: "true", zfssnap.PropSource: "hassio:" + source, zfssnap.PropStream: "Lce"}, w.remote.props(t, replica))
	assert.Equal(t, "b1", w.remote.props(t, replica+"@dr-b1")[zfssnap.PropBackup])

	received := w.remote.events.take()
	require.Len(t, received, 2)
	assert.Error(t, received[0].Err)
	assert.Equal(t, "INCOMPLETE", received[0].Reason)
	assert.Less(t, received[1].Bytes, uint64(1<<20), "what had arrived was not sent again")
	assert.NotContains(t, flat(w.remote.pool.Commands()), "receive -A")
}

func TestReplicate_lostAcknowledgement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := agenttest.NewLink(t, w.remote.addr)
	// The link breaks when the stream is received and its receiver goes on to
	// tag the snapshot; that fails too, as if the agent had died there.
	var once sync.Once
	w.remote.pool.Before(func(args []string) error {
		var err error
		if args[1] == "set" {
			once.Do(func() {
				k.Cut()
				err = errors.New("killed")
			})
		}
		return err
	})
	v := w.snapshot(t, "b1")
	req := w.request(v)
	req.TargetAddress = k.Addr()
	tr := w.replicateAs(t, req)
	require.NoError(t, agent.TransferError(tr))
	assert.Less(t, tr.GetBytesSent(), uint64(2<<20), "it was sent once")
	assert.Equal(t, "b1", w.remote.props(t, replica+"@dr-b1")[zfssnap.PropBackup], "what was left undone is done")
	assert.Equal(t, []string{"kubectl-dr:replica"}, w.remote.holds(t, replica+"@dr-b1"))
	w.requireSame(t, v)
}

func TestReplicate_staleInterruptedReceiveIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	w.remote.pool.Cut("receive", 600<<10)
	tr := w.replicate(t, first)
	require.Error(t, agent.TransferError(tr))

	// The interrupted stream's snapshot goes; its token leads nowhere.
	_, err := w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "dr-b1", Guid: first.GetGuid()})
	require.NoError(t, err)
	second := w.snapshot(t, "b2")
	tr = w.done(t, second)
	assert.False(t, tr.GetResumed())
	assert.Contains(t, flat(w.remote.pool.Commands()), "zfs receive -A "+replica)
	w.requireSame(t, second)
}

func TestReplicate_finishesAnInterruptedOlderSnapshotFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	w.remote.pool.Cut("receive", 600<<10)
	require.Error(t, agent.TransferError(w.replicate(t, first)))
	require.NoError(t, w.hassio.pool.Write(source, "more", random(1000)))
	second := w.snapshot(t, "b2")
	tr := w.done(t, second)
	assert.True(t, tr.GetResumed())
	assert.Less(t, tr.GetBytesSent(), uint64(1<<20), "what had arrived was not sent again")
	w.requireSame(t, first)
	w.requireSame(t, second)
}

func TestReplicate_bringsWhatAnotherTransferHasYetToBring(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	failed, again := make(chan struct{}), make(chan struct{})
	w.hassio.restart(t, func(s *agent.Server) {
		s.RetryDelay = func(int) time.Duration {
			close(failed)
			<-again
			return 0
		}
	})
	w.client = w.dial(t, w.hassio, "velero")
	first := w.snapshot(t, "b1")
	w.remote.stop(t)
	late, err := w.client.Replicate(t.Context(), w.request(first))
	require.NoError(t, err)
	<-failed
	w.remote.start(t)
	require.NoError(t, w.hassio.pool.Write(source, "more", random(64<<10)))
	second := w.snapshot(t, "b2")
	w.done(t, second)
	w.requireSame(t, first)
	w.requireSame(t, second)

	close(again)
	late = w.wait(t, late.GetId())
	require.NoError(t, agent.TransferError(late))
	assert.Zero(t, late.GetBytesSent(), "it is there already")
}

func TestReplicate_divergedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	require.NoError(t, w.remote.zfs.Snapshot(t.Context(), []string{replica + "@sanoid"}, nil))
	before := w.remote.pool.Names()

	tr := w.replicate(t, w.snapshot(t, "b2"))
	err := agent.TransferError(tr)
	require.ErrorIs(t, err, agent.ErrDiverged)
	assert.ErrorContains(t, err, replica+"@sanoid")
	assert.ErrorContains(t, err, "@dr-b2")
	assert.ErrorContains(t, err, "destroy on the target what is only there")
	assert.Equal(t, before, w.remote.pool.Names())
}

func TestReplicate_fencedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	for _, fence := range []string{replica, "backup/replica"} {
		_, err := w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: fence, Properties: map[string]string{zfssnap.PropFenced: "run-1"}})
		require.NoError(t, err)
		tr := w.replicate(t, w.snapshot(t, "b2"))
		require.ErrorIs(t, agent.TransferError(tr), agent.ErrFenced, "fence on %s", fence)
		assert.Contains(t, tr.GetError(), "run-1")
		assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b2")
		_, err = w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: fence, Properties: map[string]string{zfssnap.PropFenced: ""}})
		require.NoError(t, err)
		w.hassio.clock.advance(time.Hour)
	}
	w.done(t, w.snapshot(t, "b2"))
}

func TestReplicate_foreignTargetIsLeftAlone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		props map[string]string
		err   error
	}{
		{"a dataset without snapshots", nil, agent.ErrOccupied},
		{"our placeholder", map[string]string{zfssnap.PropManaged: "true"}, agent.ErrOccupied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			require.NoError(t, w.remote.zfs.Create(t.Context(), replica, zfs.CreateOptions{Parents: true, Properties: tt.props}))
			before := w.remote.pool.Names()
			require.ErrorIs(t, agent.TransferError(w.replicate(t, w.snapshot(t, "b1"))), tt.err)
			assert.Equal(t, before, w.remote.pool.Names())
		})
	}

	t.Run("the replica of another dataset", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.done(t, w.snapshot(t, "b1"))
		// The same snapshots by way of a rename, so only the source tells.
		require.NoError(t, w.hassio.zfs.Rename(t.Context(), source, "znvm/k3s/pvc-9"))
		resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{"znvm/k3s/pvc-9"}, Name: "x"})
		require.NoError(t, err)
		req := w.request(resp.GetSnapshots()[0])
		req.TargetDataset = replica
		tr := w.replicateAs(t, req)
		require.ErrorIs(t, agent.TransferError(tr), agent.ErrForeign)
		assert.Contains(t, tr.GetError(), "hassio:"+source)
	})
}

func TestReplicate_noSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.remote.pool.SetFree("backup", 300<<10)
	v := w.snapshot(t, "b1")
	tr := w.replicate(t, v)
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrNoSpace)
	assert.Equal(t, "NO_SPACE", tr.GetReason())
	assert.Contains(t, tr.GetError(), "node remote")
	assert.Contains(t, tr.GetError(), "out of space")

	reported, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	assert.Equal(t, agentpb.Transfer_FAILED, reported.GetState(), "a failure is reported once")
	w.remote.pool.SetFree("backup", 1<<40)
	tr = w.done(t, v)
	assert.True(t, tr.GetResumed(), "and then tried again from where it was")
	w.requireSame(t, v)
}

func TestReplicate_suspendedPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.remote.pool.SetSuspended("backup", true)
	require.ErrorIs(t, agent.TransferError(w.replicate(t, v)), agent.ErrPool)
	w.hassio.pool.SetSuspended("znvm", true)
	_, err := w.client.ListVersions(t.Context(), &agentpb.ListVersionsRequest{Dataset: source})
	require.ErrorIs(t, err, agent.ErrPool)
	require.NotErrorIs(t, err, agent.ErrUnreachable)
}

// blockReceive makes the target's next zfs receive wait until released.
func blockReceive(h *host) (reached <-chan struct{}, release func()) {
	at, gate := make(chan struct{}), make(chan struct{})
	var once, open sync.Once
	h.pool.Before(func(args []string) error {
		if args[1] == "receive" && !slices.Contains(args, "-A") {
			blocked := false
			once.Do(func() { blocked = true })
			if blocked {
				close(at)
				<-gate
			}
		}
		return nil
	})
	return at, func() { open.Do(func() { close(gate) }) }
}

func TestReplicate_targetRestartsMidTransfer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	stopped := make(chan struct{})
	go func() {
		w.remote.stop(t)
		close(stopped)
	}()
	w.until(t, tr.GetId(), func(tr *agentpb.Transfer) bool { return tr.GetReason() == "UNREACHABLE" })
	release()
	<-stopped
	w.remote.start(t)
	tr = w.wait(t, tr.GetId())
	require.NoError(t, agent.TransferError(tr))
	w.requireSame(t, v)
}

func TestReplicate_sourceRestartsMidTransfer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	w.hassio.stop(t)
	release()
	w.hassio.start(t)
	assert.Contains(t, w.hassio.holds(t, source+"@dr-b1"), "kubectl-dr:replication", "what was under way stays held")
	w.forgotten(t, tr.GetId())
	again := w.done(t, v)
	assert.Equal(t, tr.GetId(), again.GetId())
	w.requireSame(t, v)
}

func TestReplicate_whileItRunsTheSameTransferIsReturned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	first, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	again, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	assert.Equal(t, first.GetId(), again.GetId())
	assert.Equal(t, agentpb.Transfer_RUNNING, again.GetState())

	_, err = w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: v.GetName(), Guid: v.GetGuid()})
	require.ErrorIs(t, err, agent.ErrBusy, "a snapshot under way is not destroyed")

	release()
	require.NoError(t, agent.TransferError(w.wait(t, first.GetId())))
	assert.Len(t, w.remote.events.take(), 1)
}

func TestReplicate_queuesPerPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var versions []*agentpb.Version
	for _, name := range []string{"a", "b", "c"} {
		ds := "nas/" + name
		require.NoError(t, w.hassio.zfs.Create(t.Context(), ds, zfs.CreateOptions{}))
		resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{ds}, Name: "s"})
		require.NoError(t, err)
		versions = append(versions, resp.GetSnapshots()...)
	}
	gate, arrived := make(chan struct{}), make(chan struct{}, 3)
	w.remote.pool.Before(func(args []string) error {
		if args[1] == "receive" {
			arrived <- struct{}{}
			<-gate
		}
		return nil
	})
	var ids []string
	for _, v := range versions {
		tr, err := w.client.Replicate(t.Context(), w.request(v))
		require.NoError(t, err)
		assert.Equal(t, agentpb.Transfer_RUNNING, tr.GetState())
		ids = append(ids, tr.GetId())
	}
	<-arrived
	<-arrived
	waiting := 0
	for _, id := range ids {
		tr, err := w.client.GetTransfer(t.Context(), &agentpb.GetTransferRequest{Id: id})
		require.NoError(t, err)
		if tr.GetBytesSent() == 0 {
			waiting++
		}
	}
	assert.Equal(t, 1, waiting)
	assert.Empty(t, arrived)
	close(gate)
	for _, id := range ids {
		require.NoError(t, agent.TransferError(w.wait(t, id)))
	}
}

func TestCancelTransfer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	tr, err = w.client.CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: tr.GetId()})
	require.NoError(t, err)
	assert.Equal(t, agentpb.Transfer_CANCELLED, tr.GetState())
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrCancelled)
	release()
	w.done(t, v)
	w.requireSame(t, v)
	_, err = w.client.CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: "none"})
	require.ErrorIs(t, err, agent.ErrNotFound)
}

func TestReplicate_unreachableTargetIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.remote.stop(t)
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	tr = w.until(t, tr.GetId(), func(tr *agentpb.Transfer) bool { return tr.GetReason() != "" })
	assert.Equal(t, agentpb.Transfer_RUNNING, tr.GetState())
	assert.Contains(t, tr.GetError(), "agent on node remote at "+w.remote.addr+" is unreachable")
	assert.Contains(t, tr.GetError(), "check that zfs-agent runs")

	w.hassio.clock.advance(5 * time.Hour)
	tr = w.wait(t, tr.GetId())
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrUnreachable, "but not for ever")
	w.remote.start(t)
	w.hassio.clock.advance(time.Hour)
	w.done(t, v)
}

func TestReplicate_refusesWhatCannotSucceed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	tests := []struct {
		name   string
		change func(*agentpb.ReplicateRequest)
		err    error
	}{
		{"a missing snapshot", func(r *agentpb.ReplicateRequest) { r.Snapshot = "none" }, agent.ErrNotFound},
		{"another guid", func(r *agentpb.ReplicateRequest) { r.Guid++ }, agent.ErrMismatch},
		{"a name that is an option", func(r *agentpb.ReplicateRequest) { r.Dataset = "-F" }, agent.ErrInvalid},
		{"a bad target", func(r *agentpb.ReplicateRequest) { r.TargetDataset = "backup/../x" }, agent.ErrInvalid},
		{"no target node", func(r *agentpb.ReplicateRequest) { r.TargetNode = "" }, agent.ErrInvalid},
		{"a replica within its source", func(r *agentpb.ReplicateRequest) { r.TargetNode, r.TargetDataset = "hassio", source+"/x" }, agent.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := w.request(v)
			tt.change(req)
			_, err := w.client.Replicate(t.Context(), req)
			require.ErrorIs(t, err, tt.err)
			assert.ErrorContains(t, err, "node hassio: ")
		})
	}
}

func TestReplicate_toTheSameHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.stop(t)
	w.hassio.policy.Identities = append(w.hassio.policy.Identities, agent.Grant{Name: "hassio", Verbs: []agent.Verb{agent.Receive}, Prefixes: []string{"nas"}})
	w.hassio.start(t)
	v := w.snapshot(t, "b1")
	req := w.request(v)
	req.TargetNode, req.TargetAddress, req.TargetDataset = "hassio", w.hassio.addr, "nas/copy"
	require.NoError(t, agent.TransferError(w.replicateAs(t, req)))
	assert.Contains(t, w.hassio.pool.Names(), "nas/copy@dr-b1")
}

// receive sends what a test likes to the target's Receive, as hassio.
func (w *world) receive(t *testing.T, identity string, parts ...*agentpb.ReceiveRequest) error {
	t.Helper()
	c := w.dial(t, w.remote, identity)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := c.Receive(ctx)
	require.NoError(t, err)
	for _, p := range parts {
		_ = stream.Send(p)
	}
	_, err = stream.CloseAndRecv()
	return err
}

func header(change func(*agentpb.ReceiveHeader)) *agentpb.ReceiveRequest {
	h := &agentpb.ReceiveHeader{Dataset: replica, Snapshot: "s", Guid: 7, Type: "filesystem", Source: "hassio:" + source, StreamMode: "Lce"}
	if change != nil {
		change(h)
	}
	return &agentpb.ReceiveRequest{Part: &agentpb.ReceiveRequest_Header{Header: h}}
}

func data(b string) *agentpb.ReceiveRequest {
	return &agentpb.ReceiveRequest{Part: &agentpb.ReceiveRequest_Data{Data: []byte(b)}}
}

func end(n uint64) *agentpb.ReceiveRequest {
	return &agentpb.ReceiveRequest{Part: &agentpb.ReceiveRequest_End{End: &agentpb.ReceiveEnd{Bytes: n}}}
}

func TestReceive_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tests := []struct {
		name     string
		identity string
		parts    []*agentpb.ReceiveRequest
		err      error
	}{
		{"no header", "hassio", []*agentpb.ReceiveRequest{data("x")}, agent.ErrInvalid},
		{"another node's source", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Source = "other:tank/a" })}, agent.ErrDenied},
		{"a dataset outside the grant", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Dataset = "backup/znvm" })}, agent.ErrDenied},
		{"a prefix that only looks alike", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Dataset = "backup/replicas" })}, agent.ErrDenied},
		{"an unknown identity", "stranger", []*agentpb.ReceiveRequest{header(nil)}, agent.ErrDenied},
		{"an unknown type", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Type = "pool" })}, agent.ErrInvalid},
		{"a foreign property", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) {
			h.SnapshotProperties = map[string]string{"mountpoint": "/etc"}
		})}, agent.ErrInvalid},
		{"a snapshot name that is none", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Snapshot = "a@b" })}, agent.ErrInvalid},
		{"an empty stream", "hassio", []*agentpb.ReceiveRequest{header(nil), end(0)}, agent.ErrIncomplete},
		{"no end record", "hassio", []*agentpb.ReceiveRequest{header(nil)}, agent.ErrIncomplete},
		{"a wrong count", "hassio", []*agentpb.ReceiveRequest{header(nil), end(5)}, agent.ErrIncomplete},
		{"a resume of nothing", "hassio", []*agentpb.ReceiveRequest{header(func(h *agentpb.ReceiveHeader) { h.Resume = true }), data("x"), end(1)}, zfs.ErrResumeStale},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := w.remote.pool.Names()
			require.ErrorIs(t, w.receive(t, tt.identity, tt.parts...), tt.err)
			assert.Equal(t, before, w.remote.pool.Names(), "nothing was changed")
		})
	}
	err := w.receive(t, "hassio", header(nil), data("garbage that is no stream at all"), end(32))
	require.ErrorIs(t, err, agent.ErrIncomplete)
	assert.NotContains(t, w.remote.pool.Names(), replica)
}

// What a source was told of a replica counts for the stream that follows, unless
// the replica was changed since.
func TestReceive_afterAFenceIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	source := w.dial(t, w.remote, "hassio")
	ask := func() {
		_, err := source.ReceiveState(t.Context(), &agentpb.ReceiveStateRequest{Dataset: replica})
		require.NoError(t, err)
	}
	stream := []*agentpb.ReceiveRequest{header(nil), data("garbage that is no stream at all"), end(32)}

	ask()
	_, err := w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: "run-1"}})
	require.NoError(t, err)
	before := len(w.remote.pool.Commands())
	require.ErrorIs(t, w.receive(t, "hassio", stream...), agent.ErrFenced)
	assert.NotContains(t, flat(w.remote.pool.Commands()[before:]), "zfs receive")

	_, err = w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: ""}})
	require.NoError(t, err)
	ask()
	before = len(w.remote.pool.Commands())
	require.ErrorIs(t, w.receive(t, "hassio", stream...), agent.ErrIncomplete)
	assert.Len(t, w.remote.pool.Commands()[before:], 1, "nothing but zfs receive is run for what was just told")
	require.ErrorIs(t, w.receive(t, "hassio", stream...), agent.ErrIncomplete)
	assert.Greater(t, len(w.remote.pool.Commands()[before:]), 2, "it counts once")
}

func TestReceive_oneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	tr, err := w.client.Replicate(t.Context(), w.request(w.snapshot(t, "b1")))
	require.NoError(t, err)
	<-at
	require.ErrorIs(t, w.receive(t, "hassio", header(nil), data("x")), agent.ErrBusy)
	release()
	require.NoError(t, agent.TransferError(w.wait(t, tr.GetId())))
}

func TestReceive_writableReplicaIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.done(t, v)
	require.NoError(t, w.remote.zfs.Set(t.Context(), replica, map[string]string{"readonly": "off"}))
	w.hassio.clock.advance(2 * time.Hour)
	tr := w.replicate(t, v)
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrMismatch)
	assert.Contains(t, tr.GetError(), "readonly=off")
	w.done(t, w.snapshot(t, "b2"))
}

// flat makes one string of commands, for finding one in them.
func flat(commands [][]string) string {
	var b strings.Builder
	for _, c := range commands {
		b.WriteString(strings.Join(c, " ") + "\n")
	}
	return b.String()
}
