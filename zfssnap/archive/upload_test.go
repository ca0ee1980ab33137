package archive_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive/archivetest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func TestUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snap("one", 30*kib)
	plan, m := w.upload("one")
	assert.Equal(t, archive.Full, plan.Action)
	assert.Equal(t, 1, plan.Chain)
	assert.NotZero(t, plan.Estimate)
	assert.Equal(t, archive.GUID(v.GUID), m.GUID)
	assert.Equal(t, "hassio:"+vol, m.Source())
	assert.Equal(t, v.CreateTXG, m.CreateTXG)
	assert.Equal(t, v.Created.Truncate(time.Second), m.Created)
	assert.Equal(t, archive.Flags{LargeBlock: true, Compressed: true, Embedded: true}, m.Stream.Flags)
	assert.Equal(t, "2.1.11-1+deb12u1", m.Stream.ZFS)
	assert.Equal(t, map[string]string{"quota": "1073741824", "recordsize": "16384", "mountpoint": "legacy"}, m.Properties)
	assert.Equal(t, "backup-one", m.SnapshotProperties["io.kubectl-dr:backup"])
	require.Len(t, m.Parts, 4)
	assert.Greater(t, m.End.Bytes, uint64(30*kib))
	assert.Equal(t, int64(m.End.Bytes), m.StoredBytes())

	guid := fmt.Sprintf("%016x", v.GUID)
	assert.Equal(t, []string{"points/" + guid + ".json"}, w.bucket.Keys("points/"))
	assert.Len(t, w.bucket.Keys("data/"+guid+"/"), 4)
	assert.Empty(t, w.bucket.Keys("uploads/"))
	assert.Empty(t, w.warned)

	again, same := w.upload("one")
	assert.Equal(t, archive.AlreadyThere, again.Action)
	assert.Equal(t, m.End, same.End)
	assert.Zero(t, w.parts)
}

func TestUpload_increments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.snap("one", 20*kib)
	w.upload("one")
	two := w.snap("two", 2*kib)
	plan, m := w.upload("two")
	assert.Equal(t, archive.Incremental, plan.Action)
	assert.Equal(t, vol+"@one", plan.Base)
	assert.Equal(t, &archive.Base{GUID: archive.GUID(one.GUID), Snapshot: "one"}, m.Base)
	assert.Less(t, m.End.Bytes, uint64(4*kib))

	// The snapshot may go: its bookmark is what the next increment starts from,
	// and the only one that is left.
	versions, err := w.zfs.Versions(t.Context(), vol)
	require.NoError(t, err)
	assert.Equal(t, []string{fmt.Sprintf("kubectl-dr_%d", two.GUID)}, bookmarks(versions))
	require.NoError(t, w.zfs.DestroySnapshots(t.Context(), vol, []string{"one", "two"}, false))
	w.snap("three", 2*kib)
	plan, m = w.upload("three")
	assert.Equal(t, archive.Incremental, plan.Action)
	assert.Equal(t, archive.GUID(two.GUID), m.BaseGUID())
	assert.Contains(t, plan.Base, "#kubectl-dr_archive_")
	assert.Equal(t, 3, plan.Chain)
	w.restores("three", back)
}

func TestUpload_startsAnew(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(*world)
		want    archive.Action
	}{
		{"not by default", func(*world) {}, archive.Incremental},
		{"when it is asked for", func(w *world) { w.full = true }, archive.Full},
		{"when the chain is long enough", func(w *world) { w.maxChain = 2 }, archive.Full},
		{"not while the chain may grow", func(w *world) { w.maxChain = 3 }, archive.Incremental},
		{"when the base is not a restore point any more", func(w *world) {
			for _, k := range w.bucket.Keys("points/") {
				require.NoError(w, w.bucket.Delete(w.Context(), k))
			}
		}, archive.Full},
		{"when the chain is broken", func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), "points/"+hexGUID(w.catalog().Points[0])+".json"))
		}, archive.Full},
		{"when neither snapshot nor bookmark of the base is left", func(w *world) {
			require.NoError(w, w.zfs.DestroySnapshots(w.Context(), vol, []string{"one", "two"}, false))
			versions, err := w.zfs.Versions(w.Context(), vol)
			require.NoError(w, err)
			for _, v := range versions {
				if v.Bookmark {
					require.NoError(w, w.zfs.DestroyBookmark(w.Context(), v.FullName()))
				}
			}
		}, archive.Full},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.snap("one", 9*kib)
			w.upload("one")
			w.snap("two", kib)
			w.upload("two")
			w.snap("three", kib)
			tt.arrange(w)
			plan, _ := w.upload("three")
			assert.Equal(t, tt.want, plan.Action)
			w.restores("three", back)
		})
	}
}

func hexGUID(m *archive.Manifest) string { return fmt.Sprintf("%016x", uint64(m.GUID)) }

func TestUpload_modesDoNotMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	const secret = "tank/secret"
	require.NoError(t, w.zfs.Create(ctx, secret, zfs.CreateOptions{Properties: map[string]string{"encryption": "on", "keyformat": "raw"}}))
	require.NoError(t, w.pool.Write(secret, "file", random("file", 9*kib)))
	require.NoError(t, w.zfs.Snapshot(ctx, []string{secret + "@one"}, nil))
	w.pool.SetKeyLoaded(secret, false)
	u := w.uploader()
	plan, err := u.Plan(ctx, secret+"@one")
	require.NoError(t, err)
	assert.Equal(t, archive.Flags{Raw: true}, plan.Flags, "an encrypted dataset travels as it lies on disk")
	m, err := u.Upload(ctx, plan)
	require.NoError(t, err)
	assert.Equal(t, "aes-256-gcm", m.Stream.Encryption)

	// A manifest of the same snapshot that was made in another way is no base.
	m.Stream.Flags = archive.Flags{LargeBlock: true}
	data, err := m.Encode()
	require.NoError(t, err)
	require.NoError(t, w.bucket.Put(ctx, "points/"+hexGUID(m)+".json", data, false))
	require.NoError(t, w.zfs.Snapshot(ctx, []string{secret + "@two"}, nil))
	plan, err = u.Plan(ctx, secret+"@two")
	require.NoError(t, err)
	assert.Equal(t, archive.Full, plan.Action)
}

func TestUpload_encrypted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.encrypt()
	w.snap("one", 30*kib)
	_, m := w.upload("one")
	assert.Equal(t, w.recipients, m.Recipients)
	assert.Greater(t, m.StoredBytes(), int64(m.End.Bytes))
	for key, data := range w.bucket.Objects() {
		assert.NotContains(t, string(data), "AGE-SECRET-KEY")
		if strings.HasPrefix(key, "data/") {
			assert.True(t, strings.HasSuffix(key, ".age"), key)
			assert.True(t, strings.HasPrefix(string(data), "age-encryption.org/v1\n"))
		}
	}
	w.restores("one", back)
	assert.Equal(t, []archive.Verified{{Snapshot: vol + "@one", GUID: m.GUID, State: archive.StateOK, Bytes: m.StoredBytes(), Stream: true}}, w.verify())

	// Without the key the store is checked all the same, and nothing is restored.
	w.identities = nil
	assert.Equal(t, []archive.Verified{{Snapshot: vol + "@one", GUID: m.GUID, State: archive.StateOK, Bytes: m.StoredBytes()}}, w.verify())
	_, err := w.tryRestore(t.Context(), "one", "other/two")
	require.ErrorIs(t, err, archive.ErrSealed)
	// Nor with another key.
	w.encrypt()
	_, err = w.tryRestore(t.Context(), "one", "other/two")
	require.ErrorIs(t, err, archive.ErrSealed)
	assert.NotContains(t, w.pool.Names(), "other/two")
}

// TestUpload_crash ends an upload at each of its requests to the store, before it
// was carried out and after, and then does it again.
func TestUpload_crash(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("encrypted=%t answer lost=%t", encrypted, lost), func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					if !crashAt(t, n, encrypted, lost) {
						require.Greater(t, n, 10, "there are that many requests at least")
						return
					}
				}
			})
		}
	}
}

// crashAt returns false when there are fewer than n requests.
func crashAt(t *testing.T, n int, encrypted, lost bool) bool {
	w := newWorld(t)
	if encrypted {
		w.encrypt()
	}
	w.snap("one", 20*kib)
	w.upload("one")
	w.snap("two", 30*kib)
	var requests atomic.Int64
	ctx, crash := context.WithCancel(t.Context())
	hook := func(string, string) error {
		if requests.Add(1) == int64(n) {
			// The process is gone: it asks for nothing more.
			crash()
			return errFault
		}
		return ctx.Err()
	}
	if lost {
		w.bucket.After(hook)
	} else {
		w.bucket.Before(hook)
	}
	_, _, err := w.tryUpload(ctx, "two")
	w.bucket.Before(nil)
	w.bucket.After(nil)
	crashed := ctx.Err() != nil

	// What there is at this moment is whole, and says what it is.
	c := w.catalog()
	assert.Empty(t, c.Damaged)
	if len(c.Points) == 1 {
		require.Error(t, err, "request %d", n)
	}
	assert.LessOrEqual(t, len(c.Unfinished), 1)
	for _, m := range c.Points {
		w.restores(m.Snapshot, "other/then-"+m.Snapshot)
	}
	assert.True(t, w.sound())

	// It is done again.
	_, m := w.upload("two")
	assert.Equal(t, []string{"one", "two"}, w.points(), "request %d", n)
	assert.True(t, w.sound())
	w.restores("two", back)
	if len(c.Points) == 1 && len(c.Unfinished) == 1 {
		assert.Equal(t, c.Unfinished[0].Parts, w.kept, "request %d: what was stored is not stored again", n)
		assert.Empty(t, w.bucket.Keys("uploads/"))
		assert.Len(t, w.bucket.Keys("data/"+hexGUID(m)+"/"), len(m.Parts))
	}
	return crashed
}

func TestUpload_resumeChecksWhatIsThere(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(w *world, parts []string)
		kept    int
	}{
		{"all parts are kept", func(*world, []string) {}, 3},
		{"a damaged part is stored again", func(w *world, parts []string) { w.bucket.Flip(parts[1], 100) }, 2},
		{"a missing part is stored again", func(w *world, parts []string) { require.NoError(w, w.bucket.Delete(w.Context(), parts[0])) }, 2},
		{"with other parts it starts anew", func(w *world, _ []string) { w.partSize = 12 * kib }, 0},
		{"with another base it starts anew", func(w *world, _ []string) { w.full = true }, 0},
		{"encrypted, it starts anew", func(w *world, _ []string) { w.encrypt() }, 0},
		{"objects of other names are passed over", func(w *world, parts []string) {
			require.NoError(w, w.bucket.Put(w.Context(), parts[0]+".bak", []byte("x"), false))
		}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.snap("one", kib)
			w.upload("one")
			two := w.snap("two", 30*kib)
			dir := fmt.Sprintf("data/%016x/", two.GUID)
			w.failAt("put", 5) // the record, three parts
			_, _, err := w.tryUpload(t.Context(), "two")
			require.ErrorIs(t, err, errFault)
			w.bucket.Before(nil)
			parts := w.bucket.Keys(dir)
			require.Len(t, parts, 3)
			assert.Equal(t, []string{"one"}, w.points(), "what is unfinished is no restore point")
			require.Len(t, w.catalog().Unfinished, 1)
			assert.Equal(t, vol+"@two", w.catalog().Unfinished[0].Record.FullName())

			tt.arrange(w, parts)
			_, m := w.upload("two")
			assert.Equal(t, tt.kept, w.kept)
			assert.Len(t, w.bucket.Keys(dir), len(m.Parts), "what did not fit is gone")
			assert.True(t, w.sound())
			w.restores("two", back)
		})
	}
}

func TestUpload_sendFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 60*kib)
	w.pool.Cut("send", 40*kib)
	_, _, err := w.tryUpload(t.Context(), "one")
	require.Error(t, err)
	assert.Empty(t, w.points(), "a stream without its end is no restore point")
	require.Len(t, w.catalog().Unfinished, 1)
	stored := w.catalog().Unfinished[0].Parts
	w.upload("one")
	assert.Equal(t, stored, w.kept)
	w.restores("one", back)
}

func TestUpload_snapshotChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 9*kib)
	plan, err := w.uploader().Plan(t.Context(), vol+"@one")
	require.NoError(t, err)
	require.NoError(t, w.zfs.DestroySnapshots(t.Context(), vol, []string{"one"}, false))
	w.snap("one", 10*kib)
	_, err = w.uploader().Upload(t.Context(), plan)
	require.ErrorIs(t, err, archive.ErrChanged)
	assert.Empty(t, w.points())
}

func TestUpload_basePrunedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 9*kib)
	_, one := w.upload("one")
	w.snap("two", 9*kib)
	plan, err := w.uploader().Plan(t.Context(), vol+"@two")
	require.NoError(t, err)
	require.NoError(t, w.bucket.Delete(t.Context(), "points/"+hexGUID(one)+".json"))
	_, err = w.uploader().Upload(t.Context(), plan)
	require.ErrorIs(t, err, archive.ErrChanged)
	assert.Empty(t, w.points(), "no point is made that could not be restored")
	again, _ := w.upload("two")
	assert.Equal(t, archive.Full, again.Action)
	w.restores("two", back)
}

func TestUpload_twoAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.encrypt() // so that the parts of each differ
	w.snap("one", 60*kib)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			u := w.uploader()
			u.Hooks = archive.Hooks{}
			plan, err := u.Plan(t.Context(), vol+"@one")
			if assert.NoError(t, err) {
				_, err = u.Upload(t.Context(), plan)
				assert.NoError(t, err)
			}
		})
	}
	running.Wait()
	assert.Equal(t, []string{"one"}, w.points())
	assert.True(t, w.sound())
	w.restores("one", back)
}

// TestUpload_answerLost: a request that was carried out and repeated finds its own
// manifest, and cleans up as if it had been told.
func TestUpload_answerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snap("one", 30*kib)
	bucket := &repeating{w.bucket}
	u := w.uploader()
	u.Store = &archive.Store{Bucket: bucket, Name: "memory"}
	plan, err := u.Plan(t.Context(), vol+"@one")
	require.NoError(t, err)
	m, err := u.Upload(t.Context(), plan)
	require.NoError(t, err)
	assert.Equal(t, archive.GUID(v.GUID), m.GUID)
	assert.Empty(t, w.bucket.Keys("uploads/"))
	assert.Len(t, w.bucket.Keys(""), 1+len(m.Parts))
	w.restores("one", back)
}

// repeating carries every put out twice, and returns the answer to the second.
type repeating struct{ *archivetest.Memory }

func (r *repeating) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	if err := r.Memory.Put(ctx, key, data, ifAbsent); err != nil {
		return err
	}
	return r.Memory.Put(ctx, key, data, ifAbsent)
}

func TestUpload_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snap("one", kib)
	ctx := t.Context()
	_, err := w.uploader().Plan(ctx, vol+"@none")
	require.ErrorIs(t, err, archive.ErrNotFound)
	_, err = w.uploader().Plan(ctx, vol)
	require.ErrorIs(t, err, zfs.ErrInvalidName)
	_, err = w.uploader().Plan(ctx, "tank/none@one")
	require.ErrorIs(t, err, archive.ErrNotFound)
	require.NoError(t, w.bucket.Put(ctx, fmt.Sprintf("points/%016x.json", v.GUID), []byte("{}"), false))
	_, err = w.uploader().Plan(ctx, vol+"@one")
	require.ErrorIs(t, err, archive.ErrDamaged)
	require.ErrorContains(t, err, "what is in its place")
}

// TestUpload_brokenPoint: a point that is of no use does not pass for an archived
// snapshot.
func TestUpload_brokenPoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", kib)
	_, one := w.upload("one")
	w.snap("two", kib)
	_, two := w.upload("two")
	require.NoError(t, w.bucket.Delete(t.Context(), "points/"+hexGUID(one)+".json"))
	_, _, err := w.tryUpload(t.Context(), "two")
	require.ErrorIs(t, err, archive.ErrBroken)
	var hinter interface{ Hint() string }
	require.ErrorAs(t, err, &hinter)
	key := "points/" + hexGUID(two) + ".json"
	require.Contains(t, hinter.Hint(), key)
	require.NoError(t, w.bucket.Delete(t.Context(), key))
	plan, _ := w.upload("two")
	assert.Equal(t, archive.Full, plan.Action)
	w.restores("two", back)
}

// meter is what lies between zfs send and the store.
type meter struct {
	zfs.Runner
	mu           sync.Mutex
	taken, put   int64
	most         int64
	partsOnWay   int
	mostPartsPut int
}

func (m *meter) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if c.Stdout != nil && c.Args[1] == "send" {
		c.Stdout = &meterWriter{m, c.Stdout}
	}
	return m.Runner.Run(ctx, c)
}

type meterWriter struct {
	m *meter
	w interface{ Write([]byte) (int, error) }
}

func (w *meterWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.taken += int64(n)
	w.m.most = max(w.m.most, w.m.taken-w.m.put)
	return n, err
}

// meterBucket counts parts on their way.
type meterBucket struct {
	*archivetest.Memory
	m *meter
}

func (b *meterBucket) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	part := strings.HasPrefix(key, "data/")
	count := func(n int, bytes int64) {
		if part {
			b.m.mu.Lock()
			defer b.m.mu.Unlock()
			b.m.partsOnWay += n
			b.m.mostPartsPut = max(b.m.mostPartsPut, b.m.partsOnWay)
			b.m.put += bytes
		}
	}
	count(1, 0)
	err := b.Memory.Put(ctx, key, data, ifAbsent)
	count(-1, int64(len(data)))
	return err
}

// TestUpload_memory: of a stream many times as large as the buffers, a slow store
// never makes more pile up than they hold.
func TestUpload_memory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const parts, concurrency = 100, 3
	w.snap("one", parts*8*kib)
	m := &meter{Runner: w.pool}
	store := &archive.Store{Bucket: &meterBucket{w.bucket, m}, Name: "memory"}
	u := w.uploader()
	u.ZFS, u.Store, u.Concurrency = &zfs.Client{Runner: m}, store, concurrency
	full := make(chan struct{}, parts+2)
	gate := make(chan struct{})
	w.bucket.Before(func(verb, key string) error {
		if verb == "put" && strings.HasPrefix(key, "data/") {
			full <- struct{}{}
			<-gate
		}
		return nil
	})
	plan, err := u.Plan(t.Context(), vol+"@one")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := u.Upload(t.Context(), plan)
		done <- err
	}()
	// The store takes nothing: all its places fill, and the sender stops.
	for range concurrency {
		<-full
	}
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.taken >= concurrency*8*kib
	}, 2*time.Minute, time.Millisecond)
	close(gate)
	require.NoError(t, <-done)
	assert.Greater(t, m.taken, int64(parts*8*kib))
	assert.LessOrEqual(t, m.mostPartsPut, concurrency)
	assert.LessOrEqual(t, m.most, int64((concurrency+1)*8*kib), "parts × concurrency, and the one being filled")
	w.bucket.Before(nil)
	w.restores("one", back)
}

// otherStream sends the stream of another snapshot than was asked for.
type otherStream struct {
	zfs.Runner
	stream []byte
}

func (o otherStream) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if c.Stdout != nil && c.Args[1] == "send" {
		_, err := c.Stdout.Write(o.stream)
		return zfs.Result{}, err
	}
	return o.Runner.Run(ctx, c)
}

// TestUpload_otherStream: what counts is what was sent, by the stream's own
// header, and not what was asked for.
func TestUpload_otherStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snap("one", kib)
	header := make([]byte, 312)
	binary.LittleEndian.PutUint64(header[8:], 0x2F5bacbac)
	binary.LittleEndian.PutUint64(header[16:], 1|1<<(2+22))
	try := func(to, from uint64) (*archive.Manifest, error) {
		binary.LittleEndian.PutUint64(header[40:], to)
		binary.LittleEndian.PutUint64(header[48:], from)
		u := w.uploader()
		u.ZFS = &zfs.Client{Runner: otherStream{w.pool, header}}
		plan, err := u.Plan(t.Context(), vol+"@one")
		require.NoError(t, err)
		return u.Upload(t.Context(), plan)
	}
	_, err := try(v.GUID+1, 0)
	require.ErrorIs(t, err, archive.ErrChanged)
	_, err = try(v.GUID, 7)
	require.ErrorIs(t, err, archive.ErrChanged)
	assert.Empty(t, w.points())
	m, err := try(v.GUID, 0)
	require.NoError(t, err)
	assert.Equal(t, []string{"compressed"}, m.Stream.Features)
}
