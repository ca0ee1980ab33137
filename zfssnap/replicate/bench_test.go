package replicate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func BenchmarkMake(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		var source, target []zfs.Version
		for guid := range uint64(n) {
			source = append(source, snap(fmt.Sprint(guid), guid+1, guid+1))
			target = append(target, copied(fmt.Sprint(guid), guid+1, guid+1))
		}
		there := Target{Dataset: "dr/a", Exists: true, Versions: target[:n-1]}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				plan, err := Make(Source{Versions: source}, there, uint64(n))
				require.NoError(b, err)
				require.Equal(b, Incremental, plan.Action)
			}
		})
	}
}
