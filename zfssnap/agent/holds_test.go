package agent_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

var replication = zfssnap.HoldTag(names.HoldReplication)

// judged is what a listing says: "snapshot tag state", and "dead" or "released".
func judged(resp *agentpb.ListHoldsResponse) []string {
	all := []string{}
	for _, h := range resp.GetHolds() {
		_, _, snapshot := zfs.SplitVersion(h.GetSnapshot())
		s := snapshot + " " + strings.TrimPrefix(h.GetTag(), "kubectl-dr:") + " " + h.GetState()
		switch {
		case h.GetReleased():
			s += " released"
		case h.GetDead():
			s += " dead"
		}
		all = append(all, s)
	}
	return all
}

func (w *world) listHolds(t *testing.T, c *agent.Client, dataset string, over ...string) []string {
	t.Helper()
	resp, err := c.ListHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: dataset, Over: over})
	require.NoError(t, err)
	return judged(resp)
}

func (w *world) reap(t *testing.T, c *agent.Client, dataset string, over ...string) []string {
	t.Helper()
	resp, err := c.ReapHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: dataset, Over: over})
	require.NoError(t, err)
	return judged(resp)
}

func TestListHolds_saysWhoAndWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	require.NoError(t, w.hassio.zfs.Hold(t.Context(), "sanoid", source+"@dr-b1"))
	resp, err := w.client.ListHolds(t.Context(), &agentpb.ListHoldsRequest{})
	require.NoError(t, err)
	require.Len(t, resp.GetHolds(), 3)
	backup, transfer, foreign := resp.GetHolds()[0], resp.GetHolds()[1], resp.GetHolds()[2]
	assert.Equal(t, []string{"velero", "backup/b1", "restores from this backup", "live"}, []string{backup.GetBy(), backup.GetOwner(), backup.GetWhy(), backup.GetState()})
	assert.Zero(t, backup.GetUntilUnix(), "a backup has no lease")
	assert.InDelta(t, time.Now().Unix(), backup.GetCreatedUnix(), 120)
	assert.Equal(t, []string{"hassio", "remote:" + replica, "transfers to the replica", "live"}, []string{transfer.GetBy(), transfer.GetOwner(), transfer.GetWhy(), transfer.GetState()})
	assert.Equal(t, "the next increment to remote:"+replica+" starts here", transfer.GetReason())
	assert.Equal(t, []string{"sanoid", "foreign"}, []string{foreign.GetTag(), foreign.GetState()})

	resp, err = w.far.ListHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: "backup"})
	require.NoError(t, err)
	require.Len(t, resp.GetHolds(), 1)
	assert.Equal(t, "replica of hassio:"+source, resp.GetHolds()[0].GetOwner())
	assert.NotContains(t, w.remote.props(t, replica+"@dr-b1"), names.PropHold+"backup", "who holds it at the source does not travel")

	_, err = w.client.ListHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: "znvm/none"})
	require.ErrorIs(t, err, agent.ErrNotFound)
}

func TestHold_hasALease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snapshot(t, "b1")
	req := &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:run:drill-1", Owner: "run/drill-1", Why: "rehearsal", LeaseSeconds: 600}
	hold := func() {
		_, err := w.client.Hold(t.Context(), req)
		require.NoError(t, err)
	}
	hold()
	w.hassio.clock.advance(9 * time.Minute)
	hold() // renews
	w.hassio.clock.advance(9 * time.Minute)
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 run:drill-1 live"}, w.reap(t, w.client, source))
	w.hassio.clock.advance(2 * time.Minute)
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 run:drill-1 expired dead"}, w.listHolds(t, w.client, source))
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 run:drill-1 expired released"}, w.reap(t, w.client, source))
	assert.Equal(t, []string{"kubectl-dr:backup"}, w.hassio.holds(t, source+"@dr-b1"))
	assert.NotContains(t, w.hassio.props(t, source+"@dr-b1"), names.PropHold+"run:drill-1", "the record goes along")

	hold()
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 run:drill-1 orphan released"}, w.reap(t, w.client, "", "run/drill-1"), "a run that is over")

	hold()
	_, err := w.client.Release(t.Context(), req)
	require.NoError(t, err)
	assert.NotContains(t, w.hassio.props(t, source+"@dr-b1"), names.PropHold+"run:drill-1")
}

func TestHold_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snapshot(t, "b1")
	tests := []struct {
		name string
		req  *agentpb.HoldRequest
		err  error
	}{
		{"a foreign tag", &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "keep"}, agent.ErrInvalid},
		{"our prefix alone", &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:"}, agent.ErrInvalid},
		{"a lease that ends before it begins", &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:x", LeaseSeconds: -1}, agent.ErrInvalid},
		{"a lease for a tag that has no room for it", &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:X", LeaseSeconds: 1}, agent.ErrInvalid},
		{"a reason with a line break", &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:x", Why: strings.Repeat("a", 9000)}, agent.ErrInvalid},
		{"a missing snapshot", &agentpb.HoldRequest{Snapshot: source + "@none", Tag: "kubectl-dr:x"}, agent.ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.client.Hold(t.Context(), tt.req)
			require.ErrorIs(t, err, tt.err)
			assert.Equal(t, []string{"kubectl-dr:backup"}, w.hassio.holds(t, source+"@dr-b1"))
		})
	}
	for _, prop := range []string{names.PropHold + "backup", names.PropTarget + "remote_00000000"} {
		_, err := w.client.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: source, Properties: map[string]string{prop: "{}"}})
		require.ErrorIs(t, err, agent.ErrInvalid, "%s is the agent's own", prop)
		_, err = w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "x", Properties: map[string]string{prop: "{}"}})
		require.ErrorIs(t, err, agent.ErrInvalid, "%s is the agent's own", prop)
	}
}

func TestReapHolds_whatTheTargetHasNewer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	w.done(t, w.snapshot(t, "b2"))
	// As left by an agent that died before it tidied up.
	require.NoError(t, w.hassio.zfs.Hold(t.Context(), replication, source+"@dr-b1"))
	require.NoError(t, w.remote.zfs.Hold(t.Context(), "kubectl-dr:replica", replica+"@dr-b1"))

	w.remote.stop(t)
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 replication live", "dr-b2 backup live", "dr-b2 replication live"}, w.reap(t, w.client, source),
		"a target that does not answer keeps all")
	w.remote.start(t)
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 replication orphan released", "dr-b2 backup live", "dr-b2 replication live"}, w.reap(t, w.client, source))
	assert.Equal(t, []string{"dr-b1 replica orphan released", "dr-b2 replica live"}, w.reap(t, w.far, ""))

	tr := w.done(t, w.snapshot(t, "b3"))
	assert.Equal(t, source+"@dr-b2", tr.GetBase(), "the chain goes on")
}

func TestReapHolds_whatNobodySendsAnyMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	require.NoError(t, w.hassio.pool.Write(source, "more", random(1<<20)))
	second := w.snapshot(t, "b2")
	w.remote.pool.Cut("receive", 600<<10)
	require.Error(t, agent.TransferError(w.replicate(t, second)))
	want := []string{"dr-b1 backup live", "dr-b1 replication live", "dr-b2 backup live", "dr-b2 replication live"}
	assert.Equal(t, want, w.reap(t, w.client, source), "its lease is not over")
	w.hassio.clock.advance(2 * time.Hour)
	assert.Equal(t, want, w.reap(t, w.client, source), "the target keeps what has arrived")
	require.NoError(t, w.remote.zfs.AbortReceive(t.Context(), replica))
	want[3] = "dr-b2 replication expired released"
	assert.Equal(t, want, w.reap(t, w.client, source))
	tr := w.done(t, second)
	assert.Equal(t, source+"@dr-b1", tr.GetBase())
}

func TestReapHolds_leavesARunningTransferAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	w.hassio.clock.advance(100 * 24 * time.Hour) // as a clock that is set wrong
	assert.Equal(t, []string{"dr-b1 backup live", "dr-b1 replication live"}, w.reap(t, w.client, source))
	release()
	require.NoError(t, agent.TransferError(w.wait(t, tr.GetId())))
	w.requireSame(t, v)
}

func TestTransfer_renewsItsLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.restart(t, func(s *agent.Server) { s.TransferLease = 30 * time.Millisecond })
	at, release := blockReceive(w.remote)
	defer release()
	tr, err := w.client.Replicate(t.Context(), w.request(w.snapshot(t, "b1")))
	require.NoError(t, err)
	<-at
	target := func() holds.Target {
		for name, value := range w.hassio.props(t, source) {
			if strings.HasPrefix(name, names.PropTarget) {
				target, err := holds.ParseTarget(value)
				require.NoError(t, err)
				return target
			}
		}
		return holds.Target{}
	}
	first := target()
	assert.Equal(t, "remote:"+replica, first.String())
	assert.Equal(t, holds.OwnerTransfer+tr.GetId(), first.Owner)
	assert.Equal(t, "hassio", first.By)
	w.hassio.clock.advance(time.Hour)
	require.Eventually(t, func() bool { return target().Until.After(first.Until.Add(59 * time.Minute)) }, 2*time.Minute, time.Millisecond)
	release()
	require.NoError(t, agent.TransferError(w.wait(t, tr.GetId())))
}

func TestReaper_runsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snapshot(t, "b1")
	_, err := w.client.Hold(t.Context(), &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "kubectl-dr:x", LeaseSeconds: 60})
	require.NoError(t, err)
	w.hassio.pool.SetSuspended("nas", true) // which is no reason to leave the other alone
	w.hassio.restart(t, func(s *agent.Server) { s.ReapEvery = time.Millisecond })
	before := len(w.hassio.pool.Commands())
	require.Eventually(t, func() bool { return len(w.hassio.pool.Commands()) > before+10 }, 2*time.Minute, time.Millisecond)
	assert.Contains(t, w.hassio.holds(t, source+"@dr-b1"), "kubectl-dr:x")
	w.hassio.clock.advance(time.Hour)
	require.Eventually(t, func() bool { return len(w.hassio.holds(t, source+"@dr-b1")) == 1 }, 2*time.Minute, time.Millisecond)
	assert.Equal(t, []string{"kubectl-dr:backup"}, w.hassio.holds(t, source+"@dr-b1"))
}

func TestReapHolds_needsTheVerbToRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snapshot(t, "b1")
	w.hassio.stop(t)
	w.hassio.policy = agent.Policy{Identities: []agent.Grant{{Name: "reader", Verbs: []agent.Verb{agent.Read}, Prefixes: []string{"znvm/k3s"}}}}
	w.hassio.start(t)
	reader := w.dial(t, w.hassio, "reader")
	assert.Equal(t, []string{"dr-b1 backup live"}, w.listHolds(t, reader, ""))
	_, err := reader.ListHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: "nas"})
	require.ErrorIs(t, err, agent.ErrDenied)
	for _, dataset := range []string{"", source} {
		_, err = reader.ReapHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: dataset})
		require.ErrorIs(t, err, agent.ErrDenied)
	}
}

// TestReapHolds_afterADeathAtAnyCommand kills the sending agent before each of
// the commands of a transfer in turn, lets the lease pass and reaps: the next
// transfer is an increment all the same, and after it nothing dead is left.
func TestReapHolds_afterADeathAtAnyCommand(t *testing.T) {
	t.Parallel()
	done := false
	for n := int64(0); !done; n++ {
		w := newWorld(t)
		w.done(t, w.snapshot(t, "b1"))
		require.NoError(t, w.hassio.pool.Write(source, "more", random(100<<10)))
		second := w.snapshot(t, "b2")

		var commands atomic.Int64
		w.hassio.pool.Before(func([]string) error {
			if commands.Add(1) > n {
				return errors.New("killed")
			}
			return nil
		})
		if tr, err := w.client.Replicate(t.Context(), w.request(second)); err == nil {
			// The last round is one that nothing disturbed.
			done = w.wait(t, tr.GetId()).GetState() == agentpb.Transfer_DONE && commands.Load() <= n
		}
		w.hassio.pool.Before(nil)
		w.hassio.stop(t)
		w.hassio.clock.advance(2 * time.Hour)
		w.hassio.start(t)
		require.Eventually(t, func() bool {
			_, err := w.client.Info(t.Context(), &agentpb.InfoRequest{})
			return err == nil
		}, 2*time.Minute, time.Millisecond)
		w.reap(t, w.client, "")
		w.reap(t, w.far, "")

		third := w.snapshot(t, "b3")
		tr := w.done(t, third)
		assert.NotEmpty(t, tr.GetBase(), "killed at command %d, the next transfer is an increment", n)
		w.requireSame(t, third)
		w.reap(t, w.client, "")
		for _, h := range append(w.listHolds(t, w.client, ""), w.listHolds(t, w.far, "")...) {
			assert.True(t, strings.HasSuffix(h, " live"), "killed at command %d: %s", n, h)
		}
	}
}
