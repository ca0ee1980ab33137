package rules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// place is where kinds hold what a rule rewrites.
type place struct {
	// rule is the profile's field.
	rule string
	// kinds hold it; nil is every kind.
	kinds []schema.GroupKind
	// at leads to the value. [*] is every element of a list or entry of a map,
	// and any other word in brackets is one key. A path that begins with pod is
	// taken from Pods and every pod template, one that begins with template from
	// templates alone, and a key that begins with external-dns/ stands for that
	// annotation under each of external-dns' prefixes.
	at string
	// form is how the value is written.
	form *form
}

// form is a way of writing one or several values that a mapping maps.
type form struct {
	// about names the form in the reference.
	about string
	// rewrite maps what is at a path.
	rewrite func(e *edit, m mapper, at path) error
}

// mapper says what a value becomes, and whether in its place or beside it.
type mapper interface {
	lookup(value string) (to string, mode HostMode, ok bool)
}

// nameMap maps whole names. The name "*" stands for any that the mapping
// neither names nor produces.
type nameMap struct {
	edit  *edit
	rule  string
	names map[string]string
}

func (e *edit) names(rule string, names map[string]string) nameMap { return nameMap{e, rule, names} }

func (m nameMap) lookup(name string) (string, HostMode, bool) {
	from := name
	to, ok := m.names[name]
	if !ok && name != "" {
		if to, ok = m.names["*"]; ok {
			if m.produces(name) {
				return "", "", false
			}
			from = "*"
		}
	}
	if !ok {
		return "", "", false
	}
	m.edit.use(m.rule + "[" + from + "]")
	return to, HostReplace, true
}

func (m nameMap) produces(name string) bool {
	for _, to := range m.names {
		if to == name {
			return true
		}
	}
	return false
}

// one maps a value where only one fits: one to be added has no place there.
func one(m mapper, value string) (string, bool) {
	to, mode, ok := m.lookup(value)
	return to, ok && mode == HostReplace
}

// list maps a list of values. An added value follows the one it is for; a value
// that is in the list already isn't put there again.
func list(m mapper, values []string) ([]string, bool) {
	var out []string
	changed := false
	for _, value := range values {
		to, mode, ok := m.lookup(value)
		if !ok {
			out = append(out, value)
			continue
		}
		present := slices.ContainsFunc(slices.Concat(out, values), func(h string) bool { return strings.EqualFold(h, to) })
		if mode == HostAdd {
			out = append(out, value)
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

// Forms that any mapping can use.
var (
	formOne = &form{"one value", func(e *edit, m mapper, at path) error {
		if to, ok := one(m, e.str(at...)); ok {
			e.set(to, at...)
		}
		return nil
	}}
	formList = &form{"list", func(e *edit, m mapper, at path) error {
		if values, ok := strs(e.list(at...)); ok {
			if out, changed := list(m, values); changed {
				e.set(anys(out), at...)
			}
		}
		return nil
	}}
	formComma = &form{"comma-separated list", func(e *edit, m mapper, at path) error {
		if out, changed := list(m, splitHosts(e.str(at...))); changed {
			e.set(strings.Join(out, ","), at...)
		}
		return nil
	}}
	formJSONList = &form{"JSON list", func(e *edit, m mapper, at path) error {
		before, err := jsonStrings(e.str(at...))
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		if out, changed := list(m, before); changed {
			e.set(compactJSON(out), at...)
		}
		return nil
	}}
	// formElement is a value in each element of a list of objects; an added one
	// comes in a copy of its element.
	formElement = &form{"element", func(e *edit, m mapper, at path) error {
		return e.element(m, at, nil)
	}}
)

func (e *edit) element(m mapper, at path, prepare func(map[string]any)) error {
	to, mode, ok := m.lookup(e.str(at...))
	if !ok {
		return nil
	}
	if mode == HostReplace {
		e.set(to, at...)
		return nil
	}
	element, field := slices.Clip(at[:len(at)-1]), at[len(at)-1].(string)
	original, _ := e.get(element...).(map[string]any)
	added := copyOf(original)
	added[field] = to
	if prepare != nil {
		prepare(added)
	}
	list := element[:len(element)-1]
	if all := e.list(list...); !containsEqual(all, added) {
		e.set(added, list.join(len(all))...)
	}
	return nil
}

// jsonStrings reads a JSON list of strings.
func jsonStrings(text string) ([]string, error) {
	var values []string
	err := json.Unmarshal([]byte(text), &values)
	return values, err
}

func compactJSON(values []string) string {
	raw, err := json.Marshal(values)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(raw)
}

// kindsIn returns kinds, written with spaces between, in each of some groups.
func kindsIn(kinds string, groups ...string) []schema.GroupKind {
	var all []schema.GroupKind
	for _, group := range groups {
		for kind := range strings.FieldsSeq(kinds) {
			all = append(all, schema.GroupKind{Group: group, Kind: kind})
		}
	}
	return all
}

// step is one of a place's path.
type step struct {
	key string
	// name is the key as a path has it.
	name any
	// each visits all that is there.
	each bool
	// dns are the annotations of external-dns that it stands for, under the usual
	// prefixes.
	dns []string
}

// spot is a place made ready.
type spot struct {
	*place
	steps []step
	// pod and template say that the steps begin at pod templates; for pod a Pod
	// is one.
	pod, template bool
}

// spots are the places of a rule: of each kind, and of every kind.
type spots struct {
	of    map[schema.GroupKind][]spot
	every []spot
}

var spotsOf = index(places)

func index(places []place) map[string]*spots {
	all := map[string]*spots{}
	for i := range places {
		p := &places[i]
		s := spot{place: p, steps: parseSteps(p.at)}
		switch s.steps[0].key {
		case "pod":
			s.pod, s.steps = true, s.steps[1:]
		case "template":
			s.template, s.steps = true, s.steps[1:]
		}
		of := all[p.rule]
		if of == nil {
			of = &spots{of: map[schema.GroupKind][]spot{}}
			all[p.rule] = of
		}
		if p.kinds == nil {
			of.every = append(of.every, s)
		}
		for _, gk := range p.kinds {
			of.of[gk] = append(of.of[gk], s)
		}
	}
	return all
}

func parseSteps(at string) []step {
	var steps []step
	for at != "" {
		switch {
		case at[0] == '.':
			at = at[1:]
		case at[0] == '[':
			key, rest, _ := strings.Cut(at[1:], "]")
			s := step{key: key, name: key, each: key == "*"}
			if name, dns := strings.CutPrefix(key, "external-dns/"); dns {
				s = step{key: name, dns: prefixed(externalDNSPrefixes, name)}
			}
			steps = append(steps, s)
			at = rest
		default:
			end := strings.IndexAny(at, ".[")
			if end < 0 {
				end = len(at)
			}
			steps = append(steps, step{key: at[:end], name: at[:end]})
			at = at[end:]
		}
	}
	return steps
}

// places maps what is at the places of a rule.
func (e *edit) places(rule string, m mapper) error {
	of := spotsOf[rule]
	for _, spots := range [][]spot{of.of[e.kind], of.every} {
		for i := range spots {
			if err := e.spot(&spots[i], m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *edit) spot(s *spot, m mapper) error {
	if !s.pod && !s.template {
		return e.walk(s.steps, e.way[:0], e.obj.Object, s.form, m)
	}
	for _, template := range e.templates() {
		if s.template && len(template) == 0 {
			continue
		}
		if err := e.walk(s.steps, append(e.way[:0], template...), lookup(e.obj.Object, template), s.form, m); err != nil {
			return err
		}
	}
	return nil
}

// walk follows steps from a value, and rewrites what it finds at the end. The
// path is only good until the form returns.
func (e *edit) walk(steps []step, at path, value any, f *form, m mapper) error {
	if value == nil {
		return nil
	}
	if len(steps) == 0 {
		return f.rewrite(e, m, at)
	}
	switch s := &steps[0]; {
	case s.each:
		switch v := value.(type) {
		case []any:
			for i := range v {
				if err := e.walk(steps[1:], append(at, i), v[i], f, m); err != nil {
					return err
				}
			}
		case map[string]any:
			for _, key := range sortedKeys(v) {
				if err := e.walk(steps[1:], append(at, key), v[key], f, m); err != nil {
					return err
				}
			}
		}
	case s.dns != nil:
		v, _ := value.(map[string]any)
		keys := s.dns
		if len(e.p.ExternalDNSPrefixes) > 0 {
			keys = slices.Concat(keys, prefixed(e.p.ExternalDNSPrefixes, s.key))
		}
		for _, key := range keys {
			if v[key] == nil {
				continue
			}
			if err := e.walk(steps[1:], append(at, key), v[key], f, m); err != nil {
				return err
			}
		}
	default:
		if v, ok := value.(map[string]any); ok {
			if child := v[s.key]; child != nil {
				return e.walk(steps[1:], append(at, s.name), child, f, m)
			}
		}
	}
	return nil
}
