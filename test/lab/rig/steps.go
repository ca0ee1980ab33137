package rig

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// step is one thing to do, after the steps it needs.
type step struct {
	name  string
	needs []string
	// do returns what to tell about it; an empty text says that nothing had to be done.
	do func(context.Context) (string, error)
}

// runSteps does each step as soon as those it needs are done, and stops at the
// first error. Needs that are not among the steps are taken as met.
func runSteps(ctx context.Context, steps []step, tell func(name, what string)) error {
	done := map[string]chan struct{}{}
	for _, s := range steps {
		done[s.name] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range steps {
		group.Go(func() error {
			for _, need := range s.needs {
				if done[need] == nil {
					continue
				}
				select {
				case <-done[need]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			what, err := s.do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if what != "" {
				tell(s.name, what)
			}
			close(done[s.name])
			return nil
		})
	}
	return group.Wait()
}

// reversed turns the order round, for taking down what was built up.
func reversed(steps []step) []step {
	needs := map[string][]string{}
	for _, s := range steps {
		for _, need := range s.needs {
			needs[need] = append(needs[need], s.name)
		}
	}
	out := make([]step, len(steps))
	for i, s := range steps {
		out[len(steps)-1-i] = step{name: s.name, needs: needs[s.name], do: s.do}
	}
	return out
}

// matches reports whether the target names the part or a group it belongs to:
// "primary" has "primary/etcd".
func matches(part, target string) bool {
	return part == target || strings.HasPrefix(part, target+"/")
}

// progress writes one line per finished step with the time since the beginning.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	started time.Time
}

func newProgress(out io.Writer) *progress {
	if out == nil {
		out = io.Discard
	}
	return &progress{out: out, started: time.Now()}
}

func (p *progress) tell(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%7.1fs  %-26s %s\n", time.Since(p.started).Seconds(), name, what)
}
