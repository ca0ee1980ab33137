package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// What to do about pools that are not taken over.
const (
	hintMultihost      = "where the pool is imported: zpool set multihost=on POOL, once every host that reaches it has a hostid of its own (zgenhostid)"
	hintHostID         = "give this host a hostid of its own with zgenhostid, and load the zfs module anew"
	hintActive         = "switch that host off, or cut it off from the disks; then try again. Never make ZFS import it while that host lives"
	hintUnseen         = "if the host that had the pool may still reach those disks, switch it off first; then say that it is fenced"
	hintUnseenExported = "connect those disks: the pool was exported, which says nothing of disks that were not seen there either"
)

// GetPool implements agentpb.AgentServer.
func (s *Server) GetPool(ctx context.Context, req *agentpb.GetPoolRequest) (*agentpb.PoolState, error) {
	if err := s.allow(ctx, Read, req.GetName()); err != nil {
		return nil, err
	}
	return s.poolState(ctx, req.GetName())
}

func (s *Server) poolState(ctx context.Context, pool string) (*agentpb.PoolState, error) {
	host, id, err := s.ZFS.Host(ctx)
	if err != nil {
		return nil, err
	}
	return s.poolSeenBy(ctx, host, id, pool)
}

// poolSeenBy is poolState on a host, this one, whose name and hostid are known.
func (s *Server) poolSeenBy(ctx context.Context, host string, id uint64, pool string) (*agentpb.PoolState, error) {
	p := &agentpb.PoolState{Name: pool, OwnHostid: id}
	have, err := s.ZFS.PoolState(ctx, pool)
	if err == nil {
		p.Imported, p.Guid, p.Health, p.Multihost, p.Cached = true, have.GUID, have.Health, have.Multihost, have.Cached
		p.Host, p.Hostid = host, id
		props, err := s.ZFS.Get(ctx, pool, names.PropTaken)
		p.TakenBy = set(props[names.PropTaken])
		return p, err
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	found, err := s.ZFS.Importable(ctx)
	if err != nil {
		return nil, err
	}
	var all []zfs.Importable
	for _, f := range found {
		if f.Name == pool {
			all = append(all, f)
		}
	}
	switch len(all) {
	case 0:
		return nil, fmt.Errorf("pool %s: %w: no disk of it is seen here", pool, ErrNotFound)
	case 1:
	default:
		return nil, fmt.Errorf("pool %s: %w: the disks of %d pools of that name are seen here", pool, ErrMismatch, len(all))
	}
	f := all[0]
	p.Guid, p.Health, p.Active, p.Host, p.Hostid, p.Unseen = f.GUID, f.Health, f.Active, f.Host, f.HostID, f.Unseen
	if f.NoHostID {
		p.OwnHostid = 0
	}
	if f.Active || f.NoHostID {
		p.Multihost = true
		return p, nil
	}
	label, err := s.ZFS.PoolLabel(ctx, pool)
	if err != nil {
		return nil, err
	}
	if label.GUID != f.GUID {
		return nil, fmt.Errorf("pool %s: %w: it has guid %d, and %d", pool, ErrMismatch, f.GUID, label.GUID)
	}
	p.Multihost, p.Host, p.Hostid, p.Exported = label.Multihost, label.Host, label.HostID, label.Exported
	return p, nil
}

// ImportPool implements agentpb.AgentServer.
func (s *Server) ImportPool(ctx context.Context, req *agentpb.ImportPoolRequest) (*agentpb.PoolState, error) {
	pool := req.GetName()
	deed := "import pool " + pool
	moved, err := s.move(ctx, deed, pool)
	if err != nil {
		return nil, err
	}
	defer moved()
	host, id, err := s.ZFS.Host(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.poolSeenBy(ctx, host, id, pool)
	if err != nil {
		return nil, err
	}
	if !p.GetImported() {
		if err := movable(deed, host, p, req.GetFenced()); err != nil {
			return nil, err
		}
		// Force is about the host that had it last. With multihost on, ZFS watches the
		// disks anew all the same, and does not import what is written to.
		err = s.ZFS.Import(ctx, pool, !p.GetExported() && p.GetHostid() != p.GetOwnHostid())
		if errors.Is(err, ErrInUse) {
			return nil, hint.Add(fmt.Errorf("%s: %w", deed, err), hintActive)
		}
		if err != nil {
			return nil, err
		}
		s.Log.Info("pool imported", "pool", pool, "by", req.GetBy(), "from", p.GetHost(), "exported", p.GetExported(), "unseen", p.GetUnseen())
	}
	if by := req.GetBy(); by != "" {
		if err := s.ZFS.Set(ctx, pool, map[string]string{names.PropTaken: s.Node + ":" + by}); err != nil {
			return nil, err
		}
	}
	return s.poolSeenBy(ctx, host, id, pool)
}

// move begins to import or export a pool, one caller at a time, until moved is called.
func (s *Server) move(ctx context.Context, deed, pool string) (moved func(), err error) {
	if err := s.allow(ctx, Move, pool); err != nil {
		return nil, err
	}
	if _, busy := s.making.LoadOrStore(pool, true); busy {
		return nil, fmt.Errorf("%s: %w: it is being imported or exported", deed, ErrBusy)
	}
	return func() { s.making.Delete(pool) }, nil
}

// movable returns why a pool may not be imported here.
func movable(deed, host string, p *agentpb.PoolState, fenced bool) error {
	switch {
	case p.GetActive():
		return hint.Add(fmt.Errorf("%s: %w: %s (hostid %x) has it imported", deed, ErrInUse, p.GetHost(), p.GetHostid()), hintActive)
	case p.GetOwnHostid() == 0:
		return hint.Add(fmt.Errorf("%s: %w", deed, zfs.ErrNoHostID), hintHostID)
	case !p.GetMultihost():
		return hint.Add(fmt.Errorf("%s: %w: its multihost is off", deed, ErrUnprotected), hintMultihost)
	case !p.GetExported() && p.GetHostid() == p.GetOwnHostid() && p.GetHost() != host:
		return hint.Add(fmt.Errorf("%s: %w: %s had it last, which has the hostid of this host, %x", deed, ErrUnprotected, p.GetHost(), p.GetHostid()), hintHostID)
	case len(p.GetUnseen()) > 0 && !fenced:
		unseen, why, what := strings.Join(p.GetUnseen(), ", "), "to which "+p.GetHost()+" may still write", hintUnseen
		if p.GetExported() {
			why, what = "and what was written last may be there alone", hintUnseenExported
		}
		return hint.Add(fmt.Errorf("%s: %w: this host does not see %s, %s", deed, ErrUnprotected, unseen, why), what)
	}
	return nil
}

// ExportPool implements agentpb.AgentServer.
func (s *Server) ExportPool(ctx context.Context, req *agentpb.GetPoolRequest) (*agentpb.PoolState, error) {
	pool := req.GetName()
	deed := "export pool " + pool
	moved, err := s.move(ctx, deed, pool)
	if err != nil {
		return nil, err
	}
	defer moved()
	have, err := s.ZFS.PoolState(ctx, pool)
	switch {
	case errors.Is(err, ErrNotFound):
		return s.poolState(ctx, pool)
	case err != nil:
		return nil, err
	case !have.Multihost:
		return nil, hint.Add(fmt.Errorf("%s: %w: its multihost is off", deed, ErrUnprotected), hintMultihost)
	}
	if err := s.ZFS.Export(ctx, pool); err != nil {
		return nil, err
	}
	s.Log.Info("pool exported", "pool", pool)
	return s.poolState(ctx, pool)
}
