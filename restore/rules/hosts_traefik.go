package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Forms of Traefik's.
var (
	formTraefikRule = &form{"rule", func(e *edit, m mapper, at path) error {
		before := e.str(at...)
		if before == "" {
			return nil
		}
		after, err := m.(hostMap).traefikRule(before)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		e.set(after, at...)
		return nil
	}}
	formTraefikDomain = &form{"main and sans", func(e *edit, m mapper, at path) error {
		e.traefikDomain(m.(hostMap), at)
		return nil
	}}
)

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
	out, changed := list(m, sans)
	if ok && mode == HostAdd && !slices.ContainsFunc(out, func(h string) bool { return strings.EqualFold(h, to) }) {
		out, changed = append(out, to), true
	}
	if changed {
		e.set(anys(out), at.join("sans")...)
	}
}
