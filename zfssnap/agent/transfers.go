package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
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
	tidied  sync.Map // target of a dataset → createtxg, from Tidy
	leases  sync.Map // target of a dataset → true once it is on record

	mu   sync.Mutex
	byID map[string]*transfer
	// Archives have queues of their own: a slow one keeps no copy waiting.
	replicas, archives queues
}

// queues are those of the transfers of one kind, by name.
type queues struct {
	datasets map[string]chan struct{} // one transfer at a time from each
	pools    map[string]chan struct{} // PoolTransfers from each
}

func newQueues() queues {
	return queues{datasets: map[string]chan struct{}{}, pools: map[string]chan struct{}{}}
}

func newTransfers(s *Server) *transfers {
	ctx, cancel := context.WithCancel(context.Background())
	t := &transfers{s: s, ctx: ctx, limits: newLimiters(s.Bandwidth), byID: map[string]*transfer{}, replicas: newQueues(), archives: newQueues()}
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
	job     replicate.Job // without a target when it goes to an archive
	addr    string        // of the target's agent
	archive string        // name of the archive, "" for a target
	attempt func(context.Context, *transfer) error

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

// id is the same for the same copy.
func (t *transfer) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s\n%s", t.job.GUID, cmp.Or(t.job.TargetNode, "archive "+t.archive), t.job.TargetDataset))
	return fmt.Sprintf("%x", sum[:8])
}

// target is what it brings up to date: the replica of a dataset.
func (t *transfer) target() [3]string {
	return [3]string{t.job.Dataset, t.job.TargetNode, t.job.TargetDataset}
}

// peer is where it goes: a node or an archive.
func (t *transfer) peer() string { return cmp.Or(t.archive, t.job.TargetNode) }

// String says what it does.
func (t *transfer) String() string {
	if t.archive != "" {
		return fmt.Sprintf("archive %s@%s in %s", t.job.Dataset, t.job.Snapshot, t.archive)
	}
	return fmt.Sprintf("replicate %s@%s to node %s", t.job.Dataset, t.job.Snapshot, t.job.TargetNode)
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
	t := &transfer{
		job: replicate.Job{
			Node: s.Node, Dataset: req.GetDataset(), Snapshot: req.GetSnapshot(), GUID: req.GetGuid(),
			TargetNode: req.GetTargetNode(), TargetDataset: req.GetTargetDataset(),
		},
		addr: req.GetTargetAddress(), attempt: s.transfers.replicate,
	}
	t.job.Keep = func(guid uint64) bool {
		return s.transfers.other(t, func(o *transfer) bool { return o.job.Dataset == t.job.Dataset && o.job.GUID == guid })
	}
	t.job.Pending = func(guid uint64) bool {
		return s.transfers.other(t, func(o *transfer) bool { return o.target() == t.target() && o.job.GUID == guid })
	}
	return s.transfers.joinOrStart(ctx, t)
}

// joinOrStart begins a transfer unless its outcome is known, or it runs.
func (ts *transfers) joinOrStart(ctx context.Context, t *transfer) (*agentpb.Transfer, error) {
	if known := ts.join(t.id()); known != nil {
		return known, nil
	}
	name := t.job.Dataset + "@" + t.job.Snapshot
	if props, ok := ts.s.taken.properties(name, t.job.GUID); ok {
		t.job.Properties = props
		return ts.start(t), nil
	}
	// A request that can never succeed is refused here, not by a transfer.
	v, err := ts.lookup(ctx, t, name)
	if err != nil {
		return nil, err
	}
	if v.GUID != t.job.GUID {
		return nil, fmt.Errorf("%s: %w: it has guid %d, not %d", t, ErrMismatch, v.GUID, t.job.GUID)
	}
	return ts.start(t), nil
}

// lookup returns the snapshot of a transfer. A replication begins by listing all
// versions of the dataset, so they are listed here and kept for it.
func (ts *transfers) lookup(ctx context.Context, t *transfer, name string) (zfs.Version, error) {
	if t.archive != "" {
		return ts.s.ZFS.Lookup(ctx, name)
	}
	listed := time.Now()
	versions, err := ts.s.ZFS.Versions(ctx, t.job.Dataset)
	if err != nil {
		return zfs.Version{}, err
	}
	i := slices.IndexFunc(versions, func(v zfs.Version) bool { return v.FullName() == name })
	if i < 0 {
		return zfs.Version{}, fmt.Errorf("%s: %w", t, zfs.ErrNotFound)
	}
	t.job.Versions, t.job.Listed = versions, listed
	return versions[i], nil
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
	s.transfers.mu.Lock()
	t := s.transfers.byID[id]
	s.transfers.mu.Unlock()
	switch {
	case t == nil:
		_, err := s.roots(ctx, Replicate)
		if err != nil {
			_, err = s.roots(ctx, Archive)
		}
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("transfer %q: %w", id, ErrNotFound)
	case t.archive != "":
		return t, s.allow(ctx, Archive, t.job.Dataset)
	default:
		return t, s.allow(ctx, Replicate, t.job.Dataset)
	}
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
func (ts *transfers) start(t *transfer) *agentpb.Transfer {
	id := t.id()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := ts.s.Clock()
	for other, o := range ts.byID {
		switch state := o.snapshot(); {
		case state.GetState() == agentpb.Transfer_RUNNING:
			if other == id {
				return state
			}
		case now.Sub(time.UnixMilli(state.GetUpdatedUnixMs())) > keepFinished:
			delete(ts.byID, other)
		}
	}
	ctx, cancel := context.WithCancel(ts.ctx)
	t.cancel, t.done, t.clock, t.moved = cancel, make(chan struct{}), ts.s.Clock, now
	t.state = &agentpb.Transfer{Id: id, State: agentpb.Transfer_RUNNING, StartedUnixMs: now.UnixMilli(), UpdatedUnixMs: now.UnixMilli()}
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

// other reports whether there is another unfinished transfer to a target like that.
func (ts *transfers) other(self *transfer, like func(*transfer) bool) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.byID {
		if t != self && t.archive == "" && like(t) && t.running() {
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
		err := t.attempt(ctx, t)
		if err == nil || ctx.Err() != nil || !passing(err) || t.idle() > ts.s.RetryFor {
			return err
		}
		delay := ts.s.RetryDelay(n)
		ts.s.Log.Warn("transfer will be tried again", "transfer", t.state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot,
			"target", t.peer(), "delay", delay.String(), "error", err)
		t.update(func(pb *agentpb.Transfer) { pb.Error, pb.Reason = describeError(err) })
		if err := pause(ctx, delay); err != nil {
			return err
		}
	}
}

// pause waits, or returns why ctx ended before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replicate runs a transfer to another agent once. One that has to send waits for
// its turn, and one that waits to be tried again lets others pass.
func (ts *transfers) replicate(ctx context.Context, t *transfer) error {
	free, err := ts.slot(ctx, ts.replicas.datasets, t.job.Dataset, 1)
	if err != nil {
		return err
	}
	defer free()
	target, leave, err := ts.targets.join(t.job.TargetNode, t.addr, ts.s.Bundle)
	if err != nil {
		return err
	}
	defer leave()
	if upTo, ok := ts.tidied.Load(t.target()); ok {
		t.job.Tidied = upTo.(uint64)
	}
	job := t.job
	t.job.Versions = nil // a transfer is remembered for long, and they count once
	attempt, err := replicate.Runner{
		ZFS: ts.s.ZFS, Target: target, Progress: t, Limit: ts.limits.wait(t.job.TargetNode), Log: ts.s.Log,
	}.Begin(ctx, job)
	if err != nil {
		return err
	}
	if settled, err := attempt.Settled(ctx); settled || err != nil {
		return err
	}
	if t.leased == nil {
		t.leased = ts.lease(ctx, t)
	}
	if err := ts.turn(ctx, t, ts.replicas, attempt.Run); err != nil {
		return err
	}
	if upTo := attempt.Tidy(ctx); upTo != 0 {
		ts.tidied.Store(t.target(), upTo)
	}
	return nil
}

// turn runs what sends when it is its turn to send from its pool.
func (ts *transfers) turn(ctx context.Context, t *transfer, q queues, run func(context.Context) error) error {
	free, err := ts.slot(ctx, q.pools, zfs.Pool(t.job.Dataset), ts.s.PoolTransfers)
	if err != nil {
		return err
	}
	defer free()
	ctx, done := ts.watch(ctx, t)
	defer done()
	err = run(ctx)
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
				look := "on both hosts"
				if t.archive != "" {
					look = "and at the archive"
				}
				cancel(hint.Add(fmt.Errorf("%s: %w: no data has moved for %s", t, ErrStalled, still.Round(time.Second)),
					"look at zpool status "+look+"; what has arrived is kept, and the next transfer goes on from there"))
			case still >= ts.s.StallTimeout/2 && t.stall():
				ts.s.Log.Warn("transfer is stalled", "transfer", t.state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot,
					"target", t.peer(), "still", still.Round(time.Second).String())
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
	for _, e := range []error{ErrUnreachable, ErrArchive, archive.ErrChanged, ErrBusy, context.DeadlineExceeded, context.Canceled} {
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
		err = fmt.Errorf("%s: %w", t, ErrCancelled)
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
	log := ts.s.Log.With("transfer", state.GetId(), "dataset", t.job.Dataset, "snapshot", t.job.Snapshot, "target", t.peer(),
		"replica", t.job.TargetDataset, "bytes_sent", state.GetBytesSent(), "took", took.String())
	if err != nil {
		log.Error("transfer ended", "state", state.GetState().String(), "error", err)
	} else {
		log.Info("transfer done")
	}
	ts.s.OnTransfer(TransferEvent{Dataset: t.job.Dataset, Peer: t.peer(), Bytes: state.GetBytesSent(), Duration: took, Err: err, Reason: state.GetReason()})
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
