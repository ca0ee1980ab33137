package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Dir is a Bucket in a directory of a filesystem: a file for each object.
type Dir struct{ root string }

var _ Bucket = (*Dir)(nil)

// tempDir holds files that are being written, beside what List shows.
const tempDir = ".tmp"

// staleTemp is how old a file in tempDir is before it is taken for what a crash
// left behind.
const staleTemp = 24 * time.Hour

// NewDir opens a directory, which exists, as a bucket.
func NewDir(root string) (*Dir, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("open archive directory %q: %w: not an absolute path", root, ErrInvalid)
	}
	if info, err := os.Stat(root); err != nil {
		return nil, fmt.Errorf("open archive directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open archive directory %s: %w: not a directory", root, ErrInvalid)
	}
	temp := filepath.Join(root, tempDir)
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, fmt.Errorf("open archive directory: %w", err)
	}
	files, err := os.ReadDir(temp)
	if err != nil {
		return nil, fmt.Errorf("open archive directory: %w", err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > staleTemp {
			_ = os.Remove(filepath.Join(temp, f.Name()))
		}
	}
	return &Dir{root: root}, nil
}

func (d *Dir) path(key string) string { return filepath.Join(d.root, filepath.FromSlash(key)) }

// Put implements [Bucket].
func (d *Dir) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Join(d.root, tempDir), "*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return err
	}
	file := d.path(key)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if ifAbsent {
		// A link, unlike a rename, does not replace.
		err = os.Link(temp.Name(), file)
	} else {
		err = os.Rename(temp.Name(), file)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("put %s: %w", key, ErrExists)
	}
	if err != nil {
		return err
	}
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil || dir == d.root {
			return err
		}
	}
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get implements [Bucket].
func (d *Dir) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return f, err
}

// List implements [Bucket].
func (d *Dir) List(ctx context.Context, prefix string) ([]Object, error) {
	var objects []Object
	err := filepath.WalkDir(d.path(prefix), func(path string, e fs.DirEntry, err error) error {
		// A file may go while its directory is read.
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := filepath.Rel(d.root, path)
		objects = append(objects, Object{Key: filepath.ToSlash(key), Size: info.Size(), Modified: info.ModTime()})
		return err
	})
	slices.SortFunc(objects, func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
	return objects, err
}

// Lock implements [Bucket]. Files have no lock.
func (d *Dir) Lock(_ context.Context, key string) (string, error) {
	_, err := os.Stat(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look at %s: %w", key, ErrNotFound)
	}
	return "", err
}

// Delete implements [Bucket].
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file := d.path(key)
	err := os.Remove(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("delete %s: %w: %w", key, ErrLocked, err)
	case err != nil:
		return err
	}
	// The directory of a point goes with its last part.
	if strings.Count(key, "/") > 1 {
		_ = os.Remove(filepath.Dir(file))
	}
	return nil
}
