package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// DoctorTimeout bounds the examination of a host: each of its commands has a
// deadline of its own, which is a part of this.
const DoctorTimeout = 5 * time.Minute

// Examine has the agents examine their hosts.
func Examine(ctx context.Context, s *Storage, nodes []string, now func() time.Time) ([]Reply[*agentpb.DoctorResponse], error) {
	return AskAgents(ctx, s, nodes, DoctorTimeout, now, func(ctx context.Context, a Agent) (*agentpb.DoctorResponse, error) {
		return a.Doctor(ctx, &agentpb.DoctorRequest{})
	})
}

// Reply is what the agent of a node said, or why it said nothing.
type Reply[T any] struct {
	Node string
	Said T
	Err  error
	// Asked and Answered are this machine's clock around the call.
	Asked, Answered time.Time
}

// AskAgents asks the agents on all nodes that the snapshot locations name, or on
// the given ones, side by side. A node that no location names is an error before
// any is asked.
func AskAgents[T any](ctx context.Context, s *Storage, nodes []string, timeout time.Duration, now func() time.Time,
	ask func(context.Context, Agent) (T, error)) ([]Reply[T], error) {
	return askAgents(ctx, s, nodes, timeout, now, func(ctx context.Context, _ Location, a Agent) (T, error) { return ask(ctx, a) })
}

// askAgents is AskAgents, and says which location led to the agent.
func askAgents[T any](ctx context.Context, s *Storage, nodes []string, timeout time.Duration, now func() time.Time,
	ask func(context.Context, Location, Agent) (T, error)) ([]Reply[T], error) {
	if err := s.needed(); err != nil {
		return nil, err
	}
	locations := map[string]Location{}
	for _, l := range slices.Backward(s.Locations) {
		for node := range l.Location.Agents {
			locations[node] = l
		}
	}
	for _, node := range nodes {
		if _, ok := locations[node]; !ok {
			return nil, &zfssnap.NoAgentError{Node: node}
		}
	}
	if len(nodes) == 0 {
		nodes = slices.Collect(maps.Keys(locations))
	}
	nodes = slices.Compact(slices.Sorted(slices.Values(nodes)))
	return askEach(ctx, nodes, locations, timeout, now, ask), ctx.Err()
}

// askEach asks the agents on nodes side by side, each by way of its location.
func askEach[T any](ctx context.Context, nodes []string, locations map[string]Location, timeout time.Duration, now func() time.Time,
	ask func(context.Context, Location, Agent) (T, error)) []Reply[T] {
	replies := make([]Reply[T], len(nodes))
	var asked sync.WaitGroup
	for i, node := range nodes {
		asked.Go(func() {
			r := Reply[T]{Node: node, Asked: now()}
			l := locations[node]
			r.Said, r.Err = call(ctx, l, node, timeout, func(ctx context.Context, a Agent) (T, error) { return ask(ctx, l, a) })
			r.Answered = now()
			replies[i] = r
		})
	}
	asked.Wait()
	return replies
}
