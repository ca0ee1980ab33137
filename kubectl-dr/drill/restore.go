package drill

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Leftovers finds and destroys what restores of Velero left; *cluster.Storage does.
type Leftovers interface {
	Leftovers(ctx context.Context, c *cluster.Cluster) ([]cluster.Leftover, error)
	DestroyLeftover(ctx context.Context, left cluster.Leftover, interval time.Duration) error
}

// CleanUpRestore destroys the volumes that a Restore of Velero, which is over, was
// made for and that no PersistentVolume leads to, with what is left of their
// drivers' objects. It goes on over errors and can be called again.
func (c *Cleaner) CleanUpRestore(ctx context.Context, leftovers Leftovers, restore string) (string, error) {
	all, err := leftovers.Leftovers(ctx, c.Cluster)
	if err != nil {
		return "", err
	}
	var errs []error
	destroyed, found := 0, 0
	for _, left := range all {
		if left.Restore != restore {
			continue
		}
		found++
		c.Hooks.Progressf("destroying %s on node %s, made for restore %s, which %s", left.Dataset, left.Node, restore, left.State())
		err := c.forgetZFSVolume(ctx, left)
		if err == nil {
			err = leftovers.DestroyLeftover(ctx, left, c.Interval)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		destroyed++
	}
	if found == 0 {
		return "", hint.Errorf("kubectl dr check lists what restores left; delete the PersistentVolume first if it is to go, and wait for a restore that is in progress",
			"restore %q left no volume that nothing uses", restore)
	}
	return "destroyed " + report.Count(destroyed, "volume"), errors.Join(errs...)
}

// forgetZFSVolume deletes the object that describes a volume to OpenEBS, if there
// is one.
func (c *Cleaner) forgetZFSVolume(ctx context.Context, left cluster.Leftover) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(zfsVolumes)
	err := c.Cluster.Client.List(ctx, list, client.HasLabels{zfssnap.LabelVolume})
	if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) || apierrors.IsNotFound(err) {
		return nil // the driver isn't OpenEBS ZFS-LocalPV
	}
	if err != nil {
		return fmt.Errorf("list ZFSVolumes: %w", err)
	}
	for i := range list.Items {
		zv := &list.Items[i]
		node, _, _ := unstructured.NestedString(zv.Object, "spec", "ownerNodeID")
		pool, _, _ := unstructured.NestedString(zv.Object, "spec", "poolName")
		if node != left.Node || path.Join(pool, zv.GetName()) != left.Dataset {
			continue
		}
		if err := c.disown(ctx, zv); err != nil {
			return err
		}
		if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, zv)); err != nil {
			return fmt.Errorf("delete ZFSVolume %s: %w", client.ObjectKeyFromObject(zv), err)
		}
	}
	return nil
}
