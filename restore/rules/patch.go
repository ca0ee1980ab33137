package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// change applies a patch to one object and returns the patched copy. Original is
// the object as it came in.
type change func(obj, original map[string]any) (map[string]any, error)

// digest tells a patch from others.
func (p *Patch) digest() string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // a decoded patch always marshals
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:6])
}

// patch applies the profile's patches. A patch that would change its own result
// again leaves a mark, by which it is known to be done.
func (p *Profile) patch(e *edit) error {
	done := strings.Split(e.orig.GetAnnotations()[AnnotationPatched], ",")
	var once []string
	changed := false
	for i := range p.Patches {
		patch := &p.Patches[i]
		e.rule = fmt.Sprintf("patches[%d]", i)
		selected, err := patch.Match.selects(e.orig)
		if err != nil {
			return fmt.Errorf("match: %w", err)
		}
		if !selected || slices.Contains(done, patch.digest()) {
			continue
		}
		e.use(e.rule)
		after, err := patch.change(e.obj.Object, e.orig.Object)
		if err != nil {
			return err
		}
		if err := sameIdentity(e.obj.Object, after); err != nil {
			return err
		}
		if !patch.settled(after) {
			once = append(once, patch.digest())
		}
		before := e.obj.Object
		e.obj = &unstructured.Unstructured{Object: after}
		n := len(e.changes)
		e.difference(nil, before, after)
		changed = changed || len(e.changes) > n
	}
	e.rule = "patches"
	if len(once) > 0 {
		e.set(strings.Join(slices.Compact(slices.Sorted(slices.Values(append(once, slices.DeleteFunc(done, func(s string) bool { return s == "" })...)))), ","),
			"metadata", "annotations", AnnotationPatched)
	}
	if !changed {
		return nil
	}
	return p.settled(e.obj)
}

// settled reports whether the patch leaves its own result alone.
func (p *Patch) settled(result map[string]any) bool {
	if selected, err := p.Match.selects(&unstructured.Unstructured{Object: result}); err != nil || !selected {
		return err == nil
	}
	again, err := p.change(result, result)
	return err == nil && reflect.DeepEqual(result, again)
}

// settled errs when a rewrite would change what a patch wrote, for then no
// second restore would give the same as the first.
func (p *Profile) settled(obj *unstructured.Unstructured) error {
	again := newEdit(p, obj)
	if err := p.rewrite(again); err != nil {
		return err
	}
	if len(again.changes) > 0 {
		return fmt.Errorf("one writes what a rewrite changes again (%s); write the final value", again.changes[0])
	}
	return nil
}

func sameIdentity(before, after map[string]any) error {
	for _, field := range []string{"name", "namespace"} {
		at := path{"metadata", field}
		if !reflect.DeepEqual(lookup(before, at), lookup(after, at)) {
			return fmt.Errorf("it would change %s, which stays", at)
		}
	}
	return nil
}

// difference records what differs between two values at a path.
func (e *edit) difference(at path, before, after any) {
	b, isMap := before.(map[string]any)
	a, stays := after.(map[string]any)
	if isMap && stays {
		for _, key := range sortedKeys(b) {
			if _, kept := a[key]; !kept {
				e.record(at.join(key), b[key], nil)
			}
		}
		for _, key := range sortedKeys(a) {
			e.difference(at.join(key), b[key], a[key])
		}
		return
	}
	bl, isList := before.([]any)
	al, stays := after.([]any)
	if isList && stays && len(bl) == len(al) {
		for i := range al {
			e.difference(at.join(i), bl[i], al[i])
		}
		return
	}
	if !reflect.DeepEqual(before, after) {
		e.record(at, before, after)
	}
}

// compile makes a patch's change.
func (v validator) patch(p *Patch) {
	v.at(".match").match(&p.Match)
	given := 0
	for _, is := range []bool{p.JSONPatch != nil, p.MergePatch != nil, p.CEL != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		v.fault("want one of jsonPatch, mergePatch and cel")
		return
	}
	switch {
	case p.JSONPatch != nil:
		p.change = v.at(".jsonPatch").jsonPatch(p.JSONPatch)
	case p.MergePatch != nil:
		p.change = v.at(".mergePatch").mergePatch(p.MergePatch)
	default:
		p.change = v.at(".cel").celPatch(p.CEL)
	}
}

func (v validator) jsonPatch(raw json.RawMessage) change {
	var operations []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		From  string `json:"from"`
		Value any    `json:"value"`
	}
	if err := json.Unmarshal(raw, &operations); err != nil {
		v.fault("want a list of operations")
		return nil
	}
	before := len(v.c.faults)
	for i, op := range operations {
		at := v.at("[%d]", i)
		at.oneOf(op.Op, "", "add", "remove", "replace", "move", "copy", "test")
		if op.Op == "" {
			at.fault("it has no op")
		}
		for _, pointer := range []string{op.Path, op.From} {
			if op.Op == "test" || pointer == "" && pointer != op.Path {
				continue
			}
			at.pointer(pointer)
		}
	}
	if len(v.c.faults) > before {
		return nil
	}
	apply, err := v.c.languages.JSONPatch(raw)
	if err != nil {
		v.fault("%s", err)
		return nil
	}
	return func(obj, _ map[string]any) (map[string]any, error) {
		out, err := apply(obj)
		if err != nil {
			return nil, err
		}
		m, ok := out.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("it leaves no object")
		}
		return m, nil
	}
}

func (v validator) mergePatch(raw json.RawMessage) change {
	var patch map[string]any
	if err := utiljson.Unmarshal(raw, &patch); err != nil || patch == nil {
		v.fault("want a mapping")
		return nil
	}
	for _, field := range []string{"name", "namespace"} {
		if metadata, _ := patch["metadata"].(map[string]any); metadata != nil {
			if _, touched := metadata[field]; touched {
				v.at(".metadata.%s", field).fault("an object's %s stays", field)
			}
		}
	}
	return func(obj, _ map[string]any) (map[string]any, error) {
		out, _ := merge(copyOf(obj), copyOf(patch)).(map[string]any)
		return out, nil
	}
}

func (v validator) celPatch(values map[string]string) change {
	type write struct {
		at    path
		value Expression
	}
	var writes []write
	for _, pointer := range sortedKeys(values) {
		at := v.at("[%s]", pointer)
		steps := at.pointer(pointer)
		value, err := v.c.languages.Value(values[pointer])
		if err != nil {
			at.fault("%s", err)
		}
		writes = append(writes, write{steps, value})
	}
	return func(obj, original map[string]any) (map[string]any, error) {
		out := copyOf(obj)
		for _, w := range writes {
			value, err := w.value(original)
			if err != nil {
				return nil, fmt.Errorf("evaluate the value of %s: %w", w.at, err)
			}
			at, err := concrete(out, w.at)
			if err != nil {
				return nil, err
			}
			out, _ = store(out, value, false, at, nil).(map[string]any)
		}
		return out, nil
	}
}

// pointer reads a JSON pointer (RFC 6901) to a place that may be written.
func (v validator) pointer(pointer string) path {
	if !strings.HasPrefix(pointer, "/") {
		v.fault("want a path such as /spec/replicas, got %q", pointer)
		return nil
	}
	var at path
	for step := range strings.SplitSeq(pointer[1:], "/") {
		at = append(at, strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
	}
	for _, field := range []string{"name", "namespace"} {
		if slices.Equal(at, path{"metadata", field}) {
			v.fault("an object's %s stays", field)
		}
	}
	return at
}

// concrete makes numbers of a path's steps that lead through lists.
func concrete(obj map[string]any, at path) (path, error) {
	out := path{}
	var value any = obj
	for _, step := range at {
		if list, ok := value.([]any); ok {
			i, err := strconv.Atoi(step.(string))
			if err != nil || i < 0 || i >= len(list) {
				return nil, fmt.Errorf("%s has no element %q", out, step)
			}
			step = i
		}
		out = append(out, step)
		value = lookup(value, path{step})
	}
	return out, nil
}
