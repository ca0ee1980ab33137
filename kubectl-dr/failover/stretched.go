package failover

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Names of the steps about pools that are mirrored over both sites.
const (
	StepExport = "export the stretched pools"
	StepImport = "import the stretched pools"
	StepBind   = "bind the stretched volumes"
)

// Pools moves pools that hosts at both sites reach; *cluster.Storage does.
type Pools interface {
	ImportPool(ctx context.Context, node, pool, run string, fenced bool) (*agentpb.PoolState, error)
	ExportPool(ctx context.Context, node, pool string) error
	// Keep takes a snapshot of a dataset. Idempotent.
	Keep(ctx context.Context, node, dataset, name, run string) error
	// Adopt returns a PersistentVolume for a dataset as it is.
	Adopt(ctx context.Context, c client.Client, pv *unstructured.Unstructured, id zfssnap.VolumeID) (*unstructured.Unstructured, error)
}

func (f *Failover) stretchedPools() []plan.StretchedPool {
	return f.Run.Spec.PlanSpec.Source.StretchedPools
}

// exportPools gives the pools up at the source, whose workloads are stopped.
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
				if err := f.Pools.ExportPool(ctx, p.Source, p.Pool); err != nil {
					return "", err
				}
			}
			return strings.Join(done, ", "), nil
		}}}
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
			var done []string
			for _, p := range f.stretchedPools() {
				state, err := f.Pools.ImportPool(ctx, p.Recovery, p.Pool, f.Run.Name, f.SourceFenced)
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

// givePoolsBack lets the source have its pools again.
func (f *Failover) givePoolsBack(ctx context.Context) error {
	var errs []error
	for _, p := range f.stretchedPools() {
		_, err := f.Pools.ImportPool(ctx, p.Source, p.Pool, f.Run.Name, false)
		if errors.Is(err, agent.ErrInUse) {
			if err = f.Pools.ExportPool(ctx, p.Recovery, p.Pool); err == nil {
				_, err = f.Pools.ImportPool(ctx, p.Source, p.Pool, f.Run.Name, false)
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
	return []run.Step{{Name: StepBind, About: "take a snapshot of the volumes that came with a pool, and make PersistentVolumes and claims for them as they are",
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
	made, err := f.Pools.Adopt(ctx, f.Cluster.Client, was, zfssnap.VolumeID{Node: v.Node, Dataset: id.Dataset})
	if err != nil {
		return err
	}
	pv, err := rewrite.VolumeFor(claim, made, profile)
	if err != nil {
		return err
	}
	// An earlier run may have left one of the dataset's name.
	pv.SetName(fmt.Sprintf("%s-%x", made.GetName(), sha256.Sum256([]byte(f.Run.Name)))[:len(made.GetName())+9])
	labels := pv.GetLabels()
	labels[zfssnap.LabelRun], labels[zfssnap.LabelPlan] = f.Run.Name, f.Run.Spec.Plan
	pv.SetLabels(labels)
	// The dataset is the application's only one, whatever becomes of the claim.
	if err := unstructured.SetNestedField(pv.Object, string(corev1api.PersistentVolumeReclaimRetain), "spec", "persistentVolumeReclaimPolicy"); err != nil {
		return err
	}
	if err := unstructured.SetNestedField(claim.Object, pv.GetName(), "spec", "volumeName"); err != nil {
		return err
	}
	ns := objectIn(objects, "Namespace", "", v.Namespace)
	if ns == nil {
		ns = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": v.Namespace}}}
	}
	if ns, err = rewrite.ApplyTo(profile, rewrite.Restored(ns)); err != nil {
		return err
	}
	for _, obj := range []client.Object{ns, pv, claim} {
		if err := f.Cluster.Client.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %s: %w", obj.GetName(), err)
		}
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
