package oracles

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/traefik/traefik/v3/pkg/middlewares/requestdecorator"
	httpmuxer "github.com/traefik/traefik/v3/pkg/muxer/http"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// routes reports which hosts reach a rule in Traefik's own router.
func routes(t *testing.T, syntax, rule string, hosts []string) map[string]bool {
	t.Helper()
	parser, err := httpmuxer.NewSyntaxParser()
	require.NoError(t, err)
	router := httpmuxer.NewMuxer(parser, nil)
	reached := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	require.NoError(t, router.AddRoute(rule, syntax, 0, "", reached), "Traefik reads %s", rule)
	found := map[string]bool{}
	for _, host := range hosts {
		for _, path := range []string{"/", "/api"} {
			req := httptest.NewRequest(http.MethodGet, "http://"+host+path, nil)
			rec := httptest.NewRecorder()
			requestdecorator.New(nil).ServeHTTP(rec, req, router.ServeHTTP)
			found[host+path] = rec.Code == http.StatusOK
		}
	}
	return found
}

// mapping is what the profiles of TestTraefik_routesTheMappedHosts say.
func mapping(host string) string {
	switch {
	case host == "a.example.org":
		return "a.drill.example.org"
	case strings.HasSuffix(host, ".b.example.org"):
		return strings.TrimSuffix(host, ".b.example.org") + ".b.drill.example.org"
	}
	return host
}

func TestTraefik_routesTheMappedHosts(t *testing.T) {
	t.Parallel()
	hosts := []string{"a.example.org", "x.b.example.org", "www.b.example.org", "c.example.org", "b.example.org", "other.org"}
	var all []string
	for _, host := range hosts {
		all = append(all, host)
		if mapping(host) != host {
			all = append(all, mapping(host))
		}
	}
	tests := map[string][]string{
		"v3": {
			"Host(`a.example.org`)",
			"Host(`a.example.org`) || Host(`x.b.example.org`)",
			"Host(`c.example.org`) && PathPrefix(`/api`) || Host(`a.example.org`)",
			"(Host(`a.example.org`) || Host(`c.example.org`)) && !PathPrefix(`/api`)",
			"!Host(`a.example.org`) && HostRegexp(`^.+\\.example\\.org$`)",
			"HostRegexp(`^[a-z]+\\.b\\.example\\.org$`)",
			"HostRegexp(`^a\\.example\\.org$`) && PathPrefix(`/`)",
			"Host(\"a.example.org\") && Method(`GET`)",
			"Host(`*.b.example.org`)",
			"PathPrefix(`/api`)",
		},
		"v2": {
			"Host(`a.example.org`, `c.example.org`)",
			"HostRegexp(`{sub:[a-z]+}.b.example.org`)",
			"Host(`a.example.org`) && Path(`/api`) || Host(`x.b.example.org`)",
		},
	}
	const mapped = `{from: a.example.org, to: a.drill.example.org%s}, {from: "*.b.example.org", to: "*.b.drill.example.org"%s}`
	replace := profile(t, "  hosts: ["+strings.ReplaceAll(mapped, "%s", "")+"]\n")
	add := profile(t, "  hosts: ["+strings.ReplaceAll(mapped, "%s", ", mode: add")+"]\n")
	for syntax, rulesOf := range tests {
		for _, rule := range rulesOf {
			t.Run(syntax+" "+rule, func(t *testing.T) {
				t.Parallel()
				obj := &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": map[string]any{"name": "x"},
					"spec": map[string]any{"routes": []any{map[string]any{"match": rule}}},
				}}
				after := func(r *unstructured.Unstructured) string {
					list, _, err := unstructured.NestedSlice(r.Object, "spec", "routes")
					require.NoError(t, err)
					return list[0].(map[string]any)["match"].(string)
				}
				before := routes(t, syntax, rule, all)
				require.Contains(t, slices.Collect(maps.Values(before)), true, "the rule routes something")
				require.Contains(t, slices.Collect(maps.Values(before)), false, "and not everything")
				r, err := replace.Apply(obj)
				require.NoError(t, err)
				replaced := routes(t, syntax, after(r.Object), all)
				r, err = add.Apply(obj)
				require.NoError(t, err)
				added := routes(t, syntax, after(r.Object), all)
				for _, host := range hosts {
					for _, path := range []string{"/", "/api"} {
						if !strings.Contains(rule, `^.+\.example`) { // which takes hosts of either site
							assert.Equal(t, before[host+path], replaced[mapping(host)+path], "replaced: %s", mapping(host)+path)
						}
						assert.Equal(t, before[host+path], added[host+path], "added: %s", host+path)
						assert.Equal(t, before[host+path], added[mapping(host)+path], "added: %s", mapping(host)+path)
					}
				}
			})
		}
	}
}
