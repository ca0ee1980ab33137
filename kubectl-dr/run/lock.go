package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1api "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// lease is how long a command that was killed keeps others from going on.
const lease = 30 * time.Second

// LockWait is enough for the lock of a command that was killed to end.
const LockWait = lease + 5*time.Second

// ErrLockLost is the cause of a context whose lock was taken by another.
var ErrLockLost = errors.New("another kubectl dr took over this plan")

// LockedError says who works on a plan.
type LockedError struct {
	Plan, Holder string
	Renewed      time.Time
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("plan %q is being worked on by %s (last sign %s)", e.Plan, e.Holder, e.Renewed.UTC().Format(time.RFC3339))
}

// Hint says when it ends.
func (e *LockedError) Hint() string {
	return fmt.Sprintf("wait until it ends; if it was killed, its lock ends %s after its last sign", lease)
}

// Lock keeps two commands from working on one plan at a time, by a Lease in the
// recovery cluster.
type Lock struct {
	Client    client.Client
	Namespace string
	Plan      string
	Holder    string
	Now       func() time.Time
	// Wait is how long to wait for another holder, and Interval how often to
	// look.
	Wait, Interval time.Duration
	// Waiting is called when there is another holder to wait for.
	Waiting func(*LockedError)
}

// Acquire takes the lock. The context it returns ends when the lock is lost;
// release gives the lock back.
func (l *Lock) Acquire(ctx context.Context) (_ context.Context, release func(), _ error) {
	var locked *LockedError
	err := cluster.Poll(ctx, l.Interval, l.Wait, func(ctx context.Context) (bool, error) {
		err := l.take(ctx)
		first := locked == nil
		if !errors.As(err, &locked) {
			return err == nil, err
		}
		if first && l.Waiting != nil {
			l.Waiting(locked)
		}
		return false, nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case errors.Is(err, cluster.ErrTimedOut) && locked != nil:
		return nil, nil, locked
	case err != nil:
		return nil, nil, fmt.Errorf("lock plan %q: %w", l.Plan, err)
	}
	held, lose := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { l.renew(held, lose, stop) })
	return held, func() {
		close(stop)
		done.Wait()
		lose(nil)
		l.free(ctx)
	}, nil
}

func (l *Lock) renew(ctx context.Context, lose context.CancelCauseFunc, stop <-chan struct{}) {
	tick := time.NewTicker(lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			// The run is cleaning up after an interrupt and still needs the lock.
			ctx = context.WithoutCancel(ctx)
		case <-tick.C:
			var locked *LockedError
			// An API server that is away for a while keeps nobody from working;
			// another holder does.
			if err := l.take(ctx); errors.As(err, &locked) {
				lose(ErrLockLost)
				return
			}
		}
	}
}

func (l *Lock) key() client.ObjectKey {
	return client.ObjectKey{Namespace: l.Namespace, Name: "kubectl-dr-" + l.Plan}
}

// take creates or renews the lease, or takes an ended one.
func (l *Lock) take(ctx context.Context) error {
	now := metav1.NewMicroTime(l.Now())
	have := &coordinationv1api.Lease{}
	err := l.Client.Get(ctx, l.key(), have)
	if apierrors.IsNotFound(err) {
		err = l.Client.Create(ctx, &coordinationv1api.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.key().Name, Labels: map[string]string{zfssnap.LabelPlan: l.Plan}},
			Spec: coordinationv1api.LeaseSpec{
				HolderIdentity: &l.Holder, AcquireTime: &now, RenewTime: &now,
				LeaseDurationSeconds: ptr.To(int32(lease.Seconds())),
			},
		})
		if apierrors.IsAlreadyExists(err) {
			return &LockedError{Plan: l.Plan, Holder: "another kubectl dr", Renewed: now.Time}
		}
		return err
	}
	if err != nil {
		return err
	}
	holder, renewed := ptr.Deref(have.Spec.HolderIdentity, ""), ptr.Deref(have.Spec.RenewTime, metav1.MicroTime{}).Time
	if holder != "" && holder != l.Holder && now.Sub(renewed) < lease {
		return &LockedError{Plan: l.Plan, Holder: holder, Renewed: renewed}
	}
	have.Spec.HolderIdentity, have.Spec.RenewTime = &l.Holder, &now
	if err := l.Client.Update(ctx, have); apierrors.IsConflict(err) {
		return &LockedError{Plan: l.Plan, Holder: "another kubectl dr", Renewed: now.Time}
	} else {
		return err
	}
}

func (l *Lock) free(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	have := &coordinationv1api.Lease{}
	if l.Client.Get(ctx, l.key(), have) == nil && ptr.Deref(have.Spec.HolderIdentity, "") == l.Holder {
		// It ends by itself if this fails.
		_ = l.Client.Delete(ctx, have)
	}
}
