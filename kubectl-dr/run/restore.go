package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/probe"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Target is where a run puts an application back.
type Target struct {
	Cluster *cluster.Cluster
	Run     *plan.RecoveryRun
	Prober  *probe.Prober
	Hooks   Hooks
	// Ask returns nil once somebody has answered yes to a prompt of that name.
	Ask func(ctx context.Context, name, prompt string) error
	// Interval is how often things that are waited for are looked at.
	Interval time.Duration
	// RestoreTimeout bounds Velero's restore.
	RestoreTimeout time.Duration
}

// Namespace returns where a source namespace is restored to.
func (t *Target) Namespace(source string) string {
	if to, ok := t.Run.Spec.NamespaceMapping[source]; ok {
		return to
	}
	return source
}

// Namespaces returns where the plan's namespaces are restored to.
func (t *Target) Namespaces() []string {
	var all []string
	for _, ns := range t.Run.Spec.PlanSpec.Source.Namespaces {
		all = append(all, t.Namespace(ns))
	}
	return all
}

// StepRestore is the name of the step that Restore returns.
const StepRestore = "restore"

// Restore has Velero restore the run's backup, without the given resources.
func (t *Target) Restore(excluded ...string) Step {
	return t.restoring("have Velero restore "+strings.Join(t.Namespaces(), ", "), nil, excluded)
}

// RestoreVolumes is Restore of the given resources alone: those of volumes.
func (t *Target) RestoreVolumes(included ...string) Step {
	return t.restoring("have Velero restore the volumes of "+strings.Join(t.Namespaces(), ", "), included, nil)
}

func (t *Target) restoring(about string, included, excluded []string) Step {
	about += " from backup " + t.Run.Spec.Backup
	if profile := t.profile(); profile != "" {
		about += ", rewritten by profile " + profile
	}
	return Step{Name: StepRestore, About: about, Do: func(ctx context.Context) (string, error) {
		items, warned, err := t.restore(ctx, "", included, excluded)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d objects from backup %s%s", items, t.Run.Spec.Backup, warned), nil
	}}
}

// RestoreOnly has Velero restore the objects that a ConfigMap lists, of whatever
// scope, without the given resources: see rules.Selection. It returns what is to be
// said of warnings.
func (t *Target) RestoreOnly(ctx context.Context, configMap string, excluded ...string) (string, error) {
	_, warned, err := t.restore(ctx, configMap, nil, excluded)
	return warned, err
}

func (t *Target) profile() string { return t.Run.Spec.PlanSpec.Profile(t.Run.Spec.Kind) }

func (t *Target) restore(ctx context.Context, only string, included, excluded []string) (items int, warned string, err error) {
	r := &velerov1api.Restore{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.Cluster.Namespace,
			Name:      t.Run.Name,
			Labels:    map[string]string{zfssnap.LabelRun: t.Run.Name, zfssnap.LabelPlan: t.Run.Spec.Plan},
		},
		Spec: velerov1api.RestoreSpec{
			BackupName:         t.Run.Spec.Backup,
			IncludedNamespaces: t.Run.Spec.PlanSpec.Source.Namespaces,
			IncludedResources:  included,
			ExcludedResources:  excluded,
			NamespaceMapping:   t.Run.Spec.NamespaceMapping,
			RestorePVs:         ptr.To(true),
		},
	}
	if profile := t.profile(); profile != "" {
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, zfssnap.AnnotationProfile, profile)
	}
	if t.Run.Spec.Kind == plan.RunDrill {
		// A rehearsal takes no room from the copies: it must not fail because the pool
		// could not hold every volume in full once more.
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, zfssnap.AnnotationThin, "true")
	}
	if only != "" {
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, zfssnap.AnnotationOnly, only)
		r.Spec.IncludeClusterResources = ptr.To(true)
	}
	err = t.Cluster.Client.Create(ctx, r)
	switch {
	case apierrors.IsAlreadyExists(err):
		// A run that goes on waits for the restore it began.
		if err := t.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return 0, "", fmt.Errorf("get restore %q: %w", r.Name, err)
		}
		if r.Labels[zfssnap.LabelRun] != t.Run.Name || r.Spec.BackupName != t.Run.Spec.Backup {
			return 0, "", fmt.Errorf("create restore %q: one of that name exists and is not of this run", r.Name)
		}
	case err != nil:
		return 0, "", fmt.Errorf("create restore %q: %w", r.Name, err)
	}
	if err := t.awaitRestore(ctx, r); err != nil {
		return 0, "", err
	}
	if r.Status.Phase != velerov1api.RestorePhaseCompleted {
		return 0, "", t.restoreError(ctx, r)
	}
	if r.Status.Progress != nil {
		items = r.Status.Progress.ItemsRestored
	}
	if r.Status.Warnings > 0 {
		warned = ", " + report.Count(r.Status.Warnings, "warning")
		for _, w := range t.results(ctx, r.Name, "warnings") {
			t.Hooks.Warnf("restore: %s", w)
		}
	}
	return items, warned, nil
}

func (t *Target) awaitRestore(ctx context.Context, r *velerov1api.Restore) error {
	seen := r.Status.Phase
	err := cluster.Poll(ctx, t.Interval, t.RestoreTimeout, func(ctx context.Context) (bool, error) {
		if err := t.Cluster.Client.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return false, ignoreTransient(err)
		}
		if r.Status.Phase != seen {
			seen = r.Status.Phase
			t.Hooks.Progressf("restore %s is %s", r.Name, seen)
		}
		return cluster.Over(r.Status.Phase), nil
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		phase := r.Status.Phase
		if phase == "" {
			phase = velerov1api.RestorePhaseNew
		}
		return hint.Add(fmt.Errorf("wait for restore %q: still %s after %s", r.Name, phase, t.RestoreTimeout),
			"check that the Velero server of the recovery cluster runs, and its log; --restore-timeout waits longer")
	case err != nil:
		return fmt.Errorf("wait for restore %q: %w", r.Name, err)
	}
	return nil
}

// ignoreTransient lets waiting go on over errors that pass.
func ignoreTransient(err error) error {
	if retryable(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) {
		return nil
	}
	return err
}

func (t *Target) restoreError(ctx context.Context, r *velerov1api.Restore) error {
	var why []string
	why = append(why, r.Status.ValidationErrors...)
	if r.Status.FailureReason != "" {
		why = append(why, r.Status.FailureReason)
	}
	if r.Status.Errors > 0 {
		why = append(why, fmt.Sprintf("%d errors", r.Status.Errors))
		why = append(why, t.results(ctx, r.Name, "errors")...)
	}
	if failed := r.Status.RestoreItemOperationsFailed; failed > 0 {
		why = append(why, fmt.Sprintf("%d asynchronous operations failed", failed))
	}
	return hint.Add(fmt.Errorf("restore %q is %s: %s", r.Name, r.Status.Phase, strings.Join(why, "; ")),
		fmt.Sprintf("velero restore logs %s -n %s (before it is cleaned up) says more", r.Name, r.Namespace))
}

// result is the shape of Velero's file of warnings and errors.
type result struct {
	Velero     []string            `json:"velero"`
	Cluster    []string            `json:"cluster"`
	Namespaces map[string][]string `json:"namespaces"`
}

const maxResults = 5

// results returns the first warnings or errors of a restore, or why they can't
// be read.
func (t *Target) results(ctx context.Context, restore, which string) []string {
	all, err := cluster.ReadJSON[map[string]result](ctx, t.Cluster.Files, velerov1api.DownloadTargetKindRestoreResults, restore)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return []string{err.Error()}
	}
	r := all[which]
	lines := append(slices.Clone(r.Velero), r.Cluster...)
	for _, ns := range slices.Sorted(maps.Keys(r.Namespaces)) {
		for _, line := range r.Namespaces[ns] {
			lines = append(lines, ns+": "+line)
		}
	}
	if more := len(lines) - maxResults; more > 0 {
		lines = append(lines[:maxResults], fmt.Sprintf("and %d more", more))
	}
	return lines
}
