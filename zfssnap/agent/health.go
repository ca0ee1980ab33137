package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Ready returns nil while the agent can do its work. It cannot when no pool of
// the host answers; as long as one does, the agent stays ready for that one. It
// does not touch any pool.
func (s *Server) Ready() error {
	s.readyMu.Lock()
	defer s.readyMu.Unlock()
	return s.notReady
}

// HangingPools lists the pools that do not answer, and "" when commands that
// are about no pool in particular do not return.
func (s *Server) HangingPools() []string {
	s.init()
	return s.guard.Hanging()
}

// poolChanged is told when a pool begins and ceases to hang.
func (s *Server) poolChanged(pool string, hangs bool) {
	if hangs {
		s.Log.Error("pool hangs, no more commands are started on it", "pool", pool)
	} else {
		s.Log.Info("pool answers again", "pool", pool)
	}
	// Listing pools may take long now.
	s.background.Go(func() { s.judge(s.transfers.ctx) })
}

// judge finds out whether the agent is ready.
func (s *Server) judge(ctx context.Context) {
	s.judging.Lock()
	defer s.judging.Unlock()
	var notReady error
	if hanging := s.guard.Hanging(); len(hanging) > 0 {
		pools, err := s.ZFS.Pools(ctx)
		answering := 0
		for _, p := range pools {
			if !slices.Contains(hanging, p.Name) {
				answering++
			}
		}
		if err != nil || answering == 0 {
			notReady = fmt.Errorf("%w: no pool of this host answers, hanging: %s", ErrPool, strings.Join(hanging, " "))
		}
	}
	s.readyMu.Lock()
	s.notReady = notReady
	s.readyMu.Unlock()
	status := healthpb.HealthCheckResponse_SERVING
	if notReady != nil {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", status)
}
