package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const restoredVolume = "backup/znvm/k3s/pvc-1-0a1b2c3d"

// archiveWorld is a world whose agents both have the archive "offsite", which is
// a directory.
func archiveWorld(t *testing.T) (w *world, dir string) {
	t.Helper()
	w = newWorld(t)
	dir = filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.Mkdir(dir, 0o700))
	archives := directoryArchive(t, dir)
	for _, h := range []*host{w.hassio, w.remote} {
		h.restart(t, func(s *agent.Server) { s.Archives = archives })
	}
	return w, dir
}

// directoryArchive is the archive "offsite" in a directory.
func directoryArchive(t *testing.T, dir string) map[string]*archive.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %s}, part_size: 64Ki, concurrency: 1}", dir), 0o600))
	archives, err := agent.LoadArchives([]string{"offsite=" + file})
	require.NoError(t, err)
	return archives
}

func archiveRequest(v *agentpb.Version) *agentpb.ArchiveRequest {
	return &agentpb.ArchiveRequest{Dataset: v.GetDataset(), Snapshot: v.GetName(), Guid: v.GetGuid(), Archive: "offsite"}
}

// archive runs a transfer to the archive to its end.
func (w *world) archive(t *testing.T, v *agentpb.Version) *agentpb.Transfer {
	t.Helper()
	tr, err := w.client.Archive(t.Context(), archiveRequest(v))
	require.NoError(t, err)
	tr = w.wait(t, tr.GetId())
	require.NoError(t, agent.TransferError(tr))
	return tr
}

// backups takes snapshots of new data and archives each.
func (w *world) backups(t *testing.T, names ...string) (all []*agentpb.Version) {
	t.Helper()
	for _, name := range names {
		require.NoError(t, w.hassio.pool.Write(source, name, random(100<<10)))
		v := w.snapshot(t, name)
		w.archive(t, v)
		all = append(all, v)
	}
	return all
}

func fromArchive(guid uint64) *agentpb.CreateVolumeRequest {
	return &agentpb.CreateVolumeRequest{
		Guid: guid, Dataset: restoredVolume, Mode: agent.ModeArchive, Archive: "offsite",
		Properties: map[string]string{zfssnap.PropRestore: "r1", zfssnap.PropRun: "run-1"},
		Native:     map[string]string{"quota": "1073741824", "recordsize": "16384"},
	}
}

// listed names what the archive has of the source.
func (w *world) listed(t *testing.T) (names []string) {
	t.Helper()
	resp, err := w.far.ListArchived(t.Context(), &agentpb.ListArchivedRequest{Archive: "offsite", Node: "hassio", Dataset: source})
	require.NoError(t, err)
	for _, s := range resp.GetSnapshots() {
		names = append(names, strings.TrimSpace(s.GetName()+" "+s.GetProblem()))
	}
	return names
}

// requireRestored checks that the volume has the data of a snapshot, and is one
// like any other.
func (w *world) requireRestored(t *testing.T, v *agentpb.Version) {
	t.Helper()
	want, err := w.hassio.pool.Files(v.GetDataset() + "@" + v.GetName())
	require.NoError(t, err)
	got, err := w.remote.pool.Files(restoredVolume)
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))
	for name := range want {
		require.True(t, bytes.Equal(want[name], got[name]), "file %s differs", name)
	}
	assert.Equal(t, map[string]string{
		zfssnap.PropManaged: "true", zfssnap.PropRestore: "r1", zfssnap.PropRun: "run-1", "io.kubectl-dr:origin": fmt.Sprint(v.GetGuid()),
	}, w.remote.props(t, restoredVolume))
	versions, err := w.remote.zfs.Versions(t.Context(), restoredVolume)
	require.NoError(t, err)
	assert.Empty(t, versions, "what it came with is gone")
	native, err := w.remote.zfs.Get(t.Context(), restoredVolume, "readonly", "mountpoint", "canmount", "quota", "recordsize")
	require.NoError(t, err)
	for name, value := range map[string]string{"readonly": "off", "mountpoint": "legacy", "canmount": "noauto", "quota": "1073741824", "recordsize": "16384"} {
		assert.Equal(t, value, native[name].Value, name)
	}
	require.NoError(t, w.remote.pool.Write(restoredVolume, "new", []byte("it can be written to")))
}

func TestArchive_andRestore(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	b := w.backups(t, "b1", "b2", "b3")
	assert.Equal(t, []string{"dr-b1", "dr-b2", "dr-b3"}, w.listed(t))

	again := w.archive(t, b[2])
	assert.Equal(t, agentpb.Transfer_DONE, again.GetState())
	assert.Equal(t, "dr-b2", again.GetBase(), "it was an increment")
	assert.Less(t, again.GetBytesSent(), uint64(500<<10))
	assert.Equal(t, again.GetBytesSent(), again.GetBytesTotal())

	for _, v := range b {
		_, err := w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: v.GetName(), Guid: v.GetGuid()})
		require.NoError(t, err, "what is archived is held by nothing")
		if v == b[1] {
			break
		}
	}
	resp, err := w.far.ListArchived(t.Context(), &agentpb.ListArchivedRequest{Archive: "offsite", Node: "hassio", Dataset: source, Guid: b[2].GetGuid()})
	require.NoError(t, err)
	require.Len(t, resp.GetSnapshots(), 1)
	assert.Equal(t, b[1].GetGuid(), resp.GetSnapshots()[0].GetBase())

	for range 2 {
		d, err := w.far.CreateVolume(t.Context(), fromArchive(b[2].GetGuid()))
		require.NoError(t, err)
		assert.Equal(t, "1073741824", d.GetNative()["quota"])
	}
	w.requireRestored(t, b[2])
	replicas, _ := w.remote.server.Replicas()
	assert.Empty(t, replicas, "a volume is no replica")

	other := fromArchive(b[2].GetGuid())
	other.Properties[zfssnap.PropRestore] = "r2"
	_, err = w.far.CreateVolume(t.Context(), other)
	require.ErrorIs(t, err, agent.ErrExists)
	require.ErrorContains(t, err, `"r1", not "r2"`)
	_, err = w.far.CreateVolume(t.Context(), fromArchive(7))
	require.ErrorIs(t, err, agent.ErrNotFound)
	require.ErrorContains(t, err, "archive offsite: restore point with guid 7")
}

func TestArchive_ofAZvol(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	const disk = "znvm/k3s/disk"
	require.NoError(t, w.hassio.zfs.Create(t.Context(), disk, zfs.CreateOptions{VolumeSize: 64 << 20}))
	require.NoError(t, w.hassio.pool.Write(disk, "data", random(200<<10)))
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{disk}, Name: "dr-b1"})
	require.NoError(t, err)
	v := resp.GetSnapshots()[0]
	w.archive(t, v)
	req := fromArchive(v.GetGuid())
	req.Native = map[string]string{"volsize": fmt.Sprint(128 << 20)}
	d, err := w.far.CreateVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, "volume", d.GetType())
	assert.Equal(t, fmt.Sprint(128<<20), d.GetNative()["volsize"])
	props, err := w.remote.zfs.Get(t.Context(), restoredVolume, "readonly", "volmode")
	require.NoError(t, err)
	assert.Equal(t, "off", props["readonly"].Value)
	assert.Equal(t, "default", props["volmode"].Value)
}

func TestArchive_unknown(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	req := archiveRequest(w.snapshot(t, "b1"))
	req.Archive = "ofsite"
	_, err := w.client.Archive(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrNoArchive)
	require.ErrorContains(t, err, `node hassio: no such archive: "ofsite"; this node's are: offsite`)
	var agentErr *agent.Error
	require.ErrorAs(t, err, &agentErr)
	assert.Equal(t, "start the agent of node hassio with --archive=ofsite=FILE too, or correct the name", agentErr.Hint())

	plain := newWorld(t)
	_, err = plain.client.ListArchived(t.Context(), &agentpb.ListArchivedRequest{Archive: "offsite"})
	require.ErrorContains(t, err, "this node's are: none")
}

func TestLoadArchives_refuses(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("{type: TAPE, max_chain: -1}"), 0o600))
	for given, says := range map[string]string{
		"offsite":          "write it as NAME=FILE",
		"off/site=x":       "invalid",
		"offsite=/nowhere": "archive offsite: read archive configuration: open /nowhere",
		"offsite=" + bad:   `type "TAPE" is not S3 or FILESYSTEM`,
	} {
		_, err := agent.LoadArchives([]string{given})
		require.ErrorContains(t, err, says, given)
	}
	_, err := agent.LoadArchives([]string{"offsite=" + bad})
	require.ErrorContains(t, err, "max_chain -1 is negative")
}

func TestArchive_thatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	w, dir := archiveWorld(t)
	require.NoError(t, os.Rename(dir, dir+".away"))
	v := w.snapshot(t, "b1")
	tr, err := w.client.Archive(t.Context(), archiveRequest(v))
	require.NoError(t, err)
	waiting := w.until(t, tr.GetId(), func(tr *agentpb.Transfer) bool { return tr.GetReason() == "ARCHIVE_UNAVAILABLE" })
	assert.Equal(t, agentpb.Transfer_RUNNING, waiting.GetState())
	assert.Contains(t, waiting.GetError(), "archive is unavailable: offsite: ")
	_, err = w.client.ExpireArchived(t.Context(), &agentpb.ExpireArchivedRequest{Archive: "offsite", Dataset: source, Guids: []uint64{1}})
	require.ErrorIs(t, err, agent.ErrArchive)

	require.NoError(t, os.Rename(dir+".away", dir))
	require.NoError(t, agent.TransferError(w.wait(t, tr.GetId())))
	assert.Equal(t, []string{"dr-b1"}, w.listed(t))
}

// halting is a Runner whose sends stop after some bytes until they are let go,
// or killed.
type halting struct {
	zfs.Runner
	after atomic.Int64 // 0 for no halt
	at    chan struct{}
	gate  chan struct{}
	once  sync.Once
}

// halt makes the source's sends stop. It is called before any other call.
func (w *world) halt(t *testing.T, after int64) *halting {
	t.Helper()
	h := &halting{Runner: w.hassio.pool, at: make(chan struct{}), gate: make(chan struct{})}
	h.after.Store(after)
	w.hassio.zfs = &zfs.Client{Runner: h}
	w.hassio.restart(t, w.hassio.tune)
	return h
}

func (h *halting) Run(ctx context.Context, cmd zfs.Cmd) (zfs.Result, error) {
	if n := h.after.Load(); n > 0 && cmd.Args[1] == "send" && cmd.Stdout != nil {
		cmd.Stdout = &haltingWriter{h: h, ctx: ctx, w: cmd.Stdout, left: n}
	}
	return h.Runner.Run(ctx, cmd)
}

type haltingWriter struct {
	h    *halting
	ctx  context.Context
	w    io.Writer
	left int64
}

func (w *haltingWriter) Write(b []byte) (int, error) {
	if w.left -= int64(len(b)); w.left < 0 {
		w.h.once.Do(func() { close(w.h.at) })
		select {
		case <-w.h.gate:
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		}
	}
	return w.w.Write(b)
}

func TestArchive_goesOnAfterTheAgentStopped(t *testing.T) {
	t.Parallel()
	w, dir := archiveWorld(t)
	halt := w.halt(t, 600<<10)
	v := w.snapshot(t, "b1")
	tr, err := w.client.Archive(t.Context(), archiveRequest(v))
	require.NoError(t, err)
	<-halt.at
	same, err := w.client.Archive(t.Context(), archiveRequest(v))
	require.NoError(t, err)
	assert.Equal(t, tr.GetId(), same.GetId(), "it runs once")
	_, err = w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: v.GetName(), Guid: v.GetGuid()})
	require.ErrorIs(t, err, agent.ErrBusy)
	before := stored(t, dir)

	w.hassio.stop(t)
	halt.after.Store(0)
	w.hassio.start(t)
	assert.Empty(t, w.listed(t), "half of it is no restore point")
	w.forgotten(t, tr.GetId())
	again := w.archive(t, v)
	assert.True(t, again.GetResumed())
	assert.Equal(t, tr.GetId(), again.GetId())
	assert.Equal(t, []string{"dr-b1"}, w.listed(t))
	after := stored(t, dir)
	require.NotEmpty(t, before)
	for name, at := range before {
		assert.Equal(t, at, after[name], "%s is not stored again", name)
	}
}

// stored lists the parts in an archive and when each was written.
func stored(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "data", "*", "0*"))
	require.NoError(t, err)
	found := map[string]time.Time{}
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		found[filepath.Base(file)] = info.ModTime()
	}
	return found
}

func TestArchive_isCancelled(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	halt := w.halt(t, 300<<10)
	v := w.snapshot(t, "b1")
	tr, err := w.client.Archive(t.Context(), archiveRequest(v))
	require.NoError(t, err)
	<-halt.at
	_, err = w.dial(t, w.hassio, "stranger").CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: tr.GetId()})
	require.ErrorIs(t, err, agent.ErrDenied)
	tr, err = w.client.CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: tr.GetId()})
	require.NoError(t, err)
	require.ErrorContains(t, agent.TransferError(tr), "archive znvm/k3s/pvc-1@dr-b1 in offsite: cancelled")
	halt.after.Store(0)
	w.archive(t, v)
}

// A slow archive keeps no copy to the recovery site waiting, and one dataset goes
// to the archive one snapshot after the other.
func TestArchive_besideReplication(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	halt := w.halt(t, 0)
	first := w.snapshot(t, "b1")
	w.done(t, first)
	halt.after.Store(300 << 10)
	one, err := w.client.Archive(t.Context(), archiveRequest(first))
	require.NoError(t, err)
	<-halt.at
	halt.after.Store(0)
	require.NoError(t, w.hassio.pool.Write(source, "more", random(10<<10)))
	second := w.snapshot(t, "b2")
	two, err := w.client.Archive(t.Context(), archiveRequest(second))
	require.NoError(t, err)
	w.done(t, second)
	close(halt.gate)
	require.NoError(t, agent.TransferError(w.wait(t, one.GetId())))
	last := w.wait(t, two.GetId())
	require.NoError(t, agent.TransferError(last))
	assert.Equal(t, "dr-b1", last.GetBase())
}

func TestExpireArchived(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	b := w.backups(t, "b1", "b2", "b3")
	expire := func(versions ...*agentpb.Version) []*agentpb.KeptArchived {
		req := &agentpb.ExpireArchivedRequest{Archive: "offsite", Dataset: source}
		for _, v := range versions {
			req.Guids = append(req.Guids, v.GetGuid())
		}
		resp, err := w.client.ExpireArchived(t.Context(), req)
		require.NoError(t, err)
		return resp.GetKept()
	}
	kept := expire(b[0])
	require.Len(t, kept, 1)
	assert.Equal(t, "base of znvm/k3s/pvc-1@dr-b2", kept[0].GetReason())
	assert.Empty(t, expire(b[2]))
	assert.Equal(t, []string{"dr-b1", "dr-b2"}, w.listed(t))
	assert.Empty(t, expire(b[2]), "it is gone")
	assert.Empty(t, expire(b[0], b[1]), "together they need nobody")
	assert.Empty(t, w.listed(t))

	more := w.backups(t, "b4")
	_, err := w.far.ExpireArchived(t.Context(), &agentpb.ExpireArchivedRequest{Archive: "offsite", Dataset: source, Guids: []uint64{more[0].GetGuid()}})
	require.ErrorIs(t, err, agent.ErrMismatch, "another node's is not for this agent to delete")
	assert.Equal(t, []string{"dr-b4"}, w.listed(t))
}

// A restore that fails leaves nothing. One whose agent was killed leaves what
// nobody takes for a volume; the same request goes on from there.
func TestRestoreFromArchive_interrupted(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	b := w.backups(t, "b1", "b2")
	req := fromArchive(b[1].GetGuid())
	errCut := errors.New("cut")
	killed := false
	receives := 0
	w.remote.pool.Before(func(args []string) error {
		if args[1] == "receive" {
			if receives++; receives%2 == 0 {
				return errCut
			}
		}
		if killed && args[1] == "destroy" {
			return errCut
		}
		return nil
	})
	_, err := w.far.CreateVolume(t.Context(), req)
	require.Error(t, err)
	gone, err := w.remote.zfs.Exists(t.Context(), restoredVolume)
	require.NoError(t, err)
	assert.False(t, gone, "a failure leaves nothing")

	killed = true
	_, err = w.far.CreateVolume(t.Context(), req)
	require.Error(t, err)
	w.remote.pool.Before(nil)
	props := w.remote.props(t, restoredVolume)
	assert.Equal(t, fmt.Sprint("restoring ", b[1].GetGuid()), props["io.kubectl-dr:origin"])
	native, err := w.remote.zfs.Get(t.Context(), restoredVolume, "readonly", "mounted")
	require.NoError(t, err)
	assert.Equal(t, "on", native["readonly"].Value)
	_, err = w.far.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{Guid: b[0].GetGuid()})
	require.ErrorIs(t, err, agent.ErrNotFound, "nobody builds on it")
	replicas, _ := w.remote.server.Replicas()
	assert.Empty(t, replicas)
	other := fromArchive(b[0].GetGuid())
	_, err = w.far.CreateVolume(t.Context(), other)
	require.ErrorIs(t, err, agent.ErrExists, "it is of another snapshot")

	receives = 0
	w.remote.pool.Before(func(args []string) error {
		if args[1] == "receive" {
			receives++
		}
		return nil
	})
	_, err = w.far.CreateVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, 1, receives, "what is there is not received again")
	w.requireRestored(t, b[1])
}

func TestRestoreFromArchive_leftoverIsDestroyed(t *testing.T) {
	t.Parallel()
	w, dir := archiveWorld(t)
	b := w.backups(t, "b1")
	c, err := archive.ParseConfig(fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %s}}", dir))
	require.NoError(t, err)
	store, err := c.Open()
	require.NoError(t, err)
	chain, err := store.Chain(t.Context(), archive.GUID(b[0].GetGuid()))
	require.NoError(t, err)
	require.NoError(t, w.remote.zfs.Create(t.Context(), "backup/znvm/k3s", zfs.CreateOptions{Parents: true}))
	r := &archive.Restorer{ZFS: w.remote.zfs, Store: store, Concurrency: 1, Mark: map[string]string{
		zfssnap.PropRun: "run-1", "io.kubectl-dr:origin": fmt.Sprint("restoring ", b[0].GetGuid()),
	}}
	plan, err := r.PlanChain(t.Context(), chain, restoredVolume)
	require.NoError(t, err)
	_, err = r.Restore(t.Context(), plan)
	require.NoError(t, err)

	resp, err := w.far.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: restoredVolume, Match: map[string]string{zfssnap.PropRun: "run-1"}})
	require.NoError(t, err)
	assert.True(t, resp.GetExisted())
	exists, err := w.remote.zfs.Exists(t.Context(), restoredVolume)
	require.NoError(t, err)
	assert.False(t, exists)
}
