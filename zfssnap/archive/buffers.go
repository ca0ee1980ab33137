package archive

import "context"

// buffers lends buffers of one size, at most as many as it was made for. That is
// what bounds the memory of an upload and of a restore: a sender that is faster
// than the store waits for a buffer.
type buffers struct {
	size  int64
	idle  chan []byte
	unmet chan struct{} // one for each buffer that was not made yet
}

func newBuffers(n int, size int64) *buffers {
	b := &buffers{size: size, idle: make(chan []byte, n), unmet: make(chan struct{}, n)}
	for range n {
		b.unmet <- struct{}{}
	}
	return b
}

// take returns an empty buffer with room for size bytes.
func (b *buffers) take(ctx context.Context) ([]byte, error) {
	select {
	case buf := <-b.idle:
		return buf[:0], nil
	default:
	}
	select {
	case buf := <-b.idle:
		return buf[:0], nil
	case <-b.unmet:
		return make([]byte, 0, b.size), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// put gives a buffer back.
func (b *buffers) put(buf []byte) { b.idle <- buf }
