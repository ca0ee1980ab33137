package agent_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// token is the resume token of a dataset, "" for none.
func (h *host) token(t *testing.T, dataset string) string {
	t.Helper()
	d, err := h.zfs.Dataset(t.Context(), dataset)
	if errors.Is(err, zfs.ErrNotFound) {
		return ""
	}
	require.NoError(t, err)
	return d.ReceiveResumeToken
}

// newSlowWorld is a world in which hassio takes a second for its data.
func newSlowWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.hassio.restart(t, func(s *agent.Server) { s.Bandwidth = agent.Bandwidth{Total: 1 << 20} })
	return w
}

// half starts a transfer, and waits until some of it has arrived.
func (w *world) half(t *testing.T, v *agentpb.Version) *agentpb.Transfer {
	t.Helper()
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pools, err := w.remote.zfs.Pools(t.Context())
		return err == nil && pools[0].Free < 1<<40-256<<10
	}, 2*time.Minute, 2*time.Millisecond)
	return tr
}

func TestStop_ofEitherSideKeepsWhatHasArrived(t *testing.T) {
	t.Parallel()
	for _, node := range []string{"hassio", "remote"} {
		t.Run(node, func(t *testing.T) {
			t.Parallel()
			w := newSlowWorld(t)
			v := w.snapshot(t, "b1")
			tr := w.half(t, v)
			stopped := map[string]*host{"hassio": w.hassio, "remote": w.remote}[node]
			stopped.stop(t)
			if node == "remote" {
				w.hassio.stop(t) // or it would try again at once
			}
			require.Eventually(t, func() bool { return w.remote.token(t, replica) != "" }, 2*time.Minute, 2*time.Millisecond)
			assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b1")

			w.hassio.tune = nil
			w.hassio.start(t)
			if node == "remote" {
				w.remote.start(t)
			}
			w.forgotten(t, tr.GetId())
			again := w.done(t, v)
			assert.True(t, again.GetResumed())
			assert.Less(t, again.GetBytesSent(), uint64(900<<10), "what had arrived was not sent again")
			assert.Empty(t, w.remote.token(t, replica))
			w.requireSame(t, v)
		})
	}
}

func TestReplicate_aKilledSendGoesOnFromWhereItWas(t *testing.T) {
	t.Parallel()
	w := newSlowWorld(t)
	v := w.snapshot(t, "b1")
	w.hassio.pool.Cut("send", 600<<10)
	tr := w.replicate(t, v)
	require.Error(t, agent.TransferError(tr))
	assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b1")
	require.Eventually(t, func() bool { return w.remote.token(t, replica) != "" }, 2*time.Minute, 2*time.Millisecond)
	w.hassio.clock.advance(time.Hour)
	tr = w.done(t, v)
	assert.True(t, tr.GetResumed())
	assert.Less(t, tr.GetBytesSent(), uint64(900<<10))
	w.requireSame(t, v)
}

// exits is a Runner on which the first command of a verb that moves data does
// its work and then exits with a failure.
type exits struct {
	zfs.Runner
	verb string
	done atomic.Bool
}

func (e *exits) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	res, err := e.Runner.Run(ctx, c)
	if c.Args[1] == e.verb && (c.Stdin != nil || c.Stdout != nil) && e.done.CompareAndSwap(false, true) {
		res.ExitCode, res.Stderr = 1, "internal error: out of memory\n"
	}
	return res, err
}

func TestReplicate_anExitStatusCounts(t *testing.T) {
	t.Parallel()
	t.Run("of zfs send", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.hassio.zfs = &zfs.Client{Runner: &exits{Runner: w.hassio.pool, verb: "send"}}
		w.hassio.restart(t, nil)
		v := w.snapshot(t, "b1")
		tr := w.replicate(t, v)
		require.Error(t, agent.TransferError(tr))
		assert.Contains(t, tr.GetError(), "zfs send: internal error: out of memory")
		assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b1", "without an end record nothing is complete")
		w.hassio.clock.advance(time.Hour)
		w.done(t, v)
		w.requireSame(t, v)
	})
	t.Run("of zfs receive", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.remote.zfs = &zfs.Client{Runner: &exits{Runner: w.remote.pool, verb: "receive"}}
		w.remote.restart(t, nil)
		// The snapshot is there, as its guid shows, so nothing is sent again; what
		// the failed receive left undone is done.
		v := w.snapshot(t, "b1")
		tr := w.done(t, v)
		assert.Less(t, tr.GetBytesSent(), uint64(2<<20))
		assert.Equal(t, "b1", w.remote.props(t, replica+"@dr-b1")[zfssnap.PropBackup])
		assert.Equal(t, []string{"kubectl-dr:replica"}, w.remote.holds(t, replica+"@dr-b1"))
		received := w.remote.events.take()
		require.NotEmpty(t, received)
		assert.ErrorContains(t, received[0].Err, "out of memory", "the receive itself was no success")
	})
}

func TestReplicate_keepsTheBookmarkOfWhatWasCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	w.remote.pool.Cut("receive", 600<<10)
	require.Error(t, agent.TransferError(w.replicate(t, first)))

	// The transfer of the next one commits the first, and dies before its own.
	require.NoError(t, w.hassio.pool.Write(source, "more", random(1000)))
	second := w.snapshot(t, "b2")
	w.hassio.pool.Before(func(args []string) error {
		if args[1] == "send" && !slices.Contains(args, "-n") && !slices.Contains(args, "-t") {
			return errors.New("killed")
		}
		return nil
	})
	require.Error(t, agent.TransferError(w.replicate(t, second)))
	w.hassio.pool.Before(nil)
	assert.Contains(t, w.remote.pool.Names(), replica+"@dr-b1")
	assert.Contains(t, w.hassio.bookmarks(t, source), first.GetGuid())

	// So the first can be deleted, and the chain goes on.
	_, err := w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "dr-b1", Guid: first.GetGuid()})
	require.NoError(t, err)
	w.hassio.clock.advance(time.Hour)
	tr := w.done(t, second)
	assert.Contains(t, tr.GetBase(), source+"#kubectl-dr_remote_")
	w.requireSame(t, second)
	assert.Equal(t, []uint64{second.GetGuid()}, w.hassio.bookmarks(t, source))
}

func TestReceive_aStreamOfAnotherSnapshotThanAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	var stream capture
	require.NoError(t, w.hassio.zfs.Send(t.Context(), zfs.SendOptions{To: source + "@dr-b1", LargeBlock: true, Compressed: true, Embedded: true}, &stream))
	err := w.receive(t, "hassio", header(func(h *agentpb.ReceiveHeader) { h.Snapshot, h.Guid = "dr-b2", first.GetGuid()+1 }),
		data(string(stream)), end(uint64(len(stream))))
	require.ErrorIs(t, err, agent.ErrIncomplete)
	assert.ErrorContains(t, err, "no snapshot with guid")

	// What was committed is what counts: the next one follows it.
	second := w.snapshot(t, "b2x")
	tr := w.done(t, second)
	assert.Equal(t, source+"@dr-b1", tr.GetBase())
	w.requireSame(t, second)
}

type capture []byte

func (c *capture) Write(p []byte) (int, error) {
	*c = append(*c, p...)
	return len(p), nil
}
