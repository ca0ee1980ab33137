package holds_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const dataset = "tank/a"

// snap is the n-th snapshot of the dataset; its guid is n too.
func snap(n uint64) zfs.Version {
	return zfs.Version{Dataset: dataset, Name: fmt.Sprintf("s%d", n), GUID: n, CreateTXG: 10 * n}
}

func cursor(t holds.Target, n uint64) zfs.Version {
	v := snap(n)
	v.Bookmark, v.Name = true, fmt.Sprintf("%s%s_%x", replicate.CursorPrefix, replicate.TargetKey(t.Node, t.Dataset), n)
	return v
}

func held(n uint64, tag string) holds.Found {
	return holds.Found{Hold: zfs.Hold{Snapshot: snap(n).FullName(), Tag: tag, Created: now.Add(-time.Hour)}}
}

func recorded(f holds.Found, r holds.Record) holds.Found {
	f.Record = &r
	return f
}

func has(guids ...uint64) holds.Answer {
	a := holds.Answer{GUIDs: map[uint64]bool{}}
	for _, g := range guids {
		a.GUIDs[g] = true
	}
	return a
}

const (
	replication = "kubectl-dr:replication"
	replica     = "kubectl-dr:replica"
	drill       = "kubectl-dr:run:drill-1"
)

var (
	remote = holds.Target{Node: "remote", Dataset: "dr/a", By: "hassio", Until: now.Add(-time.Minute)}
	other  = holds.Target{Node: "other", Dataset: "dr/b", By: "hassio", Until: now.Add(-time.Minute)}
)

func alive(t holds.Target) holds.Target {
	t.Until = now.Add(time.Minute)
	return t
}

func TestJudge(t *testing.T) {
	t.Parallel()
	four := []zfs.Version{snap(1), snap(2), snap(3), snap(4)}
	source := func(targets []holds.Target, held ...holds.Found) holds.Dataset {
		return holds.Dataset{Name: dataset, Versions: four, Targets: targets, Holds: held}
	}
	both := []holds.Target{remote, other}
	tests := []struct {
		name    string
		dataset holds.Dataset
		known   holds.Known
		want    []string // "snapshot state dead? reason", of each hold
	}{
		{"a foreign hold is shown and left alone", source(nil, held(1, "keep"), held(1, "syncoid_x"), held(1, "kubectl-dr:")), holds.Known{},
			[]string{"s1 foreign", "s1 foreign", "s1 foreign"}},

		{"a backup's hold has no lease", source(nil, recorded(held(1, "kubectl-dr:backup"), holds.Record{By: "velero", Owner: "backup/b1"})),
			holds.Known{Over: func(string) bool { return true }}, []string{"s1 live"}},
		{"a backup's hold of a snapshot that names none is left alone", source(nil, held(1, "kubectl-dr:backup")), holds.Known{},
			[]string{"s1 orphan: no backup is named on the snapshot"}},

		{"a lease that is not over counts", source(nil, recorded(held(1, drill), holds.Record{Owner: "run/drill-1", Until: now.Add(time.Second)})), holds.Known{},
			[]string{"s1 live"}},
		{"a lease that is over does not", source(nil, recorded(held(1, drill), holds.Record{Owner: "run/drill-1", Until: now})), holds.Known{},
			[]string{"s1 expired dead: its lease ended 2026-01-02T03:04:05Z"}},
		{"a hold without lease stays", source(nil, recorded(held(1, drill), holds.Record{Owner: "run/drill-1"})), holds.Known{}, []string{"s1 live"}},
		{"the hold of a run that is over is dead before its lease is", source(nil, recorded(held(1, drill), holds.Record{Owner: "run/drill-1", Until: now.Add(time.Hour)})),
			holds.Known{Over: func(owner string) bool { return owner == "run/drill-1" }}, []string{"s1 orphan dead: run/drill-1 is over"}},
		{"a hold of ours without a record is left alone", source(nil, held(1, drill)), holds.Known{}, []string{"s1 orphan: nothing says who placed it"}},

		{"the base of the next increment is kept", source([]holds.Target{remote}, held(2, replication)), holds.Known{Answers: answers(has(1, 2))},
			[]string{"s2 live: the next increment to remote:dr/a starts here"}},
		{"what is older than the base is dead", source([]holds.Target{remote}, held(1, replication), held(2, replication)), holds.Known{Answers: answers(has(1, 2))},
			[]string{"s1 orphan dead: remote:dr/a has the newer @s2", "s2 live: the next increment to remote:dr/a starts here"}},
		{"what is on its way is kept while somebody sends it", source([]holds.Target{alive(remote)}, held(2, replication), held(3, replication)), holds.Known{Answers: answers(has(2))},
			[]string{"s2 live: the next increment to remote:dr/a starts here", "s3 live: on its way to remote:dr/a"}},
		{"what nobody sends any more has expired", source([]holds.Target{remote}, held(2, replication), held(3, replication)), holds.Known{Answers: answers(has(2))},
			[]string{"s2 live: the next increment to remote:dr/a starts here", "s3 expired dead: nobody sends it to remote:dr/a any more"}},
		{"an interrupted receive is waited for", source([]holds.Target{remote}, held(3, replication)), holds.Known{Answers: partial(answers(has(2)))},
			[]string{"s3 live: remote:dr/a keeps an interrupted receive"}},
		{"an answer that was lost does not matter: the target says what it has", source([]holds.Target{remote}, held(2, replication), held(3, replication)), holds.Known{Answers: answers(has(2, 3))},
			[]string{"s2 orphan dead: remote:dr/a has the newer @s3", "s3 live: the next increment to remote:dr/a starts here"}},
		{"without an answer all is kept", source([]holds.Target{remote}, held(1, replication), held(2, replication)), holds.Known{},
			[]string{"s1 live: remote:dr/a was not asked, or did not answer", "s2 live: remote:dr/a was not asked, or did not answer"}},
		{"a target with nothing in common is not a reason to let go", source([]holds.Target{remote}, held(1, replication)), holds.Known{Answers: answers(has(99))},
			[]string{"s1 orphan: remote:dr/a has nothing in common with the dataset"}},
		{"a transfer of this process keeps all", source([]holds.Target{remote}, held(1, replication)), holds.Known{Sending: true, Answers: answers(has(2))},
			[]string{"s1 live: a transfer is under way"}},
		{"a hold for a replica that nobody knows is left alone", source(nil, held(1, replication)), holds.Known{},
			[]string{"s1 orphan: no replica of the dataset is known"}},
		{"every replica has a say", source(both, held(1, replication), held(2, replication), held(3, replication)),
			holds.Known{Answers: map[string]holds.Answer{remote.String(): has(3), other.String(): has(2)}},
			[]string{"s1 orphan dead: other:dr/b has the newer @s2; remote:dr/a has the newer @s3", "s2 live: the next increment to other:dr/b starts here",
				"s3 live: the next increment to remote:dr/a starts here"}},
		{"one that does not answer keeps all", source(both, held(1, replication), held(3, replication)), holds.Known{Answers: answers(has(3))},
			[]string{"s1 live: other:dr/b was not asked, or did not answer", "s3 live: other:dr/b was not asked, or did not answer"}},
		{"a cursor tells of a replica that nobody recorded", holds.Dataset{Name: dataset, Versions: append([]zfs.Version{cursor(other, 1)}, four...), Targets: []holds.Target{remote},
			Holds: []holds.Found{held(1, replication)}}, holds.Known{Answers: answers(has(3))},
			[]string{"s1 live: " + replicate.TargetKey("other", "dr/b") + " was not asked, or did not answer"}},
		{"the base may be a bookmark", holds.Dataset{Name: dataset, Versions: []zfs.Version{snap(1), cursor(remote, 2), snap(3)}, Targets: []holds.Target{remote},
			Holds: []holds.Found{held(1, replication), held(3, replication)}}, holds.Known{Answers: answers(has(2))},
			[]string{"s1 orphan dead: remote:dr/a has the newer #kubectl-dr_remote_" + strings.TrimPrefix(replicate.TargetKey("remote", "dr/a"), "remote_") + "_2",
				"s3 expired dead: nobody sends it to remote:dr/a any more"}},
		{"a base is called by its snapshot where there still is one", holds.Dataset{Name: dataset, Versions: []zfs.Version{snap(1), snap(2), cursor(remote, 2)}, Targets: []holds.Target{remote},
			Holds: []holds.Found{held(1, replication)}}, holds.Known{Answers: answers(has(2))},
			[]string{"s1 orphan dead: remote:dr/a has the newer @s2"}},
		{"a lease on the base goes only where the base stays held", source([]holds.Target{remote},
			recorded(held(2, drill), holds.Record{Owner: "run/drill-1", Until: now}), held(2, replication)), holds.Known{Answers: answers(has(2))},
			[]string{"s2 expired dead: its lease ended 2026-01-02T03:04:05Z", "s2 live: the next increment to remote:dr/a starts here"}},
		{"the last hold on the base stays whatever it is for", source([]holds.Target{remote}, recorded(held(2, drill), holds.Record{Owner: "run/drill-1", Until: now})),
			holds.Known{Answers: answers(has(2))},
			[]string{"s2 expired: its lease ended 2026-01-02T03:04:05Z, but the next increment to remote:dr/a may start here"}},

		{"the newest of a replica is kept", copied(0, held(4, replica)), holds.Known{}, []string{"s4 live"}},
		{"an older one goes when the newer one came from the source and is held", copied(4, held(2, replica), held(4, replica)), holds.Known{},
			[]string{"s2 orphan dead: the replica has the newer @s4", "s4 live"}},
		{"a newer one that is somebody's own does not count", copied(0, held(2, replica), held(4, replica)), holds.Known{}, []string{"s2 live", "s4 live"}},
		{"a newer one that is not held does not count", copied(4, held(2, replica)), holds.Known{}, []string{"s2 live"}},
		{"the last hold on the newest of a replica stays whatever it is for", copied(0, recorded(held(4, drill), holds.Record{Until: now})), holds.Known{},
			[]string{"s4 expired: its lease ended 2026-01-02T03:04:05Z, but the next increment to tank/a may start here"}},
		{"a replica's hold elsewhere is left alone", source(nil, held(1, replica)), holds.Known{}, []string{"s1 orphan: the dataset is not a replica"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.known.Now = now
			var got []string
			for _, h := range tt.dataset.Judge(tt.known) {
				s := strings.TrimPrefix(h.Snapshot, dataset+"@") + " " + string(h.State)
				if h.Dead {
					s += " dead"
				}
				if h.Reason != "" {
					s += ": " + h.Reason
				}
				got = append(got, s)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// answers is what remote says.
func answers(a holds.Answer) map[string]holds.Answer {
	return map[string]holds.Answer{remote.String(): a}
}

func partial(all map[string]holds.Answer) map[string]holds.Answer {
	for k, a := range all {
		a.Partial = true
		all[k] = a
	}
	return all
}

// copied is a replica of which the n-th snapshot came from the source.
func copied(n uint64, found ...holds.Found) holds.Dataset {
	for i := range found {
		found[i].Received = found[i].Snapshot == snap(n).FullName()
	}
	return holds.Dataset{Name: dataset, Source: "hassio:znvm/a", Versions: []zfs.Version{snap(1), snap(2), snap(3), snap(4)}, Holds: found}
}

func TestJudge_saysWhoHoldsAndWhy(t *testing.T) {
	t.Parallel()
	d := holds.Dataset{Name: dataset, Versions: []zfs.Version{snap(1)}, Targets: []holds.Target{remote}, Holds: []holds.Found{
		recorded(held(1, drill), holds.Record{By: "me", Owner: "run/drill-1", Why: "rehearsal", Until: now.Add(time.Hour)}),
		held(1, replication),
		{Hold: zfs.Hold{Snapshot: snap(1).FullName(), Tag: "kubectl-dr:backup"}, Backup: "b1"},
	}}
	got := d.Judge(holds.Known{Now: now, Answers: answers(has(1))})
	require.Len(t, got, 3)
	assert.Equal(t, holds.Hold{
		Snapshot: "tank/a@s1", GUID: 1, Tag: drill, By: "me", Owner: "run/drill-1", Why: "rehearsal",
		Placed: now.Add(-time.Hour), Until: now.Add(time.Hour), State: holds.Live,
	}, got[0])
	assert.Equal(t, "hassio", got[1].By)
	assert.Equal(t, "remote:dr/a", got[1].Owner)
	assert.Equal(t, "backup/b1", got[2].Owner, "also of a hold from before there were records")
}

// TestJudge_neverGivesUpABase plays worlds at random: whatever is known, recorded
// or forgotten, the newest snapshot that both sides have keeps a hold it had.
func TestJudge_neverGivesUpABase(t *testing.T) {
	t.Parallel()
	const worlds = 20000
	r := rand.New(rand.NewPCG(1, 2))
	released := 0
	for range worlds {
		d := holds.Dataset{Name: dataset}
		var alike []uint64
		for n := uint64(1); n <= 6; n++ {
			if r.IntN(5) > 0 {
				d.Versions = append(d.Versions, snap(n))
				alike = append(alike, n)
			}
		}
		k := holds.Known{Now: now, Sending: r.IntN(10) == 0, Answers: map[string]holds.Answer{}, Over: func(string) bool { return r.IntN(2) == 0 }}
		bases := map[string]bool{}
		if r.IntN(3) == 0 {
			d.Source = "hassio:znvm/a"
		}
		for _, target := range []holds.Target{remote, other} {
			if r.IntN(3) == 0 {
				continue
			}
			answer, newest := has(), uint64(0)
			for _, n := range alike {
				if r.IntN(2) == 0 {
					answer.GUIDs[n], newest = true, n
				}
			}
			answer.Partial = r.IntN(4) == 0
			if newest > 0 {
				bases[snap(newest).FullName()] = true
			}
			// A transfer leaves a cursor of what it sends before it sends it.
			if newest > 0 {
				d.Versions = append(d.Versions, cursor(target, newest))
			}
			if r.IntN(2) == 0 {
				target.Until = now.Add(time.Duration(r.IntN(3)-1) * time.Minute)
			}
			if r.IntN(2) == 0 {
				d.Targets = append(d.Targets, target)
				if r.IntN(3) > 0 {
					k.Answers[target.String()] = answer
				}
			}
		}
		for _, n := range alike {
			for _, tag := range []string{replication, replica, drill, "kubectl-dr:backup", "foreign"} {
				if r.IntN(3) > 0 {
					continue
				}
				f := held(n, tag)
				f.Received = r.IntN(2) == 0
				if r.IntN(2) == 0 {
					f.Record = &holds.Record{Owner: "run/x", Until: now.Add(time.Duration(r.IntN(3)-1) * time.Minute)}
				}
				d.Holds = append(d.Holds, f)
				if d.Source != "" && f.Received {
					bases[f.Snapshot] = false
				}
			}
		}
		if d.Source != "" {
			for i := len(alike) - 1; i >= 0; i-- {
				if base, received := bases[snap(alike[i]).FullName()]; received && !base {
					bases[snap(alike[i]).FullName()] = true
					break
				}
			}
		}
		had, left := map[string]int{}, map[string]int{}
		for _, h := range d.Judge(k) {
			if h.State == holds.Foreign {
				require.False(t, h.Dead)
				continue
			}
			had[h.Snapshot]++
			if h.Dead {
				released++
			} else {
				left[h.Snapshot]++
			}
		}
		for name, base := range bases {
			if base && had[name] > 0 && left[name] == 0 {
				require.Failf(t, "a base lost its last hold", "%s of %+v with %+v", name, d, k)
			}
		}
	}
	assert.Greater(t, released, worlds/10, "some are dead")
}

func TestTags(t *testing.T) {
	t.Parallel()
	for tag, purpose := range map[string]string{
		"kubectl-dr:backup": "backup", "kubectl-dr:run:a:b": "run", "kubectl-dr:": "", "backup": "", "": "", "xkubectl-dr:a": "",
	} {
		assert.Equal(t, purpose, holds.Purpose(tag), tag)
		assert.Equal(t, purpose != "", holds.Ours(tag), tag)
	}
	prop, ok := holds.RecordProperty("kubectl-dr:run:drill-1")
	assert.True(t, ok)
	assert.Equal(t, names.PropHold+"run:drill-1", prop)
	for _, tag := range []string{"keep", "kubectl-dr:Run", "kubectl-dr:a/b", "kubectl-dr:" + strings.Repeat("a", 240)} {
		_, ok := holds.RecordProperty(tag)
		assert.False(t, ok, tag)
	}
}

func TestRecords_areReadBack(t *testing.T) {
	t.Parallel()
	record := holds.Record{By: "velero", Owner: "run/x", Why: `a "reason" = é`, Until: now}
	require.NoError(t, zfs.ValidateValue(record.Encode()))
	got, err := holds.ParseRecord(record.Encode())
	require.NoError(t, err)
	assert.Equal(t, record, got)
	assert.Equal(t, `{"by":"velero"}`, holds.Record{By: "velero"}.Encode())
	target := remote
	target.Address, target.Owner = "remote:7443", "transfer/1"
	back, err := holds.ParseTarget(target.Encode())
	require.NoError(t, err)
	assert.Equal(t, target, back)
	for _, bad := range []string{"", "-", "null x", `{"by":1}`} {
		_, err := holds.ParseRecord(bad)
		assert.Error(t, err, bad)
	}
}

func FuzzTagsAndRecords(f *testing.F) {
	for _, s := range []string{"kubectl-dr:backup", "kubectl-dr:run:x", "keep", `{"by":"a","until":"2026-01-02T03:04:05Z"}`, "kubectl-dr:a b", "-r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// A tag that is taken for ours is one that zfs(8) can be given, and its
		// property is of the agent alone.
		if holds.CheckTag(s) == nil {
			if zfs.ValidateHoldTag(s) != nil || !strings.HasPrefix(s, "kubectl-dr:") {
				t.Errorf("tag %q passes", s)
			}
		}
		if prop, ok := holds.RecordProperty(s); ok && (zfs.ValidateUserProperty(prop) != nil || !strings.HasPrefix(prop, names.PropHold)) {
			t.Errorf("tag %q has property %q", s, prop)
		}
		// What is read is written the same, in one line.
		if r, err := holds.ParseRecord(s); err == nil {
			again, err := holds.ParseRecord(r.Encode())
			if err != nil || again.By != r.By || again.Owner != r.Owner || !again.Until.Equal(r.Until) {
				t.Errorf("%q is read as %+v and %+v", s, r, again)
			}
			if strings.ContainsAny(r.Encode(), "\n\t") {
				t.Errorf("record %q breaks a line", r.Encode())
			}
		}
	})
}
