package replicate

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func TestEstimate(t *testing.T) {
	t.Parallel()
	sized := func(v zfs.Version, referenced, written uint64) zfs.Version {
		v.Referenced, v.Written = referenced, written
		return v
	}
	one, two, three := sized(snap("one", 1, 10), 100, 100), sized(snap("two", 2, 20), 130, 40), sized(snap("three", 3, 30), 125, 5)
	source := []zfs.Version{one, mark("one", 1, 10), two, three}
	tests := []struct {
		name string
		plan Plan
		want uint64
	}{
		{"a full stream has what the snapshot refers to", Plan{Action: Full, To: two}, 130},
		{"an increment has what was written since", Plan{Action: Incremental, From: two, To: three}, 5},
		{"one over several snapshots has what all of them have", Plan{Action: Incremental, From: one, To: three}, 45},
		{"a bookmark is a base as its snapshot is", Plan{Action: Incremental, From: mark("one", 1, 10), To: two}, 40},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, estimate(source, tt.plan), tt.name)
	}
}
