package zfstest_test

import (
	"testing"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

func TestPoolBehavesLikeZFS(t *testing.T) {
	zfstest.Conformance(t, zfstest.NewPool("tank").Target("tank"))
}

func TestRealPoolBehavesLikeZFS(t *testing.T) {
	target, ok := zfstest.RealTarget()
	if !ok {
		t.Skipf("%s names no pool to test on", zfstest.EnvPool)
	}
	zfstest.Conformance(t, target)
}
