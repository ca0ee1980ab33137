package rules

import (
	"fmt"
	"slices"
	"strings"
)

var traefikGroups = []string{"traefik.io", "traefik.containo.us"}

func rewriteTraefikHosts(e *edit, p *Rewrites) error {
	if len(p.Hosts) == 0 || !e.in(traefikGroups, "IngressRoute", "IngressRouteTCP") {
		return nil
	}
	m := e.hosts(p)
	for i := range e.list("spec", "routes") {
		at := path{"spec", "routes", i, "match"}
		before := e.str(at...)
		if before == "" {
			continue
		}
		after, err := m.traefikRule(before)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		e.set(after, at...)
	}
	for i := range e.list("spec", "tls", "domains") {
		e.traefikDomain(m, path{"spec", "tls", "domains", i})
	}
	return nil
}

// traefikDomain maps a certificate's main name and its alternative names. A
// name to be added beside the main one becomes an alternative.
func (e *edit) traefikDomain(m hostMap, at path) {
	sans, ok := strs(e.list(at.join("sans")...))
	if !ok {
		return
	}
	main := e.str(at.join("main")...)
	to, mode, ok := m.lookup(main)
	if ok && mode == HostReplace {
		e.set(to, at.join("main")...)
	}
	out, changed := m.list(sans)
	if ok && mode == HostAdd && !slices.ContainsFunc(out, func(h string) bool { return strings.EqualFold(h, to) }) {
		out, changed = append(out, to), true
	}
	if changed {
		e.set(anys(out), at.join("sans")...)
	}
}
