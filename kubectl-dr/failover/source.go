package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/label"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Names of the steps at the side that the application leaves. Those that name it
// begin with these.
const (
	StepPause  = "pause the schedule"
	StepStop   = "stop "
	StepBackup = "final backup"
	StepArrive = "wait for the backup "
)

// The sites, as steps name them.
const (
	SourceSite   = "the source"
	RecoverySite = "the recovery site"
)

// stoppedBy marks what a planned failover stopped or paused, with the run's
// name, so that a rollback starts nothing else.
const stoppedBy = zfssnap.Domain + "/stopped-by"

// Source is the side that the application leaves in a planned failover or a
// failback, and Recovery the one that it goes to.
type Source struct {
	Cluster  *cluster.Cluster
	Recovery *cluster.Cluster
	// Site is what messages call it, and There where the application goes.
	Site, There string
	Run         *plan.RecoveryRun
	Hooks       run.Hooks
	Interval    time.Duration
	// StopTimeout, BackupTimeout and ArriveTimeout bound the steps.
	StopTimeout, BackupTimeout, ArriveTimeout time.Duration
}

func (s *Source) steps() []run.Step {
	steps := append([]run.Step{s.Pause()}, s.GitOps()...)
	return append(steps, s.Stop(), s.Backup(StepBackup), s.Arrive())
}

// Pause keeps the schedule from taking backups.
func (s *Source) Pause() run.Step {
	return run.Step{Name: StepPause, About: fmt.Sprintf("pause schedule %s at %s", s.Run.Spec.PlanSpec.Source.Schedule, s.Site), Do: s.pause}
}

// Stop stops every workload.
func (s *Source) Stop() run.Step {
	return run.Step{Name: StepStop + s.Site, Do: s.stop,
		About: fmt.Sprintf("stop every workload in %s at %s, remembering what it had", strings.Join(s.Run.Spec.PlanSpec.Source.Namespaces, ", "), s.Site)}
}

// Backup takes the run's backup in a step of the given name, and waits until it
// is Completed: its volumes' copies have arrived then.
func (s *Source) Backup(name string) run.Step {
	return run.Step{Name: name, Do: s.backup, About: fmt.Sprintf("take backup %s from schedule %s and wait until its copies are %s",
		s.Run.Spec.Backup, s.Run.Spec.PlanSpec.Source.Schedule, s.There)}
}

// Arrive waits until Velero of the other side knows the backup.
func (s *Source) Arrive() run.Step {
	return run.Step{Name: StepArrive + s.There, About: fmt.Sprintf("wait until Velero %s knows the backup", s.There), Do: s.arrive}
}

// Schedule returns the plan's schedule.
func (s *Source) Schedule(ctx context.Context) (*velerov1api.Schedule, error) {
	schedule := &velerov1api.Schedule{}
	key := client.ObjectKey{Namespace: s.Cluster.Namespace, Name: s.Run.Spec.PlanSpec.Source.Schedule}
	if err := s.Cluster.Client.Get(ctx, key, schedule); err != nil {
		return nil, fmt.Errorf("get schedule %s at %s: %w", key, s.Site, err)
	}
	return schedule, nil
}

// Schedules returns the Schedule of a plan's restore points, and those of its other
// classes of backups.
func Schedules(ctx context.Context, c *cluster.Cluster, planName, schedule string) ([]velerov1api.Schedule, error) {
	first := velerov1api.Schedule{}
	key := client.ObjectKey{Namespace: c.Namespace, Name: schedule}
	if err := c.Client.Get(ctx, key, &first); err != nil {
		return nil, fmt.Errorf("get schedule %s: %w", key, err)
	}
	list := &velerov1api.ScheduleList{}
	if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace), client.MatchingLabels{zfssnap.LabelPlan: planName}); err != nil {
		return nil, fmt.Errorf("list schedules of plan %s in namespace %s: %w", planName, c.Namespace, err)
	}
	others := slices.DeleteFunc(list.Items, func(s velerov1api.Schedule) bool { return s.Name == schedule })
	return append([]velerov1api.Schedule{first}, others...), nil
}

func (s *Source) schedules(ctx context.Context) ([]velerov1api.Schedule, error) {
	return Schedules(ctx, s.Cluster, s.Run.Spec.Plan, s.Run.Spec.PlanSpec.Source.Schedule)
}

func (s *Source) pause(ctx context.Context) (string, error) {
	schedules, err := s.schedules(ctx)
	if err != nil {
		return "", err
	}
	message := "it is paused"
	for i := range schedules {
		schedule := &schedules[i]
		if schedule.Spec.Paused {
			continue
		}
		before := schedule.DeepCopy()
		schedule.Spec.Paused = true
		metav1.SetMetaDataAnnotation(&schedule.ObjectMeta, stoppedBy, s.Run.Name)
		if err := s.Cluster.Client.Patch(ctx, schedule, client.MergeFrom(before)); err != nil {
			return "", fmt.Errorf("pause schedule %s: %w", schedule.Name, err)
		}
		message = "paused"
	}
	return message, nil
}

// profile is the one that rewrites what is restored: what it knows to hold back
// there is stopped here by the same fields. A rebuild restores where it stops.
func (s *Source) profile(ctx context.Context) (*rules.Profile, error) {
	to := s.Recovery
	if to == nil {
		to = s.Cluster
	}
	kind := s.Run.Spec.Kind
	if kind == plan.RunRollback {
		kind = plan.RunFailover // by which was made what is stopped
	}
	return to.Profile(ctx, s.Run.Spec.PlanSpec.Profile(kind))
}

func (s *Source) stop(ctx context.Context) (string, error) {
	profile, err := s.profile(ctx)
	if err != nil {
		return "", err
	}
	var stopped []string
	for _, ns := range s.Run.Spec.PlanSpec.Source.Namespaces {
		workloads, err := run.Workloads(ctx, s.Cluster.Client, ns, profile.Operated()...)
		if err != nil {
			return "", err
		}
		for _, obj := range workloads {
			done, err := s.stopOne(ctx, profile, obj)
			if err != nil {
				return "", err
			}
			if done {
				stopped = append(stopped, strings.ToLower(obj.GetKind())+"/"+obj.GetName())
			}
		}
	}
	if err := s.awaitStopped(ctx); err != nil {
		return "", err
	}
	if len(stopped) == 0 {
		return "nothing was running", nil
	}
	return strings.Join(stopped, ", "), nil
}

func (s *Source) stopOne(ctx context.Context, profile *rules.Profile, obj *unstructured.Unstructured) (bool, error) {
	what := fmt.Sprintf("%s %s/%s", strings.ToLower(obj.GetKind()), obj.GetNamespace(), obj.GetName())
	if obj.GetKind() == "Pod" {
		if phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase == "Succeeded" || phase == "Failed" {
			return false, nil
		}
		return false, fmt.Errorf("stop %s: no controller would start it again; stop it yourself", what)
	}
	if obj.GetKind() == "Job" && Finished(obj) || rules.OnStandby(obj) {
		return obj.GetAnnotations()[stoppedBy] == s.Run.Name, nil
	}
	held, err := profile.Standby(obj)
	if err != nil {
		return false, err
	}
	annotations := held.GetAnnotations()
	annotations[stoppedBy] = s.Run.Name
	held.SetAnnotations(annotations)
	if err := s.Cluster.Client.Patch(ctx, held, client.MergeFrom(obj)); err != nil {
		return false, fmt.Errorf("stop %s: %w", what, err)
	}
	return true, nil
}

// Finished reports whether a Job has ended.
func Finished(job *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(job.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return (m["type"] == "Complete" || m["type"] == "Failed") && m["status"] == "True"
	})
}

func (s *Source) awaitStopped(ctx context.Context) error {
	var running []string
	err := cluster.Poll(ctx, s.Interval, s.StopTimeout, func(ctx context.Context) (bool, error) {
		before := strings.Join(running, ", ")
		running = nil
		for _, ns := range s.Run.Spec.PlanSpec.Source.Namespaces {
			pods := &corev1api.PodList{}
			if err := s.Cluster.Client.List(ctx, pods, client.InNamespace(ns)); err != nil {
				return false, fmt.Errorf("list pods in namespace %s: %w", ns, err)
			}
			for _, p := range pods.Items {
				if p.Status.Phase != corev1api.PodSucceeded && p.Status.Phase != corev1api.PodFailed {
					running = append(running, ns+"/"+p.Name)
				}
			}
		}
		if now := strings.Join(running, ", "); now != "" && now != before {
			s.Hooks.Progressf("still running at %s: %s", s.Site, now)
		}
		return len(running) == 0, nil
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return fmt.Errorf("wait for %s to stop: after %s still running: %s", s.Site, s.StopTimeout, strings.Join(running, ", "))
	}
	return err
}

func (s *Source) backup(ctx context.Context) (string, error) {
	schedule, err := s.Schedule(ctx)
	if err != nil {
		return "", err
	}
	labels := maps.Clone(schedule.Spec.Template.Labels)
	if labels == nil {
		labels = maps.Clone(schedule.Labels)
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[velerov1api.ScheduleNameLabel] = schedule.Name
	labels[zfssnap.LabelRun] = s.Run.Name
	b := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Cluster.Namespace, Name: s.Run.Spec.Backup, Labels: labels},
		Spec:       schedule.Spec.Template,
	}
	if err := s.Cluster.Client.Create(ctx, b); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("create backup %s: %w", b.Name, err)
	}
	seen := velerov1api.BackupPhase("")
	err = cluster.Poll(ctx, s.Interval, s.BackupTimeout, func(ctx context.Context) (bool, error) {
		if err := s.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(b), b); err != nil {
			return false, err
		}
		if b.Status.Phase != seen {
			seen = b.Status.Phase
			s.Hooks.Progressf("backup %s is %s", b.Name, seen)
		}
		switch b.Status.Phase {
		case velerov1api.BackupPhaseCompleted:
			return true, nil
		case velerov1api.BackupPhaseFailed, velerov1api.BackupPhasePartiallyFailed, velerov1api.BackupPhaseFailedValidation, velerov1api.BackupPhaseDeleting:
			why := append(slices.Clone(b.Status.ValidationErrors), b.Status.FailureReason)
			return false, errors.New(strings.TrimSuffix(fmt.Sprintf("it is %s with %d errors: %s", b.Status.Phase, b.Status.Errors, strings.TrimSuffix(strings.Join(why, "; "), "; ")), ": "))
		}
		return false, nil
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		err = fmt.Errorf("still %s after %s", seen, s.BackupTimeout)
	}
	if err != nil {
		return "", fmt.Errorf("final backup %s: %w", b.Name, err)
	}
	return fmt.Sprintf("backup %s completed", b.Name), nil
}

func (s *Source) arrive(ctx context.Context) (string, error) {
	key := client.ObjectKey{Namespace: s.Recovery.Namespace, Name: s.Run.Spec.Backup}
	told := false
	err := cluster.Poll(ctx, s.Interval, s.ArriveTimeout, func(ctx context.Context) (bool, error) {
		b := &velerov1api.Backup{}
		err := s.Recovery.Client.Get(ctx, key, b)
		if apierrors.IsNotFound(err) {
			if !told {
				told = true
				s.tell(ctx)
			}
			return false, nil
		}
		return b.Status.Phase == velerov1api.BackupPhaseCompleted, err
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		return "", &UnsyncedError{Backup: key.Name, Site: s.other(), After: s.ArriveTimeout}
	case err != nil:
		return "", fmt.Errorf("wait for backup %s at %s: %w", key.Name, s.other(), err)
	}
	return "known " + s.There, nil
}

// tell gives the other side Velero's record of the backup. Velero there would make the
// same one when it next looks into object storage, up to a minute later, in which the
// application runs nowhere. Where that can't be, Velero is waited for.
func (s *Source) tell(ctx context.Context) {
	record, err := s.record(ctx)
	if err == nil {
		err = s.Recovery.Client.Create(ctx, record)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		s.Hooks.Progressf("Velero %s has to find the backup by itself: %s", s.There, err)
	}
}

// record is what Velero of the other side would make of the backup.
func (s *Source) record(ctx context.Context) (*velerov1api.Backup, error) {
	b := &velerov1api.Backup{}
	key := client.ObjectKey{Namespace: s.Cluster.Namespace, Name: s.Run.Spec.Backup}
	if err := s.Cluster.Client.Get(ctx, key, b); err != nil {
		return nil, fmt.Errorf("get backup %s at %s: %w", key, s.Site, err)
	}
	// One that is not over would be a backup to take, there.
	if b.Status.Phase != velerov1api.BackupPhaseCompleted {
		return nil, fmt.Errorf("backup %s is %s", b.Name, b.Status.Phase)
	}
	// Velero finds these with a backup alone that it does not know yet, and restores
	// no files without them.
	files := &velerov1api.PodVolumeBackupList{}
	if err := s.Cluster.Client.List(ctx, files, client.InNamespace(key.Namespace), client.MatchingLabels{velerov1api.BackupNameLabel: label.GetValidName(b.Name)}); err != nil {
		return nil, fmt.Errorf("list PodVolumeBackups of backup %s at %s: %w", key, s.Site, err)
	}
	if len(files.Items) > 0 || b.Status.CSIVolumeSnapshotsAttempted > 0 {
		return nil, fmt.Errorf("backup %s has more than ZFS snapshots", b.Name)
	}
	var storage [2]string
	for i, c := range []*cluster.Cluster{s.Cluster, s.Recovery} {
		location := &velerov1api.BackupStorageLocation{}
		key := client.ObjectKey{Namespace: c.Namespace, Name: b.Spec.StorageLocation}
		if err := c.Client.Get(ctx, key, location); err != nil {
			return nil, fmt.Errorf("get BackupStorageLocation %s: %w", key, err)
		}
		objects := ptr.Deref(location.Spec.ObjectStorage, velerov1api.ObjectStorageLocation{})
		storage[i] = fmt.Sprintf("%q %q %q %q", location.Spec.Provider, objects.Bucket, objects.Prefix, location.Spec.Config)
	}
	if storage[0] != storage[1] {
		return nil, fmt.Errorf("BackupStorageLocation %s is another storage in each cluster", b.Spec.StorageLocation)
	}
	record := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Recovery.Namespace, Name: b.Name, Labels: b.Labels, Annotations: b.Annotations},
		Spec:       b.Spec, Status: b.Status,
	}
	record.Spec.Hooks = velerov1api.BackupHooks{} // they have run
	return record, nil
}

// other names the side that the application goes to.
func (s *Source) other() string {
	if s.Site == SourceSite {
		return RecoverySite
	}
	return SourceSite
}

// rollBack gives the source back what this run took.
func (s *Source) rollBack(ctx context.Context) error {
	_, startErr := s.StartAgain(ctx)
	errs := []error{startErr}
	_, err := ResumeGitOps(ctx, s.Cluster.Client, s.Run.Spec.PlanSpec, s.Run.Name)
	return errors.Join(append(errs, s.resume(ctx), err)...)
}

func (s *Source) resume(ctx context.Context) error {
	schedules, err := s.schedules(ctx)
	if apierrors.IsNotFound(err) {
		return nil
	}
	errs := []error{err}
	for i := range schedules {
		if schedules[i].Annotations[stoppedBy] == s.Run.Name {
			errs = append(errs, Resume(ctx, s.Cluster.Client, &schedules[i]))
		}
	}
	return errors.Join(errs...)
}

// Resume lets a schedule that a run paused take backups again.
func Resume(ctx context.Context, c client.Client, schedule *velerov1api.Schedule) error {
	before := schedule.DeepCopy()
	schedule.Spec.Paused = false
	delete(schedule.Annotations, stoppedBy)
	if err := c.Patch(ctx, schedule, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("resume schedule %s: %w", schedule.Name, err)
	}
	return nil
}

// StartAgain starts what the run has stopped, whatever becomes of the rest, and
// returns what that was.
func (s *Source) StartAgain(ctx context.Context) ([]string, error) {
	var started []string
	profile, err := s.profile(ctx)
	errs := []error{err}
	for _, ns := range s.Run.Spec.PlanSpec.Source.Namespaces {
		held, err := run.Held(ctx, s.Cluster.Client, ns, profile.Operated()...)
		errs = append(errs, err)
		for _, obj := range held {
			if obj.GetAnnotations()[stoppedBy] != s.Run.Name {
				continue
			}
			if err := run.Activate(ctx, s.Cluster.Client, obj); err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, s.unmark(ctx, obj))
			started = append(started, strings.ToLower(obj.GetKind())+"/"+obj.GetName())
		}
	}
	return started, errors.Join(errs...)
}

// Forget takes the marks of the run from what it has stopped.
func (s *Source) Forget(ctx context.Context) error {
	profile, err := s.profile(ctx)
	if err != nil {
		return err
	}
	for _, ns := range s.Run.Spec.PlanSpec.Source.Namespaces {
		workloads, err := run.Workloads(ctx, s.Cluster.Client, ns, profile.Operated()...)
		if err != nil {
			return err
		}
		for _, obj := range workloads {
			if obj.GetAnnotations()[stoppedBy] != s.Run.Name {
				continue
			}
			if err := s.unmark(ctx, obj); err != nil {
				return fmt.Errorf("unmark %s %s/%s: %w", strings.ToLower(obj.GetKind()), ns, obj.GetName(), err)
			}
		}
	}
	return nil
}

func (s *Source) unmark(ctx context.Context, obj client.Object) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{stoppedBy: nil}}})
	if err != nil {
		return err
	}
	return s.Cluster.Client.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch))
}

// UnsyncedError says that Velero of the side that it is for does not know a backup.
type UnsyncedError struct {
	Backup string
	Site   string
	After  time.Duration
}

func (e *UnsyncedError) Error() string {
	return fmt.Sprintf("backup %s is not known at %s after %s", e.Backup, e.Site, e.After)
}

// Hint says what keeps backups from arriving.
func (e *UnsyncedError) Hint() string {
	return "Velero there reads the list of backups from object storage every spec.backupSyncPeriod of its BackupStorageLocation (a minute by default); is the location Available and the same bucket and prefix?"
}
