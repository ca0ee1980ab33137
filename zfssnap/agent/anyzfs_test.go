package agent_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"path"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// cutting is a Runner whose next receive gets no more than some bytes.
type cutting struct {
	zfs.Runner
	after atomic.Int64 // 0 for no cut
}

func (c *cutting) Run(ctx context.Context, cmd zfs.Cmd) (zfs.Result, error) {
	if cmd.Stdin != nil && cmd.Args[1] == "receive" {
		if n := c.after.Swap(0); n > 0 {
			cmd.Stdin = io.LimitReader(cmd.Stdin, n)
		}
	}
	return c.Runner.Run(ctx, cmd)
}

// TestReplicationOnAnyZFS takes volumes of every kind through the life of a
// replica: cut off and resumed, incremental, from a bookmark, refused. It runs
// on hosts in memory, and on the pools that the environment names.
func TestReplicationOnAnyZFS(t *testing.T) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		replicationOn(t, zfstest.NewPool("tank").Target("tank"), zfstest.NewPool("back").Target("back"))
	})
	if from, ok := zfstest.RealTarget(); ok {
		t.Run("real", func(t *testing.T) {
			to := from
			to.Pool = os.Getenv(zfstest.EnvReplicaPool)
			require.NotEmpty(t, to.Pool, zfstest.EnvReplicaPool)
			replicationOn(t, from, to)
		})
	}
}

// side is a node of that pool, with a dataset that all of a test lies below.
func side(t *testing.T, ca *agent.Authority, node, name string, target zfstest.Target, runner zfs.Runner, grants ...agent.Grant) (*host, string) {
	t.Helper()
	root := target.Pool + "/" + name
	c := &zfs.Client{Runner: runner}
	require.NoError(t, c.Create(t.Context(), root, zfs.CreateOptions{Properties: map[string]string{"mountpoint": "/tmp/" + name + node}}))
	t.Cleanup(func() { zfstest.Sweep(t, c, root) })
	return newHostOn(t, ca, node, c, agent.Policy{Identities: append(grants, everything)}), root
}

// unique is a name that no other test has.
func unique(what string) string {
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	return what + "-" + hex.EncodeToString(id)
}

func replicationOn(t *testing.T, from, to zfstest.Target) {
	t.Helper()
	name := unique("replication")
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	cut := &cutting{Runner: to.Runner}
	source, sourceRoot := side(t, ca, "hassio", name, from, from.Runner)
	target, targetRoot := side(t, ca, "remote", name, to, cut, agent.Grant{Name: "hassio", Verbs: []agent.Verb{agent.Receive}, Prefixes: []string{to.Pool + "/" + name}})
	w := &world{ca: ca, hassio: source, remote: target}
	w.client = w.dial(t, source, "velero")
	w.far = w.dial(t, target, "velero")
	ctx := t.Context()

	keys := sourceRoot + "/keys"
	require.NoError(t, source.zfs.Create(ctx, keys, zfs.CreateOptions{}))
	from.Write(t, keys, "key", random(32))
	d, err := source.zfs.Dataset(ctx, keys)
	require.NoError(t, err)
	encryption := map[string]string{"encryption": "aes-256-gcm", "keyformat": "raw", "keylocation": "file://" + path.Join(d.Mountpoint, "key")}
	require.NoError(t, target.zfs.Create(ctx, targetRoot+"/vault", zfs.CreateOptions{Properties: encryption}))

	tests := []struct {
		name   string
		volume uint64
		props  map[string]string
		below  string // of the target
		mode   string
	}{
		{"a filesystem", 0, map[string]string{"recordsize": "1M"}, "/", "Lce"},
		{"an encrypted filesystem", 0, encryption, "/", "w"},
		{"a filesystem to below an encrypted dataset", 0, map[string]string{"compression": "on"}, "/vault/", "Lc"},
		{"a volume", 16 << 20, nil, "/", "Lce"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vol := []string{"fs", "secret", "closed", "vol"}[i]
			dataset, copied := sourceRoot+"/"+vol, targetRoot+tt.below+vol
			require.NoError(t, source.zfs.Create(ctx, dataset, zfs.CreateOptions{VolumeSize: tt.volume, Properties: tt.props}))
			kind := zfs.Filesystem
			if tt.volume > 0 {
				kind = zfs.Volume
			}
			write := func(file string, size int) {
				if kind == zfs.Filesystem {
					from.Write(t, dataset, file, random(size))
				}
			}
			replicate := func(v *agentpb.Version) *agentpb.Transfer {
				t.Helper()
				source.clock.advance(time.Hour)
				req := w.request(v)
				req.TargetDataset = copied
				return w.replicateAs(t, req)
			}
			done := func(v *agentpb.Version) *agentpb.Transfer {
				t.Helper()
				tr := replicate(v)
				require.NoError(t, agent.TransferError(tr))
				vs, err := target.zfs.Versions(ctx, copied)
				require.NoError(t, err)
				newest := vs[len(vs)-1]
				assert.Equal(t, v.GetGuid(), newest.GUID)
				problems, err := received.Problems(ctx, target.zfs, copied, kind)
				require.NoError(t, err)
				assert.Empty(t, problems)
				assert.Equal(t, map[string]string{
					zfssnap.PropManaged: "true", zfssnap.PropSource: "hassio:" + dataset, zfssnap.PropStream: tt.mode,
				}, target.props(t, copied))
				assert.Equal(t, []string{"kubectl-dr:replica"}, target.holds(t, newest.FullName()))
				assert.Equal(t, []uint64{v.GetGuid()}, source.bookmarks(t, dataset))
				assert.Empty(t, target.token(t, copied))
				return tr
			}

			write("a", 4<<20)
			first := w.take(t, dataset, "one")
			if kind == zfs.Filesystem {
				// OpenZFS sends the last record that had arrived once more: of 1 MiB here.
				cut.after.Store(3 << 20)
				require.ErrorIs(t, agent.TransferError(replicate(first)), agent.ErrIncomplete)
				require.NotEmpty(t, target.token(t, copied))
				tr := done(first)
				assert.True(t, tr.GetResumed())
				assert.Less(t, tr.GetBytesSent(), uint64(7<<19))
			} else {
				done(first)
			}

			write("b", 3<<20)
			second := w.take(t, dataset, "two")
			if kind == zfs.Filesystem {
				cut.after.Store(2 << 20)
				require.ErrorIs(t, agent.TransferError(replicate(second)), agent.ErrIncomplete)
			}
			assert.Equal(t, dataset+"@one", done(second).GetBase())

			for _, v := range []*agentpb.Version{first, second} {
				_, err := w.client.DestroySnapshot(ctx, &agentpb.DestroySnapshotRequest{Dataset: dataset, Name: v.GetName(), Guid: v.GetGuid()})
				require.NoError(t, err)
			}
			write("c", 1<<20)
			third := w.take(t, dataset, "three")
			assert.Contains(t, done(third).GetBase(), dataset+"#kubectl-dr_remote_")

			for _, mode := range []string{agent.ModeClone, agent.ModeCopy} {
				if kind == zfs.Volume {
					requireReserved(t, w, dataset, copied+"@three", third.GetGuid(), targetRoot+"/"+mode, mode)
				}
			}
			if tt.mode == "Lce" && kind == zfs.Filesystem {
				require.NoError(t, target.zfs.Clone(ctx, copied+"@three", targetRoot+"/look", map[string]string{"readonly": "on", "canmount": "on"}))
				for file, size := range map[string]int{"a": 4 << 20, "b": 3 << 20, "c": 1 << 20} {
					assert.Equal(t, random(size), to.Read(t, targetRoot+"/look", file), file)
				}
			}

			require.NoError(t, target.zfs.Set(ctx, copied, map[string]string{zfssnap.PropStream: map[string]string{"w": "Lce"}[tt.mode] + "w"}))
			require.ErrorIs(t, agent.TransferError(replicate(w.take(t, dataset, "four"))), agent.ErrStreamMode)
		})
	}
}

// requireReserved makes a volume of a replica with what its source reserves, and
// then one for which there is no room.
func requireReserved(t *testing.T, w *world, source, snapshot string, guid uint64, dataset, mode string) {
	t.Helper()
	d, err := w.client.ResolveDataset(t.Context(), &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: source}})
	require.NoError(t, err)
	require.NotEmpty(t, d.GetNative()["refreservation"])
	req := &agentpb.CreateVolumeRequest{Snapshot: snapshot, Guid: guid, Dataset: dataset, Mode: mode, Native: d.GetNative()}
	for range 2 {
		made, err := w.far.CreateVolume(t.Context(), req)
		require.NoError(t, err)
		assert.Equal(t, d.GetNative()["refreservation"], made.GetNative()["refreservation"])
	}
	req = &agentpb.CreateVolumeRequest{
		Snapshot: snapshot, Guid: guid, Dataset: dataset + "-grown", Mode: mode,
		Native: map[string]string{"volsize": "1125899906842624", "refreservation": "1125899906842624"},
	}
	_, err = w.far.CreateVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrNoSpace)
	exists, err := w.remote.zfs.Exists(t.Context(), req.GetDataset())
	require.NoError(t, err)
	assert.False(t, exists, "what failed leaves nothing")
}

// TestArchiveOnAnyZFS restores volumes of every kind from an archive: cut off
// first, and then whole.
func TestArchiveOnAnyZFS(t *testing.T) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		archiveOn(t, zfstest.NewPool("tank").Target("tank"), zfstest.NewPool("back").Target("back"))
	})
	if from, ok := zfstest.RealTarget(); ok {
		t.Run("real", func(t *testing.T) {
			to := from
			to.Pool = os.Getenv(zfstest.EnvReplicaPool)
			require.NotEmpty(t, to.Pool, zfstest.EnvReplicaPool)
			archiveOn(t, from, to)
		})
	}
}

func archiveOn(t *testing.T, from, to zfstest.Target) {
	t.Helper()
	name := unique("archive")
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	cut := &cutting{Runner: to.Runner}
	source, sourceRoot := side(t, ca, "hassio", name, from, from.Runner)
	target, targetRoot := side(t, ca, "remote", name, to, cut)
	archives := directoryArchive(t, t.TempDir())
	for _, h := range []*host{source, target} {
		h.restart(t, func(s *agent.Server) { s.Archives = archives })
	}
	w := &world{ca: ca, hassio: source, remote: target}
	w.client = w.dial(t, source, "velero")
	w.far = w.dial(t, target, "velero")
	ctx := t.Context()

	keys := sourceRoot + "/keys"
	require.NoError(t, source.zfs.Create(ctx, keys, zfs.CreateOptions{}))
	from.Write(t, keys, "key", random(32))
	d, err := source.zfs.Dataset(ctx, keys)
	require.NoError(t, err)
	tests := []struct {
		name   string
		volume uint64
		props  map[string]string
	}{
		{"a filesystem", 0, map[string]string{"recordsize": "1M", "quota": "1G"}},
		{"an encrypted filesystem", 0, map[string]string{"encryption": "aes-256-gcm", "keyformat": "raw", "keylocation": "file://" + path.Join(d.Mountpoint, "key")}},
		{"a volume", 16 << 20, nil},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vol := []string{"fs", "secret", "vol"}[i]
			dataset, restored := sourceRoot+"/"+vol, targetRoot+"/new/"+vol
			require.NoError(t, source.zfs.Create(ctx, dataset, zfs.CreateOptions{VolumeSize: tt.volume, Properties: tt.props}))
			var last *agentpb.Version
			for size, file := range []string{"a", "b", "c"} {
				if tt.volume == 0 {
					from.Write(t, dataset, file, random((size+1)<<20))
				}
				last = w.take(t, dataset, file)
				w.archive(t, last)
			}
			req := &agentpb.CreateVolumeRequest{
				Guid: last.GetGuid(), Dataset: restored, Mode: agent.ModeArchive, Archive: "offsite",
				Properties: map[string]string{zfssnap.PropVolume: vol}, Native: map[string]string{"volsize": "33554432", "refreservation": "33554432"},
			}
			if tt.volume == 0 {
				req.Native = map[string]string{"quota": "2147483648", "refreservation": "1048576", "reservation": "2097152", "mountpoint": "/tmp/" + name + "-" + vol}
				cut.after.Store(512 << 10)
				_, err := w.far.CreateVolume(ctx, req)
				require.Error(t, err)
				exists, err := target.zfs.Exists(ctx, restored)
				require.NoError(t, err)
				require.False(t, exists, "what failed leaves nothing")
			}
			for range 2 {
				d, err := w.far.CreateVolume(ctx, req)
				require.NoError(t, err)
				for prop, value := range req.GetNative() {
					assert.Equal(t, value, d.GetNative()[prop], prop)
				}
				assert.False(t, d.GetReadonly())
				assert.Equal(t, vol == "fs", d.GetMounted())
			}
			versions, err := target.zfs.Versions(ctx, restored)
			require.NoError(t, err)
			assert.Empty(t, versions)
			assert.Equal(t, map[string]string{
				zfssnap.PropManaged: "true", zfssnap.PropVolume: vol, "io.kubectl-dr:origin": strconv.FormatUint(last.GetGuid(), 10),
			}, target.props(t, restored))
			if vol == "fs" {
				for size, file := range []string{"a", "b", "c"} {
					assert.Equal(t, random((size+1)<<20), to.Read(t, restored, file), file)
				}
				to.Write(t, restored, "d", []byte("it can be written to"))
			}
		})
	}
}
