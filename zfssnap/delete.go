package zfssnap

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// snapshotID identifies a version that an agent reported.
func snapshotID(node string, v *agentpb.Version) SnapshotID {
	return SnapshotID{
		Node:     node,
		Dataset:  v.GetDataset(),
		Snapshot: v.GetName(),
		GUID:     v.GetGuid(),
		Created:  time.Unix(v.GetCreatedUnix(), 0),
	}
}

// DeleteSnapshot deletes the snapshot at its source and the copy on the target.
//
// At the source it always goes: the agent keeps a bookmark where the next
// incremental starts from. On the target a bookmark can not take a snapshot's
// place, because the next incremental is received onto the newest copy. That
// one is given to the agent to destroy all the same, which keeps it until a
// newer copy has arrived. What stays is a copy under newer ones that the source
// no longer knows: the two sides differ then, and it is the last snapshot from
// which they can be brought together again.
//
// Not being able to delete the copy, because it is in use or the target does
// not answer, is logged and does not fail the deletion: the target may be cut
// off for long, and the source must not fill up meanwhile.
//
// Velero calls this with "" for a snapshot that failed, and again after a
// failed deletion; both, and a snapshot that is gone, are success.
func (s *Snapshotter) DeleteSnapshot(snapshotID string) error {
	if snapshotID == "" {
		return nil
	}
	id, err := ParseSnapshotID(snapshotID)
	if err != nil {
		return err
	}
	site, err := s.siteOf(id.Node)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := site.destroySnapshot(ctx, id.Node, id.Dataset, id); err != nil {
		return err
	}
	if !site.Replicates(id.Node) {
		return nil
	}
	log := s.Log.WithFields(logrus.Fields{"node": site.Target, "dataset": site.Replica(id.Dataset), "guid": id.GUID})
	switch deleted, err := site.deleteCopy(ctx, id); {
	case err != nil:
		log.WithError(err).Warn("copy of a deleted snapshot stays on the target")
	case !deleted:
		log.Warn("copy of a deleted snapshot stays on the target: it is the newest that both sides know")
	}
	return nil
}

// deleteCopy deletes the target's copy unless the chain needs it.
func (s *Site) deleteCopy(ctx context.Context, id SnapshotID) (deleted bool, err error) {
	replica := s.Replica(id.Dataset)
	copies, err := s.versions(ctx, s.Target, replica)
	if err != nil {
		return false, err
	}
	source, err := s.versions(ctx, id.Node, id.Dataset)
	if err != nil {
		return false, err
	}
	if onTarget(copies, id.GUID) == nil {
		return true, nil
	}
	if chainNeeds(id.GUID, source, copies) {
		return false, nil
	}
	copied := id
	copied.Snapshot = onTarget(copies, id.GUID).GetName()
	return true, s.destroySnapshot(ctx, s.Target, replica, copied)
}

func onTarget(copies []*agentpb.Version, guid uint64) *agentpb.Version {
	for _, v := range copies {
		if v.GetGuid() == guid && !v.GetBookmark() {
			return v
		}
	}
	return nil
}

// chainNeeds reports whether a snapshot is the newest that both sides know,
// though not the newest on the target. Both lists are in the order of
// createtxg.
func chainNeeds(guid uint64, source, target []*agentpb.Version) bool {
	atSource := map[uint64]bool{}
	for _, v := range source {
		atSource[v.GetGuid()] = true
	}
	newest := true
	for _, v := range slices.Backward(target) {
		switch {
		case v.GetBookmark():
			continue
		case v.GetGuid() == guid:
			return !newest
		case atSource[v.GetGuid()]:
			return false
		}
		newest = false
	}
	return false
}

// destroySnapshot has a node's agent destroy a snapshot if it is ours.
func (s *Site) destroySnapshot(ctx context.Context, node, dataset string, id SnapshotID) error {
	_, err := call(ctx, s, node, fmt.Sprintf("destroy %s@%s", dataset, id.Snapshot), func(ctx context.Context, a Agent) (*agentpb.DestroySnapshotResponse, error) {
		return a.DestroySnapshot(ctx, &agentpb.DestroySnapshotRequest{Dataset: dataset, Name: id.Snapshot, Guid: id.GUID})
	})
	if isNotFound(err) {
		return nil
	}
	return err
}
