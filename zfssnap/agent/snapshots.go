package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// CreateSnapshots implements agentpb.AgentServer.
//
// A backup's window is the time this takes, and most of that is starting
// processes and waiting for the pool to sync. So the snapshot is taken without
// asking whether it exists, by a process that tells its guid too where that can be
// had, and the answer waits for nothing more: the hold, which takes as long as the
// snapshot, is placed afterwards.
func (s *Server) CreateSnapshots(ctx context.Context, req *agentpb.CreateSnapshotsRequest) (*agentpb.CreateSnapshotsResponse, error) {
	if len(req.GetDatasets()) == 0 {
		return nil, fmt.Errorf("create snapshots: %w: no datasets", ErrInvalid)
	}
	full := make([]string, 0, len(req.GetDatasets()))
	for _, d := range req.GetDatasets() {
		if err := s.allow(ctx, Snapshot, d); err != nil {
			return nil, err
		}
		if req.GetHold() != "" {
			if err := s.allow(ctx, Hold, d); err != nil {
				return nil, err
			}
		}
		name := d + "@" + req.GetName()
		if slices.Contains(full, name) {
			return nil, fmt.Errorf("create snapshots: %w: %s is named twice", ErrInvalid, d)
		}
		full = append(full, name)
	}
	if err := checkOurs(req.GetProperties()); err != nil {
		return nil, err
	}
	if req.GetHold() != "" {
		if err := holds.CheckTag(req.GetHold()); err != nil {
			return nil, err
		}
	}
	props := map[string]string{}
	maps.Copy(props, req.GetProperties())
	props[names.PropManaged] = "true"
	if prop, ok := holds.RecordProperty(req.GetHold()); ok {
		id, err := identity(ctx)
		if err != nil {
			return nil, err
		}
		props[prop] = holdRecord(id, props[names.PropBackup]).Encode()
	}

	start := s.Clock()
	vs, fresh, err := s.snapshotGroup(ctx, full, props, req.GetAllowSkew())
	if err != nil {
		return nil, err
	}
	took := s.Clock().Sub(start)
	if vs == nil {
		vs, err = s.ZFS.LookupAll(ctx, full...)
	}
	if req.GetHold() != "" {
		s.keep(req.GetHold(), full)
	}
	if err != nil {
		return nil, err
	}
	if fresh {
		s.taken.add(vs, props, s.Clock())
	} else {
		took = 0
	}
	resp := &agentpb.CreateSnapshotsResponse{Snapshots: versions(vs)}
	resp.Atomic, resp.SkewMs = skew(resp.GetSnapshots(), took)
	s.Log.Info("snapshots taken", "snapshots", full, "backup", props[names.PropBackup], "atomic", resp.GetAtomic(), "skew_ms", resp.GetSkewMs())
	return resp, nil
}

// keep holds snapshots in the background, and tries until each is held or gone,
// or is to be destroyed. When the agent ends before, keepUnheld does it at its
// next start. Replication does not rely on it: it places its own hold before it
// sends.
func (s *Server) keep(tag string, snapshots []string) {
	if s.holdings.begin(s.transfers.ctx, tag, snapshots, s.Clock()) {
		s.background.Go(func() { s.place(tag) })
	}
}

// place holds what keep was given under a tag, by one command for what is taken
// within HoldAfter of one another.
func (s *Server) place(tag string) {
	due := s.holdings.due(tag, s.HoldAfter)
	for wait := due.Sub(s.Clock()); wait > 0; wait = due.Sub(s.Clock()) {
		select {
		case <-time.After(wait):
			due = s.holdings.due(tag, s.HoldAfter)
		case <-s.transfers.ctx.Done():
			due = time.Time{}
		}
	}
	byPool := map[string][]*holding{}
	for _, h := range s.holdings.take(tag) {
		pool := zfs.Pool(h.snapshot)
		byPool[pool] = append(byPool[pool], h)
	}
	var wg sync.WaitGroup
	for _, of := range byPool {
		for some := range slices.Chunk(of, maxHeldTogether) {
			wg.Go(func() { s.holdTogether(tag, some) })
		}
	}
	wg.Wait()
}

// holdTogether holds snapshots of one pool by one command, and each by itself when
// that fails.
func (s *Server) holdTogether(tag string, held []*holding) {
	var names []string
	for _, h := range held {
		if h.ctx.Err() == nil {
			names = append(names, h.snapshot)
		}
	}
	err := s.hold(s.transfers.ctx, tag, names...)
	var wg sync.WaitGroup
	for _, h := range held {
		wg.Go(func() {
			defer s.holdings.end(h)
			if err != nil {
				s.holdAtLast(h.ctx, tag, h.snapshot)
			}
		})
	}
	wg.Wait()
}

// hold places holds that are not given up once it has begun with them.
func (s *Server) hold(ctx context.Context, tag string, snapshots ...string) error {
	if len(snapshots) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err := s.ZFS.Hold(ctx, tag, snapshots...)
	if err == nil {
		s.Log.Debug("snapshots held", "snapshots", snapshots, "tag", tag)
	}
	return err
}

// holdAtLast holds a snapshot unless it is gone, or ctx ends before.
func (s *Server) holdAtLast(ctx context.Context, tag, name string) {
	log := s.Log.With("snapshot", name, "tag", tag)
	for n := 1; ctx.Err() == nil; n++ {
		err := s.hold(ctx, tag, name)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrNotFound):
			log.Error("snapshot was destroyed before it was held", "error", err)
			return
		}
		delay := s.RetryDelay(n)
		log.Error("snapshot is not held yet", "delay", delay.String(), "error", err)
		_ = pause(ctx, delay) // the loop ends with ctx
	}
}

// keepUnheld holds what keep had no time to: snapshots of backups that came into
// being here, and that nothing holds.
func (s *Server) keepUnheld() {
	unheld, err := s.ZFS.Unheld(s.transfers.ctx, names.PropBackup, names.PropSource)
	if err != nil {
		s.Log.Error("cannot tell whether all snapshots of backups are held", "error", err)
		return
	}
	s.keep(names.HoldTag("backup"), unheld)
}

const (
	// maxHeldTogether bounds how many snapshots one command holds: for each of them
	// it waits for the pool to sync.
	maxHeldTogether = 64
	// holdWithin is how many times HoldAfter a snapshot waits at most for others to be
	// held with.
	holdWithin = 10
)

// holdings are the holds that keep has yet to place.
type holdings struct {
	mu         sync.Mutex
	bySnapshot map[string][]*holding
	waiting    map[string]*waiting // by tag
}

// waiting are the holds that one command is to place.
type waiting struct {
	holdings    []*holding
	first, last time.Time // when they began to wait
}

type holding struct {
	snapshot string
	ctx      context.Context
	stop     context.CancelFunc
	ended    chan struct{}
	// among is what it waits with, nil once it is being placed.
	among *waiting
}

// begin has holds wait to be placed, and reports whether they are the first ones:
// then somebody has to see to it.
func (hs *holdings) begin(ctx context.Context, tag string, snapshots []string, now time.Time) bool {
	if len(snapshots) == 0 {
		return false
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.bySnapshot == nil {
		hs.bySnapshot, hs.waiting = map[string][]*holding{}, map[string]*waiting{}
	}
	w, more := hs.waiting[tag]
	if !more {
		w = &waiting{first: now}
		hs.waiting[tag] = w
	}
	w.last = now
	for _, name := range snapshots {
		h := &holding{snapshot: name, ended: make(chan struct{}), among: w}
		h.ctx, h.stop = context.WithCancel(ctx)
		w.holdings = append(w.holdings, h)
		hs.bySnapshot[name] = append(hs.bySnapshot[name], h)
	}
	return !more
}

// due is when those that wait are to be placed: when no more have come for some
// time, and in any case after a multiple of that.
func (hs *holdings) due(tag string, after time.Duration) time.Time {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	w := hs.waiting[tag]
	due, latest := w.last.Add(after), w.first.Add(holdWithin*after)
	if due.After(latest) {
		return latest
	}
	return due
}

// take returns those that wait, which wait no more.
func (hs *holdings) take(tag string) []*holding {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	w := hs.waiting[tag]
	delete(hs.waiting, tag)
	for _, h := range w.holdings {
		h.among = nil
	}
	return w.holdings
}

func (hs *holdings) end(h *holding) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.drop(h)
}

func (hs *holdings) drop(h *holding) {
	h.stop()
	close(h.ended)
	hs.bySnapshot[h.snapshot] = slices.DeleteFunc(hs.bySnapshot[h.snapshot], func(x *holding) bool { return x == h })
	if len(hs.bySnapshot[h.snapshot]) == 0 {
		delete(hs.bySnapshot, h.snapshot)
	}
}

// stop gives up the holds of a snapshot that have yet to be placed. None is
// placed after it returns nil.
func (hs *holdings) stop(ctx context.Context, snapshot string) error {
	hs.mu.Lock()
	under := slices.Clone(hs.bySnapshot[snapshot])
	for _, h := range under {
		h.stop()
		if w := h.among; w != nil {
			w.holdings = slices.DeleteFunc(w.holdings, func(x *holding) bool { return x == h })
			hs.drop(h)
		}
	}
	hs.mu.Unlock()
	for _, h := range under {
		select {
		case <-h.ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for the hold of %s: %w", snapshot, ctx.Err())
		}
	}
	return nil
}

// SkewError says why a group of snapshots cannot be of one instant.
type SkewError struct {
	Pools []string // that it spans, when there are several
	Taken []string // snapshots of it that exist already
	Rest  []string // and those that do not
}

func (e *SkewError) Error() string {
	if len(e.Pools) > 1 {
		return fmt.Sprintf("%v: %s; snapshots of two pools cannot be of one instant", zfs.ErrSeveralPools, strings.Join(e.Pools, " and "))
	}
	return fmt.Sprintf("%v: %s was taken before, and %s was not", ErrSkew, strings.Join(e.Taken, ", "), strings.Join(e.Rest, ", "))
}

// Unwrap returns zfs.ErrSeveralPools or ErrSkew.
func (e *SkewError) Unwrap() error {
	if len(e.Pools) > 1 {
		return zfs.ErrSeveralPools
	}
	return ErrSkew
}

// Hint says which choices there are.
func (e *SkewError) Hint() string {
	return "nothing was taken; put the volumes of an application on one pool, back them up separately, or allow skew by name (allow_skew)"
}

// snapshotGroup takes the snapshots of a group, those of one pool in one
// command. It returns them, or nil when they have yet to be looked up, and whether
// all are new.
func (s *Server) snapshotGroup(ctx context.Context, full []string, props map[string]string, allowSkew bool) (vs []zfs.Version, fresh bool, err error) {
	byPool := map[string][]string{}
	for _, name := range full {
		byPool[zfs.Pool(name)] = append(byPool[zfs.Pool(name)], name)
	}
	pools := slices.Sorted(maps.Keys(byPool))
	if len(pools) > 1 && !allowSkew {
		return nil, false, &SkewError{Pools: pools}
	}
	var there atomic.Bool
	taken := make([][]zfs.Version, len(pools))
	g, ctx := errgroup.WithContext(ctx)
	for i, pool := range pools {
		g.Go(func() (err error) {
			taken[i], err = s.ZFS.TakeSnapshots(ctx, byPool[pool], props)
			if errors.Is(err, ErrExists) {
				there.Store(true)
				err = s.createMissing(ctx, byPool[pool], props, allowSkew)
			}
			return err
		})
	}
	err = g.Wait()
	if vs = slices.Concat(taken...); len(vs) < len(full) {
		vs = nil
	}
	slices.SortFunc(vs, func(a, b zfs.Version) int {
		return cmp.Compare(slices.Index(full, a.FullName()), slices.Index(full, b.FullName()))
	})
	return vs, !there.Load(), err
}

// createMissing takes those snapshots of a group that do not exist. The others
// must be the same backup's.
func (s *Server) createMissing(ctx context.Context, full []string, props map[string]string, allowSkew bool) error {
	var there, missing []string
	for _, name := range full {
		have, err := s.ZFS.UserProperties(ctx, name, zfs.SourceLocal)
		switch {
		case errors.Is(err, ErrNotFound):
			missing = append(missing, name)
			continue
		case err != nil:
			return err
		case have[names.PropManaged] != "true":
			return fmt.Errorf("snapshot %s %w and is not ours", name, ErrExists)
		case have[names.PropBackup] != props[names.PropBackup]:
			return fmt.Errorf("snapshot %s %w and is of backup %q, not %q", name, ErrExists, have[names.PropBackup], props[names.PropBackup])
		}
		there = append(there, name)
	}
	if len(missing) == 0 {
		return nil
	}
	if !allowSkew && len(there) > 0 {
		return &SkewError{Taken: there, Rest: missing}
	}
	return s.ZFS.Snapshot(ctx, missing, props)
}

// skew tells how far apart snapshots are: not at all, within the time it took to
// take them, or, when that is not known (0), within what their times say.
func skew(vs []*agentpb.Version, took time.Duration) (atomic bool, ms uint64) {
	first, last := vs[0], vs[0]
	atomic = true
	for _, v := range vs[1:] {
		if v.GetCreatedUnix() < first.GetCreatedUnix() {
			first = v
		}
		if v.GetCreatedUnix() > last.GetCreatedUnix() {
			last = v
		}
		atomic = atomic && v.GetCreatetxg() == vs[0].GetCreatetxg() && zfs.Pool(v.GetDataset()) == zfs.Pool(vs[0].GetDataset())
	}
	switch {
	case atomic:
		return true, 0
	case took > 0:
		return false, uint64((took + time.Millisecond - 1) / time.Millisecond)
	default:
		// Times of snapshots are in whole seconds.
		return false, uint64(last.GetCreatedUnix()-first.GetCreatedUnix()+1) * 1000
	}
}

// DestroySnapshot implements agentpb.AgentServer.
//
// The snapshot is destroyed with zfs destroy -d: one that has clones, that
// others hold, or that a replica needs as its newest, goes with the last of
// them, and expiry never fails because of it.
func (s *Server) DestroySnapshot(ctx context.Context, req *agentpb.DestroySnapshotRequest) (*agentpb.DestroySnapshotResponse, error) {
	if err := s.allow(ctx, Destroy, req.GetDataset()); err != nil {
		return nil, err
	}
	name := req.GetDataset() + "@" + req.GetName()
	if err := s.holdings.stop(ctx, name); err != nil {
		return nil, err
	}
	v, err := s.ZFS.Lookup(ctx, name)
	if errors.Is(err, ErrNotFound) || err == nil && req.GetGuid() != 0 && v.GUID != req.GetGuid() {
		// One of that name and another guid is not the one meant.
		return &agentpb.DestroySnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	props, err := s.ZFS.UserProperties(ctx, name, zfs.SourceLocal)
	if err != nil {
		return nil, err
	}
	if props[names.PropManaged] != "true" {
		return nil, fmt.Errorf("destroy %s: %w: %s is not set on it", name, ErrForeign, names.PropManaged)
	}
	fence, err := s.ZFS.Get(ctx, req.GetDataset(), names.PropFenced)
	if err != nil {
		return nil, err
	}
	if by := set(fence[names.PropFenced]); by != "" {
		return nil, fmt.Errorf("destroy %s: %w: by %s", name, ErrFenced, by)
	}
	if id := s.transfers.using(req.GetDataset(), v.GUID); id != "" {
		return nil, fmt.Errorf("destroy %s: %w: transfer %s needs it", name, ErrBusy, id)
	}
	if v.UserRefs > 0 {
		tags, err := s.ZFS.Holds(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, h := range tags {
			if holds.Ours(h.Tag) && h.Tag != replicaHold {
				if err := s.ZFS.Release(ctx, h.Tag, name); err != nil {
					return nil, err
				}
			}
		}
	}
	if err := s.ZFS.DestroySnapshots(ctx, req.GetDataset(), []string{req.GetName()}, true); err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	s.taken.forget(name)
	resp := &agentpb.DestroySnapshotResponse{Existed: true}
	vs, err := s.ZFS.Versions(ctx, req.GetDataset())
	if err != nil {
		return nil, err
	}
	for _, left := range vs {
		switch {
		case left.GUID != v.GUID:
		case left.Bookmark:
			resp.KeptBookmark = resp.KeptBookmark || strings.HasPrefix(left.Name, replicate.CursorPrefix)
		default:
			all, err := s.ZFS.Datasets(ctx, zfs.Pool(name), true)
			if err != nil {
				return nil, err
			}
			if resp.WaitsFor, err = s.keeping(ctx, left, all); err != nil {
				return nil, err
			}
			s.Log.Info("snapshot goes when nothing depends on it any more", "snapshot", name)
		}
	}
	s.Log.Info("snapshot destroyed", "snapshot", name, "guid", v.GUID, "bookmark", resp.KeptBookmark)
	return resp, nil
}

// held names the snapshots that have holds.
func held(vs []zfs.Version) []string {
	var full []string
	for _, v := range vs {
		if !v.Bookmark && v.UserRefs > 0 {
			full = append(full, v.FullName())
		}
	}
	return full
}
