package rules

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
)

// BenchmarkProfile_Apply rewrites one typical object of each kind under a
// profile that uses most of what there is. The bar is 50 µs.
func BenchmarkProfile_Apply(b *testing.B) {
	content, err := os.ReadFile("testdata/bench/rules.yaml")
	require.NoError(b, err)
	set, err := Load(map[string][]byte{"rules.yaml": content}, expr.New())
	require.NoError(b, err)
	p, err := set.Profile("case")
	require.NoError(b, err)
	p = p.InNamespaces(map[string]string{"web": "web-drill"})
	for _, obj := range readObjects(b, "testdata/bench/in.yaml") {
		b.Run(obj.GetKind(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Apply(obj); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCopy is the part of it that copies the object.
func BenchmarkCopy(b *testing.B) {
	for _, obj := range readObjects(b, "testdata/bench/in.yaml") {
		b.Run(obj.GetKind(), func(b *testing.B) {
			b.ReportAllocs()
			var out *unstructured.Unstructured
			for b.Loop() {
				out = obj.DeepCopy()
			}
			_ = out
		})
	}
}
