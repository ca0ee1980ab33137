package rules

import (
	"slices"
	"strings"
)

// hostMap is what a profile says about hosts.
type hostMap struct {
	mappings []HostMapping
	use      func(field string)
}

func (e *edit) hosts(p *Rewrites) hostMap { return hostMap{p.Hosts, e.use} }

// lookup returns what a host becomes and by which mode. An exact mapping goes
// before any other, a longer domain before a shorter one. A host that some
// mapping produces is not mapped, which makes a second application change
// nothing.
func (m hostMap) lookup(host string) (string, HostMode, bool) {
	name, root := strings.CutSuffix(host, ".")
	var best *HostMapping
	for i := range m.mappings {
		h := &m.mappings[i]
		if within(name, h.To) {
			return "", "", false
		}
		if within(name, h.From) && (best == nil || moreSpecific(h.From, best.From)) {
			best = h
		}
	}
	if best == nil {
		return "", "", false
	}
	m.use(best.field())
	to := best.To
	if domain, ok := strings.CutPrefix(best.From, "*"); ok {
		to = name[:len(name)-len(domain)] + strings.TrimPrefix(best.To, "*")
	}
	if root {
		to += "."
	}
	if best.Mode == HostAdd {
		return to, HostAdd, true
	}
	return to, HostReplace, true
}

// within reports whether a host, which may itself begin with "*.", is matched
// by a pattern.
func within(host, pattern string) bool {
	domain, open := strings.CutPrefix(pattern, "*")
	if !open {
		return strings.EqualFold(host, pattern)
	}
	return len(host) > len(domain) && strings.EqualFold(host[len(host)-len(domain):], domain)
}

func moreSpecific(a, b string) bool {
	aOpen, bOpen := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	if aOpen != bOpen {
		return bOpen
	}
	return len(a) > len(b)
}

// one maps a host where only one fits: a host to be added has no place there.
func (m hostMap) one(host string) (string, bool) {
	to, mode, ok := m.lookup(host)
	return to, ok && mode == HostReplace
}

// list maps a list of hosts. An added host follows the one it is for; a host
// that is in the list already isn't put there again.
func (m hostMap) list(hosts []string) ([]string, bool) {
	var out []string
	changed := false
	for _, host := range hosts {
		to, mode, ok := m.lookup(host)
		if !ok {
			out = append(out, host)
			continue
		}
		present := slices.ContainsFunc(slices.Concat(out, hosts), func(h string) bool { return strings.EqualFold(h, to) })
		if mode == HostAdd {
			out = append(out, host)
		} else {
			changed = true
		}
		if !present {
			out = append(out, to)
			changed = true
		}
	}
	return out, changed
}

// hostList maps a list of hosts at a path.
func (e *edit) hostList(m hostMap, at ...any) {
	hosts, ok := strs(e.list(at...))
	if !ok {
		return
	}
	if out, changed := m.list(hosts); changed {
		e.set(anys(out), at...)
	}
}

// hostElements maps the host in each element of a list of objects. To add a
// host it appends a copy of the element, changed by prepare, unless an equal one
// is there.
func (e *edit) hostElements(m hostMap, field string, prepare func(map[string]any), at ...any) {
	list := path(at)
	for i := range e.list(list...) {
		to, mode, ok := m.lookup(e.str(list.join(i, field)...))
		if !ok {
			continue
		}
		if mode == HostReplace {
			e.set(to, list.join(i, field)...)
			continue
		}
		original, _ := e.get(list.join(i)...).(map[string]any)
		added := copyOf(original)
		added[field] = to
		if prepare != nil {
			prepare(added)
		}
		if all := e.list(list...); !containsEqual(all, added) {
			e.set(added, list.join(len(all))...)
		}
	}
}
