package zfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

func TestNothingRunsOnAnInvalidName(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	calls := map[string]func() error{
		"dataset":    func() error { _, err := c.Dataset(ctx, "-r"); return err },
		"datasets":   func() error { _, err := c.Datasets(ctx, "-r", true); return err },
		"exists":     func() error { _, err := c.Exists(ctx, "-r"); return err },
		"get":        func() error { _, err := c.Get(ctx, "-r", "used"); return err },
		"properties": func() error { _, err := c.UserProperties(ctx, "-r", zfs.SourceLocal); return err },
		"tagged":     func() error { _, err := c.Tagged(ctx, "-r", "a:b"); return err },
		"versions":   func() error { _, err := c.Versions(ctx, "-r"); return err },
		"lookup":     func() error { _, err := c.Lookup(ctx, "-r@s"); return err },
		"lookups":    func() error { _, err := c.LookupAll(ctx, "tank@s", "-r@s"); return err },
		"unheld":     func() error { _, err := c.Unheld(ctx, "a:b", "-r"); return err },
		"find":       func() error { _, err := c.FindByGUID(ctx, 1, "-r"); return err },
		"snapshot":   func() error { return c.Snapshot(ctx, []string{"-r"}, nil) },
		"take":       func() error { _, err := c.TakeSnapshots(ctx, []string{"-r"}, nil); return err },
		"hold":       func() error { return c.Hold(ctx, "-r", "tank@s") },
		"release":    func() error { return c.Release(ctx, "t", "-r@s") },
		"holds":      func() error { _, err := c.Holds(ctx, "-r"); return err },
		"bookmark":   func() error { return c.Bookmark(ctx, "tank@s", "-r") },
		"send":       func() error { return c.Send(ctx, zfs.SendOptions{To: "-R"}, io.Discard) },
		"size":       func() error { _, err := c.SendSize(ctx, zfs.SendOptions{To: "-R"}); return err },
		"receive":    func() error { return c.Receive(ctx, zfs.ReceiveOptions{Target: "-F"}, nil) },
		"abort":      func() error { return c.AbortReceive(ctx, "-F") },
		"clone":      func() error { return c.Clone(ctx, "tank@s", "-p", nil) },
		"promote":    func() error { return c.Promote(ctx, "-p") },
		"create":     func() error { return c.Create(ctx, "-p", zfs.CreateOptions{}) },
		"destroy":    func() error { return c.Destroy(ctx, "-R", zfs.DestroyOptions{}) },
		"snapshots":  func() error { return c.DestroySnapshots(ctx, "-R", []string{"s"}, false) },
		"unbookmark": func() error { return c.DestroyBookmark(ctx, "tank") },
		"rename":     func() error { return c.Rename(ctx, "tank/a", "-f") },
		"set":        func() error { return c.Set(ctx, "tank", map[string]string{"-r": "x"}) },
		"inherit":    func() error { return c.Inherit(ctx, "tank", "-r") },
		"mount":      func() error { return c.Mount(ctx, "-a") },
		"unmount":    func() error { return c.Unmount(ctx, "-a") },
	}
	for name, call := range calls {
		assert.ErrorIs(t, call(), zfs.ErrInvalidName, name)
	}
	assert.Empty(t, pool.Commands())
}

func TestAValueWithLineBreaksCannotForgeAProperty(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	require.NoError(t, c.Create(t.Context(), "tank/a", zfs.CreateOptions{}))
	pool.SetRaw("tank/a", "other:x", "y\nio.kubectl-dr:managed\tlocal\ttrue")
	props, err := c.UserProperties(t.Context(), "tank/a", zfs.SourceLocal)
	require.NoError(t, err)
	assert.Empty(t, props)
	pool.SetRaw("tank/a", "io.kubectl-dr:x", "y\nio.kubectl-dr:managed\tlocal\ttrue")
	_, err = c.UserProperties(t.Context(), "tank/a", zfs.SourceLocal)
	assert.ErrorIs(t, err, zfs.ErrAmbiguous)
}

func TestReceivedPropertiesAreNotLocal(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	require.NoError(t, c.Create(t.Context(), "tank/a", zfs.CreateOptions{}))
	pool.SetReceived("tank/a", "io.kubectl-dr:managed", "true")
	local, err := c.UserProperties(t.Context(), "tank/a", zfs.SourceLocal)
	require.NoError(t, err)
	assert.Empty(t, local)
	received, err := c.UserProperties(t.Context(), "tank/a", zfs.SourceReceived)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"io.kubectl-dr:managed": "true"}, received)
	tagged, err := c.Tagged(t.Context(), "", "io.kubectl-dr:managed")
	require.NoError(t, err)
	assert.Empty(t, tagged)
}

func TestASuspendedPoolIsUnavailableAndOthersAreNot(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank", "back")
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/a", zfs.CreateOptions{}))
	require.NoError(t, c.Snapshot(ctx, []string{"tank/a@s"}, nil))
	pool.SetSuspended("tank", true)
	_, err := c.Dataset(ctx, "tank/a")
	assert.ErrorIs(t, err, zfs.ErrPoolUnavailable)
	assert.ErrorIs(t, c.Snapshot(ctx, []string{"tank/a@t"}, nil), zfs.ErrPoolUnavailable)
	assert.ErrorIs(t, c.Create(ctx, "tank/b", zfs.CreateOptions{}), zfs.ErrPoolUnavailable)
	assert.ErrorIs(t, c.Hold(ctx, "t", "tank/a@s"), zfs.ErrPoolUnavailable)
	assert.ErrorIs(t, c.Send(ctx, zfs.SendOptions{To: "tank/a@s"}, io.Discard), zfs.ErrPoolUnavailable)
	require.NoError(t, c.Create(ctx, "back/a", zfs.CreateOptions{}))
	pools, err := c.Pools(ctx)
	require.NoError(t, err)
	assert.Equal(t, []string{"back ONLINE", "tank SUSPENDED"},
		[]string{pools[0].Name + " " + pools[0].Health, pools[1].Name + " " + pools[1].Health})
}

func TestAHangingPoolEndsWithTheContext(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	pool.SetHanging("tank", true)
	ctx, cancel := context.WithCancel(t.Context())
	pool.Before(func([]string) error { cancel(); return nil })
	_, err := c.Dataset(ctx, "tank")
	assert.ErrorIs(t, err, context.Canceled)
}

func TestSnapshotsAreTakenWithoutBeingRoot(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank")
	pool.SetUnprivileged(true)
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/a", zfs.CreateOptions{}))
	for _, name := range []string{"tank/a@s", "tank/a@t"} {
		taken, err := c.TakeSnapshots(ctx, []string{name}, nil)
		require.NoError(t, err)
		assert.Nil(t, taken, "another command tells")
		_, err = c.Lookup(ctx, name)
		require.NoError(t, err)
	}
	tried := 0
	for _, args := range pool.Commands() {
		if args[1] == "program" {
			tried++
		}
	}
	assert.Equal(t, 1, tried, "a host that refuses is not asked again")
}

func TestAFullPool(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank", "back")
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/a", zfs.CreateOptions{}))
	require.NoError(t, pool.Write("tank/a", "f", make([]byte, 1<<16)))
	require.NoError(t, c.Snapshot(ctx, []string{"tank/a@s"}, nil))
	var stream bytes.Buffer
	require.NoError(t, c.Send(ctx, zfs.SendOptions{To: "tank/a@s"}, &stream))
	pool.SetFree("back", 1<<15)
	receive := zfs.ReceiveOptions{Target: "back/a@s", Resumable: true}
	assert.ErrorIs(t, c.Receive(ctx, receive, &stream), zfs.ErrNoSpace)
	pool.SetFree("tank", 0)
	assert.ErrorIs(t, c.Snapshot(ctx, []string{"tank/a@t"}, nil), zfs.ErrNoSpace)
	assert.ErrorIs(t, c.Create(ctx, "tank/b", zfs.CreateOptions{}), zfs.ErrNoSpace)
}

func TestAnEncryptedDatasetIsSentRawWithoutItsKey(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank", "back")
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/e", zfs.CreateOptions{Properties: map[string]string{
		"encryption": "on", "keyformat": "raw", "keylocation": "file:///key",
	}}))
	require.NoError(t, pool.Write("tank/e", "f", []byte("secret")))
	require.NoError(t, c.Snapshot(ctx, []string{"tank/e@s"}, nil))
	pool.SetKeyLoaded("tank/e", false)
	to := zfs.SendOptions{To: "tank/e@s"}
	assert.ErrorIs(t, c.Send(ctx, to, io.Discard), zfs.ErrKeyUnavailable)
	to.Raw = true
	var stream bytes.Buffer
	require.NoError(t, c.Send(ctx, to, &stream))
	require.NoError(t, c.Receive(ctx, zfs.ReceiveOptions{Target: "back/e@s", Unmounted: true}, &stream))
	d, err := c.Dataset(ctx, "back/e")
	require.NoError(t, err)
	assert.Equal(t, "aes-256-gcm", d.Encryption)
	assert.Equal(t, "unavailable", d.KeyStatus)
	assert.ErrorIs(t, c.Mount(ctx, "back/e"), zfs.ErrKeyUnavailable)
	assert.ErrorIs(t, c.Create(ctx, "back/e/child", zfs.CreateOptions{}), zfs.ErrKeyUnavailable)
}

func TestABusyDataset(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/a", zfs.CreateOptions{}))
	pool.SetBusy("tank/a", true)
	assert.ErrorIs(t, c.Unmount(ctx, "tank/a"), zfs.ErrBusy)
	assert.ErrorIs(t, c.Destroy(ctx, "tank/a", zfs.DestroyOptions{}), zfs.ErrBusy)
	assert.ErrorIs(t, c.Rename(ctx, "tank/a", "tank/b"), zfs.ErrBusy)
}

func TestAKilledCommandIsNotTakenForSuccess(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank", "back")
	c := &zfs.Client{Runner: pool}
	ctx := t.Context()
	require.NoError(t, c.Create(ctx, "tank/a", zfs.CreateOptions{}))
	require.NoError(t, pool.Write("tank/a", "f", make([]byte, 1<<16)))
	require.NoError(t, c.Snapshot(ctx, []string{"tank/a@s"}, nil))
	to := zfs.SendOptions{To: "tank/a@s"}

	pool.Cut("send", 1000)
	var stream bytes.Buffer
	assert.Error(t, c.Send(ctx, to, &stream))
	assert.Equal(t, 1000, stream.Len())

	stream.Reset()
	require.NoError(t, c.Send(ctx, to, &stream))
	pool.Cut("receive", 30000)
	assert.Error(t, c.Receive(ctx, zfs.ReceiveOptions{Target: "back/a@s", Resumable: true}, &stream))
	d, err := c.Dataset(ctx, "back/a")
	require.NoError(t, err)
	require.NotEmpty(t, d.ReceiveResumeToken)
	stream.Reset()
	require.NoError(t, c.Send(ctx, zfs.SendOptions{Token: d.ReceiveResumeToken}, &stream))
	require.NoError(t, c.Receive(ctx, zfs.ReceiveOptions{Target: "back/a@s", Resumable: true}, &stream))
	got, err := pool.Read("back/a@s", "f")
	require.NoError(t, err)
	assert.Len(t, got, 1<<16)

	lost := errors.New("host is gone")
	pool.Before(func([]string) error { return lost })
	assert.ErrorIs(t, c.Snapshot(ctx, []string{"tank/a@t"}, nil), lost)
	_, err = c.Versions(ctx, "tank/a")
	assert.ErrorIs(t, err, lost)
}

func TestHostsOfOneTestShareNoGUID(t *testing.T) {
	t.Parallel()
	seen := map[uint64]bool{}
	for range 2 {
		c := &zfs.Client{Runner: zfstest.NewPool()}
		d, err := c.Dataset(t.Context(), "tank")
		require.NoError(t, err)
		assert.False(t, seen[d.GUID])
		seen[d.GUID] = true
	}
}
