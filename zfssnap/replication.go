package zfssnap

import (
	"context"
	"errors"
	"fmt"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// ErrNoDestination says that the location names no place for a volume's copies.
var ErrNoDestination = errors.New("there is nowhere to copy it to")

// ErrNoSnapshot says that the snapshot to replicate does not exist.
var ErrNoSnapshot = errors.New("snapshot does not exist")

// Replicate sees to it that a volume's snapshot is copied to the target, and
// reports how far it is. It starts the transfer, or joins the one that runs, or
// finds the copy there; what it has to remember lies in ZFS, so any process may
// ask at any time. The error wraps ErrNoSnapshot when there is nothing to copy.
func (s *Site) Replicate(ctx context.Context, vol VolumeID, snapshot string) (*agentpb.Transfer, error) {
	to, ok := s.Destination(vol.Node, vol.Dataset)
	if !ok {
		return nil, fmt.Errorf("replicate %s@%s from node %s: %w", vol.Dataset, snapshot, vol.Node, ErrNoDestination)
	}
	versions, err := s.versions(ctx, vol.Node, vol.Dataset)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if v.GetName() != snapshot || v.GetBookmark() {
			continue
		}
		return call(ctx, s, vol.Node, fmt.Sprintf("replicate %s@%s to %s", vol.Dataset, snapshot, to.Node), func(ctx context.Context, a Agent) (*agentpb.Transfer, error) {
			return a.Replicate(ctx, &agentpb.ReplicateRequest{
				Dataset:       vol.Dataset,
				Snapshot:      snapshot,
				Guid:          v.GetGuid(),
				TargetNode:    to.Node,
				TargetAddress: to.Address,
				TargetDataset: to.Dataset,
			})
		})
	}
	return nil, fmt.Errorf("replicate %s@%s from node %s: %w", vol.Dataset, snapshot, vol.Node, ErrNoSnapshot)
}

// CancelReplication stops a transfer. What has arrived is kept, and the next
// one resumes.
func (s *Site) CancelReplication(ctx context.Context, vol VolumeID, transfer string) error {
	_, err := call(ctx, s, vol.Node, "cancel transfer "+transfer, func(ctx context.Context, a Agent) (*agentpb.Transfer, error) {
		return a.CancelTransfer(ctx, &agentpb.GetTransferRequest{Id: transfer})
	})
	if isNotFound(err) {
		return nil
	}
	return err
}
