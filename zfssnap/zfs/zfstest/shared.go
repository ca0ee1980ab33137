package zfstest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// shared is a pool on disks that several hosts reach.
type shared struct {
	name      string
	guid      uint64
	pool      *pool
	datasets  map[string]*dataset
	holder    *Pool // has it imported, or had it when it died
	exported  bool
	host      string // that had it last
	hostID    uint32
	multihost bool
	cached    bool
	imported  time.Time
}

// Share makes one host's pool, with all that is in it, one that other hosts reach as
// well. Its multihost is on.
func (p *Pool) Share(name string, with ...*Pool) {
	p.mu.Lock()
	s := &shared{name: name, guid: newGUID(), pool: p.pools[name], holder: p, host: p.host, hostID: p.hostID, multihost: true, imported: p.now()}
	p.shared[name] = s
	p.mu.Unlock()
	for _, q := range with {
		q.mu.Lock()
		q.shared[name] = s
		q.mu.Unlock()
	}
}

// SetHost gives the host a name and a hostid, by which pools know it; 0 is none.
func (p *Pool) SetHost(name string, id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.host, p.hostID = name, id
}

// SetMultihost sets the multihost property of a shared pool.
func (p *Pool) SetMultihost(pool string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared[pool].multihost = on
}

// SetUnseen hides a disk of a shared pool from the host; "" shows all.
func (p *Pool) SetUnseen(pool, device string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unseen[pool] = device
}

// Die ends the host: it writes to no pool any more, and runs nothing.
func (p *Pool) Die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

// leave takes a pool and its datasets out of a host.
func (s *shared) leave(p *Pool) {
	s.datasets = map[string]*dataset{}
	for name, d := range p.datasets {
		if poolOf(name) == s.name {
			s.datasets[name] = d
		}
	}
	maps.DeleteFunc(p.datasets, func(name string, _ *dataset) bool { return poolOf(name) == s.name })
	delete(p.pools, s.name)
	s.holder = nil
}

// active reports whether another host has it imported, and lives.
func (s *shared) active(p *Pool) bool { return s.holder != nil && s.holder != p && !s.holder.isDead() }

func (p *Pool) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// importable returns the shared pools that are not imported here, by name.
func (p *Pool) importable() []*shared {
	var all []*shared
	for _, name := range slices.Sorted(maps.Keys(p.shared)) {
		if p.pools[name] == nil {
			all = append(all, p.shared[name])
		}
	}
	return all
}

func (p *Pool) zpoolImport(args []string, out io.Writer) *failure {
	f, failed := parse(args, "Nf", "od")
	if failed != nil {
		return failed
	}
	if len(f.operands) == 0 {
		for _, s := range p.importable() {
			p.describeImportable(s, out)
		}
		return nil
	}
	name := f.operands[0]
	s := p.shared[name]
	switch {
	case s == nil:
		return fail("cannot import '%s': no such pool available", name)
	case p.pools[name] != nil:
		return fail("cannot import '%s': a pool with that name already exists\nuse the form 'zpool import <pool | id> <newpool>' to give it a new name", name)
	case s.multihost && p.hostID == 0:
		return fail("Cannot import '%s': pool has the multihost property on and the\nsystem's hostid is not set. Set a unique hostid with the zgenhostid(8) command.", name)
	// Only a hostid tells hosts apart, and only multihost that one is alive.
	case s.multihost && s.active(p) && s.hostID != p.hostID:
		return fail("cannot import '%s': pool is imported on %s (hostid: 0x%x)\nExport the pool on the other system, then run 'zpool import'.", name, s.host, s.hostID)
	case !s.exported && s.hostID != p.hostID && !f.set["f"]:
		return fail("cannot import '%s': pool was previously in use from another system.\nLast accessed by %s (hostid=%x) at %s\nThe pool can be imported, use 'zpool import -f' to import the pool.",
			name, s.host, s.hostID, s.imported.Format(time.ANSIC))
	}
	if from := s.holder; from != nil {
		from.mu.Lock()
		s.leave(from)
		from.mu.Unlock()
	}
	p.pools[name] = s.pool
	maps.Copy(p.datasets, s.datasets)
	for _, d := range s.datasets {
		d.mounted = false
	}
	s.holder, s.exported, s.host, s.hostID, s.imported = p, false, p.host, p.hostID, p.now()
	s.cached = !slices.Contains(f.props, [2]string{"cachefile", "none"})
	return nil
}

func (p *Pool) describeImportable(s *shared, out io.Writer) {
	state, status, action, note := "ONLINE", "", "The pool can be imported using its name or numeric identifier.", ""
	disks := [2]string{"ONLINE", "ONLINE"}
	if p.unseen[s.name] != "" {
		state, status, disks[1] = "DEGRADED", "One or more devices are missing from the system.", "UNAVAIL  cannot open"
		action = "The pool can be imported despite missing or damaged devices.  The\n\tfault tolerance of the pool may be compromised if imported."
	}
	switch {
	case s.multihost && p.hostID == 0:
		state, status = "UNAVAIL", "The pool has the multihost property on.  It cannot\n\tbe safely imported when the system hostid is not set."
		action = "Set a unique system hostid with the zgenhostid(8) command."
	case s.multihost && s.active(p) && s.hostID != p.hostID:
		state, status, note = "UNAVAIL", "The pool is currently imported by another system.", "  currently in use"
		action = fmt.Sprintf("The pool must be exported from %s (hostid=%x)\n\tbefore it can be safely imported.", s.host, s.hostID)
	case !s.exported && s.hostID != p.hostID:
		status, action = "The pool was last accessed by another system.", strings.TrimSuffix(action, ".")+" and\n\tthe '-f' flag."
	}
	if status != "" {
		status = "status: " + status + "\n"
	}
	fmt.Fprintf(out, "   pool: %s\n     id: %d\n  state: %s\n%s action: %s\n config:\n\n\t%s  %s%s\n\t  mirror-0  %s\n\t    site-a  %s\n\t    site-b  %s\n",
		s.name, s.guid, state, status, action, s.name, state, note, "ONLINE", disks[0], disks[1])
}

func (p *Pool) zpoolExport(args []string) *failure {
	f, failed := parse(args, "f", "")
	if failed != nil {
		return failed
	}
	name := f.operands[0]
	if p.pools[name] == nil {
		return fail("cannot open '%s': no such pool", name)
	}
	for _, d := range p.datasets {
		if poolOf(d.name) == name && d.busy {
			return fail("cannot unmount '/mnt/%s': pool or dataset is busy", d.name)
		}
	}
	s := p.shared[name]
	if s == nil {
		s = &shared{name: name, guid: newGUID(), pool: p.pools[name], host: p.host, hostID: p.hostID}
		p.shared[name] = s
	}
	s.leave(p)
	s.exported = true
	return nil
}

func (p *Pool) zdb(args []string, out io.Writer) *failure {
	f, failed := parse(args, "eCu", "p")
	if failed != nil {
		return failed
	}
	name := f.operands[0]
	s := p.shared[name]
	if s == nil {
		return fail("zdb: can't open '%s': No such file or directory", name)
	}
	state, delay := 0, 0
	if s.exported {
		state = 1
	}
	if s.multihost {
		delay = 1e9
	}
	fmt.Fprintf(out, "\nMOS Configuration:\n        version: 5000\n        name: '%s'\n        state: %d\n        pool_guid: %d\n        hostid: %d\n        hostname: '%s'\n"+
		"        vdev_tree:\n            type: 'root'\n            guid: %d\n\nUberblock:\n\tmagic = 0000000000bab10c\n\tmmp_magic = 00000000a11cea11\n\tmmp_delay = %d\n",
		name, state, s.guid, s.hostID, s.host, s.guid, delay)
	return nil
}

// zpoolState is what zpool get says of a pool.
func (p *Pool) zpoolState(name string, out io.Writer) *failure {
	v := p.pools[name]
	if v == nil {
		return fail("cannot open '%s': no such pool", name)
	}
	s := p.shared[name]
	if s == nil {
		s = &shared{cached: true}
	}
	onOff, cachefile, health := "off", "none", v.health
	if s.multihost {
		onOff = "on"
	}
	if s.cached {
		cachefile = "-"
	}
	if health == "" {
		health = "ONLINE"
	}
	fmt.Fprintf(out, "guid\t%d\nhealth\t%s\nmultihost\t%s\ncachefile\t%s\n", s.guid, health, onOff, cachefile)
	return nil
}
