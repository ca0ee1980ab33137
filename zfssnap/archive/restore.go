package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"filippo.io/age"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Restorer makes a dataset of a restore point and the points it is based on. It
// never rolls back and destroys nothing. The dataset is kept like any replica:
// read-only and not mounted; what is to be written to is a clone of it.
type Restorer struct {
	ZFS         *zfs.Client
	Store       *Store
	Identities  []age.Identity
	Concurrency int
	// Mark are properties of this project that the dataset has from its first
	// stream on.
	Mark  map[string]string
	Hooks Hooks
}

// RestorePlan is what a restore will do.
type RestorePlan struct {
	Store    string        `json:"store"`
	Snapshot string        `json:"snapshot"` // full name where it was taken
	GUID     GUID          `json:"guid"`
	Source   string        `json:"source"` // "node:dataset"
	Target   string        `json:"target"` // dataset
	Steps    []RestoreStep `json:"steps"`
	// Properties are set on the target in the end.
	Properties map[string]string `json:"properties,omitempty"`
	// Encryption is the cipher of the dataset, or "off". The key of an encrypted
	// one is not in the archive.
	Encryption string `json:"encryption"`

	chain []*Manifest
}

// RestoreStep is one point of the chain.
type RestoreStep struct {
	Snapshot    string `json:"snapshot"` // full name on the target
	GUID        GUID   `json:"guid"`
	Base        GUID   `json:"base,omitempty"`
	Bytes       uint64 `json:"bytes"`       // of the stream
	StoredBytes int64  `json:"storedBytes"` // to read
	// There: the target has it from an earlier restore.
	There bool `json:"there"`
}

// Plan looks at the archive and the target. It changes nothing. That a part is
// there with its size is known after it, but not what is in it.
func (r *Restorer) Plan(ctx context.Context, c *Catalog, guid GUID, target string) (*RestorePlan, error) {
	chain, err := c.Chain(guid)
	if err != nil {
		return nil, err
	}
	return r.PlanChain(ctx, chain, target)
}

// PlanChain is Plan for a chain that was read already, the full stream first.
func (r *Restorer) PlanChain(ctx context.Context, chain []*Manifest, target string) (*RestorePlan, error) {
	m := chain[len(chain)-1]
	p := &RestorePlan{
		Store: r.Store.Name, Snapshot: m.FullName(), GUID: m.GUID, Source: m.Source(), Target: target,
		Properties: restorable(m), Encryption: m.Stream.Encryption, chain: chain,
	}
	for _, m := range chain {
		if err := zfs.ValidateSnapshot(target + "@" + m.Snapshot); err != nil {
			return nil, err
		}
	}
	there, err := r.look(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("restore into %s: %w", target, err)
	}
	for i, m := range chain {
		p.Steps = append(p.Steps, RestoreStep{
			Snapshot: target + "@" + m.Snapshot, GUID: m.GUID, Base: m.BaseGUID(), Bytes: m.End.Bytes, StoredBytes: m.StoredBytes(), There: i < there,
		})
		if i < there {
			continue
		}
		if !(reader{identities: r.Identities}).opens(m) {
			return nil, hint.Add(fmt.Errorf("%s: %w", m.FullName(), ErrSealed), "name the file of an age secret key with --identity")
		}
		if err := r.Store.missing(ctx, m); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// restorable are the native properties to put back. The size of a volume comes
// with its stream, where something is mounted is for those who use it, and what
// is kept like a replica reserves nothing.
func restorable(m *Manifest) map[string]string {
	props := maps.Clone(m.Properties)
	for _, name := range append([]string{"volsize", "mountpoint"}, received.Reservations...) {
		delete(props, name)
	}
	return props
}

// look tells how many points of the chain the target has.
func (r *Restorer) look(ctx context.Context, p *RestorePlan) (there int, err error) {
	ds, err := r.ZFS.Dataset(ctx, p.Target)
	if errors.Is(err, ErrNotFound) {
		return 0, r.parent(ctx, p.Target)
	}
	if err != nil {
		return 0, err
	}
	props, err := r.ZFS.UserProperties(ctx, p.Target, zfs.SourceLocal)
	if err != nil {
		return 0, err
	}
	switch {
	case props[names.PropManaged] != "true" || props[names.PropSource] != p.Source:
		return 0, fmt.Errorf("it %w and is %w", ErrExists, ErrForeign)
	case props[names.PropFenced] != "":
		return 0, fmt.Errorf("it is fenced by %s", props[names.PropFenced])
	case ds.ReceiveResumeToken != "":
		return 0, fmt.Errorf("it %w", zfs.ErrPartial)
	}
	versions, err := r.ZFS.Versions(ctx, p.Target)
	if err != nil {
		return 0, err
	}
	var newest zfs.Version
	for _, v := range versions {
		if !v.Bookmark {
			newest = v
		}
		if !v.Bookmark && GUID(v.GUID) == p.GUID {
			return len(p.chain), nil
		}
	}
	for i, m := range p.chain {
		if GUID(newest.GUID) == m.GUID {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("%w: its newest snapshot %q is not one that %s is based on", zfs.ErrDiverged, newest.Name, p.Snapshot)
}

func (r *Restorer) parent(ctx context.Context, target string) error {
	parent := zfs.Parent(target)
	if parent == "" {
		return fmt.Errorf("%w: name a dataset below a pool", ErrInvalid)
	}
	ok, err := r.ZFS.Exists(ctx, parent)
	if err == nil && !ok {
		err = hint.Add(fmt.Errorf("parent %s: %w", parent, ErrNotFound), "zfs create -p -o canmount=off -o mountpoint=none "+parent)
	}
	return err
}

// Restore carries a plan out and returns the restored snapshot. A part whose
// bytes are not what was stored ends it before they are given to zfs receive.
// After a failure the target has whole snapshots only, and a new plan continues
// from them.
func (r *Restorer) Restore(ctx context.Context, p *RestorePlan) (zfs.Version, error) {
	var last zfs.Version
	for i, step := range p.Steps {
		var err error
		if !step.There {
			if err := r.receive(ctx, p, p.chain[i]); err != nil {
				return zfs.Version{}, fmt.Errorf("restore %s: %w", step.Snapshot, err)
			}
		}
		last, err = r.complete(ctx, p, p.chain[i])
		if errors.Is(err, ErrNotFound) && step.There && i < len(p.Steps)-1 {
			// An older one may have been destroyed since.
			continue
		}
		if err != nil {
			return zfs.Version{}, fmt.Errorf("restore %s: %w", step.Snapshot, err)
		}
	}
	if len(p.Properties) > 0 {
		// Only now: a quota of today may be less than what was there before.
		if err := r.ZFS.Set(ctx, p.Target, p.Properties); err != nil {
			return last, fmt.Errorf("%s is restored, but not its properties: %w", p.Target, err)
		}
	}
	return last, nil
}

// errReceiveEnded is what still writes to a zfs receive that has ended.
var errReceiveEnded = errors.New("zfs receive has ended")

// receive feeds one point to zfs receive, which makes a snapshot or nothing.
func (r *Restorer) receive(ctx context.Context, p *RestorePlan, m *Manifest) error {
	o := received.Options(p.Target+"@"+m.Snapshot, m.Type, p.Source, m.Stream.Letters())
	// A stream of an archive always begins at its beginning, so what a cut-off
	// receive could keep would only be in the way.
	o.Resumable = false
	maps.Copy(o.Set, r.Mark)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := r.ZFS.Receive(ctx, o, in)
		if err == nil {
			// It may end before the last bytes are written.
			_, err = io.Copy(io.Discard, in)
		}
		in.CloseWithError(errReceiveEnded)
		if err != nil {
			cancel()
		}
		done <- err
	}()
	read := reader{store: r.Store, identities: r.Identities, concurrency: r.Concurrency}
	err := read.stream(ctx, m, out, func(i int) {
		r.Hooks.part(PartEvent{Point: m.FullName(), Index: i, Bytes: m.Parts[i].Size})
	})
	out.CloseWithError(err)
	receiveErr := <-done
	if err != nil && !errors.Is(err, errReceiveEnded) && !(receiveErr != nil && errors.Is(err, context.Canceled)) {
		// What zfs receive says of it is only a consequence.
		return err
	}
	return receiveErr
}

// complete checks by guid that a point is there, and that nobody can write to
// it, and gives the snapshot its properties.
func (r *Restorer) complete(ctx context.Context, p *RestorePlan, m *Manifest) (zfs.Version, error) {
	v, err := r.ZFS.Lookup(ctx, p.Target+"@"+m.Snapshot)
	if err != nil {
		return v, err
	}
	if GUID(v.GUID) != m.GUID {
		return v, fmt.Errorf("%w: it has guid %d, not %s", ErrDamaged, v.GUID, m.GUID)
	}
	problems, err := received.Problems(ctx, r.ZFS, p.Target, m.Type)
	if err != nil {
		return v, err
	}
	if len(problems) > 0 {
		return v, fmt.Errorf("%w: it is to be read-only, unmounted and without foreign properties, and has %s", ErrChanged, strings.Join(problems, "; "))
	}
	props := map[string]string{names.PropManaged: "true", names.PropSource: p.Source}
	maps.Copy(props, m.SnapshotProperties)
	props[names.PropManaged], props[names.PropSource] = "true", p.Source
	return v, r.ZFS.Set(ctx, v.FullName(), props)
}
