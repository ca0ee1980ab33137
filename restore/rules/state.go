package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// OriginalState is what a workload had before it was put on standby, kept in
// its annotation kubectl-dr.io/original-state. Exactly one of Replicas, Suspend
// and Gated is set.
type OriginalState struct {
	// Replicas is the number of replicas.
	Replicas *int64 `json:"replicas,omitempty"`
	// Suspend is whether a CronJob or Job was suspended.
	Suspend *bool `json:"suspend,omitempty"`
	// Gated means that standby only added something, which goes away again: the
	// node selector of a DaemonSet or the scheduling gate of a Pod.
	Gated bool `json:"gated,omitempty"`
	// Defaulted means that the object didn't say Replicas or Suspend itself; the
	// value is Kubernetes' default.
	Defaulted bool `json:"defaulted,omitempty"`
}

// Encode returns the annotation's value.
func (s OriginalState) Encode() string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a struct of scalars always marshals
	}
	return string(raw)
}

// DecodeOriginalState reads the annotation's value.
func DecodeOriginalState(value string) (OriginalState, error) {
	var s OriginalState
	d := json.NewDecoder(bytes.NewReader([]byte(value)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("read annotation %s: %w", AnnotationOriginalState, err)
	}
	set := 0
	for _, is := range []bool{s.Replicas != nil, s.Suspend != nil, s.Gated} {
		if is {
			set++
		}
	}
	if set != 1 || d.More() || s.Gated && s.Defaulted || s.Replicas != nil && *s.Replicas < 0 {
		return s, fmt.Errorf("read annotation %s: %q says nothing clear", AnnotationOriginalState, value)
	}
	return s, nil
}

// ErrNoStandby is returned for kinds that can't be put on standby.
var ErrNoStandby = errors.New("kind has no standby")

// standby is how the workloads of some kinds are held back.
type standby struct {
	// at is the one field that standby changes.
	at path
	// hold returns what the field becomes, and what it goes back to.
	hold func(before any) (held any, original OriginalState)
	// held reports whether the field is as hold leaves it.
	held func(value any) bool
	// release returns the value to go back to, nil for no field at all.
	release func(held any, original OriginalState) any
}

var byReplicas = &standby{
	at: path{"spec", "replicas"},
	hold: func(before any) (any, OriginalState) {
		n, ok := before.(int64)
		if !ok {
			n = 1
		}
		return int64(0), OriginalState{Replicas: &n, Defaulted: !ok}
	},
	held: func(value any) bool { return value == int64(0) },
	release: func(_ any, s OriginalState) any {
		if s.Defaulted || s.Replicas == nil {
			return nil
		}
		return *s.Replicas
	},
}

var bySuspension = &standby{
	at: path{"spec", "suspend"},
	hold: func(before any) (any, OriginalState) {
		suspended, ok := before.(bool)
		return true, OriginalState{Suspend: &suspended, Defaulted: !ok}
	},
	held: func(value any) bool { return value == true },
	release: func(_ any, s OriginalState) any {
		if s.Defaulted || s.Suspend == nil {
			return nil
		}
		return *s.Suspend
	},
}

// A DaemonSet has no number to set to zero, so it is sent to nodes that aren't.
var byNodeSelector = &standby{
	at: path{"spec", "template", "spec", "nodeSelector"},
	hold: func(before any) (any, OriginalState) {
		held := map[string]any{StandbyGate: "true"}
		if m, ok := before.(map[string]any); ok {
			maps.Copy(held, m)
		}
		return held, OriginalState{Gated: true}
	},
	held: func(value any) bool {
		m, _ := value.(map[string]any)
		return m[StandbyGate] != nil
	},
	release: func(held any, _ OriginalState) any {
		m, _ := held.(map[string]any)
		m = maps.Clone(m)
		delete(m, StandbyGate)
		if len(m) == 0 {
			return nil
		}
		return m
	},
}

// A Pod that no controller will make again is restored, and waits.
var byGate = &standby{
	at: path{"spec", "schedulingGates"},
	hold: func(before any) (any, OriginalState) {
		gates, _ := before.([]any)
		return append(slices.Clone(gates), map[string]any{"name": StandbyGate}), OriginalState{Gated: true}
	},
	held: func(value any) bool {
		gates, _ := value.([]any)
		return slices.ContainsFunc(gates, isStandbyGate)
	},
	release: func(held any, _ OriginalState) any {
		gates, _ := held.([]any)
		gates = slices.DeleteFunc(slices.Clone(gates), isStandbyGate)
		if len(gates) == 0 {
			return nil
		}
		return gates
	},
}

func isStandbyGate(gate any) bool {
	m, _ := gate.(map[string]any)
	return m["name"] == StandbyGate
}

var standbys = map[schema.GroupKind]*standby{
	{Group: "apps", Kind: "Deployment"}:                    byReplicas,
	{Group: "apps", Kind: "StatefulSet"}:                   byReplicas,
	{Group: "apps", Kind: "ReplicaSet"}:                    byReplicas,
	{Group: "", Kind: "ReplicationController"}:             byReplicas,
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: byReplicas,
	{Group: "argoproj.io", Kind: "Rollout"}:                byReplicas,
	{Group: "batch", Kind: "CronJob"}:                      bySuspension,
	{Group: "batch", Kind: "Job"}:                          bySuspension,
	{Group: "apps", Kind: "DaemonSet"}:                     byNodeSelector,
	{Group: "", Kind: "Pod"}:                               byGate,
}

func standbyOf(obj *unstructured.Unstructured) *standby {
	return standbys[obj.GroupVersionKind().GroupKind()]
}

// scalableKinds returns the lower-case kinds that have replicas.
func scalableKinds() []string {
	var kinds []string
	for gk, s := range standbys {
		if s == byReplicas {
			kinds = append(kinds, strings.ToLower(gk.Kind))
		}
	}
	slices.Sort(kinds)
	return kinds
}

// OnStandby reports whether an object is held back and remembers what it had.
func OnStandby(obj *unstructured.Unstructured) bool {
	s := standbyOf(obj)
	_, remembers := obj.GetAnnotations()[AnnotationOriginalState]
	return s != nil && remembers && s.held(lookup(obj.Object, s.at))
}

// Standby returns a copy of a workload with nothing running, which remembers
// what it had. A workload on standby stays as it is. The error of a kind that
// isn't known wraps [ErrNoStandby].
func Standby(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	e := newEdit(&Profile{}, obj)
	if standbyOf(obj) == nil {
		return nil, fmt.Errorf("put %s on standby: %w", describe(obj), ErrNoStandby)
	}
	if err := hold(e); err != nil {
		return nil, fmt.Errorf("put %s on standby: %w", describe(obj), err)
	}
	return e.obj, nil
}

// hold puts the workload in an edit on standby.
func hold(e *edit) error {
	s := standbyOf(e.obj)
	if OnStandby(e.obj) {
		_, err := DecodeOriginalState(e.obj.GetAnnotations()[AnnotationOriginalState])
		return err
	}
	held, original := s.hold(e.get(s.at...))
	e.set(held, s.at...)
	e.set(original.Encode(), "metadata", "annotations", AnnotationOriginalState)
	return nil
}

// Activate returns a copy of a workload as it was before [Standby]: what was
// suspended stays suspended, and what had no replicas gets none. An object that
// isn't on standby stays as it is, less a stale annotation.
func Activate(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	patch, err := activation(obj)
	if err != nil {
		return nil, err
	}
	out := obj.DeepCopy()
	out.Object, _ = merge(out.Object, patch).(map[string]any)
	if annotations, ok := lookup(out.Object, path{"metadata", "annotations"}).(map[string]any); ok && len(annotations) == 0 {
		unstructured.RemoveNestedField(out.Object, "metadata", "annotations")
	}
	return out, nil
}

// ActivationPatch returns the JSON merge patch that does what [Activate] does.
// It is "{}" when there is nothing to do.
func ActivationPatch(obj *unstructured.Unstructured) ([]byte, error) {
	patch, err := activation(obj)
	if err != nil {
		return nil, err
	}
	return json.Marshal(patch)
}

func activation(obj *unstructured.Unstructured) (map[string]any, error) {
	value, remembers := obj.GetAnnotations()[AnnotationOriginalState]
	s := standbyOf(obj)
	if !remembers || s == nil {
		return map[string]any{}, nil
	}
	patch := map[string]any{}
	store(patch, nil, false, path{"metadata", "annotations", AnnotationOriginalState})
	if !OnStandby(obj) {
		return patch, nil
	}
	original, err := DecodeOriginalState(value)
	if err != nil {
		return nil, fmt.Errorf("activate %s: %w", describe(obj), err)
	}
	held := lookup(obj.Object, s.at)
	if _, wrong := s.hold(nil); wrong.kind() != original.kind() {
		return nil, fmt.Errorf("activate %s: annotation %s is %q, which is another kind's", describe(obj), AnnotationOriginalState, value)
	}
	back := s.release(held, original)
	if s == byNodeSelector {
		// A merge patch takes a key out of a map only by naming it.
		back = map[string]any{StandbyGate: nil}
		if m, _ := held.(map[string]any); len(m) == 1 {
			back = nil
		}
	}
	store(patch, back, false, s.at)
	return patch, nil
}

func (s OriginalState) kind() string {
	switch {
	case s.Replicas != nil:
		return "replicas"
	case s.Suspend != nil:
		return "suspend"
	default:
		return "gated"
	}
}

// merge applies a JSON merge patch (RFC 7386) to a value it may change.
func merge(value, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	v, ok := value.(map[string]any)
	if !ok {
		v = map[string]any{}
	}
	for key, change := range p {
		if change == nil {
			delete(v, key)
			continue
		}
		v[key] = merge(v[key], change)
	}
	return v
}

func rewriteState(e *edit, p *Rewrites) error {
	if p.State != StateStandby || standbyOf(e.obj) == nil {
		return nil
	}
	if e.in([]string{""}, "Pod") && controlled(e.orig) {
		// Restored, it would run before its controller is there to stop it.
		e.drop = true
		return nil
	}
	return hold(e)
}

func rewriteReplicas(e *edit, p *Rewrites) error {
	if standbyOf(e.obj) != byReplicas {
		return nil
	}
	for _, key := range sortedKeys(p.Replicas) {
		kind, name, _ := strings.Cut(key, "/")
		if !strings.EqualFold(kind, e.obj.GetKind()) || name != e.obj.GetName() {
			continue
		}
		e.use("replicas[" + key + "]")
		n := p.Replicas[key]
		if !OnStandby(e.obj) {
			e.set(n, byReplicas.at...)
			continue
		}
		at := path{"metadata", "annotations", AnnotationOriginalState}
		if was, err := DecodeOriginalState(e.str(at...)); err != nil || !reflect.DeepEqual(was.Replicas, &n) {
			e.set(OriginalState{Replicas: &n}.Encode(), at...)
		}
	}
	return nil
}
