package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// store is the folder of volumes, and of snapshots: snapshots/<snapshot>/<volume> is a
// copy of volumes/<volume>.
type store struct {
	folder string
	// mu makes looking whether something is there and making it one step.
	mu sync.Mutex
}

// in is where a volume or a snapshot of a name is.
func (s *store) in(kind, name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, filepath.Separator) {
		return "", status.Errorf(codes.InvalidArgument, "%q is no name in %s", name, kind)
	}
	return filepath.Join(s.folder, kind, name), nil
}

func (s *store) volume(name string) (string, error)   { return s.in("volumes", name) }
func (s *store) snapshot(name string) (string, error) { return s.in("snapshots", name) }

// fill makes a folder with what is in another, or an empty one for "". It is there
// complete or not at all.
func fill(folder, from string) error {
	making := folder + ".new"
	if err := errors.Join(os.RemoveAll(making), os.MkdirAll(making, 0o755)); err != nil {
		return err
	}
	if from != "" {
		if err := os.CopyFS(making, os.DirFS(from)); err != nil {
			return err
		}
	}
	return os.Rename(making, folder)
}

// taken is which volume a snapshot is of, and when it was taken.
func taken(snapshot string) (volume string, at time.Time, err error) {
	entries, err := os.ReadDir(snapshot)
	if err != nil {
		return "", time.Time{}, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		info, err := os.Stat(snapshot)
		if err != nil {
			return "", time.Time{}, err
		}
		return e.Name(), info.ModTime(), nil
	}
	return "", time.Time{}, os.ErrNotExist
}

// exists reports whether there is a folder of that name.
func exists(folder string) (bool, error) {
	_, err := os.Stat(folder)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
