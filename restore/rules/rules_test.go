package rules

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
)

var update = flag.Bool("update", false, "write the wanted files anew")

// testCase is a folder of testdata: a profile, objects, and what becomes of them.
type testCase struct {
	name    string
	profile *Profile
	objects []*unstructured.Unstructured
	want    string // file
}

func testCases(t *testing.T) []testCase {
	t.Helper()
	folders, err := filepath.Glob("testdata/*/rules.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	var cases []testCase
	for _, file := range folders {
		folder := filepath.Dir(file)
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		set, err := Load(map[string][]byte{file: content}, expr.New())
		require.NoError(t, err)
		p, err := set.Profile("case")
		require.NoError(t, err)
		if content, err := os.ReadFile(filepath.Join(folder, "namespaces.yaml")); err == nil {
			var mapping map[string]string
			require.NoError(t, yaml.Unmarshal(content, &mapping))
			p = p.InNamespaces(mapping)
		}
		cases = append(cases, testCase{
			name:    filepath.Base(folder),
			profile: p,
			objects: readObjects(t, filepath.Join(folder, "in.yaml")),
			want:    filepath.Join(folder, "want.yaml"),
		})
	}
	return cases
}

func readObjects(t testing.TB, file string) []*unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	var objects []*unstructured.Unstructured
	for doc := range bytes.SplitSeq(content, []byte("\n---\n")) {
		raw, err := yaml.YAMLToJSON(doc)
		require.NoError(t, err)
		obj := &unstructured.Unstructured{}
		_, _, err = unstructured.UnstructuredJSONScheme.Decode(raw, nil, obj)
		require.NoError(t, err, "%s: %s", file, doc)
		objects = append(objects, obj)
	}
	return objects
}

// renderResult writes an object below the changes that led to it.
func renderResult(t *testing.T, r Result) string {
	t.Helper()
	var b bytes.Buffer
	for _, change := range r.Changes {
		fmt.Fprintf(&b, "# %s\n", change)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "# warning: %s\n", warning)
	}
	if r.Drop {
		fmt.Fprintf(&b, "# %s\n", describe(r.Object))
		return b.String()
	}
	raw, err := yaml.Marshal(r.Object.Object)
	require.NoError(t, err)
	b.Write(raw)
	return b.String()
}

func TestProfile_Apply(t *testing.T) {
	t.Parallel()
	for _, tt := range testCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			for i, obj := range tt.objects {
				r, err := tt.profile.Apply(obj)
				require.NoError(t, err)
				if i > 0 {
					got.WriteString("---\n")
				}
				got.WriteString(renderResult(t, r))
			}
			if *update {
				require.NoError(t, os.WriteFile(tt.want, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(tt.want)
			require.NoError(t, err)
			assert.Equal(t, string(want), got.String())
		})
	}
}

func TestProfile_Apply_properties(t *testing.T) {
	t.Parallel()
	for _, tt := range testCases(t) {
		for _, obj := range tt.objects {
			t.Run(tt.name+"/"+obj.GetName(), func(t *testing.T) {
				t.Parallel()
				before := obj.DeepCopy()
				first, err := tt.profile.Apply(obj)
				require.NoError(t, err)
				assert.Equal(t, before, obj, "the input is as it was")
				assert.Equal(t, obj.GetNamespace(), first.Object.GetNamespace())
				if tt.profile.Names == nil {
					assert.Equal(t, obj.GetName(), first.Object.GetName())
				}
				assert.Equal(t, first.Drop || len(first.Changes) > 0, first.Drop || !assert.ObjectsAreEqual(obj, first.Object),
					"what changed is explained, and only that")
				for range 5 {
					again, err := tt.profile.Apply(obj)
					require.NoError(t, err)
					assert.Equal(t, first, again, "the same result every time")
				}
				if first.Drop {
					return
				}
				second, err := tt.profile.Apply(first.Object)
				require.NoError(t, err)
				assert.Equal(t, first.Object, second.Object, "a second application changes nothing")
				assert.Empty(t, second.Changes)
			})
		}
	}
}
