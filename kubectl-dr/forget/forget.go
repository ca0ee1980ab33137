// Package forget destroys the snapshots of a backup that Velero knows no more, and
// their copies, as Velero's plugin does when a backup is deleted. It prints
// nothing.
package forget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// lookTimeout bounds looking for the snapshots of a backup on a host.
const lookTimeout = 2 * time.Minute

// MinAge is how old snapshots are at least whose backup would be known if there
// was one: while it runs it is known at the source alone, where it may wait for its
// copies for long.
const MinAge = 24 * time.Hour

// State is what becomes of a snapshot, or a copy.
type State string

// The states.
const (
	// Destroy: it will be destroyed.
	Destroy State = "to destroy"
	// Destroyed: it was.
	Destroyed State = "destroyed"
	// Later: it is destroyed when nothing keeps it any more.
	Later State = "later"
	// Kept: it stays, as it does when Velero deletes a backup.
	Kept State = "kept"
	// Known: it is of a backup that Velero knows, and is not touched.
	Known State = "known"
	// Blocked: it is in the way; nothing is destroyed.
	Blocked State = "blocked"
)

// Item is a snapshot, a copy of one, or a restore point in an archive.
type Item struct {
	Node string // that has it, or reaches the archive
	// Archive has it; "" for a snapshot on the node.
	Archive string
	Name    string // dataset@snapshot
	// UID are the digits of the backup's uid that its name ends in.
	UID string
	// ID is the snapshot as it was taken, of which this may be a copy.
	ID   zfssnap.SnapshotID
	Used uint64 // bytes that are freed with it
	State
	// Reason says why the state is what it is.
	Reason string

	found *agentpb.BackupSnapshot // nil in an archive
	// undone: something is to be done about it.
	undone bool
}

// Copy reports whether it is a copy of a snapshot that was taken elsewhere.
func (i Item) Copy() bool { return i.Archive != "" || i.Node+":"+i.Name != i.ID.Node+":"+i.ID.Name() }

func (i Item) String() string {
	if i.Archive != "" {
		return "archive " + i.Archive + ":" + i.Name
	}
	return i.Node + ":" + i.Name
}

// Forgetter destroys what is left of backups.
type Forgetter struct {
	// Recovery is the cluster whose snapshot locations name the agents. Its Velero,
	// and those of Others, may know a backup.
	Recovery *cluster.Cluster
	Others   []*cluster.Cluster
	Storage  *cluster.Storage
	Now      func() time.Time

	// UID chooses among backups of one name: what of it is in the names of snapshots,
	// "" for the only one.
	UID string
	// MinAge is how old the newest snapshot has to be.
	MinAge time.Duration
	// Unsynced goes on though Velero of the recovery cluster can't tell whether its
	// storage locations have the backup.
	Unsynced bool
	// Gone are nodes that are lost for good: they are not asked, and nothing will be
	// sent from them.
	Gone []string
	// Warn is told of what had to stay.
	Warn func(string)
}

// Plan is what is there of a backup, and what becomes of it.
type Plan struct {
	Backup string
	Items  []Item
	// Refused says why nothing is destroyed, nil for no reason.
	Refused error
}

// ToDo reports whether anything is left to do.
func (p *Plan) ToDo() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool { return i.undone })
}

// Plan looks for what is there of a backup. Nothing is changed.
func (f *Forgetter) Plan(ctx context.Context, backup string) (*Plan, error) {
	items, err := f.look(ctx, backup)
	if err != nil {
		return nil, err
	}
	p := &Plan{Backup: backup, Items: items}
	if len(items) == 0 {
		return p, nil
	}
	known, unclear, err := f.known(ctx, backup)
	if err != nil {
		return nil, err
	}
	if f.UID != "" {
		p.Items = slices.DeleteFunc(p.Items, func(i Item) bool { return i.UID != f.UID })
	}
	for i := range p.Items {
		item := &p.Items[i]
		if by, ok := known[item.UID]; ok {
			item.State, item.Reason = Known, by
			continue
		}
		f.judge(ctx, backup, item)
	}
	p.Items = append(p.Items, f.archived(ctx, p.Items)...)
	p.Refused, err = f.refuse(ctx, p, unclear)
	return p, err
}

// look finds the snapshots that are named as those of a backup, and what they are
// copies of.
func (f *Forgetter) look(ctx context.Context, backup string) ([]Item, error) {
	var nodes []string
	for _, l := range f.Storage.Locations {
		nodes = slices.AppendSeq(nodes, maps.Keys(l.Location.Agents))
	}
	nodes = slices.DeleteFunc(nodes, func(node string) bool { return slices.Contains(f.Gone, node) })
	if len(nodes) == 0 && len(f.Gone) > 0 {
		return nil, fmt.Errorf("no node is left to ask: %s are said to be gone", strings.Join(f.Gone, ", "))
	}
	stem := zfssnap.SnapshotStem(backup)
	replies, err := cluster.AskAgents(ctx, f.Storage, nodes, lookTimeout, f.Now, func(ctx context.Context, a cluster.Agent) (*agentpb.ListBackupResponse, error) {
		return a.ListBackup(ctx, &agentpb.ListBackupRequest{Prefix: stem})
	})
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, r := range replies {
		if r.Err != nil {
			return nil, unasked(backup, r.Node, r.Err)
		}
		for _, s := range r.Said.GetSnapshots() {
			items = append(items, item(r.Node, stem, s))
		}
	}
	return items, f.checkGone(items)
}

// checkGone refuses what is no node that anything is known of.
func (f *Forgetter) checkGone(items []Item) error {
	for _, node := range f.Gone {
		named := slices.ContainsFunc(f.Storage.Locations, func(l cluster.Location) bool { return l.Location.Agents[node] != "" })
		if len(items) > 0 && !named && !slices.ContainsFunc(items, func(i Item) bool { return i.ID.Node == node }) {
			return &zfssnap.NoAgentError{Node: node}
		}
	}
	return nil
}

// unasked is the error of a node that did not say what it has.
func unasked(backup, node string, err error) error {
	failed := fmt.Errorf("look for snapshots of backup %s on node %s: %w", backup, node, err)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return hint.Add(failed, "its zfs-agent is of an earlier version: upgrade it")
	case errors.Is(err, agent.ErrUnreachable):
		return hint.Add(failed, fmt.Sprintf("start zfs-agent there and make it reachable from here; if the host is lost for good, say so with --gone=%s", node))
	}
	return failed
}

func item(node, stem string, s *agentpb.BackupSnapshot) Item {
	v := s.GetVersion()
	i := Item{Node: node, Name: v.GetDataset() + "@" + v.GetName(), Used: v.GetUsed(), found: s}
	i.UID, _ = names.UIDOf(v.GetName(), stem)
	i.ID = zfssnap.SnapshotID{Node: node, Dataset: v.GetDataset(), Snapshot: v.GetName(), GUID: v.GetGuid(), Created: time.Unix(v.GetCreatedUnix(), 0)}
	// A copy says where it comes from.
	source := v.GetProperties()[zfssnap.PropSource]
	if source == "" {
		source = s.GetSource()
	}
	if from, dataset, ok := strings.Cut(source, ":"); ok {
		i.ID.Node, i.ID.Dataset = from, dataset
	}
	return i
}

// judge says what becomes of a snapshot, by the rules that Velero's deletions go
// by. What somebody depends on is in the way: it was not asked for.
func (f *Forgetter) judge(ctx context.Context, backup string, i *Item) {
	props := i.found.GetVersion().GetProperties()
	i.State, i.Reason, i.undone = Destroy, "", true
	is := func(s State, reason string) { i.State, i.Reason, i.undone = s, reason, s == Destroy }
	switch {
	case props[zfssnap.PropManaged] != "true" && f.tools(i.Node):
		is(Kept, "another tool brought it, and expires it")
		return
	case props[zfssnap.PropManaged] != "true":
		is(Blocked, "it is not known to be ours: "+zfssnap.PropManaged+" is not set on it")
		return
	case props[zfssnap.PropBackup] != backup:
		is(Blocked, fmt.Sprintf("%s says that it is of backup %q", zfssnap.PropBackup, props[zfssnap.PropBackup]))
		return
	case i.found.GetFenced() != "":
		is(Kept, "fenced by "+i.found.GetFenced())
		return
	}
	if reason := f.stays(ctx, *i); reason != "" {
		is(Kept, reason)
		return
	}
	var all, needed []string
	newest := false
	for _, d := range i.found.GetKeeping() {
		what := d.GetKind() + " " + d.GetName()
		all = append(all, what)
		switch d.GetName() {
		case zfssnap.HoldTag(names.HoldReplica):
			newest = true
		case zfssnap.HoldTag(names.HoldBackup), zfssnap.HoldTag(names.HoldReplication):
		default:
			needed = append(needed, what)
		}
	}
	switch {
	case i.found.GetGoing() && len(all) > 0:
		is(Later, "it goes with the last that keeps it: "+strings.Join(all, ", "))
	case len(needed) > 0:
		is(Blocked, "needed by "+strings.Join(needed, ", "))
	case newest:
		i.State, i.Reason = Later, "the newest of a replica: it goes when a newer one has arrived"
	}
}

// tools reports whether another tool replicates to a node.
func (f *Forgetter) tools(node string) bool {
	return slices.ContainsFunc(f.Storage.Locations, func(l cluster.Location) bool { return l.External() && l.Target == node })
}

// stays says why a deletion would leave a snapshot or copy, "" when it would not.
func (f *Forgetter) stays(ctx context.Context, i Item) string {
	if !i.Copy() {
		for _, site := range f.leading(i.ID) {
			if itself, _ := site.Stays(ctx, i.ID); itself != nil {
				return itself.Error()
			}
		}
		return ""
	}
	reason := fmt.Sprintf("no VolumeSnapshotLocation has copies of %s:%s there", i.ID.Node, i.ID.Dataset)
	for _, site := range f.leading(i.ID) {
		at, ok := site.Destination(i.ID.Node, i.ID.Dataset)
		if !ok || at.Node != i.Node || at.Dataset != i.found.GetVersion().GetDataset() {
			continue
		}
		_, copied := site.Stays(ctx, i.ID)
		if copied == nil {
			return ""
		}
		reason = copied.Error()
	}
	return reason
}

// leading are the locations by which a snapshot is deleted: those that name its
// node, or all when none does.
func (f *Forgetter) leading(id zfssnap.SnapshotID) []*zfssnap.Site {
	var naming, all []*zfssnap.Site
	for _, l := range f.Storage.Locations {
		site := l.Site(f.Recovery.Client)
		site.Gone = f.Gone
		all = append(all, site)
		if _, ok := l.Location.Agents[id.Node]; ok {
			naming = append(naming, site)
		}
	}
	if len(naming) > 0 {
		return naming
	}
	return all
}

// archived finds the restore points of snapshots in archives of the locations that
// lead to them, which a deletion deletes too.
func (f *Forgetter) archived(ctx context.Context, items []Item) []Item {
	var points []Item
	for _, i := range items {
		if i.State != Destroy && i.State != Later || slices.Contains(f.Gone, i.ID.Node) {
			continue
		}
		for _, site := range f.leading(i.ID) {
			point := Item{Node: i.ID.Node, Archive: site.Archive, Name: i.ID.Name(), UID: i.UID, ID: i.ID}
			if site.Archive == "" || slices.ContainsFunc(points, func(p Item) bool { return p.String() == point.String() }) {
				continue
			}
			if f.restorePoint(ctx, &point) {
				points = append(points, point)
			}
		}
	}
	return points
}

// restorePoint tells of one in an archive, and reports whether it is there. It may
// be in one that can't be asked: then it stays, as the rules have it.
func (f *Forgetter) restorePoint(ctx context.Context, i *Item) bool {
	said, err := f.Storage.Archived(ctx, i.Node, i.Archive, i.ID.Dataset)
	if err != nil {
		i.State, i.Reason, i.undone = Kept, "it may be there: "+err.Error(), false
		return true
	}
	i.State, i.Reason, i.undone = Destroy, "", true
	there := false
	for _, a := range said {
		switch i.ID.GUID {
		case a.GetGuid():
			there, i.Used = true, a.GetStoredBytes()
		case a.GetBase():
			i.State, i.Reason, i.undone = Kept, "others are based on it: it goes with them", false
		}
	}
	return there
}

// Apply destroys what a plan says, and puts into it what became of each. What had
// to stay by the rules is no error.
func (f *Forgetter) Apply(ctx context.Context, p *Plan) error {
	if p.Refused != nil {
		return p.Refused
	}
	var errs, left []error
	var deleted []zfssnap.SnapshotID
	for _, i := range p.Items {
		if !i.undone || slices.Contains(deleted, i.ID) {
			continue
		}
		deleted = append(deleted, i.ID)
		for _, site := range f.leading(i.ID) {
			stays, err := site.Delete(ctx, i.ID)
			errs, left = append(errs, err), append(left, stays...)
		}
	}
	unfinished, err := f.see(ctx, p)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if unfinished {
		return errors.Join(append(errs, left...)...)
	}
	for _, err := range left {
		f.Warn(err.Error())
	}
	return errors.Join(errs...)
}

// see looks what became of a plan's items, and reports whether any is there that
// should not be.
func (f *Forgetter) see(ctx context.Context, p *Plan) (unfinished bool, err error) {
	there, err := f.look(ctx, p.Backup)
	if err != nil {
		return false, err
	}
	for n := range p.Items {
		i := &p.Items[n]
		if i.State == Known {
			continue
		}
		is := false
		if i.Archive != "" {
			is = f.restorePoint(ctx, i)
		} else if at := slices.IndexFunc(there, i.same); at >= 0 {
			i.found, is = there[at].found, true
			f.judge(ctx, p.Backup, i)
		}
		if !is {
			i.State, i.Reason, i.undone = Destroyed, "", false
		}
		unfinished = unfinished || i.undone
	}
	return unfinished, nil
}

func (i *Item) same(o Item) bool {
	return o.Node == i.Node && o.Name == i.Name && o.ID.GUID == i.ID.GUID
}
