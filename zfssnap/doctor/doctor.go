// Package doctor examines a ZFS host: its release against known defects, pools
// and their features, replicas, holds, clock and certificates. It changes
// nothing, and a pool that hangs does not make it hang.
package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// State of something that was looked at.
type State string

// The states, from good to bad.
const (
	OK      State = "ok"
	Warning State = "warning"
	Problem State = "problem"
)

var severity = map[State]int{OK: 0, Warning: 1, Problem: 2}

// Worse returns the worse of two states.
func Worse(a, b State) State {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// Group is findings on one subject.
type Group struct {
	Name  string `json:"name"`
	Items []Item `json:"items"`
}

// Item is one finding.
type Item struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Message string `json:"message,omitempty"`
	// Remedy says what to do about a warning or problem.
	Remedy string `json:"remedy,omitempty"`
}

// Limits from which on something is worth a word.
const (
	// DefaultTimeout bounds each command. On a busy host one takes seconds, on one
	// that hangs for ever.
	DefaultTimeout = time.Minute
	// DefaultReceiveAge is how old an interrupted receive may be.
	DefaultReceiveAge = 3 * 24 * time.Hour

	fewFree      = 0.20 // of a pool: warning
	veryFewFree  = 0.10 // problem
	certSoon     = 30 * 24 * time.Hour
	certVerySoon = 7 * 24 * time.Hour
	// deadHold is how old a dead hold may be: a reaper should have been there.
	deadHold = 24 * time.Hour
	// idleReplica is for how long nothing may have been sent to a replica for
	// which a snapshot is held.
	idleReplica = 30 * 24 * time.Hour
)

// Doctor examines one host.
type Doctor struct {
	ZFS *zfs.Client
	Now func() time.Time
	// Timeout bounds each command; DefaultTimeout when 0.
	Timeout time.Duration
	// ReceiveAge is how old an interrupted receive may be; DefaultReceiveAge
	// when 0.
	ReceiveAge time.Duration
	// Roots are what to look at: datasets, or "" alone for every pool.
	Roots []string
	// Holds judges holds, which it reads by the Doctor's ZFS.
	Holds *holds.Reaper
	// Certificates are those of the agent and of its authorities.
	Certificates []*x509.Certificate
	// PoolStates says how the kernel sees pools, without a command that could
	// hang; nil when it can't be told.
	PoolStates func() map[string]string
	// Synchronized reports whether a time server disciplines the clock.
	Synchronized func() (bool, error)
	// Delegated: ZFS is used by a user with delegated permissions, not by root.
	Delegated bool
}

// examination is one under way.
type examination struct {
	*Doctor
	group  string
	groups []Group
	// hung are the pools that do not answer, or are not there.
	hung map[string]bool
	// features of the pools, by pool and name.
	features map[string]map[string]string
	pools    []zfs.PoolInfo
}

// Examine looks at everything. It returns an error only when the context ends.
func (d *Doctor) Examine(ctx context.Context) ([]Group, error) {
	own := *d
	e := &examination{Doctor: &own, hung: map[string]bool{}, features: map[string]map[string]string{}}
	if e.Timeout == 0 {
		e.Timeout = DefaultTimeout
	}
	if e.ReceiveAge == 0 {
		e.ReceiveAge = DefaultReceiveAge
	}
	e.ZFS = &zfs.Client{Runner: limited{Runner: d.ZFS.Runner, timeout: e.Timeout}, Devices: d.ZFS.Devices}
	reaper := *d.Holds
	reaper.ZFS = e.ZFS
	e.Holds = &reaper
	for _, subject := range []struct {
		name string
		look func(context.Context)
	}{
		{"pools", e.lookAtPools},
		{"zfs", e.lookAtRelease},
		{"replicas", e.lookAtReplicas},
		{"holds", e.lookAtHolds},
		{"host", e.lookAtHost},
	} {
		e.group = subject.name
		subject.look(ctx)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return e.groups, nil
}

// Overall is the worst state of all.
func Overall(groups []Group) State {
	worst := OK
	for _, g := range groups {
		for _, i := range g.Items {
			worst = Worse(worst, i.State)
		}
	}
	return worst
}

func (e *examination) add(state State, name, message, remedy string) {
	if state == OK {
		remedy = ""
	}
	i := slices.IndexFunc(e.groups, func(g Group) bool { return g.Name == e.group })
	if i < 0 {
		i = len(e.groups)
		e.groups = append(e.groups, Group{Name: e.group})
	}
	e.groups[i].Items = append(e.groups[i].Items, Item{Name: name, State: state, Message: message, Remedy: remedy})
}

func (e *examination) ok(name, message string)           { e.add(OK, name, message, "") }
func (e *examination) warn(name, message, remedy string) { e.add(Warning, name, message, remedy) }
func (e *examination) problem(name, message, remedy string) {
	e.add(Problem, name, message, remedy)
}

// limited gives each command a time of its own: how many there are says nothing of
// whether one of them hangs.
type limited struct {
	zfs.Runner
	timeout time.Duration
}

// Run implements zfs.Runner.
func (l limited) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return l.Runner.Run(ctx, c)
}

// call asks a pool something, "" for none. A pool that does not answer in time is
// not asked again: each hung command leaves a process that nothing can end.
func (e *examination) call(ctx context.Context, pool, name string, do func(context.Context) error) bool {
	if pool != "" && e.hung[pool] {
		return false
	}
	err := do(ctx)
	switch {
	case err == nil, errors.Is(err, zfs.ErrNotFound):
		// A prefix may be granted before there is anything, and things go away.
		return true
	case ctx.Err() != nil:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		e.hung[pool] = true
		e.problem(name, fmt.Sprintf("a command has not ended within %s: zfs hangs", e.Timeout),
			"see dmesg and zpool status; a pool that lost its devices goes on after zpool clear, or at the next boot")
	case errors.Is(err, zfs.ErrPoolUnavailable):
		e.hung[pool] = true
		e.problem(name, err.Error(), "bring its devices back, then zpool clear; zpool status says which")
	default:
		e.problem(name, err.Error(), "see whether zfs list and zpool status work for the user that the agent runs as")
	}
	return false
}

// roots are the roots on pools that answer.
func (e *examination) roots() []string {
	var roots []string
	for _, root := range e.Roots {
		if root != "" {
			if !e.hung[zfs.Pool(root)] {
				roots = append(roots, root)
			}
			continue
		}
		for _, p := range e.pools {
			if !e.hung[p.Name] {
				roots = append(roots, p.Name)
			}
		}
	}
	return roots
}
