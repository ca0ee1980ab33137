package failover

import (
	"context"
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// MirrorError says why a pool that is mirrored over both sites is not moved while both
// work: one of them may not have what was written last.
type MirrorError struct {
	Pool string
	cluster.PoolProblem
}

func (e *MirrorError) Error() string { return fmt.Sprintf("pool %s: %s", e.Pool, e.Message) }

// Hint says what to mend.
func (e *MirrorError) Hint() string { return e.Remedy }

// CheckMirrors refuses pools that are not whole: each has to be imported on its source
// with every disk, and its other node has to see all of them.
func CheckMirrors(ctx context.Context, pools Pools, stretched []plan.StretchedPool) error {
	for _, p := range stretched {
		at, err := poolState(ctx, pools, p.Source, p.Pool)
		if err != nil {
			return err
		}
		if err := given(p, at); err != nil {
			return err
		}
		far, err := poolState(ctx, pools, p.Recovery, p.Pool)
		if err != nil {
			return err
		}
		if problems := cluster.PoolProblems(p.Recovery, far); len(problems) > 0 {
			return &MirrorError{p.Pool, problems[0]}
		}
	}
	return nil
}

// given judges what a pool says where it is.
func given(p plan.StretchedPool, s *agentpb.PoolState) error {
	switch {
	case !s.GetImported():
		return &MirrorError{p.Pool, cluster.PoolProblem{
			Message: fmt.Sprintf("node %s, where the application runs, does not have it imported", p.Source),
			Remedy:  "zpool import on both hosts says who uses it: docs/sites.md, Stretched",
		}}
	case s.GetHealth() != "ONLINE":
		return &MirrorError{p.Pool, cluster.PoolProblem{
			Message: fmt.Sprintf("it is %s on node %s: one site holds data that the other has not", s.GetHealth(), p.Source),
			Remedy:  fmt.Sprintf("zpool status %s there says why: bring its disks back (zpool online), or replace or detach them, until it is ONLINE", p.Pool),
		}}
	}
	return nil
}

func poolState(ctx context.Context, pools Pools, node, pool string) (*agentpb.PoolState, error) {
	s, err := pools.PoolState(ctx, node, pool)
	if err != nil {
		return nil, hint.Add(err, fmt.Sprintf("node %s has to be up, with its agent and the disks of the pool; kubectl dr check says more", node))
	}
	return s, nil
}

// DoomedError says that drivers would destroy what a pool holds.
type DoomedError struct {
	Pool, Node string
	Objects    []string
}

func (e *DoomedError) Error() string {
	return fmt.Sprintf("pool %s: on node %s drivers would destroy what is on it as soon as it is there: %s was deleted while it was away", e.Pool, e.Node, strings.Join(e.Objects, ", "))
}

// Hint says how to keep the datasets.
func (e *DoomedError) Hint() string {
	return `give a PersistentVolume the reclaim policy Retain, or delete it with that: kubectl patch persistentvolume NAME -p '{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'; ` +
		`take the finalizer of a ZFSVolume away: kubectl patch zfsvolume NAME -n NAMESPACE --type=merge -p '{"metadata":{"finalizers":null}}'`
}

// CheckDoomed refuses pools of which a cluster would destroy datasets once its node has
// them.
func CheckDoomed(ctx context.Context, pools Pools, c client.Client, stretched []plan.StretchedPool) error {
	for _, p := range stretched {
		objects, err := pools.Doomed(ctx, c, p.Recovery, p.Pool)
		if err != nil {
			return fmt.Errorf("see what becomes of pool %s on node %s: %w", p.Pool, p.Recovery, err)
		}
		if len(objects) > 0 {
			return &DoomedError{Pool: p.Pool, Node: p.Recovery, Objects: objects}
		}
	}
	return nil
}
