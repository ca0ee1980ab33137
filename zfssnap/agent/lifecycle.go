package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Kinds of what depends on a dataset or snapshot, besides the types of datasets.
const (
	kindSnapshot = "snapshot"
	kindBookmark = "bookmark"
	kindClone    = "clone"
	kindHold     = "hold"
)

// BlockedError says what stands in the way of a change.
type BlockedError struct {
	Deed   string // "destroy tank/a"
	Blocks []*agentpb.Dependent
}

func (e *BlockedError) Error() string {
	var parts []string
	for _, b := range e.Blocks {
		parts = append(parts, fmt.Sprintf("%s %s (%s)", b.GetKind(), b.GetName(), b.GetReason()))
	}
	return fmt.Sprintf("%s: it %v: %s", e.Deed, e.Unwrap(), strings.Join(parts, ", "))
}

// Unwrap returns the cause that the first of the blocks stands for.
func (e *BlockedError) Unwrap() error {
	switch e.Blocks[0].GetKind() {
	case kindClone:
		return ErrHasClones
	case kindHold:
		return ErrHeld
	default:
		return ErrHasChildren
	}
}

// ourVolume returns what is set on a volume that is ours, and no replica. What an
// archive has not given all of yet is no replica.
func (s *Server) ourVolume(ctx context.Context, deed, name string, match map[string]string) (map[string]string, error) {
	props, err := s.ZFS.UserProperties(ctx, name, zfs.SourceLocal)
	if err != nil {
		return nil, err
	}
	switch {
	case props[names.PropManaged] != "true":
		return nil, fmt.Errorf("%s: %w: %s is not set on it", deed, ErrForeign, names.PropManaged)
	case props[names.PropSource] != "" && !isRestoring(props):
		return nil, fmt.Errorf("%s: %w: it is the replica of %s, not a volume", deed, ErrMismatch, props[names.PropSource])
	}
	for prop, want := range match {
		if props[prop] != want {
			return nil, fmt.Errorf("%s: %w: it has %s %q, not %q", deed, ErrMismatch, prop, props[prop], want)
		}
	}
	return props, nil
}

// DestroyVolume implements agentpb.AgentServer.
func (s *Server) DestroyVolume(ctx context.Context, req *agentpb.DestroyVolumeRequest) (*agentpb.DestroyVolumeResponse, error) {
	name := req.GetDataset()
	if err := s.allow(ctx, Destroy, name); err != nil {
		return nil, err
	}
	deed := "destroy " + name
	props, err := s.ourVolume(ctx, deed, name, req.GetMatch())
	if errors.Is(err, ErrNotFound) {
		return &agentpb.DestroyVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	// The snapshots that it came with were made with it.
	resp, err := s.planDestroy(ctx, name, req.GetWithDependents() || isRestoring(props))
	if err != nil || req.GetDryRun() {
		return resp, err
	}
	return resp, s.destroyPlanned(ctx, deed, resp)
}

// destroyPlanned carries out what planDestroy said.
func (s *Server) destroyPlanned(ctx context.Context, deed string, resp *agentpb.DestroyVolumeResponse) (err error) {
	if len(resp.GetBlocks()) > 0 {
		return &BlockedError{Deed: deed, Blocks: resp.GetBlocks()}
	}
	// One by one, never with -r: what was made meanwhile is not in the plan.
	for _, d := range resp.GetGoes() {
		switch dataset, _, version := zfs.SplitVersion(d.GetName()); d.GetKind() {
		case kindSnapshot:
			err = s.ZFS.DestroySnapshots(ctx, dataset, []string{version}, false)
		case kindBookmark: // goes with its dataset
		default:
			err = s.ZFS.Destroy(ctx, d.GetName(), zfs.DestroyOptions{})
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	s.Log.Info("volume destroyed", "deed", deed, "with", len(resp.GetGoes())-1)
	return nil
}

// planDestroy says what would go with a volume, children first, and what is in
// the way of that.
func (s *Server) planDestroy(ctx context.Context, root string, withDependents bool) (*agentpb.DestroyVolumeResponse, error) {
	// Clones may be anywhere in the pool.
	all, err := s.ZFS.Datasets(ctx, zfs.Pool(root), true)
	if err != nil {
		return nil, err
	}
	resp := &agentpb.DestroyVolumeResponse{Existed: true}
	goes := func(d *agentpb.Dependent) { resp.Goes = append(resp.Goes, d) }
	blocks := func(d *agentpb.Dependent, reason string) {
		d.Reason = reason
		resp.Blocks = append(resp.Blocks, d)
	}
	for _, d := range slices.Backward(all) {
		if !within(d.Name, root) {
			continue
		}
		props, err := s.ZFS.UserProperties(ctx, d.Name, zfs.SourceLocal)
		if err != nil {
			return nil, err
		}
		dependent := &agentpb.Dependent{Name: d.Name, Kind: string(d.Type), Ours: props[names.PropManaged] == "true"}
		if reason := childBlocks(d.Name == root, dependent.GetOurs(), props[names.PropSource], withDependents); reason != "" {
			blocks(dependent, reason)
			continue
		}
		vs, err := s.ZFS.Versions(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		for _, v := range vs {
			if err := s.planVersion(ctx, v, root, all, withDependents, goes, blocks); err != nil {
				return nil, err
			}
		}
		goes(dependent)
	}
	return resp, nil
}

// childBlocks says why a dataset does not go with the one above, "" when it does.
func childBlocks(isRoot, ours bool, source string, withDependents bool) string {
	switch {
	case isRoot:
		return ""
	case source != "":
		return "the replica of " + source
	case !ours:
		return ErrForeign.Error()
	case !withDependents:
		return "was not asked for"
	default:
		return ""
	}
}

// planVersion is planDestroy for one snapshot or bookmark.
func (s *Server) planVersion(ctx context.Context, v zfs.Version, root string, all []zfs.Dataset, withDependents bool,
	goes func(*agentpb.Dependent), blocks func(*agentpb.Dependent, string)) error {
	if v.Bookmark {
		goes(&agentpb.Dependent{Name: v.FullName(), Kind: kindBookmark})
		return nil
	}
	keeping, err := s.keeping(ctx, v, all)
	if err != nil {
		return err
	}
	keeping = slices.DeleteFunc(keeping, func(d *agentpb.Dependent) bool { return d.GetKind() == kindClone && within(d.GetName(), root) })
	for _, d := range keeping {
		blocks(d, d.GetReason())
	}
	props, err := s.ZFS.UserProperties(ctx, v.FullName(), zfs.SourceLocal)
	if err != nil {
		return err
	}
	dependent := &agentpb.Dependent{Name: v.FullName(), Kind: kindSnapshot, Ours: props[names.PropManaged] == "true"}
	switch {
	case !dependent.GetOurs():
		blocks(dependent, ErrForeign.Error())
	case !withDependents:
		blocks(dependent, "was not asked for")
	default:
		goes(dependent)
	}
	return nil
}

// keeping returns what keeps a snapshot from being destroyed: holds, and clones
// among all datasets of its pool.
func (s *Server) keeping(ctx context.Context, v zfs.Version, all []zfs.Dataset) ([]*agentpb.Dependent, error) {
	var found []*agentpb.Dependent
	for _, d := range all {
		if d.Origin == v.FullName() {
			found = append(found, &agentpb.Dependent{Name: d.Name, Kind: kindClone, Reason: "a clone of " + v.FullName()})
		}
	}
	if v.UserRefs == 0 {
		return found, nil
	}
	hs, err := s.ZFS.Holds(ctx, v.FullName())
	if err != nil {
		return nil, err
	}
	for _, h := range hs {
		found = append(found, &agentpb.Dependent{Name: h.Tag, Kind: kindHold, Ours: holds.Ours(h.Tag), Reason: "holds " + v.FullName()})
	}
	return found, nil
}

// PromoteVolume implements agentpb.AgentServer.
func (s *Server) PromoteVolume(ctx context.Context, req *agentpb.PromoteVolumeRequest) (*agentpb.PromoteVolumeResponse, error) {
	name := req.GetDataset()
	if err := s.allow(ctx, Clone, name); err != nil {
		return nil, err
	}
	deed := "promote " + name
	props, err := s.ourVolume(ctx, deed, name, req.GetMatch())
	if err != nil {
		return nil, err
	}
	d, err := s.ZFS.Dataset(ctx, name)
	if err != nil {
		return nil, err
	}
	resp := &agentpb.PromoteVolumeResponse{}
	if d.Origin == "" {
		// Promoted before, or never a clone; either way it depends on nothing.
		resp.Dataset, err = s.describe(ctx, d)
		return resp, err
	}
	origin, _, _ := zfs.SplitVersion(d.Origin)
	if req.GetOrigin() != origin {
		return nil, fmt.Errorf("%s: %w: it is a clone of %s, which would lose its snapshots to it; %q was named", deed, ErrMismatch, origin, req.GetOrigin())
	}
	if err := s.allow(ctx, Destroy, origin); err != nil {
		return nil, err
	}
	if resp.Moves, resp.Blocks, err = s.planPromote(ctx, d, origin); err != nil {
		return nil, err
	}
	if len(resp.GetBlocks()) > 0 && !req.GetDryRun() {
		return nil, &BlockedError{Deed: deed, Blocks: resp.GetBlocks()}
	}
	if !req.GetDryRun() {
		if err := s.ZFS.Promote(ctx, name); err != nil {
			return nil, err
		}
		s.Log.Info("volume promoted", "dataset", name, "origin", d.Origin, "snapshots", len(resp.GetMoves()), "run", props[names.PropRun])
		if d, err = s.ZFS.Dataset(ctx, name); err != nil {
			return nil, err
		}
	}
	resp.Dataset, err = s.describe(ctx, d)
	return resp, err
}

// planPromote says which snapshots a clone would take over, and what is in the
// way of that.
func (s *Server) planPromote(ctx context.Context, clone zfs.Dataset, origin string) (moves, blocks []*agentpb.Dependent, err error) {
	have, err := s.ZFS.Versions(ctx, clone.Name)
	if err != nil {
		return nil, nil, err
	}
	vs, err := s.ZFS.Versions(ctx, origin)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.replica(ctx, origin)
	if err != nil {
		return nil, nil, err
	}
	if r.source != "" && r.fenced == "" {
		blocks = append(blocks, &agentpb.Dependent{
			Name: origin, Kind: "replica", Ours: r.managed, Reason: "it could receive no more from " + r.source + "; fence it first",
		})
	}
	for _, v := range vs {
		if v.Bookmark {
			continue
		}
		props, err := s.ZFS.UserProperties(ctx, v.FullName(), zfs.SourceLocal)
		if err != nil {
			return nil, nil, err
		}
		d := &agentpb.Dependent{Name: v.FullName(), Kind: kindSnapshot, Ours: props[names.PropManaged] == "true"}
		moves = append(moves, d)
		if slices.ContainsFunc(have, func(o zfs.Version) bool { return !o.Bookmark && o.Name == v.Name }) {
			blocks = append(blocks, &agentpb.Dependent{Name: d.GetName(), Kind: kindSnapshot, Ours: d.GetOurs(), Reason: clone.Name + " has one of that name"})
		}
		if v.FullName() == clone.Origin {
			break
		}
	}
	return moves, blocks, nil
}

// RenameVolume implements agentpb.AgentServer.
func (s *Server) RenameVolume(ctx context.Context, req *agentpb.RenameVolumeRequest) (*agentpb.Dataset, error) {
	from, to := req.GetDataset(), req.GetTo()
	if err := s.allow(ctx, Destroy, from); err != nil {
		return nil, err
	}
	if err := s.allow(ctx, Clone, to); err != nil {
		return nil, err
	}
	deed := fmt.Sprintf("rename %s to %s", from, to)
	switch {
	case zfs.Pool(from) != zfs.Pool(to):
		return nil, fmt.Errorf("%s: %w: a volume stays in its pool; copy it instead", deed, ErrInvalid)
	case within(to, from):
		return nil, fmt.Errorf("%s: %w: that lies within it", deed, ErrInvalid)
	}
	d, err := s.ZFS.Dataset(ctx, from)
	if errors.Is(err, ErrNotFound) {
		// An answer may have been lost.
		if d, lookErr := s.ZFS.Dataset(ctx, to); lookErr == nil && d.GUID == req.GetGuid() {
			return s.describe(ctx, d)
		}
	}
	if err != nil {
		return nil, err
	}
	if d.GUID != req.GetGuid() {
		return nil, fmt.Errorf("%s: %w: it has guid %d, not %d", deed, ErrMismatch, d.GUID, req.GetGuid())
	}
	if _, err := s.ourVolume(ctx, deed, from, req.GetMatch()); err != nil {
		return nil, err
	}
	below, err := s.ZFS.Datasets(ctx, from, true)
	if err != nil {
		return nil, err
	}
	var blocks []*agentpb.Dependent
	for _, b := range below {
		if b.Name != from {
			blocks = append(blocks, &agentpb.Dependent{Name: b.Name, Kind: string(b.Type), Reason: "would be renamed too"})
		}
	}
	if len(blocks) > 0 {
		return nil, &BlockedError{Deed: deed, Blocks: blocks}
	}
	if err := s.makeParents(ctx, Clone, to); err != nil {
		return nil, err
	}
	if err := s.ZFS.Rename(ctx, from, to); err != nil {
		return nil, err
	}
	s.Log.Info("volume renamed", "dataset", from, "to", to)
	if d, err = s.ZFS.Dataset(ctx, to); err != nil {
		return nil, err
	}
	return s.describe(ctx, d)
}
