package crashtest

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// envAgent makes this program an agent; its value is agentSettings.
const envAgent = "CRASHTEST_AGENT"

func TestMain(m *testing.M) {
	if text := os.Getenv(envAgent); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// agentSettings are those of an agent that is a process.
type agentSettings struct {
	Node    string
	Address string
	Bundle  string // path of a PEM file
	Policy  agent.Policy
}

// message is what an agent that is a process and its host tell each other, a
// line each.
type message struct {
	Order *order `json:",omitempty"` // to the agent
	Go    bool   `json:",omitempty"` // to the agent: what it waits for is done

	Ready  bool   `json:",omitempty"` // it serves
	Began  bool   `json:",omitempty"` // it knows the order
	Done   *took  `json:",omitempty"`
	Struck *fault `json:",omitempty"` // it waits for Go
	Cut    bool   `json:",omitempty"` // the link is to be cut; it waits for Go
}

// serve is the agent of a host.
func serve(text string) error {
	var s agentSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	bundle, err := agent.LoadBundle(s.Bundle)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	c := &reporter{out: json.NewEncoder(os.Stdout), goOn: make(chan struct{})}
	r := newRunner(zfs.Exec{}, c, func(s took) { c.tell(message{Done: &s}) })
	server := &agent.Server{
		Node: s.Node, Bundle: bundle, Policy: s.Policy, ZFS: &zfs.Client{Runner: r},
		Log:        slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", s.Node),
		RetryDelay: func(int) time.Duration { return 10 * time.Millisecond },
	}
	go func() {
		in := json.NewDecoder(os.Stdin)
		for {
			var m message
			if err := in.Decode(&m); err != nil {
				os.Exit(0) // the test is over
			}
			if m.Order != nil {
				r.begin(*m.Order)
				c.tell(message{Began: true})
			}
			if m.Go {
				c.goOn <- struct{}{}
			}
		}
	}()
	c.tell(message{Ready: true})
	return server.Serve(l)
}

// reporter is the breaker of an agent that is a process.
type reporter struct {
	mu   sync.Mutex
	out  *json.Encoder
	goOn chan struct{}
}

func (c *reporter) tell(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(m)
}

func (c *reporter) struck(f fault) {
	c.tell(message{Struck: &f})
	<-c.goOn
}

func (c *reporter) cutLink() {
	c.tell(message{Cut: true})
	<-c.goOn
}

func (c *reporter) killAgent() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// spawned is a host whose agents are processes.
type spawned struct {
	watcher
	t        *testing.T
	settings agentSettings
	log      io.Writer

	mu     sync.Mutex
	order  order
	agent  *child
	closed bool
	gone   sync.WaitGroup
}

// child is one agent.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	ready chan struct{}
	began chan struct{}
	over  chan struct{}
}

func newSpawned(t *testing.T, w watcher, s agentSettings, log io.Writer) *spawned {
	t.Helper()
	h := &spawned{watcher: w, t: t, settings: s, log: log}
	require.NoError(t, h.start())
	t.Cleanup(func() {
		h.mu.Lock()
		h.closed = true
		_ = h.agent.in.Close()
		h.mu.Unlock()
		h.gone.Wait()
	})
	return h
}

func (h *spawned) address() string { return h.settings.Address }

func (h *spawned) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.agent.cmd.Process.Kill()
}

// start begins a life, and returns when it serves. The lock is held.
func (h *spawned) start() error {
	text, err := json.Marshal(h.settings)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := &child{cmd: exec.Command(self), ready: make(chan struct{}), began: make(chan struct{}, 1), over: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), envAgent+"="+string(text))
	c.cmd.Stderr = h.log
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	h.agent = c
	h.gone.Go(func() { h.follow(c, out) })
	select {
	case <-c.ready:
		return nil
	case <-c.over:
		return fmt.Errorf("agent of %s ended before it served", h.settings.Node)
	}
}

// follow listens to an agent until it ends, and begins the next life.
func (h *spawned) follow(c *child, out io.Reader) {
	for in := json.NewDecoder(out); ; {
		var m message
		if in.Decode(&m) != nil {
			break
		}
		switch {
		case m.Ready:
			close(c.ready)
		case m.Began:
			c.began <- struct{}{}
		case m.Done != nil:
			h.done(*m.Done)
		case m.Struck != nil:
			h.struck(*m.Struck)
			h.send(c, message{Go: true})
		case m.Cut:
			h.cutLink()
			h.send(c, message{Go: true})
		}
	}
	_ = c.cmd.Wait()
	close(c.over)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.agent != c {
		return
	}
	if assert.NoError(h.t, h.start()) {
		h.send(h.agent, message{Order: &h.order})
		<-h.agent.began
		h.revived()
	}
}

// send tells an agent something. One that has died need not hear it.
func (h *spawned) send(c *child, m message) {
	line, err := json.Marshal(m)
	assert.NoError(h.t, err)
	_, _ = c.in.Write(append(line, '\n'))
}

func (h *spawned) begin(t *testing.T, o order) {
	t.Helper()
	next := o
	next.Fault = nil
	for {
		h.mu.Lock()
		h.order = next
		c := h.agent
		h.mu.Unlock()
		h.send(c, message{Order: &o})
		select {
		case <-c.began:
			return
		case <-c.over:
			// The next life gets the same order.
		case <-t.Context().Done():
			require.NoError(t, t.Context().Err(), "the agent of %s does not answer", o.Node)
		}
	}
}
