package rules

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// rewrites returns what is to be rewritten in an object: the profile's rewrites
// and those of every rule that selects it.
func (p *Profile) rewrites(e *edit, obj *unstructured.Unstructured) (*Rewrites, error) {
	if len(p.Rules) == 0 {
		return &p.Rewrites, nil
	}
	key := make([]byte, len(p.Rules))
	for i := range p.Rules {
		selected, err := p.Rules[i].Match.selects(obj)
		if err != nil {
			return nil, fmt.Errorf("rules[%d].match: %w", i, err)
		}
		if selected {
			key[i] = 1
			e.use(fmt.Sprintf("rules[%d]", i))
		}
	}
	if known, ok := p.effective.Load(string(key)); ok {
		return known.(*Rewrites), nil
	}
	all := reflect.ValueOf(p.Rewrites)
	for i, selected := range key {
		if selected == 1 {
			all = merged(all, reflect.ValueOf(p.Rules[i].Rewrites))
		}
	}
	r := all.Interface().(Rewrites)
	known, _ := p.effective.LoadOrStore(string(key), &r)
	return known.(*Rewrites), nil
}

// merged returns what base and over say together: over goes before base where
// there is room for one.
func merged(base, over reflect.Value) reflect.Value {
	switch {
	case over.IsZero():
		return base
	case base.IsZero():
		return over
	}
	out := reflect.New(base.Type()).Elem()
	switch base.Kind() {
	case reflect.Struct:
		out.Set(base)
		for i := range base.NumField() {
			if base.Type().Field(i).IsExported() {
				out.Field(i).Set(merged(base.Field(i), over.Field(i)))
			}
		}
	case reflect.Map:
		out.Set(reflect.MakeMap(base.Type()))
		for _, from := range []reflect.Value{base, over} {
			for _, key := range from.MapKeys() {
				value := from.MapIndex(key)
				if have := out.MapIndex(key); have.IsValid() {
					value = merged(have, value)
				}
				out.SetMapIndex(key, value)
			}
		}
	case reflect.Slice:
		// The first of equals counts.
		out.Set(reflect.AppendSlice(reflect.AppendSlice(reflect.MakeSlice(base.Type(), 0, base.Len()+over.Len()), over), base))
	case reflect.Pointer:
		if base.Type().Elem().Kind() != reflect.Struct {
			return over
		}
		out.Set(reflect.New(base.Type().Elem()))
		out.Elem().Set(merged(base.Elem(), over.Elem()))
	default:
		return over
	}
	return out
}
