package replicate

import (
	"slices"
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

// has is a source that is not encrypted.
func has(vs ...zfs.Version) Source {
	return Source{Dataset: zfs.Dataset{Name: "tank/a", Type: zfs.Filesystem, Encryption: "off"}, Versions: vs}
}

func encrypted(s Source) Source {
	s.Encryption = "aes-256-gcm"
	return s
}

func TestMake(t *testing.T) {
	t.Parallel()
	one, two, three := snap("one", 1, 10), snap("two", 2, 20), snap("three", 3, 30)
	source := has(one, two, three)
	on := func(vs ...zfs.Version) Target {
		return Target{Dataset: "dr/a", Exists: true, Versions: vs, Mode: "Lce"}
	}
	partial := func(target Target, from uint64, to zfs.Version) Target {
		target.Exists, target.Token = true, "1-abc"
		target.Resume = &zfs.Resume{FromGUID: from, ToGUID: to.GUID, ToName: to.FullName(), Compressed: true, Embedded: true, LargeBlock: true}
		return target
	}
	token := func(target Target, change func(*zfs.Resume)) Target {
		change(target.Resume)
		return target
	}
	sent := func(target Target, mode string) Target {
		target.Mode = mode
		return target
	}
	waits := func(source Source, guids ...uint64) Source {
		source.Pending = func(guid uint64) bool { return slices.Contains(guids, guid) }
		return source
	}
	below := func(target Target) Target {
		target.Encrypted = true
		return target
	}
	fenced := func(target Target) Target {
		target.Fenced = "run-1"
		return target
	}

	tests := []struct {
		name   string
		source Source
		target Target
		want   uint64
		plan   Plan
		err    error
	}{
		{"a missing target gets a full stream", source, Target{Dataset: "dr/a"}, 2, Plan{Action: Full, Mode: Plain, To: two}, nil},
		{"an increment starts from the newest snapshot of the target", source, on(copied("two", 2, 400), copied("one", 1, 500)), 3,
			Plan{Action: Incremental, Mode: Plain, From: one, To: three}, nil},
		{"snapshots between are skipped", source, on(copied("one", 1, 5)), 3, Plan{Action: Incremental, Mode: Plain, From: one, To: three}, nil},
		{"snapshots match by guid whatever they are called", source, on(copied("renamed", 2, 5)), 3, Plan{Action: Incremental, Mode: Plain, From: two, To: three}, nil},
		{"the same name with another guid does not match", source, on(copied("two", 99, 5)), 3, Plan{}, ErrDiverged},
		{"a bookmark serves where the snapshot is gone", has(mark("one", 1, 10), three), on(copied("one", 1, 5)), 3,
			Plan{Action: Incremental, Mode: Plain, From: mark("one", 1, 10), To: three}, nil},
		{"a snapshot is preferred to its bookmark", has(one, mark("one", 1, 10), three), on(copied("one", 1, 5)), 3,
			Plan{Action: Incremental, Mode: Plain, From: one, To: three}, nil},
		{"a bookmark of the wanted snapshot is not the snapshot", has(mark("three", 3, 30)), Target{Dataset: "dr/a"}, 3, Plan{}, zfs.ErrNotFound},
		{"what is there is there", source, on(copied("three", 3, 5)), 3, Plan{Action: AlreadyThere, To: three}, nil},
		{"what is there is there, below newer ones", source, on(copied("one", 1, 5), copied("x", 77, 6)), 1, Plan{Action: AlreadyThere, To: one}, nil},
		{"what is there is there, on a fenced replica", source, fenced(on(copied("three", 3, 5))), 3, Plan{Action: AlreadyThere, To: three}, nil},
		{"a fenced replica accepts nothing", source, fenced(on(copied("one", 1, 5))), 3, Plan{}, ErrFenced},
		{"a fence above a missing replica counts", source, fenced(Target{Dataset: "dr/a"}), 3, Plan{}, ErrFenced},
		{"a replica past the wanted snapshot cannot have it", source, on(copied("one", 1, 5), copied("three", 3, 6)), 2, Plan{}, ErrSuperseded},
		{"nothing in common has diverged", source, on(copied("x", 77, 5)), 3, Plan{}, ErrDiverged},
		{"a foreign snapshot on top has diverged", source, on(copied("one", 1, 5), copied("x", 77, 6)), 3, Plan{}, ErrDiverged},
		{"an empty dataset is not a replica", source, on(), 3, Plan{}, ErrOccupied},
		{"a bookmark on the target is no base", source, Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{mark("one", 1, 5)}}, 3, Plan{}, ErrOccupied},

		{"an interrupted full stream is continued", source, partial(Target{Dataset: "dr/a"}, 0, three), 3, Plan{Action: Resume, Mode: Plain, To: three, Token: "1-abc"}, nil},
		{"an interrupted increment is continued", source, partial(on(copied("one", 1, 5)), 1, three), 3, Plan{Action: Resume, Mode: Plain, From: one, To: three, Token: "1-abc"}, nil},
		{"a stream towards an older snapshot is finished first", source, partial(on(copied("one", 1, 5)), 1, two), 3, Plan{Action: Resume, Mode: Plain, From: one, To: two, Token: "1-abc"}, nil},
		{"what the target waits for besides comes first", waits(source, 1, 2), Target{Dataset: "dr/a"}, 3, Plan{Action: Full, Mode: Plain, To: one}, nil},
		{"and then the next of it", waits(source, 1, 2), on(copied("one", 1, 5)), 3, Plan{Action: Incremental, Mode: Plain, From: one, To: two}, nil},
		{"what it has or is past is not waited for", waits(source, 1, 2), on(copied("two", 2, 5)), 3, Plan{Action: Incremental, Mode: Plain, From: two, To: three}, nil},
		{"what is newer can wait", waits(source, 3), on(copied("one", 1, 5)), 2, Plan{Action: Incremental, Mode: Plain, From: one, To: two}, nil},
		{"a stream past what it waits for is continued", waits(source, 2), partial(on(copied("one", 1, 5)), 1, three), 3, Plan{Action: Resume, Mode: Plain, From: one, To: three, Token: "1-abc"}, nil},
		{"a stream past the wanted snapshot is dropped", source, partial(on(copied("one", 1, 5)), 1, three), 2, Plan{Action: Incremental, Mode: Plain, From: one, To: two}, nil},
		{"a stream of a snapshot that is gone is dropped", source, partial(Target{Dataset: "dr/a"}, 0, snap("gone", 99, 25)), 3, Plan{Action: Full, Mode: Plain, To: three}, nil},
		{"a stream from another base is dropped", source, partial(on(copied("two", 2, 5)), 1, three), 3, Plan{Action: Incremental, Mode: Plain, From: two, To: three}, nil},
		{"a token that cannot be read is dropped", source, Target{Dataset: "dr/a", Exists: true, Token: "1-abc"}, 3, Plan{Action: Full, Mode: Plain, To: three}, nil},
		{"a stream of a renamed dataset is dropped", source, token(partial(Target{Dataset: "dr/a"}, 0, three), func(r *zfs.Resume) { r.ToName = "tank/old@three" }), 3,
			Plan{Action: Full, Mode: Plain, To: three}, nil},
		{"a raw stream is not continued in plain", source, token(partial(Target{Dataset: "dr/a"}, 0, three), func(r *zfs.Resume) { r.Raw = true }), 3,
			Plan{Action: Full, Mode: Plain, To: three}, nil},
		{"a plain stream is not continued in raw", encrypted(source), partial(Target{Dataset: "dr/a"}, 0, three), 3,
			Plan{Action: Full, Mode: Raw, To: three}, nil},
		{"a raw stream is continued in raw", encrypted(source), token(partial(Target{Dataset: "dr/a"}, 0, three), func(r *zfs.Resume) { r.Raw = true }), 3,
			Plan{Action: Resume, Mode: Raw, To: three, Token: "1-abc"}, nil},
		{"a stream without -c is dropped", source, token(partial(Target{Dataset: "dr/a"}, 0, three), func(r *zfs.Resume) { r.Compressed = false }), 3,
			Plan{Action: Full, Mode: Plain, To: three}, nil},
		{"a token need not tell of blocks there are none of", source, token(partial(Target{Dataset: "dr/a"}, 0, three), func(r *zfs.Resume) { r.LargeBlock, r.Embedded = false, false }), 3,
			Plan{Action: Resume, Mode: Plain, To: three, Token: "1-abc"}, nil},
		{"embedded blocks are not continued below an encrypted dataset", source, below(partial(Target{Dataset: "dr/a"}, 0, three)), 3,
			Plan{Action: Full, Mode: Unembedded, To: three}, nil},

		{"an encrypted dataset travels raw", encrypted(source), Target{Dataset: "dr/a"}, 2, Plan{Action: Full, Mode: Raw, To: two}, nil},
		{"also below an encrypted dataset", encrypted(source), below(Target{Dataset: "dr/a"}), 2, Plan{Action: Full, Mode: Raw, To: two}, nil},
		{"below an encrypted dataset nothing is embedded", source, below(Target{Dataset: "dr/a"}), 2, Plan{Action: Full, Mode: Unembedded, To: two}, nil},
		{"increments keep the mode they began with", source, sent(on(copied("one", 1, 5)), "Lc"), 3, Plan{Action: Incremental, Mode: Unembedded, From: one, To: three}, nil},
		{"also when it would be another today", source, below(on(copied("one", 1, 5))), 3, Plan{Action: Incremental, Mode: Plain, From: one, To: three}, nil},
		{"a replica without a record gets one", encrypted(source), sent(on(copied("one", 1, 5)), ""), 3, Plan{Action: Incremental, Mode: Raw, From: one, To: three}, nil},
		{"raw does not follow plain", encrypted(source), on(copied("one", 1, 5)), 3, Plan{}, ErrStreamMode},
		{"plain does not follow raw", source, sent(on(copied("one", 1, 5)), "w"), 3, Plan{}, ErrStreamMode},
		{"a mode of another release is not followed", source, sent(on(copied("one", 1, 5)), "Lcez"), 3, Plan{}, ErrStreamMode},
		{"what a first receive recorded does not bind while there is no snapshot", encrypted(source), partial(Target{Dataset: "dr/a", Mode: "Lce"}, 0, three), 3,
			Plan{Action: Full, Mode: Raw, To: three}, nil},
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
	source := has(snap("one", 1, 10), snap("two", 2, 20), snap("three", 3, 30))
	// Listed the wrong way round; createtxg decides.
	target := Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{copied("two", 2, 6), copied("one", 1, 5)}}
	got, err := Make(source, target, 3)
	require.NoError(t, err)
	assert.Equal(t, "tank/a@two", got.Base())
}

func TestDivergedError_namesBothSides(t *testing.T) {
	t.Parallel()
	source := has(snap("one", 1, 10), snap("two", 2, 20))
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

func TestModeError_saysWhatDiffersAndWhatToDo(t *testing.T) {
	t.Parallel()
	target := Target{Dataset: "dr/a", Exists: true, Versions: []zfs.Version{copied("one", 1, 5)}, Mode: "Lce"}
	_, err := Make(encrypted(has(snap("one", 1, 10), snap("two", 2, 20))), target, 2)
	var flipped *ModeError
	require.ErrorAs(t, err, &flipped)
	assert.Equal(t, "stream mode does not fit: replica dr/a was received from zfs send -Lce, and tank/a would be sent with -w", err.Error())
	assert.Equal(t, "nothing was changed; such streams cannot follow one another, so rename dr/a out of the way on the target to start a new replica beside it", flipped.Hint())
}

func TestMode_Send(t *testing.T) {
	t.Parallel()
	tests := map[Mode]zfs.SendOptions{
		Plain:      {From: "a@1", To: "a@2", LargeBlock: true, Compressed: true, Embedded: true},
		Unembedded: {From: "a@1", To: "a@2", LargeBlock: true, Compressed: true},
		Raw:        {From: "a@1", To: "a@2", Raw: true},
	}
	for mode, want := range tests {
		assert.Equal(t, want, mode.Send("a@1", "a@2"))
		parsed, err := ParseMode(string(mode))
		require.NoError(t, err)
		assert.Equal(t, mode, parsed)
	}
	for _, bad := range []string{"", "L", "-w", "Lcew"} {
		_, err := ParseMode(bad)
		require.ErrorIs(t, err, zfs.ErrInvalidName, bad)
	}
}
