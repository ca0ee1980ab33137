package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

// Archive keeps snapshots in a bucket:
//
//	etcd/<name>.json          manifest, written last
//	etcd/<name>/<part>        the file in parts, encrypted to the recipients
type Archive struct {
	Bucket     archive.Bucket
	Recipients []age.Recipient
	Identities []age.Identity
}

const (
	archiveDir = "etcd/"
	partSize   = 16 << 20
)

func manifestKey(name string) string       { return archiveDir + name + ".json" }
func partKey(name string, part int) string { return fmt.Sprintf("%s%s/%05d", archiveDir, name, part) }

// ErrExists says that the archive has a snapshot of that name.
var ErrExists = errors.New("there is a snapshot of that name in the archive")

// Put stores a snapshot's file. Until all of it is stored, the archive does not
// have it.
func (a *Archive) Put(ctx context.Context, file string, s *report.EtcdSnapshot) error {
	if _, err := a.manifest(ctx, s.Name); err == nil {
		return fmt.Errorf("archive %s: %w: %s", file, ErrExists, s.Name)
	} else if !errors.Is(err, archive.ErrNotFound) {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	parts := &partWriter{put: func(part int, data []byte) error { return a.Bucket.Put(ctx, partKey(s.Name, part), data, false) }}
	if err := a.seal(parts, f); err != nil {
		return fmt.Errorf("archive %s: %w", file, err)
	}
	stored := s.DeepCopy()
	stored.Parts, stored.Sealed = parts.n, len(a.Recipients) > 0
	data, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	if err := a.Bucket.Put(ctx, manifestKey(s.Name), data, true); err != nil {
		return fmt.Errorf("archive %s: %w", file, err)
	}
	*s = *stored
	return nil
}

// seal writes a file to the parts, encrypted if there are recipients.
func (a *Archive) seal(parts *partWriter, from io.Reader) error {
	var to io.Writer = parts
	var sealed io.WriteCloser
	if len(a.Recipients) > 0 {
		var err error
		if sealed, err = age.Encrypt(parts, a.Recipients...); err != nil {
			return err
		}
		to = sealed
	}
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if sealed != nil {
		if err := sealed.Close(); err != nil {
			return err
		}
	}
	return parts.flush()
}

// partWriter cuts what is written into parts.
type partWriter struct {
	put func(part int, data []byte) error
	buf bytes.Buffer
	n   int
}

func (w *partWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := min(len(p), partSize-w.buf.Len())
		w.buf.Write(p[:room])
		p = p[room:]
		if w.buf.Len() == partSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *partWriter) flush() error {
	if w.buf.Len() == 0 {
		return nil
	}
	err := w.put(w.n, w.buf.Bytes())
	w.n++
	w.buf.Reset()
	return err
}

// Get writes a snapshot to a file that does not exist, with its manifest. A
// file is only there when all of it is, and is what was taken.
func (a *Archive) Get(ctx context.Context, name, file string) (*report.EtcdSnapshot, error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("get etcd snapshot %s: %s is there already", name, file)
	}
	s, err := a.manifest(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("get etcd snapshot %s: %w", name, err)
	}
	partial := file + ".part"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	err = a.open(ctx, s, io.MultiWriter(f, h))
	err = errors.Join(err, f.Sync(), f.Close())
	if sum := hex.EncodeToString(h.Sum(nil)); err == nil && sum != s.SHA256 {
		err = fmt.Errorf("it has SHA-256 %s, and was taken with %s: it is damaged", sum, s.SHA256)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("get etcd snapshot %s: %w", name, err), os.Remove(partial))
	}
	if err := os.Rename(partial, file); err != nil {
		return nil, err
	}
	return s, writeManifest(file, s)
}

// open writes the parts of a snapshot, decrypted.
func (a *Archive) open(ctx context.Context, s *report.EtcdSnapshot, to io.Writer) error {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(a.parts(ctx, s, writer)) }()
	defer reader.Close()
	var from io.Reader = reader
	if s.Sealed {
		if len(a.Identities) == 0 {
			return errors.New("it is encrypted, and there is no identity_file in the archive's configuration")
		}
		var err error
		if from, err = age.Decrypt(reader, a.Identities...); err != nil {
			return err
		}
	}
	_, err := io.Copy(to, from)
	return err
}

func (a *Archive) parts(ctx context.Context, s *report.EtcdSnapshot, to io.Writer) error {
	for part := range s.Parts {
		r, err := a.Bucket.Get(ctx, partKey(s.Name, part))
		if err != nil {
			return err
		}
		_, err = io.Copy(to, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// maxManifest bounds what is read as a manifest.
const maxManifest = 1 << 20

func (a *Archive) manifest(ctx context.Context, name string) (*report.EtcdSnapshot, error) {
	r, err := a.Bucket.Get(ctx, manifestKey(name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return nil, err
	}
	return parseManifest(manifestKey(name), data)
}

// List returns the snapshots, the newest last.
func (a *Archive) List(ctx context.Context) (*report.EtcdSnapshotList, error) {
	objects, err := a.Bucket.List(ctx, archiveDir)
	if err != nil {
		return nil, fmt.Errorf("list etcd snapshots: %w", err)
	}
	list := &report.EtcdSnapshotList{TypeMeta: report.TypeMeta("EtcdSnapshotList")}
	for _, o := range objects {
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, archiveDir), ".json")
		if !ok || strings.Contains(name, "/") {
			continue
		}
		s, err := a.manifest(ctx, name)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, *s)
	}
	slices.SortFunc(list.Items, func(a, b report.EtcdSnapshot) int { return a.TakenAt.Compare(b.TakenAt.Time) })
	return list, nil
}
