// Package zfstest provides an in-memory ZFS host for tests, and the suite that
// holds it and real OpenZFS to the same behaviour.
//
// [Pool] is a [zfs.Runner]: it reads the argument lists that zfs.Client builds
// and answers with the output and the messages of OpenZFS 2.1, so what a test
// exercises includes parsing and classification. [Conformance] runs on it and,
// where there is one, on a real pool.
package zfstest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Pool is a ZFS host with one or more pools, in memory. All its methods may be
// called at once.
type Pool struct {
	mu       sync.Mutex
	pools    map[string]*pool
	datasets map[string]*dataset
	txg      uint64
	now      func() time.Time
	before   func(args []string) error
	cuts     map[string]int64
	commands [][]string
	nextGUID uint64 // of the next snapshot, 0 for a random one
	userland string
	module   string
	// shared are the pools on disks that the host reaches, imported here or not, and
	// unseen the disks of them that it does not see.
	shared map[string]*shared
	unseen map[string]string
	host   string
	hostID uint32
	dead   bool
	// unprivileged hosts run no programs.
	unprivileged bool
}

type pool struct {
	size      uint64 // 0 for what is free and used
	health    string
	features  map[string]string // that differ from "enabled"
	free      uint64
	suspended bool
	hanging   bool
}

// content is what a dataset holds: files of a filesystem, or of a volume
// whatever a test cares to name. The byte slices are never changed.
type content map[string][]byte

type dataset struct {
	name      string
	volume    bool
	guid      uint64
	createTXG uint64
	created   time.Time
	dirtyTXG  uint64 // of the last change of content
	local     map[string]string
	received  map[string]string
	origin    *snapshot
	crypt     *crypt
	large     bool // has blocks above 128 KiB
	content   content
	snapshots []*snapshot
	bookmarks []*bookmark
	mounted   bool
	busy      bool
	receiving bool
	partial   *partial
}

// crypt is an encryption root: shared by what lies below and by clones.
type crypt struct {
	cipher string
	loaded bool
	root   *dataset
}

type snapshot struct {
	ds       *dataset
	name     string
	guid     uint64
	iv       uint64 // of the encryption; a raw stream keeps it, another does not
	txg      uint64
	created  time.Time
	local    map[string]string
	content  content
	holds    map[string]time.Time
	sending  int
	deferred bool
}

func (s *snapshot) fullName() string { return s.ds.name + "@" + s.name }

// bookmark remembers the content as of its snapshot, where ZFS remembers the
// transaction: enough to tell what changed since.
type bookmark struct {
	name    string
	guid    uint64
	iv      uint64
	txg     uint64
	created time.Time
	content content
}

// partial is the state of a receive that runs or was interrupted.
type partial struct {
	header  header
	payload []byte
	fresh   bool // the receive made the dataset
	began   time.Time
}

// overhead is what an empty dataset takes.
const overhead = 24576

func (c content) size() uint64 {
	n := uint64(overhead)
	for _, b := range c {
		n += uint64(len(b))
	}
	return n
}

// NewPool returns a host with the named pools, "tank" when none is named.
func NewPool(names ...string) *Pool {
	if len(names) == 0 {
		names = []string{"tank"}
	}
	p := &Pool{
		pools: map[string]*pool{}, datasets: map[string]*dataset{}, txg: 3,
		now: time.Now, cuts: map[string]int64{}, shared: map[string]*shared{}, unseen: map[string]string{}, host: "localhost", userland: "2.1.11-1+deb12u1", module: "2.1.11-1+deb12u1",
	}
	for _, n := range names {
		p.Add(n)
	}
	return p
}

// Add adds an empty pool.
func (p *Pool) Add(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[name] = &pool{free: 1 << 40}
	p.add(name, false)
}

// add makes an empty dataset.
func (p *Pool) add(name string, volume bool) *dataset {
	p.txg++
	d := &dataset{
		name: name, volume: volume, guid: newGUID(), createTXG: p.txg, created: p.now(), dirtyTXG: p.txg,
		local: map[string]string{}, received: map[string]string{}, content: content{},
	}
	if parent := p.datasets[parentOf(name)]; parent != nil {
		d.crypt = parent.crypt
	}
	p.datasets[name] = d
	return d
}

// newGUID is random: hosts of one test must not give the same guid twice.
func newGUID() uint64 { return rand.Uint64() | 1 }

// Write puts data under a name in a dataset.
func (p *Pool) Write(dataset, name string, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[dataset]
	if d == nil {
		return fmt.Errorf("write %s: no dataset %s", name, dataset)
	}
	if v, _ := p.property(d, "readonly"); v == "on" {
		return fmt.Errorf("write %s: dataset %s is read-only", name, dataset)
	}
	p.txg++
	record, _ := p.property(d, "recordsize")
	if size, err := strconv.Atoi(record); err == nil && min(size, len(data)) > 128<<10 {
		d.large = true
	}
	d.content = maps.Clone(d.content)
	d.content[name] = bytes.Clone(data)
	d.dirtyTXG = p.txg
	return nil
}

// Read returns what is under a name in a dataset, or in a snapshot named in
// full.
func (p *Pool) Read(name, file string) ([]byte, error) {
	files, err := p.Files(name)
	if err != nil {
		return nil, err
	}
	data, ok := files[file]
	if !ok {
		return nil, fmt.Errorf("read %s: %s has no such file", file, name)
	}
	return data, nil
}

// Files returns all that is in a dataset, or in a snapshot named in full.
func (p *Pool) Files(name string) (map[string][]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Contains(name, "@") {
		s := p.snapshot(name)
		if s == nil {
			return nil, fmt.Errorf("no snapshot %s", name)
		}
		return maps.Clone(s.content), nil
	}
	d := p.datasets[name]
	if d == nil {
		return nil, fmt.Errorf("no dataset %s", name)
	}
	return maps.Clone(d.content), nil
}

// Names lists every dataset, snapshot and bookmark, sorted.
func (p *Pool) Names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for n, d := range p.datasets {
		names = append(names, n)
		for _, s := range d.snapshots {
			names = append(names, s.fullName())
		}
		for _, b := range d.bookmarks {
			names = append(names, n+"#"+b.name)
		}
	}
	slices.Sort(names)
	return names
}

// SetFree sets how many bytes a pool can still take; with 0 it is full.
func (p *Pool) SetFree(pool string, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[pool].free = bytes
}

// SetSize sets a pool's size; free space is what SetFree says.
func (p *Pool) SetSize(pool string, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[pool].size = bytes
}

// SetHealth sets what a pool's health reads.
func (p *Pool) SetHealth(pool, health string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[pool].health = health
}

// SetFeature sets the state of a pool's feature: "disabled", "active", or "" for
// one that the software does not know. All are enabled otherwise.
func (p *Pool) SetFeature(pool, feature, state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pools[pool].features == nil {
		p.pools[pool].features = map[string]string{}
	}
	p.pools[pool].features[feature] = state
}

// SetRelease sets the versions of the tools and of the kernel module.
func (p *Pool) SetRelease(userland, module string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.userland, p.module = userland, module
}

// SetUnprivileged makes the host one on which we are not root: it runs no programs.
func (p *Pool) SetUnprivileged(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unprivileged = on
}

// SetMounted mounts or unmounts a filesystem, as other tools may.
func (p *Pool) SetMounted(dataset string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].mounted = on
}

// SetSuspended makes every command on the pool fail as on a suspended one.
func (p *Pool) SetSuspended(pool string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[pool].suspended = on
}

// SetHanging makes every command on the pool block until its context ends.
func (p *Pool) SetHanging(pool string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[pool].hanging = on
}

// SetBusy makes a dataset one that is in use and cannot be unmounted,
// destroyed or renamed.
func (p *Pool) SetBusy(dataset string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].busy = on
}

// SetKeyLoaded loads or unloads the key of an encrypted dataset.
func (p *Pool) SetKeyLoaded(dataset string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].crypt.loaded = on
}

// SetKeyRoot makes another dataset the encryption root of one, as zfs change-key
// -i does.
func (p *Pool) SetKeyRoot(dataset, root string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].crypt.root = p.datasets[root]
}

// SetReceived gives a property a received value, as a stream with properties
// would.
func (p *Pool) SetReceived(dataset, prop, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].received[prop] = value
}

// SetRaw sets a local property without any check, for values that other tools
// may leave behind.
func (p *Pool) SetRaw(dataset, prop, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datasets[dataset].local[prop] = value
}

// SetClock sets the clock that creation times come from.
func (p *Pool) SetClock(now func() time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = now
}

// SetGUID sets the guid that the next snapshot gets, where output is compared.
func (p *Pool) SetGUID(guid uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextGUID = guid
}

// snapshotGUID is the guid of a new snapshot.
func (p *Pool) snapshotGUID() uint64 {
	guid := p.nextGUID
	p.nextGUID = 0
	if guid == 0 {
		guid = newGUID()
	}
	return guid
}

// Before is called ahead of every command, without a lock held. An error of it
// is what Run returns, and the command does not happen.
func (p *Pool) Before(f func(args []string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = f
}

// Cut kills the next "send" or "receive" after that many bytes of stream.
func (p *Pool) Cut(verb string, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts[verb] = bytes
}

// Commands returns the argument lists of all commands so far.
func (p *Pool) Commands() [][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.commands)
}

// snapshot finds a snapshot by its full name.
func (p *Pool) snapshot(name string) *snapshot {
	dataset, rest, _ := strings.Cut(name, "@")
	if d := p.datasets[dataset]; d != nil {
		return d.snapshot(rest)
	}
	return nil
}

func (d *dataset) snapshot(name string) *snapshot {
	for _, s := range d.snapshots {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (d *dataset) byGUID(guid uint64) *snapshot {
	for _, s := range d.snapshots {
		if s.guid == guid {
			return s
		}
	}
	return nil
}

func (d *dataset) bookmark(name string) *bookmark {
	for _, b := range d.bookmarks {
		if b.name == name {
			return b
		}
	}
	return nil
}

func (d *dataset) kind() string {
	if d.volume {
		return "volume"
	}
	return "filesystem"
}

// below lists the datasets at and below root, by name.
func (p *Pool) below(root string) []*dataset {
	var ds []*dataset
	for n, d := range p.datasets {
		if n == root || strings.HasPrefix(n, root+"/") {
			ds = append(ds, d)
		}
	}
	slices.SortFunc(ds, func(a, b *dataset) int { return compareNames(a.name, b.name) })
	return ds
}

// compareNames puts a dataset before what is below it, and that before the
// next of its own level.
func compareNames(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// clones lists the names of what depends on a snapshot.
func (p *Pool) clones(s *snapshot) []string {
	var names []string
	for n, d := range p.datasets {
		if d.origin == s {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if pt := s.ds.partial; pt != nil && !pt.fresh && pt.header.From == s.guid {
		names = append(names, s.ds.name+"/%recv")
	}
	return names
}

// remove drops a snapshot.
func (d *dataset) remove(s *snapshot) {
	d.snapshots = slices.DeleteFunc(d.snapshots, func(o *snapshot) bool { return o == s })
}

// settle destroys a deferred snapshot once nothing keeps it.
func (p *Pool) settle(s *snapshot) {
	if s != nil && s.deferred && len(s.holds) == 0 && len(p.clones(s)) == 0 {
		s.ds.remove(s)
	}
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

func poolOf(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}
