package replicate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/mem"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// ErrIncomplete: the target did not confirm that it has what was sent.
var ErrIncomplete = zfs.ErrIncomplete

// Chunk is the size of a data message, well below gRPC's limit of 4 MiB.
const Chunk = 256 << 10

const (
	// controlTimeout bounds each request that moves no data.
	controlTimeout = time.Minute
	// lookAge is how old what both sides have may be when a run begins.
	lookAge = 10 * time.Second
	// maxSteps bounds the steps of a run after which the target is no further:
	// continue an interrupted stream, find it stale, start anew.
	maxSteps = 4
)

// holdTag keeps the snapshots that a transfer, or the next one, needs on the
// source.
var holdTag = names.HoldTag(names.HoldReplication)

// Job names a snapshot of this host and where a copy of it belongs.
type Job struct {
	Node     string // this host, as the target knows it
	Dataset  string
	Snapshot string // after '@'
	GUID     uint64

	TargetNode    string
	TargetDataset string
	// Versions of Dataset that were listed when Listed says; nil has them listed.
	Versions []zfs.Version
	Listed   time.Time
	// Properties of the snapshot, where they are known; nil has them asked for.
	Properties map[string]string
	// Tidied is what Tidy returned for this replica before; 0 for nothing.
	Tidied uint64
	// Keep reports that another transfer needs a snapshot of Dataset, so that
	// its hold must stay. Nil for none.
	Keep func(guid uint64) bool
	// Pending reports that another transfer is to bring a snapshot of Dataset to the
	// same target dataset. Nil for none.
	Pending func(guid uint64) bool
}

// Progress is told how a run gets on. It must not block.
type Progress interface {
	// Step begins a step from base ("" for a full stream) that will send about
	// total bytes; 0 when that is not known.
	Step(base string, total uint64, resumed bool)
	// Sent counts bytes handed to the connection.
	Sent(n int)
}

// Runner runs jobs from the source's side.
type Runner struct {
	ZFS      *zfs.Client
	Target   agentpb.AgentClient
	Progress Progress
	// Limit waits until n bytes may be sent; nil when there is no limit.
	Limit func(ctx context.Context, n int) error
	Log   *slog.Logger
}

// Attempt is a Job, and what both sides have for it.
type Attempt struct {
	Runner
	Job
	source Source
	target Target
	seen   time.Time   // when they had it
	base   zfs.Version // of the next increment, once Run has succeeded
}

// Run sees to it that the target has the snapshot. It may be repeated after any
// failure, and continues from what has arrived.
func (r Runner) Run(ctx context.Context, job Job) error {
	u, err := r.Begin(ctx, job)
	if err != nil {
		return err
	}
	if err := u.Run(ctx); err != nil {
		return err
	}
	u.Tidy(ctx)
	return nil
}

// Begin looks at what both sides have. It changes nothing and is quick, so that
// many may begin at once and wait for their turn to run.
func (r Runner) Begin(ctx context.Context, job Job) (*Attempt, error) {
	u := &Attempt{Runner: r, Job: job, source: Source{Pending: job.Pending}}
	return u, u.look(ctx, false)
}

// Settled reports whether there is nothing to do: the target has the snapshot,
// and both sides are ready for the next one. What is in the way is for Run to
// say.
func (u *Attempt) Settled(ctx context.Context) (bool, error) {
	plan, err := Make(u.source, u.target, u.GUID)
	if err != nil || plan.Action != AlreadyThere || !complete(u.target, plan.To) {
		return false, nil
	}
	base := common(u.source.Versions, u.target.Versions)
	cursors, held := u.older(base)
	if base.UserRefs == 0 || !listed(u.source.Versions, u.cursor(base.GUID)) || len(cursors) > 0 {
		return false, nil
	}
	holds, err := u.ZFS.Holds(ctx, append(held, base.FullName())...)
	if err != nil {
		return false, err
	}
	holds = slices.DeleteFunc(holds, func(h zfs.Hold) bool { return h.Tag != holdTag })
	return len(holds) == 1 && holds[0].Snapshot == base.FullName(), nil
}

// Run does what is left to do, except for Tidy.
func (u *Attempt) Run(ctx context.Context) error {
	stale := false
	for n := 0; n < maxSteps; n++ {
		// Waiting for a turn may have taken long.
		if n > 0 || time.Since(u.seen) > lookAge {
			if err := u.look(ctx, stale); err != nil {
				return err
			}
		}
		plan, err := Make(u.source, u.target, u.GUID)
		if err != nil {
			return err
		}
		if plan.Action == AlreadyThere {
			return u.settle(ctx, plan.To)
		}
		if base, ok := find(u.target.Versions, plan.From.GUID, true); ok && base.UserRefs == 0 {
			// Whoever received it died before it was complete.
			if err := u.confirm(ctx, plan.From); err != nil {
				return err
			}
		}
		switch err := u.step(ctx, plan); {
		case errors.Is(err, zfs.ErrResumeStale) && !stale:
			u.Log.Info("interrupted stream cannot be continued, sending anew", "dataset", u.Dataset, "target", u.TargetNode, "error", err)
			stale = true
			continue
		case err != nil:
			// The answer may be lost where the snapshot is not.
			arrived, stateErr := u.ask(ctx, true)
			if stateErr != nil {
				return err
			}
			if _, ok := find(arrived.Versions, plan.To.GUID, true); !ok {
				return err
			}
			u.Log.Info("target has the snapshot in spite of an error", "snapshot", plan.To.FullName(), "target", u.TargetNode, "error", err)
		case plan.To.GUID == u.GUID:
			u.base = plan.To
			return nil
		default:
			n = 0 // the target is further
		}
	}
	return fmt.Errorf("replicate %s@%s to %s on %s: %w after %d steps", u.Dataset, u.Snapshot, u.TargetDataset, u.TargetNode, ErrIncomplete, maxSteps)
}

// look reads what both sides have. Processes and requests go side by side:
// where little has changed, they are what a transfer takes its time for.
func (u *Attempt) look(parent context.Context, ignoreToken bool) error {
	u.seen = time.Now()
	g, ctx := errgroup.WithContext(parent)
	g.Go(func() (err error) {
		u.source.Versions, u.Versions = u.Versions, nil // once
		if u.source.Versions == nil || time.Since(u.Listed) > lookAge {
			u.source.Versions, err = u.ZFS.Versions(ctx, u.Dataset)
		}
		return err
	})
	g.Go(func() (err error) {
		u.target, err = u.ask(ctx, ignoreToken)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if have, ok := find(u.target.Versions, u.GUID, true); ok && complete(u.target, have) {
		return nil // nothing is sent
	}
	var err error
	if u.source.Dataset, err = u.ZFS.Dataset(parent, u.Dataset); err != nil {
		return err
	}
	return u.lookAtOrigin(parent)
}

// lookAtOrigin asks, before the first stream of a clone, whether the target has
// what it is a clone of. That is so for every volume that was restored from a
// copy and is now sent the other way.
func (u *Attempt) lookAtOrigin(ctx context.Context) error {
	if _, ok := newest(u.target.Versions); ok || u.source.Origin == "" {
		return nil
	}
	var err error
	if u.source.CloneOf, err = u.ZFS.Lookup(ctx, u.source.Origin); err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	state, err := u.Target.ReceiveState(callCtx, &agentpb.ReceiveStateRequest{Dataset: u.TargetDataset, OriginGuid: u.source.CloneOf.GUID})
	u.target.HasOrigin = state.GetHasOrigin()
	return err
}

// ask asks what the target has. A token is decoded here, where its snapshots
// are, unless it is not to be used.
func (u *Attempt) ask(ctx context.Context, ignoreToken bool) (Target, error) {
	callCtx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	state, err := u.Target.ReceiveState(callCtx, &agentpb.ReceiveStateRequest{Dataset: u.TargetDataset})
	if err != nil {
		return Target{}, err
	}
	t := Target{
		Dataset: u.TargetDataset, Exists: state.GetExists(), Fenced: state.GetFenced(), Unsafe: state.GetUnsafe(),
		Token: state.GetReceiveResumeToken(), Mode: state.GetStreamMode(), Encrypted: state.GetEncrypted(),
	}
	for _, v := range state.GetVersions() {
		t.Versions = append(t.Versions, version(v))
	}
	if t.Token == "" || ignoreToken {
		return t, nil
	}
	est, err := u.ZFS.SendSize(ctx, zfs.SendOptions{Token: t.Token})
	switch {
	case err == nil:
		t.Resume = est.Resume
	case ctx.Err() != nil || errors.Is(err, zfs.ErrPoolUnavailable):
		return Target{}, err
	}
	return t, nil
}

func version(v *agentpb.Version) zfs.Version {
	return zfs.Version{
		Dataset: v.GetDataset(), Name: v.GetName(), Bookmark: v.GetBookmark(), GUID: v.GetGuid(), CreateTXG: v.GetCreatetxg(),
		Created: time.Unix(v.GetCreatedUnix(), 0), Used: v.GetUsed(), Referenced: v.GetReferenced(), Written: v.GetWritten(),
		UserRefs: v.GetUserrefs(),
	}
}

// step sends one stream. Before data moves, what it needs is held, and the
// bookmark that the next increment will start from is made: if this host dies
// at the worst moment, the chain still continues.
func (u *Attempt) step(ctx context.Context, plan Plan) error {
	opts := plan.Mode.Send(plan.Base(), plan.To.FullName())
	if plan.Action == Resume {
		opts = zfs.SendOptions{Token: plan.Token}
	}
	var header *agentpb.ReceiveHeader
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.ZFS.Hold(gctx, holdTag, plan.To.FullName()) })
	// With a bookmark the base may go at any time; an origin may not.
	if plan.From.Dataset == u.Dataset && !plan.From.Bookmark && !listed(u.source.Versions, u.cursor(plan.From.GUID)) {
		g.Go(func() error { return u.ZFS.Hold(gctx, holdTag, plan.From.FullName()) })
	}
	if !listed(u.source.Versions, u.cursor(plan.To.GUID)) {
		g.Go(func() error { return u.ZFS.Bookmark(gctx, plan.To.FullName(), u.cursor(plan.To.GUID)) })
	}
	total := estimate(u.source.Versions, plan)
	if plan.Action == Resume {
		g.Go(func() error {
			// For showing progress; there is no estimate for some streams.
			if est, err := u.ZFS.SendSize(gctx, opts); err == nil {
				total = est.Bytes
			}
			return nil
		})
	}
	g.Go(func() (err error) {
		header, err = u.header(gctx, plan)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	u.Progress.Step(plan.Base(), total, plan.Action == Resume)
	u.Log.Info("sending", "snapshot", plan.To.FullName(), "from", plan.Base(), "action", string(plan.Action), "mode", string(plan.Mode),
		"target", u.TargetNode, "replica", u.TargetDataset, "estimate", total)

	sent, err := u.send(ctx, header, opts)
	if err != nil {
		return fmt.Errorf("send %s to %s on %s: %w", plan.To.FullName(), u.TargetDataset, u.TargetNode, err)
	}
	u.Log.Info("sent", "snapshot", plan.To.FullName(), "target", u.TargetNode, "replica", u.TargetDataset, "bytes_sent", sent)
	return nil
}

// listed reports whether a snapshot or bookmark of that name is among them.
func listed(vs []zfs.Version, name string) bool {
	return slices.ContainsFunc(vs, func(v zfs.Version) bool { return v.FullName() == name })
}

// estimate is about how many bytes a stream has: what was written since its
// base. It comes with the list of snapshots; zfs send -n would take a process.
func estimate(source []zfs.Version, plan Plan) uint64 {
	if plan.From.GUID == 0 {
		return plan.To.Referenced
	}
	var sum uint64
	for _, v := range source {
		if !v.Bookmark && v.CreateTXG > plan.From.CreateTXG && v.CreateTXG <= plan.To.CreateTXG {
			sum += v.Written
		}
	}
	return sum
}

// header announces a stream. The snapshot's own properties travel with it, so
// that the copy tells which backup it belongs to; a bookmark has none.
func (u *Attempt) header(ctx context.Context, plan Plan) (*agentpb.ReceiveHeader, error) {
	props := map[string]string{}
	switch {
	case plan.To.GUID == u.GUID && u.Properties != nil:
		props = maps.Clone(u.Properties)
	case !plan.To.Bookmark:
		var err error
		if props, err = u.ZFS.UserProperties(ctx, plan.To.FullName(), zfs.SourceLocal); err != nil {
			return nil, err
		}
	}
	// Who holds it here is of no concern there.
	maps.DeleteFunc(props, func(name, _ string) bool { return strings.HasPrefix(name, names.PropHold) })
	names.KeepOwnClaim(props, plan.To.Dataset)
	return &agentpb.ReceiveHeader{
		Dataset:            u.TargetDataset,
		Snapshot:           plan.To.Name,
		Guid:               plan.To.GUID,
		Resume:             plan.Action == Resume,
		Type:               string(u.source.Type),
		Source:             u.Node + ":" + u.Dataset,
		SnapshotProperties: props,
		StreamMode:         string(plan.Mode),
		OriginGuid:         plan.FromOrigin(),
	}, nil
}

// send runs zfs send into the target's Receive. It succeeds when both processes
// exited well, both sides counted the same bytes and the target found the
// snapshot by guid.
func (u *Attempt) send(ctx context.Context, header *agentpb.ReceiveHeader, opts zfs.SendOptions) (uint64, error) {
	// A stream that is given up without an end record must be reset, or the
	// target would wait for the rest.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := u.Target.Receive(ctx)
	if err != nil {
		return 0, err
	}
	w := &chunkWriter{stream: stream, sent: u.Progress.Sent}
	err = w.send(&agentpb.ReceiveRequest{Part: &agentpb.ReceiveRequest_Header{Header: header}})
	if err == nil {
		err = u.ZFS.Send(ctx, opts, u.limited(ctx, w))
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = w.send(&agentpb.ReceiveRequest{Part: &agentpb.ReceiveRequest_End{End: &agentpb.ReceiveEnd{Bytes: w.bytes}}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return w.bytes, err
	}
	// io.EOF says that the target has ended the call; its reason is in the reply.
	return w.bytes, received(stream, header, w.bytes)
}

// limited passes on to w no faster than the limit.
func (u *Attempt) limited(ctx context.Context, w io.Writer) io.Writer {
	if u.Limit == nil {
		return w
	}
	return writerFunc(func(p []byte) (int, error) {
		if err := u.Limit(ctx, len(p)); err != nil {
			return 0, err
		}
		return w.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// confirm completes on the target what is left undone when the answer to a
// Receive is lost, or its agent dies.
func (u *Attempt) confirm(ctx context.Context, to zfs.Version) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	header, err := u.header(ctx, Plan{Action: AlreadyThere, To: to})
	if err != nil {
		return err
	}
	stream, err := u.Target.Receive(ctx)
	if err != nil {
		return err
	}
	w := &chunkWriter{stream: stream}
	for _, m := range []*agentpb.ReceiveRequest{
		{Part: &agentpb.ReceiveRequest_Header{Header: header}},
		{Part: &agentpb.ReceiveRequest_End{End: &agentpb.ReceiveEnd{}}},
	} {
		if err := w.send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return received(stream, header, 0)
}

func received(stream agentpb.Agent_ReceiveClient, header *agentpb.ReceiveHeader, bytes uint64) error {
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if resp.GetBytes() != bytes {
		return fmt.Errorf("%w: %d bytes were sent and %d received", ErrIncomplete, bytes, resp.GetBytes())
	}
	if got := resp.GetSnapshot().GetGuid(); got != header.GetGuid() {
		return fmt.Errorf("%w: the target reports guid %d, not %d", ErrIncomplete, got, header.GetGuid())
	}
	return nil
}

// complete reports whether the target has done all it does with a snapshot that
// arrived; holding it comes last. One that is fenced does no more.
func complete(target Target, to zfs.Version) bool {
	there, _ := find(target.Versions, to.GUID, true)
	return target.Fenced != "" || there.UserRefs > 0 && !target.Unsafe
}

// common is the newest snapshot of the source that the target has.
func common(source, target []zfs.Version) (base zfs.Version) {
	there := map[uint64]bool{}
	for _, v := range snapshots(target) {
		there[v.GUID] = true
	}
	for _, v := range snapshots(source) {
		if there[v.GUID] {
			base = v
		}
	}
	return base
}

// settle leaves both sides ready for the next increment when the wanted snapshot
// is found on the target: the newest one that both have is bookmarked and held.
// A step does that before it sends.
func (u *Attempt) settle(ctx context.Context, to zfs.Version) error {
	if !complete(u.target, to) {
		if err := u.confirm(ctx, to); err != nil {
			return err
		}
	}
	base := common(u.source.Versions, u.target.Versions)
	if !listed(u.source.Versions, u.cursor(base.GUID)) {
		if err := u.ZFS.Bookmark(ctx, base.FullName(), u.cursor(base.GUID)); err != nil {
			return err
		}
	}
	if err := u.ZFS.Hold(ctx, holdTag, base.FullName()); err != nil {
		return err
	}
	u.base = base
	return nil
}

// few is how many snapshots are released without asking which are held by us.
const few = 8

// Tidy drops what was kept for this replica and is older than what it has after
// Run: holds, and its cursors. What cannot be dropped now is dropped after the
// next transfer. It returns the createtxg before which nothing is left to drop,
// 0 when something stays.
func (u *Attempt) Tidy(ctx context.Context) uint64 {
	cursors, held := u.older(u.base)
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range cursors {
		g.Go(func() error { return unless(u.ZFS.DestroyBookmark(ctx, c), zfs.ErrNotFound) })
	}
	g.Go(func() error {
		if len(held) > few {
			// Most are held for backups.
			holds, err := u.ZFS.Holds(ctx, held...)
			if err != nil {
				return err
			}
			held = nil
			for _, h := range holds {
				if h.Tag == holdTag {
					held = append(held, h.Snapshot)
				}
			}
		}
		return unless(u.ZFS.Release(ctx, holdTag, held...), zfs.ErrNotFound)
	})
	if err := g.Wait(); err != nil {
		u.Log.Warn("older holds or bookmarks of a replica stay until its next transfer", "dataset", u.Dataset, "target", u.TargetNode, "error", err)
		return 0
	}
	return u.base.CreateTXG
}

// older names this replica's cursors, and the held snapshots, that are older
// than base, were not dropped before, and that no other transfer needs.
func (u *Attempt) older(base zfs.Version) (cursors, held []string) {
	for _, v := range u.source.Versions {
		switch {
		case v.CreateTXG < u.Tidied, v.CreateTXG >= base.CreateTXG, u.Keep != nil && u.Keep(v.GUID):
		case v.Bookmark && strings.HasPrefix(v.FullName(), u.cursors()):
			cursors = append(cursors, v.FullName())
		case !v.Bookmark && v.UserRefs > 0:
			held = append(held, v.FullName())
		}
	}
	return cursors, held
}

// unless returns err, or nil when it is the one that is fine.
func unless(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

// CursorPrefix begins the names of the bookmarks that transfers keep.
const CursorPrefix = "kubectl-dr_"

// TargetKey names a replica in the names of its cursors: "<node>_<8 hex digits>".
func TargetKey(node, dataset string) string {
	short := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, node)
	sum := sha256.Sum256([]byte(node + ":" + dataset))
	return fmt.Sprintf("%s_%x", short[:min(len(short), 32)], sum[:4])
}

var cursorName = regexp.MustCompile(`^` + CursorPrefix + `([A-Za-z0-9.-]{0,32}_[0-9a-f]{8})_[0-9a-f]+$`)

// ParseCursor returns the TargetKey of the replica that a bookmark is a cursor
// of; ok is false for the name of any other bookmark.
func ParseCursor(bookmark string) (key string, ok bool) {
	m := cursorName.FindStringSubmatch(bookmark)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// cursors is the full name that the cursors of this replica begin with.
func (u *Attempt) cursors() string {
	return u.Dataset + "#" + CursorPrefix + TargetKey(u.TargetNode, u.TargetDataset) + "_"
}

func (u *Attempt) cursor(guid uint64) string { return fmt.Sprintf("%s%x", u.cursors(), guid) }

// chunks are buffers of Chunk bytes. Unlike those of gRPC they are not cleared
// before they are used again.
var chunks chunkPool

type chunkPool struct{ pool sync.Pool }

func (p *chunkPool) Get(int) *[]byte {
	b, ok := p.pool.Get().(*[]byte)
	if !ok {
		made := make([]byte, Chunk)
		return &made
	}
	*b = (*b)[:Chunk]
	return b
}

func (p *chunkPool) Put(b *[]byte) { p.pool.Put(b) }

// chunkWriter makes data messages of what is written to it.
type chunkWriter struct {
	stream agentpb.Agent_ReceiveClient
	sent   func(int)
	buf    *[]byte // of chunks; the connection takes it over with the message
	filled int
	bytes  uint64
}

// send returns io.EOF when the target has ended the call.
func (w *chunkWriter) send(m *agentpb.ReceiveRequest) error { return w.stream.Send(m) }

func (w *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = chunks.Get(Chunk)
		}
		room := copy((*w.buf)[w.filled:], p)
		w.filled += room
		p = p[room:]
		if w.filled == Chunk {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *chunkWriter) flush() error {
	n, buf := w.filled, w.buf
	if n == 0 {
		return nil
	}
	*buf = (*buf)[:n]
	w.buf, w.filled = nil, 0
	if err := w.stream.SendMsg(&agentpb.Data{Buffer: mem.NewBuffer(buf, &chunks)}); err != nil {
		return err
	}
	w.bytes += uint64(n)
	w.sent(n)
	return nil
}
