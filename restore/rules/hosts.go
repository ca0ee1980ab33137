package rules

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// hostMap is what a profile says about hosts.
type hostMap struct {
	edit     *edit
	mappings []HostMapping
	// see, when set, is told of every host that is looked up.
	see func(host string)
}

func (e *edit) hosts(p *Rewrites) hostMap { return hostMap{edit: e, mappings: p.Hosts} }

// lookup returns what a host becomes and by which mode. An exact mapping goes
// before any other, a longer domain before a shorter one. A host that some
// mapping produces is not mapped, which makes a second application change
// nothing.
func (m hostMap) lookup(host string) (string, HostMode, bool) {
	name, root := strings.CutSuffix(host, ".")
	if name == "" {
		return "", "", false
	}
	if m.see != nil {
		m.see(name)
	}
	best := m.find(name)
	if best == nil {
		return "", "", false
	}
	m.edit.use(best.field())
	to := best.To
	if domain, ok := strings.CutPrefix(best.From, "*"); ok && best.expression == nil {
		to = name[:len(name)-len(domain)] + strings.TrimPrefix(best.To, "*")
	}
	if best.expression != nil {
		to = best.expression.ReplaceAllString(name, best.To)
	}
	if root {
		to += "."
	}
	if best.Mode == HostAdd {
		return to, HostAdd, true
	}
	return to, HostReplace, true
}

// find returns the mapping of a host, nil for none.
func (m hostMap) find(host string) *HostMapping {
	var best *HostMapping
	for i := range m.mappings {
		h := &m.mappings[i]
		if h.produces(host) {
			return nil
		}
		if h.matches(host) && (best == nil || h.moreSpecific(best)) {
			best = h
		}
	}
	return best
}

// produces reports whether some mapping makes the host.
func (m hostMap) produces(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return slices.ContainsFunc(m.mappings, func(h HostMapping) bool { return h.produces(host) })
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

func (h *HostMapping) matches(host string) bool {
	if h.expression != nil {
		return h.expression.MatchString(host)
	}
	return within(host, h.From)
}

func (h *HostMapping) produces(host string) bool {
	if h.expression != nil {
		return h.shape.MatchString(host)
	}
	return within(host, h.To)
}

// moreSpecific orders a host before a domain, a longer domain before a shorter
// one, and an expression after both.
func (h *HostMapping) moreSpecific(other *HostMapping) bool {
	if h.expression != nil || other.expression != nil {
		return h.expression == nil && other.expression != nil
	}
	open, otherOpen := strings.HasPrefix(h.From, "*"), strings.HasPrefix(other.From, "*")
	if open != otherOpen {
		return otherOpen
	}
	return len(h.From) > len(other.From)
}

// Hosts returns the hosts that an object's own fields name, in the places where a
// profile would change them, each once. Free text is not searched.
func Hosts(obj *unstructured.Unstructured) ([]string, error) {
	var hosts []string
	e := newEdit(&Profile{}, obj)
	m := hostMap{edit: e, see: func(host string) {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}}
	if err := e.places("hosts", m); err != nil {
		return nil, fmt.Errorf("read the hosts of %s: %w", describe(obj), err)
	}
	return hosts, nil
}

// Host returns what an application answers to under the profile, that answered to host:
// another name where the profile's own mapping replaces it, the same where it adds one
// or has none.
func (p *Profile) Host(host string) string {
	to, mode, ok := newEdit(p, &unstructured.Unstructured{}).hosts(&p.Rewrites).lookup(host)
	if !ok || mode == HostAdd {
		return host
	}
	return to
}

// Forms of writing hosts alone.
var (
	formListener = &form{"element", func(e *edit, m mapper, at path) error {
		// Listeners' names are unique, so the added one needs its own.
		return e.element(m, at, func(listener map[string]any) {
			if name, ok := listener["name"].(string); ok {
				listener["name"] = name + "-dr"
			}
		})
	}}
	formText = &form{"text or URL", func(e *edit, m mapper, at path) error {
		e.hostText(m.(hostMap), at...)
		return nil
	}}
	formOrigins = &form{"list of origins", func(e *edit, m mapper, at path) error {
		values, ok := strs(e.list(at...))
		if !ok {
			return nil
		}
		if out, changed := m.(hostMap).origins(values); changed {
			e.set(anys(out), at...)
		}
		return nil
	}}
	formCommaOrigins = &form{"comma-separated list of origins", func(e *edit, m mapper, at path) error {
		if out, changed := m.(hostMap).origins(splitHosts(e.str(at...))); changed {
			e.set(strings.Join(out, ", "), at...)
		}
		return nil
	}}
	formRegexp = &form{"regular expression", func(e *edit, m mapper, at path) error {
		e.set(m.(hostMap).expression(e.str(at...)), at...)
		return nil
	}}
	// formHeaderMatch is Gateway API's, with the type of the value beside it.
	formHeaderMatch = &form{"one value, or regular expression", func(e *edit, m mapper, at path) error {
		if e.str(at[:len(at)-1].join("type")...) == "RegularExpression" {
			return formRegexp.rewrite(e, m, at)
		}
		return formOne.rewrite(e, m, at)
	}}
	// formScoped is Istio's: a namespace or an asterisk, a slash and a host.
	formScoped = &form{"list of namespace/host", func(e *edit, m mapper, at path) error {
		values, ok := strs(e.list(at...))
		if !ok {
			return nil
		}
		if out, changed := list(scopedHosts{m}, values); changed {
			e.set(anys(out), at...)
		}
		return nil
	}}
	formDNSNames = &form{"comma-separated list", func(e *edit, m mapper, at path) error {
		if e.p.ExternalDNS == ExternalDNSMute {
			return nil // it is emptied
		}
		return formComma.rewrite(e, m, at)
	}}
	// A second target would make an alias point two ways, so targets are only
	// ever replaced.
	formTargets = &form{"comma-separated list, replaced only", func(e *edit, m mapper, at path) error {
		parts := strings.Split(e.str(at...), ",")
		for i, part := range parts {
			if to, ok := one(m, strings.TrimSpace(part)); ok {
				parts[i] = strings.Replace(part, strings.TrimSpace(part), to, 1)
			}
		}
		e.set(strings.Join(parts, ","), at...)
		return nil
	}}
)

// scopedHosts maps what follows the slash.
type scopedHosts struct{ mapper }

func (m scopedHosts) lookup(value string) (string, HostMode, bool) {
	scope, host, scoped := strings.Cut(value, "/")
	if !scoped {
		return m.mapper.lookup(value)
	}
	to, mode, ok := m.mapper.lookup(host)
	return scope + "/" + to, mode, ok
}

func rewriteHosts(e *edit, p *Rewrites) error {
	if len(p.Hosts) == 0 || e.keepsHosts() {
		return nil
	}
	return e.places("hosts", e.hosts(p))
}

// keepsHosts is for a Certificate that is to be used as it is: one that doesn't fit its
// Secret is issued anew.
func (e *edit) keepsHosts() bool {
	return e.p.Certificates == CertificatesKeepSecret && e.in([]string{certManager}, "Certificate")
}
