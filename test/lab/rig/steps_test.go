package rig

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRunSteps(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	names := func(order []step, fails string) ([]string, error) {
		var mu sync.Mutex
		var did []string
		for i, s := range order {
			order[i].do = func(context.Context) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				did = append(did, s.name)
				if s.name == fails {
					return "", broken
				}
				return "done", nil
			}
		}
		err := runSteps(context.Background(), order, func(string, string) {})
		return did, err
	}
	chain := func() []step {
		return []step{
			{name: "velero", needs: []string{"apiserver", "elsewhere"}},
			{name: "apiserver", needs: []string{"etcd"}},
			{name: "etcd"},
		}
	}

	did, err := names(chain(), "")
	require.NoError(t, err)
	assert.Equal(t, []string{"etcd", "apiserver", "velero"}, did, "each step waits for those it needs")

	did, err = names(reversed(chain()), "")
	require.NoError(t, err)
	assert.Equal(t, []string{"velero", "apiserver", "etcd"}, did, "taking down goes the other way")

	did, err = names(chain(), "apiserver")
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "apiserver: broken")
	assert.Equal(t, []string{"etcd", "apiserver"}, did, "nothing is built on what failed")
}

func TestMatches(t *testing.T) {
	t.Parallel()
	parts := []string{"s3", "primary/etcd", "primary/velero", "dr/etcd", "hassio"}
	tests := []struct {
		target string
		want   string
	}{
		{"primary", "primary/etcd primary/velero"},
		{"dr/etcd", "dr/etcd"},
		{"hassio", "hassio"},
		{"prim", ""},
		{"", ""},
	}
	for _, tt := range tests {
		t.Run("target "+tt.target, func(t *testing.T) {
			t.Parallel()
			got := slices.DeleteFunc(slices.Clone(parts), func(p string) bool { return !matches(p, tt.target) })
			assert.Equal(t, tt.want, strings.Join(got, " "))
		})
	}
}
