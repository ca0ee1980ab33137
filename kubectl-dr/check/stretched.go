package check

import (
	"context"
	"fmt"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// stretched looks at the pools that a failover would import.
func (in *inspection) stretched(ctx context.Context) {
	for _, p := range in.plan.Spec.Source.StretchedPools {
		what := "pool " + p.Pool
		if in.Storage == nil {
			in.skip(what, "no agent can be asked")
			continue
		}
		state, err := in.Storage.PoolState(ctx, p.Recovery, p.Pool)
		if err != nil {
			in.failed(what, err, fmt.Sprintf("see that node %s reaches the pool's disks, that its agent is no earlier version, and that its policy allows the verb read on %s", p.Recovery, p.Pool))
			continue
		}
		in.stretchedPool(what, p.Pool, p.Recovery, state)
	}
}

func (in *inspection) stretchedPool(what, pool, node string, s *agentpb.PoolState) {
	sound := true
	for _, p := range cluster.PoolProblems(node, s) {
		sound = false
		in.problem(what, p.Message, p.Remedy)
	}
	if s.GetImported() && s.GetHealth() != "ONLINE" || !s.GetImported() && s.GetHealth() == "DEGRADED" {
		sound = false
		in.warn(what, "it is "+s.GetHealth(), "see zpool status where it is imported: until that is mended, one site holds data that the other has not")
	}
	if s.GetCached() {
		sound = false
		in.warn(what, fmt.Sprintf("node %s imports it by itself when it starts", node), "zpool set cachefile=none "+pool+" there")
	}
	if !sound {
		return
	}
	switch {
	case s.GetImported():
		in.ok(what, fmt.Sprintf("imported on node %s", node))
	case s.GetActive():
		in.ok(what, fmt.Sprintf("in use by %s, and node %s sees all its disks", s.GetHost(), node))
	default:
		in.ok(what, fmt.Sprintf("node %s can import it; no host uses it", node))
	}
}
