package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// StepSelect is the name of the step that Select returns.
const StepSelect = "select restore point"

// Select makes sure that every volume of the run's backup has a copy, and
// writes into the journal where.
func (t *Target) Select(finder *restorepoint.Finder) Step {
	return Step{
		Name:  StepSelect,
		About: fmt.Sprintf("see that every volume of backup %s has a copy here", t.Run.Spec.Backup),
		Do: func(ctx context.Context) (string, error) {
			p, err := finder.Named(ctx, t.Run.Spec.PlanSpec.Source.For(t.Run.Spec.Kind), t.Run.Spec.Backup)
			if err != nil {
				return "", err
			}
			if err := errors.Join(t.admit(ctx, p), t.unoccupied(ctx, p)); err != nil {
				return "", err
			}
			t.Run.Status.Volumes = p.Volumes
			at := metav1.NewTime(p.RestoresTo(t.Run.Status.StartedAt.Time)).Rfc3339Copy()
			t.Run.Status.RestoredTo = &at
			for _, v := range p.Unprotected() {
				t.Hooks.Warnf("volume %s/%s comes back empty: the backup does not hold its data", v.Namespace, v.Claim)
			}
			if p.Mirrored() {
				return fmt.Sprintf("objects of backup %s, %s as last written: the pools are mirrored at both sites", p.Backup, report.Count(len(p.Volumes), "volume")), nil
			}
			age := max(0, t.Run.Status.StartedAt.Sub(at.Time))
			return fmt.Sprintf("backup %s, %s, data as of %s (%s before the start)",
				p.Backup, report.Count(len(p.Volumes), "volume"), p.At().UTC().Format(time.RFC3339), report.Age(age)), nil
		},
	}
}

// admit refuses a point whose volumes would come back empty without anybody
// saying so: Velero restores files into a pod that it restores, and a profile that
// holds workloads back drops that pod.
func (t *Target) admit(ctx context.Context, p restorepoint.Point) error {
	files, moved := p.By(plan.MethodPodVolumeBackup), p.By(plan.MethodDataUpload)
	profile := t.profile()
	if len(files)+len(moved) == 0 || profile == "" {
		return nil
	}
	rewrites, err := t.Cluster.Profile(ctx, profile)
	if err != nil || rewrites.State != rules.StateStandby {
		return err
	}
	if len(files) == 0 {
		return t.consumed(ctx, rewrites, moved)
	}
	return hint.Add(fmt.Errorf("%s would come back empty: its files are restored into its pod, which profile %s drops", strings.Join(files, ", "), profile), StandbyHint)
}

// unoccupied refuses a backup while the cluster has volumes of the names that those
// in the backup have, for which Velero would wait in vain. To other namespaces it
// restores them under other names. Those of stretched pools it does not restore.
func (t *Target) unoccupied(ctx context.Context, p restorepoint.Point) error {
	if len(t.Run.Spec.NamespaceMapping) > 0 {
		return nil
	}
	volumes, err := t.Cluster.InPlace(ctx, t.Run.Spec.Backup)
	for _, v := range volumes {
		if slices.ContainsFunc(p.Volumes, func(of plan.Volume) bool { return of.StretchedPool != "" && of.Namespace+"/"+of.Claim == v.Claim }) {
			continue
		}
		if v.Going {
			return v
		}
		t.Hooks.Warnf("%s", v)
	}
	return err
}

// StandbyHint says what to do about a profile that drops pods.
const StandbyHint = "remove state: standby from the profile, so that Velero starts the pods, or back volumes up by snapshots whose data is moved"

// Lossless is Select for a run that promises to lose nothing.
func (t *Target) Lossless(finder *restorepoint.Finder) Step {
	selected := t.Select(finder)
	do := selected.Do
	selected.Do = func(ctx context.Context) (string, error) {
		message, err := do(ctx)
		if err != nil {
			return "", err
		}
		var errs []error
		for _, v := range t.Run.Status.Volumes {
			if v.Unprotected && v.Problem != "" {
				errs = append(errs, fmt.Errorf("volume %s/%s would come back empty: %s", v.Namespace, v.Claim, v.Problem))
			}
		}
		if len(errs) > 0 {
			return "", hint.Add(errors.Join(errs...), "back it up, or list it in spec.source.ignoreClaims of the plan if it may come back empty")
		}
		return message, nil
	}
	return selected
}
