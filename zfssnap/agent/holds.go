package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const (
	// transferLease is how long a transfer counts as alive after its agent has
	// last said so.
	transferLease = time.Hour
	// askTimeout bounds asking a target what it has.
	askTimeout = 15 * time.Second
)

// holdRecord is the record of a hold that a backup's snapshot is born with.
func holdRecord(by, backup string) holds.Record {
	r := holds.Record{By: by}
	if backup != "" {
		r.Owner = holds.OwnerBackup + backup
	}
	return r
}

func (s *Server) allowHold(ctx context.Context, req *agentpb.HoldRequest) error {
	if err := zfs.ValidateSnapshot(req.GetSnapshot()); err != nil {
		return err
	}
	dataset, _, _ := zfs.SplitVersion(req.GetSnapshot())
	if err := s.allow(ctx, Hold, dataset); err != nil {
		return err
	}
	return holds.CheckTag(req.GetTag())
}

// Hold implements agentpb.AgentServer. The record comes first: a hold of which
// nobody knows the owner would stay for ever.
func (s *Server) Hold(ctx context.Context, req *agentpb.HoldRequest) (*agentpb.HoldResponse, error) {
	if err := s.allowHold(ctx, req); err != nil {
		return nil, err
	}
	id, err := identity(ctx)
	if err != nil {
		return nil, err
	}
	record := holds.Record{By: id, Owner: req.GetOwner(), Why: req.GetWhy()}
	switch lease := req.GetLeaseSeconds(); {
	case lease < 0:
		return nil, fmt.Errorf("hold %s: %w: a lease of %d s", req.GetSnapshot(), ErrInvalid, lease)
	case lease > 0:
		record.Until = s.Clock().Add(time.Duration(lease) * time.Second).UTC().Truncate(time.Second)
	}
	prop, ok := holds.RecordProperty(req.GetTag())
	switch {
	case ok:
		if err := s.ZFS.Set(ctx, req.GetSnapshot(), map[string]string{prop: record.Encode()}); err != nil {
			return nil, err
		}
	case record.Owner != "" || record.Why != "" || !record.Until.IsZero():
		return nil, fmt.Errorf("hold tag %q: %w: owner, reason and lease need a tag of lower-case letters, digits and -_.: alone", req.GetTag(), ErrInvalid)
	}
	return &agentpb.HoldResponse{}, s.ZFS.Hold(ctx, req.GetTag(), req.GetSnapshot())
}

// Release implements agentpb.AgentServer.
func (s *Server) Release(ctx context.Context, req *agentpb.HoldRequest) (*agentpb.HoldResponse, error) {
	if err := s.allowHold(ctx, req); err != nil {
		return nil, err
	}
	return &agentpb.HoldResponse{}, holds.Release(ctx, s.ZFS, req.GetSnapshot(), req.GetTag())
}

// ListHolds implements agentpb.AgentServer.
func (s *Server) ListHolds(ctx context.Context, req *agentpb.ListHoldsRequest) (*agentpb.ListHoldsResponse, error) {
	return s.eachHold(ctx, req, Read, s.reaper(req.GetOver()).Look)
}

// ReapHolds implements agentpb.AgentServer.
func (s *Server) ReapHolds(ctx context.Context, req *agentpb.ListHoldsRequest) (*agentpb.ListHoldsResponse, error) {
	return s.eachHold(ctx, req, Hold, s.reaper(req.GetOver()).Reap)
}

// eachHold does something with the holds of all that is asked for.
func (s *Server) eachHold(ctx context.Context, req *agentpb.ListHoldsRequest, verb Verb, do func(context.Context, string) ([]holds.Hold, error)) (*agentpb.ListHoldsResponse, error) {
	roots := []string{req.GetDataset()}
	var err error
	if req.GetDataset() == "" {
		roots, err = s.roots(ctx, verb)
	} else {
		err = s.allow(ctx, verb, req.GetDataset())
	}
	if err != nil {
		return nil, err
	}
	resp := &agentpb.ListHoldsResponse{}
	for _, root := range roots {
		found, err := do(ctx, root)
		if errors.Is(err, ErrNotFound) && req.GetDataset() == "" {
			continue // a prefix may be granted before there is anything
		}
		if err != nil {
			return nil, err
		}
		for _, h := range found {
			resp.Holds = append(resp.Holds, holdPB(h))
		}
	}
	return resp, nil
}

func holdPB(h holds.Hold) *agentpb.SnapshotHold {
	pb := &agentpb.SnapshotHold{
		Snapshot: h.Snapshot, Tag: h.Tag, CreatedUnix: h.Placed.Unix(), Guid: h.GUID, By: h.By, Owner: h.Owner, Why: h.Why,
		State: string(h.State), Reason: h.Reason, Dead: h.Dead, Released: h.Released, Error: h.Error,
	}
	if !h.Until.IsZero() {
		pb.UntilUnix = h.Until.Unix()
	}
	return pb
}

// reaper is what looks at the holds of this host.
func (s *Server) reaper(over []string) *holds.Reaper {
	return &holds.Reaper{
		ZFS: s.ZFS, Now: s.Clock, Log: s.Log,
		Ask:     AskTarget(s.Bundle),
		Sending: s.transfers.sending,
		Idle:    s.transfers.idle,
		Over:    func(owner string) bool { return slices.Contains(over, owner) },
	}
}

// AskTarget returns how to ask the agent of a target what it has of a replica.
func AskTarget(bundle *Bundle) func(context.Context, holds.Target) (holds.Answer, error) {
	return func(ctx context.Context, t holds.Target) (holds.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		c, err := Dial(t.Node, t.Address, bundle)
		if err != nil {
			return holds.Answer{}, err
		}
		defer c.Close()
		state, err := c.ReceiveState(ctx, &agentpb.ReceiveStateRequest{Dataset: t.Dataset})
		if err != nil {
			return holds.Answer{}, err
		}
		a := holds.Answer{GUIDs: map[uint64]bool{}, Partial: state.GetReceiveResumeToken() != ""}
		for _, v := range state.GetVersions() {
			if !v.GetBookmark() {
				a.GUIDs[v.GetGuid()] = true
			}
		}
		return a, nil
	}
}

// reap releases dead holds now and then until the context ends.
func (s *Server) reap(ctx context.Context) {
	ticker := time.NewTicker(s.ReapEvery)
	defer ticker.Stop()
	for {
		found, err := s.reaper(nil).Reap(ctx, "")
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.Log.Warn("holds could not be looked at", "error", err)
		}
		counts := map[holds.State]int{}
		released := 0
		for _, h := range found {
			counts[h.State]++
			if h.Released {
				released++
			}
		}
		s.Log.Info("holds looked at", "live", counts[holds.Live], "expired", counts[holds.Expired], "orphan", counts[holds.Orphan],
			"foreign", counts[holds.Foreign], "released", released)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// leaseAfter is how long a transfer runs before it says again where to: most are
// done by then.
const leaseAfter = 10 * time.Second

// lease records on a dataset where it is sent, and that the transfer lives,
// until the context ends. The returned channel is closed once it is on record
// where to.
func (ts *transfers) lease(ctx context.Context, t *transfer) <-chan struct{} {
	recorded := make(chan struct{})
	target := holds.Target{
		Node: t.job.TargetNode, Address: t.addr, Dataset: t.job.TargetDataset,
		By: ts.s.Node, Owner: holds.OwnerTransfer + t.state.GetId(),
	}
	renew := func() bool {
		target.Until = ts.s.Clock().Add(ts.s.TransferLease).UTC().Truncate(time.Second)
		err := ts.s.ZFS.Set(ctx, t.job.Dataset, map[string]string{target.Property(): target.Encode()})
		if err != nil && ctx.Err() == nil {
			ts.s.Log.Warn("lease of a transfer is not recorded", "dataset", t.job.Dataset, "target", target.String(), "error", err)
		}
		return err == nil
	}
	go func() {
		ticker := time.NewTicker(ts.s.TransferLease / 3)
		defer ticker.Stop()
		if _, known := ts.leases.Load(t.target()); known {
			close(recorded)
			if pause(ctx, min(leaseAfter, ts.s.TransferLease/3)) != nil {
				return
			}
			renew()
		} else {
			if renew() {
				ts.leases.Store(t.target(), true)
			}
			close(recorded)
		}
		for {
			select {
			case <-ticker.C:
				renew()
			case <-ctx.Done():
				return
			}
		}
	}()
	return recorded
}

// sending reports whether a transfer from a dataset to a target is unfinished.
func (ts *transfers) sending(dataset string) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.byID {
		if t.job.Dataset == dataset && t.archive == "" && t.running() {
			return true
		}
	}
	return false
}

// idle takes a dataset's place in the queue if no transfer has it.
func (ts *transfers) idle(dataset string) (func(), bool) {
	q := ts.queue(ts.replicas.datasets, dataset, 1)
	select {
	case q <- struct{}{}:
		return func() { <-q }, true
	default:
		return nil, false
	}
}
