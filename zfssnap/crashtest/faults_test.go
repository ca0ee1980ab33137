package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// step is one command of an agent, in words that are the same in every run of a
// story.
type step struct {
	Phase   string // what the backup's life was at
	Node    string
	Command string
	N       int // the how many-th of these words in its phase, from 1
}

func (s step) String() string {
	text := fmt.Sprintf("%s: %s: %s", s.Phase, s.Node, s.Command)
	if s.N > 1 {
		text += fmt.Sprintf(" (%d)", s.N)
	}
	return text
}

// anyStream in the place of a command stands for the first that moves a stream.
const anyStream = "stream"

// reads reports whether a step changes nothing.
func (s step) reads() bool {
	for _, verb := range []string{"zfs list ", "zfs get ", "zfs holds ", "zfs send -n ", "zfs version", "zpool list "} {
		if strings.HasPrefix(s.Command, verb) {
			return true
		}
	}
	return false
}

// streams reports whether a step moves a stream.
func (s step) streams() bool { return isStream(strings.Fields(s.Command)) }

func isStream(args []string) bool {
	return len(args) > 2 && (args[1] == "send" && args[2] != "-n" || args[1] == "receive" && args[2] != "-A")
}

// The parts of a fault: what breaks, and when it does.
const (
	process = "command" // the zfs(8) process is killed
	agents  = "agent"   // the agent is killed, and its commands are left alone
	both    = "both"    // both agents are killed
	link    = "link"    // connections between the agents are cut
	pool    = "pool"    // something happens to a pool, and the command goes on

	before  = "before"  // ahead of the step
	after   = "after"   // the step took effect, and its result is lost
	midway  = "midway"  // in the midst of the stream
	anytime = "anytime" // within the time that the step takes
)

// fault is one thing that goes wrong.
type fault struct {
	Step  step
	What  string
	When  string
	Bytes int64         // after how much of the stream, for midway
	Delay time.Duration // how far into the step, for anytime
}

func (f fault) String() string { return f.What + " " + f.When }

// byChance reports whether a fault need not come about. Agents look at several
// things at the same time, and then share processes; a step may take less time
// than it did before; and an agent that has just begun to live may place a hold
// that is being placed.
func (f fault) byChance() bool {
	return f.Step.reads() || f.When == anytime || f.Step.Phase == phaseSnapshot && f.Step.N > 1
}

// took is what a step was without a fault.
type took struct {
	Step  step
	Bytes int64
	Time  time.Duration
}

// order tells an agent what comes next.
type order struct {
	Node  string
	Phase string
	Names []string // pairs for strings.NewReplacer: what is called differently in every run
	Fault *fault
}

// breaker does what a fault does to others than the command.
type breaker interface {
	// struck is told that a fault begins, and does what concerns the other node.
	// The command waits for it.
	struck(fault)
	// killAgent ends the agent as SIGKILL does. It need not return.
	killAgent()
	// cutLink returns when the connections between the agents are cut.
	cutLink()
}

// runner is the zfs.Runner of one life of an agent.
type runner struct {
	base zfs.Runner
	breaker
	done func(took) // is told of every step that has ended
	dead atomic.Bool

	mu    sync.Mutex
	order order
	names *strings.Replacer
	seen  map[step]int
	hit   bool
}

func newRunner(base zfs.Runner, b breaker, done func(took)) *runner {
	r := &runner{base: base, breaker: b, done: done}
	r.begin(order{})
	return r
}

// begin starts a phase.
func (r *runner) begin(o order) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order, r.names, r.seen, r.hit = o, strings.NewReplacer(o.Names...), map[step]int{}, false
}

// vague is what differs from run to run, or is long and says little.
var vague = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`#kubectl-dr_\S+_[0-9a-f]+`), "#cursor"},
	{regexp.MustCompile(`(:target:\S+)_[0-9a-f]{8}=`), "$1="},
	{regexp.MustCompile(`=\{"\S+\}`), "=RECORD"},
	{regexp.MustCompile(`([= ])\d{12,}`), "${1}GUID"},
	{regexp.MustCompile(`-t 1-\S+`), "-t TOKEN"},
	{regexp.MustCompile(`(-Hp? )?(-[rs] local )?(-t [a-z,]+ )?(-d \d )?-o [a-z_,]+ `), ""},
}

// next names a step, and returns the fault if it is the one to go wrong.
func (r *runner) next(args []string) (step, fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.names.Replace(strings.Join(args, " "))
	for _, v := range vague {
		text = v.re.ReplaceAllString(text, v.to)
	}
	s := step{Phase: r.order.Phase, Node: r.order.Node, Command: text}
	r.seen[s]++
	s.N = r.seen[s]
	f := r.order.Fault
	if f == nil || r.hit || f.Step != s && (f.Step.Command != anyStream || !isStream(args)) {
		return s, fault{}
	}
	r.hit = true
	return s, *f
}

// killed is what a Runner returns of a command that a signal ended.
func killed() (zfs.Result, error) {
	return zfs.Result{ExitCode: -1}, errors.New("run zfs: signal: killed")
}

// Run implements zfs.Runner.
func (r *runner) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if r.dead.Load() {
		return killed()
	}
	s, f := r.next(c.Args)
	if f.When == before && r.strike(f) {
		return killed()
	}
	// The death of an agent does not end its commands: they find their pipes
	// closed, and go on.
	own, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	defer context.AfterFunc(ctx, func() {
		if !r.dead.Load() {
			kill()
		}
	})()

	hit := &atomic.Bool{}
	strike := func() {
		if r.strike(f) {
			hit.Store(true)
			kill()
		}
	}
	p := &pipe{runner: r, in: c.Stdin, out: c.Stdout, strike: strike, at: -1}
	if f.When == midway {
		p.at = f.Bytes
	}
	if c.Stdin != nil {
		c.Stdin = p
	}
	if c.Stdout != nil {
		c.Stdout = p
	}
	if f.When == anytime {
		defer time.AfterFunc(f.Delay, strike).Stop()
	}
	start := time.Now()
	res, err := r.base.Run(own, c)
	switch {
	case r.dead.Load(), f.When == after && r.strike(f), hit.Load() && (err != nil || res.ExitCode != 0):
		return killed()
	}
	r.done(took{Step: s, Bytes: p.n.Load(), Time: time.Since(start)})
	return res, err
}

// strike does a fault, and reports whether the command dies of it.
func (r *runner) strike(f fault) bool {
	r.struck(f)
	switch f.What {
	case agents, both:
		r.dead.Store(true)
		r.killAgent()
	case link:
		r.cutLink()
		return false
	case pool:
		return false
	}
	return true
}

// pipe is what lies between an agent and the stream of one of its commands.
type pipe struct {
	*runner
	in     io.Reader
	out    io.Writer
	n      atomic.Int64 // bytes so far
	at     int64        // after how many to strike, below 0 for never
	strike func()
}

func (p *pipe) Read(b []byte) (int, error) {
	if p.at >= 0 {
		b = b[:min(int64(len(b)), p.at-p.n.Load())]
	}
	if p.dead.Load() {
		return 0, io.EOF
	}
	n, err := p.in.Read(b)
	p.count(n)
	return n, err
}

func (p *pipe) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		part := b
		if p.at >= 0 {
			part = b[:min(int64(len(b)), p.at-p.n.Load())]
		}
		if p.dead.Load() {
			return written, syscall.EPIPE
		}
		var n int
		n, err = p.out.Write(part)
		p.count(n)
		written, b = written+n, b[n:]
	}
	return written, err
}

// count adds to the bytes that passed, and strikes when it is time.
func (p *pipe) count(n int) {
	if total := p.n.Add(int64(n)); total == p.at {
		p.at = -1
		p.strike()
	}
}
