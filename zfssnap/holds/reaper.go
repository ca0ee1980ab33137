package holds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const (
	// atOnce bounds how many datasets are looked at, and targets asked, at a time.
	atOnce = 4
	// surveys is how often a survey is begun anew when a snapshot goes away
	// under it.
	surveys = 3
)

// Reaper looks at holds and releases the dead ones.
type Reaper struct {
	ZFS *zfs.Client
	Now func() time.Time
	Log *slog.Logger
	// Ask asks a target what it has. Nil when nobody can be asked: then no
	// replication hold is dead.
	Ask func(ctx context.Context, t Target) (Answer, error)
	// Sending reports that a transfer from a dataset is under way in this
	// process. Nil for none.
	Sending func(dataset string) bool
	// Idle keeps transfers from a dataset from beginning until the returned
	// function is called; ok is false when one runs. Nil where there are none.
	Idle func(dataset string) (done func(), ok bool)
	// Over reports that an owner is over. Nil for nobody known.
	Over func(owner string) bool
}

// Look judges the holds at and below root, "" for every pool. It changes
// nothing. ErrNotFound when there is no such root.
func (r *Reaper) Look(ctx context.Context, root string) ([]Hold, error) {
	if root == "" {
		return r.everyPool(ctx, r.Look)
	}
	datasets, err := Survey(ctx, r.ZFS, root)
	if err != nil {
		return nil, err
	}
	judged := make([][]Hold, len(datasets))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, d := range datasets {
		g.Go(func() error {
			judged[i] = r.judge(ctx, d)
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(judged...), nil
}

// Reap releases the dead holds at and below root, and returns all holds. A
// dataset is read and judged again just before anything on it is released, so
// that what was found dead a while ago is not what counts.
func (r *Reaper) Reap(ctx context.Context, root string) ([]Hold, error) {
	if root == "" {
		return r.everyPool(ctx, r.Reap)
	}
	all, err := r.Look(ctx, root)
	if err != nil {
		return nil, err
	}
	var reap []string
	for _, h := range all {
		if dataset, _, _ := zfs.SplitVersion(h.Snapshot); h.Dead && !slices.Contains(reap, dataset) {
			reap = append(reap, dataset)
		}
	}
	for _, dataset := range reap {
		fresh, err := r.reapDataset(ctx, dataset)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(all, func(h Hold) bool { return of(h, dataset) })
		all = slices.DeleteFunc(all, func(h Hold) bool { return of(h, dataset) })
		all = slices.Insert(all, at, fresh...)
	}
	return all, nil
}

// everyPool does something with each pool. One that fails keeps no other from
// its turn: what they gave is returned with the error.
func (r *Reaper) everyPool(ctx context.Context, do func(context.Context, string) ([]Hold, error)) ([]Hold, error) {
	pools, err := r.ZFS.Pools(ctx)
	if err != nil {
		return nil, err
	}
	var all []Hold
	var failed []error
	for _, p := range pools {
		found, err := do(ctx, p.Name)
		all = append(all, found...)
		failed = append(failed, err)
	}
	return all, errors.Join(failed...)
}

func of(h Hold, dataset string) bool { return strings.HasPrefix(h.Snapshot, dataset+"@") }

func (r *Reaper) reapDataset(ctx context.Context, dataset string) ([]Hold, error) {
	if r.Idle != nil {
		done, ok := r.Idle(dataset)
		if ok {
			defer done()
		}
	}
	datasets, err := Survey(ctx, r.ZFS, dataset)
	if err != nil && !errors.Is(err, zfs.ErrNotFound) {
		return nil, err
	}
	i := slices.IndexFunc(datasets, func(d Dataset) bool { return d.Name == dataset })
	if i < 0 {
		return nil, nil
	}
	judged := r.judge(ctx, datasets[i])
	for i := range judged {
		h := &judged[i]
		if !h.Dead {
			continue
		}
		log := r.Log.With("snapshot", h.Snapshot, "tag", h.Tag, "owner", h.Owner, "state", string(h.State), "reason", h.Reason)
		if err := Release(ctx, r.ZFS, h.Snapshot, h.Tag); err != nil {
			h.Error = err.Error()
			log.Warn("dead hold stays", "error", err)
			continue
		}
		h.Released = true
		log.Info("dead hold released", "placed", h.Placed.Format(time.RFC3339))
	}
	return judged, nil
}

// judge asks the targets of a dataset and judges it.
func (r *Reaper) judge(ctx context.Context, d Dataset) []Hold {
	k := Known{Now: r.Now(), Over: r.Over, Answers: map[string]Answer{}, Sending: r.Sending != nil && r.Sending(d.Name)}
	replicated := slices.ContainsFunc(d.Holds, func(f Found) bool { return Purpose(f.Tag) == names.HoldReplication })
	if r.Ask == nil || !replicated {
		return d.Judge(k)
	}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, t := range d.Targets {
		asked.Go(func() {
			a, err := r.Ask(ctx, t)
			if err != nil {
				r.Log.Info("target did not say what it has", "dataset", d.Name, "target", t.String(), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			k.Answers[t.String()] = a
		})
	}
	asked.Wait()
	return d.Judge(k)
}

// Release releases a hold and drops its record. One that is not there, or whose
// snapshot goes with it, is success.
func Release(ctx context.Context, c *zfs.Client, snapshot, tag string) error {
	if err := c.Release(ctx, tag, snapshot); err != nil {
		return err
	}
	prop, ok := RecordProperty(tag)
	if !ok {
		return nil
	}
	if err := c.Inherit(ctx, snapshot, prop); err != nil && !errors.Is(err, zfs.ErrNotFound) {
		return fmt.Errorf("drop the record of hold %s: %w", tag, err)
	}
	return nil
}

// Survey reads the datasets at and below root that have holds on their
// snapshots.
func Survey(ctx context.Context, c *zfs.Client, root string) (datasets []Dataset, err error) {
	for range surveys {
		datasets, err = survey(ctx, c, root)
		if !errors.Is(err, zfs.ErrNotFound) {
			return datasets, err
		}
	}
	return datasets, err
}

func survey(ctx context.Context, c *zfs.Client, root string) ([]Dataset, error) {
	versions, err := c.VersionsBelow(ctx, root)
	if err != nil {
		return nil, err
	}
	var held []string
	byName := map[string]*Dataset{}
	var datasets []*Dataset
	for _, v := range versions {
		if !v.Bookmark && v.UserRefs > 0 {
			held = append(held, v.FullName())
			if byName[v.Dataset] == nil {
				byName[v.Dataset] = &Dataset{Name: v.Dataset}
				datasets = append(datasets, byName[v.Dataset])
			}
		}
	}
	for _, v := range versions {
		if d := byName[v.Dataset]; d != nil {
			d.Versions = append(d.Versions, v)
		}
	}
	found, err := findHolds(ctx, c, held)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		dataset, _, _ := zfs.SplitVersion(f.Snapshot)
		d := byName[dataset]
		d.Holds = append(d.Holds, f)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, d := range datasets {
		g.Go(func() error { return d.origin(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := make([]Dataset, 0, len(datasets))
	for _, d := range datasets {
		d.order()
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b Dataset) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// order sorts the holds by snapshot, the oldest first, and by tag.
func (d *Dataset) order() {
	at := map[string]int{}
	for i, v := range d.Versions {
		at[v.FullName()] = i
	}
	slices.SortFunc(d.Holds, func(a, b Found) int {
		if at[a.Snapshot] != at[b.Snapshot] {
			return at[a.Snapshot] - at[b.Snapshot]
		}
		return strings.Compare(a.Tag, b.Tag)
	})
}

// findHolds lists the holds on snapshots with what is recorded of them.
func findHolds(ctx context.Context, c *zfs.Client, snapshots []string) ([]Found, error) {
	holds, err := c.Holds(ctx, snapshots...)
	if err != nil || len(holds) == 0 {
		return nil, err
	}
	props := []string{names.PropBackup, names.PropSource}
	var ours []string
	for _, h := range holds {
		if !Ours(h.Tag) {
			continue
		}
		if !slices.Contains(ours, h.Snapshot) {
			ours = append(ours, h.Snapshot)
		}
		if prop, ok := RecordProperty(h.Tag); ok && !slices.Contains(props, prop) {
			props = append(props, prop)
		}
	}
	values, err := c.GetEach(ctx, ours, props...)
	if err != nil {
		return nil, err
	}
	found := make([]Found, 0, len(holds))
	for _, h := range holds {
		of := values[h.Snapshot]
		f := Found{Hold: h, Backup: local(of[names.PropBackup]), Received: local(of[names.PropSource]) != ""}
		if prop, ok := RecordProperty(h.Tag); ok {
			if r, err := ParseRecord(local(of[prop])); err == nil {
				f.Record = &r
			}
		}
		found = append(found, f)
	}
	return found, nil
}

// origin reads what the dataset is the replica of, and where it is sent.
func (d *Dataset) origin(ctx context.Context, c *zfs.Client) error {
	props := []string{names.PropSource}
	for _, v := range d.Versions {
		if key, ok := replicate.ParseCursor(v.Name); ok && v.Bookmark && !slices.Contains(props, targetProperty(key)) {
			props = append(props, targetProperty(key))
		}
	}
	values, err := c.Get(ctx, d.Name, props...)
	if err != nil {
		return err
	}
	d.Source = local(values[names.PropSource])
	for _, prop := range props[1:] {
		if t, err := ParseTarget(local(values[prop])); err == nil && t.Property() == prop {
			d.Targets = append(d.Targets, t)
		}
	}
	return nil
}

// local is the value of a property that is set on the thing itself.
func local(p zfs.Property) string {
	if p.Source == zfs.SourceLocal {
		return p.Value
	}
	return ""
}
