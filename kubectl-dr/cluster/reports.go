package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// ReportTimeout bounds asking agents about reports. A run is over when its report is
// kept, and an agent at a site that is gone does not answer.
const ReportTimeout = 10 * time.Second

// KeepReport has agents keep the report of a run, side by side: in the archive that
// their location names, or else in all that they have. It returns what those said
// that could be asked.
func (s *Storage) KeepReport(ctx context.Context, nodes []string, req *agentpb.KeepReportRequest, now func() time.Time) ([]Reply[*agentpb.KeepReportResponse], error) {
	return askAgents(ctx, s, nodes, ReportTimeout, now, func(ctx context.Context, l Location, a Agent) (*agentpb.KeepReportResponse, error) {
		return a.KeepReport(ctx, &agentpb.KeepReportRequest{
			Archive: l.Archive, Plan: req.GetPlan(), Run: req.GetRun(), AtUnixMs: req.GetAtUnixMs(), Content: req.GetContent(),
		})
	})
}

// Reports asks agents which reports of a plan, or with "" of all, their archives
// have.
func (s *Storage) Reports(ctx context.Context, nodes []string, plan string, now func() time.Time) ([]Reply[*agentpb.ListReportsResponse], error) {
	return askAgents(ctx, s, nodes, agentTimeout, now, func(ctx context.Context, l Location, a Agent) (*agentpb.ListReportsResponse, error) {
		return a.ListReports(ctx, &agentpb.ListReportsRequest{Archive: l.Archive, Plan: plan})
	})
}

// Report reads a report that the agent on a node has listed.
func (s *Storage) Report(ctx context.Context, node string, r *agentpb.Report) ([]byte, error) {
	l, err := s.location(node)
	if err != nil {
		return nil, err
	}
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.GetReportResponse, error) {
		return a.GetReport(ctx, &agentpb.GetReportRequest{Report: r})
	})
	return resp.GetContent(), err
}

// RecoveryNodes returns the nodes that volumes are recovered on.
func (s *Storage) RecoveryNodes() []string {
	var nodes []string
	for node := range s.restoreNodes() {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	return nodes
}

// HasNoArchive reports whether an error says that a node keeps no reports: its agent
// is not known, has no archive, or is of an earlier version.
func HasNoArchive(err error) bool {
	var unknown *zfssnap.NoAgentError
	return errors.As(err, &unknown) || errors.Is(err, agent.ErrNoArchive) || status.Code(err) == codes.Unimplemented
}
