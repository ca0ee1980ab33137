package zfs

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runnerFunc is a Runner.
type runnerFunc func(ctx context.Context, c Cmd) (Result, error)

func (f runnerFunc) Run(ctx context.Context, c Cmd) (Result, error) { return f(ctx, c) }

// host is a Runner whose pools may hang.
type host struct {
	hangs map[string]bool

	mu  sync.Mutex
	ran []string
}

func (h *host) commands() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ran)
}

func (h *host) Run(ctx context.Context, c Cmd) (Result, error) {
	h.mu.Lock()
	h.ran = append(h.ran, verb(c.Args))
	h.mu.Unlock()
	if h.hangs[pool(c.Args)] {
		<-ctx.Done()
		return Result{ExitCode: -1}, ctx.Err()
	}
	return Result{}, nil
}

var (
	listTank = Cmd{Args: []string{"zfs", "list", "tank/a"}}
	listBack = Cmd{Args: []string{"zfs", "list", "back/a"}}
)

func TestGuardRefusesCommandsOnAPoolThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{hangs: map[string]bool{"tank": true}}
		var changes []string
		hung := map[string]int{}
		g := &Guard{Runner: h, OnHang: func(pool string) { hung[pool]++ }, OnChange: func(pool string, hangs bool) {
			if hangs {
				pool += " hangs"
			}
			changes = append(changes, pool)
		}}
		start := time.Now()
		_, err := g.Run(t.Context(), Cmd{Args: []string{"zfs", "snapshot", "tank/a@s"}})
		var hanging *HangingError
		require.ErrorAs(t, err, &hanging)
		require.ErrorIs(t, err, ErrPoolUnavailable)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, commandTimeout, time.Since(start))
		assert.Equal(t, "pool tank hangs since 2000-01-01T00:10:00Z, when zfs snapshot did not end: pool is unavailable", err.Error())
		assert.Contains(t, hanging.Hint(), "zpool clear")
		assert.Equal(t, []string{"tank"}, g.Hanging())

		// One command finds out whether it still does; others do not wait.
		probed := make(chan error)
		go func() {
			_, err := g.Run(t.Context(), listTank)
			probed <- err
		}()
		synctest.Wait()
		at := time.Now()
		for range 10 {
			_, err = g.Run(t.Context(), listTank)
			require.ErrorAs(t, err, &hanging)
		}
		assert.Zero(t, time.Since(at), "nothing is waited for")
		assert.Equal(t, []string{"zfs snapshot", "zfs list"}, h.commands())
		_, err = g.Run(t.Context(), listBack)
		require.NoError(t, err, "another pool is not concerned")
		require.ErrorIs(t, <-probed, ErrPoolUnavailable)
		assert.Equal(t, probeTimeout, time.Since(at))

		h.hangs = nil
		_, err = g.Run(t.Context(), Cmd{Args: []string{"zfs", "send", "tank/a@s"}, Stdout: io.Discard})
		require.ErrorAs(t, err, &hanging, "no stream finds out")
		_, err = g.Run(t.Context(), Cmd{Args: snapshotProgramArgs([]string{"tank/a@s"}, nil), Stdin: strings.NewReader(SnapshotProgram)})
		require.NoError(t, err, "a program is no stream")
		_, err = g.Run(t.Context(), Cmd{Args: []string{"zfs", "send", "tank/a@s"}, Stdout: io.Discard})
		require.NoError(t, err)
		for range 2 {
			_, err = g.Run(t.Context(), listTank)
			require.NoError(t, err)
		}
		assert.Empty(t, g.Hanging())
		assert.Equal(t, []string{"tank hangs", "tank"}, changes)
		assert.Equal(t, map[string]int{"tank": 2}, hung)
	})
}

func TestGuardStartsNothingWhileAProcessIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		var err error = &LeftError{Command: "zfs send", Ended: ended, cause: context.Canceled}
		started := 0
		g := &Guard{Runner: runnerFunc(func(context.Context, Cmd) (Result, error) {
			started++
			return Result{}, err
		})}
		// A stream has no time limit, but its process may not end either.
		_, got := g.Run(t.Context(), Cmd{Args: []string{"zfs", "send", "tank/a@s"}, Stdout: io.Discard})
		require.ErrorIs(t, got, ErrPoolUnavailable)
		for range 100 {
			_, got = g.Run(t.Context(), listTank)
			require.ErrorIs(t, got, ErrPoolUnavailable)
		}
		assert.Equal(t, 1, started)
		close(ended)
		synctest.Wait()
		err = nil
		_, got = g.Run(t.Context(), listTank)
		require.NoError(t, got)
		assert.Equal(t, 2, started)
		assert.Empty(t, g.Hanging())
	})
}

func TestGuardDoesNotBlameAPoolForItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{hangs: map[string]bool{"tank": true}}
		g := &Guard{Runner: h}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := g.Run(ctx, listTank)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Empty(t, g.Hanging())

		// A stream may take any time.
		ctx, cancel = context.WithTimeout(t.Context(), 100*commandTimeout)
		defer cancel()
		_, err = g.Run(ctx, Cmd{Args: []string{"zfs", "send", "tank/a@s"}, Stdout: io.Discard})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Empty(t, g.Hanging())
	})
}

func TestGuardBoundsTheCommandsOfAPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{hangs: map[string]bool{"tank": true}}
		g := &Guard{Runner: h, Timeout: time.Minute}
		done := make(chan error)
		const calls = 3 * maxCommands
		for range calls {
			go func() {
				_, err := g.Run(t.Context(), listTank)
				done <- err
			}()
		}
		synctest.Wait()
		assert.Len(t, h.commands(), maxCommands, "the others wait")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := g.Run(ctx, listTank)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = g.Run(t.Context(), listBack)
		require.NoError(t, err)
		for range calls {
			require.ErrorIs(t, <-done, ErrPoolUnavailable)
		}
		assert.LessOrEqual(t, len(h.commands()), maxCommands+3, "and do not start once the pool is known to hang, but for a probe at a time")
	})
}
