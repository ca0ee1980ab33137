package archive_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// TestConformance runs on a pool in memory and a directory, or on the pool that
// zfstest.EnvPool names and the archive that envConfig names.
func TestConformance(t *testing.T) {
	t.Parallel()
	target, ok := zfstest.RealTarget()
	if !ok {
		target = zfstest.NewPool("tank").Target("tank")
	}
	store := configured(t)
	if store == nil {
		dir, err := archive.NewDir(t.TempDir())
		require.NoError(t, err)
		store = &archive.Store{Bucket: dir, Name: "dir"}
	}
	conformance(t, target, store)
}

// envConfig names the configuration of an archive that tests may write to; it
// has nothing but what they leave there.
const envConfig = "ARCHIVE_TEST_CONFIG"

// configured opens the archive that envConfig names, nil when it names none.
func configured(t *testing.T) *archive.Store {
	t.Helper()
	file := os.Getenv(envConfig)
	if file == "" {
		return nil
	}
	c, err := archive.LoadConfig(file)
	require.NoError(t, err)
	store, err := c.Open()
	require.NoError(t, err)
	return store
}

// faultyBucket stops taking parts after some.
type faultyBucket struct {
	archive.Bucket
	parts chan struct{} // one for each that is taken
}

func (b *faultyBucket) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	if strings.HasPrefix(key, "data/") {
		select {
		case <-b.parts:
		default:
			return errFault
		}
	}
	return b.Bucket.Put(ctx, key, data, ifAbsent)
}

// conformance checks on any pool what the archive relies on: that a stream is the
// same when it is sent again, that an increment starts from a bookmark, and that
// what comes back is what was there.
func conformance(t *testing.T, target zfstest.Target, store *archive.Store) {
	t.Helper()
	ctx := t.Context()
	c := &zfs.Client{Runner: target.Runner}
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	root := target.Pool + "/archive-" + hex.EncodeToString(id)
	require.NoError(t, c.Create(ctx, root, zfs.CreateOptions{Properties: map[string]string{"mountpoint": "/tmp/zfs-archive-" + hex.EncodeToString(id), "compression": "off"}}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		ds, err := c.Datasets(ctx, root, true)
		assert.NoError(t, err)
		for _, d := range ds {
			if d.Origin != "" {
				assert.NoError(t, c.Destroy(ctx, d.Name, zfs.DestroyOptions{Recursive: true}))
			}
		}
		assert.NoError(t, c.Destroy(ctx, root, zfs.DestroyOptions{Recursive: true}))
	})
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)

	const partSize = 64 * kib
	uploader := func() *archive.Uploader {
		return &archive.Uploader{ZFS: c, Store: store, Node: "hassio", PartSize: partSize, Concurrency: 2, Clock: time.Now}
	}
	upload := func(t *testing.T, u *archive.Uploader, snapshot string) (*archive.UploadPlan, *archive.Manifest) {
		t.Helper()
		plan, err := u.Plan(ctx, snapshot)
		require.NoError(t, err)
		m, err := u.Upload(ctx, plan)
		require.NoError(t, err)
		return plan, m
	}
	restore := func(t *testing.T, m *archive.Manifest, to string) zfs.Version {
		t.Helper()
		catalog, err := store.Catalog(ctx)
		require.NoError(t, err)
		r := &archive.Restorer{ZFS: c, Store: store, Identities: []age.Identity{identity}, Concurrency: 2}
		plan, err := r.Plan(ctx, catalog, m.GUID, to)
		require.NoError(t, err)
		v, err := r.Restore(ctx, plan)
		require.NoError(t, err)
		assert.Equal(t, m.GUID, archive.GUID(v.GUID))
		return v
	}
	// contains checks a restored file, through a clone.
	contains := func(t *testing.T, snapshot, file string, want []byte) {
		t.Helper()
		clone := root + "/look"
		require.NoError(t, c.Clone(ctx, snapshot, clone, map[string]string{"canmount": "on", "readonly": "on"}))
		require.NoError(t, c.Mount(ctx, clone))
		got := target.Read(t, clone, file)
		assert.True(t, bytes.Equal(want, got), "%s in %s: %d bytes, not the %d that were written", file, snapshot, len(got), len(want))
		require.NoError(t, c.Destroy(ctx, clone, zfs.DestroyOptions{}))
	}
	snap := func(t *testing.T, dataset, name string) string {
		t.Helper()
		require.NoError(t, c.Snapshot(ctx, []string{dataset + "@" + name}, map[string]string{names.PropBackup: name}))
		return dataset + "@" + name
	}

	fs := root + "/fs"
	require.NoError(t, c.Create(ctx, fs, zfs.CreateOptions{Properties: map[string]string{"recordsize": "16384", "quota": "1073741824"}}))
	first, second := random("first", 1<<20), random("second", 300*kib)
	var one, two *archive.Manifest

	t.Run("a full point", func(t *testing.T) {
		target.Write(t, fs, "file", first)
		plan, m := upload(t, uploader(), snap(t, fs, "one"))
		one = m
		assert.Equal(t, archive.Full, plan.Action)
		assert.Greater(t, m.End.Bytes, uint64(1<<20))
		assert.Greater(t, len(m.Parts), 15)
		assert.Equal(t, map[string]string{"recordsize": "16384", "quota": "1073741824"}, m.Properties)
		t.Logf("%d bytes in %d parts, features %v, zfs %s", m.End.Bytes, len(m.Parts), m.Stream.Features, m.Stream.ZFS)
	})
	t.Run("an increment from a bookmark, cut off and continued", func(t *testing.T) {
		target.Write(t, fs, "more", second)
		snapshot := snap(t, fs, "two")
		require.NoError(t, c.DestroySnapshots(ctx, fs, []string{"one"}, false))
		u := uploader()
		parts := make(chan struct{}, 3)
		for range 3 {
			parts <- struct{}{}
		}
		u.Store = &archive.Store{Bucket: &faultyBucket{store.Bucket, parts}, Name: store.Name}
		plan, err := u.Plan(ctx, snapshot)
		require.NoError(t, err)
		assert.Equal(t, archive.Incremental, plan.Action)
		assert.Contains(t, plan.Base, "#")
		_, err = u.Upload(ctx, plan)
		require.ErrorIs(t, err, errFault)

		kept := 0
		u = uploader()
		u.Hooks.Part = func(e archive.PartEvent) {
			if e.Kept {
				kept++
			}
		}
		plan, two = upload(t, u, snapshot)
		assert.NotZero(t, kept)
		assert.Equal(t, plan.Kept, kept, "the same snapshot makes the same stream")
		assert.Less(t, two.End.Bytes, uint64(500*kib))
	})
	t.Run("every byte is verified", func(t *testing.T) {
		catalog, err := store.Catalog(ctx)
		require.NoError(t, err)
		v := &archive.Verifier{Store: store, Concurrency: 2}
		found, err := v.Verify(ctx, catalog, []*archive.Manifest{one, two})
		require.NoError(t, err)
		for _, f := range found {
			assert.Equal(t, archive.StateOK, f.State, "%+v", f)
			assert.True(t, f.Stream)
		}
	})
	t.Run("any point is restored", func(t *testing.T) {
		v := restore(t, one, root+"/back")
		contains(t, v.FullName(), "file", first)
		v = restore(t, two, root+"/back")
		contains(t, v.FullName(), "file", first)
		contains(t, v.FullName(), "more", second)
		ds, err := c.Dataset(ctx, root+"/back")
		require.NoError(t, err)
		assert.True(t, ds.ReadOnly)
		assert.False(t, ds.Mounted)
		props, err := c.Get(ctx, root+"/back", "recordsize", "quota")
		require.NoError(t, err)
		assert.Equal(t, "16384", props["recordsize"].Value)
		assert.Equal(t, "1073741824", props["quota"].Value)
		// The whole chain at once, to a dataset that is not there.
		contains(t, restore(t, two, root+"/again").FullName(), "more", second)
	})
	t.Run("a damaged part is not given to zfs receive", func(t *testing.T) {
		key := fmt.Sprintf("data/%016x/%s", uint64(two.GUID), two.Parts[len(two.Parts)-1].Name)
		r, err := store.Bucket.Get(ctx, key)
		require.NoError(t, err)
		var data bytes.Buffer
		_, err = data.ReadFrom(r)
		require.NoError(t, err)
		r.Close()
		flipped := bytes.Clone(data.Bytes())
		flipped[len(flipped)/2] ^= 1
		require.NoError(t, store.Bucket.Put(ctx, key, flipped, false))
		catalog, err := store.Catalog(ctx)
		require.NoError(t, err)
		restorer := &archive.Restorer{ZFS: c, Store: store, Concurrency: 2}
		plan, err := restorer.Plan(ctx, catalog, two.GUID, root+"/damaged")
		require.NoError(t, err)
		_, err = restorer.Restore(ctx, plan)
		require.ErrorIs(t, err, archive.ErrDamaged)
		versions, err := c.Versions(ctx, root+"/damaged")
		require.NoError(t, err)
		require.Len(t, versions, 1, "the point below it is whole")
		ds, err := c.Dataset(ctx, root+"/damaged")
		require.NoError(t, err)
		assert.Empty(t, ds.ReceiveResumeToken)

		require.NoError(t, store.Bucket.Put(ctx, key, data.Bytes(), false))
		contains(t, restore(t, two, root+"/damaged").FullName(), "more", second)
	})
	t.Run("encrypted parts, of a volume", func(t *testing.T) {
		vol := root + "/vol"
		require.NoError(t, c.Create(ctx, vol, zfs.CreateOptions{VolumeSize: 16 << 20, Sparse: true}))
		u := uploader()
		u.Recipients = []string{identity.Recipient().String()}
		_, m := upload(t, u, snap(t, vol, "one"))
		v := restore(t, m, root+"/volback")
		ds, err := c.Dataset(ctx, v.Dataset)
		require.NoError(t, err)
		assert.Equal(t, zfs.Volume, ds.Type)
		assert.Equal(t, uint64(16<<20), ds.VolSize)
	})
	t.Run("an encrypted dataset, whose key stays where it is", func(t *testing.T) {
		target.Write(t, fs, "key", []byte(strings.Repeat("0123456789abcdef", 4)))
		ds, err := c.Dataset(ctx, fs)
		require.NoError(t, err)
		secret := root + "/secret"
		require.NoError(t, c.Create(ctx, secret, zfs.CreateOptions{Properties: map[string]string{
			"encryption": "aes-256-gcm", "keyformat": "hex", "keylocation": "file://" + ds.Mountpoint + "/key",
		}}))
		target.Write(t, secret, "file", second)
		plan, _ := upload(t, uploader(), snap(t, secret, "one"))
		assert.Equal(t, archive.Flags{Raw: true}, plan.Flags)
		target.Write(t, secret, "file", first)
		plan, m := upload(t, uploader(), snap(t, secret, "two"))
		assert.Equal(t, archive.Incremental, plan.Action)
		assert.Equal(t, "aes-256-gcm", m.Stream.Encryption)
		v := restore(t, m, root+"/secretback")
		back, err := c.Dataset(ctx, v.Dataset)
		require.NoError(t, err)
		assert.Equal(t, "aes-256-gcm", back.Encryption)
		assert.Equal(t, "unavailable", back.KeyStatus)
	})
	t.Run("pruning keeps what is needed", func(t *testing.T) {
		p := &archive.Pruner{Store: store, Retention: archive.Retention{Last: 1, Unfinished: time.Hour}, Clock: time.Now, Datasets: []string{fs}}
		plan, err := p.Plan(ctx)
		require.NoError(t, err)
		assert.Empty(t, plan.Delete)
		u := uploader()
		u.Full = true
		snapshot := snap(t, fs, "three")
		// Creation times have seconds; the order of points must not depend on it.
		_, m := upload(t, u, snapshot)
		plan, err = p.Plan(ctx)
		require.NoError(t, err)
		require.Len(t, plan.Delete, 2)
		require.NoError(t, p.Prune(ctx, plan))
		contains(t, restore(t, m, root+"/pruned").FullName(), "more", second)
		_, err = store.Point(ctx, one.GUID)
		require.ErrorIs(t, err, archive.ErrNotFound)
	})
}
