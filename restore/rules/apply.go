package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Result is what a profile makes of an object.
type Result struct {
	// Object is the object with its changes. What didn't change it shares with the
	// object that came in; when nothing did it is that object.
	Object *unstructured.Unstructured
	// Changes explains every difference, in a stable order.
	Changes []Change
	// Drop says that the object must not be restored; a change says why.
	Drop bool
	// Warnings say what of the object the profile leaves as it was and somebody
	// should look at.
	Warnings []string
	// Used are the fields of the profile that had something to do; see
	// [Profile.Unused].
	Used []string
}

// Change is one difference and the rule behind it.
type Change struct {
	// Rule is the profile's field.
	Rule string `json:"rule"`
	// Path is where in the object, for example spec.rules[0].host. A key that is
	// no plain word stands in brackets.
	Path string `json:"path,omitempty"`
	// Before and After are the values; nil means that there was or is none. In
	// Secrets they are hidden, and of free text they are the hosts alone.
	Before any `json:"before,omitempty"`
	After  any `json:"after,omitempty"`
}

// String returns the change on one line: rule, path, before → after.
func (c Change) String() string {
	if c.Path == "" {
		return c.Rule + ": not restored"
	}
	return fmt.Sprintf("%s: %s: %s → %s", c.Rule, c.Path, render(c.Before), render(c.After))
}

func render(value any) string {
	if value == nil {
		return "(none)"
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // rules are full of &&
	if err := enc.Encode(value); err != nil {
		return fmt.Sprint(value)
	}
	return strings.TrimSpace(b.String())
}

// Apply applies the profile to an object as it is in the backup, with its
// original name and namespace. Owner references, when there are any, tell what a
// controller will make again from what nobody will, and a Job's status tells
// whether it has finished. It is safe for concurrent use.
func (p *Profile) Apply(obj *unstructured.Unstructured) (Result, error) {
	e := newEdit(p, obj)
	if err := p.rewrite(e); err != nil {
		return Result{}, err
	}
	if !e.drop && e.inside {
		if err := p.patch(e); err != nil {
			return Result{}, fmt.Errorf("rewrite %s: %s: %w", describe(obj), e.rule, err)
		}
		e.warnOfHosts()
	}
	if e.drop {
		return Result{Object: obj, Changes: []Change{{Rule: e.rule}}, Drop: true, Used: e.used}, nil
	}
	return Result{Object: e.obj, Changes: e.changes, Warnings: e.warnings, Used: e.used}, nil
}

// rewrite applies everything but the patches.
func (p *Profile) rewrite(e *edit) error {
	fail := func(err error) error { return fmt.Errorf("rewrite %s: %s: %w", describe(e.orig), e.rule, err) }
	if p.Match != nil {
		e.rule = "match"
		inside, err := p.Match.selectsAround(e.orig)
		if err != nil {
			return fail(err)
		}
		if !inside {
			return nil
		}
	}
	e.inside = true
	for i := range p.Drop {
		e.rule = fmt.Sprintf("drop[%d]", i)
		selected, err := p.Drop[i].selects(e.orig)
		if err != nil {
			return fail(err)
		}
		if selected {
			e.drop = true
			e.use(e.rule)
			return nil
		}
	}
	r, err := p.rewrites(e, e.orig)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", describe(e.orig), err)
	}
	e.p, e.pods = r, nil
	for _, rewriter := range rewriters {
		e.rule = rewriter.rule
		if err := rewriter.apply(e, r); err != nil {
			return fail(err)
		}
		if e.drop {
			e.use(e.rule)
			return nil
		}
	}
	return nil
}

func describe(obj *unstructured.Unstructured) string {
	name := obj.GetName()
	if ns := obj.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return obj.GetKind() + " " + name
}

// edit is an object on its way through the rewriters.
type edit struct {
	orig *unstructured.Unstructured // as it came in
	obj  *unstructured.Unstructured // as it is by now; the original until something changes
	kind schema.GroupKind
	// namespaces are those that the restore maps.
	namespaces map[string]string
	around     *Match    // the profile's
	p          *Rewrites // what applies to the object
	rule       string    // the rule at work
	inside     bool      // the profile is for the object
	drop       bool
	changes    []Change
	warnings   []string
	used       []string // fields of the profile that had something to do

	own owned

	pods []path // the pod templates, once looked for
	way  path   // room for a path under way
}

func newEdit(p *Profile, obj *unstructured.Unstructured) *edit {
	return &edit{orig: obj, obj: obj, kind: obj.GroupVersionKind().GroupKind(), p: &p.Rewrites, namespaces: p.namespaces, around: p.Match,
		way: make(path, 0, 16)}
}

// use notes that a field of the profile had something to do.
func (e *edit) use(field string) {
	if !slices.Contains(e.used, field) {
		e.used = append(e.used, field)
	}
}

// warn notes what somebody should look at.
func (e *edit) warn(what string) { e.warnings = append(e.warnings, e.rule+": "+what) }

// in reports whether the object is of one of the kinds in one of the groups.
func (e *edit) in(groups []string, kinds ...string) bool {
	return slices.Contains(groups, e.kind.Group) && slices.Contains(kinds, e.kind.Kind)
}

// path leads through maps by string and through lists by int.
type path []any

func (p path) join(more ...any) path { return slices.Concat(p, more) }

func (p path) String() string {
	var b strings.Builder
	b.Grow(64)
	for _, step := range p {
		switch s := step.(type) {
		case int:
			b.WriteByte('[')
			b.WriteString(strconv.Itoa(s))
			b.WriteByte(']')
		case string:
			if strings.ContainsAny(s, "./[] ") {
				b.WriteByte('[')
				b.WriteString(s)
				b.WriteByte(']')
				continue
			}
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

// get returns the value at a path by now, nil when there is none.
func (e *edit) get(at ...any) any { return lookup(e.obj.Object, at) }

func (e *edit) str(at ...any) string {
	s, _ := e.get(at...).(string)
	return s
}

func (e *edit) list(at ...any) []any { return anyList(e.get(at...)) }

func anyList(value any) []any {
	l, _ := value.([]any)
	return l
}

func lookup(value any, at path) any {
	for _, step := range at {
		switch s := step.(type) {
		case string:
			m, _ := value.(map[string]any)
			value = m[s]
		case int:
			l, _ := value.([]any)
			if s >= len(l) {
				return nil
			}
			value = l[s]
		}
	}
	return value
}

// set writes a value, makes the maps on the way and records the change. A list
// may be set at its length, which appends.
func (e *edit) set(value any, at ...any) { e.write(value, false, at) }

// remove removes a map's key, and the map when nothing is left in it.
func (e *edit) remove(at ...any) { e.write(nil, true, at) }

func (e *edit) write(value any, remove bool, at path) {
	before := e.get(at...)
	if remove && before == nil || !remove && before != nil && same(before, value) {
		return
	}
	e.record(at, before, value)
	e.store(value, remove, at)
}

// quietly writes without recording; the caller records what is fit to be seen.
func (e *edit) quietly(value any, at ...any) {
	e.store(value, false, at)
}

// store writes to copies of the maps and lists on the way.
func (e *edit) store(value any, remove bool, at path) {
	object, _ := store(e.obj.Object, value, remove, at, &e.own).(map[string]any)
	if e.obj == e.orig {
		e.obj = &unstructured.Unstructured{}
	}
	e.obj.Object = object
}

// store writes a value at a path in another and returns the result. It changes
// only maps and lists that are owned; nil owns all there are.
func store(in, value any, remove bool, at path, own *owned) any {
	if len(at) == 0 {
		return value
	}
	if i, ok := at[0].(int); ok {
		l := own.list(anyList(in))
		if i == len(l) {
			l = append(l, nil)
		}
		l[i] = store(l[i], value, remove, at[1:], own)
		return l
	}
	m, _ := in.(map[string]any)
	m = own.entries(m)
	key, _ := at[0].(string)
	if remove && len(at) == 1 {
		delete(m, key)
		return m
	}
	m[key] = store(m[key], value, remove, at[1:], own)
	if child, ok := m[key].(map[string]any); remove && ok && len(child) == 0 {
		delete(m, key)
	}
	return m
}

// owned are maps and lists, by address, that were made to be changed.
type owned []uintptr

// entries returns a map to be changed: this one, or a copy.
func (o *owned) entries(m map[string]any) map[string]any {
	switch {
	case m == nil:
		m = map[string]any{}
	case o == nil || slices.Contains(*o, reflect.ValueOf(m).Pointer()):
		return m
	default:
		m = maps.Clone(m)
	}
	if o != nil {
		*o = append(*o, reflect.ValueOf(m).Pointer())
	}
	return m
}

// list is entries for lists.
func (o *owned) list(l []any) []any {
	if o == nil || slices.Contains(*o, reflect.ValueOf(l).Pointer()) {
		return l
	}
	l = append(make([]any, 0, len(l)+1), l...) // with room for another
	*o = append(*o, reflect.ValueOf(l).Pointer())
	return l
}

// same is reflect.DeepEqual, quicker for what most values are.
func same(a, b any) bool {
	switch a.(type) {
	case string, bool, int64, float64:
		return a == b
	}
	return reflect.DeepEqual(a, b)
}

// lastApplied is the annotation with which kubectl apply remembers an object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func (e *edit) record(at path, before, after any) {
	e.use(e.rule)
	change := Change{Rule: e.rule, Path: at.String(), Before: runtime.DeepCopyJSONValue(before), After: runtime.DeepCopyJSONValue(after)}
	if e.in(core, "Secret") && change.Path != "metadata.name" || slices.Contains(at, any(lastApplied)) {
		change.Before, change.After = hide(before), hide(after)
	}
	if e.changes == nil {
		e.changes = make([]Change, 0, 16)
	}
	e.changes = append(e.changes, change)
}

func hide(value any) any {
	if value == nil {
		return nil
	}
	return "(hidden)"
}

func controlled(obj *unstructured.Unstructured) bool { return metav1.GetControllerOf(obj) != nil }

func copyOf(m map[string]any) map[string]any { return runtime.DeepCopyJSON(m) }

func containsEqual(list []any, value any) bool {
	return slices.ContainsFunc(list, func(v any) bool { return reflect.DeepEqual(v, value) })
}
