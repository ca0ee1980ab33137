package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// maxProcesses bounds how many zfs(8) processes one request runs at a time.
const maxProcesses = 8

// CreateSnapshots implements agentpb.AgentServer.
//
// A backup's window is the time this takes, and most of that is starting
// processes and waiting for the pool to sync. So the snapshot is taken without
// asking whether it exists, and the answer waits for nothing more than its guid:
// the hold, which takes as long as the snapshot, is placed meanwhile.
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

	err := s.ZFS.Snapshot(ctx, full, props)
	if errors.Is(err, ErrExists) {
		err = s.createMissing(ctx, full, props)
	}
	if err != nil {
		return nil, err
	}
	if req.GetHold() != "" {
		s.background.Go(func() { s.keep(req.GetHold(), full) })
	}
	vs, err := s.ZFS.LookupAll(ctx, full...)
	if err != nil {
		return nil, err
	}
	s.Log.Info("snapshots taken", "snapshots", full, "backup", props[names.PropBackup])
	return &agentpb.CreateSnapshotsResponse{Snapshots: versions(vs)}, nil
}

// keep holds snapshots, and tries until each is held or gone. When the agent
// ends before, keepUnheld does it at its next start. Replication does not rely
// on it: it places its own hold before it sends.
func (s *Server) keep(tag string, snapshots []string) {
	g := errgroup.Group{}
	g.SetLimit(maxProcesses)
	for _, name := range snapshots {
		g.Go(func() error {
			for n := 1; ; n++ {
				// A hold that is being placed is not given up when the agent stops.
				ctx, cancel := context.WithTimeout(context.WithoutCancel(s.transfers.ctx), settleTimeout)
				err := s.ZFS.Hold(ctx, tag, name)
				cancel()
				log := s.Log.With("snapshot", name, "tag", tag)
				switch {
				case err == nil:
					log.Debug("snapshot held")
					return nil
				case errors.Is(err, ErrNotFound):
					log.Error("snapshot was destroyed before it was held", "error", err)
					return nil
				}
				delay := s.RetryDelay(n)
				log.Error("snapshot is not held yet", "delay", delay.String(), "error", err)
				select {
				case <-time.After(delay):
				case <-s.transfers.ctx.Done():
					return nil
				}
			}
		})
	}
	_ = g.Wait()
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

// createMissing takes those snapshots of a group that do not exist. The others
// must be the same backup's.
func (s *Server) createMissing(ctx context.Context, full []string, props map[string]string) error {
	var missing []string
	for _, name := range full {
		have, err := s.ZFS.UserProperties(ctx, name, zfs.SourceLocal)
		switch {
		case errors.Is(err, ErrNotFound):
			missing = append(missing, name)
		case err != nil:
			return err
		case have[names.PropManaged] != "true":
			return fmt.Errorf("snapshot %s %w and is not ours", name, ErrExists)
		case have[names.PropBackup] != props[names.PropBackup]:
			return fmt.Errorf("snapshot %s %w and is of backup %q, not %q", name, ErrExists, have[names.PropBackup], props[names.PropBackup])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return s.ZFS.Snapshot(ctx, missing, props)
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
