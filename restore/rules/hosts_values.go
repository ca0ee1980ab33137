package rules

import (
	"slices"
	"strings"
)

// rewriteValueHosts maps hosts in free text that the profile opts in by name.
func rewriteValueHosts(e *edit, p *Rewrites) error {
	if p.HostsIn == nil {
		return nil
	}
	m := e.hosts(p)
	if e.in(core, "ConfigMap") && named(p.HostsIn.ConfigMaps, e.orig.GetName()) {
		data, _ := e.get("data").(map[string]any)
		for _, key := range sortedKeys(data) {
			e.hostText(m, "data", key)
		}
	}
	for _, spec := range podSpecs(e.obj) {
		for _, field := range []string{"initContainers", "containers", "ephemeralContainers"} {
			containers := spec.join(field)
			for i := range e.list(containers...) {
				env := containers.join(i, "env")
				for j := range e.list(env...) {
					if named(p.HostsIn.Env, e.str(env.join(j, "name")...)) {
						e.hostText(m, env.join(j, "value")...)
					}
				}
			}
		}
	}
	return nil
}

func named(names []string, name string) bool {
	return slices.Contains(names, name) || slices.Contains(names, "*")
}

// hostText maps the hosts in the text at a path. The changes show the hosts
// alone: the text around them may be long, or hold a password.
func (e *edit) hostText(m hostMap, at ...any) {
	after, mapped := m.text(e.str(at...))
	for i, pair := range mapped {
		if slices.Index(mapped, pair) == i {
			e.record(at, pair[0], pair[1])
		}
	}
	if len(mapped) > 0 {
		e.quietly(after, at...)
	}
}

// text maps the hosts in a text and returns each pair of hosts mapped.
func (m hostMap) text(text string) (string, [][2]string) {
	var b strings.Builder
	var mapped [][2]string
	for at := 0; at < len(text); {
		if !isHostByte(text[at]) {
			b.WriteByte(text[at])
			at++
			continue
		}
		end := at
		for end < len(text) && isHostByte(text[end]) {
			end++
		}
		start := at
		if start > 0 && text[start-1] == '%' && end-start > 2 {
			start += 2 // the digits of an escape, as in https%3A%2F%2Fhost
		}
		word := strings.TrimRight(text[start:end], ".")
		if to, ok := m.one(word); ok && isHostPlace(text, start, start+len(word)) {
			b.WriteString(text[at:start] + to + text[start+len(word):end])
			mapped = append(mapped, [2]string{word, to})
		} else {
			b.WriteString(text[at:end])
		}
		at = end
	}
	return b.String(), mapped
}

func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._*", c) >= 0
}

// maxAuthority is how far before a host its place is judged by: longer than any
// user and password, short enough for long texts.
const maxAuthority = 512

// isHostPlace tells a host from the same letters in a path, a mail address or
// the user of a URL.
func isHostPlace(text string, start, end int) bool {
	if end < len(text) && text[end] == '@' {
		return false
	}
	before := text[max(0, start-maxAuthority):start]
	switch {
	case strings.HasSuffix(before, "/"):
		return strings.HasSuffix(before, "//") || strings.HasSuffix(before, `\/\/`)
	case strings.HasSuffix(before, "@"):
		// user@host is a mail address unless it is part of a URL.
		from := strings.LastIndexAny(before, "/ \t\r\n\"'<>,;") + 1
		return strings.HasSuffix(before[:from], "//")
	case len(before) > 2 && before[len(before)-3] == '%':
		escape := strings.ToUpper(before[max(0, len(before)-6):])
		return escape == "%2F%2F" || !strings.HasSuffix(escape, "%2F")
	}
	return true
}
