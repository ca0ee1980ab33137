package archivetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

// Conformance checks what an archive relies on of a bucket. The bucket is empty
// below "points/" and "data/", and is so again at the end.
func Conformance(t *testing.T, b archive.Bucket) {
	t.Helper()
	ctx := t.Context()
	get := func(t *testing.T, key string) []byte {
		t.Helper()
		r, err := b.Get(ctx, key)
		require.NoError(t, err)
		defer r.Close()
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		return data
	}
	keys := func(t *testing.T, prefix string) []string {
		t.Helper()
		objects, err := b.List(ctx, prefix)
		require.NoError(t, err)
		var keys []string
		for _, o := range objects {
			keys = append(keys, o.Key)
		}
		return keys
	}

	t.Run("an object is read as it was put", func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
		require.NoError(t, b.Put(ctx, "data/01/00", data, false))
		assert.True(t, bytes.Equal(data, get(t, "data/01/00")))
		objects, err := b.List(ctx, "data/01/")
		require.NoError(t, err)
		require.Len(t, objects, 1)
		assert.Equal(t, int64(len(data)), objects[0].Size)
		assert.WithinDuration(t, time.Now(), objects[0].Modified, time.Hour)
	})
	t.Run("an object is replaced", func(t *testing.T) {
		require.NoError(t, b.Put(ctx, "data/01/00", []byte("new"), false))
		assert.Equal(t, "new", string(get(t, "data/01/00")))
	})
	t.Run("an object that may not be replaced stays", func(t *testing.T) {
		require.NoError(t, b.Put(ctx, "points/01.json", []byte("first"), true))
		require.ErrorIs(t, b.Put(ctx, "points/01.json", []byte("second"), true), archive.ErrExists)
		assert.Equal(t, "first", string(get(t, "points/01.json")))
	})
	t.Run("of many writers of one key, one wins", func(t *testing.T) {
		const writers = 8
		errs := make([]error, writers)
		var running sync.WaitGroup
		for i := range writers {
			running.Go(func() { errs[i] = b.Put(ctx, "points/02.json", []byte{byte('a' + i)}, true) })
		}
		running.Wait()
		winner := slices.Index(errs, nil)
		require.GreaterOrEqual(t, winner, 0, "%v", errors.Join(errs...))
		for i, err := range errs {
			if i != winner {
				assert.ErrorIs(t, err, archive.ErrExists)
			}
		}
		assert.Equal(t, string(rune('a'+winner)), string(get(t, "points/02.json")))
	})
	t.Run("a listing has what is below a prefix, sorted", func(t *testing.T) {
		for _, k := range []string{"data/02/b", "data/02/a", "data/020/c"} {
			require.NoError(t, b.Put(ctx, k, []byte("x"), false))
		}
		assert.Equal(t, []string{"data/02/a", "data/02/b"}, keys(t, "data/02/"))
		assert.Equal(t, []string{"data/01/00", "data/02/a", "data/02/b", "data/020/c"}, keys(t, "data/"))
		assert.Empty(t, keys(t, "data/03/"))
	})
	t.Run("what is not there is not found", func(t *testing.T) {
		_, err := b.Get(ctx, "data/09/00")
		require.ErrorIs(t, err, archive.ErrNotFound)
		_, err = b.Lock(ctx, "data/09/00")
		require.ErrorIs(t, err, archive.ErrNotFound)
	})
	t.Run("an object without a lock has none", func(t *testing.T) {
		why, err := b.Lock(ctx, "data/01/00")
		require.NoError(t, err)
		assert.Empty(t, why)
	})
	t.Run("a request whose context has ended does nothing", func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		cancel()
		require.Error(t, b.Put(done, "data/04/00", []byte("x"), false))
		assert.Empty(t, keys(t, "data/04/"))
	})
	t.Run("an object that was deleted is gone, and can be again", func(t *testing.T) {
		for _, k := range append(keys(t, "data/"), keys(t, "points/")...) {
			require.NoError(t, b.Delete(ctx, k))
			require.NoError(t, b.Delete(ctx, k))
		}
		assert.Empty(t, keys(t, "data/"))
		assert.Empty(t, keys(t, "points/"))
		require.NoError(t, b.Put(ctx, "points/01.json", []byte("again"), true))
		require.NoError(t, b.Delete(ctx, "points/01.json"))
	})
}
