package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Action is what an upload does.
type Action string

// The actions of an UploadPlan.
const (
	AlreadyThere Action = "already there"
	Full         Action = "full"
	Incremental  Action = "incremental"
)

// Uploader makes restore points of snapshots of this host.
//
// It takes PartSize × (Concurrency + 1) bytes for parts, and a few per cent more
// where they are encrypted, however long the stream is.
type Uploader struct {
	ZFS   *zfs.Client
	Store *Store
	Node  string // this host

	PartSize    int64
	Concurrency int // parts stored at a time
	// Recipients are age public keys; with none the parts are not encrypted.
	Recipients []string
	// Full makes a full stream even where there is a base.
	Full bool
	// MaxChain is how many points a chain may have before the next one is full;
	// 0 for any number. Retention frees nothing of a chain that goes on.
	MaxChain int

	// Limit, when set, waits until n bytes may be stored.
	Limit func(ctx context.Context, n int) error

	Clock func() time.Time
	Hooks Hooks
}

// Hooks are told how a run gets on. Each may be nil, must not block, and is
// called by one goroutine at a time.
type Hooks struct {
	Part func(PartEvent)
	// Warn is told what failed that the outcome does not depend on.
	Warn func(error)
}

// PartEvent is a part that was stored, or read and checked.
type PartEvent struct {
	Point string // full name of the snapshot
	Index int
	Bytes int64 // of the stream
	// Kept: it was there from an earlier upload.
	Kept bool
}

func (h Hooks) part(e PartEvent) {
	if h.Part != nil {
		h.Part(e)
	}
}

func (h Hooks) warn(err error) {
	if h.Warn != nil && err != nil {
		h.Warn(err)
	}
}

// UploadPlan is what an upload will do.
type UploadPlan struct {
	Store    string `json:"store"`
	Snapshot string `json:"snapshot"` // full name
	GUID     GUID   `json:"guid"`
	Action   Action `json:"action"`
	// Base is the full name of the snapshot or bookmark that an increment
	// starts from, and Chain how many points its chain then has.
	Base  string `json:"base,omitempty"`
	Chain int    `json:"chain,omitempty"`
	Flags
	Encrypted bool `json:"encrypted"`
	// Estimate is what zfs send expects to produce, in bytes; 0 when it cannot
	// tell.
	Estimate uint64 `json:"estimate"`
	// Kept is how many parts of an earlier upload are there; those that still
	// fit are not stored again.
	Kept int `json:"kept"`

	record *Manifest
	have   map[int][]Part
}

// Plan looks at the snapshot and the store. It changes nothing.
func (u *Uploader) Plan(ctx context.Context, snapshot string) (*UploadPlan, error) {
	if err := zfs.ValidateSnapshot(snapshot); err != nil {
		return nil, err
	}
	dataset, _, name := zfs.SplitVersion(snapshot)
	var ds zfs.Dataset
	var versions []zfs.Version
	var points map[GUID]bool
	var release zfs.Release
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { ds, err = u.ZFS.Dataset(gctx, dataset); return err })
	g.Go(func() (err error) { versions, err = u.ZFS.Versions(gctx, dataset); return err })
	g.Go(func() (err error) { release, err = u.ZFS.Version(gctx); return err })
	g.Go(func() (err error) { points, err = u.Store.guids(gctx); return err })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(versions, func(v zfs.Version) bool { return !v.Bookmark && v.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("snapshot %s: %w", snapshot, ErrNotFound)
	}
	v := versions[at]
	raw := ds.Encryption != "" && ds.Encryption != "off"
	flags := Flags{Raw: raw, LargeBlock: !raw, Compressed: !raw, Embedded: !raw}
	p := &UploadPlan{Store: u.Store.Name, Snapshot: snapshot, GUID: GUID(v.GUID), Action: Full, Chain: 1, Flags: flags, Encrypted: len(u.Recipients) > 0}
	if points[p.GUID] {
		return p, u.there(ctx, p)
	}
	p.record = &Manifest{
		Version: Version, Node: u.Node, Dataset: dataset, Type: ds.Type, Snapshot: name,
		GUID: p.GUID, CreateTXG: v.CreateTXG, Created: v.Created.UTC().Truncate(time.Second),
		Stream:   Stream{Flags: flags, ZFS: release.Userland, Encryption: cmp.Or(ds.Encryption, "off")},
		PartSize: u.PartSize, Recipients: u.Recipients,
	}
	base, depth, err := u.base(ctx, points, versions, v, p.record)
	if err != nil {
		return nil, err
	}
	if depth > 0 {
		p.Action, p.Base, p.Chain = Incremental, base.FullName(), depth+1
		p.record.Base = &Base{GUID: GUID(base.GUID), Snapshot: base.Name}
	}
	return p, u.look(ctx, p, ds)
}

// there completes the plan for a snapshot that is a restore point.
func (u *Uploader) there(ctx context.Context, p *UploadPlan) error {
	m, err := u.Store.Point(ctx, p.GUID)
	if errors.Is(err, ErrDamaged) {
		return hint.Add(
			fmt.Errorf("upload %s: what is in its place: %w", p.Snapshot, err),
			"if it cannot be put back, delete the object "+pointKey(p.GUID)+" by hand and upload it again")
	}
	if err != nil {
		return err
	}
	p.Action, p.Flags, p.Encrypted, p.record = AlreadyThere, m.Stream.Flags, len(m.Recipients) > 0, m
	chain, err := u.Store.Chain(ctx, p.GUID)
	if errors.Is(err, ErrBroken) {
		return hint.Add(
			fmt.Errorf("upload %s: it is a restore point, but cannot be restored: %w", p.Snapshot, err),
			"if that base cannot be put back, delete the object "+pointKey(p.GUID)+" by hand and upload it again")
	}
	p.Chain = len(chain)
	return err
}

// base chooses what an increment starts from: the newest version older than the
// snapshot that is the end of a whole chain of streams made in the same way. depth
// is the number of points in that chain, 0 when there is no base.
func (u *Uploader) base(ctx context.Context, points map[GUID]bool, versions []zfs.Version, to zfs.Version, record *Manifest) (base zfs.Version, depth int, err error) {
	if u.Full {
		return base, 0, nil
	}
	// A snapshot comes before its bookmark, and is preferred.
	slices.SortStableFunc(versions, func(a, b zfs.Version) int { return cmp.Compare(b.CreateTXG, a.CreateTXG) })
	for _, v := range versions {
		if v.CreateTXG >= to.CreateTXG || !points[GUID(v.GUID)] {
			continue
		}
		chain, err := u.Store.Chain(ctx, GUID(v.GUID))
		switch {
		case errors.Is(err, ErrBroken), errors.Is(err, ErrNotFound), errors.Is(err, ErrDamaged), errors.Is(err, ErrInvalid):
			continue
		case err != nil:
			return base, 0, err
		case chain[len(chain)-1].Stream.Flags != record.Stream.Flags:
			continue
		case u.MaxChain > 0 && len(chain) >= u.MaxChain:
			return base, 0, nil
		}
		return v, len(chain), nil
	}
	return base, 0, nil
}

// look completes a plan with what the snapshot has and the store kept.
func (u *Uploader) look(ctx context.Context, p *UploadPlan, ds zfs.Dataset) error {
	m := p.record
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		props, err := u.ZFS.Get(ctx, m.Dataset, received.NativeProperties[m.Type]...)
		if err != nil {
			return err
		}
		m.Properties = map[string]string{}
		for name, prop := range props {
			if prop.Source == zfs.SourceLocal || prop.Source == zfs.SourceReceived {
				m.Properties[name] = prop.Value
			}
		}
		if ds.VolSize > 0 {
			// Its source reads "-" or "local" depending on the release.
			m.Properties["volsize"] = fmt.Sprint(ds.VolSize)
		}
		return nil
	})
	g.Go(func() (err error) {
		m.SnapshotProperties, err = u.ZFS.UserProperties(ctx, p.Snapshot, zfs.SourceLocal)
		names.KeepOwnClaim(m.SnapshotProperties, m.Dataset)
		return err
	})
	g.Go(func() error {
		// It is for people; there is none for some streams.
		if est, err := u.ZFS.SendSize(ctx, u.send(p)); err == nil {
			p.Estimate = est.Bytes
		}
		return nil
	})
	g.Go(func() error {
		objects, err := u.Store.Bucket.List(ctx, partsDir(p.GUID))
		p.have = map[int][]Part{}
		for _, o := range objects {
			if i, part, ok := parsePart(strings.TrimPrefix(o.Key, partsDir(p.GUID)), o.Size); ok {
				p.have[i] = append(p.have[i], part)
				p.Kept++
			}
		}
		return err
	})
	return g.Wait()
}

func (u *Uploader) send(p *UploadPlan) zfs.SendOptions {
	return zfs.SendOptions{From: p.Base, To: p.Snapshot, Raw: p.Raw, LargeBlock: p.LargeBlock, Compressed: p.Compressed, Embedded: p.Embedded}
}

// Upload carries a plan out and returns the point's manifest. It may be repeated
// after any failure: parts that are there, and hold what the stream has, are
// kept. Parts without a manifest are no restore point.
func (u *Uploader) Upload(ctx context.Context, p *UploadPlan) (*Manifest, error) {
	if p.Action == AlreadyThere {
		return p.record, nil
	}
	m, err := u.upload(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("upload %s to %s: %w", p.Snapshot, u.Store.Name, err)
	}
	u.tidy(ctx, p)
	return m, nil
}

func (u *Uploader) upload(ctx context.Context, p *UploadPlan) (*Manifest, error) {
	m := *p.record
	m.Started = u.now()
	record, err := m.Encode()
	if err != nil {
		return nil, err
	}
	// First of all, so that nobody takes the base for one that is not needed.
	if err := u.Store.Bucket.Put(ctx, uploadKey(m.GUID), record, false); err != nil {
		return nil, err
	}
	// The next increment can start from it even when the snapshot is gone.
	if err := u.ZFS.Bookmark(ctx, p.Snapshot, u.bookmark(p)); err != nil {
		return nil, err
	}
	if err := u.stream(ctx, p, &m); err != nil {
		return nil, err
	}
	if err := u.check(ctx, p, &m); err != nil {
		return nil, err
	}
	m.End.Finished = u.now()
	data, err := m.Encode()
	if err != nil {
		return nil, err
	}
	point := &m
	err = u.Store.Bucket.Put(ctx, pointKey(m.GUID), data, true)
	if errors.Is(err, ErrExists) {
		// Another upload of this snapshot was faster, or an earlier try of this
		// request whose answer was lost.
		point, err = u.Store.Point(ctx, m.GUID)
	}
	if err != nil {
		return nil, err
	}
	// It is a restore point now. What is left over goes with the next prune if
	// it does not go here.
	u.Hooks.warn(u.sweep(ctx, point))
	return point, nil
}

func (u *Uploader) now() time.Time { return u.Clock().UTC().Truncate(time.Second) }

// check sees to it that what the manifest will say is true: all parts are
// there, so is the base, and the snapshot is still the same.
func (u *Uploader) check(ctx context.Context, p *UploadPlan, m *Manifest) error {
	if err := u.Store.missing(ctx, m); err != nil {
		// Another upload of this snapshot may have finished and swept.
		if _, other := u.Store.Point(ctx, m.GUID); other == nil {
			return nil
		}
		return err
	}
	if m.Base != nil {
		if _, err := u.Store.Point(ctx, m.Base.GUID); err != nil {
			return fmt.Errorf("base %s: %w: %w; upload it anew", p.Base, ErrChanged, err)
		}
	}
	v, err := u.ZFS.Lookup(ctx, p.Snapshot)
	if err != nil {
		return err
	}
	if GUID(v.GUID) != p.GUID {
		return fmt.Errorf("snapshot %s: %w: its guid is %d, not %s", p.Snapshot, ErrChanged, v.GUID, p.GUID)
	}
	return nil
}

// sweep deletes what an upload leaves beside its point: its record, and parts of
// earlier ones that did not fit.
func (u *Uploader) sweep(ctx context.Context, m *Manifest) error {
	objects, err := u.Store.Bucket.List(ctx, partsDir(m.GUID))
	if err != nil {
		return err
	}
	errs := []error{u.Store.Bucket.Delete(ctx, uploadKey(m.GUID))}
	own := map[string]bool{}
	for i := range m.Parts {
		own[m.key(i)] = true
	}
	for _, o := range objects {
		if !own[o.Key] {
			errs = append(errs, u.Store.Bucket.Delete(ctx, o.Key))
		}
	}
	return errors.Join(errs...)
}

// bookmarks is what the names of this store's bookmarks begin with.
func (u *Uploader) bookmarks() string {
	sum := sha256.Sum256([]byte(u.Store.Name))
	return fmt.Sprintf("kubectl-dr_archive_%x_", sum[:4])
}

func (u *Uploader) bookmark(p *UploadPlan) string {
	return p.record.Dataset + "#" + u.bookmarks() + p.GUID.key()
}

// tidy makes the point's bookmark the only one of this store, unless there is a
// newer one.
func (u *Uploader) tidy(ctx context.Context, p *UploadPlan) {
	versions, err := u.ZFS.Versions(ctx, p.record.Dataset)
	if err != nil {
		u.Hooks.warn(err)
	}
	for _, v := range versions {
		if v.Bookmark && strings.HasPrefix(v.Name, u.bookmarks()) && v.CreateTXG < p.record.CreateTXG {
			if err := u.ZFS.DestroyBookmark(ctx, v.FullName()); err != nil && !errors.Is(err, ErrNotFound) {
				u.Hooks.warn(err)
			}
		}
	}
}

// stream runs zfs send and stores its parts.
func (u *Uploader) stream(ctx context.Context, p *UploadPlan, m *Manifest) error {
	recipients, err := ParseRecipients(u.Recipients)
	if err != nil {
		return err
	}
	size := u.PartSize
	if len(recipients) > 0 {
		size = storedLimit(size)
	}
	g, gctx := errgroup.WithContext(ctx)
	s := &splitter{
		ctx: gctx, partSize: u.PartSize, recipients: recipients, full: make(chan *part),
		buffers: newBuffers(max(1, u.Concurrency)+1, size), sum: sha256.New(),
	}
	var mu sync.Mutex
	parts := map[int]Part{}
	for range max(1, u.Concurrency) {
		g.Go(func() error {
			for q := range s.full {
				done, kept, err := u.storePart(gctx, p, q)
				s.buffers.put(q.data)
				if err != nil {
					return err
				}
				mu.Lock()
				parts[q.index] = done
				u.Hooks.part(PartEvent{Point: p.Snapshot, Index: q.index, Bytes: done.Size, Kept: kept})
				mu.Unlock()
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(s.full)
		if err := u.ZFS.Send(gctx, u.send(p), s); err != nil {
			return err
		}
		return s.flush()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	h, ok := parseHeader(s.head)
	if ok && (h.to != m.GUID || h.from != m.BaseGUID()) {
		return fmt.Errorf("%w: the stream goes from guid %s to %s, not from %s to %s", ErrChanged, h.from, h.to, m.BaseGUID(), m.GUID)
	}
	m.Stream.Features = h.features
	for i := range len(parts) {
		m.Parts = append(m.Parts, parts[i])
	}
	m.End = &End{Bytes: s.bytes, SHA256: Digest(s.sum.Sum(nil))}
	return nil
}

// storePart sees to it that a part is stored, and tells whether it was before.
func (u *Uploader) storePart(ctx context.Context, p *UploadPlan, q *part) (done Part, kept bool, err error) {
	done = Part{Size: q.size, SHA256: q.plainSum()}
	for _, have := range p.have[q.index] {
		if have.SHA256 != done.SHA256 || (have.StoredSHA256 != nil) != (q.seal != nil) {
			continue
		}
		same, err := u.same(ctx, p.GUID, have)
		if err != nil {
			return Part{}, false, err
		}
		if same {
			have.Size = done.Size
			return have, true, nil
		}
	}
	if q.seal != nil {
		stored := Digest(sha256.Sum256(q.data))
		done.StoredSize, done.StoredSHA256 = int64(len(q.data)), &stored
	}
	done.Name = partName(q.index, done)
	if u.Limit != nil {
		if err := u.Limit(ctx, len(q.data)); err != nil {
			return Part{}, false, err
		}
	}
	return done, false, u.Store.Bucket.Put(ctx, partsDir(p.GUID)+done.Name, q.data, false)
}

// same reads a part of an earlier upload and tells whether it holds what its
// name says.
func (u *Uploader) same(ctx context.Context, guid GUID, have Part) (bool, error) {
	r, err := u.Store.Bucket.Get(ctx, partsDir(guid)+have.Name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return false, err
	}
	_, want := have.stored()
	return Digest(sum.Sum(nil)) == want, nil
}

// part is one that is being filled or stored.
type part struct {
	index int
	size  int64  // of the stream
	data  []byte // what is stored
	sum   hash.Hash
	seal  io.WriteCloser // nil when what is stored is the stream itself
}

// Write appends what is to be stored: sealed, when that is asked for. It has
// room for it all.
func (q *part) Write(b []byte) (int, error) {
	if len(q.data)+len(b) > cap(q.data) {
		return 0, errors.New("encrypted part is larger than expected")
	}
	q.data = append(q.data, b...)
	return len(b), nil
}

// plainSum is the sum of the stream's part. Where nothing is encrypted it is
// left to those who store, who are several.
func (q *part) plainSum() Digest {
	if q.seal == nil {
		return sha256.Sum256(q.data)
	}
	return Digest(q.sum.Sum(nil))
}

// splitter cuts a stream in parts.
type splitter struct {
	ctx        context.Context
	partSize   int64
	recipients []age.Recipient
	buffers    *buffers
	full       chan *part

	open  *part // being filled
	next  int   // index
	sum   hash.Hash
	bytes uint64
	head  []byte
}

// Write implements io.Writer. It waits while all buffers are in use.
func (s *splitter) Write(b []byte) (int, error) {
	n := len(b)
	if room := headerSize - len(s.head); room > 0 {
		s.head = append(s.head, b[:min(room, len(b))]...)
	}
	for len(b) > 0 {
		if s.open == nil {
			if err := s.begin(); err != nil {
				return 0, err
			}
		}
		piece := b[:min(int64(len(b)), s.partSize-s.open.size)]
		b = b[len(piece):]
		if err := s.add(piece); err != nil {
			return 0, err
		}
		if s.open.size == s.partSize {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (s *splitter) begin() error {
	data, err := s.buffers.take(s.ctx)
	if err != nil {
		return err
	}
	s.open = &part{index: s.next, data: data}
	s.next++
	if len(s.recipients) > 0 {
		s.open.sum = sha256.New()
		s.open.seal, err = age.Encrypt(s.open, s.recipients...)
	}
	return err
}

func (s *splitter) add(b []byte) error {
	s.sum.Write(b)
	s.bytes += uint64(len(b))
	s.open.size += int64(len(b))
	if s.open.seal == nil {
		_, err := s.open.Write(b)
		return err
	}
	s.open.sum.Write(b)
	_, err := s.open.seal.Write(b)
	return err
}

// flush hands the open part, if there is one, to those who store.
func (s *splitter) flush() error {
	q := s.open
	if q == nil {
		return nil
	}
	s.open = nil
	if q.seal != nil {
		if err := q.seal.Close(); err != nil {
			return err
		}
	}
	select {
	case s.full <- q:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
