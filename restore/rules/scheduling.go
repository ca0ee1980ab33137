package rules

import (
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
)

func rewriteNodeSelector(e *edit, p *Rewrites) error {
	if p.NodeSelector == nil {
		return nil
	}
	for _, spec := range podSpecs(e.obj) {
		p.NodeSelector.apply(e, spec.join("nodeSelector"))
	}
	return nil
}

func rewriteTolerations(e *edit, p *Rewrites) error {
	if p.Tolerations == nil {
		return nil
	}
	for _, spec := range podSpecs(e.obj) {
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

// object returns the toleration as it stands in a pod.
func (t Toleration) object() map[string]any {
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&t)
	if err != nil {
		panic(err) // a struct of scalars always converts
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
