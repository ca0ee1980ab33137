package archive_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// chain uploads three points, each based on the one before.
func (w *world) chain() {
	w.Helper()
	for i, name := range []string{"one", "two", "three"} {
		w.snap(name, (30-8*i)*kib)
		w.upload(name)
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain()
	plan := w.restores("three", back)
	assert.Equal(t, "hassio:"+vol, plan.Source)
	require.Len(t, plan.Steps, 3)
	assert.Equal(t, back+"@one", plan.Steps[0].Snapshot)
	assert.Zero(t, plan.Steps[0].Base)
	assert.Equal(t, plan.Steps[0].GUID, plan.Steps[1].Base)
	ctx := t.Context()

	ds, err := w.zfs.Dataset(ctx, back)
	require.NoError(t, err)
	assert.True(t, ds.ReadOnly)
	assert.False(t, ds.Mounted)
	props, err := w.zfs.Get(ctx, back, "quota", "recordsize", "mountpoint", "canmount", names.PropManaged, names.PropSource)
	require.NoError(t, err)
	assert.Equal(t, "1073741824", props["quota"].Value)
	assert.Equal(t, "16384", props["recordsize"].Value)
	assert.NotEqual(t, zfs.SourceLocal, props["mountpoint"].Source, "where it is mounted is not taken over")
	assert.Equal(t, "noauto", props["canmount"].Value)
	assert.Equal(t, "true", props[names.PropManaged].Value)
	assert.Equal(t, "hassio:"+vol, props[names.PropSource].Value)
	for _, name := range []string{"one", "two", "three"} {
		here, err := w.zfs.Lookup(ctx, back+"@"+name)
		require.NoError(t, err)
		there, err := w.zfs.Lookup(ctx, vol+"@"+name)
		require.NoError(t, err)
		assert.Equal(t, there.GUID, here.GUID)
		props, err := w.zfs.UserProperties(ctx, here.FullName(), zfs.SourceLocal)
		require.NoError(t, err)
		assert.Equal(t, map[string]string{names.PropManaged: "true", names.PropBackup: "backup-" + name, names.PropSource: "hassio:" + vol}, props)
	}
	for _, args := range w.pool.Commands() {
		if args[1] == "receive" {
			assert.NotContains(t, args, "-F")
			assert.NotContains(t, args, "-s", "a stream of an archive cannot be continued")
			assert.Contains(t, args, "-u")
		}
		assert.NotEqual(t, []string{"destroy", "other"}, []string{args[1], zfs.Pool(args[len(args)-1])})
	}
}

func TestRestore_anyPoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain()
	for _, name := range []string{"one", "two", "three"} {
		w.restores(name, "other/"+name)
	}
	// A later point continues an earlier restore, and none goes back.
	plan := w.restores("three", "other/one")
	assert.Equal(t, []bool{true, false, false}, []bool{plan.Steps[0].There, plan.Steps[1].There, plan.Steps[2].There})
	plan = w.restores("one", "other/one")
	assert.True(t, plan.Steps[0].There)
	assert.Contains(t, w.pool.Names(), "other/one@three")
}

func TestRestore_volume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	require.NoError(t, w.zfs.Create(ctx, "tank/block", zfs.CreateOptions{VolumeSize: 1 << 20, Sparse: true}))
	require.NoError(t, w.pool.Write("tank/block", "data", random("data", 20*kib)))
	require.NoError(t, w.zfs.Snapshot(ctx, []string{"tank/block@one"}, nil))
	u := w.uploader()
	plan, err := u.Plan(ctx, "tank/block@one")
	require.NoError(t, err)
	m, err := u.Upload(ctx, plan)
	require.NoError(t, err)
	assert.Equal(t, "1048576", m.Properties["volsize"])
	restore, err := w.restorer().Plan(ctx, w.catalog(), m.GUID, "other/block")
	require.NoError(t, err)
	v, err := w.restorer().Restore(ctx, restore)
	require.NoError(t, err)
	assert.Equal(t, "other/block@one", v.FullName())
	props, err := w.zfs.Get(ctx, "other/block", "volsize", "volmode", "refreservation", "readonly")
	require.NoError(t, err)
	assert.Equal(t, "1048576", props["volsize"].Value)
	assert.Equal(t, "none", props["volmode"].Value)
	assert.Equal(t, "0", props["refreservation"].Value)
	assert.Equal(t, "on", props["readonly"].Value)
}

// TestRestore_damage: nothing of a part that is not what was stored gets to zfs
// receive, and what was received before it is whole.
func TestRestore_damage(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%t", encrypted), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if encrypted {
				w.encrypt()
			}
			w.chain()
			clean := w.bucket.Objects()
			second := hexGUID(w.catalog().Points[1])
			for i, key := range w.bucket.Keys("data/" + second + "/") {
				target := fmt.Sprintf("other/%d", i)
				w.bucket.Flip(key, len(clean[key])-1)
				_, err := w.tryRestore(t.Context(), "three", target)
				require.ErrorIs(t, err, archive.ErrDamaged)
				require.ErrorContains(t, err, key)
				assert.Contains(t, w.pool.Names(), target+"@one")
				assert.NotContains(t, w.pool.Names(), target+"@two")
				ds, err := w.zfs.Dataset(t.Context(), target)
				require.NoError(t, err)
				assert.Empty(t, ds.ReceiveResumeToken, "nothing is in the way of the next try")

				require.NoError(t, w.bucket.Put(t.Context(), key, clean[key], false))
				w.restores("three", target)
			}
		})
	}
}

// TestRestore_wrongWhole: parts that are each what the manifest says do not make
// a stream that is not.
func TestRestore_wrongWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 30*kib)
	_, m := w.upload("one")
	m.End.SHA256 = sha256.Sum256([]byte("another stream"))
	data, err := m.Encode()
	require.NoError(t, err)
	require.NoError(t, w.bucket.Put(t.Context(), "points/"+hexGUID(m)+".json", data, false))
	_, err = w.tryRestore(t.Context(), "one", back)
	require.ErrorIs(t, err, archive.ErrDamaged)
	assert.NotContains(t, w.pool.Names(), back)
	found := w.verify()
	assert.Equal(t, archive.StateDamaged, found[0].State)
	assert.Contains(t, found[0].Findings[0].Problem, "SHA-256 of the stream")
}

// TestRestore_wrongGUID: a stream that is not the snapshot it is said to be does
// not pass for it.
func TestRestore_wrongGUID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 9*kib)
	_, m := w.upload("one")
	data := w.bucket.Objects()["data/"+hexGUID(m)+"/"+m.Parts[0].Name]
	m.GUID++
	require.NoError(t, w.bucket.Put(t.Context(), "data/"+hexGUID(m)+"/"+m.Parts[0].Name, data, false))
	for _, p := range m.Parts[1:] {
		old := m.GUID - 1
		require.NoError(t, w.bucket.Put(t.Context(), "data/"+hexGUID(m)+"/"+p.Name, w.bucket.Objects()[fmt.Sprintf("data/%016x/%s", uint64(old), p.Name)], false))
	}
	encoded, err := m.Encode()
	require.NoError(t, err)
	require.NoError(t, w.bucket.Put(t.Context(), "points/"+hexGUID(m)+".json", encoded, false))
	c := w.catalog()
	plan, err := w.restorer().Plan(t.Context(), c, m.GUID, back)
	require.NoError(t, err)
	_, err = w.restorer().Restore(t.Context(), plan)
	require.ErrorIs(t, err, archive.ErrDamaged)
	require.ErrorContains(t, err, "it has guid")
}

func TestRestore_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(*world)
		target  string
		is      error
		says    string
	}{
		{"a dataset of somebody else", func(w *world) {
			require.NoError(w, w.zfs.Create(w.Context(), back, zfs.CreateOptions{}))
		}, back, archive.ErrForeign, "already exists"},
		{"the restore of another dataset", func(w *world) {
			require.NoError(w, w.zfs.Create(w.Context(), back, zfs.CreateOptions{Properties: map[string]string{names.PropManaged: "true", names.PropSource: "remote:" + vol}}))
		}, back, archive.ErrForeign, "already exists"},
		{"a replica that is fenced", func(w *world) {
			w.restores("one", back)
			require.NoError(w, w.zfs.Set(w.Context(), back, map[string]string{names.PropFenced: "run-1"}))
		}, back, nil, "fenced by run-1"},
		{"a target that went another way", func(w *world) {
			w.restores("one", back)
			require.NoError(w, w.zfs.Snapshot(w.Context(), []string{back + "@mine"}, nil))
		}, back, zfs.ErrDiverged, `newest snapshot "mine"`},
		{"a target without a parent", func(*world) {}, "other/no/vol", archive.ErrNotFound, "parent other/no"},
		{"a pool", func(*world) {}, "other", nil, "already exists"},
		{"a name that is none", func(*world) {}, "other/-F@x", zfs.ErrInvalidName, ""},
		{"a chain with a gap", func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), "points/"+hexGUID(w.catalog().Points[1])+".json"))
		}, back, archive.ErrBroken, "its base with guid"},
		{"a part that is not there", func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), w.bucket.Keys("data/" + hexGUID(w.catalog().Points[0]))[2]))
		}, back, archive.ErrDamaged, "is not there"},
		{"a part of another size", func(w *world) {
			require.NoError(w, w.bucket.Put(w.Context(), w.bucket.Keys("data/" + hexGUID(w.catalog().Points[0]))[2], []byte("x"), false))
		}, back, archive.ErrDamaged, "has 1 bytes, not"},
		{"a pool without room", func(w *world) { w.pool.SetFree("other", 20*kib) }, back, zfs.ErrNoSpace, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.chain()
			tt.arrange(w)
			before := w.pool.Names()
			_, err := w.tryRestore(t.Context(), "three", tt.target)
			require.Error(t, err)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.ErrorContains(t, err, tt.says)
			assert.Equal(t, before, w.pool.Names(), "nothing was changed")
		})
	}
}

// TestRestore_cut ends zfs receive, and the restore itself, in the middle.
func TestRestore_cut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain()
	w.pool.Cut("receive", 10*kib)
	_, err := w.tryRestore(t.Context(), "three", back)
	require.Error(t, err)
	assert.NotContains(t, w.pool.Names(), back)

	ctx, cancel := context.WithCancel(t.Context())
	w.bucket.Before(func(verb, key string) error {
		if verb == "get" && strings.Contains(key, "data/"+hexGUID(w.manifests()[1])) {
			cancel()
		}
		return nil
	})
	_, err = w.tryRestore(ctx, "three", back)
	require.Error(t, err)
	w.bucket.Before(nil)
	w.restores("three", back)
}

// manifests reads the points past the hooks of the bucket.
func (w *world) manifests() []*archive.Manifest {
	var points []*archive.Manifest
	for key, data := range w.bucket.Objects() {
		if m, err := archive.ParseManifest(data); err == nil && strings.HasPrefix(key, "points/") {
			points = append(points, m)
		}
	}
	slices.SortFunc(points, func(a, b *archive.Manifest) int { return a.Created.Compare(b.Created) })
	return points
}

// TestRestore_storeStumbles: a part that cannot be read at once is tried again.
func TestRestore_storeStumbles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snap("one", 60*kib)
	w.upload("one")
	seen := map[string]int{}
	var mu sync.Mutex
	w.bucket.Before(func(verb, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if verb == "get" && strings.HasPrefix(key, "data/") {
			if seen[key]++; seen[key] < 3 {
				return errFault
			}
		}
		return nil
	})
	w.restores("one", back)

	w.bucket.Before(func(verb, key string) error {
		if verb == "get" && strings.HasPrefix(key, "data/") {
			return errFault
		}
		return nil
	})
	_, err := w.tryRestore(t.Context(), "one", "other/two")
	require.ErrorIs(t, err, errFault)
	require.False(t, errors.Is(err, archive.ErrDamaged), "a store that is down is not a damaged archive")
}

// TestVerify_everyObject flips a bit of each object, in several places, and cuts
// it short: each time something is found, and it names the object.
func TestVerify_everyObject(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%t", encrypted), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if encrypted {
				w.encrypt()
			}
			w.chain()
			require.True(t, w.sound())
			clean := w.bucket.Objects()
			require.GreaterOrEqual(t, len(clean), 10)
			for key, data := range clean {
				named := func() bool {
					for _, v := range w.verify() {
						for _, f := range v.Findings {
							if f.Object == key {
								return true
							}
						}
					}
					return false
				}
				for _, offset := range []int{0, 1, len(data) / 3, len(data) / 2, len(data) - 1} {
					w.bucket.Flip(key, offset)
					assert.True(t, named(), "byte %d of %s", offset, key)
					require.NoError(t, w.bucket.Put(t.Context(), key, data, false))
				}
				for _, other := range [][]byte{nil, data[:len(data)-1], append(append([]byte(nil), data...), 0)} {
					require.NoError(t, w.bucket.Put(t.Context(), key, other, false))
					assert.True(t, named(), "%d bytes in the place of %d of %s", len(other), len(data), key)
				}
				if strings.HasPrefix(key, "data/") {
					require.NoError(t, w.bucket.Delete(t.Context(), key))
					assert.True(t, named(), "%s is gone", key)
				}
				require.NoError(t, w.bucket.Put(t.Context(), key, data, false))
			}
			assert.True(t, w.sound())
		})
	}
}

func TestVerify_chainAndRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain()
	w.failAt("put", 3)
	w.snap("four", 30*kib)
	_, _, err := w.tryUpload(t.Context(), "four")
	require.ErrorIs(t, err, errFault)
	w.bucket.Before(nil)
	w.bucket.Flip(w.bucket.Keys("uploads/")[0], 50)
	c := w.catalog()
	require.Len(t, c.Unfinished, 1)
	require.ErrorIs(t, c.Unfinished[0].Err, archive.ErrDamaged)
	assert.True(t, w.sound(), "an upload that is not finished is no restore point")

	require.NoError(t, w.bucket.Delete(t.Context(), "points/"+hexGUID(c.Points[0])+".json"))
	found := w.verify()
	require.Len(t, found, 2)
	for _, v := range found {
		assert.Equal(t, archive.StateBroken, v.State)
	}
	// A manifest in the place of another's.
	second, third := "points/"+hexGUID(c.Points[1])+".json", "points/"+hexGUID(c.Points[2])+".json"
	require.NoError(t, w.bucket.Put(t.Context(), second, w.bucket.Objects()[third], false))
	require.Len(t, w.catalog().Damaged, 1)
}
