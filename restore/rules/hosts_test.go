package rules

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, object string
		want         []string
	}{
		{"an Ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {rules: [{host: a.example.org}, {host: b.example.org}], tls: [{hosts: [a.example.org]}]}}`,
			[]string{"a.example.org", "b.example.org"}},
		{"an HTTPRoute", `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, spec: {hostnames: ["*.example.org"]}}`, []string{"*.example.org"}},
		{"an IngressRoute", "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, spec: {routes: [{match: 'Host(`a.example.org`) && PathPrefix(`/x`) || Host(`b.example.org`)'}]}}",
			[]string{"a.example.org", "b.example.org"}},
		{"a ConfigMap has none of its own", `{apiVersion: v1, kind: ConfigMap, data: {url: https://a.example.org}}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			obj := &unstructured.Unstructured{}
			require.NoError(t, yaml.Unmarshal([]byte(tt.object), &obj.Object))
			before := obj.DeepCopy()
			got, err := Hosts(obj)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, before, obj, "it only reads")
		})
	}
	_, err := Hosts(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute",
		"spec": map[string]any{"routes": []any{map[string]any{"match": "Host("}}}}})
	require.ErrorContains(t, err, "read the hosts of IngressRoute")
}

func TestProfile_Host(t *testing.T) {
	t.Parallel()
	set, err := Load(map[string][]byte{"p.yaml": []byte(`apiVersion: rewrite.kubectl-dr.io/v1alpha1
kind: RewriteProfiles
profiles:
- name: drill
  hosts:
  - {from: "*.example.org", to: "*.drill.example.org"}
  - {from: added.example.org, to: added-dr.example.org, mode: add}
- name: plain
`)}, nil)
	require.NoError(t, err)
	drill, err := set.Profile("drill")
	require.NoError(t, err)
	plain, err := set.Profile("plain")
	require.NoError(t, err)
	assert.Equal(t, "blog.drill.example.org", drill.Host("blog.example.org"))
	assert.Equal(t, "blog.drill.example.org", drill.Host("blog.drill.example.org"), "once")
	assert.Equal(t, "added.example.org", drill.Host("added.example.org"), "it keeps the name it had")
	assert.Equal(t, "blog.example.com", drill.Host("blog.example.com"))
	assert.Equal(t, "", drill.Host(""))
	assert.Equal(t, "blog.example.org", plain.Host("blog.example.org"))
}
