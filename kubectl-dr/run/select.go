package run

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
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
			p, err := finder.Named(ctx, t.Run.Spec.PlanSpec.Source, t.Run.Spec.Backup)
			if err != nil {
				return "", err
			}
			t.Run.Status.Volumes = p.Volumes
			at := metav1.NewTime(p.At()).Rfc3339Copy()
			t.Run.Status.RestoredTo = &at
			for _, v := range p.Unprotected() {
				t.Hooks.Warnf("volume %s/%s comes back empty: the backup does not hold its data", v.Namespace, v.Claim)
			}
			age := max(0, t.Run.Status.StartedAt.Sub(at.Time))
			return fmt.Sprintf("backup %s, %s, data as of %s (%s before the start)",
				p.Backup, report.Count(len(p.Volumes), "volume"), p.At().UTC().Format(time.RFC3339), report.Age(age)), nil
		},
	}
}
