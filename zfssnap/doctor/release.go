package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// oldest release that the agent works with.
const oldest = "2.1.0"

// Defect is a known defect of OpenZFS.
type Defect struct {
	ID       string // of the issue
	Title    string
	Severity State
	Affected []Range
	// Patched are versions of distributions that have the fix all the same.
	Patched []string
	// Needs is a pool feature without which it does not show.
	Needs string
	// Avoided says how this project keeps clear of it; then it is only told.
	Avoided string
	Advice  string
	Link    string
}

// Range is releases from one up to, and without, another. Empty ends are open.
type Range struct{ From, Before string }

const issues = "https://github.com/openzfs/zfs/issues/"

// Defects is what is known. A release line without a fixed release is affected
// to its end.
var Defects = []Defect{
	{
		ID: "4809", Title: "increments lose holes, and receiving streams with and without -L loses data",
		Severity: Problem, Affected: []Range{{Before: "2.0.0"}},
		Advice: "upgrade OpenZFS", Link: issues + "4809",
	},
	{
		ID: "15526", Title: "files copied while they are written get chunks of zeros, and snapshots keep them",
		Severity: Problem, Affected: []Range{{Before: "2.1.14"}, {From: "2.2.0", Before: "2.2.2"}},
		Patched: []string{"2.1.11-1+deb12u1"},
		Advice:  "upgrade to 2.1.14, 2.2.2 or newer; until then set the module's parameter zfs_dmu_offset_next_sync=0", Link: issues + "15526",
	},
	{
		ID: "18412", Title: "a block cloned over a fresh truncation reads as zeros, and what is copied from it is wrong",
		Severity: Problem, Affected: []Range{{From: "2.2.0", Before: "2.3.8"}, {From: "2.4.0", Before: "2.4.4"}}, Needs: "block_cloning",
		Advice: "upgrade to 2.3.8, 2.4.4 or newer; until then set the module's parameter zfs_bclone_enabled=0", Link: issues + "18412",
	},
	{
		ID: "18773", Title: "an increment that is not raw may free live data of files with large dnodes",
		Severity: Warning, Affected: []Range{{}}, Needs: "large_dnode",
		Advice: "set dnodesize=legacy on datasets that are replicated: no release has the fix yet", Link: issues + "18773",
	},
	{
		ID: "12123", Title: "zfs change-key -i on a raw replica makes it unmountable with the next increment",
		Severity: Warning, Affected: []Range{{}}, Needs: "encryption",
		Advice: "never change keys on a replica; after a drill of encrypted volumes look whether the clone mounts", Link: issues + "12123",
	},
	{
		ID: "12594", Title: "sending an encrypted dataset raw back to where it came from may damage it",
		Severity: Warning, Affected: []Range{{}}, Needs: "encryption",
		Advice: "after a failover of encrypted volumes send back to a new dataset, never onto the old one", Link: issues + "12594",
	},
	{
		ID: "12014", Title: "sending an encrypted dataset that is not raw, while snapshots are taken, damages snapshots",
		Severity: Problem, Affected: []Range{{From: "2.0.0", Before: "2.2.8"}, {From: "2.3.0", Before: "2.3.3"}}, Needs: "encryption",
		Avoided: "encrypted datasets are sent raw", Link: issues + "12014",
	},
	{
		ID: "8758", Title: "raw and other increments in one chain end in an IV set guid mismatch",
		Severity: Warning, Affected: []Range{{}}, Needs: "encryption",
		Avoided: "encrypted datasets are always sent raw", Link: issues + "8758",
	},
	{
		ID: "10787", Title: "zfs send -w -h of an encrypted dataset ends the receiver with an abort",
		Severity: Warning, Affected: []Range{{}}, Needs: "encryption",
		Avoided: "holds are not sent", Link: issues + "10787",
	},
	{
		ID: "18193", Title: "the permission send:raw does not suffice for increments with all snapshots between",
		Severity: Warning, Affected: []Range{{From: "2.4.0", Before: "2.4.1"}},
		Avoided: "increments are sent without those between", Link: issues + "18193",
	},
	{
		ID: "18073", Title: "looking into .zfs/snapshot of a dataset while it receives may deadlock",
		Severity: Warning, Affected: []Range{{Before: "2.4.4"}},
		Avoided: "replicas are not mounted", Link: issues + "18073",
	},
}

var numbers = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`)

// release is the numbers of a version.
type release [3]int

func parseRelease(version string) (r release, ok bool) {
	m := numbers.FindStringSubmatch(version)
	if m == nil {
		return release{}, false
	}
	for i := range r {
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return release{}, false
		}
		r[i] = n
	}
	return r, true
}

func (r release) before(o release) bool { return slices.Compare(r[:], o[:]) < 0 }

func (r release) String() string { return fmt.Sprintf("%d.%d.%d", r[0], r[1], r[2]) }

func must(version string) release {
	r, ok := parseRelease(version)
	if !ok {
		panic("not a release: " + version)
	}
	return r
}

func (g Range) contains(r release) bool {
	return (g.From == "" || !r.before(must(g.From))) && (g.Before == "" || r.before(must(g.Before)))
}

// affects reports whether a version has the defect.
func (d Defect) affects(version string, r release) bool {
	return !slices.Contains(d.Patched, version) && slices.ContainsFunc(d.Affected, func(g Range) bool { return g.contains(r) })
}

func (e *examination) lookAtRelease(ctx context.Context) {
	var found zfs.Release
	if !e.call(ctx, "", "release", func(ctx context.Context) (err error) {
		found, err = e.ZFS.Version(ctx)
		return err
	}) {
		return
	}
	version := found.Module
	if version == "" {
		version = found.Userland
	}
	r, ok := parseRelease(version)
	tools, toolsOK := parseRelease(found.Userland)
	switch {
	case !ok:
		e.warn("release", fmt.Sprintf("%q is not a version that could be compared with what is known", version), "run a release of OpenZFS: which defects another build has cannot be told")
		return
	case r.before(must(oldest)):
		e.problem("release", fmt.Sprintf("OpenZFS %s is older than %s", version, oldest), "upgrade OpenZFS: resuming and estimating transfers were not tested with it")
	case toolsOK && tools != r:
		e.warn("release", fmt.Sprintf("the tools are of %s, the kernel module is of %s", found.Userland, version), "load the module that fits, usually by a reboot")
	default:
		e.ok("release", "OpenZFS "+version)
	}
	e.lookForDefects(version, r)
	e.lookAtDelegation(r)
}

func (e *examination) lookForDefects(version string, r release) {
	var avoided []string
	clear := true
	for _, d := range Defects {
		if !d.affects(version, r) || d.Needs != "" && !e.active(d.Needs) {
			continue
		}
		if d.Avoided != "" {
			avoided = append(avoided, fmt.Sprintf("#%s (%s)", d.ID, d.Avoided))
			continue
		}
		clear = false
		e.add(d.Severity, "defect #"+d.ID, fmt.Sprintf("%s: %s", d.Title, d.Link), d.Advice)
	}
	message := ""
	if len(avoided) > 0 {
		message = "kept clear of " + strings.Join(avoided, ", ")
	}
	if clear || message != "" {
		e.ok("known defects", message)
	}
}

// active reports whether a feature is in use on a pool.
func (e *examination) active(feature string) bool {
	for _, features := range e.features {
		if features[feature] == "active" {
			return true
		}
	}
	return false
}

// Permission is one that a release may lack. Since is where it is known to be.
type Permission struct {
	Name  string
	Since []Range
	Does  string
}

// Permissions that zfs allow has learnt since.
var Permissions = []Permission{
	{Name: "receive:append", Since: []Range{{From: "2.3.9"}}, Does: "lets a receiver append and never roll back"},
	{Name: "send:raw", Since: []Range{{From: "2.4.0"}}, Does: "lets a sender send encrypted datasets without reading them"},
}

// lookAtDelegation says which permissions can't be delegated. Root needs none.
func (e *examination) lookAtDelegation(r release) {
	if !e.Delegated {
		return
	}
	for _, p := range Permissions {
		if slices.ContainsFunc(p.Since, func(g Range) bool { return g.contains(r) }) {
			e.ok("permission "+p.Name, "")
			continue
		}
		e.warn("permission "+p.Name, fmt.Sprintf("OpenZFS %s is not known to have it; it %s", r, p.Does),
			"upgrade OpenZFS, or rely on the agent's own policy for it: see docs/security.md")
	}
}
