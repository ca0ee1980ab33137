package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Causes that callers of Arrival and DeleteSnapshot tell apart with errors.Is.
var (
	// ErrPassedOver: the tool that replicates went on to a newer snapshot
	// without bringing the wanted one, and never will.
	ErrPassedOver = errors.New("snapshot was passed over")
	// ErrToolNeeds: the tool that replicates sends its next increment from that
	// snapshot.
	ErrToolNeeds = errors.New("the tool that replicates still needs it")
)

// Arrival is how far another tool has come with a volume.
type Arrival struct {
	Snapshot *agentpb.Version // that is wanted, at its source
	// Newest is the newest snapshot of the volume that the target has: a copy
	// of Snapshot when that has arrived, an older one or nil before.
	Newest *agentpb.Version
}

// Arrived reports whether the wanted snapshot is there.
func (a Arrival) Arrived() bool { return a.Newest.GetGuid() == a.Snapshot.GetGuid() }

// String says what is waited for, or where it is.
func (a Arrival) String() string {
	want := a.Snapshot.GetDataset() + "@" + a.Snapshot.GetName()
	switch {
	case a.Newest == nil:
		return fmt.Sprintf("%s and nothing else of the volume has been replicated", want)
	case a.Arrived():
		return fmt.Sprintf("%s is there as %s@%s", want, a.Newest.GetDataset(), a.Newest.GetName())
	}
	behind := time.Duration(a.Snapshot.GetCreatedUnix()-a.Newest.GetCreatedUnix()) * time.Second
	return fmt.Sprintf("%s has not been replicated yet; the newest there is %s@%s, %s older", want, a.Newest.GetDataset(), a.Newest.GetName(), behind)
}

// mostGUIDs bounds how many snapshots on either side of one are looked for.
const mostGUIDs = 100

// Arrival looks on the target, by guid, for what another tool has brought of a
// volume. ErrNoSnapshot when the wanted snapshot does not exist at its source,
// ErrPassedOver when it can come no more.
func (s *Site) Arrival(ctx context.Context, vol VolumeID, snapshot string) (Arrival, error) {
	older, want, newer, err := s.around(ctx, vol, func(v *agentpb.Version) bool { return v.GetName() == snapshot })
	if err != nil {
		return Arrival{}, err
	}
	if want == nil {
		return Arrival{}, fmt.Errorf("look for %s@%s on node %s: %w", vol.Dataset, snapshot, vol.Node, ErrNoSnapshot)
	}
	a := Arrival{Snapshot: want}
	if a.Newest, err = s.find(ctx, vol, append(append([]*agentpb.Version{want}, newer...), older...)); err != nil {
		return a, err
	}
	if slices.ContainsFunc(newer, func(v *agentpb.Version) bool { return v.GetGuid() == a.Newest.GetGuid() }) {
		return a, fmt.Errorf("%w: node %s has %s@%s, which is newer, and not %s@%s: the tool that replicates must not skip snapshots (syncoid without --no-stream does not)",
			ErrPassedOver, s.Target, a.Newest.GetDataset(), a.Newest.GetName(), vol.Dataset, snapshot)
	}
	return a, nil
}

// around lists a volume's snapshots older and newer than the one that is wanted,
// the newest first.
func (s *Site) around(ctx context.Context, vol VolumeID, wanted func(*agentpb.Version) bool) (older []*agentpb.Version, want *agentpb.Version, newer []*agentpb.Version, err error) {
	versions, err := s.versions(ctx, vol.Node, vol.Dataset)
	for _, v := range versions {
		switch {
		case v.GetBookmark():
		case wanted(v):
			want = v
		case want == nil:
			older = append(older, v)
		default:
			newer = append(newer, v)
		}
	}
	slices.Reverse(older)
	slices.Reverse(newer)
	return older[:min(len(older), mostGUIDs)], want, newer[:min(len(newer), mostGUIDs)], err
}

// find returns the first of some snapshots that the target has, nil for none.
func (s *Site) find(ctx context.Context, vol VolumeID, versions []*agentpb.Version) (*agentpb.Version, error) {
	if len(versions) == 0 {
		return nil, nil
	}
	req := &agentpb.FindSnapshotRequest{Guid: versions[0].GetGuid(), Hints: s.Hints(vol.Node, vol.Dataset)}
	for _, v := range versions[1:] {
		req.OrGuids = append(req.OrGuids, v.GetGuid())
	}
	found, err := call(ctx, s, s.Target, "look for copies of "+vol.Dataset, func(ctx context.Context, a Agent) (*agentpb.Version, error) {
		return a.FindSnapshot(ctx, req)
	})
	if isNotFound(err) {
		return nil, nil
	}
	return found, err
}

// toolNeeds returns an error for a snapshot that is the newest which both sides
// have, where another tool replicates. Without that one the tool could send no
// increment, or would have to roll back the copy, which fails when a volume was
// cloned from it. Copies are the tool's own.
func (s *Site) toolNeeds(ctx context.Context, id SnapshotID) error {
	if _, ok := s.Destination(id.Node, id.Dataset); !ok || !s.External() {
		return nil
	}
	older, want, newer, err := s.around(ctx, id.Volume(), func(v *agentpb.Version) bool { return v.GetGuid() == id.GUID })
	if err != nil || want == nil {
		return err
	}
	newest, err := s.find(ctx, id.Volume(), append(append(newer, want), older...))
	if err != nil {
		return fmt.Errorf("see what the tool that replicates needs: %w", err)
	}
	if newest.GetGuid() == id.GUID {
		return fmt.Errorf("%w: node %s has nothing newer of it; it can go once a newer snapshot has been replicated", ErrToolNeeds, s.Target)
	}
	return nil
}
