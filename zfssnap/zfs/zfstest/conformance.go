package zfstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Environment that points tests at real pools.
const (
	// EnvPool names a pool that the suite may create a dataset on.
	EnvPool = "ZFS_TEST_POOL"
	// EnvReplicaPool names the pool for replicas of what is on that of EnvPool,
	// where a test has them.
	EnvReplicaPool = "ZFS_TEST_REPLICA_POOL"
	// EnvRunner is a command to put before every command, where the pool is on
	// another host: "ssh root@host". It is split at spaces and must pass stdin
	// and stdout through.
	EnvRunner = "ZFS_TEST_RUNNER"
)

// Target is what the conformance suite runs on.
type Target struct {
	Runner zfs.Runner
	// Pool is where the suite makes a dataset of its own, and removes it.
	Pool string
	// Write and Read reach the data of a mounted filesystem.
	Write func(t *testing.T, dataset, name string, data []byte)
	Read  func(t *testing.T, dataset, name string) []byte
	// Spare makes a pool of its own, and returns the directory that its disk is in, ""
	// for where pools are looked for anyway.
	Spare func(t *testing.T) (pool, devices string)
	// Hang makes a pool of its own on which the next command that writes hangs,
	// until heal is called. Commands elsewhere take less than timeout.
	Hang func(t *testing.T) (pool string, timeout time.Duration, heal func())
}

// Target makes the host a target of the suite.
func (p *Pool) Target(pool string) Target {
	return Target{
		Runner: p, Pool: pool,
		Write: func(t *testing.T, dataset, name string, data []byte) {
			t.Helper()
			require.NoError(t, p.Write(dataset, name, data))
		},
		Read: func(t *testing.T, dataset, name string) []byte {
			t.Helper()
			data, err := p.Read(dataset, name)
			require.NoError(t, err)
			return data
		},
		Spare: func(*testing.T) (string, string) {
			p.Add("spare")
			return "spare", ""
		},
		Hang: func(*testing.T) (string, time.Duration, func()) {
			p.Add("hanging")
			p.SetHanging("hanging", true)
			return "hanging", time.Second, func() { p.SetHanging("hanging", false) }
		},
	}
}

// RealTarget is the pool that the environment names; ok is false when it names
// none.
func RealTarget() (target Target, ok bool) {
	name := os.Getenv(EnvPool)
	if name == "" {
		return Target{}, false
	}
	run := zfs.Exec{Prefix: strings.Fields(os.Getenv(EnvRunner))}
	client := &zfs.Client{Runner: run}
	// Any command works through Exec, so files are written by tee and read by
	// cat wherever the pool is.
	file := func(t *testing.T, dataset, name string) string {
		t.Helper()
		d, err := client.Dataset(t.Context(), dataset)
		require.NoError(t, err)
		require.True(t, d.Mounted, "%s is not mounted", dataset)
		return path.Join(d.Mountpoint, name)
	}
	return Target{
		Runner: run, Pool: name,
		Write: func(t *testing.T, dataset, name string, data []byte) {
			t.Helper()
			res, err := run.Run(t.Context(), zfs.Cmd{
				Args: []string{"tee", file(t, dataset, name)}, Stdin: bytes.NewReader(data), Stdout: io.Discard,
			})
			require.NoError(t, err)
			require.Zero(t, res.ExitCode, res.Stderr)
		},
		Read: func(t *testing.T, dataset, name string) []byte {
			t.Helper()
			var data bytes.Buffer
			res, err := run.Run(t.Context(), zfs.Cmd{Args: []string{"cat", file(t, dataset, name)}, Stdout: &data})
			require.NoError(t, err)
			require.Zero(t, res.ExitCode, res.Stderr)
			return data.Bytes()
		},
		Spare: func(t *testing.T) (string, string) { return spare(t, run) },
		Hang:  func(t *testing.T) (string, time.Duration, func()) { return hang(t, run) },
	}, true
}

// commands returns what runs a command that has to succeed.
func commands(t *testing.T, run zfs.Runner) func(ctx context.Context, args ...string) {
	return func(ctx context.Context, args ...string) {
		t.Helper()
		res, err := run.Run(ctx, zfs.Cmd{Args: args})
		require.NoError(t, err, args)
		require.Zero(t, res.ExitCode, "%v: %s", args, res.Stderr)
	}
}

// spare makes a pool on a file.
func spare(t *testing.T, run zfs.Runner) (pool, devices string) {
	t.Helper()
	do := commands(t, run)
	pool = "extra" + randomID() // a name that begins with spare is reserved
	devices = "/tmp/" + pool
	do(t.Context(), "mkdir", devices)
	do(t.Context(), "truncate", "-s", "128M", devices+"/vdev")
	do(t.Context(), "zpool", "create", "-o", "cachefile=none", "-O", "mountpoint=none", pool, devices+"/vdev")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		do(ctx, "zpool", "destroy", pool)
		do(ctx, "rm", "-r", devices)
	})
	return pool, devices
}

// hang makes a pool on a file that has no room to grow: a write to it fails, so
// ZFS suspends the pool while a command waits for that write.
func hang(t *testing.T, run zfs.Runner) (pool string, timeout time.Duration, heal func()) {
	t.Helper()
	do := commands(t, run)
	ctx := t.Context()
	pool = "hanging" + randomID()
	dir := "/tmp/" + pool
	do(ctx, "mkdir", dir)
	do(ctx, "mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", dir)
	do(ctx, "truncate", "-s", "256M", dir+"/vdev")
	do(ctx, "zpool", "create", "-O", "mountpoint=none", pool, dir+"/vdev")
	do(ctx, "zpool", "sync", pool)
	heal = sync.OnceFunc(func() {
		// Also as a cleanup, when the test's own context has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		do(ctx, "rm", dir+"/fill")
		do(ctx, "zpool", "clear", pool)
	})
	t.Cleanup(func() {
		heal()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		do(ctx, "zpool", "destroy", pool)
		do(ctx, "umount", dir)
		do(ctx, "rmdir", dir)
	})
	// It ends with an error when there is no more room.
	_, err := run.Run(ctx, zfs.Cmd{Args: []string{"dd", "if=/dev/zero", "of=" + dir + "/fill", "bs=64k"}})
	require.NoError(t, err)
	return pool, 20 * time.Second, heal
}

func randomID() string {
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// Conformance checks every behaviour of ZFS that the product relies on. All
// happens below <pool>/conformance-<random>, which is removed at the end.
func Conformance(t *testing.T, target Target) {
	t.Helper()
	c := &zfs.Client{Runner: target.Runner}
	root := target.Pool + "/conformance-" + randomID()
	mountpoint := "/tmp/zfs-" + path.Base(root)
	require.NoError(t, c.Create(t.Context(), root, zfs.CreateOptions{
		Properties: map[string]string{"mountpoint": mountpoint, "compression": "off"},
	}))
	t.Cleanup(func() { Sweep(t, c, root) })
	for i, test := range conformance {
		t.Run(test.name, func(t *testing.T) {
			dir := fmt.Sprintf("%s/%d", root, i)
			require.NoError(t, c.Create(t.Context(), dir, zfs.CreateOptions{}))
			test.run(&suite{T: t, Client: c, Target: target, dir: dir})
		})
	}
}

// Sweep removes everything at and below root, clones first. It may run when the
// test's own context has ended.
func Sweep(t *testing.T, c *zfs.Client, root string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	ds, err := c.Datasets(ctx, root, true)
	if !assert.NoError(t, err) {
		return
	}
	for _, d := range ds {
		vs, err := c.Versions(ctx, d.Name)
		assert.NoError(t, err)
		for _, v := range vs {
			if v.UserRefs == 0 {
				continue
			}
			holds, err := c.Holds(ctx, v.FullName())
			assert.NoError(t, err)
			for _, h := range holds {
				assert.NoError(t, c.Release(ctx, h.Tag, h.Snapshot))
			}
		}
	}
	// Each round frees the origins of the clones that went in the one before.
	for range len(ds) {
		err = c.Destroy(ctx, root, zfs.DestroyOptions{Recursive: true})
		if err == nil {
			return
		}
		for _, d := range ds {
			if d.Origin != "" {
				_ = c.Destroy(ctx, d.Name, zfs.DestroyOptions{Recursive: true})
			}
		}
	}
	assert.NoError(t, err)
}

// suite is what one case has to work with.
type suite struct {
	*testing.T
	*zfs.Client
	Target
	dir string // the case's own dataset
}

// fs makes a filesystem of the case.
func (s *suite) fs(name string) string {
	s.Helper()
	ds := s.dir + "/" + name
	require.NoError(s, s.Create(s.Context(), ds, zfs.CreateOptions{}))
	return ds
}

// snap takes a snapshot and returns it.
func (s *suite) snap(dataset, name string) zfs.Version {
	s.Helper()
	require.NoError(s, s.Snapshot(s.Context(), []string{dataset + "@" + name}, nil))
	v, err := s.Lookup(s.Context(), dataset+"@"+name)
	require.NoError(s, err)
	return v
}

func (s *suite) write(dataset, name string, data []byte) {
	s.Helper()
	s.Write(s.T, dataset, name, data)
}

// stream collects a send.
func (s *suite) stream(o zfs.SendOptions) []byte {
	s.Helper()
	var b bytes.Buffer
	require.NoError(s, s.Send(s.Context(), o, &b))
	require.NotZero(s, b.Len())
	return b.Bytes()
}

// receiveOptions are those the product receives with.
func receiveOptions(target string) zfs.ReceiveOptions {
	return zfs.ReceiveOptions{
		Target: target, Resumable: true, Unmounted: true,
		Set:     map[string]string{"readonly": "on", "canmount": "noauto"},
		Exclude: []string{"mountpoint", "overlay", "sharenfs", "sharesmb", "exec", "setuid", "devices"},
	}
}

// volumeOptions are receiveOptions for a volume.
func volumeOptions(target string) zfs.ReceiveOptions {
	return zfs.ReceiveOptions{
		Target: target, Resumable: true, Unmounted: true,
		Set: map[string]string{"readonly": "on", "volmode": "none", "snapdev": "hidden", "refreservation": "none"},
	}
}

func (s *suite) receive(target string, stream []byte) error {
	return s.Receive(s.Context(), receiveOptions(target), bytes.NewReader(stream))
}

// encrypted makes an encrypted filesystem, and returns it with where its key is.
func (s *suite) encrypted(name string) (dataset, key string) {
	s.Helper()
	ctx := s.Context()
	keys := s.fs(name + "-keys")
	s.write(keys, "key", random(7, 32))
	d, err := s.Dataset(ctx, keys)
	require.NoError(s, err)
	key = "file://" + path.Join(d.Mountpoint, "key")
	dataset = s.dir + "/" + name
	require.NoError(s, s.Create(ctx, dataset, zfs.CreateOptions{Properties: map[string]string{
		"encryption": "aes-256-gcm", "keyformat": "raw", "keylocation": key,
	}}))
	return dataset, key
}

// values are the values of properties, without their sources.
func (s *suite) values(name string, props ...string) map[string]string {
	s.Helper()
	got, err := s.Get(s.Context(), name, props...)
	require.NoError(s, err)
	values := map[string]string{}
	for k, p := range got {
		values[k] = p.Value
	}
	return values
}

// nothingReceived checks that no property came with a stream.
func (s *suite) nothingReceived(dataset string) {
	s.Helper()
	received, err := s.Received(s.Context(), dataset)
	require.NoError(s, err)
	assert.Empty(s, received, dataset)
}

// resume tells what the token of a dataset contains.
func (s *suite) resume(dataset string) zfs.Resume {
	s.Helper()
	d, err := s.Dataset(s.Context(), dataset)
	require.NoError(s, err)
	require.NotEmpty(s, d.ReceiveResumeToken)
	est, err := s.SendSize(s.Context(), zfs.SendOptions{Token: d.ReceiveResumeToken})
	require.NoError(s, err)
	require.NotNil(s, est.Resume)
	return *est.Resume
}

func (s *suite) versions(dataset string) []zfs.Version {
	s.Helper()
	vs, err := s.Versions(s.Context(), dataset)
	require.NoError(s, err)
	return vs
}

// names is what versions are called, in order.
func (s *suite) names(dataset string) []string {
	s.Helper()
	var names []string
	for _, v := range s.versions(dataset) {
		names = append(names, strings.TrimPrefix(v.FullName(), dataset))
	}
	return names
}

// contains checks the data in a snapshot, through a clone of it.
func (s *suite) contains(snapshot, file string, want []byte) {
	s.Helper()
	clone := s.dir + "/look"
	ctx := s.Context()
	require.NoError(s, s.Clone(ctx, snapshot, clone, map[string]string{"canmount": "on"}))
	require.NoError(s, s.Mount(ctx, clone))
	got := s.Read(s.T, clone, file)
	assert.True(s, bytes.Equal(want, got), "%s in %s: %d bytes that differ from the %d expected", file, snapshot, len(got), len(want))
	require.NoError(s, s.Destroy(ctx, clone, zfs.DestroyOptions{}))
}

// random is incompressible data, always the same for a seed.
func random(seed uint64, size int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	data := make([]byte, size)
	_, _ = mathrand.NewChaCha8(key).Read(data)
	return data
}

const mib = 1 << 20

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	digits   = "0123456789"
	nameable = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + digits + "-_.: "
)

// words are random strings over an alphabet, always the same; check says which
// of them to keep.
func words(n, longest int, alphabet string, check func(string) error) []string {
	r := mathrand.New(mathrand.NewPCG(uint64(n), uint64(longest)))
	var kept []string
	for len(kept) < n {
		b := make([]byte, 1+r.IntN(longest))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		if check(string(b)) == nil {
			kept = append(kept, string(b))
		}
	}
	return kept
}

// acceptedParts are parts of names at the edges of what is accepted, and some
// from between.
func acceptedParts(longest int) []string {
	return append([]string{
		"-", "-r", "_", ":", "a:b", "...", ".a", "a.", " a", "a ", "a  b", "0", "A", "recv", "origin", "mirror", "log",
		strings.Repeat("n", longest), strings.Repeat(".", longest),
	}, words(6, 40, nameable, zfs.ValidateComponent)...)
}

// acceptedTags are hold tags at the edges of what is accepted.
func acceptedTags() []string {
	printable := make([]byte, 0, 94)
	for c := byte('!'); c <= '~'; c++ {
		printable = append(printable, c)
	}
	return append([]string{
		"a", "0", "_", "a.", "kubectl-dr:backup", "kubectl-dr:run:wordpress-drill-20260102-030405", string(printable),
		"a@b#c/d%e", "'\"\\$(x)`;|&", strings.Repeat("t", zfs.MaxHoldTag),
	}, words(4, 80, string(printable), zfs.ValidateHoldTag)...)
}

// acceptedProperties are user properties at the edges of what is accepted.
func acceptedProperties() map[string]string {
	props := map[string]string{
		"a:": "x", "0:1": "x", ":": "x", "io.kubectl-dr:hold:run:a-b.c_d": `{"by":"x","until":"2026-01-02T03:04:05Z"}`,
		"a:" + strings.Repeat("n", zfs.MaxPropertyName-2): "x",
		"a:longest": strings.Repeat("v", zfs.MaxPropertyValue), "a:spaces": "  x  ", "a:empty": "", "a:equals": "=a=b", "a:option": "-r",
		"a:unicode": "é ☃ \U0001f600", "a:quotes": `'"\$(x)`,
	}
	for _, name := range words(4, 60, lower+digits+"-_.:", zfs.ValidateUserProperty) {
		props[name] = name
	}
	return props
}

var conformance = []struct {
	name string
	run  func(s *suite)
}{
	{"versions are known", func(s *suite) {
		r, err := s.Version(s.Context())
		require.NoError(s, err)
		assert.NotEmpty(s, r.Userland)
	}},
	{"pools are listed with health and size", func(s *suite) {
		pools, err := s.Pools(s.Context())
		require.NoError(s, err)
		for _, p := range pools {
			if p.Name == s.Pool {
				assert.Equal(s, "ONLINE", p.Health)
				assert.NotZero(s, p.Size)
				return
			}
		}
		s.Errorf("pool %s is not among %v", s.Pool, pools)
	}},
	{"a dataset lists with its kind, mount and children", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		require.NoError(s, s.Create(ctx, s.dir+"/vol", zfs.CreateOptions{VolumeSize: 16 * mib, Sparse: true}))
		ds, err := s.Datasets(ctx, s.dir, true)
		require.NoError(s, err)
		require.Len(s, ds, 3)
		assert.Equal(s, []string{s.dir, fs, s.dir + "/vol"}, []string{ds[0].Name, ds[1].Name, ds[2].Name})
		assert.Equal(s, zfs.Filesystem, ds[1].Type)
		assert.True(s, ds[1].Mounted)
		assert.True(s, strings.HasPrefix(ds[1].Mountpoint, "/"))
		assert.NotZero(s, ds[1].GUID)
		assert.Equal(s, zfs.Volume, ds[2].Type)
		assert.Equal(s, uint64(16*mib), ds[2].VolSize)
		assert.Empty(s, ds[2].Mountpoint)
		assert.Equal(s, "off", ds[1].Encryption)
		one, err := s.Dataset(ctx, fs)
		require.NoError(s, err)
		assert.Equal(s, ds[1], one)
	}},
	{"what does not exist is not found", func(s *suite) {
		ctx := s.Context()
		none := s.dir + "/none"
		_, err := s.Dataset(ctx, none)
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.Versions(ctx, none)
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.Lookup(ctx, s.dir+"@none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.Lookup(ctx, s.dir+"#none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.FindByGUID(ctx, 1, none, s.dir)
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.Get(ctx, none, "used")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		_, err = s.Holds(ctx, s.dir+"@none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		for _, name := range []string{none, s.dir + "@none", s.dir + "#none", none + "@none", none + "#none"} {
			exists, err := s.Exists(ctx, name)
			assert.NoError(s, err, name)
			assert.False(s, exists, name)
		}
		assert.ErrorIs(s, s.Snapshot(ctx, []string{none + "@s"}, nil), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Hold(ctx, "t", s.dir+"@none"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Release(ctx, "t", s.dir+"@none"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Bookmark(ctx, s.dir+"@none", s.dir+"#b"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Clone(ctx, s.dir+"@none", none, nil), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Promote(ctx, none), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Destroy(ctx, none, zfs.DestroyOptions{}), zfs.ErrNotFound)
		assert.ErrorIs(s, s.DestroySnapshots(ctx, s.dir, []string{"none"}, false), zfs.ErrNotFound)
		assert.ErrorIs(s, s.DestroyBookmark(ctx, s.dir+"#none"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Rename(ctx, none, s.dir+"/other"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Set(ctx, none, map[string]string{"a:b": "c"}), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Inherit(ctx, none, "a:b"), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Mount(ctx, none), zfs.ErrNotFound)
		assert.ErrorIs(s, s.AbortReceive(ctx, none), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Send(ctx, zfs.SendOptions{To: s.dir + "@none"}, io.Discard), zfs.ErrNotFound)
		assert.ErrorIs(s, s.Create(ctx, none+"/child", zfs.CreateOptions{}), zfs.ErrNotFound)
	}},
	{"what exists is not made again", func(s *suite) {
		ctx := s.Context()
		fs, other := s.fs("fs"), s.fs("other")
		s.snap(fs, "s1")
		assert.ErrorIs(s, s.Create(ctx, fs, zfs.CreateOptions{}), zfs.ErrExists)
		assert.NoError(s, s.Create(ctx, fs, zfs.CreateOptions{Parents: true}))
		assert.ErrorIs(s, s.Snapshot(ctx, []string{fs + "@s1"}, nil), zfs.ErrExists)
		assert.ErrorIs(s, s.Clone(ctx, fs+"@s1", other, nil), zfs.ErrExists)
		assert.ErrorIs(s, s.Rename(ctx, fs, other), zfs.ErrExists)
	}},
	{"a group of snapshots is of one transaction and carries properties", func(s *suite) {
		ctx := s.Context()
		a, b := s.fs("a"), s.fs("b")
		require.NoError(s, s.Snapshot(ctx, []string{a + "@g", b + "@g"}, map[string]string{"io.kubectl-dr:backup": "b1"}))
		va, vb := s.versions(a), s.versions(b)
		require.Len(s, va, 1)
		require.Len(s, vb, 1)
		assert.Equal(s, va[0].CreateTXG, vb[0].CreateTXG)
		assert.NotEqual(s, va[0].GUID, vb[0].GUID)
		props, err := s.UserProperties(ctx, b+"@g", zfs.SourceLocal)
		require.NoError(s, err)
		assert.Equal(s, map[string]string{"io.kubectl-dr:backup": "b1"}, props)
	}},
	{"a group of snapshots is made whole or not at all", func(s *suite) {
		ctx := s.Context()
		a, b := s.fs("a"), s.fs("b")
		s.snap(b, "g")
		assert.ErrorIs(s, s.Snapshot(ctx, []string{a + "@g", b + "@g"}, nil), zfs.ErrExists)
		assert.Empty(s, s.versions(a))
		assert.ErrorIs(s, s.Snapshot(ctx, []string{a + "@g", s.dir + "/none@g"}, nil), zfs.ErrNotFound)
		assert.Empty(s, s.versions(a))
	}},
	{"taking snapshots tells what was taken", func(s *suite) {
		ctx := s.Context()
		a, b := s.fs("a"), s.fs("b")
		s.snap(b, "before")
		props := map[string]string{"io.kubectl-dr:backup": "b 1", "io.kubectl-dr:managed": "true"}
		taken, err := s.TakeSnapshots(ctx, []string{b + "@g", a + "@g"}, props)
		require.NoError(s, err)
		require.Len(s, taken, 2)
		found, err := s.LookupAll(ctx, b+"@g", a+"@g")
		require.NoError(s, err)
		assert.Equal(s, found, taken)
		assert.Equal(s, taken[0].CreateTXG, taken[1].CreateTXG)
		for _, v := range taken {
			have, err := s.UserProperties(ctx, v.FullName(), zfs.SourceLocal)
			require.NoError(s, err)
			assert.Equal(s, props, have)
		}
	}},
	{"a group of snapshots is taken whole or not at all", func(s *suite) {
		ctx := s.Context()
		a, b := s.fs("a"), s.fs("b")
		s.snap(b, "g")
		refused := map[string]struct {
			names []string
			props map[string]string
			err   error
		}{
			"one exists":            {[]string{a + "@g", b + "@g"}, nil, zfs.ErrExists},
			"a dataset is missing":  {[]string{a + "@g", s.dir + "/none@g"}, nil, zfs.ErrNotFound},
			"a name is not one":     {[]string{a + "@g", b + "@g h/i"}, nil, zfs.ErrInvalidName},
			"a property is not one": {[]string{a + "@g"}, map[string]string{"io.kubectl-dr:x": strings.Repeat("x", 9000)}, zfs.ErrInvalidName},
		}
		for what, r := range refused {
			taken, err := s.TakeSnapshots(ctx, r.names, r.props)
			assert.ErrorIs(s, err, r.err, what)
			assert.Nil(s, taken, what)
			assert.Empty(s, s.versions(a), what)
		}
	}},
	{"a group over two pools is refused before it runs", func(s *suite) {
		err := s.Snapshot(s.Context(), []string{s.dir + "@g", "another/a@g"}, nil)
		assert.ErrorIs(s, err, zfs.ErrSeveralPools)
		assert.Empty(s, s.versions(s.dir))
	}},
	{"versions come in order with their bookmarks, and are found by guid", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		// Names that sort against the order of creation.
		z := s.snap(fs, "z")
		m := s.snap(fs, "m")
		a := s.snap(fs, "a")
		require.NoError(s, s.Bookmark(ctx, fs+"@z", fs+"#bz"))
		require.NoError(s, s.Bookmark(ctx, fs+"@a", fs+"#ba"))
		assert.Equal(s, []string{"@z", "#bz", "@m", "@a", "#ba"}, s.names(fs))
		vs := s.versions(fs)
		assert.Equal(s, z.GUID, vs[1].GUID)
		assert.True(s, vs[1].Bookmark)
		assert.Less(s, z.CreateTXG, m.CreateTXG)
		assert.Less(s, m.CreateTXG, a.CreateTXG)
		assert.WithinDuration(s, time.Now(), a.Created, 24*time.Hour)
		found, err := s.FindByGUID(ctx, m.GUID, s.dir+"/none", s.dir)
		require.NoError(s, err)
		assert.Equal(s, m, found)
		found, err = s.FindByGUID(ctx, a.GUID)
		require.NoError(s, err)
		assert.Equal(s, a, found)
		_, err = s.FindByGUID(ctx, m.GUID, s.dir+"/none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
	}},
	{"versions are listed below a dataset", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		child := fs + "/child"
		require.NoError(s, s.Create(ctx, child, zfs.CreateOptions{}))
		s.snap(fs, "s1")
		s.snap(child, "s2")
		require.NoError(s, s.Bookmark(ctx, fs+"@s1", fs+"#b1"))
		require.NoError(s, s.Hold(ctx, "kubectl-dr:backup", child+"@s2"))
		vs, err := s.VersionsBelow(ctx, fs)
		require.NoError(s, err)
		var got []string
		for _, v := range vs {
			got = append(got, fmt.Sprintf("%s %d", strings.TrimPrefix(v.FullName(), fs), v.UserRefs))
		}
		assert.Equal(s, []string{"@s1 0", "#b1 0", "/child@s2 1"}, got)
		_, err = s.VersionsBelow(ctx, s.dir+"/none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		vs, err = s.VersionsBelow(ctx, s.fs("empty"))
		require.NoError(s, err)
		assert.Empty(s, vs)
	}},
	{"properties of several things are read at once", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s2")
		s.snap(fs, "s1")
		require.NoError(s, s.Set(ctx, fs, map[string]string{"io.kubectl-dr:target:a_1": `{"node":"a"}`}))
		require.NoError(s, s.Set(ctx, fs+"@s1", map[string]string{"io.kubectl-dr:hold:x": `{"by":"me = \"x\""}`}))
		got, err := s.GetEach(ctx, []string{fs + "@s2", fs, fs + "@s1"}, "io.kubectl-dr:hold:x", "io.kubectl-dr:target:a_1")
		require.NoError(s, err)
		unset := zfs.Property{Value: "-", Source: zfs.SourceNone}
		inherited := zfs.Property{Value: `{"node":"a"}`, Source: zfs.Source("inherited from " + fs)}
		assert.Equal(s, map[string]map[string]zfs.Property{
			fs:         {"io.kubectl-dr:hold:x": unset, "io.kubectl-dr:target:a_1": {Value: `{"node":"a"}`, Source: zfs.SourceLocal}},
			fs + "@s1": {"io.kubectl-dr:hold:x": {Value: `{"by":"me = \"x\""}`, Source: zfs.SourceLocal}, "io.kubectl-dr:target:a_1": inherited},
			fs + "@s2": {"io.kubectl-dr:hold:x": unset, "io.kubectl-dr:target:a_1": inherited},
		}, got)
		_, err = s.GetEach(ctx, []string{fs + "@s1", fs + "@gone"}, "io.kubectl-dr:hold:x")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
		none, err := s.GetEach(ctx, nil, "io.kubectl-dr:hold:x")
		require.NoError(s, err)
		assert.Empty(s, none)
	}},
	{"a pool tells the features it has", func(s *suite) {
		features, err := s.PoolFeatures(s.Context(), s.Pool)
		require.NoError(s, err)
		for _, f := range []string{"extensible_dataset", "large_blocks", "bookmark_v2"} {
			assert.Contains(s, []string{"disabled", "enabled", "active"}, features[f], f)
		}
		_, err = s.PoolFeatures(s.Context(), "no-such-pool-here")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
	}},
	{"an interrupted receive tells when it began", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		first := s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
		began, err := s.ReceiveBegan(ctx, replica)
		require.NoError(s, err)
		assert.False(s, began.Before(first.Created), "%s is before %s", began, first.Created)
		require.NoError(s, s.AbortReceive(ctx, replica))
		require.NoError(s, s.receive(replica+"@s1", full))

		s.write(fs, "f", random(2, 4*mib))
		second := s.snap(fs, "s2")
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		began, err = s.ReceiveBegan(ctx, replica)
		require.NoError(s, err)
		assert.False(s, began.Before(second.Created), "%s is before %s", began, second.Created)
		_, err = s.ReceiveBegan(ctx, s.dir+"/none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
	}},
	{"whatever name is accepted here, ZFS takes", func(s *suite) {
		ctx := s.Context()
		own := zfs.CreateOptions{Properties: map[string]string{"mountpoint": "none", "canmount": "off"}}
		for _, part := range acceptedParts(zfs.MaxName - len(s.dir) - len("/@-")) {
			ds := s.dir + "/" + part
			if zfs.ValidateDataset(ds) != nil {
				continue
			}
			if !assert.NoError(s, s.Create(ctx, ds, own), "dataset %q", part) {
				continue
			}
			version := part
			if room := zfs.MaxName - len(ds) - len("@"); len(part) > room {
				version = strings.Repeat("v", room)
			}
			snapshot, bookmark := ds+"@"+version, ds+"#"+version
			require.NoError(s, zfs.ValidateSnapshot(snapshot))
			require.NoError(s, zfs.ValidateBookmark(bookmark))
			if assert.NoError(s, s.Snapshot(ctx, []string{snapshot}, nil), "snapshot %q", version) {
				assert.NoError(s, s.Bookmark(ctx, snapshot, bookmark), "bookmark %q", version)
				found, err := s.Lookup(ctx, snapshot)
				if assert.NoError(s, err) {
					assert.Equal(s, snapshot, found.FullName(), "it is listed as it was given")
				}
				found, err = s.Lookup(ctx, bookmark)
				if assert.NoError(s, err) {
					assert.Equal(s, bookmark, found.FullName(), "it is listed as it was given")
				}
			}
		}
		deepest := s.dir + strings.Repeat("/d", zfs.MaxDepth-1-strings.Count(s.dir, "/"))
		require.NoError(s, zfs.ValidateDataset(deepest))
		require.Error(s, zfs.ValidateDataset(deepest+"/d"))
		// What is below inherits that it is not mounted.
		require.NoError(s, s.Create(ctx, s.dir+"/d", own))
		assert.NoError(s, s.Create(ctx, deepest, zfs.CreateOptions{Parents: true}))
	}},
	{"whatever hold tag is accepted here, ZFS takes", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		tags := acceptedTags()
		for _, tag := range tags {
			require.NoError(s, zfs.ValidateHoldTag(tag))
			assert.NoError(s, s.Hold(ctx, tag, fs+"@s1"), "tag %q", tag)
		}
		holds, err := s.Holds(ctx, fs+"@s1")
		require.NoError(s, err)
		var listed []string
		for _, h := range holds {
			listed = append(listed, h.Tag)
		}
		assert.ElementsMatch(s, tags, listed, "they are listed as they were given")
		for _, tag := range tags {
			assert.NoError(s, s.Release(ctx, tag, fs+"@s1"), "tag %q", tag)
		}
	}},
	{"whatever property and value is accepted here, ZFS takes", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		props := acceptedProperties()
		var names []string
		for name, value := range props {
			require.NoError(s, zfs.ValidateUserProperty(name))
			require.NoError(s, zfs.ValidateValue(value))
			names = append(names, name)
			for _, of := range []string{fs, fs + "@s1"} {
				assert.NoError(s, s.Set(ctx, of, map[string]string{name: value}), "property %q of %s", name, of)
			}
		}
		for _, of := range []string{fs, fs + "@s1"} {
			got, err := s.Get(ctx, of, names...)
			require.NoError(s, err)
			for name, value := range props {
				assert.Equal(s, zfs.Property{Value: value, Source: zfs.SourceLocal}, got[name], "property %q of %s", name, of)
			}
		}
	}},
	{"a hold can be repeated, and so can a release", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		s.snap(fs, "s2")
		for range 2 {
			require.NoError(s, s.Hold(ctx, "kubectl-dr:backup", fs+"@s1", fs+"@s2"))
		}
		require.NoError(s, s.Hold(ctx, "kubectl-dr:other", fs+"@s1"))
		holds, err := s.Holds(ctx, fs+"@s1", fs+"@s2")
		require.NoError(s, err)
		var got []string
		for _, h := range holds {
			got = append(got, h.Snapshot+" "+h.Tag)
			assert.WithinDuration(s, time.Now(), h.Created, 24*time.Hour)
		}
		assert.ElementsMatch(s, []string{
			fs + "@s1 kubectl-dr:backup", fs + "@s1 kubectl-dr:other", fs + "@s2 kubectl-dr:backup",
		}, got)
		v, err := s.Lookup(ctx, fs+"@s1")
		require.NoError(s, err)
		assert.Equal(s, uint64(2), v.UserRefs)
		for range 2 {
			require.NoError(s, s.Release(ctx, "kubectl-dr:backup", fs+"@s1", fs+"@s2"))
		}
		holds, err = s.Holds(ctx, fs+"@s2")
		require.NoError(s, err)
		assert.Empty(s, holds)

		require.NoError(s, s.Hold(ctx, "kubectl-dr:other", fs+"@s1", fs+"@s2"), "one of them is held so already")
		require.ErrorIs(s, s.Hold(ctx, "kubectl-dr:third", fs+"@gone", fs+"@s2"), zfs.ErrNotFound)
		v, err = s.Lookup(ctx, fs+"@s2")
		require.NoError(s, err)
		assert.Equal(s, uint64(2), v.UserRefs, "what follows a missing one is held all the same")
		require.ErrorIs(s, s.Release(ctx, "kubectl-dr:third", fs+"@s1", fs+"@gone", fs+"@s2"), zfs.ErrNotFound)
		v, err = s.Lookup(ctx, fs+"@s2")
		require.NoError(s, err)
		assert.Equal(s, uint64(1), v.UserRefs)
	}},
	{"snapshots without a hold are found by their own properties", func(s *suite) {
		ctx := s.Context()
		const prop, without = "io.kubectl-dr:conformance", "io.kubectl-dr:conformance-not"
		fs := s.fs("fs")
		require.NoError(s, s.Set(ctx, fs, map[string]string{prop: "inherited"}))
		s.snap(fs, "plain")
		for _, name := range []string{"unheld", "held", "deferred"} {
			require.NoError(s, s.Snapshot(ctx, []string{fs + "@" + name}, map[string]string{prop: "x"}))
		}
		require.NoError(s, s.Snapshot(ctx, []string{fs + "@not"}, map[string]string{prop: "x", without: "x"}))
		require.NoError(s, s.Hold(ctx, "t", fs+"@held"))
		require.NoError(s, s.Clone(ctx, fs+"@deferred", s.dir+"/clone", nil))
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"deferred"}, true))
		unheld, err := s.Unheld(ctx, prop, without)
		require.NoError(s, err)
		assert.Equal(s, []string{fs + "@unheld"}, unheld)
		none, err := s.Unheld(ctx, "io.kubectl-dr:conformance-none", without)
		require.NoError(s, err)
		assert.Empty(s, none)
	}},
	{"several snapshots and bookmarks are looked up at once", func(s *suite) {
		ctx := s.Context()
		a, b := s.fs("a"), s.fs("b")
		s.snap(a, "s")
		s.snap(b, "s")
		require.NoError(s, s.Bookmark(ctx, a+"@s", a+"#m"))
		names := []string{b + "@s", a + "#m", a + "@s"}
		vs, err := s.LookupAll(ctx, names...)
		require.NoError(s, err)
		require.Len(s, vs, 3)
		for i, v := range vs {
			assert.Equal(s, names[i], v.FullName())
		}
		assert.Equal(s, vs[1].GUID, vs[2].GUID)
		_, err = s.LookupAll(ctx, a+"@s", a+"@none")
		assert.ErrorIs(s, err, zfs.ErrNotFound)
	}},
	{"what is asked at the same time is answered as if asked alone", func(s *suite) {
		ctx := s.Context()
		names := []string{s.dir + "/none"}
		for _, name := range []string{"a", "b", "c"} {
			fs := s.fs(name)
			names = append(names, fs)
			require.NoError(s, s.Snapshot(ctx, []string{fs + "@s"}, map[string]string{"io.kubectl-dr:x": "of " + name}))
			require.NoError(s, s.Hold(ctx, "kubectl-dr:"+name, fs+"@s"))
			require.NoError(s, s.Set(ctx, fs, map[string]string{"io.kubectl-dr:y": name}))
		}
		require.NoError(s, s.Bookmark(ctx, names[1]+"@s", names[1]+"#m"))
		questions := map[string]func(name string) (any, error){
			"dataset":    func(n string) (any, error) { return s.Dataset(ctx, n) },
			"versions":   func(n string) (any, error) { return s.Versions(ctx, n) },
			"lookup":     func(n string) (any, error) { return s.Lookup(ctx, n+"@s") },
			"bookmark":   func(n string) (any, error) { return s.Lookup(ctx, n+"#m") },
			"get":        func(n string) (any, error) { return s.Get(ctx, n, "io.kubectl-dr:y", "quota", "type") },
			"of itself":  func(n string) (any, error) { return s.UserProperties(ctx, n, zfs.SourceLocal) },
			"of a snap":  func(n string) (any, error) { return s.UserProperties(ctx, n+"@s", zfs.SourceLocal) },
			"holds":      func(n string) (any, error) { return s.Holds(ctx, n+"@s") },
			"both holds": func(n string) (any, error) { return s.Holds(ctx, n+"@s", names[1]+"@s") },
		}
		for what, ask := range questions {
			var crowd sync.WaitGroup
			for range 2 {
				for _, name := range names {
					want, wantErr := ask(name)
					crowd.Go(func() {
						got, err := ask(name)
						if name == names[0] || wantErr != nil {
							assert.ErrorIs(s, err, zfs.ErrNotFound, "%s of %s", what, name)
							return
						}
						assert.NoError(s, err, "%s of %s", what, name)
						assert.Equal(s, want, got, "%s of %s", what, name)
					})
				}
			}
			crowd.Wait()
		}
	}},
	{"a held snapshot is not destroyed, nor what would go with it", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		s.snap(fs, "s2")
		require.NoError(s, s.Hold(ctx, "t", fs+"@s1"))
		assert.ErrorIs(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false), zfs.ErrHeld)
		assert.ErrorIs(s, s.DestroySnapshots(ctx, fs, []string{"s1", "s2"}, false), zfs.ErrHeld)
		assert.ErrorIs(s, s.Destroy(ctx, fs, zfs.DestroyOptions{Recursive: true}), zfs.ErrHeld)
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(fs))
	}},
	{"a deferred destroy waits for the last hold", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		require.NoError(s, s.Hold(ctx, "t", fs+"@s1"))
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, true))
		assert.Equal(s, []string{"@s1"}, s.names(fs))
		require.NoError(s, s.Release(ctx, "t", fs+"@s1"))
		assert.Empty(s, s.names(fs))
	}},
	{"destroying several snapshots passes over those that are gone", func(s *suite) {
		fs := s.fs("fs")
		s.snap(fs, "s1")
		s.snap(fs, "s2")
		require.NoError(s, s.DestroySnapshots(s.Context(), fs, []string{"gone", "s1"}, false))
		assert.Equal(s, []string{"@s2"}, s.names(fs))
	}},
	{"a bookmark can be repeated for the same snapshot only", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		s.snap(fs, "s2")
		require.NoError(s, s.Bookmark(ctx, fs+"@s1", fs+"#b"))
		require.NoError(s, s.Bookmark(ctx, fs+"@s1", fs+"#b"))
		assert.ErrorIs(s, s.Bookmark(ctx, fs+"@s2", fs+"#b"), zfs.ErrExists)
		require.NoError(s, s.DestroyBookmark(ctx, fs+"#b"))
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(fs))
	}},
	{"user properties are inherited, but only local ones count as set", func(s *suite) {
		ctx := s.Context()
		parent := s.fs("parent")
		child := parent + "/child"
		require.NoError(s, s.Create(ctx, child, zfs.CreateOptions{Properties: map[string]string{"io.kubectl-dr:volume": "v"}}))
		require.NoError(s, s.Set(ctx, parent, map[string]string{
			"io.kubectl-dr:managed": "true", "io.kubectl-dr:source": "n=1, 'quoted' \"x\" = é", "other.domain:x": "y",
		}))
		props, err := s.UserProperties(ctx, parent, zfs.SourceLocal)
		require.NoError(s, err)
		assert.Equal(s, map[string]string{"io.kubectl-dr:managed": "true", "io.kubectl-dr:source": "n=1, 'quoted' \"x\" = é"}, props)
		props, err = s.UserProperties(ctx, child, zfs.SourceLocal)
		require.NoError(s, err)
		assert.Equal(s, map[string]string{"io.kubectl-dr:volume": "v"}, props)
		props, err = s.UserProperties(ctx, parent, zfs.SourceReceived)
		require.NoError(s, err)
		assert.Empty(s, props)
		got, err := s.Get(ctx, child, "io.kubectl-dr:managed", "io.kubectl-dr:none", "type")
		require.NoError(s, err)
		assert.Equal(s, map[string]zfs.Property{
			"io.kubectl-dr:managed": {Value: "true", Source: zfs.Source("inherited from " + parent)},
			"io.kubectl-dr:none":    {Value: "-", Source: zfs.SourceNone},
			"type":                  {Value: "filesystem", Source: zfs.SourceNone},
		}, got)
		tagged, err := s.Tagged(ctx, s.dir, "io.kubectl-dr:managed")
		require.NoError(s, err)
		assert.Equal(s, []string{parent}, tagged)
		for range 2 {
			require.NoError(s, s.Inherit(ctx, parent, "io.kubectl-dr:managed"))
		}
		got, err = s.Get(ctx, child, "io.kubectl-dr:managed")
		require.NoError(s, err)
		assert.Equal(s, zfs.Property{Value: "-", Source: zfs.SourceNone}, got["io.kubectl-dr:managed"])
	}},
	{"sizes are read back in bytes", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		require.NoError(s, s.Set(ctx, fs, map[string]string{"quota": "64M"}))
		got, err := s.Get(ctx, fs, "quota", "refquota")
		require.NoError(s, err)
		assert.Equal(s, map[string]zfs.Property{
			"quota": {Value: "67108864", Source: zfs.SourceLocal}, "refquota": {Value: "0", Source: zfs.SourceDefault},
		}, got)
	}},
	{"a clone keeps its snapshot and does not change it", func(s *suite) {
		ctx := s.Context()
		fs, clone := s.fs("fs"), s.dir+"/clone"
		before := random(1, mib)
		s.write(fs, "f", before)
		s.snap(fs, "s1")
		require.NoError(s, s.Clone(ctx, fs+"@s1", clone, map[string]string{"io.kubectl-dr:managed": "true"}))
		s.write(clone, "f", random(2, mib))
		d, err := s.Dataset(ctx, clone)
		require.NoError(s, err)
		assert.Equal(s, fs+"@s1", d.Origin)
		assert.Equal(s, before, s.Read(s.T, fs, "f"))
		assert.ErrorIs(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false), zfs.ErrHasClones)
		assert.ErrorIs(s, s.Destroy(ctx, fs, zfs.DestroyOptions{Recursive: true}), zfs.ErrHasClones)
		assert.ErrorIs(s, s.Destroy(ctx, fs, zfs.DestroyOptions{}), zfs.ErrHasChildren)
		require.NoError(s, s.Destroy(ctx, clone, zfs.DestroyOptions{}))
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
		require.NoError(s, s.Destroy(ctx, fs, zfs.DestroyOptions{}))
	}},
	{"a clone with a legacy mountpoint is not mounted", func(s *suite) {
		ctx := s.Context()
		fs, clone := s.fs("fs"), s.dir+"/clone"
		s.snap(fs, "s1")
		require.NoError(s, s.Clone(ctx, fs+"@s1", clone, map[string]string{"mountpoint": "legacy", "canmount": "noauto"}))
		d, err := s.Dataset(ctx, clone)
		require.NoError(s, err)
		assert.False(s, d.Mounted)
		assert.Equal(s, "legacy", d.Mountpoint)
		assert.False(s, d.ReadOnly)
	}},
	{"promotion turns a clone and its origin around", func(s *suite) {
		ctx := s.Context()
		fs, clone := s.fs("fs"), s.dir+"/clone"
		s1 := s.snap(fs, "s1")
		s2 := s.snap(fs, "s2")
		s.snap(fs, "s3")
		require.NoError(s, s.Clone(ctx, fs+"@s2", clone, nil))
		require.NoError(s, s.Promote(ctx, clone))
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(clone))
		assert.Equal(s, []string{"@s3"}, s.names(fs))
		vs := s.versions(clone)
		assert.Equal(s, []uint64{s1.GUID, s2.GUID}, []uint64{vs[0].GUID, vs[1].GUID})
		d, err := s.Dataset(ctx, fs)
		require.NoError(s, err)
		assert.Equal(s, clone+"@s2", d.Origin)
		assert.ErrorIs(s, s.Destroy(ctx, clone, zfs.DestroyOptions{Recursive: true}), zfs.ErrHasClones)
	}},
	{"promotion is refused when a snapshot name would clash", func(s *suite) {
		ctx := s.Context()
		fs, clone := s.fs("fs"), s.dir+"/clone"
		s.snap(fs, "s1")
		require.NoError(s, s.Clone(ctx, fs+"@s1", clone, nil))
		s.snap(clone, "s1")
		assert.ErrorIs(s, s.Promote(ctx, clone), zfs.ErrExists)
	}},
	{"a dataset and a snapshot can be renamed and keep their guid", func(s *suite) {
		ctx := s.Context()
		fs, renamed := s.fs("fs"), s.dir+"/renamed"
		v := s.snap(fs, "s1")
		require.NoError(s, s.Rename(ctx, fs+"@s1", fs+"@s2"))
		require.NoError(s, s.Rename(ctx, fs, renamed))
		found, err := s.FindByGUID(ctx, v.GUID, s.dir)
		require.NoError(s, err)
		assert.Equal(s, renamed+"@s2", found.FullName())
	}},
	{"mount and unmount can be repeated", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		for _, want := range []bool{false, true} {
			for range 2 {
				do := s.Unmount
				if want {
					do = s.Mount
				}
				require.NoError(s, do(ctx, fs))
				d, err := s.Dataset(ctx, fs)
				require.NoError(s, err)
				assert.Equal(s, want, d.Mounted)
			}
		}
	}},
	{"a full and an incremental stream bring the data under the same guids", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		one, two := random(1, mib), random(2, mib)
		s.write(fs, "f", one)
		s1 := s.snap(fs, "s1")
		s.write(fs, "f", two)
		s.write(fs, "g", one)
		s2 := s.snap(fs, "s2")
		est, err := s.SendSize(ctx, zfs.SendOptions{To: fs + "@s1"})
		require.NoError(s, err)
		assert.Greater(s, est.Bytes, uint64(mib))
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1", LargeBlock: true, Compressed: true})))
		inc := zfs.SendOptions{From: fs + "@s1", To: fs + "@s2", LargeBlock: true, Compressed: true}
		est, err = s.SendSize(ctx, inc)
		require.NoError(s, err)
		assert.Greater(s, est.Bytes, uint64(2*mib))
		require.NoError(s, s.receive(replica+"@s2", s.stream(inc)))
		vs := s.versions(replica)
		require.Len(s, vs, 2)
		assert.Equal(s, []uint64{s1.GUID, s2.GUID}, []uint64{vs[0].GUID, vs[1].GUID})
		assert.Equal(s, s2.Created, vs[1].Created)
		s.contains(replica+"@s1", "f", one)
		s.contains(replica+"@s2", "f", two)
		s.contains(replica+"@s2", "g", one)
	}},
	{"an incremental that is there already is received as success", func(s *suite) {
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		require.NoError(s, s.receive(replica+"@s2", inc))
		require.NoError(s, s.receive(replica+"@s2", inc))
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(replica))
	}},
	{"a bookmark serves as base after its snapshot is gone", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s1")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		require.NoError(s, s.Bookmark(ctx, fs+"@s1", fs+"#s1"))
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
		two := random(2, mib)
		s.write(fs, "g", two)
		s2 := s.snap(fs, "s2")
		inc := zfs.SendOptions{From: fs + "#s1", To: fs + "@s2"}
		_, err := s.SendSize(ctx, inc)
		require.NoError(s, err)
		require.NoError(s, s.receive(replica+"@s2", s.stream(inc)))
		vs := s.versions(replica)
		require.Len(s, vs, 2)
		assert.Equal(s, s2.GUID, vs[1].GUID)
		s.contains(replica+"@s2", "f", random(1, mib))
		s.contains(replica+"@s2", "g", two)
	}},
	{"a base that is missing or later is told from a missing snapshot", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.snap(fs, "s1")
		s.snap(fs, "s2")
		for _, o := range []zfs.SendOptions{
			{From: fs + "@none", To: fs + "@s2"}, {From: fs + "#none", To: fs + "@s2"}, {From: fs + "@s2", To: fs + "@s1"},
		} {
			assert.ErrorIs(s, s.Send(ctx, o, io.Discard), zfs.ErrNoBase, o.From)
			_, err := s.SendSize(ctx, o)
			assert.ErrorIs(s, err, zfs.ErrNoBase, o.From)
		}
		_, err := s.SendSize(ctx, zfs.SendOptions{From: fs + "@s1", To: fs + "@none"})
		assert.ErrorIs(s, err, zfs.ErrNotFound)
	}},
	{"a received dataset is unmounted and read-only, with nothing of the source's own", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		source, err := s.Dataset(ctx, fs)
		require.NoError(s, err)
		require.NoError(s, s.Set(ctx, fs, map[string]string{
			"mountpoint": source.Mountpoint + "-moved", "io.kubectl-dr:managed": "true", "quota": "1G", "atime": "off",
		}))
		require.NoError(s, s.Snapshot(ctx, []string{fs + "@s1"}, map[string]string{"io.kubectl-dr:backup": "b"}))
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.False(s, d.Mounted)
		assert.True(s, d.ReadOnly)
		assert.Empty(s, d.ReceiveResumeToken)
		got, err := s.Get(ctx, replica, "mountpoint", "canmount", "quota", "atime")
		require.NoError(s, err)
		assert.NotContains(s, got["mountpoint"].Value, "-moved")
		assert.Equal(s, zfs.Property{Value: "noauto", Source: zfs.SourceLocal}, got["canmount"])
		assert.Equal(s, zfs.Property{Value: "0", Source: zfs.SourceDefault}, got["quota"])
		assert.Equal(s, zfs.Property{Value: "on", Source: zfs.SourceDefault}, got["atime"])
		for _, name := range []string{replica, replica + "@s1"} {
			for _, source := range []zfs.Source{zfs.SourceLocal, zfs.SourceReceived} {
				props, err := s.UserProperties(ctx, name, source)
				require.NoError(s, err)
				assert.Empty(s, props, name)
			}
		}
	}},
	{"a replica stays unmounted and read-only through an incremental", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		o := receiveOptions(replica + "@s2")
		o.Set, o.Exclude = nil, nil
		require.NoError(s, s.Receive(ctx, o, bytes.NewReader(s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"}))))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.False(s, d.Mounted)
		assert.True(s, d.ReadOnly)
	}},
	{"a volume is received without what belongs to filesystems", func(s *suite) {
		ctx := s.Context()
		vol, replica := s.dir+"/vol", s.dir+"/replica"
		require.NoError(s, s.Create(ctx, vol, zfs.CreateOptions{VolumeSize: 8 * mib, Sparse: true}))
		v := s.snap(vol, "s1")
		stream := s.stream(zfs.SendOptions{To: vol + "@s1"})
		assert.Error(s, s.receive(replica+"@s1", stream), "canmount does not apply to a volume")
		exists, err := s.Exists(ctx, replica)
		require.NoError(s, err)
		assert.False(s, exists)
		require.NoError(s, s.Receive(ctx, volumeOptions(replica+"@s1"), bytes.NewReader(stream)))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.Equal(s, zfs.Volume, d.Type)
		assert.Equal(s, uint64(8*mib), d.VolSize)
		assert.True(s, d.ReadOnly)
		assert.Equal(s, v.GUID, s.versions(replica)[0].GUID)
	}},
	{"a volume's replica reserves nothing and has no device, through increments and cuts", func(s *suite) {
		ctx := s.Context()
		vol, replica := s.dir+"/vol", s.dir+"/replica"
		require.NoError(s, s.Create(ctx, vol, zfs.CreateOptions{VolumeSize: 8 * mib, Properties: map[string]string{"snapdev": "visible"}}))
		assert.NotEqual(s, "0", s.values(vol, "refreservation")["refreservation"], "a volume reserves its size")
		s.snap(vol, "s1")
		s.snap(vol, "s2")
		safe := map[string]string{"readonly": "on", "volmode": "none", "snapdev": "hidden", "refreservation": "0", "volsize": fmt.Sprint(8 * mib)}
		full := s.stream(zfs.SendOptions{To: vol + "@s1", LargeBlock: true, Compressed: true, Embedded: true})
		require.NoError(s, s.Receive(ctx, volumeOptions(replica+"@s1"), bytes.NewReader(full)))
		assert.Equal(s, safe, s.values(replica, slices.Collect(maps.Keys(safe))...))
		require.NoError(s, s.Set(ctx, replica, map[string]string{"readonly": "off", "refreservation": "1M"}))
		inc := s.stream(zfs.SendOptions{From: vol + "@s1", To: vol + "@s2", LargeBlock: true, Compressed: true, Embedded: true})
		require.NoError(s, s.Receive(ctx, volumeOptions(replica+"@s2"), bytes.NewReader(inc)))
		assert.Equal(s, safe, s.values(replica, slices.Collect(maps.Keys(safe))...))
		s.nothingReceived(replica)
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(replica))
	}},
	{"a volume's clone reserves nothing until it is asked to", func(s *suite) {
		ctx := s.Context()
		vol, clone := s.dir+"/vol", s.dir+"/clone"
		reserved := func(name string) string { return s.values(name, "refreservation")["refreservation"] }
		require.NoError(s, s.Create(ctx, vol, zfs.CreateOptions{VolumeSize: 8 * mib}))
		s.snap(vol, "s1")
		require.NoError(s, s.Clone(ctx, vol+"@s1", clone, nil))
		assert.Equal(s, "0", reserved(clone))
		require.NoError(s, s.Set(ctx, clone, map[string]string{"refreservation": "auto"}))
		assert.Equal(s, reserved(vol), reserved(clone))
		require.NoError(s, s.Set(ctx, clone, map[string]string{"refreservation": fmt.Sprint(8 * mib)}))
		assert.Equal(s, fmt.Sprint(8*mib), reserved(clone))
	}},
	{"a reservation needs the room", func(s *suite) {
		ctx, fs := s.Context(), s.fs("fs")
		for _, prop := range []string{"reservation", "refreservation"} {
			require.ErrorIs(s, s.Set(ctx, fs, map[string]string{prop: "1125899906842624"}), zfs.ErrNoSpace)
			require.NoError(s, s.Set(ctx, fs, map[string]string{prop: "1048576"}))
			assert.Equal(s, "1048576", s.values(fs, prop)[prop])
		}
	}},
	{"what is set with a stream is there after a cut, and after the rest", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		s.write(fs, "f", random(2, 4*mib))
		s.snap(fs, "s2")
		ours := func(snapshot, mark string) zfs.ReceiveOptions {
			o := receiveOptions(replica + snapshot)
			o.Set["io.kubectl-dr:source"] = mark
			return o
		}
		check := func(mark string) {
			s.Helper()
			props, err := s.UserProperties(ctx, replica, zfs.SourceLocal)
			require.NoError(s, err)
			assert.Equal(s, map[string]string{"io.kubectl-dr:source": mark}, props)
			assert.Equal(s, map[string]string{"readonly": "on", "canmount": "noauto", "mounted": "no"}, s.values(replica, "readonly", "canmount", "mounted"))
			s.nothingReceived(replica)
		}
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		assert.ErrorIs(s, s.Receive(ctx, ours("@s1", "a"), bytes.NewReader(full[:len(full)/2])), zfs.ErrIncomplete)
		check("a")
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		rest := s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})
		require.NoError(s, s.Receive(ctx, ours("@s1", "b"), bytes.NewReader(rest)))
		check("b")
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		require.NoError(s, s.Set(ctx, replica, map[string]string{"readonly": "off"}))
		assert.ErrorIs(s, s.Receive(ctx, ours("@s2", "c"), bytes.NewReader(inc[:len(inc)/2])), zfs.ErrIncomplete)
		d, err = s.Dataset(ctx, replica)
		require.NoError(s, err)
		rest = s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})
		require.NoError(s, s.Receive(ctx, ours("@s2", "d"), bytes.NewReader(rest)))
		check("d")
	}},
	{"a token tells its snapshots and the flags of its stream", func(s *suite) {
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		v := s.snap(fs, "s1")
		for _, o := range []zfs.SendOptions{{To: fs + "@s1"}, {To: fs + "@s1", LargeBlock: true, Compressed: true}} {
			full := s.stream(o)
			assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
			r := s.resume(replica)
			assert.Equal(s, v.GUID, r.ToGUID)
			assert.Equal(s, fs+"@s1", r.ToName)
			assert.Equal(s, o.Compressed, r.Compressed)
			assert.False(s, r.LargeBlock, "there are no large blocks")
			assert.False(s, r.Raw)
			require.NoError(s, s.AbortReceive(s.Context(), replica))
		}

		require.NoError(s, s.Create(s.Context(), s.dir+"/large", zfs.CreateOptions{Properties: map[string]string{"recordsize": "1M"}}))
		s.write(s.dir+"/large", "f", random(1, 4*mib))
		s.snap(s.dir+"/large", "s1")
		full := s.stream(zfs.SendOptions{To: s.dir + "/large@s1", LargeBlock: true, Compressed: true})
		assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
		assert.True(s, s.resume(replica).LargeBlock)
		require.NoError(s, s.AbortReceive(s.Context(), replica))

		secret, _ := s.encrypted("secret")
		s.write(secret, "f", random(1, 4*mib))
		s.snap(secret, "s1")
		full = s.stream(zfs.SendOptions{To: secret + "@s1", Raw: true})
		assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
		assert.True(s, s.resume(replica).Raw)
	}},
	{"a raw stream keeps a dataset closed, under a key of its own", func(s *suite) {
		secret, _ := s.encrypted("secret")
		vault, _ := s.encrypted("vault")
		s.write(secret, "f", random(1, mib))
		s.snap(secret, "s1")
		s.write(secret, "f", random(2, mib))
		s.snap(secret, "s2")
		full := s.stream(zfs.SendOptions{To: secret + "@s1", Raw: true})
		inc := s.stream(zfs.SendOptions{From: secret + "@s1", To: secret + "@s2", Raw: true})
		for _, replica := range []string{s.dir + "/replica", vault + "/replica"} {
			require.NoError(s, s.receive(replica+"@s1", full))
			require.NoError(s, s.receive(replica+"@s2", inc))
			assert.Equal(s, map[string]string{"encryptionroot": replica, "keystatus": "unavailable", "mounted": "no", "readonly": "on"},
				s.values(replica, "encryptionroot", "keystatus", "mounted", "readonly"))
			s.nothingReceived(replica)
			assert.Equal(s, []string{"@s1", "@s2"}, s.names(replica))
		}
	}},
	{"raw and other streams do not follow one another", func(s *suite) {
		ctx := s.Context()
		secret, key := s.encrypted("secret")
		s.write(secret, "f", random(1, mib))
		s.snap(secret, "s1")
		s.write(secret, "f", random(2, mib))
		s.snap(secret, "s2")
		s.write(secret, "f", random(3, mib))
		s.snap(secret, "s3")
		plain, raw := s.dir+"/plain", s.dir+"/raw"
		require.NoError(s, s.receive(plain+"@s1", s.stream(zfs.SendOptions{To: secret + "@s1"})))
		assert.Equal(s, "off", s.values(plain, "encryption")["encryption"])
		rawInc := s.stream(zfs.SendOptions{From: secret + "@s1", To: secret + "@s2", Raw: true})
		assert.ErrorIs(s, s.receive(plain+"@s2", rawInc), zfs.ErrStreamMode)
		assert.Equal(s, []string{"@s1"}, s.names(plain))

		require.NoError(s, s.receive(raw+"@s1", s.stream(zfs.SendOptions{To: secret + "@s1", Raw: true})))
		inc := s.stream(zfs.SendOptions{From: secret + "@s1", To: secret + "@s2"})
		assert.ErrorIs(s, s.receive(raw+"@s2", inc), zfs.ErrKeyUnavailable)
		// Once its key is loaded ZFS lets it pass, and the chain is broken for
		// raw streams: what the record of the mode is for.
		res, err := s.Target.Runner.Run(ctx, zfs.Cmd{Args: []string{"zfs", "load-key", "-L", key, raw}})
		require.NoError(s, err)
		require.Zero(s, res.ExitCode, res.Stderr)
		require.NoError(s, s.receive(raw+"@s2", inc))
		rawInc = s.stream(zfs.SendOptions{From: secret + "@s2", To: secret + "@s3", Raw: true})
		assert.ErrorIs(s, s.receive(raw+"@s3", rawInc), zfs.ErrStreamMode)
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(raw))
	}},
	{"a stream without large blocks does not follow one with them", func(s *suite) {
		replica, large := s.dir+"/replica", s.dir+"/large"
		require.NoError(s, s.Create(s.Context(), large, zfs.CreateOptions{Properties: map[string]string{"recordsize": "1M"}}))
		s.write(large, "f", random(1, 4*mib))
		s.snap(large, "s1")
		s.write(large, "g", random(2, 4*mib))
		s.snap(large, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: large + "@s1", LargeBlock: true, Compressed: true})))
		inc := zfs.SendOptions{From: large + "@s1", To: large + "@s2", Compressed: true}
		assert.ErrorIs(s, s.receive(replica+"@s2", s.stream(inc)), zfs.ErrStreamMode)
		assert.Equal(s, []string{"@s1"}, s.names(replica))
		inc.LargeBlock = true
		require.NoError(s, s.receive(replica+"@s2", s.stream(inc)))
		s.contains(replica+"@s2", "g", random(2, 4*mib))
	}},
	{"a plain stream without embedded blocks is received below an encrypted dataset", func(s *suite) {
		ctx := s.Context()
		fs := s.dir + "/fs"
		require.NoError(s, s.Create(ctx, fs, zfs.CreateOptions{Properties: map[string]string{"compression": "on"}}))
		// Blocks that shrink to a hundred bytes are embedded in others.
		s.write(fs, "f", make([]byte, 64<<10))
		s.write(fs, "g", bytes.Repeat([]byte("embedded "), 10))
		s.snap(fs, "s1")
		vault, _ := s.encrypted("vault")
		require.NoError(s, s.receive(vault+"/replica@s1", s.stream(zfs.SendOptions{To: fs + "@s1", LargeBlock: true, Compressed: true})))
		assert.Equal(s, vault, s.values(vault+"/replica", "encryptionroot")["encryptionroot"])
		assert.Error(s, s.receive(vault+"/embedded@s1", s.stream(zfs.SendOptions{To: fs + "@s1", LargeBlock: true, Compressed: true, Embedded: true})))
	}},
	{"a clone is received as a clone", func(s *suite) {
		ctx := s.Context()
		fs, clone := s.fs("fs"), s.dir+"/clone"
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s1")
		require.NoError(s, s.Clone(ctx, fs+"@s1", clone, nil))
		s.write(clone, "g", random(2, mib))
		s.snap(clone, "c1")
		base, replica := s.dir+"/base", s.dir+"/replica"
		require.NoError(s, s.receive(base+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		stream := s.stream(zfs.SendOptions{From: fs + "@s1", To: clone + "@c1"})
		o := receiveOptions(replica + "@c1")
		o.Origin = base + "@none"
		assert.ErrorIs(s, s.Receive(ctx, o, bytes.NewReader(stream)), zfs.ErrNotFound)
		o.Origin = base + "@s1"
		require.NoError(s, s.Receive(ctx, o, bytes.NewReader(stream)))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.Equal(s, base+"@s1", d.Origin)
		s.contains(replica+"@c1", "f", random(1, mib))
		s.contains(replica+"@c1", "g", random(2, mib))
	}},
	{"a stream that is cut leaves a token, and resumes to the same data", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		data := random(1, 4*mib)
		s.write(fs, "f", data)
		v := s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		require.NotEmpty(s, d.ReceiveResumeToken)
		assert.False(s, d.Mounted)
		assert.Empty(s, s.versions(replica))
		assert.ErrorIs(s, s.receive(replica+"@s1", full), zfs.ErrExists)

		est, err := s.SendSize(ctx, zfs.SendOptions{Token: d.ReceiveResumeToken})
		require.NoError(s, err)
		require.NotNil(s, est.Resume)
		assert.Equal(s, v.GUID, est.Resume.ToGUID)
		assert.Equal(s, fs+"@s1", est.Resume.ToName)
		assert.Zero(s, est.Resume.FromGUID)
		assert.NotZero(s, est.Resume.Bytes)
		assert.Less(s, est.Bytes, uint64(3*mib))

		// Cut once more: the token moves on, and the old one is of no use.
		rest := s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})
		assert.Less(s, len(rest), len(full))
		assert.ErrorIs(s, s.receive(replica+"@s1", rest[:len(rest)/2]), zfs.ErrIncomplete)
		again, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		require.NotEqual(s, d.ReceiveResumeToken, again.ReceiveResumeToken)
		assert.ErrorIs(s, s.receive(replica+"@s1", rest), zfs.ErrResumeStale)
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{Token: again.ReceiveResumeToken})))
		vs := s.versions(replica)
		require.Len(s, vs, 1)
		assert.Equal(s, v.GUID, vs[0].GUID)
		d, err = s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.Empty(s, d.ReceiveResumeToken)
		assert.False(s, d.Mounted)
		assert.True(s, d.ReadOnly)
		s.contains(replica+"@s1", "f", data)
	}},
	{"a reader that fails leaves a token, and its error is told", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		lost := errors.New("connection lost")
		err := s.Receive(ctx, receiveOptions(replica+"@s1"), io.MultiReader(bytes.NewReader(full[:len(full)/2]), failing{lost}))
		assert.ErrorIs(s, err, lost)
		assert.ErrorIs(s, err, zfs.ErrIncomplete)
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.NotEmpty(s, d.ReceiveResumeToken)
	}},
	{"a writer that fails ends the send with its error", func(s *suite) {
		fs := s.fs("fs")
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		lost := errors.New("connection lost")
		err := s.Send(s.Context(), zfs.SendOptions{To: fs + "@s1"}, failing{lost})
		assert.ErrorIs(s, err, lost)
	}},
	{"an incremental that is cut resumes, and blocks others meanwhile", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s1 := s.snap(fs, "s1")
		data := random(1, 4*mib)
		s.write(fs, "f", data)
		s2 := s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		assert.Equal(s, []string{"@s1"}, s.names(replica))
		assert.ErrorIs(s, s.receive(replica+"@s2", inc), zfs.ErrPartial)
		// The state is a clone of the base, which it keeps.
		assert.ErrorIs(s, s.DestroySnapshots(ctx, replica, []string{"s1"}, false), zfs.ErrHasClones)
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		est, err := s.SendSize(ctx, zfs.SendOptions{Token: d.ReceiveResumeToken})
		require.NoError(s, err)
		assert.Equal(s, s1.GUID, est.Resume.FromGUID)
		assert.Equal(s, s2.GUID, est.Resume.ToGUID)
		require.NoError(s, s.receive(replica+"@s2", s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})))
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(replica))
		s.contains(replica+"@s2", "f", data)
	}},
	{"a resumed incremental does with a bookmark in place of its base", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		data := random(1, 4*mib)
		s.write(fs, "f", data)
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		require.NoError(s, s.Bookmark(ctx, fs+"@s1", fs+"#s1"))
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		require.NoError(s, s.receive(replica+"@s2", s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})))
		s.contains(replica+"@s2", "f", data)
	}},
	{"a token is stale when its base is gone", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.ErrorIs(s, s.Send(ctx, zfs.SendOptions{Token: d.ReceiveResumeToken}, io.Discard), zfs.ErrResumeStale)
	}},
	{"a token is stale when its snapshot is gone or another; aborting clears the way", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s1 := s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		assert.ErrorIs(s, s.receive(replica+"@s1", full[:len(full)/2]), zfs.ErrIncomplete)
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		stale := zfs.SendOptions{Token: d.ReceiveResumeToken}
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
		assert.ErrorIs(s, s.Send(ctx, stale, io.Discard), zfs.ErrResumeStale)
		est, err := s.SendSize(ctx, stale)
		assert.ErrorIs(s, err, zfs.ErrResumeStale)
		require.NotNil(s, est.Resume)
		assert.Equal(s, s1.GUID, est.Resume.ToGUID)
		s.write(fs, "f", random(2, mib))
		other := s.snap(fs, "s1")
		assert.ErrorIs(s, s.Send(ctx, stale, io.Discard), zfs.ErrResumeStale)

		require.NoError(s, s.AbortReceive(ctx, replica))
		exists, err := s.Exists(ctx, replica)
		require.NoError(s, err)
		assert.False(s, exists, "aborting a first receive leaves nothing")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		assert.Equal(s, other.GUID, s.versions(replica)[0].GUID)
	}},
	{"aborting an incremental keeps the replica, and can be repeated", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		for range 2 {
			require.NoError(s, s.AbortReceive(ctx, replica))
		}
		assert.Equal(s, []string{"@s1"}, s.names(replica))
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		assert.Empty(s, d.ReceiveResumeToken)
		require.NoError(s, s.receive(replica+"@s2", inc))
		s.contains(replica+"@s2", "f", random(1, 4*mib))
	}},
	{"without resumption a cut stream leaves nothing", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		o := receiveOptions(replica + "@s1")
		o.Resumable = false
		assert.ErrorIs(s, s.Receive(ctx, o, bytes.NewReader(full[:len(full)/2])), zfs.ErrIncomplete)
		exists, err := s.Exists(ctx, replica)
		require.NoError(s, err)
		assert.False(s, exists)
	}},
	{"what is no stream is refused and leaves nothing", func(s *suite) {
		ctx := s.Context()
		replica := s.dir + "/replica"
		for _, stream := range [][]byte{nil, random(3, 100), random(4, 64<<10)} {
			assert.ErrorIs(s, s.receive(replica+"@s1", stream), zfs.ErrIncomplete)
		}
		exists, err := s.Exists(ctx, replica)
		require.NoError(s, err)
		assert.False(s, exists)
	}},
	{"damaged data is refused", func(s *suite) {
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		full := bytes.Clone(s.stream(zfs.SendOptions{To: fs + "@s1"}))
		copy(full[len(full)/2:], random(9, 64<<10))
		assert.ErrorIs(s, s.receive(replica+"@s1", full), zfs.ErrIncomplete)
		assert.Empty(s, s.versions(replica))
	}},
	{"a replica that was written to is refused and untouched", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		require.NoError(s, s.Set(ctx, replica, map[string]string{"readonly": "off", "canmount": "on"}))
		require.NoError(s, s.Mount(ctx, replica))
		mine := random(7, mib)
		s.write(replica, "mine", mine)
		s.snap(replica, "mine")
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc), zfs.ErrDiverged)
		assert.Equal(s, []string{"@s1", "@mine"}, s.names(replica))
		assert.Equal(s, mine, s.Read(s.T, replica, "mine"))
		// Nor does a full stream replace it.
		full := s.stream(zfs.SendOptions{To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", full), zfs.ErrExists)
		assert.Equal(s, []string{"@s1", "@mine"}, s.names(replica))
	}},
	{"a foreign snapshot on a replica does no harm unless it takes the name", func(s *suite) {
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		data := random(1, mib)
		s.write(fs, "f", data)
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		s.snap(replica, "foreign")
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@foreign", inc), zfs.ErrExists)
		require.NoError(s, s.receive(replica+"@s2", inc))
		assert.Equal(s, []string{"@s1", "@foreign", "@s2"}, s.names(replica))
		s.contains(replica+"@s2", "f", data)
	}},
	{"a replica without the base is refused and untouched", func(s *suite) {
		fs, other, replica := s.fs("fs"), s.fs("other"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, mib))
		s.snap(fs, "s2")
		v := s.snap(other, "s1")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: other + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc), zfs.ErrDiverged)
		vs := s.versions(replica)
		require.Len(s, vs, 1)
		assert.Equal(s, v.GUID, vs[0].GUID)
		assert.ErrorIs(s, s.receive(s.dir+"/none@s2", inc), zfs.ErrNotFound)
		assert.ErrorIs(s, s.receive(s.dir+"/no/parent@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})), zfs.ErrNotFound)
	}},
	{"a snapshot of a replica amid a receive makes its token stale", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		assert.ErrorIs(s, s.receive(replica+"@s2", inc[:len(inc)/2]), zfs.ErrIncomplete)
		d, err := s.Dataset(ctx, replica)
		require.NoError(s, err)
		s.snap(replica, "mine")
		assert.ErrorIs(s, s.receive(replica+"@s2", s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})), zfs.ErrResumeStale)
	}},
	{"a receive beyond the quota is out of space, and resumes once there is some", func(s *suite) {
		ctx := s.Context()
		fs, small := s.fs("fs"), s.fs("small")
		require.NoError(s, s.Set(ctx, small, map[string]string{"quota": "2M"}))
		data := random(1, 4*mib)
		s.write(fs, "f", data)
		s.snap(fs, "s1")
		assert.ErrorIs(s, s.receive(small+"/replica@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})), zfs.ErrNoSpace)
		require.NoError(s, s.Set(ctx, small, map[string]string{"quota": "none"}))
		d, err := s.Dataset(ctx, small+"/replica")
		require.NoError(s, err)
		require.NotEmpty(s, d.ReceiveResumeToken)
		require.NoError(s, s.receive(small+"/replica@s1", s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})))
		s.contains(small+"/replica@s1", "f", data)
	}},
	{"a context that ends kills a receive, and its state is kept", func(s *suite) {
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s1")
		full := s.stream(zfs.SendOptions{To: fs + "@s1"})
		ctx, cancel := context.WithCancel(s.Context())
		defer cancel()
		cut := &waiting{data: full[:len(full)/2], end: cancel, ctx: ctx}
		err := s.Receive(ctx, receiveOptions(replica+"@s1"), cut)
		assert.ErrorIs(s, err, context.Canceled)
		d, err := s.Dataset(s.Context(), replica)
		require.NoError(s, err)
		require.NotEmpty(s, d.ReceiveResumeToken)
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{Token: d.ReceiveResumeToken})))
		s.contains(replica+"@s1", "f", random(1, 4*mib))
	}},
	{"a pool that hangs is left alone until it answers", func(s *suite) {
		ctx := s.Context()
		pool, timeout, heal := s.Hang(s.T)
		guard := &zfs.Guard{Runner: s.Target.Runner, Timeout: timeout}
		c := &zfs.Client{Runner: guard}
		var hanging *zfs.HangingError
		require.ErrorAs(s, c.Snapshot(ctx, []string{pool + "@s1"}, nil), &hanging)
		assert.Equal(s, []string{pool}, guard.Hanging())
		for range 2 {
			_, err := c.Versions(ctx, pool)
			require.ErrorAs(s, err, &hanging)
		}
		_, err := c.Dataset(ctx, s.dir)
		require.NoError(s, err, "other pools answer")
		heal()
		require.Eventually(s, func() bool {
			_, err := c.Dataset(ctx, pool)
			return err == nil
		}, time.Minute, 100*time.Millisecond)
		assert.Empty(s, guard.Hanging())
	}},
	{"a dataset that is receiving cannot be destroyed or received into", func(s *suite) {
		ctx := s.Context()
		fs, replica := s.fs("fs"), s.dir+"/replica"
		s.snap(fs, "s1")
		s.write(fs, "f", random(1, 4*mib))
		s.snap(fs, "s2")
		require.NoError(s, s.receive(replica+"@s1", s.stream(zfs.SendOptions{To: fs + "@s1"})))
		inc := s.stream(zfs.SendOptions{From: fs + "@s1", To: fs + "@s2"})
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- s.Receive(ctx, receiveOptions(replica+"@s2"), r) }()
		_, err := w.Write(inc[:len(inc)/2])
		require.NoError(s, err)
		assert.ErrorIs(s, s.receive(replica+"@s2", inc), zfs.ErrPartial)
		assert.ErrorIs(s, s.AbortReceive(ctx, replica), zfs.ErrBusy)
		_, err = w.Write(inc[len(inc)/2:])
		require.NoError(s, err)
		require.NoError(s, w.Close())
		require.NoError(s, <-done)
		assert.Equal(s, []string{"@s1", "@s2"}, s.names(replica))
	}},
	{"a snapshot that is being sent is not destroyed", func(s *suite) {
		ctx := s.Context()
		fs := s.fs("fs")
		s.write(fs, "f", random(1, 8*mib))
		s.snap(fs, "s1")
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := s.Send(ctx, zfs.SendOptions{To: fs + "@s1"}, w)
			w.Close()
			done <- err
		}()
		_, err := io.ReadFull(r, make([]byte, 1024))
		require.NoError(s, err)
		assert.ErrorIs(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false), zfs.ErrHeld)
		_, err = io.Copy(io.Discard, r)
		require.NoError(s, err)
		require.NoError(s, <-done)
		require.NoError(s, s.DestroySnapshots(ctx, fs, []string{"s1"}, false))
	}},
	{"a pool that is exported can be imported again", func(s *suite) {
		ctx := s.Context()
		pool, devices := s.Spare(s.T)
		c := &zfs.Client{Runner: s.Target.Runner, Devices: devices}
		require.NoError(s, c.Create(ctx, pool+"/fs", zfs.CreateOptions{}))
		before, err := c.PoolState(ctx, pool)
		require.NoError(s, err)
		assert.Equal(s, "ONLINE", before.Health)
		assert.False(s, before.Multihost)
		require.ErrorIs(s, c.Import(ctx, "none"+pool, false), zfs.ErrNotFound)
		_, err = c.PoolLabel(ctx, "none"+pool)
		require.ErrorIs(s, err, zfs.ErrNotFound)

		require.NoError(s, c.Export(ctx, pool))
		require.ErrorIs(s, c.Export(ctx, pool), zfs.ErrNotFound)
		_, err = c.PoolState(ctx, pool)
		require.ErrorIs(s, err, zfs.ErrNotFound)
		found, err := c.Importable(ctx)
		require.NoError(s, err)
		i := slices.IndexFunc(found, func(p zfs.Importable) bool { return p.Name == pool })
		require.GreaterOrEqual(s, i, 0, "%v", found)
		assert.Equal(s, "ONLINE", found[i].Health)
		assert.False(s, found[i].Active)
		assert.Empty(s, found[i].Unseen)
		label, err := c.PoolLabel(ctx, pool)
		require.NoError(s, err)
		host, _, err := c.Host(ctx)
		require.NoError(s, err)
		assert.True(s, label.Exported)
		assert.False(s, label.Multihost)
		assert.Equal(s, host, label.Host)
		assert.Equal(s, found[i].GUID, label.GUID)

		require.NoError(s, c.Import(ctx, pool, false))
		after, err := c.PoolState(ctx, pool)
		require.NoError(s, err)
		assert.Equal(s, label.GUID, after.GUID)
		assert.False(s, after.Cached, "the host does not import it by itself")
		ds, err := c.Dataset(ctx, pool+"/fs")
		require.NoError(s, err)
		assert.False(s, ds.Mounted)
	}},
}

// failing is a reader and writer that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// waiting reads data, then ends the context and waits for it.
type waiting struct {
	data []byte
	end  func()
	ctx  context.Context
}

func (w *waiting) Read(p []byte) (int, error) {
	if len(w.data) == 0 {
		w.end()
		<-w.ctx.Done()
		return 0, w.ctx.Err()
	}
	n := copy(p, w.data)
	w.data = w.data[n:]
	return n, nil
}
