package zfs

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lines splits output in its lines, without empty ones.
func lines(out []byte) []string {
	var ls []string
	for l := range strings.Lines(string(out)) {
		if l = strings.TrimSuffix(l, "\n"); l != "" {
			ls = append(ls, l)
		}
	}
	return ls
}

// fields splits a line of -H output in exactly n columns; TABs beyond belong
// to the last.
func fields(line string, n int) ([]string, error) {
	f := strings.SplitN(line, "\t", n)
	if len(f) != n {
		return nil, fmt.Errorf("parse line %q: %d columns, want %d", line, len(f), n)
	}
	return f, nil
}

// number parses a -p number; "-" and "" are 0.
func number(s string) (uint64, error) {
	if s == "-" || s == "" || s == "none" {
		return 0, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// numbers parses columns in destinations.
func numbers(line string, cols []string, dst ...*uint64) error {
	for i, d := range dst {
		n, err := number(cols[i])
		if err != nil {
			return fmt.Errorf("parse line %q: %w", line, err)
		}
		*d = n
	}
	return nil
}

// value turns the "-" of an absent value in "".
func value(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func parseRelease(out []byte) (Release, error) {
	var r Release
	for _, l := range lines(out) {
		if v, ok := strings.CutPrefix(l, "zfs-kmod-"); ok {
			r.Module = v
		} else if v, ok := strings.CutPrefix(l, "zfs-"); ok {
			r.Userland = v
		}
	}
	if r.Userland == "" {
		return Release{}, fmt.Errorf("parse version %q: no zfs version in it", out)
	}
	return r, nil
}

func parsePools(out []byte) ([]PoolInfo, error) {
	var pools []PoolInfo
	for _, l := range lines(out) {
		f, err := fields(l, 4)
		if err != nil {
			return nil, err
		}
		p := PoolInfo{Name: f[0], Health: f[1]}
		if err := numbers(l, f[2:], &p.Size, &p.Free); err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// parseFeatures passes over what is no feature.
func parseFeatures(out []byte) map[string]string {
	features := map[string]string{}
	for _, l := range lines(out) {
		name, state, _ := strings.Cut(l, "\t")
		if name, ok := strings.CutPrefix(name, "feature@"); ok {
			features[name] = state
		}
	}
	return features
}

func parseCreation(out []byte) (time.Time, error) {
	sec, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("parse creation time %q: %w", out, err)
	}
	return time.Unix(sec, 0).UTC(), nil
}

func parseDatasets(out []byte) ([]Dataset, error) {
	var ds []Dataset
	for _, l := range lines(out) {
		f, err := fields(l, 13)
		if err != nil {
			return nil, err
		}
		d := Dataset{
			Name: f[0], Type: Type(f[1]), Origin: value(f[5]), Mounted: f[6] == "yes", ReadOnly: f[7] == "on",
			ReceiveResumeToken: value(f[8]), Encryption: value(f[9]), KeyStatus: value(f[10]), Mountpoint: value(f[12]),
		}
		if d.Type != Filesystem && d.Type != Volume {
			return nil, fmt.Errorf("parse line %q: type %q", l, d.Type)
		}
		if err := numbers(l, append(f[2:5:5], f[11]), &d.GUID, &d.Used, &d.Referenced, &d.VolSize); err != nil {
			return nil, err
		}
		ds = append(ds, d)
	}
	return ds, nil
}

func parseVersions(out []byte) ([]Version, error) {
	var vs []Version
	for _, l := range lines(out) {
		f, err := fields(l, 8)
		if err != nil {
			return nil, err
		}
		v, err := parseVersion(l, f)
		if err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	slices.SortStableFunc(vs, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.CreateTXG, b.CreateTXG), compareBool(a.Bookmark, b.Bookmark), cmp.Compare(a.Name, b.Name))
	})
	return vs, nil
}

// parseVersion reads the values of VersionProperties and the name.
func parseVersion(line string, f []string) (v Version, err error) {
	var created uint64
	if err := numbers(line, f, &v.CreateTXG, &v.GUID, &created, &v.Used, &v.Referenced, &v.Written, &v.UserRefs); err != nil {
		return v, err
	}
	v.Created = time.Unix(int64(created), 0).UTC()
	dataset, sep, name := SplitVersion(f[len(f)-1])
	if sep == "" || v.GUID == 0 {
		return v, fmt.Errorf("parse line %q: not a snapshot or bookmark", line)
	}
	v.Dataset, v.Name, v.Bookmark = dataset, name, sep == "#"
	return v, nil
}

// VersionOf is the snapshot that has VersionProperties.
func VersionOf(snapshot string, props map[string]Property) (Version, error) {
	var f []string
	for _, name := range VersionProperties {
		f = append(f, props[name].Value)
	}
	f = append(f, snapshot)
	return parseVersion(strings.Join(f, "\t"), f)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// match is the snapshot that one of several guids led to.
type match struct {
	name  string // "" for none
	place int    // of its guid among them
}

// parseGUIDs returns the snapshot whose guid comes first in guids.
func parseGUIDs(out []byte, guids ...uint64) (match, error) {
	places := make(map[string]int, len(guids))
	for i, guid := range slices.Backward(guids) {
		places[strconv.FormatUint(guid, 10)] = i
	}
	best := match{place: len(guids)}
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		f, err := fields(sc.Text(), 2)
		if err != nil {
			return match{}, err
		}
		if i, ok := places[f[0]]; ok && i < best.place {
			best = match{f[1], i}
		}
	}
	return best, sc.Err()
}

// parseProperties needs one line for each of props, in their order, so a line
// break in a value cannot pass for another property.
func parseProperties(out []byte, props []string) (map[string]Property, error) {
	ls := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(ls) != len(props) {
		return nil, fmt.Errorf("parse properties: %d lines for %d properties: %w", len(ls), len(props), ErrAmbiguous)
	}
	got := make(map[string]Property, len(props))
	for i, l := range ls {
		f, err := fields(l, 3)
		if err != nil {
			return nil, err
		}
		if f[0] != props[i] {
			return nil, fmt.Errorf("parse properties: %q in the place of %q: %w", f[0], props[i], ErrAmbiguous)
		}
		got[f[0]] = Property{Value: f[2], Source: Source(f[1])}
	}
	return got, nil
}

// parsePropertiesOf needs one line for each of props of each of names, so a line
// break in a value cannot pass for another property.
func parsePropertiesOf(out []byte, names, props []string) (map[string]map[string]Property, error) {
	ls := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(ls) != len(names)*len(props) {
		return nil, fmt.Errorf("parse properties: %d lines for %d properties of %d names: %w", len(ls), len(props), len(names), ErrAmbiguous)
	}
	got := make(map[string]map[string]Property, len(names))
	for _, l := range ls {
		f, err := fields(l, 4)
		if err != nil {
			return nil, err
		}
		of := got[f[0]]
		if of == nil {
			of = map[string]Property{}
			got[f[0]] = of
		}
		if _, twice := of[f[1]]; twice || !slices.Contains(names, f[0]) || !slices.Contains(props, f[1]) {
			return nil, fmt.Errorf("parse properties: %q of %q is not expected: %w", f[1], f[0], ErrAmbiguous)
		}
		of[f[1]] = Property{Value: f[3], Source: Source(f[2])}
	}
	return got, nil
}

// parseUserNames returns the properties of each name that are in UserNamespace.
// The listing of a single name has no column for it.
func parseUserNames(out []byte, names []string) (map[string][]string, error) {
	all := make(map[string][]string, len(names))
	for _, n := range names {
		all[n] = nil
	}
	for _, l := range lines(out) {
		name, prop, ok := strings.Cut(l, "\t")
		switch {
		case len(names) == 1 && !ok:
			name, prop = names[0], l
		case !ok:
			return nil, fmt.Errorf("parse line %q: no name", l)
		}
		if have, ok := all[name]; ok && strings.HasPrefix(prop, UserNamespace) && !slices.Contains(have, prop) {
			all[name] = append(have, prop)
		}
	}
	return all, nil
}

// parseTags returns what has a property and not another.
func parseTags(out []byte, prop, without string) (map[string]bool, error) {
	with, lacks := map[string]bool{}, map[string]bool{}
	for _, l := range lines(out) {
		f, err := fields(l, 2)
		if err != nil {
			return nil, err
		}
		switch f[1] {
		case prop:
			with[f[0]] = true
		case without:
			lacks[f[0]] = true
		}
	}
	maps.DeleteFunc(with, func(name string, _ bool) bool { return lacks[name] })
	return with, nil
}

// parseUnheld returns the snapshots that nothing holds and that do not wait to
// be destroyed.
func parseUnheld(out []byte) ([]string, error) {
	var unheld []string
	for _, l := range lines(out) {
		f, err := fields(l, 3)
		if err != nil {
			return nil, err
		}
		refs, err := number(f[0])
		if err != nil {
			return nil, fmt.Errorf("parse line %q: %w", l, err)
		}
		if refs == 0 && f[1] != "on" {
			unheld = append(unheld, f[2])
		}
	}
	return unheld, nil
}

// holdTime is how zfs holds prints a time in the C locale.
const holdTime = "Mon Jan _2 15:04 2006"

func parseHolds(out []byte) ([]Hold, error) {
	var hs []Hold
	for _, l := range lines(out) {
		f, err := fields(l, 3)
		if err != nil {
			return nil, err
		}
		h := Hold{Snapshot: f[0], Tag: f[1]}
		// Releases from 2.3 can print seconds since the epoch.
		if sec, err := strconv.ParseInt(f[2], 10, 64); err == nil {
			h.Created = time.Unix(sec, 0).UTC()
		} else if h.Created, err = time.ParseInLocation(holdTime, f[2], time.UTC); err != nil {
			return nil, fmt.Errorf("parse line %q: %w", l, err)
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// parseEstimate reads zfs send -nvP: a line "size\t<bytes>", after the
// contents of the token when there is one.
func parseEstimate(out []byte, token bool) (Estimate, error) {
	var e Estimate
	if token {
		e.Resume = &Resume{}
	}
	for _, l := range lines(out) {
		if s, ok := strings.CutPrefix(l, "size\t"); ok {
			n, err := number(s)
			if err != nil {
				return Estimate{}, fmt.Errorf("parse line %q: %w", l, err)
			}
			e.Bytes = n
			continue
		}
		if !token {
			continue
		}
		name, val, ok := strings.Cut(strings.TrimSpace(l), " = ")
		if !ok {
			continue
		}
		dst := map[string]*uint64{"toguid": &e.Resume.ToGUID, "fromguid": &e.Resume.FromGUID, "bytes": &e.Resume.Bytes}[name]
		flag := map[string]*bool{
			"rawok": &e.Resume.Raw, "largeblockok": &e.Resume.LargeBlock, "compressok": &e.Resume.Compressed, "embedok": &e.Resume.Embedded,
		}[name]
		switch {
		case name == "toname":
			e.Resume.ToName = val
		case flag != nil:
			*flag = true
		case dst != nil:
			n, err := strconv.ParseUint(val, 0, 64)
			if err != nil {
				return Estimate{}, fmt.Errorf("parse line %q: %w", l, err)
			}
			*dst = n
		}
	}
	if token && e.Resume.ToGUID == 0 {
		e.Resume = nil
	}
	return e, nil
}

// parseTaken reads what SnapshotProgram returns; nil when it has taken nothing.
func parseTaken(out []byte, names []string) ([]Version, error) {
	var said struct {
		Return struct {
			Err   int
			Taken map[string]struct{ GUID, CreateTXG, Creation, Referenced, Written int64 }
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return nil, fmt.Errorf("parse %q: %w", out, err)
	}
	if said.Return.Err != 0 {
		return nil, nil
	}
	vs := make([]Version, 0, len(names))
	for _, name := range names {
		t, ok := said.Return.Taken[name]
		if !ok {
			return nil, fmt.Errorf("parse %q: nothing is said of %s", out, name)
		}
		dataset, snapshot, _ := strings.Cut(name, "@")
		vs = append(vs, Version{Dataset: dataset, Name: snapshot, Created: time.Unix(t.Creation, 0).UTC(),
			// Numbers of 64 bits are printed as if they had a sign.
			GUID: uint64(t.GUID), CreateTXG: uint64(t.CreateTXG), Referenced: uint64(t.Referenced), Written: uint64(t.Written)})
	}
	return vs, nil
}
