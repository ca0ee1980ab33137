package rig

import (
	"context"
	"fmt"

	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// Streams are those of a command run on a node.
type Streams = vm.Streams

// Exec runs a command on a node and returns its exit status.
func (r *Rig) Exec(ctx context.Context, node string, argv []string, streams Streams) (int, error) {
	for _, n := range nodes {
		if n.name == node {
			return r.machine(n).Exec(ctx, argv, streams)
		}
	}
	return 0, fmt.Errorf("no node %q; there are %s and %s", node, nodes[0].name, nodes[1].name)
}
