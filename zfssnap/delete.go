package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"path"
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

// DeleteSnapshot deletes the snapshot at its source, the copy on the target, and
// the restore point in the archive.
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
// So is a restore point that others are based on, that the store has locked, or
// whose archive does not answer.
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
	if err := site.deleteLogged(ctx, id, s.Log); err != nil {
		return err
	}
	// Which location the backup was in is not told: every one that has copies of the
	// volume elsewhere is asked to delete them. One that was changed since may lead
	// nowhere.
	for _, other := range s.Sites.keepingElsewhere(id, site) {
		if err := other.deleteLogged(ctx, id, s.Log); err != nil {
			s.Log.WithError(err).Warn("another location's copy of a deleted snapshot may stay")
		}
	}
	return nil
}

// DeleteBackedUp deletes what there is of a volume's snapshot that was taken for
// a backup, as DeleteSnapshot does. Velero knows no identifier of a snapshot whose
// CreateSnapshot did not come to its end, and calls DeleteSnapshot for the others
// too.
func (s *Site) DeleteBackedUp(ctx context.Context, vol VolumeID, snapshot string, log logrus.FieldLogger) error {
	v, err := s.snapshot(ctx, vol, snapshot)
	if err != nil || v == nil {
		return err
	}
	return s.deleteLogged(ctx, snapshotID(vol.Node, v), log)
}

func (s *Site) deleteLogged(ctx context.Context, id SnapshotID, log logrus.FieldLogger) error {
	left, err := s.Delete(ctx, id)
	for _, err := range left {
		log.WithError(err).Warn("not all copies of deleted snapshots are gone")
	}
	return err
}

// Delete is DeleteSnapshot of one that the location leads to. What it had to leave
// elsewhere is told and does not fail it.
func (s *Site) Delete(ctx context.Context, id SnapshotID) (left []error, err error) {
	if err := s.toolNeeds(ctx, id); err != nil {
		return nil, fmt.Errorf("delete %s: %w", id.Name(), err)
	}
	if err := s.destroySnapshot(ctx, id.Node, id.Dataset, id); err != nil {
		return nil, err
	}
	at, _ := s.Destination(id.Node, id.Dataset)
	for _, k := range s.keepers(id, at) {
		left = append(left, s.deleteCopies(ctx, id, k)...)
	}
	return left, nil
}

// Stays says what of a snapshot Delete would leave, and why: the snapshot itself,
// or its copy on the target. nil is for what would go, and what is not there.
func (s *Site) Stays(ctx context.Context, id SnapshotID) (itself, copied error) {
	if at, ok := s.Destination(id.Node, id.Dataset); ok && !s.External() {
		_, copied = s.copyOf(ctx, id, at)
	}
	return s.toolNeeds(ctx, id), copied
}

// keeper is what has copies of a dataset's snapshots.
type keeper struct {
	kind, name string // "node" or "archive", and which
	dataset    string
	// property begins those of the source's dataset that remember what is still
	// to be deleted; the rest is the guid, and the value the name.
	property string
	// delete deletes copies of snapshots of the identified one's dataset, and
	// says why one stays.
	delete func(ctx context.Context, id SnapshotID, guids []uint64) map[uint64]error
}

// keepers are those of a snapshot's dataset, whose copies go to at. What another
// tool has copied is not for us to delete.
func (s *Site) keepers(id SnapshotID, at Destination) []keeper {
	var all []keeper
	if at.Node != "" && !s.External() {
		all = append(all, keeper{kind: "node", name: at.Node, dataset: at.Dataset, property: names.PropExpired, delete: s.deleteReplicated})
	}
	if s.Archive != "" {
		all = append(all, keeper{kind: "archive", name: s.Archive, dataset: id.Dataset, property: names.PropArchiveExpired, delete: s.deleteArchived})
	}
	return all
}

// deleteCopies deletes a keeper's copy of a deleted snapshot, and those that
// earlier deletions had to leave. What has to stay now is remembered, and told.
func (s *Site) deleteCopies(ctx context.Context, id SnapshotID, k keeper) (left []error) {
	where := fmt.Sprintf("%s on %s %s", k.dataset, k.kind, k.name)
	remembered, err := s.expired(ctx, id, k)
	if err != nil {
		left = append(left, fmt.Errorf("copies in %s of snapshots that were deleted before are left for the next deletion: %w", where, err))
	}
	// Its own first: when nobody answers, the others can wait.
	others := slices.DeleteFunc(slices.Clone(remembered), func(guid uint64) bool { return guid == id.GUID })
	guids := append([]uint64{id.GUID}, others...)
	change := map[string]string{}
	stays := k.delete(ctx, id, guids)
	for _, guid := range guids {
		prop := k.property + strconv.FormatUint(guid, 10)
		known, err := slices.Contains(remembered, guid), stays[guid]
		if err != nil && !(known && Unreachable(err)) {
			left = append(left, fmt.Errorf("copy with guid %d in %s stays: %w", guid, where, err))
		}
		switch {
		case err == nil && known:
			change[prop] = ""
		case err != nil && !known:
			change[prop] = k.name
		}
	}
	if len(change) == 0 {
		return left
	}
	_, err = call(ctx, s, id.Node, "remember copies to delete of "+id.Dataset, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.SetProperties(ctx, &agentpb.SetPropertiesRequest{Dataset: id.Dataset, Properties: change})
	})
	if err != nil && !absent(err) { // else there is nothing to remember it by
		left = append(left, fmt.Errorf("what stays in %s is not remembered: %w", where, err))
	}
	return left
}

// expired lists by guid the deleted snapshots of a dataset whose copies are
// remembered.
func (s *Site) expired(ctx context.Context, id SnapshotID, k keeper) ([]uint64, error) {
	ds, err := call(ctx, s, id.Node, "look at "+id.Dataset, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.ResolveDataset(ctx, byName(id.Dataset))
	})
	if absent(err) {
		return nil, nil
	}
	var guids []uint64
	for prop, name := range ds.GetProperties() {
		if rest, ok := strings.CutPrefix(prop, k.property); ok && name == k.name {
			if guid, err := strconv.ParseUint(rest, 10, 64); err == nil {
				guids = append(guids, guid)
			}
		}
	}
	return guids, err
}

// errChainNeeds says why a copy stays on the target.
var errChainNeeds = errors.New("it is the newest that both sides know")

// deleteReplicated deletes the target's copies unless the chain needs them.
func (s *Site) deleteReplicated(ctx context.Context, id SnapshotID, guids []uint64) map[uint64]error {
	at, _ := s.Destination(id.Node, id.Dataset)
	stays := map[uint64]error{}
	var cut error
	for _, guid := range guids {
		if cut == nil {
			copied := id
			copied.GUID = guid
			stays[guid] = s.deleteCopy(ctx, copied, at)
		} else {
			stays[guid] = cut
		}
		if Unreachable(stays[guid]) {
			cut = stays[guid]
		}
	}
	return stays
}

func (s *Site) deleteCopy(ctx context.Context, id SnapshotID, at Destination) error {
	copied, err := s.copyOf(ctx, id, at)
	if err != nil || copied == nil {
		return err
	}
	id.Snapshot = copied.GetName()
	return s.destroySnapshot(ctx, at.Node, at.Dataset, id)
}

// copyOf finds the target's copy of a snapshot, nil for none. It is an error when
// that has to stay.
func (s *Site) copyOf(ctx context.Context, id SnapshotID, at Destination) (*agentpb.Version, error) {
	copies, err := s.versions(ctx, at.Node, at.Dataset)
	if err != nil {
		return nil, err
	}
	source, err := s.versions(ctx, id.Node, id.Dataset)
	if err != nil && !absent(err) {
		return nil, err
	}
	copied := onTarget(copies, id.GUID)
	if copied != nil && chainNeeds(id.GUID, source, copies) && !s.gone(ctx, id.Volume()) {
		return nil, errChainNeeds
	}
	return copied, nil
}

// gone reports whether a volume is no more, so that nothing will be sent that
// builds on its copies. One on a pool that is not imported looks the same: what
// the volume lay in has to be there.
func (s *Site) gone(ctx context.Context, vol VolumeID) bool {
	look := func(dataset string) error {
		_, err := s.dataset(ctx, vol.Node, "look at "+dataset, byName(dataset))
		return err
	}
	err := look(vol.Dataset)
	return errors.Is(err, errNodeGone) || isNotFound(err) && look(path.Dir(vol.Dataset)) == nil
}

// deleteArchived deletes the archive's restore points, all at once: of a chain
// that has expired all go, and one alone would be needed by the others.
func (s *Site) deleteArchived(ctx context.Context, id SnapshotID, guids []uint64) map[uint64]error {
	resp, err := call(ctx, s, id.Node, fmt.Sprintf("expire %s in archive %s", id.Dataset, s.Archive), func(ctx context.Context, a Agent) (*agentpb.ExpireArchivedResponse, error) {
		return a.ExpireArchived(ctx, &agentpb.ExpireArchivedRequest{Archive: s.Archive, Dataset: id.Dataset, Guids: guids})
	})
	stays := map[uint64]error{}
	for _, guid := range guids {
		stays[guid] = err
	}
	for _, kept := range resp.GetKept() {
		stays[kept.GetGuid()] = errors.New(kept.GetReason())
	}
	return stays
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
	if absent(err) {
		return nil
	}
	return err
}

// absent reports whether there is no such thing, or its node is gone.
func absent(err error) bool { return isNotFound(err) || errors.Is(err, errNodeGone) }
