package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"filippo.io/age"
)

// State is what a point is worth.
type State string

// The states of a point.
const (
	StateOK State = "ok"
	// StateDamaged: an object of it is missing or not what was stored.
	StateDamaged State = "damaged"
	// StateBroken: a point that it is based on is missing.
	StateBroken State = "broken"
)

// Verifier reads points without restoring them.
type Verifier struct {
	Store *Store
	// Identities open encrypted parts. Without one, what is stored is checked,
	// and not that it decrypts to the stream.
	Identities  []age.Identity
	Concurrency int
	Hooks       Hooks
}

// Finding is one thing that is wrong.
type Finding struct {
	Object  string `json:"object"`
	Problem string `json:"problem"`
}

// Verified is what was found of one point.
type Verified struct {
	Snapshot string `json:"snapshot"` // full name; "" of a manifest that cannot be read
	GUID     GUID   `json:"guid"`
	State    State  `json:"state"`
	Bytes    int64  `json:"bytes"` // read from the store
	// Stream: the stream was checked as a whole, and not only what is stored.
	Stream   bool      `json:"stream"`
	Findings []Finding `json:"findings,omitempty"`
}

// Verify reads every byte of points of a catalog: each part is hashed, and the
// stream. What is wrong is in the result; an error is one of reaching the store.
func (v *Verifier) Verify(ctx context.Context, c *Catalog, points []*Manifest) ([]Verified, error) {
	var all []Verified
	for _, m := range points {
		found, err := v.point(ctx, c, m)
		if err != nil {
			return all, fmt.Errorf("verify %s: %w", m.FullName(), err)
		}
		all = append(all, found)
	}
	return all, nil
}

// Manifests returns what is found of the manifests that cannot be read.
func (c *Catalog) Manifests() []Verified {
	var all []Verified
	for _, d := range c.Damaged {
		all = append(all, Verified{GUID: guidOf(d.Key), State: StateDamaged, Findings: []Finding{{d.Key, d.Err.Error()}}})
	}
	return all
}

func (v *Verifier) point(ctx context.Context, c *Catalog, m *Manifest) (Verified, error) {
	found := Verified{Snapshot: m.FullName(), GUID: m.GUID, State: StateOK}
	if _, err := c.Chain(m.GUID); err != nil {
		found.State = StateBroken
		found.Findings = append(found.Findings, Finding{pointKey(m.GUID), err.Error()})
	}
	bad := func(object string, err error) {
		found.State = StateDamaged
		found.Findings = append(found.Findings, Finding{object, err.Error()})
	}
	r := reader{store: v.Store, identities: v.Identities, concurrency: v.Concurrency}
	sum := sha256.New()
	whole := r.opens(m)
	err := r.each(ctx, m, func(i int, plain []byte, err error) error {
		switch {
		case err == nil:
			sum.Write(plain)
			size, _ := m.Parts[i].stored()
			found.Bytes += size
		case errors.Is(err, ErrDamaged):
			whole = false
			bad(m.key(i), err)
		default:
			return err
		}
		v.Hooks.part(PartEvent{Point: m.FullName(), Index: i, Bytes: m.Parts[i].Size})
		return nil
	})
	if err != nil {
		return found, err
	}
	if whole && Digest(sum.Sum(nil)) != m.End.SHA256 {
		bad(pointKey(m.GUID), fmt.Errorf("%w: the SHA-256 of the stream is not %s", ErrDamaged, m.End.SHA256))
	}
	found.Stream = whole
	return found, nil
}
