package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// poolTimeout bounds what is done with a whole pool: whether another host has it
// imported is watched before.
const poolTimeout = 5 * time.Minute

// PoolState returns what a node says of a pool that several nodes reach.
func (s *Storage) PoolState(ctx context.Context, node, pool string) (*agentpb.PoolState, error) {
	return s.pool(ctx, "look at", node, pool, func(ctx context.Context, a Agent) (*agentpb.PoolState, error) {
		return a.GetPool(ctx, &agentpb.GetPoolRequest{Name: pool})
	})
}

// ImportPool has a node take a pool over for a run. With fenced, that the node does
// not see all its disks is no reason to refuse. Idempotent.
func (s *Storage) ImportPool(ctx context.Context, node, pool, run string, fenced bool) (*agentpb.PoolState, error) {
	return s.pool(ctx, "import", node, pool, func(ctx context.Context, a Agent) (*agentpb.PoolState, error) {
		return a.ImportPool(ctx, &agentpb.ImportPoolRequest{Name: pool, By: "run/" + run, Fenced: fenced})
	})
}

// ExportPool has a node give a pool up. Idempotent.
func (s *Storage) ExportPool(ctx context.Context, node, pool string) error {
	_, err := s.pool(ctx, "export", node, pool, func(ctx context.Context, a Agent) (*agentpb.PoolState, error) {
		return a.ExportPool(ctx, &agentpb.GetPoolRequest{Name: pool})
	})
	return err
}

func (s *Storage) pool(ctx context.Context, verb, node, pool string, do func(context.Context, Agent) (*agentpb.PoolState, error)) (*agentpb.PoolState, error) {
	l, err := s.location(node)
	if err != nil {
		return nil, err
	}
	p, err := call(ctx, l, node, poolTimeout, do)
	if err != nil {
		return nil, fmt.Errorf("%s pool %s on node %s: %w", verb, pool, node, err)
	}
	return p, nil
}

// Doomed returns the objects of a cluster whose drivers destroy datasets of a pool as soon
// as the node has it.
func (s *Storage) Doomed(ctx context.Context, c client.Client, node, pool string) ([]string, error) {
	l, err := s.location(node)
	if err != nil {
		return nil, err
	}
	return l.Site(c).Doomed(ctx, node, pool)
}

// PoolProblem is why a node would not import a pool, and what to do about it.
type PoolProblem struct{ Message, Remedy string }

// PoolProblems judges what a node said of a pool.
func PoolProblems(node string, s *agentpb.PoolState) []PoolProblem {
	hostID := fmt.Sprintf("give node %s a hostid of its own with zgenhostid, and load its zfs module anew", node)
	var found []PoolProblem
	switch {
	case s.GetOwnHostid() == 0:
		found = append(found, PoolProblem{fmt.Sprintf("node %s has no hostid, without which it cannot import the pool", node), hostID})
	case !s.GetMultihost():
		found = append(found, PoolProblem{"its multihost is off: nothing keeps two hosts from writing to it at once, and it will not be imported",
			"where it is imported: zpool set multihost=on " + s.GetName()})
	case !s.GetImported() && !s.GetActive() && !s.GetExported() && s.GetHostid() == s.GetOwnHostid():
		found = append(found, PoolProblem{fmt.Sprintf("%s had it last, which has the hostid of node %s", s.GetHost(), node), hostID})
	}
	if len(s.GetUnseen()) > 0 {
		found = append(found, PoolProblem{fmt.Sprintf("node %s does not see %s", node, strings.Join(s.GetUnseen(), ", ")),
			"see zpool import there, and connect the disks: without them a failover needs --source-fenced, and what is written now is not mirrored"})
	}
	return found
}

// Adopt returns a PersistentVolume for a dataset as it is, from the one that it had on
// another node. It is not created; what the volume's driver needs beside it is.
func (s *Storage) Adopt(ctx context.Context, c client.Client, pv *unstructured.Unstructured, id zfssnap.VolumeID) (*unstructured.Unstructured, error) {
	l, err := s.location(id.Node)
	if err != nil {
		return nil, err
	}
	return l.Site(c).SetVolume(ctx, pv, id)
}
