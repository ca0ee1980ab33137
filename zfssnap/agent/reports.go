package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// allowReport lets the peer keep and read the reports of a plan, or of any that it
// may; the prefixes of the verb are names of plans. Who asks an agent that has no
// archive learns just that.
func (s *Server) allowReport(ctx context.Context, plan string) error {
	if len(s.Archives) == 0 {
		return hint.Add(fmt.Errorf("%w: it has none", ErrNoArchive), fmt.Sprintf("start the agent of node %s with --archive=NAME=FILE", s.Node))
	}
	if plan == "" {
		_, err := s.roots(ctx, Report)
		return err
	}
	id, err := identity(ctx)
	if err != nil {
		return err
	}
	return s.Policy.allow(id, Report, plan)
}

// reportArchives returns the archive that is asked for, or all there are.
func (s *Server) reportArchives(name string) ([]string, error) {
	if name == "" {
		return slices.Sorted(maps.Keys(s.Archives)), nil
	}
	_, err := s.archive(name)
	return []string{name}, err
}

// KeepReport implements agentpb.AgentServer. What one archive can't keep, another
// still does.
func (s *Server) KeepReport(ctx context.Context, req *agentpb.KeepReportRequest) (*agentpb.KeepReportResponse, error) {
	if err := s.allowReport(ctx, req.GetPlan()); err != nil {
		return nil, err
	}
	archives, err := s.reportArchives(req.GetArchive())
	if err != nil {
		return nil, err
	}
	resp := &agentpb.KeepReportResponse{}
	var errs []error
	for _, name := range archives {
		if err := s.keepReport(ctx, name, req); err != nil {
			errs = append(errs, err)
			continue
		}
		resp.Archives = append(resp.Archives, name)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *Server) keepReport(ctx context.Context, name string, req *agentpb.KeepReportRequest) error {
	c, store, err := s.openArchive(name)
	if err != nil {
		return err
	}
	recipients, err := archive.ParseRecipients(c.Recipients)
	if err != nil {
		return archiveError(name, err)
	}
	r, err := store.KeepReport(ctx, req.GetPlan(), req.GetRun(), time.UnixMilli(req.GetAtUnixMs()), req.GetContent(), recipients)
	if err != nil {
		return archiveError(name, err)
	}
	s.Log.Info("report kept", "archive", name, "plan", r.Plan, "run", r.Run, "sha256", r.SHA256.String())
	return nil
}

// ListReports implements agentpb.AgentServer.
func (s *Server) ListReports(ctx context.Context, req *agentpb.ListReportsRequest) (*agentpb.ListReportsResponse, error) {
	if err := s.allowReport(ctx, req.GetPlan()); err != nil {
		return nil, err
	}
	archives, err := s.reportArchives(req.GetArchive())
	if err != nil {
		return nil, err
	}
	resp := &agentpb.ListReportsResponse{Archives: archives}
	for _, name := range archives {
		_, store, err := s.openArchive(name)
		if err != nil {
			return nil, err
		}
		reports, err := store.Reports(ctx, req.GetPlan())
		if err != nil {
			return nil, archiveError(name, err)
		}
		for _, r := range reports {
			if s.allowReport(ctx, r.Plan) == nil {
				resp.Reports = append(resp.Reports, &agentpb.Report{
					Archive: name, Plan: r.Plan, Run: r.Run, AtUnixMs: r.At.UnixMilli(), Sha256: r.SHA256.String(), Encrypted: r.Encrypted,
				})
			}
		}
	}
	return resp, nil
}

// GetReport implements agentpb.AgentServer.
func (s *Server) GetReport(ctx context.Context, req *agentpb.GetReportRequest) (*agentpb.GetReportResponse, error) {
	pb := req.GetReport()
	if err := s.allowReport(ctx, pb.GetPlan()); err != nil {
		return nil, err
	}
	r := archive.Report{Plan: pb.GetPlan(), Run: pb.GetRun(), At: time.UnixMilli(pb.GetAtUnixMs()), Encrypted: pb.GetEncrypted()}
	if err := r.SHA256.UnmarshalText([]byte(pb.GetSha256())); err != nil {
		return nil, fmt.Errorf("get report of run %s: %w: its SHA-256: %w", pb.GetRun(), ErrInvalid, err)
	}
	c, store, err := s.openArchive(pb.GetArchive())
	if err != nil {
		return nil, err
	}
	identities, err := c.Identities()
	if err != nil {
		return nil, archiveError(pb.GetArchive(), err)
	}
	content, err := store.Report(ctx, r, identities)
	if err != nil {
		return nil, archiveError(pb.GetArchive(), err)
	}
	return &agentpb.GetReportResponse{Content: content}, nil
}
