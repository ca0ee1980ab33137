package check

import (
	"context"
	"fmt"
	"strings"

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
	hostID := fmt.Sprintf("give node %s a hostid of its own with zgenhostid, and load its zfs module anew", node)
	sound := true
	problem := func(message, remedy string) {
		sound = false
		in.problem(what, message, remedy)
	}
	switch {
	case s.GetOwnHostid() == 0:
		problem(fmt.Sprintf("node %s has no hostid, without which it cannot import the pool", node), hostID)
	case !s.GetMultihost():
		problem("its multihost is off: nothing keeps two hosts from writing to it at once, and it will not be imported", "where it is imported: zpool set multihost=on "+pool)
	case !s.GetImported() && !s.GetActive() && !s.GetExported() && s.GetHostid() == s.GetOwnHostid():
		problem(fmt.Sprintf("%s had it last, which has the hostid of node %s", s.GetHost(), node), hostID)
	}
	if len(s.GetUnseen()) > 0 {
		problem(fmt.Sprintf("node %s does not see %s", node, strings.Join(s.GetUnseen(), ", ")), "see zpool import there, and connect the disks: without them a failover needs --source-fenced, and what is written now is not mirrored")
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
