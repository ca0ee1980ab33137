package kubectldr

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRewrite(t *testing.T) {
	t.Parallel()
	const files = "rewrite -f testdata/rewrite "
	tests := []struct{ name, args string }{
		{"rewrite prints the objects", files + "--profile drill"},
		{"rewrite as json", files + "--profile web-drill -o json"},
		{"rewrite with a diff", files + "--profile drill --diff"},
		{"rewrite explained, into another namespace", files + "--profile drill --explain --namespace-mappings web=web-drill"},
		{"rewrite by the profiles of a file", "rewrite testdata/rewrite --profiles testdata/rewrite-other.yaml --explain"},
		{"lint", "rewrite --lint testdata/rewrite"},
		{"lint without objects", "rewrite --lint testdata/rewrite-other.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t).run(t.Context(), strings.Fields(tt.args)...)
			assert.Zero(t, got.code, got.err)
			golden(t, tt.name, got.out+"--- stderr\n"+got.err)
		})
	}
}

func TestRewrite_readsStandardInputAndTheClustersProfiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stdin = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: wordpress}\nspec: {replicas: 3}\n"
	got := w.run(t.Context(), "rewrite", "-", "--profile", "wordpress-drill", "--explain")
	assert.Zero(t, got.code, got.err)
	assert.Contains(t, got.out, "Deployment wordpress/web\n  state: spec.replicas: 3 → 0\n")
}

func TestRewrite_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, args, stdin, want string }{
		{"nothing", "rewrite", "", "there is nothing to rewrite"},
		{"two ways to show it", "rewrite x.yaml --diff --explain", "", "give one of --diff, --explain and --lint"},
		{"an unknown format", "rewrite x.yaml -o xml", "", `unknown format "xml" of --output`},
		{"a file that isn't there", "rewrite nope.yaml", "", "nope.yaml: no such file"},
		{"what is no object", "rewrite -", "a: b\n", "standard input: it holds something that is no Kubernetes object: it has no kind"},
		{"no choice of profile", "rewrite testdata/rewrite", "", "say which profile; there are: web-drill, web-failover"},
		{"an unknown profile", "rewrite testdata/rewrite --profile x", "", `unknown profile "x"; there are: web-drill, web-failover`},
		{
			"a fault, at its line", "rewrite --lint -", "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n- name: a\n  host: []\n",
			`standard input:5: profiles[0].host: unknown field; did you mean "hosts"?`,
		},
		{
			"profiles that aren't YAML, at their line", "rewrite --lint -", "kind: RewriteProfiles\nprofiles: [\n",
			"standard input:2: did not find expected node content",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.stdin = tt.stdin
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, 1, got.code)
			assert.Empty(t, got.out)
			assert.Contains(t, got.err, tt.want)
		})
	}
}
