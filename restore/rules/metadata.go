package rules

import (
	"maps"
	"slices"
	"strings"
)

func rewriteLabels(e *edit, p *Rewrites) error {
	if p.Labels != nil {
		p.Labels.apply(e, path{"metadata", "labels"})
	}
	return nil
}

func rewriteAnnotations(e *edit, p *Rewrites) error {
	if p.Annotations != nil {
		p.Annotations.apply(e, path{"metadata", "annotations"})
	}
	return nil
}

// apply changes the map of strings at a path.
func (n *Entries) apply(e *edit, at path) {
	have, _ := e.get(at...).(map[string]any)
	for _, key := range sortedKeys(have) {
		if n.removes(key) {
			e.remove(at.join(key)...)
		}
	}
	for _, key := range sortedKeys(n.Set) {
		e.set(n.Set[key], at.join(key)...)
	}
}

func (n *Entries) removes(key string) bool {
	return slices.ContainsFunc(n.Remove, func(pattern string) bool { return n.removesKey(pattern, key) })
}

func (*Entries) removesKey(pattern, key string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == key || open && strings.HasPrefix(key, prefix)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
