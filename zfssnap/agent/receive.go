package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/mem"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// replicaHold keeps the newest snapshot of a replica: the next increment can be
// received onto nothing else.
var replicaHold = names.HoldTag(names.HoldReplica)

// settleTimeout bounds what a receive does after its stream has ended: letting
// zfs receive save what arrived, or completing what it got.
const settleTimeout = time.Minute

// replica is what this host has of a replica.
type replica struct {
	exists   bool
	token    string
	versions []zfs.Version
	managed  bool
	source   string
	fenced   string
	mode     string // of its streams so far, "" when that is not recorded
	// encrypted is whether it is, or what it would be made below; keyRoot is
	// the dataset whose key opens it.
	encrypted bool
	keyRoot   string
	unsafe    bool // it is mounted, or may be written to
}

func (s *Server) replica(ctx context.Context, dataset string) (replica, error) {
	var props map[string]zfs.Property
	r := replica{exists: true}
	// Side by side: for a small increment, starting processes is most of it.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		props, err = s.ZFS.Get(gctx, dataset, names.PropManaged, names.PropSource, names.PropFenced, names.PropStream,
			"receive_resume_token", "readonly", "mounted", "encryption", "encryptionroot")
		return err
	})
	g.Go(func() (err error) {
		r.versions, err = s.ZFS.Versions(gctx, dataset)
		return err
	})
	err := g.Wait()
	if errors.Is(err, ErrNotFound) {
		return s.missingReplica(ctx, dataset)
	}
	if err != nil {
		return replica{}, err
	}
	if token := props["receive_resume_token"].Value; token != "-" {
		r.token = token
	}
	r.unsafe = props["readonly"].Value != "on" || props["mounted"].Value == "yes"
	r.managed = local(props[names.PropManaged]) == "true"
	r.source, r.fenced = local(props[names.PropSource]), set(props[names.PropFenced])
	r.mode = local(props[names.PropStream])
	r.encrypted = zfs.Dataset{Encryption: props["encryption"].Value}.Encrypted()
	r.keyRoot = props["encryptionroot"].Value
	return r, nil
}

// missingReplica looks for what a replica that is to be made would inherit.
func (s *Server) missingReplica(ctx context.Context, dataset string) (replica, error) {
	for up := zfs.Parent(dataset); up != ""; up = zfs.Parent(up) {
		props, err := s.ZFS.Get(ctx, up, names.PropFenced, "encryption")
		if !errors.Is(err, ErrNotFound) {
			encrypted := zfs.Dataset{Encryption: props["encryption"].Value}.Encrypted()
			return replica{fenced: set(props[names.PropFenced]), encrypted: encrypted}, err
		}
	}
	return replica{}, nil
}

// local is the value of a property that is set on the dataset itself.
func local(p zfs.Property) string {
	if p.Source == zfs.SourceLocal {
		return p.Value
	}
	return ""
}

// set is the value of a user property wherever it is set.
func set(p zfs.Property) string {
	if p.Source == zfs.SourceNone || p.Source == zfs.SourceDefault {
		return ""
	}
	return p.Value
}

func (r replica) snapshot(guid uint64) (zfs.Version, bool) {
	for _, v := range r.versions {
		if v.GUID == guid && !v.Bookmark {
			return v, true
		}
	}
	return zfs.Version{}, false
}

// accepts refuses a stream that does not fit those before it.
func (r replica) accepts(h *agentpb.ReceiveHeader) error {
	mode, err := replicate.ParseMode(h.GetStreamMode())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(r.versions, func(v zfs.Version) bool { return !v.Bookmark }) {
		return nil
	}
	switch {
	case r.mode != "" && r.mode != string(mode):
		return &replicate.ModeError{Source: h.GetSource(), Target: h.GetDataset(), Was: r.mode, Now: mode}
	case mode == replicate.Raw && r.keyRoot != h.GetDataset():
		// The next raw stream would bring keys that do not fit the changed one:
		// it succeeds, and the replica can never be mounted again.
		return hint.Add(fmt.Errorf("%w: the key of %s was changed on this host, its encryption root is %q (zfs change-key)", ErrStreamMode, h.GetDataset(), r.keyRoot),
			fmt.Sprintf("nothing was changed; rename %s out of the way to start a new replica beside it", h.GetDataset()))
	}
	return nil
}

// ReceiveState implements agentpb.AgentServer.
func (s *Server) ReceiveState(ctx context.Context, req *agentpb.ReceiveStateRequest) (*agentpb.ReceiveStateResponse, error) {
	if err := s.allow(ctx, Receive, req.GetDataset()); err != nil {
		return nil, err
	}
	id, err := identity(ctx)
	if err != nil {
		return nil, err
	}
	state := s.told.state(req.GetDataset())
	r, err := s.replica(ctx, req.GetDataset())
	if err != nil {
		return nil, err
	}
	s.told.remember(req.GetDataset(), id, r, state, s.Clock())
	hasOrigin := false
	if guid := req.GetOriginGuid(); guid != 0 {
		_, err := s.origin(ctx, req.GetDataset(), guid)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		hasOrigin = err == nil
	}
	return &agentpb.ReceiveStateResponse{
		HasOrigin: hasOrigin,
		Exists:    r.exists, Versions: versions(r.versions), ReceiveResumeToken: r.token, Fenced: r.fenced, Unsafe: r.unsafe,
		StreamMode: r.mode, Encrypted: r.encrypted,
	}, nil
}

// origin finds the snapshot that a new replica is to be a clone of: clones stay
// within their pool.
func (s *Server) origin(ctx context.Context, dataset string, guid uint64) (zfs.Version, error) {
	return s.ZFS.FindByGUID(ctx, guid, zfs.Pool(dataset))
}

// Receive implements agentpb.AgentServer.
//
// Nothing is changed before data has come, so a sender that dies at once leaves
// no trace. A stream that ends without its end record leaves what zfs receive
// keeps for resuming, and nothing else.
func (s *Server) Receive(stream agentpb.Agent_ReceiveServer) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("receive: read header: %w", err)
	}
	h := first.GetHeader()
	if err := s.checkHeader(ctx, h); err != nil {
		return err
	}
	if _, busy := s.receiving.LoadOrStore(h.GetDataset(), true); busy {
		return fmt.Errorf("receive into %s: %w: another receive runs", h.GetDataset(), ErrBusy)
	}
	defer s.receiving.Delete(h.GetDataset())
	defer s.told.received(h.GetDataset())

	node, _, _ := strings.Cut(h.GetSource(), ":")
	start := s.Clock()
	in := &incoming{stream: stream}
	defer in.free()
	v, err := s.receive(ctx, h, in)
	if in.bytes > 0 {
		_, reason := classify(err)
		s.OnTransfer(TransferEvent{
			Received: true, Dataset: h.GetDataset(), Peer: node, Bytes: in.bytes, Duration: s.Clock().Sub(start), Err: err, Reason: reason,
		})
	}
	if err != nil {
		return fmt.Errorf("receive %s@%s from %s: %w", h.GetDataset(), h.GetSnapshot(), h.GetSource(), err)
	}
	s.Log.Info("received", "snapshot", v.FullName(), "guid", v.GUID, "source", h.GetSource(), "bytes", in.bytes)
	return stream.SendAndClose(&agentpb.ReceiveResponse{Snapshot: versionPB(v), Bytes: in.bytes})
}

func (s *Server) checkHeader(ctx context.Context, h *agentpb.ReceiveHeader) error {
	if h == nil {
		return fmt.Errorf("receive: %w: the first message is not a header", ErrInvalid)
	}
	if err := s.allow(ctx, Receive, h.GetDataset()); err != nil {
		return err
	}
	if err := zfs.ValidateSnapshot(h.GetDataset() + "@" + h.GetSnapshot()); err != nil {
		return err
	}
	if h.GetGuid() == 0 {
		return fmt.Errorf("receive into %s: %w: no guid", h.GetDataset(), ErrInvalid)
	}
	if t := zfs.Type(h.GetType()); t != zfs.Filesystem && t != zfs.Volume {
		return fmt.Errorf("receive into %s: %w: type %q", h.GetDataset(), ErrInvalid, t)
	}
	// A replica is bound to the node it comes from, so no other can continue it.
	id, err := identity(ctx)
	if err != nil {
		return err
	}
	node, dataset, _ := strings.Cut(h.GetSource(), ":")
	if node != id {
		return fmt.Errorf("receive into %s: %w: source %q is not of identity %q", h.GetDataset(), ErrDenied, h.GetSource(), id)
	}
	if err := zfs.ValidateDataset(dataset); err != nil {
		return err
	}
	return checkOurs(h.GetSnapshotProperties())
}

func (s *Server) receive(ctx context.Context, h *agentpb.ReceiveHeader, in *incoming) (zfs.Version, error) {
	// The first part tells a stream from a request to complete an earlier one.
	if err := in.next(); err != nil {
		return zfs.Version{}, err
	}
	node, _, _ := strings.Cut(h.GetSource(), ":")
	r, known := s.told.take(h.GetDataset(), node, s.Clock())
	if !known {
		var err error
		if r, err = s.replica(ctx, h.GetDataset()); err != nil {
			return zfs.Version{}, err
		}
	}
	switch {
	case r.fenced != "":
		return zfs.Version{}, fmt.Errorf("%w: %s by %s", ErrFenced, h.GetDataset(), r.fenced)
	case r.exists && (!r.managed || r.source == ""):
		return zfs.Version{}, fmt.Errorf("%w: %s exists and is not a replica", ErrForeign, h.GetDataset())
	case r.exists && r.source != h.GetSource():
		return zfs.Version{}, fmt.Errorf("%w: it is the replica of %s", ErrForeign, r.source)
	}
	if _, ok := r.snapshot(h.GetGuid()); ok && in.ended {
		return s.complete(ctx, h, r)
	}
	if in.ended {
		return zfs.Version{}, fmt.Errorf("%w: the stream is empty", ErrIncomplete)
	}
	if err := r.accepts(h); err != nil {
		return zfs.Version{}, err
	}
	if !h.GetResume() && r.token != "" {
		s.Log.Info("dropping an interrupted receive", "dataset", h.GetDataset())
		if err := s.ZFS.AbortReceive(ctx, h.GetDataset()); err != nil {
			return zfs.Version{}, err
		}
	}
	if h.GetResume() && r.token == "" {
		return zfs.Version{}, fmt.Errorf("%w: there is no interrupted receive", zfs.ErrResumeStale)
	}
	if !r.exists {
		if err := s.makeParents(ctx, Receive, h.GetDataset()); err != nil {
			return zfs.Version{}, err
		}
	}
	if err := s.run(ctx, h, in); err != nil {
		return zfs.Version{}, err
	}

	// What has arrived is completed even if the sender is gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return s.complete(ctx, h, r)
}

// run feeds the stream to zfs receive. It has a life of its own: when the
// stream breaks, it sees its input end and saves what it has.
func (s *Server) run(ctx context.Context, h *agentpb.ReceiveHeader, in *incoming) error {
	procCtx, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	r, w := io.Pipe()
	done := make(chan error, 1)
	opts := received.Options(h.GetDataset()+"@"+h.GetSnapshot(), zfs.Type(h.GetType()), h.GetSource(), h.GetStreamMode())
	if guid := h.GetOriginGuid(); guid != 0 && !h.GetResume() {
		origin, err := s.origin(ctx, h.GetDataset(), guid)
		if err != nil {
			return err
		}
		opts.Origin = origin.FullName()
	}
	go func() {
		err := s.ZFS.Receive(procCtx, opts, r)
		// Whoever still writes learns that nobody reads.
		r.CloseWithError(errReceiveEnded)
		done <- err
	}()

	streamErr := in.copyTo(w)
	w.CloseWithError(streamErr)
	timer := time.AfterFunc(settleTimeout, kill)
	defer timer.Stop()
	if streamErr == nil {
		// All has come. What zfs receive does now may take long, but not for a
		// sender that is gone.
		timer.Stop()
		defer context.AfterFunc(ctx, func() { timer.Reset(settleTimeout) })()
	}
	err := <-done
	switch {
	case errors.Is(streamErr, errReceiveEnded) && err == nil:
		// zfs receive had enough before the end came, as it may.
		return in.drain()
	case err != nil:
		return err
	default:
		return streamErr
	}
}

var errReceiveEnded = errors.New("zfs receive has ended")

// complete checks a replica after a receive, tags the snapshot, and moves the
// hold to the newest one. before is what there was before it.
func (s *Server) complete(ctx context.Context, h *agentpb.ReceiveHeader, before replica) (zfs.Version, error) {
	v, err := s.arrived(ctx, h)
	if err != nil {
		return v, err
	}
	props := maps.Clone(h.GetSnapshotProperties())
	if props == nil {
		props = map[string]string{}
	}
	props[names.PropManaged], props[names.PropSource] = "true", h.GetSource()
	newest := v
	for _, o := range before.versions {
		if !o.Bookmark && o.CreateTXG > newest.CreateTXG {
			newest = o
		}
	}
	if err := s.ZFS.Set(ctx, v.FullName(), props); err != nil {
		return v, err
	}
	// The hold comes last: one that is held is complete. And the new one is held
	// before the old one is let go.
	if err := s.ZFS.Hold(ctx, replicaHold, newest.FullName()); err != nil {
		return v, err
	}
	older := slices.DeleteFunc(held(before.versions), func(name string) bool { return name == newest.FullName() })
	if err := s.ZFS.Release(ctx, replicaHold, older...); err != nil && !errors.Is(err, ErrNotFound) {
		return v, err
	}
	return v, nil
}

// arrived finds the snapshot of a stream, and checks that the replica is as it
// was left.
func (s *Server) arrived(ctx context.Context, h *agentpb.ReceiveHeader) (zfs.Version, error) {
	name := h.GetDataset() + "@" + h.GetSnapshot()
	v, problems, err := received.Check(ctx, s.ZFS, name, zfs.Type(h.GetType()))
	if errors.Is(err, ErrNotFound) {
		problems, err = received.Problems(ctx, s.ZFS, h.GetDataset(), zfs.Type(h.GetType()))
	}
	if err == nil && v.GUID != h.GetGuid() {
		// It may have had another name here before.
		var vs []zfs.Version
		if vs, err = s.ZFS.Versions(ctx, h.GetDataset()); err == nil {
			var ok bool
			if v, ok = (replica{versions: vs}).snapshot(h.GetGuid()); !ok {
				err = fmt.Errorf("%w: no snapshot with guid %d is there after it", ErrIncomplete, h.GetGuid())
			}
		}
	}
	if err != nil || len(problems) == 0 {
		return v, err
	}
	return v, hint.Add(fmt.Errorf("replica %s: %w as it was left: it must be read-only, unmounted and without foreign properties, and has %s",
		h.GetDataset(), ErrMismatch, strings.Join(problems, "; ")),
		"the snapshot is kept and nothing was undone; find out who changed the replica, put it right with zfs set, zfs inherit or zfs unmount, and back up again")
}

// incoming is the part of a stream after its header.
type incoming struct {
	stream agentpb.Agent_ReceiveServer
	data   *mem.Reader // of the last part
	bytes  uint64      // so far
	ended  bool        // the end record has come
}

// next reads one part. A stream that ends before its end record is incomplete,
// and so is one whose end record counts other bytes.
func (in *incoming) next() error {
	in.free()
	var m agentpb.Part
	err := in.stream.RecvMsg(&m)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ended without an end record", ErrIncomplete)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	end := m.Request.GetEnd()
	switch {
	case m.Data != nil:
		in.data = m.Data
		in.bytes += uint64(m.Data.Remaining())
		return nil
	case end != nil:
		in.ended = true
		if end.GetBytes() != in.bytes {
			return fmt.Errorf("%w: %d bytes were sent and %d received", ErrIncomplete, end.GetBytes(), in.bytes)
		}
		return nil
	default:
		return fmt.Errorf("receive: %w: neither data nor end", ErrInvalid)
	}
}

// free gives back what was not read of the last part.
func (in *incoming) free() {
	if in.data != nil {
		_ = in.data.Close()
		in.data = nil
	}
}

// copyTo writes the part at hand and all that follow.
func (in *incoming) copyTo(w io.Writer) error {
	buf := make([]byte, replicate.Chunk)
	for !in.ended {
		if _, err := io.CopyBuffer(w, in.data, buf); err != nil {
			return err
		}
		if err := in.next(); err != nil {
			return err
		}
	}
	return nil
}

// drain reads what follows, for its count.
func (in *incoming) drain() error {
	for !in.ended {
		if err := in.next(); err != nil {
			return err
		}
	}
	return nil
}
