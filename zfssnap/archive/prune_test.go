package archive_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

// days uploads a point a day, at midnight; a name in capitals is a full one.
func (w *world) days(points ...string) {
	w.Helper()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i, name := range points {
		w.now = start.AddDate(0, 0, i)
		w.snap(name, 9*kib)
		w.full = strings.ToUpper(name) == name
		w.upload(name)
	}
	w.now = start.AddDate(0, 0, len(points))
}

func (w *world) pruner(r archive.Retention) *archive.Pruner {
	if r.Unfinished == 0 {
		r.Unfinished = archive.DefaultUnfinished
	}
	return &archive.Pruner{Store: w.store, Retention: r, Clock: func() time.Time { return w.now }}
}

// prune plans and carries out, and returns what was to be deleted.
func (w *world) prune(r archive.Retention) *archive.PrunePlan {
	w.Helper()
	p := w.pruner(r)
	plan, err := p.Plan(w.Context())
	require.NoError(w, err)
	require.NoError(w, p.Prune(w.Context(), plan))
	return plan
}

func named(verdicts []archive.Verdict) []string {
	found := []string{}
	for _, v := range verdicts {
		_, name, _ := strings.Cut(v.Snapshot, "@")
		found = append(found, name)
	}
	return found
}

func TestPrune(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		points  string // made in this order
		rule    archive.Retention
		arrange func(*world)
		keep    string
		delete  string // in this order
	}{
		{"the last ones stay, with what they are based on", "A b c D e f", archive.Retention{Last: 1}, nil, "D e f", "c b A"},
		{"a chain is as long as what is kept of it", "A b c D e f", archive.Retention{Last: 4}, nil, "A b c D e f", ""},
		{"a full one stands alone", "A b C", archive.Retention{Last: 1}, nil, "C", "b A"},
		{"the end of a chain goes while its base stays", "A b C", archive.Retention{Last: 2}, nil, "A b C", ""},
		{"within counts from the newest", "A B C D", archive.Retention{Within: 24 * time.Hour}, nil, "C D", "A B"},
		{"within counts from the newest, however old that is", "A B C D", archive.Retention{Within: 24 * time.Hour}, func(w *world) { w.now = w.now.AddDate(5, 0, 0) }, "C D", "A B"},
		{"what one rule keeps is kept", "A B C D", archive.Retention{Last: 1, Within: 48 * time.Hour}, nil, "B C D", "A"},
		{"more than there are", "A b", archive.Retention{Last: 10}, nil, "A b", ""},
		{"a lock keeps a point and its bases", "A b C d E", archive.Retention{Last: 1}, func(w *world) {
			w.bucket.SetLock("points/"+hexGUID(w.catalog().Points[1])+".json", "legal hold")
		}, "A b E", "d C"},
		{"what is broken does not count, and goes when it is older than what is kept", "A b C d E F", archive.Retention{Last: 2}, func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), "points/"+hexGUID(w.catalog().Points[0])+".json"))
		}, "E F", "d b C"},
		{"what is broken stays while it is newer", "A b C d", archive.Retention{Last: 1}, func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), "points/"+hexGUID(w.catalog().Points[2])+".json"))
		}, "A b d", ""},
		{"nothing goes when there is nothing whole", "A b c", archive.Retention{Last: 1}, func(w *world) {
			require.NoError(w, w.bucket.Delete(w.Context(), "points/"+hexGUID(w.catalog().Points[0])+".json"))
		}, "b c", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.days(strings.Fields(tt.points)...)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			before := w.catalog()
			plan := w.prune(tt.rule)
			assert.Equal(t, strings.Fields(tt.keep), named(plan.Keep))
			assert.Equal(t, append([]string{}, strings.Fields(tt.delete)...), named(plan.Delete))
			assert.Equal(t, strings.Fields(tt.keep), w.points())
			for _, v := range plan.Keep {
				assert.NotEmpty(t, v.Reasons)
			}
			for _, v := range plan.Delete {
				assert.Empty(t, w.bucket.Keys(fmt.Sprintf("data/%016x/", uint64(v.GUID))), "its parts are gone")
			}
			for _, name := range w.points() {
				m, err := before.Find(vol + "@" + name)
				require.NoError(t, err)
				if _, err := before.Chain(m.GUID); err == nil {
					w.restores(name, "other/"+strings.ToLower(name))
				}
			}
			w.now = w.now.AddDate(0, 0, 2)
			w.prune(tt.rule) // parts of what was damaged by the test
			again := w.prune(tt.rule)
			assert.True(t, again.Empty(), "%+v", again)
		})
	}
}

func TestPrune_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.days("A", "b", "c")
	ctx := t.Context()
	_, err := w.pruner(archive.Retention{}).Plan(ctx)
	require.ErrorContains(t, err, "no rule says what to keep")
	_, err = w.pruner(archive.Retention{Last: -1}).Plan(ctx)
	require.ErrorIs(t, err, archive.ErrInvalid)

	// What a manifest that cannot be read is based on is not known.
	key := "points/" + hexGUID(w.catalog().Points[2]) + ".json"
	w.bucket.Flip(key, 30)
	_, err = w.pruner(archive.Retention{Last: 1}).Plan(ctx)
	require.ErrorIs(t, err, archive.ErrDamaged)
	var hinter interface{ Hint() string }
	require.ErrorAs(t, err, &hinter)
	assert.Contains(t, hinter.Hint(), key)
}

func TestPrune_datasets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.days("A", "B")
	p := w.pruner(archive.Retention{Last: 1})
	p.Datasets = []string{"tank/other"}
	plan, err := p.Plan(t.Context())
	require.NoError(t, err)
	assert.True(t, plan.Empty())
	p.Datasets = []string{vol}
	plan, err = p.Plan(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"A"}, named(plan.Delete))
}

func TestPrune_unfinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.days("A", "B")
	w.snap("c", 40*kib)
	w.full = false
	w.failAt("put", 4)
	_, _, err := w.tryUpload(t.Context(), "c")
	require.ErrorIs(t, err, errFault)
	w.bucket.Before(nil)

	// It may still run, and needs its base.
	w.now = w.now.Add(22 * time.Hour)
	assert.True(t, w.prune(archive.Retention{Last: 2}).Empty())
	w.snap("D", kib)
	w.full = true
	w.upload("D")
	plan := w.prune(archive.Retention{Last: 1})
	assert.Equal(t, []string{"A"}, named(plan.Delete))
	assert.Equal(t, []string{"B", "D"}, w.points())
	assert.Equal(t, []string{"base of an upload that is not finished"}, plan.Keep[0].Reasons)

	w.now = w.now.Add(time.Hour)
	plan = w.prune(archive.Retention{Last: 1})
	assert.Equal(t, []string{"B"}, named(plan.Delete))
	require.Len(t, plan.Unfinished, 1)
	assert.Equal(t, vol+"@c", plan.Unfinished[0].Snapshot)
	assert.Equal(t, []string{"D"}, w.points())
	assert.Empty(t, w.catalog().Unfinished)
	assert.Len(t, w.bucket.Keys(""), 1+len(w.catalog().Points[0].Parts))
}

// TestPrune_planIsOld: what has come to be needed since the plan stays.
func TestPrune_planIsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.days("A", "B")
	p := w.pruner(archive.Retention{Last: 1})
	plan, err := p.Plan(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"A"}, named(plan.Delete))

	w.bucket.SetLock("points/"+hexGUID(w.catalog().Points[0])+".json", "legal hold")
	require.NoError(t, p.Prune(t.Context(), plan))
	assert.Equal(t, []string{"A", "B"}, w.points())

	// Nor does what was not in the plan go.
	w.bucket.SetLock("points/"+hexGUID(w.catalog().Points[0])+".json", "")
	w.snap("C", kib)
	w.upload("C")
	require.NoError(t, p.Prune(t.Context(), plan))
	assert.Equal(t, []string{"B", "C"}, w.points())
}

// TestPrune_locked: a store that refuses is reported, and what the refused point
// is based on stays.
func TestPrune_locked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.days("A", "b", "c", "D")
	locked := "points/" + hexGUID(w.catalog().Points[1]) + ".json"
	w.bucket.Before(func(verb, key string) error {
		if verb == "delete" && key == locked {
			return fmt.Errorf("delete %s: %w", key, archive.ErrLocked)
		}
		return nil
	})
	p := w.pruner(archive.Retention{Last: 1})
	plan, err := p.Plan(t.Context())
	require.NoError(t, err)
	err = p.Prune(t.Context(), plan)
	require.ErrorIs(t, err, archive.ErrLocked)
	require.ErrorContains(t, err, vol+"@b")
	assert.Equal(t, []string{"A", "b", "D"}, w.points())
	w.restores("b", back)
}

// TestPrune_crash ends pruning at each of its requests: what is left can be
// restored, and the next prune does the rest.
func TestPrune_crash(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		w := newWorld(t)
		w.days("A", "b", "c", "D", "e")
		ctx, crash := context.WithCancel(t.Context())
		var requests atomic.Int64
		w.bucket.Before(func(verb, _ string) error {
			if verb == "delete" && requests.Add(1) == int64(n) {
				crash()
			}
			return ctx.Err()
		})
		p := w.pruner(archive.Retention{Last: 1})
		plan, err := p.Plan(ctx)
		require.NoError(t, err)
		err = p.Prune(ctx, plan)
		w.bucket.Before(nil)
		if ctx.Err() == nil {
			require.NoError(t, err)
			require.Greater(t, n, 6, "there are that many requests at least")
			return
		}
		require.Error(t, err)
		c := w.catalog()
		for _, m := range c.Points {
			_, err := c.Chain(m.GUID)
			require.NoError(t, err, "request %d", n)
			w.restores(m.Snapshot, "other/"+strings.ToLower(m.Snapshot))
		}
		assert.True(t, w.sound())
		w.now = w.now.AddDate(0, 0, 2)
		w.prune(archive.Retention{Last: 1})
		assert.Equal(t, []string{"D", "e"}, w.points())
		assert.True(t, w.prune(archive.Retention{Last: 1}).Empty())
		assert.Len(t, w.bucket.Keys("data/"), len(w.catalog().Points[0].Parts)+len(w.catalog().Points[1].Parts), "request %d", n)
	}
}

func TestCatalog_find(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snap("one", kib)
	w.upload("one")
	c := w.catalog()
	for _, name := range []string{vol + "@one", fmt.Sprint(v.GUID)} {
		m, err := c.Find(name)
		require.NoError(t, err)
		assert.Equal(t, archive.GUID(v.GUID), m.GUID)
	}
	_, err := c.Find("1")
	require.ErrorIs(t, err, archive.ErrNotFound)

	// Another node's volume of the same name.
	m := *c.Points[0]
	m.Node, m.GUID = "remote", m.GUID+1
	data, err := m.Encode()
	require.NoError(t, err)
	require.NoError(t, w.bucket.Put(t.Context(), "points/"+hexGUID(&m)+".json", data, true))
	_, err = w.catalog().Find(vol + "@one")
	require.ErrorContains(t, err, "name one by guid")
	require.ErrorContains(t, err, "of remote")
}

func TestExpire(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		points  string
		expired string
		arrange func(*world)
		keep    string
		delete  string // in this order
	}{
		{"what is expired goes, and nothing else", "A B C", "A C", nil, "B", "A C"},
		{"what others are based on stays", "A b c", "A", nil, "A b c", ""},
		{"a chain goes when all of it has expired", "A b C", "A b", nil, "C", "b A"},
		{"the newest goes too", "A b", "b", nil, "A", "b"},
		{"a lock keeps a point and its bases", "A b", "A b", func(w *world) {
			w.bucket.SetLock("points/"+hexGUID(w.catalog().Points[1])+".json", "legal hold")
		}, "A b", ""},
		{"the base of an upload that is not finished stays, however old that is", "A", "A", func(w *world) {
			w.full = false
			w.snap("z", 9*kib)
			w.failAt("put", 3)
			_, _, err := w.tryUpload(w.Context(), "z")
			require.Error(w, err)
			w.bucket.Before(nil)
			w.now = w.now.AddDate(1, 0, 0)
		}, "A", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.days(strings.Fields(tt.points)...)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			p := &archive.Pruner{Store: w.store, Clock: func() time.Time { return w.now }}
			for _, m := range w.catalog().Points {
				if slices.Contains(strings.Fields(tt.expired), m.Snapshot) {
					p.Expired = append(p.Expired, m.GUID)
				}
			}
			plan, err := p.Expire(t.Context())
			require.NoError(t, err)
			assert.Equal(t, strings.Fields(tt.keep), named(plan.Keep))
			assert.Equal(t, strings.Fields(tt.delete), named(plan.Delete))
			assert.Equal(t, strings.Fields(tt.keep), w.points())
			assert.True(t, w.sound())
		})
	}
}
