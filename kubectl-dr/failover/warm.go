package failover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
)

// Names of the steps about a warm standby.
const (
	StepRefresh       = "bring the standby to the restore point"
	StepRemoveStandby = "remove the warm standby"
)

// refresh makes the warm standby what the restore point has, under the profile of the
// failover, so that only its volumes are missing. Nothing runs yet: also workloads that
// the profile would let start are held until their wave.
func (f *Failover) refresh() run.Step {
	about := fmt.Sprintf("make the warm standby in %s what backup %s has, and delete of it what that has not", strings.Join(f.Namespaces(), ", "), f.Run.Spec.Backup)
	profile := f.Run.Spec.PlanSpec.Profile(f.Run.Spec.Kind)
	if profile != "" {
		about += ", rewritten by profile " + profile
	}
	return run.Step{Name: StepRefresh, About: about, Do: func(ctx context.Context) (string, error) {
		_, message, err := f.syncStandby(ctx, f.Cluster, f.Run.Spec.Backup, profile)
		return message, err
	}}
}

// syncStandby makes the warm standby in a cluster what a backup has under a profile.
// Nothing is left over, and nothing starts.
func (f *Failover) syncStandby(ctx context.Context, c *cluster.Cluster, backup, profile string) (*report.Sync, string, error) {
	objects, err := standby.Objects(ctx, c.Files, backup)
	if err != nil {
		return nil, "", err
	}
	rewrites, err := c.Profile(ctx, profile)
	if err != nil {
		return nil, "", err
	}
	s := *f.Standby
	s.Prune, s.Hold = true, true
	r, err := s.Sync(ctx, objects, rewrites)
	if err != nil {
		return nil, "", err
	}
	message, err := f.refreshed(r)
	return r, message, err
}

// refreshed judges it. An object that somebody else made stays as it is, as it does
// when Velero restores.
func (f *Failover) refreshed(r *report.Sync) (string, error) {
	done := map[string]int{}
	var errs []error
	for _, o := range r.Objects {
		what := strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")
		switch {
		case o.Difference == report.Conflict:
			f.Hooks.Warnf("%s %s stays as it is: %s", strings.ToLower(o.Kind), what, o.Message)
		case o.Done == "":
			errs = append(errs, fmt.Errorf("%s %s: %s", strings.ToLower(o.Kind), what, o.Message))
		default:
			done[o.Done]++
		}
	}
	message := report.Count(r.Wanted, "object")
	for _, what := range []string{"created", "changed", "replaced", "deleted"} {
		if n := done[what]; n > 0 {
			message += fmt.Sprintf(", %d %s", n, what)
		}
	}
	return message, errors.Join(errs...)
}

// removeStandby makes room for a whole restore.
func (f *Failover) removeStandby() run.Step {
	return run.Step{
		Name:  StepRemoveStandby,
		About: fmt.Sprintf("delete what kubectl dr sync made in %s, so that everything is restored", strings.Join(f.Namespaces(), ", ")),
		Do: func(ctx context.Context) (string, error) {
			n, err := f.Standby.Remove(ctx)
			if err != nil {
				return "", err
			}
			return "deleted " + report.Count(n, "object"), nil
		},
	}
}
