package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Names of the steps that only a rollback has.
const (
	StepCompare  = "compare both sides"
	StepEnd      = "end the failover"
	StepKeep     = "keep what was written"
	StepPutAway  = "put the failover away"
	StepStandBy  = "keep a warm standby again"
	keptSnapshot = "dr-kept-"
)

// Volumes are those of both sides; *cluster.Storage is one.
type Volumes interface {
	// Made returns the volumes that a run made on a node, by what they were made
	// from.
	Made(ctx context.Context, node, run string) (map[string]string, error)
	// Lineage looks at what became of a dataset since a snapshot.
	Lineage(ctx context.Context, node, dataset string, guid uint64, origin string) (cluster.Lineage, error)
	// Keep takes a snapshot of a dataset. Idempotent.
	Keep(ctx context.Context, node, dataset, name, run string) error
	// Locate returns the dataset of a PersistentVolume; false for one that is on no
	// host with an agent.
	Locate(ctx context.Context, c client.Client, pv *unstructured.Unstructured) (zfssnap.VolumeID, bool, error)
}

// Rollback undoes a failover that no reprotection has committed: the source goes on
// where it stopped. Its Target is the source, and its Source the recovery site, which
// stops before anything starts.
type Rollback struct {
	*Failover
	// Move is the failover.
	Move    *plan.RecoveryRun
	Volumes Volumes
	// Left is the source as the failover has left it.
	Left *Source
	Now  func() time.Time
}

// Steps returns all steps in order.
func (r *Rollback) Steps() []run.Step { return append(r.before(), r.after()...) }

// Execute runs the rollback to its end, or goes on with one begun earlier. The error is
// a *StoppedError when it can go on. One that does not come to starting the source gives
// the recovery site back what it had, and is over.
func (r *Rollback) Execute(ctx context.Context, j *run.Journal) error {
	return r.execute(ctx, j, r.before(), r.after(), r.Source.rollBack)
}

// before is what can be taken back. Nothing runs anywhere when it is done.
func (r *Rollback) before() []run.Step {
	steps := []run.Step{{Name: StepCompare, About: "see that the source has what the failover left, and how much was written since", Do: func(ctx context.Context) (string, error) {
		err := r.Look(ctx)
		return r.amounts(), err
	}}}
	if r.Move.Status.Phase != plan.PhasePassed {
		steps = append(steps, run.Step{Name: StepEnd, About: fmt.Sprintf("end %s %s, which has stopped on the way", r.Move.Spec.Kind.Words(), r.Move.Name), Do: r.end})
	}
	steps = append(steps, r.Source.GitOps()...)
	return append(steps, r.Source.Stop(), run.Step{
		Name: StepKeep, About: fmt.Sprintf("take snapshot @%s of every volume at the recovery site that was written to", r.keptAs()), Do: r.keep,
	})
}

func (r *Rollback) after() []run.Step {
	steps := append(r.start(), r.Probes()...)
	steps = append(append(steps, r.traffic()...), r.resume(), run.Step{
		Name: StepPutAway, About: "remove at the recovery site what the failover restored; its volumes are kept (Retain)", Do: r.putAway,
	})
	if r.Move.Spec.Standby != "" && r.Run.Spec.PlanSpec.Profiles.Standby != "" {
		steps = append(steps, run.Step{Name: StepStandBy, About: "make the warm standby at the recovery site what backup " + r.Move.Spec.Backup + " has, with nothing running", Do: r.standBy})
	}
	return steps
}

// start is that of a failover, and ends with what the source has left to start.
func (r *Rollback) start() []run.Step {
	steps := r.Start(true)
	rest := &steps[len(steps)-1]
	do := rest.Do
	rest.Do = func(ctx context.Context) (string, error) {
		message, err := do(ctx)
		if err != nil {
			return "", err
		}
		// Kinds that only the profile of the failover knows.
		more, err := r.Left.StartAgain(ctx)
		if len(more) > 0 {
			message += "; " + strings.Join(more, ", ") + " started"
		}
		return message, errors.Join(err, r.Left.Forget(ctx))
	}
	return steps
}

func (r *Rollback) keptAs() string { return keptSnapshot + r.Run.Name }

// Look compares both sides of every volume, and writes into the run what it finds. It
// refuses a source that has not any more what the failover left there.
func (r *Rollback) Look(ctx context.Context) error {
	missing, err := r.MissingWorkloads(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, workload := range missing {
		errs = append(errs, errors.New(workload+" is not there any more"))
	}
	made := map[string]map[string]string{}
	var volumes []plan.Volume
	for _, v := range r.Move.Status.Volumes {
		found, changed, err := r.left(ctx, v)
		switch {
		case err != nil:
			return fmt.Errorf("volume %s/%s: %w", v.Namespace, v.Claim, err)
		case changed != "":
			errs = append(errs, fmt.Errorf("volume %s/%s: %s", v.Namespace, v.Claim, changed))
			continue
		}
		if err := r.written(ctx, v, &found, made); err != nil {
			return fmt.Errorf("volume %s/%s: %w", v.Namespace, v.Claim, err)
		}
		volumes = append(volumes, found)
	}
	if len(errs) > 0 {
		return hint.Add(fmt.Errorf("the source is not what %s left: %w", r.Move.Name, errors.Join(errs...)),
			"put back what is missing there, or commit the failover with kubectl dr reprotect "+r.Run.Spec.Plan)
	}
	r.Run.Status.Volumes = volumes
	return nil
}

// left looks at a volume that the failover left at the source, and says what is not as
// it was; "" for one with which the application can go on. What was written to it since
// is the source's own, and no reason not to.
func (r *Rollback) left(ctx context.Context, v plan.Volume) (found plan.Volume, changed string, err error) {
	found = plan.Volume{Namespace: v.Namespace, Claim: v.Claim, SnapshotAt: v.SnapshotAt, Method: v.Method, Unprotected: v.Unprotected}
	pv, changed, err := r.claimed(ctx, v)
	id, unknown := zfssnap.ParseSnapshotID(v.SnapshotID)
	if changed != "" || err != nil || unknown != nil {
		return found, changed, err
	}
	was := zfssnap.VolumeID{Node: id.Node, Dataset: id.Dataset}
	found.Left = was.Node + ":" + was.Dataset
	on, ours, err := r.Volumes.Locate(ctx, r.Cluster.Client, pv)
	if err != nil {
		return found, "", err
	}
	if ours && on.String() != was.String() {
		return found, fmt.Sprintf("its claim is bound to %s:%s, and was to %s", on.Node, on.Dataset, found.Left), nil
	}
	there, err := r.Volumes.Lineage(ctx, was.Node, was.Dataset, id.GUID, "")
	switch {
	case err != nil:
		return found, "", err
	case !there.Exists:
		return found, found.Left + " is not there any more", nil
	case !there.Knows:
		return found, fmt.Sprintf("%s has not got snapshot %s any more, so it can not be told from another", found.Left, id.Snapshot), nil
	}
	found.Diverged = ptr.To(int64(there.Written))
	return found, "", nil
}

// claimed returns the PersistentVolume that a volume's claim has at the source, or says
// why there is none.
func (r *Rollback) claimed(ctx context.Context, v plan.Volume) (*unstructured.Unstructured, string, error) {
	claim := &corev1api.PersistentVolumeClaim{}
	key := client.ObjectKey{Namespace: v.Namespace, Name: v.Claim}
	err := r.Cluster.Client.Get(ctx, key, claim)
	switch {
	case apierrors.IsNotFound(err) || err == nil && claim.DeletionTimestamp != nil:
		return nil, "its claim is not there any more", nil
	case err != nil:
		return nil, "", fmt.Errorf("get claim %s: %w", key, err)
	}
	pv := &corev1api.PersistentVolume{}
	err = r.Cluster.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv)
	switch {
	case apierrors.IsNotFound(err) || claim.Spec.VolumeName == "" || err == nil && pv.DeletionTimestamp != nil:
		return nil, "its claim is bound to no volume any more", nil
	case err != nil:
		return nil, "", fmt.Errorf("get PersistentVolume %s: %w", claim.Spec.VolumeName, err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pv)
	return &unstructured.Unstructured{Object: content}, "", err
}

// written looks at how much was written to the volume that the failover made. One that
// was removed by hand keeps nobody from going back.
func (r *Rollback) written(ctx context.Context, v plan.Volume, found *plan.Volume, made map[string]map[string]string) error {
	id, err := zfssnap.ParseSnapshotID(v.SnapshotID)
	if err != nil || v.Snapshot == "" {
		return nil // Velero keeps it by another method, or it came from an archive
	}
	if made[v.Node] == nil {
		if made[v.Node], err = r.Volumes.Made(ctx, v.Node, r.Move.Name); err != nil {
			return err
		}
	}
	dataset := made[v.Node][v.Snapshot]
	if dataset == "" {
		found.Changed = ptr.To[int64](0)
		return nil
	}
	here, err := r.Volumes.Lineage(ctx, v.Node, dataset, id.GUID, v.Snapshot)
	if err != nil {
		return err
	}
	found.Runs, found.Changed = v.Node+":"+dataset, ptr.To(int64(here.Written))
	if here.Written > 0 {
		found.Kept = found.Runs + "@" + r.keptAs()
	}
	return nil
}

// Summary says what Look found, and what becomes of it.
func (r *Rollback) Summary() string {
	return r.amounts() + "\nThe source goes on without what was written at the recovery site, which is kept there."
}

func (r *Rollback) amounts() string {
	var written, there int64
	unknown := 0
	for _, v := range r.Run.Status.Volumes {
		written += ptr.Deref(v.Changed, 0)
		there += ptr.Deref(v.Diverged, 0)
		if v.Changed == nil {
			unknown++
		}
	}
	s := fmt.Sprintf("written since the failover: about %s at the recovery site, %s at the source", report.Bytes(written), report.Bytes(there))
	if unknown > 0 {
		s += fmt.Sprintf("; not known of %s", report.Count(unknown, "volume"))
	}
	return s
}

// end ends a failover that is in progress, so that nobody goes on with it.
func (r *Rollback) end(ctx context.Context) (string, error) {
	if !r.Move.InProgress() {
		return "it was " + strings.ToLower(string(r.Move.Status.Phase)), nil
	}
	j := &run.Journal{Run: r.Move, Client: r.Source.Cluster.Client, Now: r.Now}
	return "ended", j.Finish(ctx, plan.PhaseAborted, "rolled back by "+r.Run.Name)
}

// keep looks again, because nothing writes any more, and keeps what was written.
func (r *Rollback) keep(ctx context.Context) (string, error) {
	if err := r.Look(ctx); err != nil {
		return "", err
	}
	var kept []string
	for _, v := range r.Run.Status.Volumes {
		if v.Kept == "" {
			continue
		}
		node, dataset, _ := strings.Cut(v.Runs, ":")
		if err := r.Volumes.Keep(ctx, node, dataset, r.keptAs(), r.Run.Name); err != nil {
			return "", err
		}
		kept = append(kept, v.Kept)
	}
	if len(kept) == 0 {
		return "nothing was written", nil
	}
	return strings.Join(kept, ", "), nil
}

// putAway removes what the failover restored. Before it there was no claim, and most
// often no namespace. One that was there stays, and so does the stopped application in
// it, which the next failover sets aside.
func (r *Rollback) putAway(ctx context.Context) (string, error) {
	c := r.Source.Cluster.Client
	var kept, stays []string
	for _, name := range r.Namespaces() {
		ns := &corev1api.Namespace{}
		err := c.Get(ctx, client.ObjectKey{Name: name}, ns)
		if apierrors.IsNotFound(err) {
			continue
		}
		ours := false
		if err == nil {
			ours, err = r.ours(ctx, ns)
		}
		var volumes []string
		switch {
		case err != nil:
			return "", fmt.Errorf("see who made namespace %s: %w", name, err)
		case ours:
			volumes, err = clearNamespace(ctx, c, name, r.Source.awaitStopped, r.Interval, r.RollBackTimeout)
		case r.Move.Spec.Warm():
			if volumes, err = retain(ctx, c, name); err == nil {
				err = cluster.DeleteClaims(ctx, c, name, r.Interval, r.RollBackTimeout)
			}
		default:
			stays = append(stays, name)
		}
		if err != nil {
			return "", err
		}
		kept = append(kept, volumes...)
	}
	message := "there is no volume of it"
	if len(kept) > 0 {
		slices.Sort(kept)
		message = "kept volumes " + strings.Join(kept, ", ")
	}
	if len(stays) > 0 {
		message += fmt.Sprintf("; namespace %s was there before the failover, and stays", strings.Join(stays, ", "))
	}
	return message, nil
}

// ours reports whether a namespace holds nothing but what the failover has made: Velero
// has made it, or there was a standby, which was deleted for a whole restore.
func (r *Rollback) ours(ctx context.Context, ns *corev1api.Namespace) (bool, error) {
	if r.Move.Spec.Standby == plan.StandbyRemove {
		return true, nil
	}
	restore := &velerov1api.Restore{}
	err := r.Source.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: r.Source.Cluster.Namespace, Name: r.Move.Name}, restore)
	return err == nil && !ns.CreationTimestamp.Before(&restore.CreationTimestamp), client.IgnoreNotFound(err)
}

// standBy brings the warm standby back to rest.
func (r *Rollback) standBy(ctx context.Context) (string, error) {
	c := r.Source.Cluster
	backup := &velerov1api.Backup{}
	key := client.ObjectKey{Namespace: c.Namespace, Name: r.Move.Spec.Backup}
	if err := c.Client.Get(ctx, key, backup); err != nil {
		return "", fmt.Errorf("get backup %s: %w", key, err)
	}
	synced, message, err := r.syncStandby(ctx, c, backup.Name, r.Run.Spec.PlanSpec.Profiles.Standby)
	if err != nil {
		return "", err
	}
	synced.Backup, synced.BackupAt = backup.Name, ptr.Deref(backup.Status.StartTimestamp, metav1.Time{})
	return message, errors.Join(r.Standby.Note(ctx, synced), r.Source.Forget(ctx))
}
