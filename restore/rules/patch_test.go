package rules

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
)

func profileOf(t *testing.T, fields string) *Profile {
	t.Helper()
	set, err := Load(map[string][]byte{"rules.yaml": []byte(heading + "profiles:\n- name: case\n" + fields)}, expr.New())
	require.NoError(t, err)
	p, err := set.Profile("case")
	require.NoError(t, err)
	return p
}

func deployment() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"namespace": "web", "name": "web", "labels": map[string]any{"a": "b"}},
		"spec":     map[string]any{"replicas": int64(1), "list": []any{"a"}},
	}}
}

func TestProfile_Apply_refusesPatchesThatCannotBe(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, fields, want string }{
		{
			"a failed test", "  patches: [{jsonPatch: [{op: test, path: /spec/replicas, value: 2}]}]\n",
			"rewrite Deployment web/web: patches[0]: testing value /spec/replicas failed: test failed",
		},
		{
			"a removal of what isn't there", "  patches: [{jsonPatch: [{op: remove, path: /spec/paused}]}]\n",
			"rewrite Deployment web/web: patches[0]: error in remove for path: '/spec/paused': unable to remove nonexistent key: paused: missing value",
		},
		{
			"a name changed by a longer way", "  patches: [{jsonPatch: [{op: replace, path: /metadata, value: {name: x}}]}]\n",
			"rewrite Deployment web/web: patches[0]: it would change metadata.name, which stays",
		},
		{
			"a value of what isn't there", "  patches: [{cel: {/spec/replicas: object.spec.size}}]\n",
			"rewrite Deployment web/web: patches[0]: evaluate the value of spec.replicas: no such key: size",
		},
		{
			"an element that isn't there", "  patches: [{cel: {/spec/list/1: \"'x'\"}}]\n",
			`rewrite Deployment web/web: patches[0]: spec.list has no element "1"`,
		},
		{
			"what a rewrite changes again", "  hosts: [{from: a.example.org, to: b.example.org}]\n  patches: [{mergePatch: {kind: Ingress, apiVersion: networking.k8s.io/v1, spec: {rules: [{host: a.example.org}]}}}]\n",
			"rewrite Deployment web/web: patches: one writes what a rewrite changes again (hosts: spec.rules[0].host: \"a.example.org\" → \"b.example.org\"); write the final value",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := profileOf(t, tt.fields).Apply(deployment())
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestProfile_Unused(t *testing.T) {
	t.Parallel()
	p := profileOf(t, `  state: keep
  labels: {set: {site: dr}}
  annotations: {remove: [none]}
  externalDNSPrefixes: [dns.example.org/]
  storageClasses: {a: b, c: d}
  hosts: [{from: a.example.org, to: b.example.org}, {from: c.example.org, to: d.example.org}]
  drop: [{names: [x]}, {names: [y]}]
  rules: [{match: {names: [web]}, replicas: {deployment/web: 2}}, {match: {names: [none]}, state: standby}]
  patches: [{match: {names: [web]}, mergePatch: {spec: {paused: true}}}, {match: {names: [none]}, mergePatch: {}}]
`)
	var usage Usage
	assert.Len(t, p.Unused(usage), 14)
	for _, obj := range []*unstructured.Unstructured{
		deployment(),
		{Object: map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "x"}}},
		{Object: map[string]any{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": map[string]any{"name": "claim"},
			"spec": map[string]any{"storageClassName": "a"},
		}},
		{Object: map[string]any{
			"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "external"},
			"spec": map[string]any{"type": "ExternalName", "externalName": "c.example.org"},
		}},
	} {
		r, err := p.Apply(obj)
		require.NoError(t, err)
		usage.Add(r)
	}
	assert.Equal(t, []string{
		"annotations", "drop[1]", "hosts[a.example.org]", "patches[1]", "rules[1]", "state", "storageClasses[c]",
	}, p.Unused(usage))
}

func TestWildcard(t *testing.T) {
	t.Parallel()
	for pattern, words := range map[string]map[string]bool{
		"web":      {"web": true, "web-1": false, "": false},
		"web*":     {"web": true, "web-1": true, "a-web": false},
		"*-db":     {"a-db": true, "db": false, "a-db-1": false},
		"a*b*c":    {"abc": true, "a-b-c": true, "acb": false, "abcd": false},
		"*":        {"": true, "anything": true},
		"aa*aa":    {"aaa": false, "aaaa": true},
		"*middle*": {"in the middle of": true, "mid": false},
	} {
		for word, want := range words {
			assert.Equal(t, want, wildcard(pattern, word), "%s %s", pattern, word)
		}
	}
}
