package rules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Usage collects which fields of a profile had something to do. The zero value
// is ready for use.
type Usage struct {
	used map[string]bool
}

// Add notes the fields that a result used, and reports whether it is the first that
// used one of them.
func (u *Usage) Add(r Result) bool {
	if u.used == nil {
		u.used = map[string]bool{}
	}
	before := len(u.used)
	for _, field := range r.Used {
		u.used[field] = true
	}
	return len(u.used) > before
}

// Unused returns the fields of the profile that matched nothing in any of the
// results that were added: an entry of a mapping or a list by itself, and
// whatever has no entries as a whole. A mapping that stands in several rules is
// one.
func (p *Profile) Unused(u Usage) []string {
	fields := map[string]bool{}
	for i := range p.Drop {
		fields[fmt.Sprintf("drop[%d]", i)] = true
	}
	for i := range p.Patches {
		fields[fmt.Sprintf("patches[%d]", i)] = true
	}
	p.Rewrites.fields(fields)
	for i := range p.Rules {
		fields[fmt.Sprintf("rules[%d]", i)] = true
		p.Rules[i].fields(fields)
	}
	maps.DeleteFunc(fields, func(field string, _ bool) bool { return u.used[field] })
	return slices.Sorted(maps.Keys(fields))
}

// fields collects the fields that are set and change something.
func (r *Rewrites) fields(into map[string]bool) {
	v := reflect.ValueOf(*r)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		field := v.Field(i)
		switch {
		case field.IsZero() || slices.Contains(settings, name) || field.Kind() == reflect.String && field.String() == "keep":
		case name == "hosts":
			for j := range r.Hosts {
				into[r.Hosts[j].field()] = true
			}
		case field.Kind() == reflect.Map:
			for _, key := range field.MapKeys() {
				into[name+"["+key.String()+"]"] = true
			}
		default:
			into[name] = true
		}
	}
}

// settings are fields that only say how others work.
var settings = []string{"externalDNSPrefixes", "podTemplates", "operators"}

// field names the mapping by what it maps, wherever it stands.
func (h *HostMapping) field() string { return "hosts[" + h.From + h.FromRegexp + "]" }
