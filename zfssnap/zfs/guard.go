package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// commandTimeout is longer than listing hundreds of thousands of snapshots
	// takes. A pool that hangs is mostly noticed before: when a caller gives up,
	// and its command does not end.
	commandTimeout = 10 * time.Minute
	// probeTimeout is for the first command on a pool after one that hung.
	probeTimeout = 30 * time.Second
	// maxCommands is how many commands run on one pool at a time; streams are
	// not counted.
	maxCommands = 32
)

// Guard is a Runner on which a pool that does not answer cannot pile up
// processes, as happens when it is suspended: every command on it waits in the
// kernel, where no signal reaches it.
//
// A command that moves no data is given Timeout. When one takes longer, or does
// not end when it is killed, its pool hangs: commands on it are refused with a
// *HangingError until the last such process has ended. Then they are let through
// one at a time, until one ends by itself.
type Guard struct {
	Runner Runner
	// Timeout is for commands that move no data; 10 minutes by default.
	Timeout time.Duration
	// OnHang, when set, is told of every command that hangs, and OnChange when a
	// pool begins and ceases to. Pool is "" for commands that are about no pool in
	// particular. Neither may block.
	OnHang   func(pool string)
	OnChange func(pool string, hangs bool)

	mu    sync.Mutex
	pools map[string]*guarded
}

var _ Runner = (*Guard)(nil)

// guarded is one pool.
type guarded struct {
	slots   chan struct{} // a place for each command that moves no data
	command string        // that hung, "" while the pool answers
	since   time.Time
	left    int  // processes that were killed and have not ended
	probing bool // a command was let through
}

// HangingError is a command that was not run, or not waited for, because its
// pool hangs.
type HangingError struct {
	Pool    string // "" for a command that is about no pool in particular
	Command string // that hung first
	Since   time.Time
}

func (e *HangingError) Error() string {
	what := "zfs"
	if e.Pool != "" {
		what = "pool " + e.Pool
	}
	return fmt.Sprintf("%s hangs since %s, when %s did not end: %v", what, e.Since.UTC().Format(time.RFC3339), e.Command, ErrPoolUnavailable)
}

// Unwrap returns ErrPoolUnavailable.
func (e *HangingError) Unwrap() error { return ErrPoolUnavailable }

// Hint says where to look.
func (e *HangingError) Hint() string {
	return "look at zpool status on that host: a suspended pool goes on after zpool clear, once its devices are back; until then nothing more is started on it"
}

// Hanging lists the pools that hang, and "" when commands about no pool in
// particular do.
func (g *Guard) Hanging() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var pools []string
	for name, p := range g.pools {
		if p.command != "" {
			pools = append(pools, name)
		}
	}
	slices.Sort(pools)
	return pools
}

// Run implements [Runner].
func (g *Guard) Run(ctx context.Context, c Cmd) (Result, error) {
	name := pool(c.Args)
	p := g.pool(name)
	// A program's text is its input.
	stream := c.Stdout != nil || c.Stdin != nil && verb(c.Args) != "zfs program"
	timeout := time.Duration(0)
	if !stream {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		timeout = g.Timeout
		if timeout == 0 {
			timeout = commandTimeout
		}
	}
	probe, err := g.enter(name, p, stream)
	if err != nil {
		return Result{}, err
	}
	if probe {
		timeout = min(timeout, probeTimeout)
	}
	runCtx := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		runCtx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	res, err := g.Runner.Run(runCtx, c)

	var left *LeftError
	late := err != nil && runCtx.Err() != nil && ctx.Err() == nil
	switch {
	case errors.As(err, &left), late:
		return res, g.hangs(name, p, probe, verb(c.Args), left)
	case err != nil && ctx.Err() != nil:
		// Killed before it could tell anything about its pool.
		g.leave(name, p, probe, false)
	default:
		g.leave(name, p, probe, true)
	}
	return res, err
}

func (g *Guard) pool(name string) *guarded {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pools[name]
	if p == nil {
		p = &guarded{slots: make(chan struct{}, maxCommands)}
		if g.pools == nil {
			g.pools = map[string]*guarded{}
		}
		g.pools[name] = p
	}
	return p
}

// enter refuses a command on a pool that hangs, or makes it the probe. A stream
// would be one for too long.
func (g *Guard) enter(name string, p *guarded, stream bool) (probe bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.command == "" {
		return false, nil
	}
	if p.left > 0 || p.probing || stream {
		return false, &HangingError{Pool: name, Command: p.command, Since: p.since}
	}
	p.probing = true
	return true, nil
}

// leave ends a command that did not hang. One that ended by itself shows that
// its pool answers again.
func (g *Guard) leave(name string, p *guarded, probe, answered bool) {
	g.mu.Lock()
	if probe {
		p.probing = false
	}
	again := answered && p.command != "" && p.left == 0
	if again {
		p.command = ""
	}
	g.mu.Unlock()
	if again && g.OnChange != nil {
		g.OnChange(name, false)
	}
}

// hangs marks a pool, and waits in the background for a process that was left.
func (g *Guard) hangs(name string, p *guarded, probe bool, command string, left *LeftError) error {
	g.mu.Lock()
	if probe {
		p.probing = false
	}
	first := p.command == ""
	if first {
		p.command, p.since = command, time.Now()
	}
	if left != nil {
		p.left++
		go func() {
			<-left.Ended
			g.mu.Lock()
			defer g.mu.Unlock()
			p.left--
		}()
	}
	err := &HangingError{Pool: name, Command: p.command, Since: p.since}
	g.mu.Unlock()
	if g.OnHang != nil {
		g.OnHang(name)
	}
	if first && g.OnChange != nil {
		g.OnChange(name, true)
	}
	return err
}

// pool is the pool that a command is about: that of its last word, where its
// dataset stands. It is "" for a command without one.
func pool(args []string) string {
	n := len(args)
	if n < 3 || args[0] != "zfs" {
		return ""
	}
	switch before := args[n-2]; {
	case before == "-o", before == "-d", before == "-t":
		return "" // a listing of every pool, or a send that continues
	case args[1] == "get" && args[n-3] == "-o":
		return "" // a property of every dataset
	}
	return Pool(args[n-1])
}
