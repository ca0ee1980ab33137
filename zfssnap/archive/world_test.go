package archive_test

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive/archivetest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

const (
	kib = 1 << 10
	vol = "tank/vol"
	// back is where things are restored to: on another pool.
	back = "other/vol"
)

// world is a host with a volume, an archive, and a clock that stands.
type world struct {
	*testing.T
	pool   *zfstest.Pool
	bucket *archivetest.Memory
	zfs    *zfs.Client
	store  *archive.Store
	now    time.Time

	recipients []string
	identities []age.Identity
	maxChain   int
	full       bool
	partSize   int64
	warned     []error
	kept       int // parts that were kept
	parts      int // parts altogether
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pool := zfstest.NewPool("tank", "other")
	w := &world{
		T: t, pool: pool, bucket: archivetest.NewMemory(), zfs: &zfs.Client{Runner: pool},
		now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), partSize: 8 * kib,
	}
	w.store = &archive.Store{Bucket: w.bucket, Name: "memory", RetryDelay: time.Nanosecond}
	pool.SetClock(func() time.Time { return w.now })
	w.bucket.SetClock(func() time.Time { return w.now })
	require.NoError(t, w.zfs.Create(t.Context(), vol, zfs.CreateOptions{Properties: map[string]string{"quota": "1G", "recordsize": "16K", "mountpoint": "legacy"}}))
	return w
}

// encrypt makes uploads encrypted from now on.
func (w *world) encrypt() {
	w.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(w, err)
	w.recipients, w.identities = []string{id.Recipient().String()}, []age.Identity{id}
}

// random is incompressible data, always the same for a seed.
func random(seed string, size int) []byte {
	var key [32]byte
	copy(key[:], seed)
	data := make([]byte, size)
	_, _ = mathrand.NewChaCha8(key).Read(data)
	return data
}

// snap writes a file of the snapshot's name and takes the snapshot.
func (w *world) snap(name string, size int) zfs.Version {
	w.Helper()
	require.NoError(w, w.pool.Write(vol, name, random(name, size)))
	require.NoError(w, w.zfs.Snapshot(w.Context(), []string{vol + "@" + name}, map[string]string{names.PropManaged: "true", names.PropBackup: "backup-" + name}))
	v, err := w.zfs.Lookup(w.Context(), vol+"@"+name)
	require.NoError(w, err)
	w.now = w.now.Add(time.Hour)
	return v
}

func (w *world) uploader() *archive.Uploader {
	return &archive.Uploader{
		ZFS: w.zfs, Store: w.store, Node: "hassio", PartSize: w.partSize, Concurrency: 3, Recipients: w.recipients,
		Full: w.full, MaxChain: w.maxChain, Clock: func() time.Time { return w.now },
		Hooks: archive.Hooks{
			Warn: func(err error) { w.warned = append(w.warned, err) },
			Part: func(e archive.PartEvent) {
				w.parts++
				if e.Kept {
					w.kept++
				}
			},
		},
	}
}

// tryUpload uploads a snapshot of the volume.
func (w *world) tryUpload(ctx context.Context, name string) (*archive.UploadPlan, *archive.Manifest, error) {
	w.kept, w.parts = 0, 0
	u := w.uploader()
	plan, err := u.Plan(ctx, vol+"@"+name)
	if err != nil {
		return nil, nil, err
	}
	m, err := u.Upload(ctx, plan)
	return plan, m, err
}

func (w *world) upload(name string) (*archive.UploadPlan, *archive.Manifest) {
	w.Helper()
	plan, m, err := w.tryUpload(w.Context(), name)
	require.NoError(w, err)
	return plan, m
}

func (w *world) catalog() *archive.Catalog {
	w.Helper()
	c, err := w.store.Catalog(w.Context())
	require.NoError(w, err)
	return c
}

// points names the snapshots that are restore points.
func (w *world) points() []string {
	w.Helper()
	found := []string{}
	for _, m := range w.catalog().Points {
		found = append(found, m.Snapshot)
	}
	return found
}

func (w *world) restorer() *archive.Restorer {
	return &archive.Restorer{ZFS: w.zfs, Store: w.store, Identities: w.identities, Concurrency: 3}
}

func (w *world) tryRestore(ctx context.Context, name, target string) (*archive.RestorePlan, error) {
	c, err := w.store.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	m, err := c.Find(vol + "@" + name)
	if err != nil {
		return nil, err
	}
	plan, err := w.restorer().Plan(ctx, c, m.GUID, target)
	if err != nil {
		return nil, err
	}
	_, err = w.restorer().Restore(ctx, plan)
	return plan, err
}

// restores checks that a point gives back all that was in its snapshot.
func (w *world) restores(name, target string) *archive.RestorePlan {
	w.Helper()
	plan, err := w.tryRestore(w.Context(), name, target)
	require.NoError(w, err)
	want, err := w.pool.Files(vol + "@" + name)
	require.NoError(w, err)
	got, err := w.pool.Files(target + "@" + name)
	require.NoError(w, err)
	assert.Equal(w, want, got)
	return plan
}

func (w *world) verify() []archive.Verified {
	w.Helper()
	c := w.catalog()
	v := &archive.Verifier{Store: w.store, Identities: w.identities, Concurrency: 3}
	found, err := v.Verify(w.Context(), c, c.Points)
	require.NoError(w, err)
	return append(found, c.Manifests()...)
}

// sound reports whether verifying finds nothing.
func (w *world) sound() bool {
	w.Helper()
	for _, v := range w.verify() {
		if v.State != archive.StateOK {
			return false
		}
	}
	return true
}

var errFault = errors.New("the store is down")

// failAt makes the n-th request of a verb fail, and all that follow.
func (w *world) failAt(verb string, n int) {
	w.bucket.Before(nth(verb, n))
}

func nth(verb string, n int) func(string, string) error {
	var count atomic.Int64 // parts are stored side by side
	return func(v, key string) error {
		if v == verb {
			if count.Add(1) >= int64(n) {
				return fmt.Errorf("%s %s: %w", v, key, errFault)
			}
		}
		return nil
	}
}

func bookmarks(versions []zfs.Version) []string {
	found := []string{}
	for _, v := range versions {
		if v.Bookmark {
			prefix, _, _ := strings.Cut(v.Name, "_archive_")
			found = append(found, fmt.Sprintf("%s_%d", prefix, v.GUID))
		}
	}
	return found
}
