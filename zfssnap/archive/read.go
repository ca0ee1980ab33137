package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"filippo.io/age"
)

// reader reads the parts of points. It takes PartSize × (concurrency + 1) bytes
// for them, and PartSize more when they are encrypted.
type reader struct {
	store       *Store
	identities  []age.Identity
	concurrency int
}

// opens reports whether the stream itself can be had, and not only what is
// stored.
func (r reader) opens(m *Manifest) bool { return len(m.Recipients) == 0 || len(r.identities) > 0 }

// each reads the parts of a point, some ahead, and calls f with one after the
// other: the bytes of the stream, checked, or what is wrong with the part. The
// bytes are nil when they cannot be decrypted for lack of an identity, and f may
// use them until it returns. each ends with the first error of f.
func (r reader) each(ctx context.Context, m *Manifest, f func(i int, plain []byte, err error) error) error {
	type result struct {
		data []byte
		err  error
	}
	size := m.PartSize
	var plain []byte
	if len(m.Recipients) > 0 {
		size = storedLimit(size)
		plain = make([]byte, 0, m.PartSize+1)
	}
	ahead := max(1, r.concurrency)
	bufs := newBuffers(ahead+1, size)
	results := make(chan chan result, ahead+1)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		defer close(results)
		for i := range m.Parts {
			buf, err := bufs.take(ctx)
			if err != nil {
				return
			}
			out := make(chan result, 1)
			results <- out
			running.Go(func() {
				data, err := r.store.fetch(ctx, m, i, buf)
				if err != nil {
					data = buf
				}
				out <- result{data, err}
			})
		}
	})
	next := 0
	for out := range results {
		got := <-out
		if ctx.Err() != nil {
			return ctx.Err()
		}
		data, err := got.data, got.err
		if err == nil && len(m.Recipients) > 0 {
			data, err = r.open(m, next, plain, data)
		}
		if err != nil {
			data = nil
		}
		if err := f(next, data, err); err != nil {
			return err
		}
		bufs.put(got.data)
		next++
	}
	if next < len(m.Parts) {
		return ctx.Err()
	}
	return nil
}

// open decrypts a part and checks that it is the stream's.
func (r reader) open(m *Manifest, i int, plain, stored []byte) ([]byte, error) {
	if len(r.identities) == 0 {
		return nil, nil
	}
	plain, err := decrypt(plain[:0], stored, r.identities)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.key(i), err)
	}
	if p := m.Parts[i]; int64(len(plain)) != p.Size || sha256.Sum256(plain) != p.SHA256 {
		return nil, fmt.Errorf("%s: %w: what is encrypted in it is not the stream's", m.key(i), ErrDamaged)
	}
	return plain, nil
}

// stream writes a point's stream to w, and nothing that was not checked: each
// part before it is written, and the whole before its last part is.
func (r reader) stream(ctx context.Context, m *Manifest, w io.Writer, done func(i int)) error {
	sum := sha256.New()
	return r.each(ctx, m, func(i int, plain []byte, err error) error {
		if err != nil {
			return err
		}
		hashed := make(chan struct{})
		go func() {
			defer close(hashed)
			sum.Write(plain)
		}()
		if i == len(m.Parts)-1 {
			<-hashed
			if Digest(sum.Sum(nil)) != m.End.SHA256 {
				return fmt.Errorf("%s: %w: the SHA-256 of its stream is not %s", m.FullName(), ErrDamaged, m.End.SHA256)
			}
		}
		_, err = w.Write(plain)
		<-hashed
		if err == nil {
			done(i)
		}
		return err
	})
}
