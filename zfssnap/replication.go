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

// Copy is one of the places that a snapshot has to be, and how far it is.
type Copy struct {
	// To is where: "<node>:<dataset>", or "archive <name>".
	To string
	// Transfer is nil when nothing is known of it, and Err says why.
	Transfer *agentpb.Transfer
	Err      error
	// Arrival takes the place of Transfer where another tool replicates.
	Arrival *Arrival
}

// Copies sees to it that a volume's snapshot is copied to all places where the
// location wants it, and reports how far each is.
func (s *Site) Copies(ctx context.Context, vol VolumeID, snapshot string) []Copy {
	var copies []Copy
	if to, ok := s.Destination(vol.Node, vol.Dataset); ok {
		c := Copy{To: to.Node + ":" + to.Dataset}
		if s.External() {
			var arrival Arrival
			if arrival, c.Err = s.Arrival(ctx, vol, snapshot); c.Err == nil {
				c.Arrival = &arrival
			}
		} else {
			c.Transfer, c.Err = s.Replicate(ctx, vol, snapshot)
		}
		copies = append(copies, c)
	}
	if s.Archive != "" {
		c := Copy{To: "archive " + s.Archive}
		c.Transfer, c.Err = s.ArchiveSnapshot(ctx, vol, snapshot)
		copies = append(copies, c)
	}
	return copies
}

// Replicate sees to it that a volume's snapshot is copied to the target, and
// reports how far it is. It starts the transfer, or joins the one that runs, or
// finds the copy there; what it has to remember lies in ZFS, so any process may
// ask at any time. The error wraps ErrNoSnapshot when there is nothing to copy.
func (s *Site) Replicate(ctx context.Context, vol VolumeID, snapshot string) (*agentpb.Transfer, error) {
	to, ok := s.Destination(vol.Node, vol.Dataset)
	if !ok {
		return nil, fmt.Errorf("replicate %s@%s from node %s: %w", vol.Dataset, snapshot, vol.Node, ErrNoDestination)
	}
	return s.transfer(ctx, vol, snapshot, "replicate", " to "+to.Node, func(ctx context.Context, a Agent, guid uint64) (*agentpb.Transfer, error) {
		return a.Replicate(ctx, &agentpb.ReplicateRequest{
			Dataset:       vol.Dataset,
			Snapshot:      snapshot,
			Guid:          guid,
			TargetNode:    to.Node,
			TargetAddress: to.Address,
			TargetDataset: to.Dataset,
		})
	})
}

// ArchiveSnapshot is Replicate for the archive, which itself remembers what it
// has.
func (s *Site) ArchiveSnapshot(ctx context.Context, vol VolumeID, snapshot string) (*agentpb.Transfer, error) {
	return s.transfer(ctx, vol, snapshot, "archive", " in "+s.Archive, func(ctx context.Context, a Agent, guid uint64) (*agentpb.Transfer, error) {
		return a.Archive(ctx, &agentpb.ArchiveRequest{Dataset: vol.Dataset, Snapshot: snapshot, Guid: guid, Archive: s.Archive})
	})
}

// transfer has the agent of a volume copy one of its snapshots.
func (s *Site) transfer(ctx context.Context, vol VolumeID, snapshot, deed, where string, start func(context.Context, Agent, uint64) (*agentpb.Transfer, error)) (*agentpb.Transfer, error) {
	deed = fmt.Sprintf("%s %s@%s", deed, vol.Dataset, snapshot)
	v, err := s.snapshot(ctx, vol, snapshot)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%s from node %s: %w", deed, vol.Node, ErrNoSnapshot)
	}
	return call(ctx, s, vol.Node, deed+where, func(ctx context.Context, a Agent) (*agentpb.Transfer, error) {
		return start(ctx, a, v.GetGuid())
	})
}

// CancelCopy stops a transfer. What has arrived is kept, and the next one
// resumes.
func (s *Site) CancelCopy(ctx context.Context, vol VolumeID, transfer string) error {
	_, err := call(ctx, s, vol.Node, "cancel transfer "+transfer, func(ctx context.Context, a Agent) (*agentpb.Transfer, error) {
		return a.CancelTransfer(ctx, &agentpb.GetTransferRequest{Id: transfer})
	})
	if isNotFound(err) {
		return nil
	}
	return err
}
