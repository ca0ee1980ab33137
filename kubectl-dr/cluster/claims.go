package cluster

import (
	"context"
	"fmt"
	"time"

	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// DeleteClaims deletes the claims of a namespace, which no pod uses any more, and waits
// until they are gone; ErrTimedOut when that takes longer than the timeout. A namespace
// that is deleted after them ends at once: its controller waits long for each claim.
func DeleteClaims(ctx context.Context, c client.Client, namespace string, interval, timeout time.Duration) error {
	if err := c.DeleteAllOf(ctx, &corev1api.PersistentVolumeClaim{}, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("delete claims of namespace %s: %w", namespace, err)
	}
	return Poll(ctx, interval, timeout, func(ctx context.Context) (bool, error) {
		left := &corev1api.PersistentVolumeClaimList{}
		if err := c.List(ctx, left, client.InNamespace(namespace)); err != nil {
			return false, fmt.Errorf("list claims of namespace %s: %w", namespace, err)
		}
		return len(left.Items) == 0, nil
	})
}
