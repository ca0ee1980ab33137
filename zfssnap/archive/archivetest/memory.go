// Package archivetest provides a bucket in memory that fails where a test wants
// it to, and the suite that holds every bucket to the same behaviour.
package archivetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

// Memory is a bucket in memory. The zero value is not usable: see NewMemory.
type Memory struct {
	mu      sync.Mutex
	objects map[string]object
	locks   map[string]string
	clock   func() time.Time
	before  func(verb, key string) error
	after   func(verb, key string) error
}

type object struct {
	data     []byte
	modified time.Time
}

var _ archive.Bucket = (*Memory)(nil)

// NewMemory returns an empty bucket.
func NewMemory() *Memory {
	return &Memory{objects: map[string]object{}, locks: map[string]string{}, clock: time.Now}
}

// Before is called ahead of every request ("put", "get", "list", "lock",
// "delete"). An error of it is what the request returns, and nothing happens.
func (m *Memory) Before(f func(verb, key string) error) { m.set(func() { m.before = f }) }

// After is called when a request was carried out. An error of it is what the
// request returns: the answer is lost, not the request.
func (m *Memory) After(f func(verb, key string) error) { m.set(func() { m.after = f }) }

// SetClock sets the clock that times of objects come from.
func (m *Memory) SetClock(now func() time.Time) { m.set(func() { m.clock = now }) }

// SetLock puts a lock on an object; "" takes it off.
func (m *Memory) SetLock(key, why string) { m.set(func() { m.locks[key] = why }) }

// Flip changes one bit of an object.
func (m *Memory) Flip(key string, offset int) {
	m.set(func() {
		o := m.objects[key]
		o.data = bytes.Clone(o.data)
		o.data[offset] ^= 0x20
		m.objects[key] = o
	})
}

func (m *Memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// Objects returns what is stored, by key.
func (m *Memory) Objects() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string][]byte{}
	for k, o := range m.objects {
		all[k] = bytes.Clone(o.data)
	}
	return all
}

// Keys returns the keys that begin with prefix, sorted.
func (m *Memory) Keys(prefix string) []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(m.Objects())) {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	return keys
}

// do carries out one request between its hooks.
func (m *Memory) do(ctx context.Context, verb, key string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	before, after := m.before, m.after
	m.mu.Unlock()
	if before != nil {
		if err := before(verb, key); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := f()
	m.mu.Unlock()
	if err == nil && after != nil {
		err = after(verb, key)
	}
	return err
}

// Put implements archive.Bucket.
func (m *Memory) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	return m.do(ctx, "put", key, func() error {
		if _, ok := m.objects[key]; ok && ifAbsent {
			return fmt.Errorf("put %s: %w", key, archive.ErrExists)
		}
		m.objects[key] = object{bytes.Clone(data), m.clock()}
		return nil
	})
}

// Get implements archive.Bucket.
func (m *Memory) Get(ctx context.Context, key string) (r io.ReadCloser, err error) {
	err = m.do(ctx, "get", key, func() error {
		o, ok := m.objects[key]
		if !ok {
			return fmt.Errorf("get %s: %w", key, archive.ErrNotFound)
		}
		r = io.NopCloser(bytes.NewReader(o.data))
		return nil
	})
	return r, err
}

// List implements archive.Bucket.
func (m *Memory) List(ctx context.Context, prefix string) (objects []archive.Object, err error) {
	err = m.do(ctx, "list", prefix, func() error {
		for _, k := range slices.Sorted(maps.Keys(m.objects)) {
			if strings.HasPrefix(k, prefix) {
				objects = append(objects, archive.Object{Key: k, Size: int64(len(m.objects[k].data)), Modified: m.objects[k].modified})
			}
		}
		return nil
	})
	return objects, err
}

// Lock implements archive.Bucket.
func (m *Memory) Lock(ctx context.Context, key string) (why string, err error) {
	err = m.do(ctx, "lock", key, func() error {
		if _, ok := m.objects[key]; !ok {
			return fmt.Errorf("look at %s: %w", key, archive.ErrNotFound)
		}
		why = m.locks[key]
		return nil
	})
	return why, err
}

// Delete implements archive.Bucket.
func (m *Memory) Delete(ctx context.Context, key string) error {
	return m.do(ctx, "delete", key, func() error {
		if why := m.locks[key]; why != "" {
			return fmt.Errorf("delete %s: %w: %s", key, archive.ErrLocked, why)
		}
		delete(m.objects, key)
		return nil
	})
}
