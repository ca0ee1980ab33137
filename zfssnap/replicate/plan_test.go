package replicate

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func snap(name string, guid, txg uint64) zfs.Version {
	return zfs.Version{Dataset: "tank/a", Name: name, GUID: guid, CreateTXG: txg}
}

func mark(name string, guid, txg uint64) zfs.Version {
	v := snap(name, guid, txg)
	v.Bookmark = true
	return v
}

// copied is a snapshot as the target has it: same guid, other dataset and txg.
func copied(name string, guid, txg uint64) zfs.Version {
	return zfs.Version{Dataset: "dr/a", Name: name, GUID: guid, CreateTXG: txg}
}

func TestMake(t *testing.T) {
	t.Parallel()
	one, two, three := snap("one", 1, 10), snap("two", 2, 20), snap("three", 3, 30)
	source := []zfs.Version{one, two, three}
	has := func(vs ...zfs.Version) Target { return Target{Dataset: "dr/a", Exists: true, Versions: vs} }
	partial := func(target Target, from, to uint64) Target {
		target.Exists, target.Token = true, "1-abc"
		target.Resume = &zfs.Resume{FromGUID: from, ToGUID: to}
		return target
	}
	fenced := func(target Target) Target {
		target.Fenced = "run-1"
		return target
	}

	tests := []struct {
		name   string
		source []zfs.Version
		target Target
		want   uint64
		plan   Plan
		err    error
	}{
		{"a missing target gets a full stream", source, Target{Dataset: "dr/a"}, 2, Plan{Action: Full, To: two}, nil},
		{"an increment starts from the newest snapshot of the target", source, has(copied("two", 2, 400), copied("one", 1, 500)), 3,
			Plan{Action: Incremental, From: one, To: three}, nil},
		{"snapshots between are skipped", source, has(copied("one", 1, 5)), 3, Plan{Action: Incremental, From: one, To: three}, nil},
		{"snapshots match by guid whatever they are called", source, has(copied("renamed", 2, 5)), 3, Plan{Action: Incremental, From: two, To: three}, nil},
		{"the same name with another guid does not match", source, has(copied("two", 99, 5)), 3, Plan{}, ErrDiverged},
		{"a bookmark serves where the snapshot is gone", []zfs.Version{mark("one", 1, 10), three}, has(copied("one", 1, 5)), 3,
			Plan{Action: Incremental, From: mark("one", 1, 10), To: three}, nil},
		{"a snapshot is preferred to its bookmark", []zfs.Version{one, mark("one", 1, 10), three}, has(copied("one", 1, 5)), 3,
			Plan{Action: Incremental, From: one, To: three}, nil},
		{"a bookmark of the wanted snapshot is not the snapshot", []zfs.Version{mark("three", 3, 30)}, Target{Dataset: "dr/a"}, 3, Plan{}, zfs.ErrNotFound},
		{"what is there is there", source, has(copied("three", 3, 5)), 3, Plan{Action: AlreadyThere, To: three}, nil},
		{"what is there is there, below newer ones", source, has(copied("one", 1, 5), copied("x", 77, 6)), 1, Plan{Action: AlreadyThere, To: one}, nil},
		{"what is there is there, on a fenced replica", source, fenced(has(copied("three", 3, 5))), 3, Plan{Action: AlreadyThere, To: three}, nil},
		{"a fenced replica accepts nothing", source, fenced(has(copied("one", 1, 5))), 3, Plan{}, ErrFenced},
		{"a fence above a missing replica counts", source, fenced(Target{Dataset: "dr/a"}), 3, Plan{}, ErrFenced},
		{"a replica past the wanted snapshot cannot have it", source, has(copied("one", 1, 5), copied("three", 3, 6)), 2, Plan{}, ErrSuperseded},
		{"nothing in common has diverged", source, has(copied("x", 77, 5)), 3, Plan{}, ErrDiverged},
		{"a foreign snapshot on top has diverged", source, has(copied("one", 1, 5), copied("x", 77, 6)), 3, Plan{}, ErrDiverged},
		{"an empty dataset is not a replica", source, has(), 3, Plan{}, ErrOccupied},
		{"a bookmark on the target is no base", source, Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{mark("one", 1, 5)}}, 3, Plan{}, ErrOccupied},

		{"an interrupted full stream is continued", source, partial(Target{Dataset: "dr/a"}, 0, 3), 3, Plan{Action: Resume, To: three, Token: "1-abc"}, nil},
		{"an interrupted increment is continued", source, partial(has(copied("one", 1, 5)), 1, 3), 3, Plan{Action: Resume, From: one, To: three, Token: "1-abc"}, nil},
		{"a stream towards an older snapshot is finished first", source, partial(has(copied("one", 1, 5)), 1, 2), 3, Plan{Action: Resume, From: one, To: two, Token: "1-abc"}, nil},
		{"a stream past the wanted snapshot is dropped", source, partial(has(copied("one", 1, 5)), 1, 3), 2, Plan{Action: Incremental, From: one, To: two}, nil},
		{"a stream of a snapshot that is gone is dropped", source, partial(Target{Dataset: "dr/a"}, 0, 99), 3, Plan{Action: Full, To: three}, nil},
		{"a stream from another base is dropped", source, partial(has(copied("two", 2, 5)), 1, 3), 3, Plan{Action: Incremental, From: two, To: three}, nil},
		{"a token that cannot be read is dropped", source, Target{Dataset: "dr/a", Exists: true, Token: "1-abc"}, 3, Plan{Action: Full, To: three}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Make(tt.source, tt.target, tt.want)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.plan, got)
		})
	}
}

func TestMake_prefersTheNewestByTXGOfTheTarget(t *testing.T) {
	t.Parallel()
	source := []zfs.Version{snap("one", 1, 10), snap("two", 2, 20), snap("three", 3, 30)}
	// Listed the wrong way round; createtxg decides.
	target := Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{copied("two", 2, 6), copied("one", 1, 5)}}
	got, err := Make(source, target, 3)
	require.NoError(t, err)
	assert.Equal(t, "tank/a@two", got.Base())
}

func TestDivergedError_namesBothSides(t *testing.T) {
	t.Parallel()
	source := []zfs.Version{snap("one", 1, 10), snap("two", 2, 20)}
	target := Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{copied("one", 1, 5), copied("mine", 77, 6)}}
	_, err := Make(source, target, 2)
	var diverged *DivergedError
	require.ErrorAs(t, err, &diverged)
	assert.Equal(t, "destination has diverged: its newest snapshot dr/a@mine is not on the source; "+
		"the target has @mine (guid 77) and the source has @two (guid 2), since tank/a@one", err.Error())
	assert.Equal(t, "nothing was changed; destroy on the target what is only there (@mine (guid 77)), "+
		"or rename dr/a out of the way to start a new replica beside it", diverged.Hint())

	many := Target{Dataset: "dr/a", Exists: true}
	for i := uint64(100); i < 110; i++ {
		many.Versions = append(many.Versions, copied("x", i, i))
	}
	_, err = Make(source, many, 2)
	assert.ErrorContains(t, err, "@x (guid 102), 4 more, @x (guid 107)")
	assert.ErrorContains(t, err, "and nothing in common")
}
