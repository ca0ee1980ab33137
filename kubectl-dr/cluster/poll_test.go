package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPoll(t *testing.T) {
	t.Parallel()
	failure := errors.New("failure")
	looks := 0
	require.NoError(t, Poll(t.Context(), time.Millisecond, time.Minute, func(context.Context) (bool, error) {
		looks++
		return looks == 3, nil
	}))
	require.ErrorIs(t, Poll(t.Context(), time.Millisecond, time.Minute, func(context.Context) (bool, error) {
		return false, failure
	}), failure)
	require.ErrorIs(t, Poll(t.Context(), time.Millisecond, time.Millisecond, func(context.Context) (bool, error) {
		return false, nil
	}), ErrTimedOut)
	require.ErrorIs(t, Poll(t.Context(), time.Millisecond, time.Millisecond, func(ctx context.Context) (bool, error) {
		for deadline, _ := ctx.Deadline(); time.Now().Before(deadline); {
			continue
		}
		return false, failure
	}), ErrTimedOut, "whatever a call made of the end of its time")
	ended, end := context.WithCancel(t.Context())
	end()
	require.ErrorIs(t, Poll(ended, time.Millisecond, time.Minute, func(context.Context) (bool, error) {
		return false, failure
	}), context.Canceled)
}
