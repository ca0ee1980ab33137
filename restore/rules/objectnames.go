package rules

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// namedKinds are the kinds that the field names renames: what pods and routes
// refer to.
var namedKinds = []string{"ConfigMap", "PersistentVolumeClaim", "Secret", "Service", "ServiceAccount"}

// namesInUse are names that Kubernetes, OpenShift and Istio give in every
// namespace. Only a mapping of their own renames them.
var namesInUse = map[string][]string{
	"ConfigMap":      tellsAuthority,
	"Service":        {"kubernetes"},
	"ServiceAccount": {"default", "builder", "deployer"},
}

// ofStatefulSet is what the claims of a StatefulSet end in. It looks for them by
// that name, so only a mapping of their own renames them.
var ofStatefulSet = regexp.MustCompile(`-[0-9]+$`)

// objectNames maps names of the objects of one kind. In what "*" maps to an
// asterisk stands for the name.
type objectNames struct {
	nameMap
	kind string
	// others are names that another rule maps to: of objects that are at the site
	// already.
	others map[string]string
}

func (m objectNames) lookup(name string) (string, HostMode, bool) {
	if to, ok := m.names[name]; ok {
		m.edit.use(m.rule)
		return to, HostReplace, true
	}
	to, ok := m.names["*"]
	switch {
	case !ok, name == "", m.produces(name), wildcard(to, name), slices.Contains(namesInUse[m.kind], name),
		m.kind == "PersistentVolumeClaim" && ofStatefulSet.MatchString(name),
		slices.Contains(slices.Collect(maps.Values(m.others)), name):
		return "", "", false
	}
	m.edit.use(m.rule)
	return strings.Replace(to, "*", name, 1), HostReplace, true
}

// naming is the rewriter of the names of one kind and of the references to them.
func naming(kind string) rewriter {
	rule := "names[" + kind + "]"
	return rewriter{rule, func(e *edit, p *Rewrites) error {
		names := p.Names[kind]
		if len(names) == 0 {
			return nil
		}
		m := objectNames{nameMap: e.names(rule, names), kind: kind}
		if kind == "Secret" {
			m.others = p.ImagePullSecrets
		}
		return e.places(rule, m)
	}}
}

// Forms of naming an object.
var (
	// formOwnName is the object's own name.
	formOwnName = &form{"the object's own name", formOne.rewrite}
	// formReference is a name with, perhaps, its kind and namespace beside it.
	formReference = &form{"reference", func(e *edit, m mapper, at path) error {
		beside, _ := lookup(e.orig.Object, at[:len(at)-1]).(map[string]any)
		if kind, ok := beside["kind"].(string); ok && kind != m.(objectNames).kind {
			return nil
		}
		ns, _ := beside["namespace"].(string)
		return e.rename(m, at, ns, formOne)
	}}
	// formReferenceList is a list of names.
	formReferenceList = &form{"list of references", func(e *edit, m mapper, at path) error {
		return e.rename(m, at, "", formList)
	}}
	// formScopedReference is a name, or a namespace, a slash and a name.
	formScopedReference = &form{"name or namespace/name", func(e *edit, m mapper, at path) error {
		was, _ := lookup(e.orig.Object, at).(string)
		is := e.str(at...)
		ns, name, scoped := strings.Cut(was, "/")
		if !scoped {
			return e.rename(m, at, "", formOne)
		}
		if to, ok := one(m, name); ok && e.covers(ns) {
			e.set(strings.TrimSuffix(is, name)+to, at...)
		}
		return nil
	}}
	// formPrincipalAccounts is Istio's: a trust domain and where in it an account is.
	formPrincipalAccounts = &form{formPrincipals.about, func(e *edit, m mapper, at path) error {
		return e.principals(at, "sa", func(ns, account string) (string, bool) {
			to, ok := one(m, account)
			return to, ok && e.covers(ns)
		})
	}}
	// formResourceNames is a rule of a Role. In one on several kinds, or on several
	// namespaces of which the profile is for some, a name may be another object's.
	formResourceNames = &form{"resourceNames of a rule on this kind alone", func(e *edit, m mapper, at path) error {
		plural := strings.ToLower(m.(objectNames).kind) + "s"
		resources, _ := strs(e.list(at.join("resources")...))
		for _, resource := range resources {
			if resource != plural && !strings.HasPrefix(resource, plural+"/") {
				return nil
			}
		}
		if len(resources) == 0 || e.orig.GetNamespace() == "" && e.around != nil && len(e.around.Namespaces) > 0 {
			return nil
		}
		return formList.rewrite(e, m, at.join("resourceNames"))
	}}
	// formSubject is an account, or an account as a user.
	formSubject = &form{"reference, or system:serviceaccount:namespace:account", func(e *edit, m mapper, at path) error {
		was, _ := lookup(e.orig.Object, at).(string)
		parts := strings.Split(was, ":")
		if !isAccountSubject(parts) || len(parts) < 4 {
			return formReference.rewrite(e, m, at)
		}
		if to, ok := one(m, parts[3]); ok && e.covers(parts[2]) {
			e.set(strings.TrimSuffix(e.str(at...), parts[3])+to, at...)
		}
		return nil
	}}
	// formServiceReference is a Service's name alone or as cluster DNS has it.
	formServiceReference = &form{"name of a Service, in DNS or alone", func(e *edit, m mapper, at path) error {
		was, _ := lookup(e.orig.Object, at).(string)
		is := e.str(at...)
		parts := strings.Split(was, ".")
		ns := ""
		switch {
		case len(parts) > 2 && parts[2] == "svc":
			ns = parts[1]
		case len(parts) > 1:
			return nil
		}
		rest, kept := strings.CutPrefix(is, parts[0])
		if to, ok := one(m, parts[0]); ok && kept && e.covers(ns) {
			e.set(to+rest, at...)
		}
		return nil
	}}
)

// rename maps what is at a path to objects in a namespace, the object's own when
// it is empty.
func (e *edit) rename(m mapper, at path, ns string, f *form) error {
	if !e.covers(ns) {
		return nil
	}
	return f.rewrite(e, m, at)
}

// covers reports whether the profile is for objects in a namespace; an empty one
// is the object's own.
func (e *edit) covers(ns string) bool {
	return ns == "" || e.around == nil || len(e.around.Namespaces) == 0 || fits(e.around.Namespaces, ns)
}
