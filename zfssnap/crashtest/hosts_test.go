package crashtest

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// host is a node whose agent can be killed, and comes back by itself.
type host interface {
	// begin tells the agent what comes next, and returns when it knows.
	begin(t *testing.T, o order)
	// address is where the agent is, in all its lives.
	address() string
	// kill ends the agent as SIGKILL does; the next one follows.
	kill()
}

// watcher is told what happens on a host.
type watcher interface {
	done(took)
	struck(fault)
	cutLink()
	// revived is told that the next agent has taken the place of a killed one.
	revived()
}

// inProcess is a host whose agents are part of the test's own process. Their
// death is that their commands are no longer theirs, and their connections gone.
type inProcess struct {
	watcher
	base   zfs.Runner
	server func(zfs.Runner) *agent.Server
	l      net.Listener

	mu    sync.Mutex
	order order
	life  *life
	ended sync.WaitGroup
}

// life is that of one agent.
type life struct {
	runner *runner
	server *agent.Server
	conns  chan net.Conn
	over   chan struct{}

	mu   sync.Mutex
	open []net.Conn
}

func newInProcess(t *testing.T, w watcher, base zfs.Runner, server func(zfs.Runner) *agent.Server) *inProcess {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &inProcess{watcher: w, base: base, server: server, l: l}
	h.start()
	go h.accept()
	t.Cleanup(func() {
		_ = l.Close()
		h.mu.Lock()
		h.end(h.life)
		h.life = nil
		h.mu.Unlock()
		h.ended.Wait()
	})
	return h
}

func (h *inProcess) address() string { return h.l.Addr().String() }

// accept hands connections to whichever agent lives.
func (h *inProcess) accept() {
	for {
		c, err := h.l.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		if h.life == nil || !h.life.take(c) {
			_ = c.Close()
		}
		h.mu.Unlock()
	}
}

// start begins a life.
func (h *inProcess) start() {
	l := &life{conns: make(chan net.Conn, 16), over: make(chan struct{})}
	l.runner = newRunner(h.base, h, h.done)
	l.runner.begin(h.order)
	l.server = h.server(l.runner)
	h.life = l
	h.ended.Go(func() { _ = l.server.Serve(l) })
}

// end cuts what a life is connected to, and has what is left of it go.
func (h *inProcess) end(l *life) {
	l.cut()
	h.ended.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		l.server.Stop(ctx)
	})
}

func (h *inProcess) begin(_ *testing.T, o order) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order = o
	h.order.Fault = nil // the next life is without
	h.life.runner.begin(o)
}

// killAgent implements breaker.
func (h *inProcess) killAgent() { h.kill() }

func (h *inProcess) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.life.runner.dead.Store(true)
	h.end(h.life)
	h.cutLink()
	h.start()
	h.revived()
}

// Accept implements net.Listener.
func (l *life) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *life) Close() error {
	l.cut()
	return nil
}

// Addr implements net.Listener.
func (l *life) Addr() net.Addr { return &net.TCPAddr{} }

// take takes a connection, unless the life is over.
func (l *life) take(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.over:
		return false
	default:
		l.open = append(l.open, c)
		l.conns <- c
		return true
	}
}

func (l *life) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.over:
	default:
		close(l.over)
	}
	for _, c := range l.open {
		_ = c.Close()
	}
}
