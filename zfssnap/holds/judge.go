package holds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// State of a hold.
type State string

// The states.
const (
	// Live holds are needed, or have a lease that is not over.
	Live State = "live"
	// Expired holds have a lease that is over.
	Expired State = "expired"
	// Orphan holds are ours, and what they were for is over or not known.
	Orphan State = "orphan"
	// Foreign holds are not ours. They are never released.
	Foreign State = "foreign"
)

// Hold is a hold and what was made of it.
type Hold struct {
	Snapshot string    `json:"snapshot"`
	GUID     uint64    `json:"guid,string"`
	Tag      string    `json:"tag"`
	By       string    `json:"by,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	Why      string    `json:"why,omitempty"`
	Placed   time.Time `json:"placed"` // to the minute
	Until    time.Time `json:"until,omitzero"`
	State    State     `json:"state"`
	// Reason says why the state is what it is.
	Reason string `json:"reason,omitempty"`
	// Dead holds are what a reaper releases.
	Dead     bool `json:"dead,omitempty"`
	Released bool `json:"released,omitempty"`
	// Error is why a dead hold could not be released.
	Error string `json:"error,omitempty"`
}

// Because says why it is there: what its state rests on, or else what it is for.
func (h Hold) Because() string {
	if h.Reason != "" {
		return h.Reason
	}
	return h.Why
}

// Found is a hold as it lies on a snapshot.
type Found struct {
	zfs.Hold
	Record *Record // nil when there is none that can be read
	// Backup is the Velero backup the snapshot was taken for.
	Backup string
	// Received: the snapshot came to a replica from its source.
	Received bool
}

// Dataset is one dataset with the holds on its snapshots.
type Dataset struct {
	Name string
	// Source is "node:dataset" of what this is the replica of, "" when it is none.
	Source   string
	Versions []zfs.Version // by createtxg
	Targets  []Target      // where it is sent, as recorded
	Holds    []Found
}

// Answer is what a target has of a replica.
type Answer struct {
	GUIDs map[uint64]bool // of its snapshots
	// Partial: it keeps what an interrupted receive left.
	Partial bool
}

// Known is what a judgement needs to know beside the dataset.
type Known struct {
	Now time.Time
	// Sending: a transfer from the dataset is under way in this process.
	Sending bool
	// Answers are what targets say they have, by Target.String. One that is
	// missing was not asked, or did not answer.
	Answers map[string]Answer
	// Over reports that an owner is over, as "run/<name>". Nil for nobody known.
	Over func(owner string) bool
}

// why words the purposes that explain themselves.
var why = map[string]string{
	names.HoldBackup:      "restores from this backup",
	names.HoldReplication: "transfers to the replica",
	names.HoldReplica:     "the next increment is received onto it",
}

// Judge says of each hold what it is for and whether it is dead. Whatever it is
// given, no snapshot that the next increment may start from loses its last hold.
func (d Dataset) Judge(k Known) []Hold {
	versions := map[string]zfs.Version{}
	for _, v := range d.Versions {
		if !v.Bookmark {
			versions[v.FullName()] = v
		}
	}
	routes := d.routes(k)
	var judged []Hold
	for _, f := range d.Holds {
		v, ok := versions[f.Snapshot]
		if !ok {
			continue // gone since it was listed
		}
		h := Hold{Snapshot: f.Snapshot, GUID: v.GUID, Tag: f.Tag, Placed: f.Created, Why: why[Purpose(f.Tag)]}
		if r := f.Record; r != nil {
			h.By, h.Owner, h.Until = r.By, r.Owner, r.Until
			if r.Why != "" {
				h.Why = r.Why
			}
		}
		switch Purpose(f.Tag) {
		case "":
			h.State = Foreign
		case names.HoldBackup:
			judgeBackup(&h, f)
		case names.HoldReplica:
			d.judgeReplica(&h, v)
		case names.HoldReplication:
			judgeReplication(&h, v, routes, k)
		default:
			judgeLease(&h, f, k)
		}
		judged = append(judged, h)
	}
	return d.protect(judged, routes)
}

// judgeBackup never finds one dead: whether Velero still has a backup is not for
// this host to know.
func judgeBackup(h *Hold, f Found) {
	if h.Owner == "" && f.Backup != "" {
		h.Owner = OwnerBackup + f.Backup
	}
	h.State = Live
	if h.Owner == "" {
		h.State, h.Reason = Orphan, "no backup is named on the snapshot"
	}
}

// judgeReplica lets go of a snapshot when a newer one that came from the same
// source is held.
func (d Dataset) judgeReplica(h *Hold, v zfs.Version) {
	if d.Source == "" {
		h.State, h.Reason = Orphan, "the dataset is not a replica"
		return
	}
	h.By, _, _ = strings.Cut(d.Source, ":")
	h.Owner = "replica of " + d.Source
	for _, newer := range d.newer(v) {
		for _, f := range d.Holds {
			if f.Snapshot == newer.FullName() && f.Tag == h.Tag && f.Received {
				h.State, h.Dead, h.Reason = Orphan, true, "the replica has the newer @"+newer.Name
				return
			}
		}
	}
	h.State = Live
}

// newer are the snapshots after one.
func (d Dataset) newer(v zfs.Version) []zfs.Version {
	var newer []zfs.Version
	for _, o := range d.Versions {
		if !o.Bookmark && o.CreateTXG > v.CreateTXG {
			newer = append(newer, o)
		}
	}
	return newer
}

// route is what is known of one replica of a dataset.
type route struct {
	name     string // for people
	by       string
	sent     map[uint64]bool // what cursors say may be there
	answered bool
	base     zfs.Version // the newest that both sides have; zero for none
	until    time.Time
	partial  bool
}

// routes are the replicas of a dataset: those recorded, and those that cursors
// tell of. The latter cannot be asked.
func (d Dataset) routes(k Known) []*route {
	byKey := map[string]*route{}
	for _, t := range d.Targets {
		r := &route{name: t.String(), by: t.By, until: t.Until, sent: map[uint64]bool{}}
		if a, ok := k.Answers[t.String()]; ok {
			r.answered, r.partial = true, a.Partial
			for _, v := range d.Versions {
				// A bookmark has the guid of its snapshot, which says more by its name.
				if a.GUIDs[v.GUID] && (v.CreateTXG > r.base.CreateTXG || v.GUID == r.base.GUID && !v.Bookmark) {
					r.base = v
				}
			}
		}
		byKey[strings.ToLower(replicate.TargetKey(t.Node, t.Dataset))] = r
	}
	for _, v := range d.Versions {
		key, ok := replicate.ParseCursor(v.Name)
		if !v.Bookmark || !ok {
			continue
		}
		key = strings.ToLower(key)
		if byKey[key] == nil {
			byKey[key] = &route{name: key, sent: map[uint64]bool{}}
		}
		byKey[key].sent[v.GUID] = true
	}
	routes := make([]*route, 0, len(byKey))
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		routes = append(routes, byKey[key])
	}
	return routes
}

// young is how long a hold of a transfer is kept whatever is known: one that has
// just begun has not recorded its lease yet. Times of holds are in whole minutes.
const young = 2 * time.Minute

func judgeReplication(h *Hold, v zfs.Version, routes []*route, k Known) {
	h.State = Live
	var owners, over []string
	for _, r := range routes {
		owners = append(owners, r.name)
		if r.by != "" {
			h.By = r.by
		}
	}
	h.Owner = strings.Join(owners, ", ")
	var expired time.Time
	switch {
	case k.Sending:
		h.Reason = "a transfer is under way"
		return
	case len(routes) == 0:
		h.State, h.Reason = Orphan, "no replica of the dataset is known"
		return
	}
	for _, r := range routes {
		switch {
		case !r.answered:
			h.Reason = r.name + " was not asked, or did not answer"
			return
		case r.base.GUID == 0:
			h.State, h.Reason = Orphan, r.name+" has nothing in common with the dataset"
			return
		case v.GUID == r.base.GUID:
			h.Reason = "the next increment to " + r.name + " starts here"
			return
		case v.CreateTXG > r.base.CreateTXG && k.Now.Before(h.Placed.Add(young)):
			h.Reason = "placed just now"
			return
		case v.CreateTXG > r.base.CreateTXG && k.Now.Before(r.until):
			h.Until, h.Reason = r.until, "on its way to "+r.name
			return
		case v.CreateTXG > r.base.CreateTXG && r.partial:
			h.Reason = r.name + " keeps an interrupted receive"
			return
		case v.CreateTXG > r.base.CreateTXG:
			expired = r.until
			over = append(over, "nobody sends it to "+r.name+" any more")
		default:
			over = append(over, r.name+" has the newer "+strings.TrimPrefix(r.base.FullName(), r.base.Dataset))
		}
	}
	h.Dead, h.Reason, h.State = true, strings.Join(over, "; "), Orphan
	if !expired.IsZero() {
		h.State, h.Until = Expired, expired
	}
}

func judgeLease(h *Hold, f Found, k Known) {
	switch {
	case f.Record == nil:
		h.State, h.Reason = Orphan, "nothing says who placed it"
	case h.Owner != "" && k.Over != nil && k.Over(h.Owner):
		h.State, h.Dead, h.Reason = Orphan, true, h.Owner+" is over"
	case h.Until.IsZero() || k.Now.Before(h.Until):
		h.State = Live
	default:
		h.State, h.Dead = Expired, true
		h.Reason = "its lease ended " + h.Until.UTC().Format(time.RFC3339)
	}
}

// protect keeps a dead hold that is the last of ours on a snapshot which the
// next increment may start from.
func (d Dataset) protect(judged []Hold, routes []*route) []Hold {
	bases := map[uint64]string{}
	for _, r := range routes {
		if r.answered {
			bases[r.base.GUID] = r.name
			continue
		}
		for guid := range r.sent {
			bases[guid] = r.name
		}
	}
	if d.Source != "" {
		// The newest of all is what zfs receive goes by, the newest that came
		// from the source is what both sides have.
		var newest, received zfs.Version
		for _, v := range d.Versions {
			if v.Bookmark {
				continue
			}
			newest = v
			if slices.ContainsFunc(d.Holds, func(f Found) bool { return f.Received && f.Snapshot == v.FullName() }) {
				received = v
			}
		}
		bases[newest.GUID], bases[received.GUID] = d.Name, d.Name
	}
	kept := map[string]bool{}
	for _, h := range judged {
		if p := Purpose(h.Tag); !h.Dead && (p == names.HoldReplication || p == names.HoldReplica) {
			kept[h.Snapshot] = true
		}
	}
	for i := range judged {
		h := &judged[i]
		if name, base := bases[h.GUID]; h.Dead && base && !kept[h.Snapshot] {
			h.Dead = false
			h.Reason = fmt.Sprintf("%s, but the next increment to %s may start here", h.Reason, name)
		}
	}
	return judged
}
