package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const (
	// keepFinished is how long a transfer's outcome can be asked for.
	keepFinished = time.Hour
	// reportFailure is how old a failure may be and still be an answer to
	// Replicate.
	reportFailure = 10 * time.Minute
)

// transfers are the transfers from this host. They are not stored: the state
// that counts is in ZFS.
type transfers struct {
	s    *Server
	ctx  context.Context
	stop func()

	limits  limiters
	targets connections

	mu       sync.Mutex
	byID     map[string]*transfer
	datasets map[string]chan struct{} // one transfer at a time from each
	pools    map[string]chan struct{} // PoolTransfers from each
}

func newTransfers(s *Server) *transfers {
	ctx, cancel := context.WithCancel(context.Background())
	t := &transfers{s: s, ctx: ctx, limits: newLimiters(s.Bandwidth), byID: map[string]*transfer{}, datasets: map[string]chan struct{}{}, pools: map[string]chan struct{}{}}
	var running sync.WaitGroup
	t.stop = func() {
		cancel()
		t.mu.Lock()
		for _, x := range t.byID {
			running.Go(func() { <-x.done })
		}
		t.mu.Unlock()
		running.Wait()
	}
	return t
}

// transfer is one of them.
type transfer struct {
	job    replicate.Job
	addr   string
	cancel context.CancelFunc
	done   chan struct{}
	clock  func() time.Time

	sending atomic.Bool     // an attempt has its turn
	leased  <-chan struct{} // closed once its lease is recorded; nil while it has nothing to do

	mu       sync.Mutex
	state    *agentpb.Transfer
	reported bool
	moved    time.Time // when data last moved
	alive    time.Time // when it did, or an attempt began a step
	meter    meter
}

// transferID is the same for the same copy.
func transferID(req *agentpb.ReplicateRequest) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s\n%s", req.GetGuid(), req.GetTargetNode(), req.GetTargetDataset()))
	return fmt.Sprintf("%x", sum[:8])
}

// Replicate implements agentpb.AgentServer.
func (s *Server) Replicate(ctx context.Context, req *agentpb.ReplicateRequest) (*agentpb.Transfer, error) {
	if err := s.allow(ctx, Replicate, req.GetDataset()); err != nil {
		return nil, err
	}
	for _, err := range []error{
		zfs.ValidateSnapshot(req.GetDataset() + "@" + req.GetSnapshot()),
		zfs.ValidateSnapshot(req.GetTargetDataset() + "@" + req.GetSnapshot()),
	} {
		if err != nil {
			return nil, err
		}
	}
	if req.GetGuid() == 0 || req.GetTargetNode() == "" || req.GetTargetAddress() == "" {
		return nil, fmt.Errorf("replicate %s@%s: %w: guid, target node and target address are needed", req.GetDataset(), req.GetSnapshot(), ErrInvalid)
	}
	if req.GetTargetNode() == s.Node && within(req.GetTargetDataset(), req.GetDataset()) {
		return nil, fmt.Errorf("replicate %s@%s: %w: a dataset cannot have its replica within itself", req.GetDataset(), req.GetSnapshot(), ErrInvalid)
	}
	if t := s.transfers.join(transferID(req)); t != nil {
		return t, nil
	}
	// A request that can never succeed is refused here, not by a transfer.
	v, err := s.ZFS.Lookup(ctx, req.GetDataset()+"@"+req.GetSnapshot())
	if err != nil {
		return nil, err
	}
	if v.GUID != req.GetGuid() {
		return nil, fmt.Errorf("replicate: %w: snapshot %s has guid %d, not %d", ErrMismatch, v.FullName(), v.GUID, req.GetGuid())
	}
	return s.transfers.start(req), nil
}

// GetTransfer implements agentpb.AgentServer.
func (s *Server) GetTransfer(ctx context.Context, req *agentpb.GetTransferRequest) (*agentpb.Transfer, error) {
	t, err := s.transfer(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return t.snapshot(), nil
}

// CancelTransfer implements agentpb.AgentServer. It returns when the transfer
// has ended.
func (s *Server) CancelTransfer(ctx context.Context, req *agentpb.GetTransferRequest) (*agentpb.Transfer, error) {
	t, err := s.transfer(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	t.cancel()
	select {
	case <-t.done:
		return t.snapshot(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Server) transfer(ctx context.Context, id string) (*transfer, error) {
	if _, err := s.roots(ctx, Replicate); err != nil {
		return nil, err
	}
	s.transfers.mu.Lock()
	t := s.transfers.byID[id]
	s.transfers.mu.Unlock()
	if t == nil {
		return nil, fmt.Errorf("transfer %q: %w", id, ErrNotFound)
	}
	return t, s.allow(ctx, Replicate, t.job.Dataset)
}

// join returns the transfer of that id unless it has to be started: one that
// runs or is done, and a failure that was not reported yet.
func (ts *transfers) join(id string) *agentpb.Transfer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.byID[id]
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state.GetState() {
	case agentpb.Transfer_CANCELLED:
		return nil
	case agentpb.Transfer_FAILED:
		if t.reported || t.clock().Sub(time.UnixMilli(t.state.GetUpdatedUnixMs())) > reportFailure {
			return nil
		}
		t.reported = true
	case agentpb.Transfer_DONE:
		// A copy may be destroyed after an hour; within it the answer is kept.
		if t.clock().Sub(time.UnixMilli(t.state.GetUpdatedUnixMs())) > keepFinished {
			return nil
		}
	}
	return t.copyLocked()
}

// start begins a transfer, unless one of its id runs since.
func (ts *transfers) start(req *agentpb.ReplicateRequest) *agentpb.Transfer {
	id := transferID(req)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := ts.s.Clock()
	for other, t := range ts.byID {
		switch state := t.snapshot(); {
		case state.GetState() == agentpb.Transfer_RUNNING:
			if other == id {
				return state
			}
		case now.Sub(time.UnixMilli(state.GetUpdatedUnixMs())) > keepFinished:
			delete(ts.byID, other)
		}
	}
	ctx, cancel := context.WithCancel(ts.ctx)
	t := &transfer{
		job: replicate.Job{
			Node: ts.s.Node, Dataset: req.GetDataset(), Snapshot: req.GetSnapshot(), GUID: req.GetGuid(),
			TargetNode: req.GetTargetNode(), TargetDataset: req.GetTargetDataset(),
		},
		addr: req.GetTargetAddress(), cancel: cancel, done: make(chan struct{}), clock: ts.s.Clock, moved: now,
		state: &agentpb.Transfer{Id: id, State: agentpb.Transfer_RUNNING, StartedUnixMs: now.UnixMilli(), UpdatedUnixMs: now.UnixMilli()},
	}
	t.job.Keep = func(guid uint64) bool { return ts.needs(t, guid) }
	ts.byID[id] = t
	go func() {
		defer close(t.done)
		defer cancel()
		err := ts.run(ctx, t)
		if t.leased != nil {
			<-t.leased
		}
		ts.finish(t, err, ctx.Err() != nil && ts.ctx.Err() == nil)
	}()
	return t.snapshot()
}

// needs reports whether another unfinished transfer from the same dataset sends
// that snapshot.
func (ts *transfers) needs(self *transfer, guid uint64) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.byID {
		if t != self && t.job.Dataset == self.job.Dataset && t.job.GUID == guid && t.running() {
			return true
		}
	}
	return false
}

// using returns the id of an unfinished transfer of a snapshot, "" for none.
func (ts *transfers) using(dataset string, guid uint64) string {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for id, t := range ts.byID {
		if t.job.Dataset == dataset && t.job.GUID == guid && t.running() {
			return id
		}
	}
	return ""
}

// activity counts the unfinished transfers.
func (ts *transfers) activity() Activity {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var a Activity
	for _, t := range ts.byID {
		switch state := t.snapshot(); {
		case state.GetState() != agentpb.Transfer_RUNNING:
		case !t.sending.Load():
			a.Waiting++
		default:
			a.Sending++
			a.Rate += state.GetRateBytesPerSecond()
			if state.GetStalled() {
				a.Stalled++
			}
		}
	}
	return a
}

// queue is one of the queues; it has places until they are taken.
func (ts *transfers) queue(queues map[string]chan struct{}, name string, places int) chan struct{} {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	q := queues[name]
	if q == nil {
		q = make(chan struct{}, places)
		queues[name] = q
	}
	return q
}

// slot takes a place in a queue, and returns what gives it back.
func (ts *transfers) slot(ctx context.Context, queues map[string]chan struct{}, name string, places int) (func(), error) {
	q := ts.queue(queues, name, places)
	select {
	case q <- struct{}{}:
		return func() { <-q }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run repeats a transfer until it succeeds or fails for good. What may pass is
// waited out here, because whoever asked takes a failure for final.
func (ts *transfers) run(ctx context.Context, t *transfer) error {
	for n := 1; ; n++ {
		err := ts.attempt(ctx, t)
		if err == nil || ctx.Err() != nil || !passing(err) || t.idle() > ts.s.RetryFor {
			return err
		}
		delay := ts.s.RetryDelay(n)
		ts.s.Log.Warn("transfer will be tried again", "transfer", t.state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot,
			"target", t.job.TargetNode, "delay", delay.String(), "error", err)
		t.update(func(pb *agentpb.Transfer) { pb.Error, pb.Reason = describeError(err) })
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attempt runs a transfer once. One that has to send waits for its turn, and one
// that waits to be tried again lets others pass.
func (ts *transfers) attempt(ctx context.Context, t *transfer) error {
	free, err := ts.slot(ctx, ts.datasets, t.job.Dataset, 1)
	if err != nil {
		return err
	}
	defer free()
	target, leave, err := ts.targets.join(t.job.TargetNode, t.addr, ts.s.Bundle)
	if err != nil {
		return err
	}
	defer leave()
	attempt, err := replicate.Runner{
		ZFS: ts.s.ZFS, Target: target, Progress: t, Limit: ts.limits.wait(t.job.TargetNode), Log: ts.s.Log,
	}.Begin(ctx, t.job)
	if err != nil {
		return err
	}
	if settled, err := attempt.Settled(ctx); settled || err != nil {
		return err
	}
	if t.leased == nil {
		t.leased = ts.lease(ctx, t)
	}
	if err := ts.turn(ctx, t, attempt); err != nil {
		return err
	}
	attempt.Tidy(ctx)
	return nil
}

// turn runs an attempt when it is its turn to send from its pool.
func (ts *transfers) turn(ctx context.Context, t *transfer, attempt *replicate.Attempt) error {
	free, err := ts.slot(ctx, ts.pools, zfs.Pool(t.job.Dataset), ts.s.PoolTransfers)
	if err != nil {
		return err
	}
	defer free()
	ctx, done := ts.watch(ctx, t)
	defer done()
	err = attempt.Run(ctx)
	if err != nil && errors.Is(context.Cause(ctx), ErrStalled) {
		return context.Cause(ctx)
	}
	return err
}

// connections are those to targets. Transfers that run at the same time
// share one.
type connections struct {
	mu   sync.Mutex
	open map[[2]string]*shared // by node and address
}

type shared struct {
	*Client
	users int
}

// join returns the connection to an agent, and what gives it back: the last one
// to leave closes it.
func (p *connections) join(node, address string, bundle *Bundle) (*Client, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := [2]string{node, address}
	x := p.open[key]
	if x == nil {
		c, err := Dial(node, address, bundle)
		if err != nil {
			return nil, nil, err
		}
		x = &shared{Client: c}
		if p.open == nil {
			p.open = map[[2]string]*shared{}
		}
		p.open[key] = x
	}
	x.users++
	return x.Client, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if x.users--; x.users == 0 {
			delete(p.open, key)
			_ = x.Close()
		}
	}, nil
}

// watch ends an attempt that moves no data, and marks it before. What keeps
// one from moving may be a process that no signal reaches, so its pool is left to
// zfs.Guard.
func (ts *transfers) watch(ctx context.Context, t *transfer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	t.begin()
	t.sending.Store(true)
	go func() {
		tick := time.NewTicker(ts.s.StallTimeout / 30)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			switch still := t.still(); {
			case still >= ts.s.StallTimeout:
				cancel(withHint(fmt.Errorf("replicate %s@%s to node %s: %w: no data has moved for %s", t.job.Dataset, t.job.Snapshot, t.job.TargetNode, ErrStalled, still.Round(time.Second)),
					"look at zpool status on both hosts; what has arrived is kept, and the next transfer goes on from there"))
			case still >= ts.s.StallTimeout/2 && t.stall():
				ts.s.Log.Warn("transfer is stalled", "transfer", t.state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot,
					"target", t.job.TargetNode, "still", still.Round(time.Second).String())
			}
		}
	}()
	return ctx, func() {
		t.sending.Store(false)
		t.update(func(pb *agentpb.Transfer) { pb.Stalled = false })
		cancel(nil)
	}
}

// passing reports whether a failure may pass by itself. A pool that does not
// answer may for long, and whoever asked should know.
func passing(err error) bool {
	if errors.Is(err, ErrPool) {
		return false
	}
	for _, e := range []error{ErrUnreachable, ErrBusy, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (ts *transfers) finish(t *transfer, err error, cancelled bool) {
	switch {
	case err == nil:
		t.update(func(pb *agentpb.Transfer) {
			pb.State, pb.Error, pb.Reason = agentpb.Transfer_DONE, "", ""
			// It was an estimate until now.
			pb.BytesTotal = pb.GetBytesSent()
		})
	case cancelled:
		err = fmt.Errorf("replicate %s@%s to node %s: %w", t.job.Dataset, t.job.Snapshot, t.job.TargetNode, ErrCancelled)
		t.update(func(pb *agentpb.Transfer) {
			pb.State = agentpb.Transfer_CANCELLED
			pb.Error, pb.Reason = describeError(err)
		})
	default:
		t.update(func(pb *agentpb.Transfer) {
			pb.State = agentpb.Transfer_FAILED
			pb.Error, pb.Reason = describeError(err)
		})
	}
	state := t.snapshot()
	took := time.Duration(state.GetUpdatedUnixMs()-state.GetStartedUnixMs()) * time.Millisecond
	log := ts.s.Log.With("transfer", state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot, "target", t.job.TargetNode,
		"replica", t.job.TargetDataset, "bytes_sent", state.GetBytesSent(), "took", took.String())
	if err != nil {
		log.Error("transfer ended", "state", state.GetState().String(), "error", err)
	} else {
		log.Info("transfer done")
	}
	ts.s.OnTransfer(TransferEvent{Dataset: t.job.Dataset, Peer: t.job.TargetNode, Bytes: state.GetBytesSent(), Duration: took, Err: err, Reason: state.GetReason()})
}

// describeError is an error for the state of a transfer: with its hint, since
// that is all that gets to whoever asked.
func describeError(err error) (message, reason string) {
	_, reason = classify(err)
	message = err.Error()
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) && hinter.Hint() != "" {
		message += " (" + hinter.Hint() + ")"
	}
	return message, reason
}

// Step implements replicate.Progress. What an earlier step or attempt has sent
// counts towards the whole.
func (t *transfer) Step(base string, total uint64, resumed bool) {
	t.update(func(pb *agentpb.Transfer) {
		pb.Base, pb.Error, pb.Reason, pb.Stalled = base, "", "", false
		t.alive = t.clock()
		pb.Resumed = pb.Resumed || resumed
		if total > 0 {
			pb.BytesTotal = pb.GetBytesSent() + total
		}
	})
}

// Sent implements replicate.Progress.
func (t *transfer) Sent(n int) {
	t.update(func(pb *agentpb.Transfer) {
		pb.BytesSent += uint64(n)
		pb.Stalled = false
		t.moved = t.clock()
		t.alive = t.moved
		t.meter.add(t.moved, n)
	})
}

// begin begins an attempt.
func (t *transfer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alive = t.clock()
	t.meter = meter{at: t.alive}
}

// still is how long an attempt has shown no sign of life.
func (t *transfer) still() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock().Sub(t.alive)
}

// stall marks a transfer, and reports whether it was not marked before.
func (t *transfer) stall() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.state.GetStalled()
	t.state.Stalled = true
	return !was
}

func (t *transfer) update(f func(*agentpb.Transfer)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(t.state)
	t.state.UpdatedUnixMs = t.clock().UnixMilli()
}

// snapshot returns the state as it is now.
func (t *transfer) snapshot() *agentpb.Transfer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.copyLocked()
}

func (t *transfer) copyLocked() *agentpb.Transfer {
	pb := proto.Clone(t.state).(*agentpb.Transfer)
	if pb.GetState() == agentpb.Transfer_RUNNING {
		rate := t.meter.value(t.clock())
		pb.RateBytesPerSecond = uint64(rate)
		if pb.GetBytesTotal() > pb.GetBytesSent() {
			pb.EtaSeconds = uint64(left(pb.GetBytesTotal()-pb.GetBytesSent(), rate).Seconds())
		}
	}
	return pb
}

func (t *transfer) running() bool { return t.snapshot().GetState() == agentpb.Transfer_RUNNING }

// idle is how long no data has moved.
func (t *transfer) idle() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock().Sub(t.moved)
}
