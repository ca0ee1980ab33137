package archive_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive/archivetest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// benchBytes is the length of the stream that is moved.
const benchBytes = 512 << 20

// piped is a host whose streams come from one process and go to another, as
// those of zfs(8) do; everything else it answers from memory.
type piped struct {
	*zfstest.Pool
	exec zfs.Exec
}

func (p *piped) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if c.Args[1] == "send" && c.Stdout != nil || c.Args[1] == "receive" {
		return p.exec.Run(ctx, c)
	}
	return p.Pool.Run(ctx, c)
}

// newPiped makes a zfs that sends a file and throws away what it receives.
func newPiped(b *testing.B) *zfs.Client {
	b.Helper()
	dir := b.TempDir()
	stream, script := filepath.Join(dir, "stream"), filepath.Join(dir, "zfs")
	block := random("bench", 1<<20)
	f, err := os.Create(stream)
	require.NoError(b, err)
	for i := range benchBytes >> 20 {
		block[0], block[1] = byte(i), byte(i>>8)
		_, err := f.Write(block)
		require.NoError(b, err)
	}
	require.NoError(b, f.Close())
	require.NoError(b, os.WriteFile(script, []byte("#!/bin/sh\ncase $1 in send) exec cat "+stream+";; receive) exec cat >/dev/null;; esac\n"), 0o700))
	pool := zfstest.NewPool("tank")
	c := &zfs.Client{Runner: &piped{pool, zfs.Exec{Paths: map[string]string{"zfs": script}}}}
	require.NoError(b, c.Create(b.Context(), vol, zfs.CreateOptions{}))
	require.NoError(b, c.Snapshot(b.Context(), []string{vol + "@one"}, nil))
	return c
}

// discard is a store that throws parts away, and remembers how large they were.
type discard struct {
	*archivetest.Memory
	mu    sync.Mutex
	sizes map[string]int64
}

func newDiscard() *discard {
	return &discard{Memory: archivetest.NewMemory(), sizes: map[string]int64{}}
}

func (d *discard) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	if !strings.HasPrefix(key, "data/") {
		return d.Memory.Put(ctx, key, data, ifAbsent)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sizes[key] = int64(len(data))
	return nil
}

func (d *discard) List(ctx context.Context, prefix string) ([]archive.Object, error) {
	objects, err := d.Memory.List(ctx, prefix)
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, size := range d.sizes {
		if strings.HasPrefix(key, prefix) {
			objects = append(objects, archive.Object{Key: key, Size: size})
		}
	}
	return objects, err
}

var benchModes = []struct {
	name    string
	encrypt bool
}{{"plain", false}, {"encrypted", true}}

// benchUploader makes points of parts of 64 MiB, four at a time.
func benchUploader(b *testing.B, c *zfs.Client, bucket archive.Bucket, encrypt bool) (*archive.Uploader, []age.Identity) {
	b.Helper()
	u := &archive.Uploader{
		ZFS: c, Store: &archive.Store{Bucket: bucket, Name: "bench"}, Node: "hassio",
		PartSize: archive.DefaultPartSize, Concurrency: archive.DefaultConcurrency, Clock: time.Now,
	}
	if !encrypt {
		return u, nil
	}
	id, err := age.GenerateX25519Identity()
	require.NoError(b, err)
	u.Recipients = []string{id.Recipient().String()}
	return u, []age.Identity{id}
}

// BenchmarkUpload compares an upload, without the network and the disks of a
// store, with a plain pipe.
func BenchmarkUpload(b *testing.B) {
	c := newPiped(b)
	b.Run("pipe", func(b *testing.B) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			require.NoError(b, c.Send(b.Context(), zfs.SendOptions{To: vol + "@one"}, io.Discard))
		}
	})
	for _, mode := range benchModes {
		b.Run(mode.name, func(b *testing.B) {
			b.SetBytes(benchBytes)
			for b.Loop() {
				u, _ := benchUploader(b, c, newDiscard(), mode.encrypt)
				plan, err := u.Plan(b.Context(), vol+"@one")
				require.NoError(b, err)
				m, err := u.Upload(b.Context(), plan)
				require.NoError(b, err)
				require.Equal(b, uint64(benchBytes), m.End.Bytes)
			}
		})
	}
}

// BenchmarkRestore compares reading a point from memory, checking it and feeding
// zfs receive with a plain pipe.
func BenchmarkRestore(b *testing.B) {
	c := newPiped(b)
	receive := zfs.ReceiveOptions{Target: "tank/back@one", Unmounted: true}
	b.Run("pipe", func(b *testing.B) {
		var data bytes.Buffer
		require.NoError(b, c.Send(b.Context(), zfs.SendOptions{To: vol + "@one"}, &data))
		b.SetBytes(benchBytes)
		for b.Loop() {
			require.NoError(b, c.Receive(b.Context(), receive, bytes.NewReader(data.Bytes())))
		}
	})
	for _, mode := range benchModes {
		b.Run(mode.name, func(b *testing.B) {
			u, ids := benchUploader(b, c, archivetest.NewMemory(), mode.encrypt)
			plan, err := u.Plan(b.Context(), vol+"@one")
			require.NoError(b, err)
			m, err := u.Upload(b.Context(), plan)
			require.NoError(b, err)
			b.SetBytes(benchBytes)
			for b.Loop() {
				r, w := io.Pipe()
				go func() { w.CloseWithError(u.Store.Stream(b.Context(), m, ids, u.Concurrency, w)) }()
				require.NoError(b, c.Receive(b.Context(), receive, r))
			}
		})
	}
}
