package rules

import (
	"reflect"
	"slices"
)

func rewriteNodeSelector(e *edit, p *Rewrites) error {
	if p.NodeSelector == nil {
		return nil
	}
	for _, spec := range e.podSpecs() {
		p.NodeSelector.apply(e, spec.join("nodeSelector"))
	}
	return nil
}

func rewriteTolerations(e *edit, p *Rewrites) error {
	if p.Tolerations == nil {
		return nil
	}
	for _, spec := range e.podSpecs() {
		at := spec.join("tolerations")
		before := e.list(at...)
		after := slices.DeleteFunc(slices.Clone(before), func(have any) bool {
			return slices.ContainsFunc(p.Tolerations.Remove, func(t Toleration) bool { return t.matches(have) })
		})
		for _, t := range p.Tolerations.Add {
			if !slices.ContainsFunc(after, func(have any) bool { return sameToleration(have, t.object()) }) {
				after = append(after, t.object())
			}
		}
		switch {
		case len(after) > 0:
			e.set(after, at...)
		case len(before) > 0:
			e.remove(at...)
		}
	}
	return nil
}

func rewriteNodeLabels(e *edit, p *Rewrites) error {
	if len(p.NodeLabels) == 0 {
		return nil
	}
	return e.places("nodeLabels", nil)
}

// affinities are what affinity can remove, by its name.
var affinities = map[string]path{
	"nodeAffinity":              {"affinity", "nodeAffinity"},
	"podAffinity":               {"affinity", "podAffinity"},
	"podAntiAffinity":           {"affinity", "podAntiAffinity"},
	"topologySpreadConstraints": {"topologySpreadConstraints"},
}

func rewriteAffinity(e *edit, p *Rewrites) error {
	if p.Affinity == nil {
		return nil
	}
	for _, spec := range e.podSpecs() {
		for _, name := range p.Affinity.Remove {
			e.remove(spec.join(affinities[name]...)...)
		}
	}
	return nil
}

// formPriorityClass and formRuntimeClass take away what admission has worked
// out from the class in a Pod, for it works it out again.
var (
	formPriorityClass = &form{formOne.about, func(e *edit, m mapper, at path) error {
		return e.class(m, at, "priority", "preemptionPolicy")
	}}
	formRuntimeClass = &form{formOne.about, func(e *edit, m mapper, at path) error {
		return e.class(m, at, "overhead")
	}}
)

func (e *edit) class(m mapper, at path, derived ...string) error {
	to, ok := one(m, e.str(at...))
	if !ok {
		return nil
	}
	e.set(to, at...)
	if e.in(core, "Pod") {
		for _, field := range derived {
			e.remove("spec", field)
		}
	}
	return nil
}

// object returns the toleration as it stands in a pod.
func (t Toleration) object() map[string]any {
	out := map[string]any{}
	for field, value := range map[string]string{"key": t.Key, "operator": t.Operator, "value": t.Value, "effect": t.Effect} {
		if value != "" {
			out[field] = value
		}
	}
	if t.TolerationSeconds != nil {
		out["tolerationSeconds"] = *t.TolerationSeconds
	}
	return out
}

// matches reports whether a toleration in a pod has all the fields t has.
func (t Toleration) matches(have any) bool {
	h, ok := have.(map[string]any)
	if !ok {
		return false
	}
	h = defaulted(h)
	for field, want := range t.object() {
		if !reflect.DeepEqual(h[field], want) {
			return false
		}
	}
	return true
}

func sameToleration(a any, b map[string]any) bool {
	m, ok := a.(map[string]any)
	return ok && reflect.DeepEqual(defaulted(m), defaulted(b))
}

// defaulted leaves out what is empty and says the operator, as Kubernetes reads
// a toleration.
func defaulted(t map[string]any) map[string]any {
	out := map[string]any{"operator": "Equal"}
	for field, value := range t {
		if value != nil && value != "" {
			out[field] = value
		}
	}
	return out
}
