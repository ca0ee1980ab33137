package zfstest

import (
	"slices"
	"strconv"
	"strings"
)

// native describes a property that can be set.
type native struct {
	fallback string
	inherit  bool
	size     bool   // a number of bytes
	only     string // "filesystem" or "volume", "" for both
}

var natives = map[string]native{
	"acltype":        {"off", true, false, "filesystem"},
	"atime":          {"on", true, false, "filesystem"},
	"canmount":       {"on", false, false, "filesystem"},
	"checksum":       {"on", true, false, ""},
	"compression":    {"off", true, false, ""},
	"copies":         {"1", true, false, ""},
	"dedup":          {"off", true, false, ""},
	"devices":        {"on", true, false, "filesystem"},
	"dnodesize":      {"legacy", true, false, "filesystem"},
	"exec":           {"on", true, false, "filesystem"},
	"logbias":        {"latency", true, false, ""},
	"mountpoint":     {"", true, false, "filesystem"},
	"overlay":        {"on", true, false, "filesystem"},
	"primarycache":   {"all", true, false, ""},
	"quota":          {"0", false, true, "filesystem"},
	"readonly":       {"off", true, false, ""},
	"recordsize":     {"131072", true, true, "filesystem"},
	"refquota":       {"0", false, true, "filesystem"},
	"refreservation": {"0", false, true, ""},
	"relatime":       {"off", true, false, "filesystem"},
	"reservation":    {"0", false, true, ""},
	"secondarycache": {"all", true, false, ""},
	"setuid":         {"on", true, false, "filesystem"},
	"sharenfs":       {"off", true, false, "filesystem"},
	"sharesmb":       {"off", true, false, "filesystem"},
	"snapdev":        {"hidden", true, false, ""},
	"snapdir":        {"hidden", true, false, "filesystem"},
	"sync":           {"standard", true, false, ""},
	"volblocksize":   {"8192", false, true, "volume"},
	"volmode":        {"default", true, false, ""},
	"volsize":        {"", false, true, "volume"},
	"xattr":          {"on", true, false, "filesystem"},
	"encryption":     {"off", false, false, ""},
	"keyformat":      {"none", false, false, ""},
	"keylocation":    {"none", false, false, ""},
}

// computed are the properties that are read only.
var computed = []string{
	"name", "type", "guid", "createtxg", "creation", "used", "referenced", "written", "userrefs", "origin",
	"mounted", "receive_resume_token", "keystatus", "available", "defer_destroy", "clones", "logicalused",
	"logicalreferenced", "usedbysnapshots", "usedbydataset", "encryptionroot",
}

func isUser(prop string) bool { return strings.Contains(prop, ":") }

// value parses what is set: a size to bytes. ok is false when it is none.
func (n native) value(v string) (string, bool) {
	if !n.size {
		return v, true
	}
	if v == "none" || v == "auto" {
		return "0", true
	}
	shift := 0
	if i := strings.IndexAny("KMGTP", strings.ToUpper(v[max(0, len(v)-1):])); v != "" && i >= 0 {
		v, shift = v[:len(v)-1], 10*(i+1)
	}
	b, err := strconv.ParseUint(v, 10, 64)
	return strconv.FormatUint(b<<shift, 10), err == nil
}

// checkProperty is what set, create, clone and receive refuse.
func checkProperty(volume bool, prop, value string) (string, string) {
	if isUser(prop) {
		return value, ""
	}
	if slices.Contains(computed, prop) {
		return "", "'" + prop + "' is readonly"
	}
	n, ok := natives[prop]
	if !ok {
		return "", "invalid property '" + prop + "'"
	}
	if n.only == "filesystem" && volume || n.only == "volume" && !volume {
		return "", "'" + prop + "' does not apply to datasets of this type"
	}
	v, ok := n.value(value)
	if !ok {
		return "", "bad numeric value '" + value + "'"
	}
	return v, ""
}

// property returns a value and its source as zfs get prints them.
func (p *Pool) property(d *dataset, prop string) (value, source string) {
	if v, ok := p.computed(d, prop); ok {
		return v, "-"
	}
	n, known := natives[prop]
	if known && (n.only == "filesystem" && d.volume || n.only == "volume" && !d.volume) {
		return "-", "-"
	}
	if v, ok := d.local[prop]; ok {
		return v, "local"
	}
	if v, ok := d.received[prop]; ok {
		return v, "received"
	}
	if n.inherit || isUser(prop) {
		for up := parentOf(d.name); up != ""; up = parentOf(up) {
			a := p.datasets[up]
			v, ok := a.local[prop]
			if !ok {
				v, ok = a.received[prop]
			}
			if !ok {
				continue
			}
			if prop == "mountpoint" && strings.HasPrefix(v, "/") {
				v = strings.TrimSuffix(v, "/") + d.name[len(up):]
			}
			return v, "inherited from " + up
		}
	}
	switch {
	case prop == "mountpoint":
		return "/" + d.name, "default"
	case known:
		return n.fallback, "default"
	default:
		return "-", "-"
	}
}

// computed returns the properties that nobody sets.
func (p *Pool) computed(d *dataset, prop string) (string, bool) {
	num := func(n uint64) (string, bool) { return strconv.FormatUint(n, 10), true }
	switch prop {
	case "name":
		return d.name, true
	case "type":
		return d.kind(), true
	case "guid":
		return num(d.guid)
	case "createtxg":
		return num(d.createTXG)
	case "creation":
		return strconv.FormatInt(d.created.Unix(), 10), true
	case "used", "logicalused":
		return num(p.used(d))
	case "referenced", "logicalreferenced", "usedbydataset":
		return num(d.content.size())
	case "available":
		return num(p.pools[poolOf(d.name)].free)
	case "written":
		var last content
		if n := len(d.snapshots); n > 0 {
			last = d.snapshots[n-1].content
		}
		return num(written(last, d.content))
	case "origin":
		if d.origin != nil {
			return d.origin.fullName(), true
		}
		return "-", true
	case "mounted":
		if d.volume {
			return "-", true
		}
		if d.mounted {
			return "yes", true
		}
		return "no", true
	case "receive_resume_token":
		if d.partial != nil {
			return d.partial.token(), true
		}
		return "-", true
	case "encryption":
		if d.crypt != nil {
			return d.crypt.cipher, true
		}
		return "off", true
	case "encryptionroot":
		if d.crypt != nil {
			return d.crypt.root.name, true
		}
		return "-", true
	case "keystatus":
		switch {
		case d.crypt == nil:
			return "-", true
		case d.crypt.loaded:
			return "available", true
		default:
			return "unavailable", true
		}
	case "userrefs", "defer_destroy", "clones":
		return "-", true
	}
	return "", false
}

// used counts the dataset, its snapshots and what is below.
func (p *Pool) used(d *dataset) uint64 {
	var n uint64
	for _, b := range p.below(d.name) {
		n += b.content.size()
		last := content{}
		for _, s := range b.snapshots {
			n += written(last, s.content)
			last = s.content
		}
		if b.partial != nil {
			n += uint64(len(b.partial.payload))
		}
	}
	return n
}

// written counts what b holds that a does not.
func written(a, b content) uint64 {
	var n uint64
	for name, data := range b {
		if old, ok := a[name]; !ok || string(old) != string(data) {
			n += uint64(len(data))
		}
	}
	return n
}

// snapshotProperty is property for a snapshot.
func (p *Pool) snapshotProperty(s *snapshot, prop string) (value, source string) {
	num := func(n uint64) (string, string) { return strconv.FormatUint(n, 10), "-" }
	switch prop {
	case "name":
		return s.fullName(), "-"
	case "type":
		return "snapshot", "-"
	case "guid":
		return num(s.guid)
	case "createtxg":
		return num(s.txg)
	case "creation":
		return strconv.FormatInt(s.created.Unix(), 10), "-"
	case "used":
		return "0", "-"
	case "referenced":
		return num(s.content.size())
	case "written":
		var before content
		if i := slices.Index(s.ds.snapshots, s); i > 0 {
			before = s.ds.snapshots[i-1].content
		}
		return num(written(before, s.content))
	case "userrefs":
		return num(uint64(len(s.holds)))
	case "defer_destroy":
		if s.deferred {
			return "on", "-"
		}
		return "off", "-"
	case "clones":
		return strings.Join(p.clones(s), ","), "-"
	case "encryption", "volsize":
		return p.property(s.ds, prop)
	}
	if !isUser(prop) {
		return "-", "-"
	}
	if v, ok := s.local[prop]; ok {
		return v, "local"
	}
	v, source := p.property(s.ds, prop)
	if source == "local" || source == "received" {
		source = "inherited from " + s.ds.name
	}
	return v, source
}

// bookmarkProperty is property for a bookmark.
func bookmarkProperty(d *dataset, b *bookmark, prop string) (value, source string) {
	switch prop {
	case "name":
		return d.name + "#" + b.name, "-"
	case "type":
		return "bookmark", "-"
	case "guid":
		return strconv.FormatUint(b.guid, 10), "-"
	case "createtxg":
		return strconv.FormatUint(b.txg, 10), "-"
	case "creation":
		return strconv.FormatInt(b.created.Unix(), 10), "-"
	case "referenced":
		return strconv.FormatUint(b.content.size(), 10), "-"
	}
	return "-", "-"
}
