package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// Ways of grouping the volumes of a backup whose snapshots are one point in
// time.
const (
	GroupByNamespace = "namespace"
	// GroupByLabel follows Velero's own label of volume groups on claims, which
	// the server's --volume-group-snapshot-label-key names.
	GroupByLabel = "label"
	// GroupByVolume leaves every volume to itself.
	GroupByVolume = "volume"
)

// Groups gathers which volumes a backup takes snapshots of together. Velero
// asks for the snapshot of one volume at a time, but shows all volumes of a
// block before it asks for the first. It is kept in memory: a process that was
// started again meanwhile knows of no groups, and what the first one took is
// found in the pool.
type Groups struct {
	mu      sync.Mutex
	backups map[string]*groupedBackup // by name
}

type groupedBackup struct {
	uid    types.UID
	groups map[string]*group
	of     map[VolumeID]*group
}

// group is volumes that are one point in time, as far as ZFS can make them:
// those on one pool.
type group struct {
	name    string
	members []VolumeID
	claims  map[VolumeID]string // their records

	mu    sync.Mutex
	tried bool
	taken map[VolumeID]SnapshotID
}

// Join puts a volume into a group of a backup, with the record of its claim.
// Joining again changes nothing.
func (g *Groups) Join(backup string, uid types.UID, name string, vol VolumeID, claim string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.backups[backup]
	if b == nil || b.uid != uid {
		b = &groupedBackup{uid: uid, groups: map[string]*group{}, of: map[VolumeID]*group{}}
		if g.backups == nil {
			g.backups = map[string]*groupedBackup{}
		}
		g.backups[backup] = b
	}
	if b.of[vol] != nil {
		return
	}
	joined := b.groups[name]
	if joined == nil {
		joined = &group{name: name, taken: map[VolumeID]SnapshotID{}, claims: map[VolumeID]string{}}
		b.groups[name] = joined
	}
	joined.mu.Lock()
	defer joined.mu.Unlock()
	joined.members = append(joined.members, vol)
	joined.claims[vol] = claim
	b.of[vol] = joined
}

// NameOf returns the name of a volume's group in a backup, "" when it is in none.
func (g *Groups) NameOf(backup string, vol VolumeID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.backups[backup]; b != nil && b.of[vol] != nil {
		return b.of[vol].name
	}
	return ""
}

// of returns the group of a volume, or nil.
func (g *Groups) of(backup string, uid types.UID, vol VolumeID) *group {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.backups[backup]; b != nil && b.uid == uid {
		return b.of[vol]
	}
	return nil
}

// take returns a member's snapshot of its group, taking the group's at the
// first call: one zfs snapshot per node and pool, all side by side. It reports
// false for a member whose group could not be taken, and which has to be taken
// alone: one sick volume shall not cost the others their backup.
func (g *group) take(ctx context.Context, s *Snapshotter, vol VolumeID, order snapshotOrder) (SnapshotID, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.members) < 2 {
		return SnapshotID{}, false, nil
	}
	if g.tried {
		snap, ok := g.taken[vol]
		return snap, ok, nil
	}
	g.tried = true
	order.properties[PropGroup] = g.name
	delete(order.properties, PropVolume) // of one member
	g.record(order.properties)
	log := s.Log.WithField("group", g.name)

	parts := g.parts()
	start := time.Now()
	errs := make([]error, len(parts))
	results := make([][]SnapshotID, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() { results[i], errs[i] = s.takeTogether(ctx, part, order) })
	}
	wg.Wait()
	within := time.Since(start)

	var pools []string
	for i, part := range parts {
		pools = append(pools, part[0].Node+":"+poolOf(part[0].Dataset))
		for _, snap := range results[i] {
			g.taken[snap.Volume()] = snap
		}
		if errs[i] == nil {
			continue
		}
		if slices.Contains(part, vol) && Unreachable(errs[i]) {
			return SnapshotID{}, false, errs[i]
		}
		log.WithError(errs[i]).Warn("volumes are not snapshotted together but one after another")
	}
	if err := errors.Join(errs...); err == nil && len(parts) > 1 {
		log.WithFields(logrus.Fields{"pools": pools, "within": within}).Warn("volumes lie on several pools: their snapshots are not one point in time")
	}
	snap, ok := g.taken[vol]
	return snap, ok, nil
}

// maxRecords is how large a group may be for its snapshots to keep its claims: each
// keeps all of them.
const maxRecords = 32

// record has the snapshots of a group keep its claims.
func (g *group) record(properties map[string]string) {
	for member, claim := range g.claims {
		switch name := names.ClaimProperty(member.Dataset); {
		case len(g.claims) > maxRecords:
			delete(properties, name)
		case claim != "":
			properties[name] = claim
		}
	}
}

// parts splits a group into what one zfs snapshot can take.
func (g *group) parts() [][]VolumeID {
	var parts [][]VolumeID
	for _, vol := range g.members {
		i := slices.IndexFunc(parts, func(p []VolumeID) bool {
			return p[0].Node == vol.Node && poolOf(p[0].Dataset) == poolOf(vol.Dataset)
		})
		if i < 0 {
			parts = append(parts, nil)
			i = len(parts) - 1
		}
		parts[i] = append(parts[i], vol)
	}
	return parts
}

// describe is how a message names volumes that are taken together.
func describe(vols []VolumeID) string {
	if len(vols) == 1 {
		return vols[0].Dataset
	}
	return fmt.Sprintf("%s and %d more", vols[0].Dataset, len(vols)-1)
}
