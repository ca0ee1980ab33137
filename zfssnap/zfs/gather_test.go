package zfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowRunner answers listings of versions, each when it is let.
type slowRunner struct {
	let chan struct{}

	mu      sync.Mutex
	asked   []string // the names of each process
	missing string
	killed  int
}

func (r *slowRunner) Run(ctx context.Context, c Cmd) (Result, error) {
	names := c.Args[9:] // zfs list -Hp -t ... -d 1 -o ...
	r.mu.Lock()
	r.asked = append(r.asked, strings.Join(names, " "))
	r.mu.Unlock()
	select {
	case <-r.let:
	case <-ctx.Done():
		r.mu.Lock()
		r.killed++
		r.mu.Unlock()
		return Result{ExitCode: -1}, ctx.Err()
	}
	var res Result
	for i, n := range names {
		if n == r.missing {
			res.ExitCode = 1
			res.Stderr += fmt.Sprintf("cannot open '%s': dataset does not exist\n", n)
			continue
		}
		res.Stdout = fmt.Appendf(res.Stdout, "%d\t7\t1\t0\t0\t0\t0\t%s@s\n", i+1, n)
	}
	return res, nil
}

func (r *slowRunner) processes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}

// crowd asks about the versions of datasets, the first of which is under way
// while the others wait.
func crowd(ctx context.Context, t *testing.T, r *slowRunner, datasets ...string) (finish func() map[string]error) {
	t.Helper()
	c := &Client{Runner: r}
	var mu sync.Mutex
	var done sync.WaitGroup
	outcomes := map[string]error{}
	ask := func(i int, d string) {
		done.Go(func() {
			vs, err := c.Versions(ctx, d)
			if err == nil && (len(vs) != 1 || vs[0].Dataset != d) {
				err = fmt.Errorf("got %v", vs)
			}
			mu.Lock()
			defer mu.Unlock()
			outcomes[fmt.Sprint(d, " ", i)] = err
		})
	}
	for i, d := range datasets {
		ask(i, d)
		require.Eventually(t, func() bool {
			c.versions.mu.Lock()
			defer c.versions.mu.Unlock()
			waiting := 0
			for _, l := range c.versions.lines {
				waiting += len(l.waiting)
			}
			return len(r.processes())+waiting == i+1
		}, 2*time.Minute, time.Millisecond)
	}
	return func() map[string]error {
		done.Wait()
		return outcomes
	}
}

func TestQuestionsAskedMeanwhileShareAProcess(t *testing.T) {
	t.Parallel()
	r := &slowRunner{let: make(chan struct{})}
	finish := crowd(t.Context(), t, r, "tank/a", "tank/b", "tank/c", "tank/b")
	close(r.let)
	assert.Equal(t, map[string]error{"tank/a 0": nil, "tank/b 1": nil, "tank/c 2": nil, "tank/b 3": nil}, finish())
	assert.Equal(t, []string{"tank/a", "tank/b tank/c"}, r.processes())
}

func TestOneThatIsMissingKeepsNoAnswerFromOthers(t *testing.T) {
	t.Parallel()
	r := &slowRunner{let: make(chan struct{}), missing: "tank/c"}
	finish := crowd(t.Context(), t, r, "tank/a", "tank/b", "tank/c", "tank/d")
	close(r.let)
	outcomes := finish()
	assert.ErrorIs(t, outcomes["tank/c 2"], ErrNotFound)
	delete(outcomes, "tank/c 2")
	assert.Equal(t, map[string]error{"tank/a 0": nil, "tank/b 1": nil, "tank/d 3": nil}, outcomes)
	assert.Equal(t, []string{"tank/a", "tank/b tank/c tank/d", "tank/c"}, r.processes())
}

func TestAPoolThatHangsKeepsNoOthersAnswers(t *testing.T) {
	t.Parallel()
	r := &slowRunner{let: make(chan struct{})}
	finish := crowd(t.Context(), t, r, "tank/a", "back/a")
	assert.Equal(t, []string{"tank/a", "back/a"}, r.processes())
	close(r.let)
	finish()
}

func TestAProcessEndsWhenAllItsCallersHaveGone(t *testing.T) {
	t.Parallel()
	r := &slowRunner{let: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	finish := crowd(ctx, t, r, "tank/a", "tank/b", "tank/c")
	r.let <- struct{}{} // the first
	require.Eventually(t, func() bool { return len(r.processes()) == 2 }, 2*time.Minute, time.Millisecond)
	cancel()
	outcomes := finish()
	assert.ErrorIs(t, outcomes["tank/b 1"], context.Canceled)
	assert.ErrorIs(t, outcomes["tank/c 2"], context.Canceled)
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.killed > 0
	}, 2*time.Minute, time.Millisecond)
}

func TestWhatAFailedCommandHasTold(t *testing.T) {
	t.Parallel()
	names := []string{"tank/a@s", "tank/b@s", "tank/b#s"}
	failed := func(stderr string) error {
		return &CommandError{Args: []string{"zfs", "list"}, Stderr: stderr, ExitCode: 1}
	}
	tests := []struct {
		name string
		err  error
		want []string
	}{
		{"all when it did not fail", nil, names},
		{"all but a missing snapshot", failed("cannot open 'tank/a@s': dataset does not exist\n"), []string{"tank/b@s", "tank/b#s"}},
		{"all but those of a missing dataset", failed("cannot open 'tank/b': dataset does not exist\n"), []string{"tank/a@s"}},
		{"nothing when it was not about a name", failed("internal error: out of memory\n"), nil},
		{"nothing when something else is told as well", failed("cannot open 'tank/a@s': dataset does not exist\ninternal error\n"), nil},
		{"nothing when it is about no name that was asked for", failed("cannot open 'back': no such pool\n"), nil},
		{"nothing when it said nothing", failed(""), nil},
		{"nothing when it did not run", context.Canceled, nil},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, told(names, tt.err), tt.name)
	}
}
