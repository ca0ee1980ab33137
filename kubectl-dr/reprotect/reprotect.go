// Package reprotect turns replication round after a failover: the site that runs
// the application becomes the source, and the one that it left receives what has
// changed since they were the same.
package reprotect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Names of the steps that only a reprotection has.
const (
	StepLook    = "compare both sides"
	StepKeep    = "keep what diverged"
	StepProtect = "protect the recovery site"
	StepBackup  = "first backup the other way"
	StepCopies  = "see the copies"
)

// Storage is the ZFS hosts of both sides; *cluster.Storage is one.
type Storage interface {
	// Made returns the volumes that a run made on a node, by what they were made
	// from.
	Made(ctx context.Context, node, run string) (map[string]string, error)
	// Lineage looks at what became of a dataset since a snapshot.
	Lineage(ctx context.Context, node, dataset string, guid uint64, origin string) (cluster.Lineage, error)
	// Keep takes a snapshot of a dataset, unless it was taken before.
	Keep(ctx context.Context, node, dataset, name, run string) error
	// Returns reports whether copies of a node's volumes go back.
	Returns(node string) bool
}

// Reprotect is one reprotection.
type Reprotect struct {
	Run *plan.RecoveryRun
	// Move is the run that brought the application to the recovery site.
	Move    *plan.RecoveryRun
	Storage Storage
	Pools   failover.Pools
	// Old is the side that the application left, and New the one that runs it.
	Old, New *failover.Source
	// Finder finds restore points at the old side.
	Finder *restorepoint.Finder
	Hooks  run.Hooks
}

// Steps returns all steps in order.
func (r *Reprotect) Steps() []run.Step {
	schedule := r.Run.Spec.PlanSpec.Source.Schedule
	look, keep := "see what was written on both sides since they were the same", fmt.Sprintf("take snapshot @%s of every volume at the source that was written to since", r.keptAs())
	if names := r.poolNames(); names != "" {
		look += ", and that " + names + " is mirrored at both"
		keep += ", and have those on " + names + " outlive their claims (Retain)"
	}
	steps := []run.Step{
		{Name: StepLook, About: look, Do: func(ctx context.Context) (string, error) {
			err := r.Look(ctx)
			return r.Summary(), err
		}},
		r.Old.Pause(),
	}
	steps = append(steps, r.Old.GitOps()...)
	return append(steps,
		r.Old.Stop(),
		run.Step{Name: StepKeep, About: keep, Do: r.keep},
		run.Step{Name: StepProtect, About: fmt.Sprintf("make schedule %s at the recovery site, or resume it", schedule), Do: r.protect},
		r.New.Backup(StepBackup),
		r.New.Arrive(),
		run.Step{Name: StepCopies, About: "see that every volume of it has a copy at the source", Do: r.copies},
	)
}

// Execute runs the reprotection to its end, or goes on with one begun earlier.
// The error is a *failover.StoppedError when it can go on.
func (r *Reprotect) Execute(ctx context.Context, j *run.Journal) error {
	if err := j.Begin(ctx); err != nil {
		return err
	}
	if err := j.Do(ctx, r.Steps()...); err != nil {
		stopped := &failover.StoppedError{Kind: plan.RunReprotect, Run: r.Run.Name, Err: err}
		return errors.Join(stopped, j.Note(ctx, stopped.Error()))
	}
	return j.Finish(ctx, plan.PhasePassed, "the recovery site is the source now")
}

// stretchedPools lead from the recovery site to the source.
func (r *Reprotect) stretchedPools() []plan.StretchedPool {
	return r.Run.Spec.PlanSpec.Source.For(plan.RunReprotect).StretchedPools
}

func (r *Reprotect) poolNames() string {
	var names []string
	for _, p := range r.stretchedPools() {
		names = append(names, p.Pool)
	}
	return strings.Join(names, ", ")
}

func (r *Reprotect) keptAs() string { return "diverged-" + r.Run.Name }

// NoWayBackError says that copies of the recovery site's volumes have nowhere to
// go.
type NoWayBackError struct{ Node string }

func (e *NoWayBackError) Error() string {
	return fmt.Sprintf("copies of volumes on node %s have nowhere to go", e.Node)
}

// Hint says what to configure.
func (e *NoWayBackError) Hint() string {
	return fmt.Sprintf("set %s and %s in the VolumeSnapshotLocation of both clusters: see examples/velero/volumesnapshotlocation.yaml",
		zfssnap.KeyFailbackTarget, zfssnap.KeyFailbackPrefix)
}

// NotReplicatedError says that no agent knows a volume. What was written to it on
// either side since the failover could be neither told nor kept.
type NotReplicatedError struct{ Volume plan.Volume }

func (e *NotReplicatedError) Error() string {
	return fmt.Sprintf("volume %s/%s is backed up by Velero alone (%s): what diverged at the source can't be kept", e.Volume.Namespace, e.Volume.Claim, e.Volume.Method)
}

// Hint says what to do instead.
func (e *NotReplicatedError) Hint() string {
	return "look after the volumes at the source yourself, delete the application there, and install its schedule and plan the other way round: see docs/without-zfs.md"
}

// Look compares both sides of every volume, and writes into the run what it
// finds. Of a stretched pool there is one for both, which has to be whole.
func (r *Reprotect) Look(ctx context.Context) error {
	if err := failover.CheckDoomed(ctx, r.Pools, r.Old.Cluster.Client, r.stretchedPools()); err != nil {
		return err
	}
	if err := failover.CheckMirrors(ctx, r.Pools, r.stretchedPools()); err != nil {
		return err
	}
	made := map[string]map[string]string{}
	var volumes []plan.Volume
	for _, v := range r.Move.Status.Volumes {
		if v.Method != "" {
			return &NotReplicatedError{Volume: v}
		}
		id, err := zfssnap.ParseSnapshotID(v.SnapshotID)
		if err == nil && v.StretchedPool != "" {
			volumes = append(volumes, plan.Volume{Namespace: v.Namespace, Claim: v.Claim, SnapshotAt: v.SnapshotAt,
				StretchedPool: v.StretchedPool, Runs: v.Node + ":" + id.Dataset})
			continue
		}
		if err != nil || v.Snapshot == "" {
			continue // Velero backs it up by another method, or not at all
		}
		if !r.Storage.Returns(v.Node) {
			return &NoWayBackError{Node: v.Node}
		}
		if made[v.Node] == nil {
			if made[v.Node], err = r.Storage.Made(ctx, v.Node, r.Move.Name); err != nil {
				return err
			}
		}
		found, err := r.compare(ctx, v, id, made[v.Node][v.Snapshot])
		if err != nil {
			return fmt.Errorf("volume %s/%s: %w", v.Namespace, v.Claim, err)
		}
		volumes = append(volumes, found)
	}
	r.Run.Status.Volumes = volumes
	return nil
}

func (r *Reprotect) compare(ctx context.Context, v plan.Volume, id zfssnap.SnapshotID, runs string) (plan.Volume, error) {
	found := plan.Volume{Namespace: v.Namespace, Claim: v.Claim, SnapshotAt: v.SnapshotAt, Left: id.Node + ":" + id.Dataset}
	if runs == "" {
		return found, fmt.Errorf("the volume that %s made from %s on node %s is not there any more", r.Move.Name, v.Snapshot, v.Node)
	}
	found.Runs = v.Node + ":" + runs
	here, err := r.Storage.Lineage(ctx, v.Node, runs, id.GUID, v.Snapshot)
	if err != nil {
		return found, err
	}
	if !here.Knows {
		return found, fmt.Errorf("%s does not descend from %s", found.Runs, v.Snapshot)
	}
	found.Changed = ptr.To(int64(here.Written))
	there, err := r.Storage.Lineage(ctx, id.Node, id.Dataset, id.GUID, "")
	if err != nil {
		return found, err
	}
	if there.Knows {
		found.Diverged = ptr.To(int64(there.Written))
	}
	if there.Exists && (!there.Knows || there.Written > 0) {
		found.Kept = id.Dataset + "@" + r.keptAs()
	}
	return found, nil
}

// Summary says what Look found.
func (r *Reprotect) Summary() string {
	var changed, diverged int64
	full := 0
	for _, v := range r.Run.Status.Volumes {
		changed += ptr.Deref(v.Changed, 0)
		diverged += ptr.Deref(v.Diverged, 0)
		if v.Diverged == nil && v.StretchedPool == "" {
			full++
		}
	}
	var parts []string
	if !plan.Mirrored(r.Run.Status.Volumes) {
		parts = append(parts, fmt.Sprintf("written since the failover: about %s at the recovery site, %s at the source", report.Bytes(changed), report.Bytes(diverged)))
	}
	if full > 0 {
		parts = append(parts, report.Count(full, "volume")+" without a common snapshot at the source")
	}
	for _, p := range r.stretchedPools() {
		parts = append(parts, fmt.Sprintf("pool %s is ONLINE on node %s, and node %s sees all its disks: of what is on it nothing is to be sent", p.Pool, p.Source, p.Recovery))
	}
	return strings.Join(parts, "; ")
}

// keep looks again, because nothing writes any more, and keeps what diverged
// before anything is received.
func (r *Reprotect) keep(ctx context.Context) (string, error) {
	if err := r.Look(ctx); err != nil {
		return "", err
	}
	var kept []string
	for _, v := range r.Run.Status.Volumes {
		if v.StretchedPool != "" {
			name, err := r.retain(ctx, v)
			if err != nil {
				return "", err
			}
			if name != "" {
				kept = append(kept, "PersistentVolume "+name+" (Retain)")
			}
		}
		if v.Kept == "" {
			continue
		}
		node, dataset, _ := strings.Cut(v.Left, ":")
		if err := r.Storage.Keep(ctx, node, dataset, r.keptAs(), r.Run.Name); err != nil {
			return "", err
		}
		kept = append(kept, node+":"+v.Kept)
	}
	if len(kept) == 0 {
		return "nothing diverged", nil
	}
	return strings.Join(kept, ", "), nil
}

// retain has a stretched pool's volume at the source outlive its claim: its dataset is the
// one that runs at the recovery site, and a driver would destroy it once it is back.
func (r *Reprotect) retain(ctx context.Context, v plan.Volume) (string, error) {
	claim := &corev1api.PersistentVolumeClaim{}
	key := client.ObjectKey{Namespace: v.Namespace, Name: v.Claim}
	if err := r.Old.Cluster.Client.Get(ctx, key, claim); err != nil || claim.Spec.VolumeName == "" {
		return "", client.IgnoreNotFound(err)
	}
	pv := &corev1api.PersistentVolume{}
	if err := r.Old.Cluster.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv); err != nil {
		return "", client.IgnoreNotFound(err)
	}
	return pv.Name, failover.Retain(ctx, r.Old.Cluster.Client, pv)
}

// ReadOnlyError says that the recovery site may write no backups.
type ReadOnlyError struct{ Location string }

func (e *ReadOnlyError) Error() string {
	return fmt.Sprintf("the recovery site may not write to BackupStorageLocation %q", e.Location)
}

// Hint says what to set up.
func (e *ReadOnlyError) Hint() string {
	return "add a BackupStorageLocation of one name to both clusters, ReadWrite at the recovery site and ReadOnly at the source, and name it in spec.failback.storageLocation of the plan; docs/runbook.md shows one"
}

// CheckLocation refuses a storage location that the recovery site may not write
// to.
func (r *Reprotect) CheckLocation(ctx context.Context) error {
	schedule, err := r.Old.Schedule(ctx)
	if err != nil {
		return err
	}
	location := &velerov1api.BackupStorageLocation{}
	key := client.ObjectKey{Namespace: r.New.Cluster.Namespace, Name: r.location(schedule)}
	if err := r.New.Cluster.Client.Get(ctx, key, location); err != nil {
		return fmt.Errorf("get BackupStorageLocation %s at the recovery site: %w", key, err)
	}
	if location.Spec.AccessMode == velerov1api.BackupStorageLocationAccessModeReadOnly {
		return &ReadOnlyError{Location: key.Name}
	}
	return nil
}

// defaultLocation is what Velero uses for backups that name none.
const defaultLocation = "default"

func (r *Reprotect) location(schedule *velerov1api.Schedule) string {
	switch f := r.Run.Spec.PlanSpec.Failback; {
	case f != nil && f.StorageLocation != "":
		return f.StorageLocation
	case schedule.Spec.Template.StorageLocation != "":
		return schedule.Spec.Template.StorageLocation
	}
	return defaultLocation
}

// protect gives the recovery site the schedule that the source had.
func (r *Reprotect) protect(ctx context.Context) (string, error) {
	old, err := r.Old.Schedule(ctx)
	if err != nil {
		return "", err
	}
	made := &velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.New.Cluster.Namespace, Name: old.Name, Labels: maps.Clone(old.Labels),
	}, Spec: *old.Spec.DeepCopy()}
	metav1.SetMetaDataLabel(&made.ObjectMeta, zfssnap.LabelPlan, r.Run.Spec.Plan)
	made.Spec.Paused = false
	made.Spec.Template.StorageLocation = r.location(old)
	err = r.New.Cluster.Client.Create(ctx, made)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return "", fmt.Errorf("create schedule %s at the recovery site: %w", made.Name, err)
		}
		return "schedule " + made.Name + " made", nil
	}
	have, err := r.New.Schedule(ctx)
	switch {
	case err != nil:
		return "", err
	case have.Labels[zfssnap.LabelPlan] != r.Run.Spec.Plan:
		return "", fmt.Errorf("create schedule %s at the recovery site: one of that name exists and is not of this plan", have.Name)
	case !have.Spec.Paused:
		return "schedule " + have.Name + " is there", nil
	}
	return "schedule " + have.Name + " resumed", failover.Resume(ctx, r.New.Cluster.Client, have)
}

// copies looks for every volume's copy at the source.
func (r *Reprotect) copies(ctx context.Context) (string, error) {
	p, err := r.Finder.Named(ctx, r.Run.Spec.PlanSpec.Source.For(plan.RunReprotect), r.Run.Spec.Backup)
	if err != nil {
		return "", err
	}
	for _, copied := range p.Volumes {
		for i := range r.Run.Status.Volumes {
			if v := &r.Run.Status.Volumes[i]; v.Namespace == copied.Namespace && v.Claim == copied.Claim {
				v.SnapshotID, v.SnapshotAt, v.Node, v.Snapshot = copied.SnapshotID, copied.SnapshotAt, copied.Node, copied.Snapshot
			}
		}
	}
	at := metav1.NewTime(p.At()).Rfc3339Copy()
	r.Run.Status.RestoredTo = &at
	return fmt.Sprintf("the source has %s of backup %s", report.Count(len(p.Volumes), "volume"), p.Backup), nil
}
