package cluster

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// ErrTimedOut is returned by Poll when its own time is up.
var ErrTimedOut = errors.New("timed out")

// Poll looks at once and then at an interval until the condition holds or
// fails. Its error is ErrTimedOut when that takes longer than the timeout,
// whatever a call that was cut off made of it, and the context's when that
// ended first.
func Poll(ctx context.Context, interval, timeout time.Duration, condition wait.ConditionWithContextFunc) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := wait.PollUntilContextCancel(bounded, interval, true, condition)
	// A client that sees its time running out may fail before the context does.
	deadline, _ := bounded.Deadline()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil || !time.Now().Before(deadline):
		return ErrTimedOut
	}
	return err
}
