package run

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
)

func lock(c client.Client, holder string, now *time.Time) *Lock {
	return &Lock{Client: c, Namespace: "velero", Plan: "shop", Holder: holder, Now: func() time.Time { return *now }, Wait: 20 * time.Millisecond, Interval: time.Millisecond}
}

func TestLock_isHeldByOne(t *testing.T) {
	t.Parallel()
	c := fake.NewClientBuilder().WithScheme(cluster.Scheme()).Build()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	held, release, err := lock(c, "a", &now).Acquire(t.Context())
	require.NoError(t, err)
	require.NoError(t, held.Err())
	waited := 0
	second := lock(c, "b", &now)
	second.Waiting = func(*LockedError) { waited++ }
	_, _, err = second.Acquire(t.Context())
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	assert.Equal(t, "a", locked.Holder)
	assert.Equal(t, 1, waited)
	release()
	_, release, err = lock(c, "b", &now).Acquire(t.Context())
	require.NoError(t, err)
	release()
}

func TestLock_ofACommandThatWasKilledEnds(t *testing.T) {
	t.Parallel()
	c := fake.NewClientBuilder().WithScheme(cluster.Scheme()).Build()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, lock(c, "killed", &now).take(t.Context()))
	later := now.Add(lease)
	_, release, err := lock(c, "b", &later).Acquire(t.Context())
	require.NoError(t, err)
	release()
}

func TestLock_waitingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := fake.NewClientBuilder().WithScheme(cluster.Scheme()).Build()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, lock(c, "a", &now).take(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	b := lock(c, "b", &now)
	b.Wait = time.Hour
	b.Waiting = func(*LockedError) { cancel() }
	_, _, err := b.Acquire(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
