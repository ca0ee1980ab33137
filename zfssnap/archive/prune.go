package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Retention says which points to keep, for each dataset of each node on its own.
// What any rule keeps is kept, and all that it is based on.
type Retention struct {
	// Last keeps that many of the newest points that can be restored.
	Last int
	// Within keeps points that are at most that much older than the newest.
	Within time.Duration
	// Unfinished is how old the newest object of an unfinished upload must be
	// before it is deleted: one that still runs must be younger.
	Unfinished time.Duration
}

// DefaultUnfinished is what an upload that still runs never takes between two
// parts.
const DefaultUnfinished = 24 * time.Hour

func (r Retention) validate() error {
	if r.Last < 0 || r.Within < 0 || r.Unfinished < 0 {
		return fmt.Errorf("retention: %w: a rule is negative", ErrInvalid)
	}
	if r.Last == 0 && r.Within == 0 {
		return fmt.Errorf("retention: %w: no rule says what to keep", ErrInvalid)
	}
	return nil
}

// Verdict is what becomes of a point, and why.
type Verdict struct {
	Source   string    `json:"source"` // "node:dataset"
	Snapshot string    `json:"snapshot"`
	GUID     GUID      `json:"guid"`
	Created  time.Time `json:"created"`
	Bytes    int64     `json:"bytes"`             // stored
	Reasons  []string  `json:"reasons,omitempty"` // to keep it
}

// Leftover are objects that no point refers to.
type Leftover struct {
	GUID     GUID      `json:"guid"`
	Snapshot string    `json:"snapshot,omitempty"` // full name, "" when it is not known
	Objects  int       `json:"objects"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"` // the newest

	keys []string
}

// PrunePlan is what pruning will do.
type PrunePlan struct {
	Store  string    `json:"store"`
	Keep   []Verdict `json:"keep"`
	Delete []Verdict `json:"delete"` // in this order: what is based on a point before it
	// Unfinished uploads, and other objects without a point, to delete.
	Unfinished []Leftover `json:"unfinished"`
	// Bytes is what is freed.
	Bytes int64 `json:"bytes"`
}

// Empty reports whether there is nothing to delete.
func (p *PrunePlan) Empty() bool { return len(p.Delete)+len(p.Unfinished) == 0 }

// Pruner deletes what a retention does not keep.
type Pruner struct {
	Store     *Store
	Retention Retention
	// Datasets limits points to those of these datasets, on whatever node; with
	// none all are looked at, and unfinished uploads too.
	Datasets []string
	// Expired, when set, takes the place of the retention: these points are not
	// kept for themselves, and all others are.
	Expired []GUID
	Clock   func() time.Time
	// Deleted is told of each point and leftover that is gone, by its guid.
	Deleted func(GUID)
}

// Plan reads the archive and decides. It changes nothing. While a manifest
// cannot be read, what it is based on is not known, so nothing is decided.
func (p *Pruner) Plan(ctx context.Context) (*PrunePlan, error) {
	plan, _, err := p.plan(ctx)
	return plan, err
}

func (p *Pruner) plan(ctx context.Context) (*PrunePlan, *Catalog, error) {
	byRule := len(p.Expired) == 0
	if byRule {
		if err := p.Retention.validate(); err != nil {
			return nil, nil, err
		}
	}
	c, err := p.Store.catalog(ctx, byRule)
	if err != nil {
		return nil, nil, err
	}
	if len(c.Damaged) > 0 {
		d := c.Damaged[0]
		return nil, nil, hint.Add(
			fmt.Errorf("prune: what the points are based on is not known: %w", d.Err),
			"if it cannot be put back from a copy, delete the object "+d.Key+" by hand; its parts go with the next prune")
	}
	// What is locked stays, and so does what it is based on. That may keep more,
	// but never makes another point go.
	locks := map[GUID]string{}
	plan := p.decide(c, locks)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reads)
	found := make([]string, len(plan.Delete))
	for i, v := range plan.Delete {
		g.Go(func() (err error) {
			found[i], err = p.Store.Bucket.Lock(gctx, pointKey(v.GUID))
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	for i, v := range plan.Delete {
		if found[i] != "" {
			locks[v.GUID] = found[i]
		}
	}
	return p.decide(c, locks), c, nil
}

// decide is the whole decision; it depends on nothing but its arguments.
func (p *Pruner) decide(c *Catalog, locks map[GUID]string) *PrunePlan {
	now := p.Clock()
	reasons := map[GUID][]string{}
	keep := func(g GUID, why string) { reasons[g] = append(reasons[g], why) }

	bySource := map[string][]*Manifest{}
	for _, m := range c.Points {
		switch {
		case len(p.Datasets) > 0 && !slices.Contains(p.Datasets, m.Dataset):
			keep(m.GUID, "not asked for")
		case len(p.Expired) == 0:
			bySource[m.Source()] = append(bySource[m.Source()], m)
		case !slices.Contains(p.Expired, m.GUID):
			keep(m.GUID, "not expired")
		}
	}
	for _, points := range bySource {
		p.judge(c, points, keep)
	}
	for g, why := range locks {
		keep(g, "locked: "+why)
	}
	for _, u := range c.Unfinished {
		if u.Record != nil && u.Record.Base != nil && (len(p.Expired) > 0 || !p.stale(u.Modified, now)) {
			keep(u.Record.Base.GUID, "base of an upload that is not finished")
		}
	}
	// What is kept keeps all below it.
	for _, m := range c.Points {
		if len(reasons[m.GUID]) == 0 {
			continue
		}
		for base := c.Point(m.BaseGUID()); base != nil && len(reasons[base.GUID]) == 0; base = c.Point(base.BaseGUID()) {
			keep(base.GUID, "base of "+m.FullName())
		}
	}

	plan := &PrunePlan{Store: p.Store.Name, Keep: []Verdict{}, Delete: []Verdict{}, Unfinished: []Leftover{}}
	for _, m := range c.Points {
		v := Verdict{Source: m.Source(), Snapshot: m.FullName(), GUID: m.GUID, Created: m.Created, Bytes: m.StoredBytes(), Reasons: reasons[m.GUID]}
		if len(v.Reasons) > 0 {
			plan.Keep = append(plan.Keep, v)
			continue
		}
		plan.Delete = append(plan.Delete, v)
		plan.Bytes += v.Bytes
	}
	slices.SortStableFunc(plan.Delete, func(a, b Verdict) int { return cmp.Compare(depth(c, b.GUID), depth(c, a.GUID)) })
	if len(p.Datasets)+len(p.Expired) == 0 {
		plan.Unfinished = p.leftovers(c, now)
	}
	for _, l := range plan.Unfinished {
		plan.Bytes += l.Bytes
	}
	return plan
}

// depth counts the points below one, those of a broken chain too.
func depth(c *Catalog, guid GUID) int {
	n := 0
	for m := c.Point(guid); m != nil && n <= len(c.Points); m = c.Point(m.BaseGUID()) {
		n++
	}
	return n
}

// judge applies the rules to the points of one dataset, oldest first.
func (p *Pruner) judge(c *Catalog, points []*Manifest, keep func(GUID, string)) {
	var whole []*Manifest
	for _, m := range points {
		if _, err := c.Chain(m.GUID); err == nil {
			whole = append(whole, m)
		}
	}
	if len(whole) == 0 {
		for _, m := range points {
			keep(m.GUID, "its chain is broken, and there is no other point")
		}
		return
	}
	newest := whole[len(whole)-1]
	oldest := newest.Created
	for i, m := range whole {
		last := i >= len(whole)-p.Retention.Last
		within := p.Retention.Within > 0 && newest.Created.Sub(m.Created) <= p.Retention.Within
		if last {
			keep(m.GUID, fmt.Sprintf("one of the last %d", p.Retention.Last))
		}
		if within {
			keep(m.GUID, "within "+p.Retention.Within.String())
		}
		if (last || within) && m.Created.Before(oldest) {
			oldest = m.Created
		}
	}
	// A broken one is of no use for now, but its base may turn up; it goes when
	// its time has come.
	for _, m := range points {
		if _, err := c.Chain(m.GUID); err != nil && !m.Created.Before(oldest) {
			keep(m.GUID, "its chain is broken; newer than what is kept")
		}
	}
}

func (p *Pruner) stale(modified, now time.Time) bool {
	return now.Sub(modified) >= p.Retention.Unfinished
}

func (p *Pruner) leftovers(c *Catalog, now time.Time) []Leftover {
	left := []Leftover{}
	for _, u := range c.Unfinished {
		if !p.stale(u.Modified, now) {
			continue
		}
		l := Leftover{GUID: u.GUID, Objects: len(u.keys), Bytes: u.Bytes, Modified: u.Modified, keys: u.keys}
		if u.Record != nil {
			l.Snapshot = u.Record.FullName()
		}
		left = append(left, l)
	}
	byGUID := map[GUID]*Leftover{}
	for _, o := range c.Stray {
		g := guidOf(o.Key)
		if byGUID[g] == nil {
			l := Leftover{GUID: g}
			if m := c.Point(g); m != nil {
				l.Snapshot = m.FullName()
			}
			byGUID[g] = &l
		}
		l := byGUID[g]
		l.Objects, l.Bytes, l.keys = l.Objects+1, l.Bytes+o.Size, append(l.keys, o.Key)
		if o.Modified.After(l.Modified) {
			l.Modified = o.Modified
		}
	}
	for _, l := range byGUID {
		if p.stale(l.Modified, now) {
			left = append(left, *l)
		}
	}
	slices.SortFunc(left, func(a, b Leftover) int {
		return cmp.Or(cmp.Compare(a.Snapshot, b.Snapshot), cmp.Compare(a.GUID, b.GUID))
	})
	return left
}

// Prune carries a plan out as far as it still holds: a point that something has
// come to need since stays. A manifest goes before its parts, so that what is
// cut off leaves parts that the next prune deletes, and never half a point. What
// the store refuses to delete is reported, with what is based on it left whole.
func (p *Pruner) Prune(ctx context.Context, plan *PrunePlan) error {
	fresh, c, err := p.plan(ctx)
	if err != nil {
		return err
	}
	return p.prune(ctx, plan, fresh, c)
}

// Expire deletes the expired points that nothing needs, without asking, and
// returns what it decided.
func (p *Pruner) Expire(ctx context.Context) (*PrunePlan, error) {
	plan, c, err := p.plan(ctx)
	if err != nil {
		return nil, err
	}
	return plan, p.prune(ctx, plan, plan, c)
}

// prune deletes what a fresh plan and an agreed one have in common.
func (p *Pruner) prune(ctx context.Context, plan, fresh *PrunePlan, c *Catalog) error {
	agreed := map[GUID]bool{}
	for _, v := range plan.Delete {
		agreed[v.GUID] = true
	}
	needed := map[GUID]bool{}
	var errs []error
	for _, v := range fresh.Delete {
		m := c.Point(v.GUID)
		if agreed[v.GUID] && !needed[v.GUID] {
			err := p.delete(ctx, m)
			if err == nil {
				p.deleted(v.GUID)
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs = append(errs, fmt.Errorf("prune %s: %w", m.FullName(), err))
		}
		needed[m.BaseGUID()] = true
	}
	old := map[GUID]bool{}
	for _, l := range plan.Unfinished {
		old[l.GUID] = true
	}
	for _, l := range fresh.Unfinished {
		if !old[l.GUID] {
			continue
		}
		if err := p.deleteAll(ctx, l.keys); err != nil {
			errs = append(errs, fmt.Errorf("prune what is left of %s: %w", l.GUID, err))
			continue
		}
		p.deleted(l.GUID)
	}
	return errors.Join(errs...)
}

func (p *Pruner) deleted(g GUID) {
	if p.Deleted != nil {
		p.Deleted(g)
	}
}

func (p *Pruner) delete(ctx context.Context, m *Manifest) error {
	if err := p.Store.Bucket.Delete(ctx, pointKey(m.GUID)); err != nil {
		return err
	}
	if _, err := p.Store.read(ctx, uploadKey(m.GUID)); !errors.Is(err, ErrNotFound) {
		// It is being uploaded again, perhaps from these parts.
		return err
	}
	keys := make([]string, len(m.Parts))
	for i := range m.Parts {
		keys[i] = m.key(i)
	}
	return p.deleteAll(ctx, keys)
}

// deleteAll deletes objects, the last one when the others are gone: the record
// of an upload is what is known of its parts.
func (p *Pruner) deleteAll(ctx context.Context, keys []string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reads)
	for _, key := range keys[:len(keys)-1] {
		g.Go(func() error { return p.Store.Bucket.Delete(gctx, key) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.Store.Bucket.Delete(ctx, keys[len(keys)-1])
}
