package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

const drillRun = "wordpress-drill-20260304-050607"

func (w *world) keepReport(plan, run, content string) archive.Report {
	w.Helper()
	recipients, err := archive.ParseRecipients(w.recipients)
	require.NoError(w, err)
	r, err := w.store.KeepReport(w.Context(), plan, run, w.now, []byte(content), recipients)
	require.NoError(w, err)
	return r
}

func TestReports(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		w := newWorld(t)
		if encrypted {
			w.encrypt()
		}
		first := w.keepReport("wordpress", drillRun, `{"phase":"Running"}`)
		again := w.keepReport("wordpress", drillRun, `{"phase":"Running"}`)
		assert.Equal(t, first, again, "asking twice keeps one")
		w.now = w.now.Add(time.Millisecond)
		last := w.keepReport("wordpress", drillRun, `{"phase":"Passed"}`)
		other := w.keepReport("shop.example.org", "shop-1", `{}`)

		all, err := w.store.Reports(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, []archive.Report{other, first, last}, all, "of a run the newest is the last")
		assert.Equal(t, encrypted, first.Encrypted)
		own, err := w.store.Reports(t.Context(), "wordpress")
		require.NoError(t, err)
		assert.Equal(t, []archive.Report{first, last}, own)
		none, err := w.store.Reports(t.Context(), "word")
		require.NoError(t, err)
		assert.Empty(t, none)

		content, err := w.store.Report(t.Context(), last, w.identities)
		require.NoError(t, err)
		assert.JSONEq(t, `{"phase":"Passed"}`, string(content))
		objects, err := w.bucket.List(t.Context(), "reports/")
		require.NoError(t, err)
		require.Len(t, objects, 3)
		assert.Equal(t, encrypted, strings.HasSuffix(objects[0].Key, ".json.age"))
	}
}

func TestReports_refuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tests := []struct {
		name, plan, run, content string
		at                       time.Time
		want                     string
	}{
		{"a plan that leads elsewhere", "..", "r", "{}", w.now, `".." is not the name of a plan`},
		{"a run that leads elsewhere", "p", "../../points/1", "{}", w.now, `is not the name of a run`},
		{"a name that is too long", "p", strings.Repeat("r", 254), "{}", w.now, "at most 253"},
		{"no name", "", "", "{}", w.now, `"" is not the name of a plan`},
		{"what is no JSON", "p", "r", "<html>", w.now, "not JSON"},
		{"nothing", "p", "r", "", w.now, "not JSON"},
		{"what is too much", "p", "r", `"` + strings.Repeat("x", archive.MaxReport) + `"`, w.now, "the most are 2097152"},
		{"no time", "p", "r", "{}", time.Time{}, "its time"},
	}
	for _, tt := range tests {
		_, err := w.store.KeepReport(t.Context(), tt.plan, tt.run, tt.at, []byte(tt.content), nil)
		require.ErrorIs(t, err, archive.ErrInvalid, tt.name)
		assert.ErrorContains(t, err, tt.want, tt.name)
	}
	objects, err := w.bucket.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, objects)
	_, err = w.store.Reports(t.Context(), "a/b")
	require.ErrorIs(t, err, archive.ErrInvalid)
	_, err = w.store.Report(t.Context(), archive.Report{Plan: "..", Run: "..", At: w.now}, nil)
	assert.ErrorIs(t, err, archive.ErrInvalid)
}

func TestReports_areCheckedWhenTheyAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain := w.keepReport("wordpress", "run-1", `{"phase":"Passed"}`)
	w.encrypt()
	sealed := w.keepReport("wordpress", "run-2", `{"phase":"Passed"}`)

	_, err := w.store.Report(t.Context(), sealed, nil)
	require.ErrorIs(t, err, archive.ErrSealed)
	stranger, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	_, err = w.store.Report(t.Context(), sealed, []age.Identity{stranger})
	require.ErrorIs(t, err, archive.ErrSealed)

	objects, err := w.bucket.List(t.Context(), "reports/")
	require.NoError(t, err)
	for i, r := range []archive.Report{plain, sealed} {
		w.bucket.Flip(objects[i].Key, int(objects[i].Size)-3)
		_, err = w.store.Report(t.Context(), r, w.identities)
		require.ErrorIs(t, err, archive.ErrDamaged)
	}
	plain.Run = "run-3"
	_, err = w.store.Report(t.Context(), plain, nil)
	assert.ErrorIs(t, err, archive.ErrNotFound)
}

func TestReports_sayWhyTheStoreFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.keepReport("wordpress", "run-1", `{}`)
	down := errors.New("connection refused")
	w.bucket.Before(func(string, string) error { return down })
	_, err := w.store.KeepReport(t.Context(), "wordpress", "run-2", w.now, []byte("{}"), nil)
	require.ErrorIs(t, err, down)
	_, err = w.store.Reports(t.Context(), "")
	require.ErrorIs(t, err, down)
	_, err = w.store.Report(t.Context(), r, nil)
	assert.ErrorIs(t, err, down)
}

// TestReports_inADirectory: pruning knows nothing of reports, and they nothing of
// what else lies there.
func TestReports_inADirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, err := archive.NewDir(root)
	require.NoError(t, err)
	w := newWorld(t)
	w.store.Bucket = dir
	w.snap("s1", kib)
	w.upload("s1")
	none, err := w.store.Reports(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, none)
	r := w.keepReport("wordpress", drillRun, `{}`)
	require.NoError(t, os.WriteFile(filepath.Join(root, "reports", "README"), []byte("ours"), 0o600))
	w.now = w.now.Add(1000 * time.Hour)
	p := &archive.Pruner{Store: w.store, Retention: archive.Retention{Last: 1}, Clock: func() time.Time { return w.now }}
	plan, err := p.Plan(t.Context())
	require.NoError(t, err)
	assert.True(t, plan.Empty())
	all, err := w.store.Reports(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, []archive.Report{r}, all)
}
