package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// ListBackup implements agentpb.AgentServer. Only what the peer may read is
// searched; clones are told of wherever they lie.
func (s *Server) ListBackup(ctx context.Context, req *agentpb.ListBackupRequest) (*agentpb.ListBackupResponse, error) {
	if err := zfs.ValidateComponent(req.GetPrefix()); err != nil {
		return nil, fmt.Errorf("list snapshots of a backup: %w", err)
	}
	roots, err := s.roots(ctx, Read)
	if err != nil {
		return nil, err
	}
	if roots, err = s.orPools(ctx, roots); err != nil {
		return nil, err
	}
	resp := &agentpb.ListBackupResponse{}
	for _, root := range roots {
		vs, err := s.ZFS.VersionsBelow(ctx, root)
		if errors.Is(err, ErrNotFound) {
			continue // a prefix may be granted before there is anything
		}
		if err != nil {
			return nil, err
		}
		vs = slices.DeleteFunc(vs, func(v zfs.Version) bool {
			_, ok := names.UIDOf(v.Name, req.GetPrefix())
			return v.Bookmark || !ok
		})
		found, err := s.backupSnapshots(ctx, zfs.Pool(root), vs)
		if err != nil {
			return nil, err
		}
		resp.Snapshots = append(resp.Snapshots, found...)
	}
	return resp, nil
}

// orPools returns the pools where the one root stands for all of them.
func (s *Server) orPools(ctx context.Context, roots []string) ([]string, error) {
	if !slices.Equal(roots, []string{""}) {
		return roots, nil
	}
	pools, err := s.ZFS.Pools(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, p := range pools {
		all = append(all, p.Name)
	}
	return all, nil
}

// backupSnapshots tells of snapshots of one pool. One that goes away meanwhile is
// left out.
func (s *Server) backupSnapshots(ctx context.Context, pool string, vs []zfs.Version) ([]*agentpb.BackupSnapshot, error) {
	if len(vs) == 0 {
		return nil, nil
	}
	all, err := s.ZFS.Datasets(ctx, pool, true)
	if err != nil {
		return nil, err
	}
	found := make([]*agentpb.BackupSnapshot, len(vs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxProcesses)
	for i, v := range vs {
		g.Go(func() (err error) {
			if found[i], err = s.backupSnapshot(ctx, v, all); errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		})
	}
	err = g.Wait()
	return slices.DeleteFunc(found, func(b *agentpb.BackupSnapshot) bool { return b == nil }), err
}

func (s *Server) backupSnapshot(ctx context.Context, v zfs.Version, all []zfs.Dataset) (*agentpb.BackupSnapshot, error) {
	found := &agentpb.BackupSnapshot{Version: versionPB(v)}
	var err error
	if found.Version.Properties, err = s.ZFS.UserProperties(ctx, v.FullName(), zfs.SourceLocal); err != nil {
		return nil, err
	}
	dataset, err := s.ZFS.Get(ctx, v.Dataset, names.PropSource, names.PropFenced)
	if err != nil {
		return nil, err
	}
	found.Source, found.Fenced = set(dataset[names.PropSource]), set(dataset[names.PropFenced])
	going, err := s.ZFS.Get(ctx, v.FullName(), "defer_destroy")
	if err != nil {
		return nil, err
	}
	found.Going = going["defer_destroy"].Value == "on"
	found.Keeping, err = s.keeping(ctx, v, all)
	return found, err
}
