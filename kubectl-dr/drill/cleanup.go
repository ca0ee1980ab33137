package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Volumes destroys what was made for a run; *cluster.Storage does.
type Volumes interface {
	// DestroyRun destroys the volumes of a run and returns their names. None is
	// success.
	DestroyRun(ctx context.Context, run string, interval time.Duration) ([]string, error)
}

// Cleaner removes what a drill made and nothing else: everything it deletes
// carries the run's name.
type Cleaner struct {
	Cluster  *cluster.Cluster
	Volumes  Volumes
	Hooks    run.Hooks
	Interval time.Duration
	// RecordTimeout is how long Velero may take to delete its record of the
	// restore.
	RecordTimeout time.Duration
}

var (
	zfsVolumes       = schema.GroupVersionKind{Group: "zfs.openebs.io", Version: "v1", Kind: "ZFSVolumeList"}
	snapshotContents = schema.GroupVersionKind{Group: "snapshot.storage.k8s.io", Version: "v1", Kind: "VolumeSnapshotContentList"}
)

// CleanUp removes a run's namespaces, and then its volumes, its clones and Velero's
// restore. It goes on over errors and can be called again.
func (c *Cleaner) CleanUp(ctx context.Context, runName string) (string, error) {
	ofRun := client.MatchingLabels{zfssnap.LabelRun: runName}
	namespaces, provisioned, err := c.namespaces(ctx, runName)
	if err != nil {
		// Volumes are still mounted.
		return "", err
	}
	var left string
	var errRestore error
	var velero sync.WaitGroup
	velero.Go(func() { left, errRestore = c.restore(ctx, runName) })
	errSnapshots := c.snapshots(ctx, runName)
	errProvisioned := c.provisioned(ctx, runName)
	volumes, errVolumes := c.persistentVolumes(ctx, runName)
	errHandles := c.zfsVolumes(ctx, ofRun)
	clones, errClones := c.Volumes.DestroyRun(ctx, runName, c.Interval)
	velero.Wait()
	message := fmt.Sprintf("deleted %s, %s, %s", report.Count(namespaces, "namespace"), report.Count(provisioned+volumes, "volume"), report.Count(len(clones), "clone"))
	if left != "" {
		message += "; " + left
	}
	return message, errors.Join(errSnapshots, errProvisioned, errVolumes, errHandles, errClones, errRestore)
}

// namespaces deletes those of a run. It returns how many there were, and how many
// volumes drivers had provisioned for them.
func (c *Cleaner) namespaces(ctx context.Context, runName string) (deleted, provisioned int, _ error) {
	list := &corev1api.NamespaceList{}
	if err := c.Cluster.Client.List(ctx, list, client.MatchingLabels{zfssnap.LabelRun: runName}); err != nil {
		return 0, 0, fmt.Errorf("list namespaces of the run: %w", err)
	}
	provisioned, err := c.adopt(ctx, runName, list.Items)
	if err != nil {
		return 0, 0, err
	}
	for i := range list.Items {
		if err := c.stop(ctx, list.Items[i].Name); err != nil {
			return 0, 0, err
		}
	}
	for i := range list.Items {
		if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, &list.Items[i])); err != nil && !apierrors.IsConflict(err) {
			return 0, 0, fmt.Errorf("delete namespace %s: %w", list.Items[i].Name, err)
		}
	}
	for i := range list.Items {
		ns := &list.Items[i]
		c.Hooks.Progressf("waiting for namespace %s to end", ns.Name)
		if err := c.gone(ctx, ns); err != nil {
			return i, 0, fmt.Errorf("wait for namespace %s to end: %w%s", ns.Name, err, whatHolds(ns))
		}
	}
	return len(list.Items), provisioned, nil
}

// stop ends the pods of a namespace, and then its claims. Deleting the namespace
// does that too, but then looks for what is left at intervals that double each
// time, and takes minutes where pods take seconds. What does not end in time is
// left to it.
func (c *Cleaner) stop(ctx context.Context, namespace string) error {
	workloads, err := run.Workloads(ctx, c.Cluster.Client, namespace)
	if err != nil {
		return err
	}
	for _, w := range workloads {
		err := c.Cluster.Client.Delete(ctx, w, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s %s: %w", strings.ToLower(w.GetKind()), client.ObjectKeyFromObject(w), err)
		}
	}
	said := false
	err = cluster.Poll(ctx, c.Interval, stopTimeout, func(ctx context.Context) (bool, error) {
		pods := &corev1api.PodList{}
		if err := c.Cluster.Client.List(ctx, pods, client.InNamespace(namespace)); err != nil {
			return false, fmt.Errorf("list pods of namespace %s: %w", namespace, err)
		}
		if len(pods.Items) > 0 && !said {
			said = true
			c.Hooks.Progressf("waiting for %s of namespace %s to end", report.Count(len(pods.Items), "pod"), namespace)
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds <= grace {
				continue
			}
			if err := c.Cluster.Client.Delete(ctx, pod, client.GracePeriodSeconds(grace)); client.IgnoreNotFound(err) != nil {
				return false, fmt.Errorf("delete pod %s: %w", client.ObjectKeyFromObject(pod), err)
			}
		}
		return len(pods.Items) == 0, nil
	})
	if err == nil {
		err = cluster.DeleteClaims(ctx, c.Cluster.Client, namespace, c.Interval, stopTimeout)
	}
	if errors.Is(err, cluster.ErrTimedOut) {
		return nil
	}
	return err
}

const (
	// grace is how many seconds a drill's pods get to end. What they would
	// still write goes to clones that are thrown away.
	grace = 1
	// stopTimeout bounds waiting for the pods of a namespace, and for its claims.
	stopTimeout = time.Minute
)

// whatHolds says what a namespace that does not end waits for.
func whatHolds(ns *corev1api.Namespace) string {
	var why []string
	for _, cond := range ns.Status.Conditions {
		if cond.Status == corev1api.ConditionTrue && cond.Message != "" {
			why = append(why, cond.Message)
		}
	}
	if len(why) == 0 {
		return ""
	}
	return ": " + strings.Join(why, " ")
}

// gone waits until an object is not there any more.
func (c *Cleaner) gone(ctx context.Context, obj client.Object) error {
	return wait.PollUntilContextCancel(ctx, c.Interval, true, c.isGone(obj))
}

func (c *Cleaner) isGone(obj client.Object) wait.ConditionWithContextFunc {
	key := client.ObjectKeyFromObject(obj)
	return func(ctx context.Context) (bool, error) {
		err := c.Cluster.Client.Get(ctx, key, obj)
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	}
}

// adopt marks the volumes that drivers provisioned for claims of the run's
// namespaces, and has the drivers delete them with their claims: Velero gives them
// the reclaim policy that the source's had. A volume that was there before the
// namespace is somebody else's.
func (c *Cleaner) adopt(ctx context.Context, runName string, namespaces []corev1api.Namespace) (adopted int, _ error) {
	list := &corev1api.PersistentVolumeList{}
	if err := c.Cluster.Client.List(ctx, list); err != nil {
		return 0, fmt.Errorf("list volumes: %w", err)
	}
	for i := range list.Items {
		pv := &list.Items[i]
		if pv.Annotations[zfssnap.ProvisionedBy] == "" || pv.Labels[velerov1api.RestoreNameLabel] == runName || !madeFor(pv, namespaces) {
			continue
		}
		before := pv.DeepCopy()
		metav1.SetMetaDataLabel(&pv.ObjectMeta, labelProvisionedFor, runName)
		pv.Spec.PersistentVolumeReclaimPolicy = corev1api.PersistentVolumeReclaimDelete
		if err := client.IgnoreNotFound(c.Cluster.Client.Patch(ctx, pv, client.MergeFrom(before))); err != nil {
			return adopted, fmt.Errorf("have volume %s deleted with its claim: %w", pv.Name, err)
		}
		adopted++
	}
	return adopted, nil
}

// labelProvisionedFor names the run that a driver made a volume for.
const labelProvisionedFor = zfssnap.Domain + "/provisioned-for"

// madeFor reports whether a volume is bound to a claim of one of the namespaces,
// and was made when that was there.
func madeFor(pv *corev1api.PersistentVolume, namespaces []corev1api.Namespace) bool {
	claim := pv.Spec.ClaimRef
	return claim != nil && slices.ContainsFunc(namespaces, func(ns corev1api.Namespace) bool {
		return ns.Name == claim.Namespace && !pv.CreationTimestamp.Before(&ns.CreationTimestamp)
	})
}

// provisioned waits until drivers have deleted the run's volumes: deleted here,
// an object would leave its data behind.
func (c *Cleaner) provisioned(ctx context.Context, runName string) error {
	list := &corev1api.PersistentVolumeList{}
	if err := c.Cluster.Client.List(ctx, list, client.MatchingLabels{labelProvisionedFor: runName}); err != nil {
		return fmt.Errorf("list volumes of the run: %w", err)
	}
	for i := range list.Items {
		pv := &list.Items[i]
		c.Hooks.Progressf("waiting for driver %s to delete volume %s", pv.Annotations[zfssnap.ProvisionedBy], pv.Name)
		if err := c.gone(ctx, pv); err != nil {
			return fmt.Errorf("wait for driver %s to delete volume %s: %w", pv.Annotations[zfssnap.ProvisionedBy], pv.Name, err)
		}
	}
	return nil
}

// snapshots deletes the cluster's objects of the CSI snapshots that Velero restored the
// run's volumes from. The snapshots themselves are the backup's, and stay: Velero sets
// the policy Retain.
func (c *Cleaner) snapshots(ctx context.Context, runName string) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(snapshotContents)
	err := c.Cluster.Client.List(ctx, list, client.MatchingLabels{velerov1api.RestoreNameLabel: runName})
	if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
		return nil // the cluster knows no CSI snapshots
	}
	if err != nil {
		return fmt.Errorf("list VolumeSnapshotContents of the run: %w", err)
	}
	for i := range list.Items {
		content := &list.Items[i]
		if policy, _, _ := unstructured.NestedString(content.Object, "spec", "deletionPolicy"); policy != "Retain" {
			return fmt.Errorf("delete VolumeSnapshotContent %s: its policy is %q, and would delete the backup's snapshot", content.GetName(), policy)
		}
		if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, content)); err != nil {
			return fmt.Errorf("delete VolumeSnapshotContent %s: %w", content.GetName(), err)
		}
	}
	return nil
}

func (c *Cleaner) persistentVolumes(ctx context.Context, runName string) (int, error) {
	volumes := map[string]*corev1api.PersistentVolume{}
	for _, labels := range []client.MatchingLabels{{velerov1api.RestoreNameLabel: runName}, {zfssnap.LabelRun: runName}} {
		list := &corev1api.PersistentVolumeList{}
		if err := c.Cluster.Client.List(ctx, list, labels); err != nil {
			return 0, fmt.Errorf("list volumes of the run: %w", err)
		}
		for i := range list.Items {
			volumes[list.Items[i].Name] = &list.Items[i]
		}
	}
	for _, pv := range volumes {
		if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, pv)); err != nil {
			return 0, fmt.Errorf("delete volume %s: %w", pv.Name, err)
		}
	}
	for _, pv := range volumes {
		if err := c.gone(ctx, pv); err != nil {
			return 0, fmt.Errorf("wait for volume %s to end: %w", pv.Name, err)
		}
	}
	return len(volumes), nil
}

func (c *Cleaner) zfsVolumes(ctx context.Context, ofRun client.ListOption) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(zfsVolumes)
	err := c.Cluster.Client.List(ctx, list, ofRun)
	if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
		return nil // the driver isn't OpenEBS ZFS-LocalPV
	}
	if err != nil {
		return fmt.Errorf("list ZFSVolumes of the run: %w", err)
	}
	for i := range list.Items {
		zv := &list.Items[i]
		if err := c.disown(ctx, zv); err != nil {
			return err
		}
		if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, zv)); err != nil {
			return fmt.Errorf("delete ZFSVolume %s: %w", client.ObjectKeyFromObject(zv), err)
		}
	}
	return nil
}

// disown keeps the driver from destroying the dataset of a ZFSVolume: its agent
// does so next, also where the driver does not run.
func (c *Cleaner) disown(ctx context.Context, zv *unstructured.Unstructured) error {
	before := zv.DeepCopy()
	if !controllerutil.RemoveFinalizer(zv, zfssnap.OpenEBSFinalizer) {
		return nil
	}
	if err := client.IgnoreNotFound(c.Cluster.Client.Patch(ctx, zv, client.MergeFrom(before))); err != nil {
		return fmt.Errorf("remove the driver's finalizer of ZFSVolume %s: %w", client.ObjectKeyFromObject(zv), err)
	}
	return nil
}

// restore deletes Velero's Restore. Velero then deletes its files in object
// storage, which it cannot while that refuses: what is left is harmless, and
// said.
func (c *Cleaner) restore(ctx context.Context, name string) (left string, _ error) {
	r := &velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: c.Cluster.Namespace, Name: name}}
	err := c.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(r), r)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("get restore %s: %w", name, err)
	}
	if r.Labels[zfssnap.LabelRun] != name {
		return "", fmt.Errorf("delete restore %s: it is not of this run", name)
	}
	if err := client.IgnoreNotFound(c.Cluster.Client.Delete(ctx, r)); err != nil {
		return "", fmt.Errorf("delete restore %s: %w", name, err)
	}
	err = cluster.Poll(ctx, c.Interval, c.RecordTimeout, c.isGone(r))
	if errors.Is(err, cluster.ErrTimedOut) {
		return fmt.Sprintf("Velero still deletes its record of the restore; if restore %s stays, its object storage refuses deletion", name), nil
	}
	return "", err
}
