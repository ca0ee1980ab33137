package replicate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Causes that callers tell apart with errors.Is.
var (
	// ErrDiverged: the replica's newest snapshot is not one the source can
	// send an increment from.
	ErrDiverged = zfs.ErrDiverged
	// ErrFenced: the replica accepts nothing until its fence is removed.
	ErrFenced = errors.New("replica is fenced")
	// ErrSuperseded: the replica is past the wanted snapshot without having it.
	ErrSuperseded = errors.New("replica already has a newer snapshot")
	// ErrOccupied: the target dataset exists and is not a replica.
	ErrOccupied = errors.New("target exists and is not a replica")
)

// Action is what a Plan does.
type Action string

// The actions of a Plan.
const (
	AlreadyThere Action = "already there"
	Full         Action = "full"
	Incremental  Action = "incremental"
	Resume       Action = "resume"
)

// Source is what the source has of a dataset.
type Source struct {
	zfs.Dataset
	Versions []zfs.Version
	// CloneOf is the snapshot that it is a clone of, the zero Version for none. It
	// counts for a first stream only.
	CloneOf zfs.Version
	// Pending reports that the target waits for a snapshot from another transfer as
	// well. Nil for none.
	Pending func(guid uint64) bool
}

// Target is what the target has of a replica.
type Target struct {
	Dataset  string
	Exists   bool
	Versions []zfs.Version
	// Mode is what its streams were sent with, "" when that is not recorded.
	Mode string
	// Encrypted: it is, or what it would be made below.
	Encrypted bool
	// HasOrigin: the target's pool has the snapshot that the source is a clone of.
	HasOrigin bool
	Fenced    string // who fenced it, "" for nobody
	Unsafe    bool   // not kept as a replica must be
	Token     string // of an interrupted receive, "" for none
	// Resume is what Token contains, nil when the source cannot continue it.
	Resume *zfs.Resume
}

// Plan is one step towards having a snapshot on the target.
type Plan struct {
	Action Action
	// From is the base of the step, a snapshot or bookmark of the source, or what
	// the source is a clone of. It is the zero Version for a full stream.
	From zfs.Version
	// To is the snapshot that the target has after the step. It may be an older one
	// than wanted, which an interrupted step or another transfer was to bring; then
	// another step follows.
	To zfs.Version
	// Mode is how to send it.
	Mode Mode
	// Token continues an interrupted stream, for Resume.
	Token string
}

// Base returns the full name of From, "" for a full stream.
func (p Plan) Base() string {
	if p.From.GUID == 0 {
		return ""
	}
	return p.From.FullName()
}

// FromOrigin returns the guid of the snapshot that the step makes the replica a
// clone of, 0 for none.
func (p Plan) FromOrigin() uint64 {
	if p.Action != Incremental || p.From.Dataset == p.To.Dataset {
		return 0
	}
	return p.From.GUID
}

// Make plans how the target gets the source's snapshot with that guid. An
// interrupted receive is continued when it leads towards that snapshot;
// otherwise the plan starts anew, and the receiver drops what is there. A replica
// takes nothing older than its newest, so what it waits for besides comes first.
func Make(source Source, target Target, guid uint64) (Plan, error) {
	want, ok := find(source.Versions, guid, true)
	if !ok {
		return Plan{}, fmt.Errorf("snapshot with guid %d is not on the source: %w", guid, zfs.ErrNotFound)
	}
	if _, ok := find(target.Versions, guid, true); ok {
		return Plan{Action: AlreadyThere, To: want}, nil
	}
	if target.Fenced != "" {
		return Plan{}, fmt.Errorf("%w: %s by %s", ErrFenced, target.Dataset, target.Fenced)
	}

	plan := Plan{Action: Full, To: want}
	switch newest, ok := newest(target.Versions); {
	case ok:
		from, ok := find(source.Versions, newest.GUID, false)
		if !ok {
			return Plan{}, diverged(source.Versions, target, newest)
		}
		if from.CreateTXG >= want.CreateTXG {
			return Plan{}, fmt.Errorf("%w: %s, which the source took after %s; only newer ones can be added",
				ErrSuperseded, newest.FullName(), want.FullName())
		}
		plan.Action, plan.From = Incremental, from
	case target.Exists && target.Token == "":
		return Plan{}, fmt.Errorf("%w: %s has no snapshots", ErrOccupied, target.Dataset)
	case target.HasOrigin && source.CloneOf.GUID != 0:
		plan.Action, plan.From = Incremental, source.CloneOf
	}

	if source.Pending != nil {
		older := slices.DeleteFunc(snapshots(source.Versions), func(v zfs.Version) bool {
			return v.CreateTXG <= plan.From.CreateTXG || v.CreateTXG >= want.CreateTXG || !source.Pending(v.GUID)
		})
		if len(older) > 0 {
			plan.To = older[0]
		}
	}
	var err error
	if plan.Mode, err = mode(source, target); err != nil {
		return Plan{}, err
	}
	// All that the token says must be what this plan would send: snapshots by
	// guid, the name that zfs send will look for, and the mode.
	if r := target.Resume; target.Token != "" && r != nil && r.FromGUID == plan.From.GUID && plan.Mode.continues(r) {
		to, ok := find(source.Versions, r.ToGUID, true)
		if ok && to.CreateTXG <= want.CreateTXG && to.FullName() == r.ToName {
			plan.Action, plan.To, plan.Token = Resume, to, target.Token
		}
	}
	return plan, nil
}

// mode keeps to the mode of the streams before. A replica without snapshots has
// had none, whatever an interrupted receive recorded.
func mode(source Source, target Target) (Mode, error) {
	want := ModeFor(source.Dataset, target.Encrypted)
	if _, ok := newest(target.Versions); !ok || target.Mode == "" {
		return want, nil
	}
	was, err := ParseMode(target.Mode)
	if err != nil || (was == Raw) != (want == Raw) {
		return "", &ModeError{Source: source.Name, Target: target.Dataset, Was: target.Mode, Now: want}
	}
	return was, nil
}

// find returns the version with that guid. A snapshot is preferred to its
// bookmark: it can be held, and a send from it can be estimated.
func find(vs []zfs.Version, guid uint64, snapshot bool) (found zfs.Version, ok bool) {
	for _, v := range vs {
		if v.GUID == guid && (!v.Bookmark || !snapshot && !ok) {
			found, ok = v, true
		}
	}
	return found, ok
}

func snapshots(vs []zfs.Version) []zfs.Version {
	snaps := slices.DeleteFunc(slices.Clone(vs), func(v zfs.Version) bool { return v.Bookmark })
	slices.SortStableFunc(snaps, func(a, b zfs.Version) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	return snaps
}

func newest(vs []zfs.Version) (zfs.Version, bool) {
	snaps := snapshots(vs)
	if len(snaps) == 0 {
		return zfs.Version{}, false
	}
	return snaps[len(snaps)-1], true
}

// DivergedError lists what keeps a replica from being continued.
type DivergedError struct {
	Target string
	// Newest is the target's newest snapshot, which the source does not know.
	Newest zfs.Version
	// Common is the newest snapshot of the target that the source does know;
	// the zero Version when there is none.
	Common zfs.Version
	// OnTarget are the target's snapshots past Common, OnSource the source's.
	OnTarget, OnSource []zfs.Version
}

func diverged(source []zfs.Version, target Target, newest zfs.Version) error {
	e := &DivergedError{Target: target.Dataset, Newest: newest}
	for _, v := range snapshots(target.Versions) {
		if from, ok := find(source, v.GUID, false); ok {
			e.Common, e.OnTarget = from, nil
			continue
		}
		e.OnTarget = append(e.OnTarget, v)
	}
	for _, v := range snapshots(source) {
		if v.CreateTXG > e.Common.CreateTXG {
			e.OnSource = append(e.OnSource, v)
		}
	}
	return e
}

func (e *DivergedError) Error() string {
	since := "and nothing in common"
	if e.Common.GUID != 0 {
		since = "since " + e.Common.FullName()
	}
	return fmt.Sprintf("%v: its newest snapshot %s is not on the source; the target has %s and the source has %s, %s",
		ErrDiverged, e.Newest.FullName(), list(e.OnTarget), list(e.OnSource), since)
}

// Unwrap returns ErrDiverged.
func (e *DivergedError) Unwrap() error { return ErrDiverged }

// Hint says which choices there are.
func (e *DivergedError) Hint() string {
	if e.Common.GUID == 0 {
		return fmt.Sprintf("nothing was changed; rename %s out of the way on the target to start a new replica beside it", e.Target)
	}
	return fmt.Sprintf("nothing was changed; destroy on the target what is only there (%s), or rename %s out of the way to start a new replica beside it",
		list(e.OnTarget), e.Target)
}

// list names versions, the first and last few of a long list.
func list(vs []zfs.Version) string {
	const most = 6
	var names []string
	for i, v := range vs {
		switch {
		case len(vs) <= most || i < most/2 || i >= len(vs)-most/2:
			names = append(names, fmt.Sprintf("@%s (guid %d)", v.Name, v.GUID))
		case i == most/2:
			names = append(names, fmt.Sprintf("%d more", len(vs)-most))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
