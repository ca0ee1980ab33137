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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// OriginalState is what a workload had before it was put on standby, kept in
// its annotation kubectl-dr.io/original-state. Exactly one of Replicas, Suspend,
// Gated and Fields is set.
type OriginalState struct {
	// Replicas is the number of replicas.
	Replicas *int64 `json:"replicas,omitempty"`
	// Suspend is whether a CronJob or Job was suspended.
	Suspend *bool `json:"suspend,omitempty"`
	// Gated means that standby only added something, which goes away again: the
	// node selector of a DaemonSet or the scheduling gate of a Pod.
	Gated bool `json:"gated,omitempty"`
	// Fields are those of an operator's resource, each with what it had and what
	// it has on standby.
	Fields []FieldState `json:"fields,omitempty"`
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
	d.UseNumber()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("read annotation %s: %w", AnnotationOriginalState, err)
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		if err := errors.Join(utiljson.ConvertInterfaceNumbers(&f.Was, 0), utiljson.ConvertInterfaceNumbers(&f.Held, 0)); err != nil || !placePath.MatchString(f.Path) {
			return s, fmt.Errorf("read annotation %s: %q is no field's state", AnnotationOriginalState, f.Path)
		}
	}
	set := 0
	for _, is := range []bool{s.Replicas != nil, s.Suspend != nil, s.Gated, len(s.Fields) > 0} {
		if is {
			set++
		}
	}
	if set != 1 || d.More() || s.Defaulted && (s.Gated || len(s.Fields) > 0) || s.Replicas != nil && *s.Replicas < 0 {
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
	{Group: kruise, Kind: "DaemonSet"}:                     byNodeSelector,
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
	value, remembers := remembered(obj)
	if !remembers {
		return false
	}
	if s := standbyOf(obj); s != nil {
		return s.held(lookup(obj.Object, s.at))
	}
	original, err := DecodeOriginalState(value)
	return err == nil && fieldsHeld(obj, original.Fields)
}

// remembered is the annotation's value.
func remembered(obj *unstructured.Unstructured) (string, bool) {
	value, ok := lookup(obj.Object, path{"metadata", "annotations", AnnotationOriginalState}).(string)
	return value, ok
}

// Standby returns a copy of a workload with nothing running, which remembers
// what it had. A workload on standby stays as it is. The error of a kind that
// isn't known wraps [ErrNoStandby].
func Standby(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return (*Profile)(nil).Standby(obj)
}

// Standby is [Standby] by what the profile says in operators before what is known. A
// nil profile says nothing.
func (p *Profile) Standby(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if p == nil {
		p = &Profile{}
	}
	e := newEdit(p, obj)
	r, err := p.rewrites(e, obj)
	if err != nil {
		return nil, fmt.Errorf("put %s on standby: %w", describe(obj), err)
	}
	e.p = r
	held, err := hold(e)
	if err == nil && !held {
		err = ErrNoStandby
	}
	if err != nil {
		return nil, fmt.Errorf("put %s on standby: %w", describe(obj), err)
	}
	return e.obj.DeepCopy(), nil
}

// hold puts the workload in an edit on standby, and reports whether it is one.
func hold(e *edit) (bool, error) {
	s, settings := standbyOf(e.obj), e.settings()
	if s == nil && len(settings) == 0 {
		return false, nil
	}
	if OnStandby(e.obj) {
		value, _ := remembered(e.obj)
		_, err := DecodeOriginalState(value)
		return true, err
	}
	if s == nil {
		e.holdFields(settings)
		return true, nil
	}
	held, original := s.hold(e.get(s.at...))
	e.set(held, s.at...)
	e.set(original.Encode(), "metadata", "annotations", AnnotationOriginalState)
	return true, nil
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
	value, remembers := remembered(obj)
	if !remembers {
		return map[string]any{}, nil
	}
	patch := map[string]any{}
	store(patch, nil, false, path{"metadata", "annotations", AnnotationOriginalState}, nil)
	s := standbyOf(obj)
	if s != nil && !OnStandby(obj) {
		return patch, nil
	}
	original, err := DecodeOriginalState(value)
	if err != nil {
		return nil, fmt.Errorf("activate %s: %w", describe(obj), err)
	}
	if s == nil {
		if fieldsHeld(obj, original.Fields) {
			for _, f := range original.Fields {
				store(patch, runtime.DeepCopyJSONValue(f.Was), false, f.at(), nil)
			}
		}
		return patch, nil
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
	store(patch, back, false, s.at, nil)
	return patch, nil
}

func (s OriginalState) kind() string {
	switch {
	case s.Replicas != nil:
		return "replicas"
	case s.Suspend != nil:
		return "suspend"
	case len(s.Fields) > 0:
		return "fields"
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

// tellsAuthority are the ConfigMaps with which a cluster tells its own certificate
// authority.
var tellsAuthority = []string{"kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"}

// leaveToTheCluster drops what every cluster puts into each namespace by itself:
// restored, it would say that the other cluster is the one to trust, or at best
// be reported as a conflict.
func leaveToTheCluster(e *edit, _ *Rewrites) error {
	e.drop = e.in(core, "ConfigMap") && slices.Contains(tellsAuthority, e.orig.GetName())
	return nil
}

func rewriteState(e *edit, p *Rewrites) error {
	if p.FinishedJobs != FinishedJobsKeep && e.finishedJob() {
		// Restored, it would run again.
		e.rule, e.drop = "finishedJobs", true
		return nil
	}
	if p.State != StateStandby {
		return nil
	}
	if slices.Contains(remade, e.kind) && controlled(e.orig) {
		// Restored, it would run before its controller is there to stop it.
		e.drop = true
		return nil
	}
	held, err := hold(e)
	switch why := startsAnyway[e.kind]; {
	case err != nil:
		return err
	case !held && !e.in(core, "PodTemplate") && len(e.templates()) > 0:
		e.warn("it comes up running: nothing is known that holds back its Pods; say what does in operators, or drop it")
	case why != "" && e.operator() == "":
		e.warn(why)
	}
	return nil
}

// finishedJob reports whether the object is a Job, or a set of Jobs, that has
// finished.
func (e *edit) finishedJob() bool {
	if !e.in([]string{"batch"}, "Job") && !e.in([]string{jobset}, "JobSet") && !e.in([]string{kruise}, "BroadcastJob") {
		return false
	}
	conditions, _ := lookup(e.orig.Object, path{"status", "conditions"}).([]any)
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return (m["type"] == "Complete" || m["type"] == "Completed" || m["type"] == "Failed") && m["status"] == "True"
	})
}

// rewriteMinReplicas keeps an autoscaler from raising what replicas sets.
func (e *edit) rewriteMinReplicas(p *Rewrites) {
	kind, name := e.str("spec", "scaleTargetRef", "kind"), e.str("spec", "scaleTargetRef", "name")
	field := "minReplicas"
	if e.kind.Kind == "ScaledObject" {
		field = "minReplicaCount"
		if kind == "" {
			kind = "Deployment"
		}
	}
	for _, key := range sortedKeys(p.Replicas) {
		wantKind, wantName, _ := strings.Cut(key, "/")
		n := max(p.Replicas[key], 1)
		if have, ok := e.get("spec", field).(int64); ok && have > n && strings.EqualFold(kind, wantKind) && name == wantName {
			e.set(n, "spec", field)
		}
	}
}

func rewriteReplicas(e *edit, p *Rewrites) error {
	if e.in([]string{"autoscaling"}, "HorizontalPodAutoscaler") || e.in([]string{"keda.sh"}, "ScaledObject") {
		e.rewriteMinReplicas(p)
		return nil
	}
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
