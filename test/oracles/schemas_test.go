package oracles

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// definitions are where modules keep their custom resource definitions.
var definitions = []struct{ module, files string }{
	{"github.com/traefik/traefik/v3@v3.7.13", "docs/content/reference/dynamic-configuration/traefik.io_*.yaml"},
	{"sigs.k8s.io/gateway-api@v1.6.3", "config/crd/standard/*.yaml"},
	{"github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds/*.yaml"},
	{"istio.io/api@v1.31.1", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"sigs.k8s.io/external-dns@v0.22.0", "config/crd/standard/*.yaml"},
}

// definition judges the objects of one version of a kind.
type definition struct {
	schema    *apiextensions.JSONSchemaProps
	validator validation.SchemaValidator
}

func load(t *testing.T) map[schema.GroupVersionKind]definition {
	t.Helper()
	found := map[schema.GroupVersionKind]definition{}
	for _, d := range definitions {
		out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", d.module).Output()
		require.NoError(t, err, d.module)
		var module struct{ Dir string }
		require.NoError(t, json.Unmarshal(out, &module))
		files, err := filepath.Glob(filepath.Join(module.Dir, d.files))
		require.NoError(t, err)
		require.NotEmpty(t, files, "%s has no %s", d.module, d.files)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			for doc := range bytes.SplitSeq(content, []byte("\n---")) {
				add(t, found, doc)
			}
		}
	}
	return found
}

func add(t *testing.T, to map[schema.GroupVersionKind]definition, doc []byte) {
	t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	require.NoError(t, yaml.Unmarshal(doc, &crd))
	if crd.Kind != "CustomResourceDefinition" {
		return
	}
	for _, v := range crd.Spec.Versions {
		var props apiextensions.JSONSchemaProps
		require.NoError(t, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil))
		validator, _, err := validation.NewSchemaValidator(&props)
		require.NoError(t, err)
		to[schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: crd.Spec.Names.Kind}] = definition{&props, validator}
	}
}

// judge errs when an API server would refuse the object or drop part of it.
func (d definition) judge(obj *unstructured.Unstructured) error {
	if err := validation.ValidateCustomResource(field.NewPath(""), obj.Object, d.validator).ToAggregate(); err != nil {
		return err
	}
	s, err := structural.NewStructural(d.schema)
	if err != nil {
		return err
	}
	pruned := obj.DeepCopy()
	if pruning.Prune(pruned.Object, s, true); !reflect.DeepEqual(obj, pruned) {
		return errors.New("it has unknown fields")
	}
	return nil
}

// TestDefinitions_acceptWhatIsRewritten takes objects that the definitions
// accept and rewrites them in every way: the definitions still do.
func TestDefinitions_acceptWhatIsRewritten(t *testing.T) {
	t.Parallel()
	all := load(t)
	content, err := os.ReadFile("testdata/objects.yaml")
	require.NoError(t, err)
	profiles := map[string]string{
		"replaced":  `  hosts: [{from: "*.example.org", to: "*.dr.example.org"}]`,
		"added":     `  hosts: [{from: "*.example.org", to: "*.dr.example.org", mode: add}]`,
		"muted":     `  externalDNS: mute`,
		"claimed":   `  externalDNS: claim`,
		"passive":   "  traffic: passive\n" + `  hosts: [{from: "*.example.org", to: "*.dr.example.org", mode: add}]`,
		"kept":      `  certificates: keepSecret`,
		"staged":    "  certificates: staging\n  issuers: {le: le-staging}",
		"placed":    "  gatewayClasses: {\"*\": other}\n  ingressClasses: {\"*\": other}\n  addresses: {192.0.2.1: 198.51.100.1}",
		"relabeled": "  labelValues: {app: {web: web-dr}}\n  gitOps: strip\n  labels: {set: {site: dr}}",
	}
	for name, fields := range profiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := profile(t, fields+"\n").InNamespaces(map[string]string{"web": "web-drill"})
			changed := 0
			for doc := range bytes.SplitSeq(content, []byte("\n---\n")) {
				raw, err := yaml.YAMLToJSON(doc)
				require.NoError(t, err)
				obj := &unstructured.Unstructured{}
				require.NoError(t, obj.UnmarshalJSON(raw))
				d, ok := all[obj.GroupVersionKind()]
				require.True(t, ok, "no definition of %s", obj.GroupVersionKind())
				require.NoError(t, d.judge(obj), "before: %s %s", obj.GetKind(), obj.GetName())
				r, err := p.Apply(obj)
				require.NoError(t, err)
				changed += len(r.Changes)
				if !r.Drop {
					assert.NoError(t, d.judge(r.Object), "after: %s %s", obj.GetKind(), obj.GetName())
				}
			}
			assert.NotZero(t, changed)
		})
	}
}

// TestDefinitions_refuse shows that the definitions judge at all.
func TestDefinitions_refuse(t *testing.T) {
	t.Parallel()
	route := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"name": "x"}, "spec": spec,
		}}
	}
	obj := route(map[string]any{"hostnames": []any{"a.example.org"}})
	d := load(t)[obj.GroupVersionKind()]
	require.NoError(t, d.judge(obj))
	require.ErrorContains(t, d.judge(route(map[string]any{"hostnames": []any{"https://a.example.org"}})), "hostnames[0]")
	require.EqualError(t, d.judge(route(map[string]any{"hosts": []any{"a.example.org"}})), "it has unknown fields")
}
