package rules

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// selects reports whether an object is selected.
func (m *Match) selects(obj *unstructured.Unstructured) (bool, error) {
	if len(m.Namespaces) > 0 && !fits(m.Namespaces, namespaceOf(obj)) {
		return false, nil
	}
	return m.selectsInNamespace(obj)
}

// selectsAround is selects, except that an object of no namespace is inside
// every namespace.
func (m *Match) selectsAround(obj *unstructured.Unstructured) (bool, error) {
	if ns := namespaceOf(obj); ns != "" && len(m.Namespaces) > 0 && !fits(m.Namespaces, ns) {
		return false, nil
	}
	return m.selectsInNamespace(obj)
}

func (m *Match) selectsInNamespace(obj *unstructured.Unstructured) (bool, error) {
	ofKind := func(kind string) bool { return isKind(obj, kind) }
	switch {
	case len(m.Kinds) > 0 && !slices.ContainsFunc(m.Kinds, ofKind):
		return false, nil
	case slices.ContainsFunc(m.ExcludeKinds, ofKind):
		return false, nil
	case len(m.Names) > 0 && !fits(m.Names, obj.GetName()):
		return false, nil
	case m.selector != nil && !m.selector.Matches(labels.Set(obj.GetLabels())):
		return false, nil
	case m.condition == nil:
		return true, nil
	}
	holds, err := m.condition(obj.Object)
	if err != nil {
		return false, fmt.Errorf("evaluate %q: %w", m.Condition, err)
	}
	return holds == true, nil
}

// namespaceOf returns the namespace an object is in, or is about.
func namespaceOf(obj *unstructured.Unstructured) string {
	gk := obj.GroupVersionKind().GroupKind()
	switch {
	case gk.Group == "" && gk.Kind == "PersistentVolume":
		ns, _ := lookup(obj.Object, path{"spec", "claimRef", "namespace"}).(string)
		return ns
	case gk.Group == "" && gk.Kind == "Namespace":
		return obj.GetName()
	}
	return obj.GetNamespace()
}

// isKind compares with "<Kind>", "<Kind>.<group>" or "*.<group>", whatever the
// case.
func isKind(obj *unstructured.Unstructured, kind string) bool {
	name, group, grouped := strings.Cut(kind, ".")
	gk := obj.GroupVersionKind().GroupKind()
	return (name == "*" || strings.EqualFold(gk.Kind, name)) && (!grouped || strings.EqualFold(gk.Group, group))
}

// fits reports whether a word fits one of the patterns.
func fits(patterns []string, word string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return wildcard(pattern, word) })
}

// wildcard reports whether a word fits a pattern, where an asterisk stands for
// anything.
func wildcard(pattern, word string) bool {
	first, rest, open := strings.Cut(pattern, "*")
	if !open {
		return pattern == word
	}
	if !strings.HasPrefix(word, first) {
		return false
	}
	word = word[len(first):]
	parts := strings.Split(rest, "*")
	last := parts[len(parts)-1]
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(word, part)
		if i < 0 {
			return false
		}
		word = word[i+len(part):]
	}
	return strings.HasSuffix(word, last)
}
