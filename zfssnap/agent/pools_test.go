package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const onMetro = "metro/k3s/pvc-1"

// newMetro is a world with a pool that hassio has imported, and remote reaches too.
func newMetro(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.hassio.pool.SetHost("hassio", 1)
	w.remote.pool.SetHost("remote", 2)
	w.hassio.pool.Add("metro")
	w.hassio.pool.Share("metro", w.remote.pool)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), onMetro, zfs.CreateOptions{Parents: true}))
	require.NoError(t, w.hassio.pool.Write(onMetro, "sentinel", []byte("1")))
	return w
}

func (w *world) takeOver(t *testing.T, fenced bool) (*agentpb.PoolState, error) {
	t.Helper()
	return w.far.ImportPool(t.Context(), &agentpb.ImportPoolRequest{Name: "metro", By: "run/one", Fenced: fenced})
}

func TestImportPool_takesWhatADeadHostHad(t *testing.T) {
	t.Parallel()
	w := newMetro(t)
	require.NoError(t, w.hassio.pool.Write(onMetro, "sentinel", []byte("last")))
	w.hassio.pool.Die()

	p, err := w.far.GetPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.NoError(t, err)
	assert.False(t, p.GetImported() || p.GetActive() || p.GetExported())
	assert.True(t, p.GetMultihost())
	assert.Equal(t, "hassio", p.GetHost())

	p, err = w.takeOver(t, false)
	require.NoError(t, err)
	assert.True(t, p.GetImported())
	assert.Equal(t, "remote:run/one", p.GetTakenBy())
	assert.False(t, p.GetCached(), "it is not imported by itself when the host starts")
	data, err := w.remote.pool.Read(onMetro, "sentinel")
	require.NoError(t, err)
	assert.Equal(t, "last", string(data))

	again, err := w.takeOver(t, false)
	require.NoError(t, err)
	assert.Equal(t, p.GetGuid(), again.GetGuid())
}

func TestExportPool_handsItOver(t *testing.T) {
	t.Parallel()
	w := newMetro(t)
	w.hassio.pool.SetBusy(onMetro, true)
	_, err := w.client.ExportPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.ErrorIs(t, err, agent.ErrBusy)
	w.hassio.pool.SetBusy(onMetro, false)
	for range 2 {
		p, err := w.client.ExportPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
		require.NoError(t, err)
		assert.True(t, p.GetExported())
		assert.False(t, p.GetImported())
	}
	p, err := w.takeOver(t, false)
	require.NoError(t, err)
	assert.True(t, p.GetImported())
	_, err = w.client.GetPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.NoError(t, err)
}

func TestImportPool_refusesWhatIsNotSafe(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		set   func(w *world)
		cause error
		says  string
	}{
		{"a pool that is in use", func(*world) {}, agent.ErrInUse, "hassio (hostid 1) has it imported"},
		{"no multihost", func(w *world) {
			w.hassio.pool.SetMultihost("metro", false)
			w.hassio.pool.Die()
		}, agent.ErrUnprotected, "its multihost is off"},
		{"no multihost, and in use", func(w *world) { w.hassio.pool.SetMultihost("metro", false) }, agent.ErrUnprotected, "its multihost is off"},
		{"no hostid", func(w *world) {
			w.remote.pool.SetHost("remote", 0)
			w.hassio.pool.Die()
		}, zfs.ErrNoHostID, "host has no hostid"},
		{"the hostid of another host", func(w *world) { w.remote.pool.SetHost("remote", 1) }, agent.ErrUnprotected, "hassio had it last, which has the hostid of this host"},
		{"a disk that is not seen", func(w *world) {
			w.remote.pool.SetUnseen("metro", "site-b")
			w.hassio.pool.Die()
		}, agent.ErrUnprotected, "this host does not see site-b, to which hassio may still write"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newMetro(t)
			tt.set(w)
			_, err := w.takeOver(t, false)
			require.ErrorIs(t, err, tt.cause)
			require.ErrorContains(t, err, tt.says)
			for _, c := range w.remote.pool.Commands() {
				assert.NotContains(t, c, "-f")
			}
			assert.NotContains(t, w.remote.pool.Names(), "metro")
			assert.Contains(t, w.hassio.pool.Names(), "metro", "it stays where it was")
		})
	}
}

func TestImportPool_notWithoutADiskThoughItWasExported(t *testing.T) {
	t.Parallel()
	w := newMetro(t)
	_, err := w.client.ExportPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.NoError(t, err)
	w.remote.pool.SetUnseen("metro", "site-b")
	_, err = w.takeOver(t, false)
	require.ErrorIs(t, err, agent.ErrUnprotected)
	require.ErrorContains(t, err, "does not see site-b, and what was written last may be there alone")
	assert.NotContains(t, w.remote.pool.Names(), "metro")
	_, err = w.takeOver(t, true)
	require.NoError(t, err)
}

func TestImportPool_withoutADiskOnceItIsFenced(t *testing.T) {
	t.Parallel()
	w := newMetro(t)
	w.remote.pool.SetUnseen("metro", "site-b")
	_, err := w.takeOver(t, true)
	require.ErrorIs(t, err, agent.ErrInUse, "what is seen to live is not fenced")
	w.hassio.pool.Die()
	_, err = w.takeOver(t, true)
	require.NoError(t, err)
}

func TestPools_areMovedByThoseWhoMay(t *testing.T) {
	t.Parallel()
	w := newMetro(t)
	stranger := w.dial(t, w.hassio, "stranger")
	_, err := stranger.ExportPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.ErrorIs(t, err, agent.ErrDenied)
	_, err = stranger.ImportPool(t.Context(), &agentpb.ImportPoolRequest{Name: "metro"})
	require.ErrorIs(t, err, agent.ErrDenied)
	_, err = stranger.GetPool(t.Context(), &agentpb.GetPoolRequest{Name: "metro"})
	require.ErrorIs(t, err, agent.ErrDenied)
	_, err = w.client.ExportPool(t.Context(), &agentpb.GetPoolRequest{Name: "znvm"})
	require.ErrorIs(t, err, agent.ErrUnprotected, "a pool that is not shared stays")
	_, err = w.client.GetPool(t.Context(), &agentpb.GetPoolRequest{Name: "none"})
	require.ErrorIs(t, err, agent.ErrNotFound)
}
