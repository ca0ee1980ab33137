package rules

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// build returns an object with a value at a place.
func build(gk schema.GroupKind, p *place, value any) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	obj.SetGroupVersionKind(gk.WithVersion("v1"))
	obj.SetNamespace("web")
	obj.SetName("x")
	at := p.at
	if rest, pod := strings.CutPrefix(strings.Replace(at, "template.", "pod.", 1), "pod."); pod && p.kinds == nil {
		at = "spec.template." + rest // a Deployment's
	}
	store(obj.Object, value, false, concretePath(at), nil)
	return obj
}

// concretePath leads through the first of everything.
func concretePath(at string) path {
	var out path
	for _, s := range parseSteps(at) {
		switch {
		case s.each:
			out = append(out, 0)
		case s.dns != nil:
			out = append(out, externalDNSPrefixes[0]+s.key)
		default:
			out = append(out, s.key)
		}
	}
	return out
}

// hostSamples writes a host in each form.
var hostSamples = map[*form]func(host string) any{
	formOne:          func(h string) any { return h },
	formElement:      func(h string) any { return h },
	formHeaderMatch:  func(h string) any { return h },
	formListener:     func(h string) any { return h },
	formList:         func(h string) any { return []any{"z.example.net", h} },
	formScoped:       func(h string) any { return []any{"z.example.net", "web/" + h} },
	formOrigins:      func(h string) any { return []any{"https://z.example.net", "https://" + h + ":8443/x"} },
	formComma:        func(h string) any { return "z.example.net," + h },
	formDNSNames:     func(h string) any { return "z.example.net," + h },
	formTargets:      func(h string) any { return "z.example.net, " + h },
	formCommaOrigins: func(h string) any { return "https://z.example.net, https://" + h + ":8443" },
	formText:         func(h string) any { return "http://" + h + "/" + "a.example.org" },
	formRegexp:       func(h string) any { return `^https://` + strings.ReplaceAll(h, ".", `\.`) + `/(.*)$` },
	formTraefikRule:  func(h string) any { return "!Host(`" + h + "`) && PathPrefix(`/a.example.org`)" },
	formTraefikDomain: func(h string) any {
		return map[string]any{"main": h, "sans": []any{"z.example.net", h}}
	},
}

// TestPlaces_hosts puts a host at every place there is, one at a time: it is
// mapped there, and nothing else changes.
func TestPlaces_hosts(t *testing.T) {
	t.Parallel()
	profile := profileOf(t, `  hosts: [{from: a.example.org, to: a.drill.example.org}, {from: "*.b.example.org", to: "*.dr.example.org"}]`+"\n")
	for i := range hostPlaces {
		p := &hostPlaces[i]
		if p.rule != "hosts" {
			continue
		}
		kinds := p.kinds
		if kinds == nil {
			kinds = kindsIn("Deployment", "apps")
		}
		sample := hostSamples[p.form]
		require.NotNil(t, sample, p.form.about)
		for _, gk := range kinds {
			for from, to := range map[string]string{
				"a.example.org": "a.drill.example.org", "x.y.b.example.org": "x.y.dr.example.org", "other.example.org": "other.example.org",
			} {
				in, want := build(gk, p, sample(from)), build(gk, p, sample(to))
				r, err := profile.Apply(in)
				require.NoError(t, err)
				assert.Equal(t, want, r.Object, "%s %s", gk, p.at)
				for _, c := range r.Changes {
					assert.Equal(t, "hosts", c.Rule)
				}
			}
		}
	}
}

func TestPlaces_areKnownAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	known := map[string]bool{}
	for _, r := range rewriters {
		known[r.rule] = true
	}
	for _, p := range places {
		assert.True(t, known[p.rule], p.rule)
		for _, gk := range append(p.kinds, schema.GroupKind{}) {
			key := p.rule + " " + gk.String() + " " + p.at
			assert.True(t, gk.Empty() && p.kinds != nil || !seen[key], "%s is there twice", key)
			seen[key] = true
		}
	}
}

// TestValueHosts_keepStructure reads what was written as what it is.
func TestValueHosts_keepStructure(t *testing.T) {
	t.Parallel()
	profile := profileOf(t, `  hosts: [{from: a.example.org, to: a.drill.example.org}, {from: "*.c.example.org", to: "*.c.drill.example.org"}]
  hostsIn: {configMaps: [app-*], secrets: [app]}
`)
	objects := readObjects(t, "testdata/values-structured/in.yaml")
	r, err := profile.Apply(objects[0])
	require.NoError(t, err)
	for _, key := range []string{"config.json", "config.yaml"} {
		before, after := lookup(objects[0].Object, path{"data", key}).(string), lookup(r.Object.Object, path{"data", key}).(string)
		var was, is map[string]any
		read := func(raw string, into *map[string]any) error { return yaml.UnmarshalStrict([]byte(raw), into) }
		if key == "config.json" {
			read = func(raw string, into *map[string]any) error { return json.Unmarshal([]byte(raw), into) }
		}
		require.NoError(t, read(before, &was))
		require.NoError(t, read(after, &is))
		assert.Equal(t, []any{"a.drill.example.org", "x.c.drill.example.org"}, is["hosts"])
		assert.Equal(t, was["n"], is["n"])
		assert.Len(t, is, len(was))
		assert.Equal(t, strings.Count(before, "\n"), strings.Count(after, "\n"))
	}
	r, err = profile.Apply(objects[1])
	require.NoError(t, err)
	raw, err := base64.StdEncoding.DecodeString(lookup(r.Object.Object, path{"data", "url"}).(string))
	require.NoError(t, err)
	assert.Equal(t, "postgres://u:p@x.c.drill.example.org/db", string(raw))
}

func FuzzExpression(f *testing.F) {
	f.Add(`^https?://(?:www\.)?a\.example\.org/(.*)`)
	f.Add(`^[a-z]+\.c\.example\.org$|\dx.c.example.org.+`)
	hosts := newHosts(HostMapping{From: "a.example.org", To: "b.example.org"}, HostMapping{From: "*.c.example.org", To: "*.c.dr.example.org"})
	f.Fuzz(func(t *testing.T, expr string) {
		assert.Equal(t, expr, hostMap{}.expression(expr))
		once := hosts.expression(expr)
		assert.Equal(t, once, hosts.expression(once))
	})
}
