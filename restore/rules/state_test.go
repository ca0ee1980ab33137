package rules

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestStandby_restoresExactly(t *testing.T) {
	t.Parallel()
	for _, obj := range readObjects(t, "testdata/standby/in.yaml") {
		t.Run(obj.GetKind()+" "+obj.GetName(), func(t *testing.T) {
			t.Parallel()
			before := obj.DeepCopy()
			held, err := Standby(obj)
			require.NoError(t, err)
			assert.Equal(t, before, obj, "the input is as it was")
			assert.True(t, OnStandby(held))

			again, err := Standby(held)
			require.NoError(t, err)
			assert.Equal(t, held, again)

			active, err := Activate(held)
			require.NoError(t, err)
			assert.False(t, OnStandby(active))
			want := obj.DeepCopy()
			if OnStandby(obj) {
				want.Object["spec"] = map[string]any{"replicas": int64(5)}
			}
			want.SetAnnotations(nil)
			assert.Equal(t, want, active)

			patch, err := ActivationPatch(held)
			require.NoError(t, err)
			var change map[string]any
			require.NoError(t, json.Unmarshal(patch, &change))
			raw, err := json.Marshal(merge(held.DeepCopy().Object, change))
			require.NoError(t, err)
			expected := active.DeepCopy().Object
			require.NoError(t, unstructured.SetNestedMap(expected, map[string]any{}, "metadata", "annotations"))
			wantRaw, err := json.Marshal(expected)
			require.NoError(t, err)
			assert.JSONEq(t, string(wantRaw), string(raw), "the patch does the same")
		})
	}
}

// TestStandby_restoresOperatorsExactly puts every kind of the registry on
// standby, from every value that its fields may have had, and back.
func TestStandby_restoresOperatorsExactly(t *testing.T) {
	t.Parallel()
	for _, gk := range StandbyKinds() {
		for _, was := range []any{nil, "on", int64(3), true, false, map[string]any{"a": []any{int64(1), 0.5}}} {
			obj := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"other": "x"}}}
			obj.SetGroupVersionKind(gk.WithVersion("v1"))
			obj.SetName("x")
			obj.SetAnnotations(map[string]string{"other": "x"})
			obj.SetLabels(map[string]string{"other": "x"})
			require.NoError(t, unstructured.SetNestedField(obj.Object, "x", "spec", "template", "metadata", "annotations", "other"))
			for _, s := range operators[gk] {
				at := FieldState{Path: s.at}.at()
				if _, text := was.(string); was != nil && (at[0] == "spec" || text) {
					store(obj.Object, was, false, at, nil)
				}
			}
			before := obj.DeepCopy()
			held, err := Standby(obj)
			require.NoError(t, err)
			assert.Equal(t, before, obj, "the input is as it was")
			assert.True(t, OnStandby(held), "%s", gk)
			again, err := Standby(held)
			require.NoError(t, err)
			assert.Equal(t, held, again)

			active, err := Activate(held)
			require.NoError(t, err)
			assert.Equal(t, obj, active, "%s", gk)
			assert.False(t, OnStandby(active))

			patch, err := ActivationPatch(held)
			require.NoError(t, err)
			var change map[string]any
			require.NoError(t, json.Unmarshal(patch, &change))
			raw, err := json.Marshal(merge(held.DeepCopy().Object, change))
			require.NoError(t, err)
			want, err := json.Marshal(obj.Object)
			require.NoError(t, err)
			assert.JSONEq(t, string(want), string(raw), "the patch does the same")
		}
	}
}

// TestStandby_holdsBackWhateverHasPods puts every kind that is known to have Pods
// on standby: it is held back, its controller makes it again, or a warning says that
// it comes up running.
func TestStandby_holdsBackWhateverHasPods(t *testing.T) {
	t.Parallel()
	p := profileOf(t, "  state: standby\n")
	yes := true
	var warned []string
	for gk := range podTemplates {
		obj := &unstructured.Unstructured{Object: map[string]any{}}
		for _, at := range []string{"template", "spec.template", "spec.jobTemplate.spec.template", "spec.tasks[*].template"} {
			store(obj.Object, map[string]any{"spec": map[string]any{}}, false, concretePath(at), nil)
		}
		obj.SetGroupVersionKind(gk.WithVersion("v1"))
		obj.SetName("x")
		r, err := p.Apply(obj)
		require.NoError(t, err)
		if len(r.Warnings) > 0 {
			warned = append(warned, gk.String())
		}
		if slices.Contains(remade, gk) {
			obj.SetOwnerReferences([]metav1.OwnerReference{{Kind: "Owner", Name: "x", Controller: &yes}})
			r, err := p.Apply(obj)
			require.NoError(t, err)
			assert.True(t, r.Drop, "%s", gk)
			continue
		}
		assert.True(t, OnStandby(r.Object) || len(r.Warnings) > 0 || gk.Kind == "PodTemplate", "%s comes up running", gk)
	}
	assert.ElementsMatch(t, []string{
		"Configuration.serving.knative.dev", "Revision.serving.knative.dev", "Service.serving.knative.dev", "Job.batch.volcano.sh",
	}, warned)
}

func TestStandby_ofKindsAProfileNames(t *testing.T) {
	t.Parallel()
	p := profileOf(t, `  state: standby
  operators:
    CronTab.example.org: {spec.size: 0, "metadata.annotations[example.org/paused]": "yes"}
    Cluster.postgresql.cnpg.io: {spec.instances: 0}
`)
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.org/v1", "kind": "CronTab", "metadata": map[string]any{"name": "x"}, "spec": map[string]any{"size": int64(3)},
	}}
	r, err := p.Apply(obj)
	require.NoError(t, err)
	assert.Equal(t, int64(0), lookup(r.Object.Object, path{"spec", "size"}))
	assert.Equal(t, "yes", r.Object.GetAnnotations()["example.org/paused"])
	active, err := Activate(r.Object)
	require.NoError(t, err, "activation needs no profile")
	assert.Equal(t, obj, active)

	obj.SetGroupVersionKind(schema.GroupVersionKind{Group: "postgresql.cnpg.io", Version: "v1", Kind: "Cluster"})
	r, err = p.Apply(obj)
	require.NoError(t, err)
	assert.Equal(t, int64(0), lookup(r.Object.Object, path{"spec", "instances"}), "the profile goes before the registry")
	assert.NotContains(t, r.Object.GetAnnotations(), "cnpg.io/hibernation")

	_, err = Standby(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.org/v1", "kind": "CronTab", "metadata": map[string]any{"name": "x"}}})
	assert.ErrorIs(t, err, ErrNoStandby)
}

func TestActivate_leavesAloneWhatSomebodyChanged(t *testing.T) {
	t.Parallel()
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "acid.zalan.do/v1", "kind": "postgresql", "metadata": map[string]any{"name": "x"}, "spec": map[string]any{"numberOfInstances": int64(3)},
	}}
	held, err := Standby(obj)
	require.NoError(t, err)
	require.NoError(t, unstructured.SetNestedField(held.Object, int64(1), "spec", "numberOfInstances"))
	active, err := Activate(held)
	require.NoError(t, err)
	assert.Equal(t, int64(1), lookup(active.Object, path{"spec", "numberOfInstances"}))
	assert.Empty(t, active.GetAnnotations())
}

func TestActivationPatch(t *testing.T) {
	t.Parallel()
	object := func(kind, apiVersion, state string, spec map[string]any) *unstructured.Unstructured {
		obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
		obj.SetName("x")
		if state != "" {
			obj.SetAnnotations(map[string]string{AnnotationOriginalState: state})
		}
		return obj
	}
	tests := []struct {
		name    string
		obj     *unstructured.Unstructured
		want    string
		wantErr string
	}{
		{
			name: "a workload gets its replicas back",
			obj:  object("Deployment", "apps/v1", `{"replicas":2}`, map[string]any{"replicas": int64(0)}),
			want: `{"metadata":{"annotations":{"kubectl-dr.io/original-state":null}},"spec":{"replicas":2}}`,
		},
		{
			name: "a field that wasn't there goes",
			obj:  object("Deployment", "apps/v1", `{"replicas":1,"defaulted":true}`, map[string]any{"replicas": int64(0)}),
			want: `{"metadata":{"annotations":{"kubectl-dr.io/original-state":null}},"spec":{"replicas":null}}`,
		},
		{
			name: "what was suspended stays suspended",
			obj:  object("CronJob", "batch/v1", `{"suspend":true}`, map[string]any{"suspend": true}),
			want: `{"metadata":{"annotations":{"kubectl-dr.io/original-state":null}},"spec":{"suspend":true}}`,
		},
		{
			name: "a daemon set loses one key of its node selector",
			obj: object("DaemonSet", "apps/v1", `{"gated":true}`, map[string]any{"template": map[string]any{"spec": map[string]any{
				"nodeSelector": map[string]any{"disk": "ssd", StandbyGate: "true"},
			}}}),
			want: `{"metadata":{"annotations":{"kubectl-dr.io/original-state":null}},"spec":{"template":{"spec":{"nodeSelector":{"kubectl-dr.io/standby":null}}}}}`,
		},
		{
			name: "a workload that somebody started keeps its replicas",
			obj:  object("Deployment", "apps/v1", `{"replicas":2}`, map[string]any{"replicas": int64(7)}),
			want: `{"metadata":{"annotations":{"kubectl-dr.io/original-state":null}}}`,
		},
		{
			name: "a workload that wasn't on standby stays",
			obj:  object("Deployment", "apps/v1", "", map[string]any{"replicas": int64(0)}),
			want: `{}`,
		},
		{
			name:    "a broken annotation is an error",
			obj:     object("Deployment", "apps/v1", `{"replica":2}`, map[string]any{"replicas": int64(0)}),
			wantErr: `activate Deployment x: read annotation kubectl-dr.io/original-state: json: unknown field "replica"`,
		},
		{
			name:    "another kind's annotation is an error",
			obj:     object("Deployment", "apps/v1", `{"suspend":true}`, map[string]any{"replicas": int64(0)}),
			wantErr: `activate Deployment x: annotation kubectl-dr.io/original-state is "{\"suspend\":true}", which is another kind's`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ActivationPatch(tt.obj)
			if tt.wantErr != "" {
				assert.EqualError(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(got))
		})
	}
}

func TestStandby_refusesOtherKinds(t *testing.T) {
	t.Parallel()
	obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service"}}
	_, err := Standby(obj)
	assert.ErrorIs(t, err, ErrNoStandby)
}

func TestOriginalState_Encode(t *testing.T) {
	t.Parallel()
	n, yes := int64(3), true
	for _, s := range []OriginalState{{Replicas: &n}, {Suspend: &yes, Defaulted: true}, {Gated: true}} {
		got, err := DecodeOriginalState(s.Encode())
		require.NoError(t, err)
		assert.Equal(t, s, got)
	}
	for _, bad := range []string{"", "{}", "null", `{"replicas":-1}`, `{"replicas":1,"suspend":true}`, `{"gated":true} x`} {
		_, err := DecodeOriginalState(bad)
		assert.Error(t, err, bad)
	}
}
