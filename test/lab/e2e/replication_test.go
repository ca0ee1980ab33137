//go:build e2e

package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// TestTargetFull fills up what a replica may use. The backup is not Completed
// and says why, the copies there are stay, and with space it goes on.
func TestTargetFull(t *testing.T) {
	t.Parallel()
	a := newVolume(t, "case-full")
	a.backUpTo(t, "zfs", "case-full-1")
	completed(t, "case-full-1")
	on(t, remote, "zfs", "set", "quota=4M", a.replica())

	a.post(t, 8)
	a.backUpTo(t, "zfs", "case-full-2")
	assert.Equal(t, "PartiallyFailed", phase(t, primary, "backup", "case-full-2"))
	assert.Regexp(t, `copy znvm/k3s/pvc-case-full@dr-case-full-2-[0-9a-f]{8} to remote:.+ space quota exceeded`, details(t, "case-full-2"))
	a.requireCopy(t, "case-full-1")

	on(t, remote, "zfs", "set", "quota=none", a.replica())
	a.backUpTo(t, "zfs", "case-full-3")
	completed(t, "case-full-3")
	a.requireCopy(t, "case-full-1")
	a.requireCopy(t, "case-full-3")
}

// TestTargetUnreachable cuts the way to the target's agent while data moves. The
// backup waits and says for what, and goes on from where it was.
func TestTargetUnreachable(t *testing.T) {
	t.Parallel()
	const enough = 12 << 20 // of 16: what is in pipes and buffers is lost
	way := newGate(t, lab.AgentAddress(remote), enough)
	a := newVolume(t, "case-cut")
	copyLocation(t, "case-cut", []string{"spec", "config", "targetAddress"}, way.address())
	a.post(t, 16)
	a.backUpTo(t, "case-cut", "case-cut")
	eventually(t, "the backup waits for the agent", func() (bool, string) {
		seen := details(t, "case-cut")
		return strings.Contains(seen, "waiting to try again: ") && strings.Contains(seen, "agent on node remote at "+way.address()+" is unreachable"), seen
	})
	assert.Equal(t, "WaitingForPluginOperations", kubectl(t, primary, "-n", "velero", "get", "backup.velero.io/case-cut", "-o", "jsonpath={.status.phase}"))

	way.open()
	completed(t, "case-cut")
	a.requireCopy(t, "case-cut")
	assert.Contains(t, on(t, hassio, "cat", "/var/log/zfs-agent.log"), "snapshot="+a.dataset()+snapshot(t, "case-cut")+` from="" action=resume`,
		"what had arrived is not sent again")
}

// gate leads to an address. It closes after some bytes, with all connections
// through it, until it is opened for good. It can also be held for a while: what
// comes then waits.
type gate struct {
	listener net.Listener
	to       string

	mu     sync.Mutex
	left   int64 // bytes; negative when it stays open
	closed bool
	conns  []net.Conn
	held   chan struct{} // closed when it goes on; nil when it does
	came   func()        // says that something waits
}

func newGate(t *testing.T, to string, bytes int64) *gate {
	t.Helper()
	return newGateOn(t, "127.0.0.1", to, bytes)
}

// newGateOn is newGate at an address of this machine.
func newGateOn(t *testing.T, host, to string, bytes int64) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	g := &gate{listener: listener, to: to, left: bytes}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go g.pass(in)
		}
	}()
	return g
}

// address is where a node finds the gate.
func (g *gate) address() string {
	_, port, _ := net.SplitHostPort(g.listener.Addr().String())
	return net.JoinHostPort(vm.HostAddress, port)
}

// local is where this machine finds the gate.
func (g *gate) local() string { return g.listener.Addr().String() }

// hold keeps back what comes to the gate until it is resumed. The channel is
// closed when something waits.
func (g *gate) hold() (waits <-chan struct{}, resume func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held, came := make(chan struct{}), make(chan struct{})
	g.held, g.came = held, sync.OnceFunc(func() { close(came) })
	return came, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.held = nil
		close(held)
	}
}

// wait waits while the gate is held.
func (g *gate) wait(int) {
	g.mu.Lock()
	held, came := g.held, g.came
	g.mu.Unlock()
	if held != nil {
		came()
		<-held
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed, g.left = false, -1
}

// admit keeps a connection to close it later, unless the gate is closed.
func (g *gate) admit(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.conns = append(g.conns, conns...)
	}
	return !g.closed
}

// count closes the gate when enough has passed.
func (g *gate) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left < 0 {
		return
	}
	if g.left -= int64(n); g.left > 0 {
		return
	}
	g.left, g.closed = 0, true
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

func (g *gate) pass(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer out.Close()
	if !g.admit(in, out) {
		return
	}
	go func() {
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(counter(g.wait), out, counter(g.count)), in)
}

type counter func(int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}
