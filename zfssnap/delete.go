package zfssnap

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
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
// Not being able to delete the copy, because it is in use, the chain needs it or
// the target does not answer, is logged and does not fail the deletion: the
// target may be cut off for long, and the source must not fill up meanwhile. It
// is remembered on the source's dataset, and the next deletion of any of its
// snapshots tries again.
//
// Where another tool replicates, copies are left to it, and its newest common
// snapshot is not taken away from it: that is an error, and Velero tries again.
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
	at, ok := site.Destination(id.Node, id.Dataset)
	if ok && site.External() {
		return site.deleteForTool(ctx, id)
	}
	if err := site.destroySnapshot(ctx, id.Node, id.Dataset, id); err != nil {
		return err
	}
	if !ok {
		return nil
	}
	log := s.Log.WithFields(logrus.Fields{"node": at.Node, "dataset": at.Dataset})
	if err := site.deleteCopies(ctx, id, at, log); err != nil {
		log.WithError(err).WithField("guid", id.GUID).Warn("copy of a deleted snapshot stays on the target, and that is not remembered")
	}
	return nil
}

// deleteCopies deletes the target's copy of a deleted snapshot, and those that
// earlier deletions had to leave. What has to stay now is remembered.
func (s *Site) deleteCopies(ctx context.Context, id SnapshotID, at Destination, log logrus.FieldLogger) error {
	remembered, err := s.expired(ctx, id, at.Node)
	if err != nil {
		log.WithError(err).Warn("copies of snapshots that were deleted before are left for the next deletion")
	}
	change := map[string]string{}
	// Its own first: when the target does not answer, the others can wait.
	others := slices.DeleteFunc(slices.Clone(remembered), func(guid uint64) bool { return guid == id.GUID })
	for _, guid := range append([]uint64{id.GUID}, others...) {
		copied := id
		copied.GUID = guid
		prop := names.PropExpired + strconv.FormatUint(guid, 10)
		deleted, err := s.deleteCopy(ctx, copied, at)
		log := log.WithField("guid", guid)
		switch {
		case err != nil:
			log.WithError(err).Warn("copy of a deleted snapshot stays on the target")
		case !deleted:
			log.Warn("copy of a deleted snapshot stays on the target: it is the newest that both sides know")
		}
		switch known := slices.Contains(remembered, guid); {
		case deleted && known:
			change[prop] = ""
		case !deleted && !known:
			change[prop] = at.Node
		}
		if Unreachable(err) {
			break
		}
	}
	if len(change) == 0 {
		return nil
	}
	_, err = call(ctx, s, id.Node, "remember copies to delete of "+id.Dataset, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.SetProperties(ctx, &agentpb.SetPropertiesRequest{Dataset: id.Dataset, Properties: change})
	})
	if isNotFound(err) {
		return nil // nothing to remember it by
	}
	return err
}

// expired lists by guid the deleted snapshots of a dataset whose copies on a node
// are remembered.
func (s *Site) expired(ctx context.Context, id SnapshotID, at string) ([]uint64, error) {
	ds, err := call(ctx, s, id.Node, "look at "+id.Dataset, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.ResolveDataset(ctx, byName(id.Dataset))
	})
	if isNotFound(err) {
		return nil, nil
	}
	var guids []uint64
	for name, node := range ds.GetProperties() {
		if rest, ok := strings.CutPrefix(name, names.PropExpired); ok && node == at {
			if guid, err := strconv.ParseUint(rest, 10, 64); err == nil {
				guids = append(guids, guid)
			}
		}
	}
	return guids, err
}

// deleteCopy deletes the target's copy unless the chain needs it.
func (s *Site) deleteCopy(ctx context.Context, id SnapshotID, at Destination) (deleted bool, err error) {
	copies, err := s.versions(ctx, at.Node, at.Dataset)
	if err != nil {
		return false, err
	}
	source, err := s.versions(ctx, id.Node, id.Dataset)
	if err != nil {
		return false, err
	}
	copied := onTarget(copies, id.GUID)
	switch {
	case copied == nil:
		return true, nil
	case chainNeeds(id.GUID, source, copies):
		return false, nil
	}
	id.Snapshot = copied.GetName()
	if err := s.destroySnapshot(ctx, at.Node, at.Dataset, id); err != nil {
		return false, err
	}
	return true, nil
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
