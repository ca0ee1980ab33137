package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
)

// StepGitOps begins the names of the steps that keep Argo CD and Flux from
// undoing a run.
const StepGitOps = "pause GitOps at "

// GitOps returns the step that keeps what is stopped next from being started
// again; none when the plan names no GitOps.
func (s *Source) GitOps() []run.Step {
	// A name that is wrong at the source would show as an application that is
	// started again while it is moved.
	return PauseGitOps(s.Cluster.Client, s.Run, s.Site, s.Site == SourceSite)
}

// PauseGitOps returns the step that pauses what the run's plan names at a site;
// none when it names nothing. What the site does not have is passed over, unless
// strict.
func PauseGitOps(c client.Client, r *plan.RecoveryRun, site string, strict bool) []run.Step {
	objects := gitops.Objects(r.Spec.PlanSpec.GitOps)
	if len(objects) == 0 {
		return nil
	}
	var names []string
	for _, o := range objects {
		names = append(names, o.String())
	}
	return []run.Step{{
		Name: StepGitOps + site, About: fmt.Sprintf("pause %s at %s, so that it undoes nothing", strings.Join(names, ", "), site),
		Do: func(ctx context.Context) (string, error) {
			var done []string
			for _, o := range slices.Backward(objects) {
				paused, err := gitops.Pause(ctx, c, o, r.Name)
				switch {
				case gitops.Missing(err) && !strict:
				case err != nil:
					return "", err
				case paused:
					done = append(done, o.String())
				}
			}
			if len(done) == 0 {
				return "nothing was to be paused", nil
			}
			message := "paused " + strings.Join(done, ", ")
			if site == RecoverySite {
				message += "; once Git says what runs here: kubectl dr gitops resume " + r.Spec.Plan
			}
			return message, nil
		},
	}}
}

// ResumeGitOps lets what was paused go on; by is as for gitops.Resume. It returns
// what it was.
func ResumeGitOps(ctx context.Context, c client.Client, spec plan.RecoveryPlanSpec, by string) ([]string, error) {
	objects, err := gitops.InOrder(ctx, c, gitops.Objects(spec.GitOps))
	if err != nil {
		return nil, err
	}
	var resumed []string
	var errs []error
	for _, o := range objects {
		did, err := gitops.Resume(ctx, c, o, by)
		errs = append(errs, err)
		if did {
			resumed = append(resumed, o.String())
		}
	}
	return resumed, errors.Join(errs...)
}
