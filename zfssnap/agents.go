package zfssnap

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Agent is what this package asks of the agent on a node. Errors carry the
// gRPC codes that agent.proto documents; agentpb.AgentClient is an Agent.
type Agent interface {
	ResolveDataset(context.Context, *agentpb.ResolveDatasetRequest, ...grpc.CallOption) (*agentpb.Dataset, error)
	ListVersions(context.Context, *agentpb.ListVersionsRequest, ...grpc.CallOption) (*agentpb.ListVersionsResponse, error)
	FindSnapshot(context.Context, *agentpb.FindSnapshotRequest, ...grpc.CallOption) (*agentpb.Version, error)
	CreateSnapshots(context.Context, *agentpb.CreateSnapshotsRequest, ...grpc.CallOption) (*agentpb.CreateSnapshotsResponse, error)
	DestroySnapshot(context.Context, *agentpb.DestroySnapshotRequest, ...grpc.CallOption) (*agentpb.DestroySnapshotResponse, error)
	SetProperties(context.Context, *agentpb.SetPropertiesRequest, ...grpc.CallOption) (*agentpb.Dataset, error)
	CreateVolume(context.Context, *agentpb.CreateVolumeRequest, ...grpc.CallOption) (*agentpb.Dataset, error)
	DestroyVolume(context.Context, *agentpb.DestroyVolumeRequest, ...grpc.CallOption) (*agentpb.DestroyVolumeResponse, error)
	Replicate(context.Context, *agentpb.ReplicateRequest, ...grpc.CallOption) (*agentpb.Transfer, error)
	Archive(context.Context, *agentpb.ArchiveRequest, ...grpc.CallOption) (*agentpb.Transfer, error)
	ExpireArchived(context.Context, *agentpb.ExpireArchivedRequest, ...grpc.CallOption) (*agentpb.ExpireArchivedResponse, error)
	CancelTransfer(context.Context, *agentpb.GetTransferRequest, ...grpc.CallOption) (*agentpb.Transfer, error)
}

// Agents finds the agent of a node. It must be safe for concurrent use and
// must not block on the network.
type Agents interface {
	Agent(node string) (Agent, error)
}

// NoAgentError says that a location knows no agent on a node.
type NoAgentError struct{ Node string }

func (e *NoAgentError) Error() string { return fmt.Sprintf("no agent is known on node %q", e.Node) }

// Hint says where agents are configured.
func (e *NoAgentError) Hint() string {
	return fmt.Sprintf("add %s=<host:port> to %q in the config of the VolumeSnapshotLocation", e.Node, KeyAgents)
}

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// Unreachable tells an agent that did not answer, so that asking again may help,
// from one that said no.
func Unreachable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}
