package rules

import (
	"maps"
	"slices"
	"strings"
)

// InNamespaces returns the profile for a restore that maps namespaces: it
// rewrites references to the mapped ones. The objects' own namespace stays, for
// Velero maps it.
func (p *Profile) InNamespaces(mapping map[string]string) *Profile {
	out := *p
	out.namespaces = maps.Clone(mapping)
	maps.DeleteFunc(out.namespaces, func(from, to string) bool { return from == to })
	return &out
}

// Forms of naming a namespace, or something in one.
var (
	// formInNamespace is a namespace, a slash and a name.
	formInNamespace = &form{"namespace/name", func(e *edit, m mapper, at path) error {
		if to, ok := inNamespace(m, e.str(at...)); ok {
			e.set(to, at...)
		}
		return nil
	}}
	formInNamespaceList = &form{"list of namespace/name", func(e *edit, m mapper, at path) error {
		values, ok := strs(e.list(at...))
		if !ok {
			return nil
		}
		changed := false
		for i, value := range values {
			if to, ok := inNamespace(m, value); ok {
				values[i], changed = to, true
			}
		}
		if changed {
			e.set(anys(values), at...)
		}
		return nil
	}}
	// formNamespaceKey is the label selector's entry for a namespace's name.
	formNamespaceKey = &form{"expression on " + namespaceName, func(e *edit, m mapper, at path) error {
		if e.str(at.join("key")...) != namespaceName {
			return nil
		}
		return formList.rewrite(e, m, at.join("values"))
	}}
	formServiceName = &form{"name of a Service in DNS", func(e *edit, m mapper, at path) error {
		if to, ok := serviceName(m, e.str(at...), false); ok {
			e.set(to, at...)
		}
		return nil
	}}
	formServiceNames = &form{"list of names of Services in DNS", func(e *edit, m mapper, at path) error {
		values, ok := strs(e.list(at...))
		if !ok {
			return nil
		}
		changed := false
		for i, value := range values {
			if to, ok := serviceName(m, value, false); ok {
				values[i], changed = to, true
			}
		}
		if changed {
			e.set(anys(values), at...)
		}
		return nil
	}}
	// formPrincipals is Istio's: a trust domain and where in it an account is.
	formPrincipals = &form{"list of …/ns/namespace/sa/account", func(e *edit, m mapper, at path) error {
		return e.principals(at, "ns", func(ns, _ string) (string, bool) { return one(m, ns) })
	}}
	// formAccountSubject is the group of a namespace's accounts, or an account as a user.
	formAccountSubject = &form{"system:serviceaccounts:namespace or system:serviceaccount:namespace:account", func(e *edit, m mapper, at path) error {
		parts := strings.Split(e.str(at...), ":")
		if !isAccountSubject(parts) {
			return nil
		}
		if to, ok := one(m, parts[2]); ok {
			parts[2] = to
			e.set(strings.Join(parts, ":"), at...)
		}
		return nil
	}}
	// formMiddlewares is Traefik's: a namespace, a dash, a name and a provider.
	formMiddlewares = &form{"list of namespace-name@kubernetescrd", func(e *edit, m mapper, at path) error {
		parts := strings.Split(e.str(at...), ",")
		for i, part := range parts {
			name, crd := strings.CutSuffix(strings.TrimSpace(part), "@kubernetescrd")
			for end := len(name); crd && end > 0; end = strings.LastIndex(name[:end], "-") {
				if m.(nameMap).produces(name[:end]) {
					break
				}
				if to, ok := one(m, name[:end]); ok && end < len(name) {
					parts[i] = strings.Replace(part, name, to+name[end:], 1)
					break
				}
			}
		}
		e.set(strings.Join(parts, ","), at...)
		return nil
	}}
)

// principals rewrites what follows a word in each of a list of Istio's
// principals, given the namespace as it was and the word's value.
func (e *edit) principals(at path, word string, rewrite func(ns, value string) (string, bool)) error {
	was, plain := strs(anyList(lookup(e.orig.Object, at)))
	values, _ := strs(e.list(at...))
	if !plain || len(was) != len(values) {
		return nil
	}
	after := func(parts []string, word string) int {
		if i := slices.Index(parts, word) + 1; i > 0 && i < len(parts) {
			return i
		}
		return -1
	}
	changed := false
	for i := range values {
		parts, now := strings.Split(was[i], "/"), strings.Split(values[i], "/")
		ns, value := after(parts, "ns"), after(parts, word)
		if ns < 0 || value < 0 {
			continue
		}
		if to, ok := rewrite(parts[ns], parts[value]); ok {
			now[value] = to
			values[i], changed = strings.Join(now, "/"), true
		}
	}
	if changed {
		e.set(anys(values), at...)
	}
	return nil
}

func isAccountSubject(parts []string) bool {
	return len(parts) >= 3 && parts[0] == "system" && (parts[1] == "serviceaccounts" && len(parts) == 3 || parts[1] == "serviceaccount" && len(parts) == 4)
}

const namespaceName = "kubernetes.io/metadata.name"

func inNamespace(m mapper, value string) (string, bool) {
	ns, name, ok := strings.Cut(value, "/")
	if !ok {
		return "", false
	}
	to, ok := one(m, ns)
	return to + "/" + name, ok
}

// serviceName maps the namespace in the name that cluster DNS gives a Service:
// service.namespace.svc, with or without more on either side. The form without
// svc could be anything, so it counts only where the caller is sure.
func serviceName(m mapper, name string, sure bool) (string, bool) {
	parts := strings.Split(name, ".")
	at := slices.Index(parts, "svc") - 1
	if at < 1 && sure && len(parts) == 2 {
		at = 1
	}
	if at < 1 {
		return "", false
	}
	to, ok := one(m, parts[at])
	if ok {
		parts[at] = to
	}
	return strings.Join(parts, "."), ok
}

func rewriteNamespaces(e *edit, _ *Rewrites) error {
	if len(e.namespaces) == 0 {
		return nil
	}
	return e.places("namespaces", e.names("namespaces", e.namespaces))
}
