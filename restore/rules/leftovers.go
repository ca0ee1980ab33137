package rules

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// warnOfHosts warns of hosts that a mapping is for and that are in the object all the
// same: in a field that is no place, or in text that nobody opted in. A host that
// stays by mode add is none of them, nor is an image's registry.
func (e *edit) warnOfHosts() {
	if len(e.p.Hosts) == 0 || e.keepsHosts() {
		return
	}
	s := &leftovers{hosts: e.hosts(e.p), secret: e.kind == schema.GroupKind{Kind: "Secret"}}
	for i := range e.p.Hosts {
		switch h := &e.p.Hosts[i]; {
		case h.Mode == HostAdd:
		case h.expression != nil:
			s.ends = append(s.ends, ".")
		default:
			s.ends = append(s.ends, strings.ToLower(strings.TrimPrefix(h.From, "*")))
		}
	}
	e.rule = "hosts"
	for field, value := range e.obj.Object {
		switch field {
		case "apiVersion", "kind", "status": // the identity, and what Velero leaves out
		case "metadata":
			metadata, _ := value.(map[string]any)
			for _, field := range []string{"labels", "annotations"} {
				s.look(metadata[field], path{"metadata", field})
			}
		default:
			s.look(value, path{field})
		}
	}
	slices.Sort(s.found)
	for _, found := range s.found {
		e.warn(found)
	}
}

// leftovers looks for hosts in a whole object.
type leftovers struct {
	hosts hostMap
	// ends is what a text with a host that is mapped contains, in lower case.
	ends   []string
	secret bool
	found  []string
}

// look looks in a part of the object. Most have none, which is found out without a
// path.
func (s *leftovers) look(value any, at path) {
	if s.in(value) {
		s.list(value, at)
	}
}

// passed reports whether a field is none of those that are looked at: images, and what
// rewriting and kubectl keep for themselves.
func passed(key string) bool {
	return key == "image" || key == AnnotationOriginalState || key == lastApplied
}

// in reports whether there may be any.
func (s *leftovers) in(value any) bool {
	switch v := value.(type) {
	case string:
		return s.may(v) || s.secret && s.may(decoded(v))
	case []any:
		for i := range v {
			if s.in(v[i]) {
				return true
			}
		}
	case map[string]any:
		for key, child := range v {
			if !passed(key) && s.in(child) {
				return true
			}
		}
	}
	return false
}

func (s *leftovers) may(text string) bool {
	if strings.IndexByte(text, '.') < 0 {
		return false
	}
	text = unescaped(strings.ToLower(text))
	return slices.ContainsFunc(s.ends, func(end string) bool { return strings.Contains(text, end) })
}

// list collects what there is.
func (s *leftovers) list(value any, at path) {
	switch v := value.(type) {
	case string:
		s.text(v, at)
		if s.secret {
			s.text(decoded(v), at)
		}
	case []any:
		for i := range v {
			s.list(v[i], at.join(i))
		}
	case map[string]any:
		for key, child := range v {
			if !passed(key) {
				s.list(child, at.join(key))
			}
		}
	}
}

func (s *leftovers) text(text string, at path) {
	if !s.may(text) {
		return
	}
	_, mapped := mapText(unescaped(text), func(host string, _ bool) (string, bool) {
		h := s.hosts.find(host)
		return "", h != nil && h.Mode != HostAdd
	})
	for _, pair := range mapped {
		host := pair[0]
		if s.secret {
			host = "a host of " + s.hosts.find(host).field()
		}
		if found := at.String() + ": still names " + host; !slices.Contains(s.found, found) {
			s.found = append(s.found, found)
		}
	}
}

// unescaped takes away what escapes a dot in an expression.
func unescaped(text string) string {
	if strings.IndexByte(text, '\\') < 0 {
		return text
	}
	return strings.ReplaceAll(text, `\.`, ".")
}

// decoded reads text in base64, "" when it is none.
func decoded(text string) string {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !utf8.Valid(raw) {
		return ""
	}
	return string(raw)
}
