package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Names of the steps about pools that are mirrored over both sites.
const (
	StepExport = "export the stretched pools"
	StepImport = "import the stretched pools"
	StepBind   = "bind the stretched volumes"
)

// Pools moves pools that hosts at both sites reach; *cluster.Storage does.
type Pools interface {
	PoolState(ctx context.Context, node, pool string) (*agentpb.PoolState, error)
	// Doomed returns the objects of a cluster whose drivers destroy datasets of a pool as
	// soon as the node has it.
	Doomed(ctx context.Context, c client.Client, node, pool string) ([]string, error)
	ImportPool(ctx context.Context, node, pool, run string, fenced bool) (*agentpb.PoolState, error)
	ExportPool(ctx context.Context, node, pool string) error
	// Keep takes a snapshot of a dataset. Idempotent.
	Keep(ctx context.Context, node, dataset, name, run string) error
	// Adopt returns a PersistentVolume for a dataset as it is.
	Adopt(ctx context.Context, c client.Client, pv *unstructured.Unstructured, id zfssnap.VolumeID) (*unstructured.Unstructured, error)
	// Locate returns the dataset of a PersistentVolume; false for one that is on no host
	// with an agent.
	Locate(ctx context.Context, c client.Client, pv *unstructured.Unstructured) (zfssnap.VolumeID, bool, error)
}

// stretchedPools lead from where the application is to where it goes.
func (f *Failover) stretchedPools() []plan.StretchedPool {
	return f.Run.Spec.PlanSpec.Source.For(f.Run.Spec.Kind).StretchedPools
}

// CheckPools refuses to move stretched pools, while both sites work, that are not whole,
// or that would not survive it.
func (f *Failover) CheckPools(ctx context.Context) error {
	if err := CheckDoomed(ctx, f.Pools, f.Cluster.Client, f.stretchedPools()); err != nil {
		return err
	}
	return CheckMirrors(ctx, f.Pools, f.stretchedPools())
}

// exportPools gives the pools up where the application is stopped. That takes until the
// last volume is unmounted.
func (f *Failover) exportPools() []run.Step {
	var about, done []string
	for _, p := range f.stretchedPools() {
		about = append(about, p.Pool+" on "+p.Source)
		done = append(done, p.Pool)
	}
	if len(about) == 0 {
		return nil
	}
	return []run.Step{{Name: StepExport, About: "export " + strings.Join(about, ", ") + ", where nothing uses them any more",
		Do: func(ctx context.Context) (string, error) {
			for _, p := range f.stretchedPools() {
				if err := f.export(ctx, p); err != nil {
					return "", err
				}
			}
			return strings.Join(done, ", "), nil
		}}}
}

// export gives one up that is whole: what the disks say of it afterwards is the same on
// each.
func (f *Failover) export(ctx context.Context, p plan.StretchedPool) error {
	state, err := f.Pools.PoolState(ctx, p.Source, p.Pool)
	if err != nil || !state.GetImported() {
		return err
	}
	if err := given(p, state); err != nil {
		return err
	}
	err = f.onceFree(ctx, f.Source.StopTimeout, func(ctx context.Context) error { return f.Pools.ExportPool(ctx, p.Source, p.Pool) })
	if errors.Is(err, agent.ErrBusy) {
		return hint.Add(err, fmt.Sprintf("something on node %s uses a dataset of the pool, be it another application; a pool is moved as a whole", p.Source))
	}
	return err
}

// onceFree does something with a pool, and does it again while that is busy: a volume is
// unmounted a moment after its last pod, and an agent ends what a killed command asked for.
func (f *Failover) onceFree(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	var last error
	err := cluster.Poll(ctx, f.Interval, timeout, func(ctx context.Context) (bool, error) {
		if last = do(ctx); errors.Is(last, agent.ErrBusy) {
			return false, nil
		}
		return true, last
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return fmt.Errorf("after %s: %w", timeout, last)
	}
	return err
}

// importPools takes the pools over. That is the fence, too: who has a pool imported
// elsewhere cannot import it again, and who lost it does not write to it any more.
func (f *Failover) importPools() []run.Step {
	var about []string
	for _, p := range f.stretchedPools() {
		about = append(about, p.Pool+" on "+p.Recovery)
	}
	if len(about) == 0 {
		return nil
	}
	return []run.Step{{Name: StepImport, About: "import " + strings.Join(about, ", ") + ", once no other host is seen to use them",
		Do: func(ctx context.Context) (string, error) {
			if err := CheckDoomed(ctx, f.Pools, f.Cluster.Client, f.stretchedPools()); err != nil {
				return "", err
			}
			var done []string
			for _, p := range f.stretchedPools() {
				var state *agentpb.PoolState
				err := f.onceFree(ctx, f.RestoreTimeout, func(ctx context.Context) (err error) {
					state, err = f.Pools.ImportPool(ctx, p.Recovery, p.Pool, f.Run.Name, f.SourceFenced)
					return err
				})
				if err != nil {
					return "", err
				}
				if state.GetHealth() != "ONLINE" {
					f.Hooks.Warnf("pool %s on node %s is %s: it is not mirrored any more until that is mended", p.Pool, p.Recovery, state.GetHealth())
				}
				done = append(done, fmt.Sprintf("%s on %s (%s)", p.Pool, p.Recovery, state.GetHealth()))
			}
			return strings.Join(done, ", "), nil
		}}}
}

// givePoolsBack lets the side that is left have its pools again.
func (f *Failover) givePoolsBack(ctx context.Context) error {
	var errs []error
	for _, p := range f.stretchedPools() {
		take := func(ctx context.Context) error {
			_, err := f.Pools.ImportPool(ctx, p.Source, p.Pool, f.Run.Name, false)
			return err
		}
		err := f.onceFree(ctx, f.RollBackTimeout, take)
		if errors.Is(err, agent.ErrInUse) {
			err = f.onceFree(ctx, f.RollBackTimeout, func(ctx context.Context) error { return f.Pools.ExportPool(ctx, p.Recovery, p.Pool) })
			if err == nil {
				err = take(ctx)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bindStretched makes the claims and PersistentVolumes of datasets that came with a
// pool: of themselves, not of clones. What they hold is kept before anything writes; what
// only the intent log holds is replayed when they are mounted.
func (f *Failover) bindStretched() []run.Step {
	if len(f.stretchedPools()) == 0 {
		return nil
	}
	return []run.Step{{Name: StepBind, About: "take a snapshot of the volumes that came with a pool, and make PersistentVolumes and claims for them as they are, or take the PersistentVolumes that are there",
		Do: func(ctx context.Context) (string, error) {
			if !slices.ContainsFunc(f.Run.Status.Volumes, func(v plan.Volume) bool { return v.StretchedPool != "" }) {
				return "no volume is on one", nil
			}
			profile, err := f.Cluster.Profile(ctx, f.Run.Spec.PlanSpec.Profile(f.Run.Spec.Kind))
			if err != nil {
				return "", err
			}
			objects, err := standby.Objects(ctx, f.Cluster.Files, f.Run.Spec.Backup)
			if err != nil {
				return "", err
			}
			var done []string
			for i := range f.Run.Status.Volumes {
				v := &f.Run.Status.Volumes[i]
				if v.StretchedPool == "" {
					continue
				}
				if err := f.bind(ctx, v, objects, profile); err != nil {
					return "", fmt.Errorf("volume %s/%s: %w", v.Namespace, v.Claim, err)
				}
				done = append(done, v.Namespace+"/"+v.Claim)
			}
			return strings.Join(done, ", "), nil
		}}}
}

func (f *Failover) bind(ctx context.Context, v *plan.Volume, objects []*unstructured.Unstructured, profile *rules.Profile) error {
	id, err := zfssnap.ParseSnapshotID(v.SnapshotID)
	if err != nil {
		return err
	}
	claim := objectIn(objects, "PersistentVolumeClaim", v.Namespace, v.Claim)
	if claim == nil {
		return errors.New("the backup does not hold its claim")
	}
	name, _, _ := unstructured.NestedString(claim.Object, "spec", "volumeName")
	was := objectIn(objects, "PersistentVolume", "", name)
	if was == nil {
		return fmt.Errorf("the backup does not hold its PersistentVolume %q", name)
	}
	kept := keptSnapshot + f.Run.Name
	if err := f.Pools.Keep(ctx, v.Node, id.Dataset, kept, f.Run.Name); err != nil {
		return err
	}
	v.Kept = v.Node + ":" + id.Dataset + "@" + kept
	if claim, err = rewrite.ApplyTo(profile, rewrite.Unbound(claim)); err != nil {
		return err
	}
	at := zfssnap.VolumeID{Node: v.Node, Dataset: id.Dataset}
	made, err := f.Pools.Adopt(ctx, f.Cluster.Client, was, at)
	if err != nil {
		return err
	}
	pv, err := rewrite.VolumeFor(claim, made, profile)
	if err != nil {
		return err
	}
	// Velero leaves a volume alone that has the name it knows.
	pv.SetName(name)
	labels := pv.GetLabels()
	labels[zfssnap.LabelRun], labels[zfssnap.LabelPlan] = f.Run.Name, f.Run.Spec.Plan
	pv.SetLabels(labels)
	// The dataset is the application's only one, whatever becomes of the claim.
	if err := unstructured.SetNestedField(pv.Object, string(corev1api.PersistentVolumeReclaimRetain), "spec", "persistentVolumeReclaimPolicy"); err != nil {
		return err
	}
	there, err := f.volumeThere(ctx, v, name, at)
	if err != nil {
		return err
	}
	if there != nil {
		if err := f.rebind(ctx, there, pv, claim); err != nil {
			return err
		}
		name = there.Name
	}
	if err := unstructured.SetNestedField(claim.Object, name, "spec", "volumeName"); err != nil {
		return err
	}
	ns := objectIn(objects, "Namespace", "", v.Namespace)
	if ns == nil {
		ns = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": v.Namespace}}}
	}
	if ns, err = rewrite.ApplyTo(profile, rewrite.Restored(ns)); err != nil {
		return err
	}
	objects = []*unstructured.Unstructured{ns, pv, claim}
	if there != nil {
		objects = []*unstructured.Unstructured{ns, claim}
	}
	for _, obj := range objects {
		if err := f.Cluster.Client.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %s %s: %w", strings.ToLower(obj.GetKind()), obj.GetName(), err)
		}
	}
	return nil
}

// InUseError says that a PersistentVolume is in the way of one for the same dataset, or of
// the same name.
type InUseError struct{ Volume, Why string }

func (e *InUseError) Error() string { return fmt.Sprintf("PersistentVolume %s %s", e.Volume, e.Why) }

// Hint says what to do about it.
func (e *InUseError) Hint() string {
	return "if nothing needs it: kubectl delete persistentvolume " + e.Volume + "; with the reclaim policy Retain its dataset stays"
}

// volumeThere returns the PersistentVolume that a claim's dataset has already where the
// application goes, nil for none: the application was there before, or an earlier attempt
// made it. Two of one dataset would be two ways to lose it.
func (f *Failover) volumeThere(ctx context.Context, v *plan.Volume, name string, at zfssnap.VolumeID) (*corev1api.PersistentVolume, error) {
	list := &corev1api.PersistentVolumeList{}
	if err := f.Cluster.Client.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list PersistentVolumes: %w", err)
	}
	var there *corev1api.PersistentVolume
	for i := range list.Items {
		pv := &list.Items[i]
		ref := pv.Spec.ClaimRef
		if pv.Name != name && (ref == nil || ref.Namespace != v.Namespace || ref.Name != v.Claim) {
			continue
		}
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pv)
		if err != nil {
			return nil, err
		}
		id, ours, err := f.Pools.Locate(ctx, f.Cluster.Client, &unstructured.Unstructured{Object: object})
		ours = err == nil && ours && id == at
		switch {
		case ours && there != nil:
			return nil, &InUseError{Volume: pv.Name, Why: fmt.Sprintf("has dataset %s, which %s has too", at.Dataset, there.Name)}
		case ours:
			there = pv
		case pv.Name == name:
			return nil, &InUseError{Volume: pv.Name, Why: fmt.Sprintf("is not of dataset %s on node %s, and has the name that its volume gets", at.Dataset, at.Node)}
		}
	}
	return there, nil
}

// rebind reserves a PersistentVolume that is there for its claim.
func (f *Failover) rebind(ctx context.Context, there *corev1api.PersistentVolume, want, claim *unstructured.Unstructured) error {
	ref := there.Spec.ClaimRef
	have := &corev1api.PersistentVolumeClaim{}
	err := client.IgnoreNotFound(f.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(claim), have))
	switch {
	case err != nil:
		return fmt.Errorf("get claim %s: %w", client.ObjectKeyFromObject(claim), err)
	case there.DeletionTimestamp != nil:
		return &InUseError{Volume: there.Name, Why: "is being deleted"}
	case ref != nil && (ref.Namespace != claim.GetNamespace() || ref.Name != claim.GetName()) && there.Status.Phase == corev1api.VolumeBound:
		return &InUseError{Volume: there.Name, Why: fmt.Sprintf("is bound to claim %s/%s", ref.Namespace, ref.Name)}
	case ref != nil && have.UID != "" && ref.UID == have.UID:
		return nil // by an earlier attempt
	}
	before := there.DeepCopy()
	there.Spec.PersistentVolumeReclaimPolicy = corev1api.PersistentVolumeReclaimRetain
	there.Spec.StorageClassName, _, _ = unstructured.NestedString(want.Object, "spec", "storageClassName")
	there.Spec.ClaimRef = &corev1api.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.GetNamespace(), Name: claim.GetName()}
	if err := f.Cluster.Client.Patch(ctx, there, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("bind PersistentVolume %s to claim %s: %w", there.Name, client.ObjectKeyFromObject(claim), err)
	}
	return nil
}

func objectIn(objects []*unstructured.Unstructured, kind, namespace, name string) *unstructured.Unstructured {
	for _, obj := range objects {
		if obj.GetKind() == kind && obj.GetNamespace() == namespace && obj.GetName() == name && obj.GroupVersionKind().Group == "" {
			return obj
		}
	}
	return nil
}

// restoreRest is a restore that leaves alone what came with a stretched pool: claims
// and volumes that are there stay as they are, and when all are, none is asked for.
func (f *Failover) restoreRest() run.Step {
	step, withoutVolumes := f.Restore(), f.Restore("persistentvolumes", "persistentvolumeclaims")
	do := step.Do
	step.Do = func(ctx context.Context) (string, error) {
		if plan.Mirrored(f.Run.Status.Volumes) {
			return withoutVolumes.Do(ctx)
		}
		return do(ctx)
	}
	return step
}

// restoreOtherVolumes restores the volumes of a warm standby that did not come with a
// stretched pool.
func (f *Failover) restoreOtherVolumes() run.Step {
	step := f.RestoreVolumes(standby.VolumeResources...)
	do := step.Do
	step.Do = func(ctx context.Context) (string, error) {
		if plan.Mirrored(f.Run.Status.Volumes) {
			return "every volume came with its pool", nil
		}
		return do(ctx)
	}
	return step
}
