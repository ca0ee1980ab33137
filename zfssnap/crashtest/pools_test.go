package crashtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// trouble is what a pool can be in while it is replicated to or from.
type trouble struct {
	name string
	// world returns where it happens, and what makes it begin and end.
	world func(t *testing.T) (w *world, begin, end func())
	// seen reports whether it shows.
	seen func(t *testing.T, w *world, tr *agentpb.Transfer) bool
	// cause is what the transfer fails with, unless it waits for the end.
	cause error
}

// TestPoolInTrouble has something happen to a pool in the midst of a transfer,
// and go on when that is over.
func TestPoolInTrouble(t *testing.T) {
	for _, p := range newPlace(t).troubles() {
		t.Run(p.name, func(t *testing.T) {
			w, begin, end := p.world(t)
			c := story{}.begin(t, w)
			c.take(t)
			w.onStrike = begin
			c.fault = &fault{Step: streamOf(targetNode), What: pool, When: midway, Bytes: int64(c.size)}
			c.phase(t, phaseReplicate)
			c.fault = nil
			tr, err := c.source.client.Replicate(t.Context(), c.request())
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				tr, err = c.source.client.GetTransfer(t.Context(), &agentpb.GetTransferRequest{Id: tr.GetId()})
				return assert.NoError(t, err) && p.seen(t, w, tr)
			}, c.patience, c.pause)
			if failed := agent.TransferError(tr); failed != nil {
				require.ErrorIs(t, failed, p.cause)
				// It is reported once.
				_, err := c.source.client.Replicate(t.Context(), c.request())
				require.NoError(t, err)
			}
			end()
			c.send(t)
			c.expire(t)
			require.NoError(t, c.damage(t.Context(), true))
			c.backup(t)
			c.requireClean(t)
		})
	}
}

// failed reports whether a transfer has.
func failed(_ *testing.T, _ *world, tr *agentpb.Transfer) bool {
	return tr.GetState() == agentpb.Transfer_FAILED
}

// ended reports whether a transfer has, in one way or the other.
func ended(_ *testing.T, _ *world, tr *agentpb.Transfer) bool {
	return tr.GetState() != agentpb.Transfer_RUNNING
}

// troubles implements place.
func (m memory) troubles() []trouble {
	with := func(change func(source, target *zfstest.Pool, on bool)) func(t *testing.T) (*world, func(), func()) {
		return func(t *testing.T) (*world, func(), func()) {
			w := m.world(t)
			source, target := w.source.zfs.Runner.(*zfstest.Pool), w.target.zfs.Runner.(*zfstest.Pool)
			return w, func() { change(source, target, true) }, func() { change(source, target, false) }
		}
	}
	return []trouble{
		{name: "the target is full", cause: agent.ErrNoSpace, seen: failed, world: with(func(_, target *zfstest.Pool, on bool) {
			free := map[bool]uint64{true: 0, false: 1 << 40}
			target.SetFree("backup", free[on])
		})},
		{name: "the target is suspended", cause: agent.ErrPool, seen: failed, world: with(func(_, target *zfstest.Pool, on bool) {
			target.SetSuspended("backup", on)
		})},
		// All that the copy needs of the source is done by then; the rest waits.
		{name: "the source is suspended", seen: ended,
			world: with(func(source, _ *zfstest.Pool, on bool) { source.SetSuspended("znvm", on) })},
	}
}

// troubles implements place. They happen to pools made for it.
func (p *pools) troubles() []trouble {
	return []trouble{
		{name: "the target is full", cause: agent.ErrNoSpace, seen: failed, world: func(t *testing.T) (*world, func(), func()) {
			s := newScratch(t)
			w := p.worldOn(t, p.source, s.name)
			return w, func() { s.fill(t) }, func() { s.empty(t) }
		}},
		{name: "the target is suspended", cause: agent.ErrPool, seen: suspended, world: func(t *testing.T) (*world, func(), func()) {
			s := newScratch(t)
			w := p.worldOn(t, p.source, s.name)
			return w, func() { s.suspend(t) }, func() { s.resume(t) }
		}},
		{name: "the source is suspended", cause: agent.ErrPool, seen: suspended, world: func(t *testing.T) (*world, func(), func()) {
			s := newScratch(t)
			w := p.worldOn(t, s.name, p.target)
			return w, func() { s.suspend(t) }, func() { s.resume(t) }
		}},
	}
}

// suspended reports whether a pool is.
func suspended(t *testing.T, w *world, _ *agentpb.Transfer) bool {
	all, err := w.target.zfs.Pools(t.Context())
	return assert.NoError(t, err) && slices.ContainsFunc(all, func(p zfs.PoolInfo) bool { return p.Health == "SUSPENDED" })
}

// scratch is a pool on a sparse file, on a file system whose size decides how
// much of it there really is.
type scratch struct {
	name, dir, filler string
}

func newScratch(t *testing.T) *scratch {
	t.Helper()
	dir, err := os.MkdirTemp("", "scratch")
	require.NoError(t, err)
	s := &scratch{name: filepath.Base(dir), dir: dir, filler: filepath.Join(dir, "theirs", "filler")}
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=100m"))
	t.Cleanup(func() {
		assert.NoError(t, syscall.Unmount(dir, 0))
		assert.NoError(t, os.Remove(dir))
	})
	file := filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 80<<20))
	s.zpool(t, "create", "-O", "mountpoint=none", "-O", "compression=off", s.name, file)
	t.Cleanup(func() {
		s.resume(t)
		s.zpool(t, "destroy", "-f", s.name)
	})
	s.run(t, "zfs", "create", "-o", "mountpoint="+filepath.Dir(s.filler), s.name+"/theirs")
	return s
}

func (s *scratch) zpool(t *testing.T, args ...string) {
	t.Helper()
	s.run(t, append([]string{"zpool"}, args...)...)
}

func (s *scratch) run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	res, err := zfs.Exec{}.Run(ctx, zfs.Cmd{Args: args})
	assert.NoError(t, err)
	assert.Zero(t, res.ExitCode, "%v: %s", args, res.Stderr)
}

// fill takes all there is.
func (s *scratch) fill(t *testing.T) {
	f, err := os.Create(s.filler)
	assert.NoError(t, err)
	defer f.Close()
	for block := bytes.Repeat([]byte("full"), 32<<10); err == nil; {
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
	}
	assert.ErrorIs(t, err, syscall.ENOSPC)
}

func (s *scratch) empty(t *testing.T) { assert.NoError(t, os.Remove(s.filler)) }

// suspend leaves the disk no more than it has written so far, and has the pool
// find out.
func (s *scratch) suspend(t *testing.T) {
	var st syscall.Statfs_t
	assert.NoError(t, syscall.Statfs(s.dir, &st))
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	assert.NoError(t, syscall.Mount("tmpfs", s.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", used)))
	assert.NoError(t, os.WriteFile(s.filler, make([]byte, 1<<20), 0o600))
}

func (s *scratch) resume(t *testing.T) {
	assert.NoError(t, syscall.Mount("tmpfs", s.dir, "tmpfs", syscall.MS_REMOUNT, "size=100m"))
	s.zpool(t, "clear", s.name)
}
