package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

// reports says where reports of runs outlive the cluster. That they do not is a way
// to set things up: they can be had as files.
func (in *inspection) reports(ctx context.Context) {
	const name, alone = "kept", "in this cluster alone"
	if in.StorageErr != nil || !in.Storage.Used() {
		in.ok(name, alone)
		return
	}
	replies, err := in.Storage.Reports(ctx, in.Storage.RecoveryNodes(), in.plan.Name, in.Now)
	archives, runs := map[string]bool{}, map[string]bool{}
	for _, reply := range replies {
		if reply.Err != nil && !cluster.HasNoArchive(reply.Err) {
			err = errors.Join(err, reply.Err)
		}
		for _, archive := range reply.Said.GetArchives() {
			archives[archive+" of "+reply.Node] = true
		}
		for _, r := range reply.Said.GetReports() {
			runs[r.GetRun()] = true
		}
	}
	switch {
	case errors.Is(err, agent.ErrUnreachable):
		in.skip(name, "an agent does not answer")
	case err != nil:
		in.warn(name, "it is not known whether archives keep them: "+err.Error(), HintOr(err, "make the agents and their archives reachable"))
	case len(archives) == 0:
		in.ok(name, alone+": no agent here has an archive")
	default:
		in.ok(name, fmt.Sprintf("in this cluster, and %[2]s in archive %[1]s", strings.Join(slices.Sorted(maps.Keys(archives)), ", "), report.Count(len(runs), "run")))
	}
}
