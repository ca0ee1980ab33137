package zfs

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// PoolState is what a pool that is imported here says of itself.
type PoolState struct {
	GUID   uint64
	Health string // ONLINE, DEGRADED, SUSPENDED, ...
	// Multihost: it is written to all the time, by which other hosts see that it is
	// in use.
	Multihost bool
	// Cached: this host imports it by itself when it starts.
	Cached bool
}

// Importable is a pool on this host's devices that is not imported here.
type Importable struct {
	Name   string
	GUID   uint64
	Health string // as it would be; UNAVAIL for one that cannot be imported
	// Active: another host has it imported now, and writes to it. Host is that one,
	// and HostID its hostid.
	Active bool
	Host   string
	HostID uint64
	// NoHostID: its multihost is on, and this host has no hostid.
	NoHostID bool
	// Unseen are its devices that this host does not see, or not whole. Those that
	// were taken offline on purpose are none of them.
	Unseen []string
}

// PoolLabel is what the disks of a pool that is not imported here say of it.
type PoolLabel struct {
	GUID uint64
	// Exported: whoever had it gave it up.
	Exported bool
	// Host had it last, and HostID is its hostid.
	Host   string
	HostID uint64
	// Multihost: whoever had it last showed that it was in use; see PoolState.
	Multihost bool
}

func poolArgs(pool string, args ...string) ([]string, error) {
	if strings.Contains(pool, "/") {
		return nil, fmt.Errorf("pool %q: %w: has a slash", pool, ErrInvalidName)
	}
	return append(args, pool), ValidateDataset(pool)
}

// devices has a command look for pools in a directory.
func (c *Client) devices(flag string, args ...string) []string {
	if c.Devices == "" {
		return args
	}
	return append(args, flag, c.Devices)
}

// PoolState returns the state of a pool that is imported. ErrNotFound when it is not.
func (c *Client) PoolState(ctx context.Context, pool string) (PoolState, error) {
	args, err := poolArgs(pool, "zpool", "get", "-Hp", "-o", "property,value", "guid,health,multihost,cachefile")
	if err != nil {
		return PoolState{}, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return PoolState{}, err
	}
	return parsePool(out)
}

func parsePool(out []byte) (PoolState, error) {
	var s PoolState
	for _, l := range lines(out) {
		name, value, _ := strings.Cut(l, "\t")
		switch name {
		case "guid":
			if err := numbers(l, []string{value}, &s.GUID); err != nil {
				return s, err
			}
		case "health":
			s.Health = value
		case "multihost":
			s.Multihost = value == "on"
		case "cachefile":
			s.Cached = value != "none"
		}
	}
	return s, nil
}

// Importable lists the pools that are not imported here. Of one that may be in use
// elsewhere it takes as long as seeing that takes: half a minute by default.
func (c *Client) Importable(ctx context.Context) ([]Importable, error) {
	out, err := c.run(ctx, c.devices("-d", "zpool", "import"))
	if err != nil {
		return nil, err
	}
	return parseImportable(out)
}

var (
	activeOn = regexp.MustCompile(`^The pool must be exported from (\S+) \(hostid=([0-9a-f]+)\)`)
	// aDevice is a line of the tree of devices, whose first column is indented.
	aDevice = regexp.MustCompile(`^\t( +)(\S+)\s+(\S+)`)
)

// parseImportable reads what is meant for people: there is no other form.
func parseImportable(out []byte) ([]Importable, error) {
	var all []Importable
	var p *Importable
	for _, l := range lines(out) {
		field, value, _ := strings.Cut(strings.TrimSpace(l), ": ")
		switch {
		case strings.HasPrefix(l, "   pool: "):
			all = append(all, Importable{Name: value})
			p = &all[len(all)-1]
		case p == nil:
		case strings.HasPrefix(l, "     id: "):
			if err := numbers(l, []string{value}, &p.GUID); err != nil {
				return nil, err
			}
		case strings.HasPrefix(l, "  state: "):
			p.Health = value
		case field == "status" && strings.HasPrefix(value, "The pool is currently imported by another system"):
			p.Active = true
		case field == "status" && strings.HasPrefix(value, "The pool has the multihost property on"):
			p.NoHostID = true
		case field == "action":
			if m := activeOn.FindStringSubmatch(value); m != nil {
				p.Host = m[1]
				p.HostID, _ = strconv.ParseUint(m[2], 16, 64)
			}
		default:
			if m := aDevice.FindStringSubmatch(l); m != nil && m[3] != "ONLINE" && m[3] != "OFFLINE" && m[3] != "DEGRADED" {
				p.Unseen = append(p.Unseen, m[2])
			}
		}
	}
	return all, nil
}

// PoolLabel reads what the disks of a pool say of it. ErrNotFound when this host
// sees none of them.
func (c *Client) PoolLabel(ctx context.Context, pool string) (PoolLabel, error) {
	args, err := poolArgs(pool, c.devices("-p", "zdb", "-e", "-C", "-u")...)
	if err != nil {
		return PoolLabel{}, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return PoolLabel{}, err
	}
	return parseLabel(out)
}

// parseLabel reads the configuration of a pool, the fields of which are indented by
// eight, and its newest uberblock. mmp_delay is 0 for a pool without multihost:
// struct uberblock in OpenZFS's uberblock_impl.h.
func parseLabel(out []byte) (PoolLabel, error) {
	var p PoolLabel
	seen := map[string]bool{}
	for _, l := range lines(out) {
		name, value, ok := strings.Cut(strings.TrimPrefix(l, "        "), ": ")
		if rest, is := strings.CutPrefix(l, "\tmmp_delay = "); is {
			name, value, ok = "mmp_delay", rest, true
		}
		if !ok || strings.HasPrefix(name, " ") {
			continue
		}
		var n uint64
		switch name {
		case "pool_guid", "hostid", "state", "mmp_delay":
			if err := numbers(l, []string{value}, &n); err != nil {
				return p, err
			}
		}
		switch name {
		case "pool_guid":
			p.GUID = n
		case "hostid":
			p.HostID = n
		case "hostname":
			p.Host = strings.Trim(value, "'")
		case "state":
			const exported = 1 // POOL_STATE_EXPORTED
			p.Exported = n == exported
		case "mmp_delay":
			p.Multihost = n > 0
		}
		seen[name] = true
	}
	for _, name := range []string{"pool_guid", "state", "mmp_delay"} {
		if !seen[name] {
			return p, fmt.Errorf("parse what zdb says of a pool: no %s", name)
		}
	}
	return p, nil
}

// Import imports a pool without mounting anything; this host does not import it by
// itself when it starts. ErrPoolActive when another host has it imported,
// ErrPoolElsewhere when another had it last and did not export it: with force that
// is no reason, and it is only safe for a pool whose multihost is on. ErrExists when
// a pool of that name is imported.
func (c *Client) Import(ctx context.Context, pool string, force bool) error {
	base := []string{"zpool", "import", "-N", "-o", "cachefile=none"}
	if force {
		base = append(base, "-f")
	}
	args, err := poolArgs(pool, c.devices("-d", base...)...)
	return c.exec(ctx, args, err)
}

// Export gives a pool up, and unmounts what is mounted of it. ErrBusy when
// something of it is in use; it may be unmounted in part then.
func (c *Client) Export(ctx context.Context, pool string) error {
	args, err := poolArgs(pool, "zpool", "export")
	return c.exec(ctx, args, err)
}

// Host returns how pools know this host: its name and its hostid.
func (c *Client) Host(ctx context.Context) (name string, id uint64, err error) {
	out, err := c.run(ctx, []string{"uname", "-n"})
	if err != nil {
		return "", 0, err
	}
	name = strings.TrimSpace(string(out))
	if out, err = c.run(ctx, []string{"hostid"}); err != nil {
		return "", 0, err
	}
	if id, err = strconv.ParseUint(strings.TrimSpace(string(out)), 16, 32); err != nil {
		return "", 0, fmt.Errorf("parse hostid: %w", err)
	}
	return name, id, nil
}
