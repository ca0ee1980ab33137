// Package agenttest provides what tests of agents put between them.
package agenttest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Link is a connection to a host that can be cut, or made to stall.
type Link struct {
	// Limit is how many bytes go towards the host until it stalls; below 0 it
	// never does.
	Limit atomic.Int64

	l  net.Listener
	to string

	mu    sync.Mutex
	conns []net.Conn
}

// NewLink returns a link to an address. It ends with the test.
func NewLink(t *testing.T, to string) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	k := &Link{l: l, to: to}
	k.Limit.Store(-1)
	t.Cleanup(func() {
		_ = l.Close()
		k.Cut()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go k.join(c)
		}
	}()
	return k
}

// Addr is where the host is reached through the link.
func (k *Link) Addr() string { return k.l.Addr().String() }

func (k *Link) join(near net.Conn) {
	far, err := net.Dial("tcp", k.to)
	if err != nil {
		_ = near.Close()
		return
	}
	k.mu.Lock()
	k.conns = append(k.conns, near, far)
	k.mu.Unlock()
	go func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := near.Read(buf)
		if left := k.Limit.Load(); left >= 0 && int64(n) > left {
			k.Limit.Store(-1)
			_, _ = far.Write(buf[:left])
			return
		} else if left >= 0 {
			k.Limit.Add(-int64(n))
		}
		if _, werr := far.Write(buf[:n]); err != nil || werr != nil {
			_ = far.Close()
			return
		}
	}
}

// Cut ends all connections; new ones can be made.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		_ = c.Close()
	}
	k.conns = nil
}
