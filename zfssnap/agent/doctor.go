package agent

import (
	"context"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/doctor"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
)

// Doctor implements agentpb.AgentServer. Only what the peer may read is looked
// at.
func (s *Server) Doctor(ctx context.Context, _ *agentpb.DoctorRequest) (*agentpb.DoctorResponse, error) {
	roots, err := s.roots(ctx, Read)
	if err != nil {
		return nil, err
	}
	d := &doctor.Doctor{
		ZFS: s.ZFS, Now: s.Clock, Roots: roots, PoolStates: doctor.KernelPoolStates,
		// Replicas are not asked: an examination does not wait for other hosts.
		Holds:        &holds.Reaper{Now: s.Clock, Log: s.Log, Sending: s.transfers.sending},
		Certificates: s.Bundle.Certificates(), Synchronized: s.ClockSynchronized, Delegated: s.Delegated,
	}
	groups, err := d.Examine(ctx)
	if err != nil {
		return nil, err
	}
	resp := &agentpb.DoctorResponse{Node: s.Node, UnixTimeMs: s.Clock().UnixMilli()}
	for _, g := range groups {
		for _, i := range g.Items {
			resp.Findings = append(resp.Findings, &agentpb.Finding{
				Group: g.Name, Name: i.Name, State: string(i.State), Message: i.Message, Remedy: i.Remedy,
			})
		}
	}
	return resp, nil
}
