package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Keeper keeps the report of a run where it outlives the cluster that the run is in:
// in the archives of agents, and in the cluster of the other site. What it can't do
// it warns of; no run fails for it.
type Keeper struct {
	// Storage leads to the agents; nil for none.
	Storage *cluster.Storage
	// Other opens the other site's cluster; nil when that is not known.
	Other func() (*cluster.Cluster, error)
	Now   func() time.Time
	Hooks Hooks
}

// Keep keeps a run's report as the run is now, also after ctx was cancelled.
func (k *Keeper) Keep(ctx context.Context, r *plan.RecoveryRun) {
	ctx = context.WithoutCancel(ctx)
	if k.Storage != nil && len(k.Storage.Locations) > 0 {
		k.archive(ctx, r)
	}
	if k.Other == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cluster.ReportTimeout)
	defer cancel()
	switch err := k.copy(ctx, r); {
	case errors.Is(err, cluster.ErrNoDefinitions):
		k.Hooks.Progressf("no copy of the report is at the other site: %s there", err)
	case err != nil:
		k.Hooks.Warnf("no copy of run %s is at the other site: %s", r.Name, err)
	}
}

// nodes are those whose agents keep the report of a run; nil for all that are known.
// After a disaster the source counts for nothing, and is not waited for.
func (k *Keeper) nodes(r *plan.RecoveryRun) []string {
	if r.Spec.Kind == plan.RunFailover {
		return k.Storage.RecoveryNodes()
	}
	return nil
}

func (k *Keeper) archive(ctx context.Context, r *plan.RecoveryRun) {
	content, err := json.Marshal(document(r))
	if err != nil {
		k.Hooks.Warnf("no archive keeps the report of run %s: %s", r.Name, err)
		return
	}
	req := &agentpb.KeepReportRequest{Plan: r.Spec.Plan, Run: r.Name, AtUnixMs: k.Now().UnixMilli(), Content: content}
	replies, err := k.Storage.KeepReport(ctx, k.nodes(r), req, k.Now)
	var kept []string
	for _, reply := range replies {
		for _, name := range reply.Said.GetArchives() {
			kept = append(kept, name+" of "+reply.Node)
		}
		if reply.Err != nil && !k.away(reply) {
			err = errors.Join(err, reply.Err)
		}
	}
	if err == nil && len(kept) == 0 {
		err = k.promised(replies)
	}
	if len(kept) > 0 {
		k.Hooks.Progressf("the report is kept in archive %s", strings.Join(kept, ", "))
	}
	if err != nil {
		k.Hooks.Warnf("an archive does not keep the report of run %s: %s", r.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// away reports whether an agent has nothing to keep reports in, or is not there. One
// at the recovery site that takes too long has an archive that does not answer.
func (k *Keeper) away(reply cluster.Reply[*agentpb.KeepReportResponse]) bool {
	if errors.Is(reply.Err, context.DeadlineExceeded) {
		return !slices.Contains(k.Storage.RecoveryNodes(), reply.Node)
	}
	return cluster.HasNoArchive(reply.Err) || errors.Is(reply.Err, agent.ErrUnreachable)
}

// promised returns why nobody keeps a report though a location names an archive.
func (k *Keeper) promised(replies []cluster.Reply[*agentpb.KeepReportResponse]) error {
	if !slices.ContainsFunc(k.Storage.Locations, func(l cluster.Location) bool { return l.Archive != "" }) {
		return nil
	}
	var errs []error
	for _, reply := range replies {
		errs = append(errs, reply.Err)
	}
	return errors.Join(errs...)
}

// document is what a run is outside its cluster.
func document(r *plan.RecoveryRun) *plan.RecoveryRun {
	d := r.DeepCopy()
	d.APIVersion, d.Kind = plan.GroupVersion.String(), "RecoveryRun"
	d.ResourceVersion, d.ManagedFields = "", nil
	return d
}

// copy makes the cluster of the other site have the run, marked as a copy: nothing
// there goes on with it or takes it for a move.
func (k *Keeper) copy(ctx context.Context, r *plan.RecoveryRun) error {
	other, err := k.Other()
	if err != nil {
		return err
	}
	c := &plan.RecoveryRun{ObjectMeta: metav1.ObjectMeta{Name: r.Name, Namespace: other.Namespace, Labels: map[string]string{
		zfssnap.LabelPlan: r.Spec.Plan, zfssnap.LabelCopy: "true",
	}}, Spec: *r.Spec.DeepCopy()}
	err = other.Client.Create(ctx, c)
	if apierrors.IsAlreadyExists(err) {
		err = other.Client.Get(ctx, client.ObjectKeyFromObject(c), c)
		if err == nil && !isCopy(c) {
			return fmt.Errorf("run %s in namespace %s of context %q is not a copy", c.Name, c.Namespace, other.Context)
		}
	}
	if err != nil {
		return err
	}
	c.Status = *r.Status.DeepCopy()
	return other.Client.Status().Update(ctx, c)
}

func isCopy(r *plan.RecoveryRun) bool { return r.Labels[zfssnap.LabelCopy] == "true" }

// Archived returns the runs of a plan, of all plans when it is "", that the archives
// of agents have reports of, newest first, each as it was last. What can't be had is
// warned of; it is an error when no agent has an archive.
func Archived(ctx context.Context, s *cluster.Storage, planName string, now func() time.Time, hooks Hooks) ([]plan.RecoveryRun, error) {
	replies, err := s.Reports(ctx, nil, planName, now)
	if err != nil {
		return nil, fmt.Errorf("list reports in archives: %w", err)
	}
	byRun := map[string][]archivedAt{}
	var errs []error
	answered := false
	for _, reply := range replies {
		if reply.Err != nil {
			errs = append(errs, reply.Err)
			continue
		}
		answered = true
		for _, r := range reply.Said.GetReports() {
			id := r.GetPlan() + "/" + r.GetRun()
			byRun[id] = append(byRun[id], archivedAt{reply.Node, r})
		}
	}
	if !answered {
		err := fmt.Errorf("list reports in archives: %w", errors.Join(errs...))
		var known interface{ Hint() string }
		if !errors.As(err, &known) {
			err = hint.Add(err, "an agent that has an archive has to answer: docs/archive.md")
		}
		return nil, err
	}
	for _, err := range errs {
		if !cluster.HasNoArchive(err) {
			hooks.Warnf("reports may be missing: %s", err)
		}
	}
	ids := slices.Sorted(maps.Keys(byRun))
	read, failed := make([]*plan.RecoveryRun, len(ids)), make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(reportsAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			read[i], failed[i] = newestReport(ctx, s, byRun[id])
			return nil
		})
	}
	_ = group.Wait()
	var runs []plan.RecoveryRun
	for i, r := range read {
		if failed[i] != nil {
			hooks.Warnf("not all of run %s can be read: %s", ids[i], strings.ReplaceAll(failed[i].Error(), "\n", "; "))
		}
		if r != nil {
			runs = append(runs, *r)
		}
	}
	sortRuns(runs)
	return runs, ctx.Err()
}

// reportsAtOnce bounds how many reports are read side by side.
const reportsAtOnce = 8

// archivedAt is a report, and the node whose agent has it.
type archivedAt struct {
	node string
	*agentpb.Report
}

// newestReport returns the newest report of a run that can be read, nil for none, and
// why newer ones can't be.
func newestReport(ctx context.Context, s *cluster.Storage, places []archivedAt) (*plan.RecoveryRun, error) {
	slices.SortStableFunc(places, func(a, b archivedAt) int { return cmp.Compare(b.GetAtUnixMs(), a.GetAtUnixMs()) })
	failed := map[string]error{}
	for _, p := range places {
		r, err := readReport(ctx, s, p)
		if err == nil {
			// Another archive's is as good.
			delete(failed, p.GetSha256())
			return r, errors.Join(slices.Collect(maps.Values(failed))...)
		}
		failed[p.GetSha256()] = fmt.Errorf("as it was at %s: %w", time.UnixMilli(p.GetAtUnixMs()).UTC().Format(time.RFC3339), err)
	}
	return nil, errors.Join(slices.Collect(maps.Values(failed))...)
}

func readReport(ctx context.Context, s *cluster.Storage, from archivedAt) (*plan.RecoveryRun, error) {
	content, err := s.Report(ctx, from.node, from.Report)
	if err != nil {
		return nil, err
	}
	r := &plan.RecoveryRun{}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("decode it: %w", err)
	}
	if r.Kind != "RecoveryRun" || r.Name != from.GetRun() || r.Spec.Plan != from.GetPlan() {
		return nil, fmt.Errorf("it is of %s %q of plan %q", r.Kind, r.Name, r.Spec.Plan)
	}
	return r, nil
}
