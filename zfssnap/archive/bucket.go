package archive

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Causes that callers tell apart with errors.Is.
var (
	ErrNotFound = zfs.ErrNotFound
	ErrExists   = zfs.ErrExists
	// ErrInvalid: what was given is not of the form it must have.
	ErrInvalid = errors.New("invalid")
	// ErrDamaged: an object is not what was stored, or not all of it.
	ErrDamaged = errors.New("damaged")
	// ErrBroken: a point's chain has a gap, so it cannot be restored.
	ErrBroken = errors.New("chain is broken")
	// ErrRefused: the store does not let these credentials in, or there is no
	// such bucket. Asking again does not help.
	ErrRefused = errors.New("the store refuses")
	// ErrLocked: the store does not let an object be deleted.
	ErrLocked = errors.New("the store does not let it go")
	// ErrSealed: the parts are encrypted, and no identity opens them.
	ErrSealed = errors.New("no identity opens it")
	// ErrForeign: the target of a restore is not one of an earlier restore.
	ErrForeign = errors.New("not made by a restore of this archive")
	// ErrChanged: a snapshot or point is not any more what was planned for.
	ErrChanged = errors.New("has changed since it was planned")
)

// Object is what a listing tells of one.
type Object struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

// Bucket is object storage. Keys are parts of [-a-z0-9.] between slashes. All
// methods may be called at once.
type Bucket interface {
	// Put stores an object whole or not at all, and durably. One of that key is
	// replaced; with ifAbsent it stays as it is and Put returns ErrExists.
	Put(ctx context.Context, key string, data []byte, ifAbsent bool) error
	// Get opens an object. ErrNotFound when there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// List returns the objects whose keys begin with prefix, sorted by key. The
	// prefix ends in a slash.
	List(ctx context.Context, prefix string) ([]Object, error)
	// Lock says what keeps an object from being deleted, for example "legal
	// hold"; "" for nothing. ErrNotFound when there is no such object.
	Lock(ctx context.Context, key string) (string, error)
	// Delete deletes an object. None is success; ErrLocked when the store
	// refuses.
	Delete(ctx context.Context, key string) error
}
