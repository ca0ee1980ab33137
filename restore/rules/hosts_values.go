package rules

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// rewriteValueHosts maps hosts in free text that the profile opts in by name.
func rewriteValueHosts(e *edit, p *Rewrites) error {
	if p.HostsIn == nil {
		return nil
	}
	return e.places("hostsIn", e.hosts(p))
}

// Forms of free text, each opted in by another list of names.
var (
	formConfigMapText = &form{"text or URL, where named", func(e *edit, m mapper, at path) error {
		if fits(e.p.HostsIn.ConfigMaps, e.orig.GetName()) {
			e.hostText(m.(hostMap), at...)
		}
		return nil
	}}
	formSecretText = &form{formConfigMapText.about, func(e *edit, m mapper, at path) error {
		if e.textSecret() {
			e.hostText(m.(hostMap), at...)
		}
		return nil
	}}
	formSecretData = &form{formConfigMapText.about, func(e *edit, m mapper, at path) error {
		if e.textSecret() {
			e.hostSecret(m.(hostMap), at...)
		}
		return nil
	}}
	formEnvText = &form{formConfigMapText.about, func(e *edit, m mapper, at path) error {
		variable, _ := e.get(at[:len(at)-1]...).(map[string]any)
		if name, _ := variable["name"].(string); fits(e.p.HostsIn.Env, name) {
			e.hostText(m.(hostMap), at...)
		}
		return nil
	}}
)

// formArgsText is an argument of a container.
var formArgsText = &form{formConfigMapText.about, func(e *edit, m mapper, at path) error {
	if len(e.p.HostsIn.Args) == 0 {
		return nil
	}
	container, _ := e.get(at[:len(at)-2]...).(map[string]any)
	if name, _ := container["name"].(string); fits(e.p.HostsIn.Args, name) {
		e.hostText(m.(hostMap), at...)
	}
	return nil
}}

// formConfigMapData is text in base64, if it is text.
var formConfigMapData = &form{formConfigMapText.about, func(e *edit, m mapper, at path) error {
	if text := decoded(e.str(at...)); fits(e.p.HostsIn.ConfigMaps, e.orig.GetName()) {
		after, mapped := e.text(m.(hostMap), text)
		e.mapped(mapped, base64.StdEncoding.EncodeToString([]byte(after)), at)
	}
	return nil
}}

// textSecret reports whether the Secret is opted in. One of a type that Kubernetes
// keeps is by its whole name alone.
func (e *edit) textSecret() bool {
	name := e.orig.GetName()
	if kind := e.str("type"); kind != "" && kind != "Opaque" {
		return slices.Contains(e.p.HostsIn.Secrets, name)
	}
	return fits(e.p.HostsIn.Secrets, name)
}

// keys returns the sorted keys of the map at a path.
func (e *edit) keys(at ...any) []string {
	m, _ := e.get(at...).(map[string]any)
	return sortedKeys(m)
}

// hostSecret is hostText for text in base64. What is no text stays.
func (e *edit) hostSecret(m hostMap, at ...any) {
	if after, mapped := e.text(m, decoded(e.str(at...))); len(mapped) > 0 {
		e.set(base64.StdEncoding.EncodeToString([]byte(after)), at...)
	}
}

// hostText maps the hosts in the text at a path. The changes show the hosts
// alone: the text around them may be long, or hold a password.
func (e *edit) hostText(m hostMap, at ...any) {
	after, mapped := e.text(m, e.str(at...))
	e.mapped(mapped, after, at)
}

// mapped writes a text in which hosts are mapped, if any are.
func (e *edit) mapped(mapped [][2]string, after string, at path) {
	for i, pair := range mapped {
		if slices.Index(mapped, pair) == i {
			e.record(at, pair[0], pair[1])
		}
	}
	if len(mapped) > 0 {
		e.quietly(after, at...)
	}
}

// text maps hosts, and namespaces in names of Services.
func (e *edit) text(m hostMap, text string) (string, [][2]string) {
	if len(e.namespaces) == 0 {
		return m.text(text)
	}
	return mapText(text, func(host string, placed bool) (string, bool) {
		if to, ok := one(m, host); ok {
			return to, ok
		}
		return serviceName(e.names("namespaces", e.namespaces), host, placed)
	})
}

// text maps the hosts in a text and returns each pair of hosts mapped.
func (m hostMap) text(text string) (string, [][2]string) {
	return mapText(text, func(host string, _ bool) (string, bool) { return one(m, host) })
}

// origins maps the hosts in a list of URLs.
func (m hostMap) origins(values []string) ([]string, bool) {
	var out []string
	changed := false
	for _, value := range values {
		if to, mapped := m.text(value); len(mapped) > 0 {
			value, changed = to, true
		}
		if !slices.Contains(out, value) {
			out = append(out, value)
		}
		added, mapped := mapText(value, func(host string, _ bool) (string, bool) {
			to, mode, ok := m.lookup(host)
			return to, ok && mode == HostAdd
		})
		if len(mapped) > 0 && !slices.Contains(out, added) && !slices.Contains(values, added) {
			out, changed = append(out, added), true
		}
	}
	if !changed {
		return values, false
	}
	return out, true
}

var (
	expressionHost = regexp.MustCompile(`(?:[A-Za-z0-9_-]|\\?\.)+`)
	quantifiers    = "*+?{"
)

// expression maps the hosts that stand in a regular expression, dots escaped or
// not. What ends in a domain and begins with something else is taken for the
// domain's every host.
func (m hostMap) expression(expr string) string {
	var b strings.Builder
	at := 0
	for _, found := range expressionHost.FindAllStringIndex(expr, -1) {
		start, end := found[0], found[1]
		if start > 0 && expr[start-1] == '\\' {
			start++ // the letter of a class
		}
		for end > start && end < len(expr) && strings.IndexByte(quantifiers, expr[end]) >= 0 {
			end-- // it is repeated, so it isn't itself
		}
		token := strings.TrimSuffix(expr[start:max(start, end)], `\`)
		token = strings.TrimSuffix(strings.TrimSuffix(token, "."), `\`)
		host := strings.ReplaceAll(token, `\.`, ".")
		every := ""
		if strings.HasPrefix(host, ".") && start > 0 && strings.IndexByte(")]}"+quantifiers, expr[start-1]) >= 0 {
			every = "*"
		}
		to, ok := one(m, every+host)
		if !ok || strings.HasPrefix(to, "*") != (every != "") || !isHostPlace(expr, start, start+len(token)) {
			continue
		}
		to = strings.TrimPrefix(to, "*")
		if strings.Contains(token, `\.`) {
			to = regexp.QuoteMeta(to)
		}
		b.WriteString(expr[at:start] + to)
		at = start + len(token)
	}
	return b.String() + expr[at:]
}

// mapText maps the words of a text that may be hosts. It tells the mapping
// whether the word's place shows that it is one: it is the whole text, it is in
// a URL, or it has a port.
func mapText(text string, mapping func(host string, placed bool) (string, bool)) (string, [][2]string) {
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
		if to, ok := mapping(word, isHostAlone(text, start, start+len(word))); ok && isHostPlace(text, start, start+len(word)) {
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

func isHostAlone(text string, start, end int) bool {
	return strings.TrimSpace(text) == text[start:end] || strings.HasSuffix(text[:start], "//") || strings.HasSuffix(text[:start], "@") ||
		startsPort(text[end:])
}

// startsPort reports whether a port follows, its colon escaped or not.
func startsPort(text string) bool {
	text = strings.TrimPrefix(text, `\`)
	return len(text) > 1 && text[0] == ':' && '0' <= text[1] && text[1] <= '9'
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
