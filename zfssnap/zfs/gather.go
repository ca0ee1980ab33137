package zfs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxGathered bounds the names that questions of several callers put on one
	// command line, well below what exec(2) takes.
	maxGathered = 128
	// maxAlone bounds how many processes answer what could not be answered
	// together.
	maxAlone = 8
)

// gather lets questions of one kind that are asked at the same time share a
// process: starting one is most of what it costs to list a few datasets. While
// a process runs, questions wait for the next one, which answers them all; so
// an answer is never older than its question. Pools are apart from each other:
// one that hangs keeps no other's answers.
//
// An answer may be given to several callers, who must not change it. The zero
// value is ready.
type gather[T any] struct {
	mu    sync.Mutex
	lines map[string]*line[T] // by what is asked about which pool
}

// asker runs one process for some names of a pool, and returns an answer for
// each that the process told all about. The error is that of the process.
type asker[T any] func(ctx context.Context, names []string) (map[string]T, error)

// line is questions that one process can answer.
type line[T any] struct {
	busy    bool
	waiting []*question[T]
}

type question[T any] struct {
	ctx     context.Context
	names   []string
	run     asker[T]
	done    chan struct{}
	answers map[string]T
	err     error
}

// ask answers about names of one pool. Only what is asked with the same about
// shares a process.
func (g *gather[T]) ask(ctx context.Context, about string, names []string, run asker[T]) (map[string]T, error) {
	q := &question[T]{ctx: ctx, names: names, run: run, done: make(chan struct{})}
	key := Pool(names[0]) + "\n" + about
	g.mu.Lock()
	if g.lines == nil {
		g.lines = map[string]*line[T]{}
	}
	l := g.lines[key]
	if l == nil {
		l = &line[T]{}
		g.lines[key] = l
	}
	if l.busy {
		l.waiting = append(l.waiting, q)
		g.mu.Unlock()
		select {
		case <-q.done:
			return q.answers, q.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l.busy = true
	g.mu.Unlock()
	q.alone()
	if round := g.next(l); len(round) > 0 {
		go func() {
			for ; len(round) > 0; round = g.next(l) {
				together(round)
			}
		}()
	}
	return q.answers, q.err
}

// askOne answers about one name.
func (g *gather[T]) askOne(ctx context.Context, about, name string, run asker[T]) (T, error) {
	found, err := g.ask(ctx, about, []string{name}, run)
	answer, ok := found[name]
	if err == nil && !ok {
		err = fmt.Errorf("look at %s: no answer", name)
	}
	return answer, err
}

// next takes those questions that the next process answers. None leaves the line
// idle.
func (g *gather[T]) next(l *line[T]) []*question[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var round, later []*question[T]
	names := 0
	for _, q := range l.waiting {
		switch {
		case q.ctx.Err() != nil: // its caller has gone
		case len(round) > 0 && names+len(q.names) > maxGathered:
			later = append(later, q)
		default:
			names += len(q.names)
			round = append(round, q)
		}
	}
	l.waiting, l.busy = later, len(round) > 0
	return round
}

// together answers questions with one process, and those that it could not
// answer with one each. The process is ended when all callers have gone.
func together[T any](round []*question[T]) {
	if len(round) > 1 {
		ctx, cancel := context.WithCancel(context.WithoutCancel(round[0].ctx))
		defer cancel()
		var callers atomic.Int64
		callers.Store(int64(len(round)))
		var names []string
		for _, q := range round {
			names = append(names, q.names...)
			defer context.AfterFunc(q.ctx, func() {
				if callers.Add(-1) == 0 {
					cancel()
				}
			})()
		}
		slices.Sort(names)
		answers, _ := round[0].run(ctx, slices.Compact(names))
		round = slices.DeleteFunc(round, func(q *question[T]) bool { return q.among(answers) })
	}
	var running sync.WaitGroup
	places := make(chan struct{}, maxAlone)
	for _, q := range round {
		places <- struct{}{}
		running.Go(func() {
			q.alone()
			<-places
		})
	}
	running.Wait()
}

// among answers a question if all it asks for is among answers.
func (q *question[T]) among(answers map[string]T) bool {
	own := map[string]T{}
	for _, n := range q.names {
		answer, ok := answers[n]
		if !ok {
			return false
		}
		own[n] = answer
	}
	q.answers = own
	close(q.done)
	return true
}

// alone answers one question with a process of its own.
func (q *question[T]) alone() {
	q.answers, q.err = q.run(q.ctx, q.names)
	close(q.done)
}

// notOpened is what zfs(8) says of one of several names, before it goes on to
// the next.
var notOpened = regexp.MustCompile(`^cannot open '([^']+)': `)

// told returns those of the names that a command with that outcome has told
// all about: all when it succeeded, and otherwise those that it did not
// complain of. None when it complained of anything else.
func told(names []string, err error) []string {
	if err == nil {
		return names
	}
	var failed *CommandError
	if !errors.As(err, &failed) || failed.ExitCode < 0 || len(failed.Stderr) >= maxStderr {
		return nil
	}
	rest := slices.Clone(names)
	for l := range strings.Lines(failed.Stderr) {
		m := notOpened.FindStringSubmatch(l)
		if m == nil {
			return nil
		}
		// Of a snapshot or bookmark, its dataset may be what is missing.
		rest = slices.DeleteFunc(rest, func(n string) bool {
			dataset, _, _ := SplitVersion(n)
			return n == m[1] || dataset == m[1]
		})
	}
	if len(rest) == len(names) {
		return nil
	}
	return rest
}
