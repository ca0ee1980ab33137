package zfstest

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func (p *Pool) takeSnapshots(args []string) *failure {
	f, failed := parse(args, "", "o")
	if failed != nil {
		return failed
	}
	local := map[string]string{}
	for _, kv := range f.props {
		if !isUser(kv[0]) {
			return fail("cannot create snapshots : invalid property '%s'", kv[0])
		}
		local[kv[0]] = kv[1]
	}
	seen := map[string]string{}
	for _, name := range f.operands {
		dataset, _, ok := strings.Cut(name, "@")
		if !ok {
			return usage(fail("invalid snapshot name '%s'", name))
		}
		if _, failed := p.open(dataset); failed != nil {
			return usage(failed)
		}
		if other, ok := seen[dataset]; poolOf(dataset) != poolOf(f.operands[0]) || ok && other != name {
			return fail("cannot create snapshots : multiple snapshots of same fs not allowed\nno snapshots were created")
		}
		seen[dataset] = name
	}
	for _, name := range f.operands {
		if p.snapshot(name) != nil {
			return fail("cannot create snapshot '%s': dataset already exists\nno snapshots were created", name)
		}
	}
	if p.pools[poolOf(f.operands[0])].free == 0 {
		return fail("cannot create snapshots : out of space")
	}
	// One transaction: all of a group have the same createtxg.
	p.txg++
	for _, name := range slices.Sorted(maps.Values(seen)) {
		dataset, rest, _ := strings.Cut(name, "@")
		d := p.datasets[dataset]
		if pt := d.partial; pt != nil {
			// The kernel loses the place a receive had stopped at.
			pt.payload = pt.payload[:len(pt.payload)/2]
		}
		d.snapshots = append(d.snapshots, &snapshot{
			ds: d, name: rest, guid: p.snapshotGUID(), iv: newGUID(), txg: p.txg, created: p.now(),
			local: maps.Clone(local), content: d.content, holds: map[string]time.Time{},
		})
	}
	return nil
}

// program does what zfs.SnapshotProgram would, the one program it knows.
func (p *Pool) program(args []string, input io.Reader, out io.Writer) (*failure, error) {
	text, err := io.ReadAll(input)
	if err != nil {
		return nil, err
	}
	f, failed := parse(args, "j", "tm")
	if failed != nil {
		return failed, nil
	}
	if string(text) != zfs.SnapshotProgram || len(f.operands) < 3 || f.operands[1] != "-" {
		return fail("Channel program execution failed:\nthe pool in memory knows one program alone"), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unprivileged {
		return fail("Permission denied the ZFS utilities must be run as root."), nil
	}
	if failed := p.suspended(f.operands[0]); failed != nil {
		return failed, nil
	}
	n, err := strconv.Atoi(f.operands[2])
	if err != nil {
		return nil, err
	}
	var take []string
	for pair := range slices.Chunk(f.operands[3:3+2*n], 2) {
		take = append(take, "-o", pair[0]+"="+pair[1])
	}
	snapshots := f.operands[3+2*n:]
	type said struct {
		Err   int                         `json:"err"`
		Taken map[string]map[string]int64 `json:"taken,omitempty"`
	}
	answer := said{Taken: map[string]map[string]int64{}}
	if failed := p.takeSnapshots(append(take, snapshots...)); failed != nil {
		answer.Err = int(syscall.EINVAL)
	} else {
		for _, name := range snapshots {
			s := p.snapshot(name)
			answer.Taken[name] = map[string]int64{}
			for _, prop := range []string{"guid", "createtxg", "creation", "referenced", "written"} {
				value, _ := p.snapshotProperty(s, prop)
				number, err := strconv.ParseUint(value, 10, 64)
				if err != nil {
					return nil, err
				}
				answer.Taken[name][prop] = int64(number)
			}
		}
	}
	return nil, json.NewEncoder(out).Encode(map[string]said{"return": answer})
}

func (p *Pool) hold(args []string) *failure {
	return p.eachHold(args, "hold", func(s *snapshot, tag string) *failure {
		if _, ok := s.holds[tag]; ok {
			return fail("cannot hold snapshot '%s': tag already exists on this dataset", s.fullName())
		}
		s.holds[tag] = p.now()
		return nil
	})
}

func (p *Pool) release(args []string) *failure {
	return p.eachHold(args, "release hold from", func(s *snapshot, tag string) *failure {
		if _, ok := s.holds[tag]; !ok {
			return fail("cannot release hold from snapshot '%s': no such tag on this dataset", s.fullName())
		}
		delete(s.holds, tag)
		p.settle(s)
		return nil
	})
}

// eachHold goes on to the next snapshot after one that fails.
func (p *Pool) eachHold(args []string, deed string, do func(s *snapshot, tag string) *failure) *failure {
	if len(args) < 2 {
		return usage(fail("missing arguments"))
	}
	var failed *failure
	for _, name := range args[1:] {
		dataset, _, _ := strings.Cut(name, "@")
		_, one := p.open(dataset)
		if s := p.snapshot(name); one == nil && s == nil {
			one = fail("cannot %s snapshot '%s': dataset does not exist", deed, name)
		} else if one == nil {
			one = do(s, args[0])
		}
		if one != nil {
			failed = failed.and(one)
		}
	}
	return failed
}

func (p *Pool) makeBookmark(args []string) *failure {
	if len(args) != 2 {
		return usage(fail("missing arguments"))
	}
	s, failed := p.openSnapshot(args[0])
	if failed != nil {
		return usage(failed)
	}
	dataset, rest, _ := strings.Cut(args[1], "#")
	if dataset != s.ds.name {
		return fail("cannot create bookmark '%s': source is not an ancestor of the new bookmark's dataset", args[1])
	}
	if s.ds.bookmark(rest) != nil {
		return fail("cannot create bookmark '%s': bookmark exists", args[1])
	}
	s.ds.bookmarks = append(s.ds.bookmarks,
		&bookmark{name: rest, guid: s.guid, iv: s.iv, txg: s.txg, created: s.created, content: s.content})
	return nil
}

// makeable checks that a dataset can be made under a name.
func (p *Pool) makeable(name string) *failure {
	if v := p.pools[poolOf(name)]; v == nil {
		return fail("cannot create '%s': no such pool '%s'", name, poolOf(name))
	} else if v.suspended {
		return fail("cannot create '%s': pool I/O is currently suspended", name)
	}
	if p.datasets[name] != nil {
		return fail("cannot create '%s': dataset already exists", name)
	}
	parent := p.datasets[parentOf(name)]
	if parent == nil {
		return fail("cannot create '%s': parent does not exist", name)
	}
	if p.pools[poolOf(name)].free == 0 {
		return fail("cannot create '%s': out of space", name)
	}
	return nil
}

// properties checks what is given to a dataset, which has that size when it is a
// volume that is there; the failure has what follows the name of the dataset.
func properties(volume bool, volsize string, given [][2]string) (map[string]string, string) {
	local := map[string]string{}
	for _, kv := range given {
		v, problem := checkProperty(volume, kv[0], kv[1])
		if problem != "" {
			return nil, problem
		}
		local[kv[0]] = v
	}
	if !volume {
		return local, ""
	}
	if v, ok := local["volsize"]; ok {
		volsize = v
	}
	size, _ := strconv.ParseUint(volsize, 10, 64)
	if slices.Contains(given, [2]string{"refreservation", "auto"}) {
		// Some is added for what describes the blocks.
		local["refreservation"] = strconv.FormatUint(size+size/32, 10)
	}
	return local, ""
}

func (p *Pool) create(args []string) *failure {
	f, failed := parse(args, "pus", "oV")
	if failed != nil {
		return failed
	}
	if len(f.operands) != 1 {
		return usage(fail("missing dataset argument"))
	}
	name := f.operands[0]
	volume := f.value["V"] != ""
	if volume {
		f.props = append(f.props, [2]string{"volsize", f.value["V"]})
		if !f.set["s"] {
			f.props = append(f.props, [2]string{"refreservation", "auto"})
		}
	}
	local, problem := properties(volume, "", f.props)
	if problem != "" {
		return fail("cannot create '%s': %s", name, problem)
	}
	if f.set["p"] && p.datasets[name] != nil {
		return nil
	}
	if f.set["p"] && p.pools[poolOf(name)] != nil {
		for up := parentOf(name); up != "" && p.datasets[up] == nil; up = parentOf(up) {
			defer p.automount(up)
			p.add(up, false)
		}
	}
	if failed := p.makeable(name); failed != nil {
		return failed
	}
	parent := p.datasets[parentOf(name)]
	cipher, own := local["encryption"]
	if parent.crypt != nil && !parent.crypt.loaded && !own {
		return fail("cannot create '%s': encryption root's key is not loaded or provided", name)
	}
	d := p.add(name, volume)
	if own && cipher != "off" {
		if cipher == "on" {
			cipher = "aes-256-gcm"
		}
		d.crypt = &crypt{cipher: cipher, loaded: true, root: d}
	}
	delete(local, "encryption")
	d.local = local
	if !f.set["u"] {
		p.automount(name)
	}
	return nil
}

// automount mounts a filesystem when its properties say so.
func (p *Pool) automount(name string) {
	d := p.datasets[name]
	if d == nil || d.volume || d.crypt != nil && !d.crypt.loaded {
		return
	}
	mountpoint, _ := p.property(d, "mountpoint")
	canmount, _ := p.property(d, "canmount")
	d.mounted = canmount == "on" && strings.HasPrefix(mountpoint, "/")
}

func (p *Pool) clone(args []string) *failure {
	f, failed := parse(args, "p", "o")
	if failed != nil {
		return failed
	}
	if len(f.operands) != 2 {
		return usage(fail("missing target dataset argument"))
	}
	s, failed := p.openSnapshot(f.operands[0])
	if failed != nil {
		return failed
	}
	name := f.operands[1]
	if failed := p.makeable(name); failed != nil {
		return failed
	}
	if poolOf(name) != poolOf(s.ds.name) {
		return fail("cannot create '%s': source and target pools differ", name)
	}
	local, problem := properties(s.ds.volume, s.ds.local["volsize"], f.props)
	if problem != "" {
		return fail("cannot create '%s': %s", name, problem)
	}
	d := p.add(name, s.ds.volume)
	d.origin, d.content, d.crypt, d.large, d.local = s, s.content, s.ds.crypt, s.ds.large, local
	if v, ok := s.ds.local["volsize"]; ok && local["volsize"] == "" {
		d.local["volsize"] = v
	}
	p.automount(name)
	return nil
}

func (p *Pool) promote(args []string) *failure {
	d, failed := p.open(args[len(args)-1])
	if failed != nil {
		return failed
	}
	if d.origin == nil {
		return fail("cannot promote '%s': not a cloned filesystem", d.name)
	}
	from, pivot := d.origin.ds, d.origin
	n := slices.Index(from.snapshots, pivot) + 1
	for _, s := range from.snapshots[:n] {
		if d.snapshot(s.name) != nil {
			return fail("cannot promote '%s': conflicting snapshot '%s' from parent '%s'", d.name, s.name, pivot.fullName())
		}
	}
	moved := slices.Clone(from.snapshots[:n])
	from.snapshots = slices.Clone(from.snapshots[n:])
	for _, s := range moved {
		s.ds = d
	}
	d.snapshots = append(moved, d.snapshots...)
	d.origin, from.origin = from.origin, pivot
	return nil
}

// unmountable tells whether a dataset is in use.
func (p *Pool) unmountable(d *dataset) *failure {
	switch {
	case d.busy && d.mounted:
		mountpoint, _ := p.property(d, "mountpoint")
		return fail("cannot unmount '%s': pool or dataset is busy", mountpoint)
	case d.busy || d.receiving:
		return fail("cannot destroy '%s': dataset is busy", d.name)
	}
	return nil
}

func (p *Pool) destroy(args []string) *failure {
	f, failed := parse(args, "rd", "")
	if failed != nil {
		return failed
	}
	if len(f.operands) != 1 {
		return usage(fail("missing dataset argument"))
	}
	name := f.operands[0]
	if dataset, rest, ok := strings.Cut(name, "@"); ok {
		return p.destroySnapshots(dataset, strings.Split(rest, ","), f.set["d"])
	}
	if dataset, rest, ok := strings.Cut(name, "#"); ok {
		d, failed := p.open(dataset)
		if failed != nil {
			return failed
		}
		if d.bookmark(rest) == nil {
			return fail("bookmark '%s' does not exist.", name)
		}
		d.bookmarks = slices.DeleteFunc(d.bookmarks, func(b *bookmark) bool { return b.name == rest })
		return nil
	}
	d, failed := p.open(name)
	if failed != nil {
		return failed
	}
	tree := p.below(name)
	if !f.set["r"] {
		if parentOf(name) == "" {
			return fail("cannot destroy '%s': operation does not apply to pools\n"+
				"use 'zfs destroy -r %s' to destroy all datasets in the pool\n"+
				"use 'zpool destroy %s' to destroy the pool itself", name, name, name)
		}
		var dependents []string
		for _, t := range tree[1:] {
			dependents = append(dependents, t.name)
		}
		for _, t := range tree {
			for _, s := range t.snapshots {
				dependents = append(dependents, s.fullName())
			}
		}
		if len(dependents) > 0 {
			return fail("cannot destroy '%s': %s has children\nuse '-r' to destroy the following datasets:\n%s",
				name, d.kind(), strings.Join(dependents, "\n"))
		}
	}
	inside := func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") }
	for _, t := range tree {
		for _, s := range t.snapshots {
			outside := slices.DeleteFunc(p.clones(s), inside)
			if len(outside) > 0 {
				return fail("cannot destroy '%s': %s has dependent clones\nuse '-R' to destroy the following datasets:\n%s",
					name, d.kind(), strings.Join(outside, "\n"))
			}
		}
	}
	for _, t := range tree {
		if failed := p.unmountable(t); failed != nil {
			return failed
		}
		for _, s := range t.snapshots {
			if len(s.holds) > 0 || s.sending > 0 {
				return fail("cannot destroy snapshot %s: dataset is busy", s.fullName())
			}
		}
	}
	for _, t := range tree {
		if t.name == poolOf(name) {
			t.snapshots, t.content = nil, content{}
			continue
		}
		delete(p.datasets, t.name)
		p.settle(t.origin)
	}
	return nil
}

func (p *Pool) destroySnapshots(dataset string, names []string, deferred bool) *failure {
	d, failed := p.open(dataset)
	if failed != nil {
		return failed
	}
	var doomed []*snapshot
	for _, n := range names {
		if s := d.snapshot(n); s != nil {
			doomed = append(doomed, s)
		}
	}
	if len(doomed) == 0 {
		return fail("could not find any snapshots to destroy; check snapshot names.")
	}
	for _, s := range doomed {
		if clones := p.clones(s); len(clones) > 0 && !deferred {
			return fail("cannot destroy '%s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\n%s",
				s.fullName(), strings.Join(clones, "\n"))
		}
	}
	for _, s := range doomed {
		if (len(s.holds) > 0 || s.sending > 0) && !deferred {
			return fail("cannot destroy snapshot %s: dataset is busy", s.fullName())
		}
	}
	for _, s := range doomed {
		s.deferred = true
		p.settle(s)
	}
	return nil
}

func (p *Pool) rename(args []string) *failure {
	f, failed := parse(args, "u", "")
	if failed != nil {
		return failed
	}
	if len(f.operands) != 2 {
		return usage(fail("missing target dataset argument"))
	}
	from, to := f.operands[0], f.operands[1]
	if strings.Contains(from, "@") {
		s, failed := p.openSnapshot(from)
		if failed != nil {
			return failed
		}
		dataset, rest, _ := strings.Cut(to, "@")
		if dataset != s.ds.name {
			return fail("cannot rename to '%s': snapshots must be part of same dataset", to)
		}
		if s.ds.snapshot(rest) != nil {
			return fail("cannot rename '%s': dataset already exists", from)
		}
		s.name = rest
		return nil
	}
	d, failed := p.open(from)
	if failed != nil {
		return failed
	}
	switch {
	case poolOf(to) != poolOf(from):
		return fail("cannot rename to '%s': datasets must be within same pool", to)
	case p.datasets[parentOf(to)] == nil:
		return fail("cannot create '%s': parent does not exist", to)
	case p.datasets[to] != nil:
		return fail("cannot rename '%s': dataset already exists", from)
	}
	for _, t := range p.below(from) {
		if failed := p.unmountable(t); failed != nil {
			return failed
		}
	}
	for _, t := range p.below(d.name) {
		delete(p.datasets, t.name)
		t.name = to + strings.TrimPrefix(t.name, from)
		p.datasets[t.name] = t
	}
	return nil
}

func (p *Pool) set(args []string) *failure {
	var pairs [][2]string
	for len(args) > 1 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			return usage(fail("missing property=value argument"))
		}
		pairs = append(pairs, [2]string{name, value})
		args = args[1:]
	}
	if len(args) == 0 || len(pairs) == 0 {
		return usage(fail("missing arguments"))
	}
	name := args[0]
	if strings.Contains(name, "#") {
		return fail("cannot open '%s': bookmark delimiter '#' is not expected here", name)
	}
	if strings.Contains(name, "@") {
		s, failed := p.openSnapshot(name)
		if failed != nil {
			return failed
		}
		for _, kv := range pairs {
			if !isUser(kv[0]) {
				return fail("cannot set property for '%s': this property can not be modified for snapshots", name)
			}
		}
		for _, kv := range pairs {
			s.local[kv[0]] = kv[1]
		}
		return nil
	}
	d, failed := p.open(name)
	if failed != nil {
		return failed
	}
	local, problem := properties(d.volume, d.local["volsize"], pairs)
	if problem != "" {
		return fail("cannot set property for '%s': %s", name, problem)
	}
	for _, prop := range []string{"refreservation", "reservation"} {
		if n, _ := strconv.ParseUint(local[prop], 10, 64); n > p.used(d)+p.pools[poolOf(name)].free {
			return fail("cannot set property for '%s': size is greater than available space", name)
		}
	}
	maps.Copy(d.local, local)
	if v, ok := local["mountpoint"]; ok {
		if strings.HasPrefix(v, "/") {
			p.automount(name)
		} else {
			d.mounted = false
		}
	}
	return nil
}

func (p *Pool) inherit(args []string) *failure {
	if len(args) != 2 {
		return usage(fail("missing arguments"))
	}
	prop, name := args[0], args[1]
	if strings.Contains(name, "@") {
		s, failed := p.openSnapshot(name)
		if failed != nil {
			return failed
		}
		delete(s.local, prop)
		return nil
	}
	d, failed := p.open(name)
	if failed != nil {
		return failed
	}
	delete(d.local, prop)
	return nil
}

func (p *Pool) loadKey(args []string) *failure {
	f, failed := parse(args, "", "L")
	if failed != nil {
		return failed
	}
	d, failed := p.open(f.operands[0])
	if failed != nil {
		return failed
	}
	d.crypt.loaded = true
	return nil
}

func (p *Pool) mount(args []string) *failure {
	d, failed := p.open(args[len(args)-1])
	if failed != nil {
		return failed
	}
	mountpoint, _ := p.property(d, "mountpoint")
	switch {
	case d.volume:
		return fail("cannot open '%s': operation not applicable to datasets of this type", d.name)
	case d.mounted:
		return fail("cannot mount '%s': filesystem already mounted", d.name)
	case mountpoint == "none":
		return fail("cannot mount '%s': no mountpoint set", d.name)
	case mountpoint == "legacy":
		return fail("cannot mount '%s': legacy mountpoint\nuse mount(8) to mount this filesystem", d.name)
	case d.crypt != nil && !d.crypt.loaded:
		return fail("cannot mount '%s': encryption key not loaded", d.name)
	}
	d.mounted = true
	return nil
}

func (p *Pool) unmount(args []string) *failure {
	d, failed := p.open(args[len(args)-1])
	if failed != nil {
		return failed
	}
	if !d.mounted {
		return fail("cannot unmount '%s': not currently mounted", d.name)
	}
	if d.busy {
		mountpoint, _ := p.property(d, "mountpoint")
		return fail("cannot unmount '%s': pool or dataset is busy", mountpoint)
	}
	d.mounted = false
	return nil
}
