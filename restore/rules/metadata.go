package rules

import (
	"maps"
	"regexp"
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

func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}

// Forms of naming labels, of nodes and of objects.
var (
	formNodeSelector   = labelMap(func(p *Rewrites) map[string]map[string]string { return p.NodeLabels })
	formNodeExpression = labelExpression(func(p *Rewrites) map[string]map[string]string { return p.NodeLabels })
	formLabels         = labelMap(func(p *Rewrites) map[string]map[string]string { return p.LabelValues })
	formExpression     = labelExpression(func(p *Rewrites) map[string]map[string]string { return p.LabelValues })
)

func labelMap(of func(*Rewrites) map[string]map[string]string) *form {
	return &form{"map of labels", func(e *edit, _ mapper, at path) error {
		have, _ := e.get(at...).(map[string]any)
		if len(have) == 0 {
			return nil
		}
		labels := of(e.p)
		for _, label := range sortedKeys(labels) {
			value, _ := have[label].(string)
			if to, ok := labelValue(labels[label], value); ok {
				e.use(e.rule + "[" + label + "]")
				e.set(to, at.join(label)...)
			}
		}
		return nil
	}}
}

// calicoTerm is a label compared with a value or with a set of them, and calicoValue a
// value, as in Calico's selectors: app == 'web' && tier in {'a', "b"}.
var (
	calicoTerm  = regexp.MustCompile(`([\w./-]+)\s*(?:[!=]=\s*(?:'[^']*'|"[^"]*")|(?:not\s+)?in\s*\{[^}]*\})`)
	calicoValue = regexp.MustCompile(`'[^']*'|"[^"]*"`)
)

var formCalico = &form{"Calico's selector", func(e *edit, _ mapper, at path) error {
	e.set(calicoTerm.ReplaceAllStringFunc(e.str(at...), func(term string) string {
		label := calicoTerm.FindStringSubmatch(term)[1]
		return calicoValue.ReplaceAllStringFunc(term, func(quoted string) string {
			to, ok := labelValue(e.p.LabelValues[label], quoted[1:len(quoted)-1])
			if !ok {
				return quoted
			}
			e.use(e.rule + "[" + label + "]")
			return quoted[:1] + to + quoted[:1]
		})
	}), at...)
	return nil
}}

// labelValue maps the value of a label. The value "*" stands for all others, and an
// asterisk in what it maps to for the value.
func labelValue(mapping map[string]string, value string) (string, bool) {
	if to, ok := mapping[value]; ok {
		return to, true
	}
	to, ok := mapping["*"]
	if !ok || value == "" || wildcard(to, value) || slices.Contains(slices.Collect(maps.Values(mapping)), value) {
		return "", false
	}
	return strings.Replace(to, "*", value, 1), true
}

func labelExpression(of func(*Rewrites) map[string]map[string]string) *form {
	return &form{"key and values", func(e *edit, _ mapper, at path) error {
		have, _ := e.get(at...).(map[string]any)
		label, _ := have["key"].(string)
		mapping, ok := of(e.p)[label]
		if !ok {
			return nil
		}
		values, plain := strs(anyList(have["values"]))
		if !plain {
			return nil
		}
		changed := false
		for i, value := range values {
			if to, ok := labelValue(mapping, value); ok {
				values[i], changed = to, true
			}
		}
		if changed {
			e.use(e.rule + "[" + label + "]")
			e.set(anys(values), at.join("values")...)
		}
		return nil
	}}
}

func rewriteLabelValues(e *edit, p *Rewrites) error {
	if len(p.LabelValues) == 0 {
		return nil
	}
	return e.places("labelValues", nil)
}
