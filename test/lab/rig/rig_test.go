package rig

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// written is a rig with all its files and nothing running.
func written(t *testing.T, light bool) *Rig {
	t.Helper()
	r := &Rig{Paths: Paths{Dir: t.TempDir()}, progress: newProgress(nil)}
	require.NoError(t, r.prepare(Options{Name: "one", Light: light, Plugin: "plugin", Agent: "agent"}))
	return r
}

func TestRig_prepare(t *testing.T) {
	t.Parallel()
	r := written(t, false)
	secret, err := r.s3Secret()
	require.NoError(t, err)
	assert.NotEmpty(t, secret)
	assert.True(t, filepath.IsAbs(r.state.Agent), "a later start may run from another folder")

	again := &Rig{Paths: r.Paths, progress: newProgress(nil)}
	require.NoError(t, again.prepare(Options{Name: "one"}))
	assert.Equal(t, r.state, again.state, "preparing again changes nothing")
	sameSecret, err := again.s3Secret()
	require.NoError(t, err)
	assert.Equal(t, secret, sameSecret)

	require.ErrorContains(t, again.prepare(Options{Name: "one", Light: true}), "another form")
}

func TestRig_targets(t *testing.T) {
	t.Parallel()
	full := written(t, false).targets()
	for _, name := range []string{"s3", "primary", "primary/apiserver", "dr", "dr/velero", "hassio", "remote"} {
		assert.Contains(t, full, name)
	}
	assert.Equal(t, []string{"s3", "hassio", "remote"}, written(t, true).targets(), "a light rig has the machines and the object store")
}

func TestRig_up_orderHolds(t *testing.T) {
	t.Parallel()
	steps := written(t, false).up()
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	for _, s := range steps {
		for _, need := range s.needs {
			assert.Contains(t, names, need, "%s needs a step that exists", s.name)
		}
	}
	assert.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names), "no two steps share a name")
}

func TestRig_oneCluster(t *testing.T) {
	t.Parallel()
	r := &Rig{Paths: Paths{Dir: t.TempDir()}, progress: newProgress(nil)}
	require.NoError(t, r.prepare(Options{Name: "one", OneCluster: true}))
	needs := map[string][]string{}
	for _, s := range r.atFirst() {
		needs[s.name] = s.needs
	}
	assert.Contains(t, needs["hassio/joined"], "primary/apiserver")
	assert.Contains(t, needs["remote/joined"], "primary/apiserver")
	assert.Contains(t, needs, "primary/objects")
	for name := range needs {
		assert.False(t, matches(name, "dr"), "%s is started when it is asked for", name)
	}
	for _, s := range chosen(r.up(), []string{"dr"}) {
		assert.NotEqual(t, "dr/objects", s.name, "they come with its data")
	}
	require.NoError(t, r.writeNodeFiles(nodes[1]))
	file, err := os.ReadFile(r.in("config", "remote", "kubeconfig.yaml"))
	require.NoError(t, err)
	assert.Contains(t, string(file), strconv.Itoa(r.port("primary/apiserver")))

	one := r.furnished()[0]
	assert.Len(t, one.storageClasses, 4)
	assert.False(t, one.readOnly)
	l := r.location(one)
	assert.Equal(t, "remote", l["restoreNode"])
	assert.NotContains(t, l, "failbackTarget")
}

func TestRig_nothingRuns(t *testing.T) {
	t.Parallel()
	r := written(t, false)
	for _, row := range r.Status(context.Background()) {
		assert.Equal(t, Stopped, row.State, row.Name)
		assert.NotZero(t, row.Port, row.Name)
		assert.NotEmpty(t, row.Log, row.Name)
	}
	var out strings.Builder
	require.ErrorContains(t, r.Stop(context.Background(), &out, "nowhere"), `"nowhere" is no part of the rig`)
	require.NoError(t, r.Stop(context.Background(), &out, "primary"), "stopping what doesn't run is fine")
	require.NoError(t, r.Down(context.Background(), &out))
	assert.NoDirExists(t, r.Dir)
}

func TestRig_Down_findsWhatNobodyWroteDown(t *testing.T) {
	t.Parallel()
	r := written(t, true)
	id, err := proc.Start(proc.Spec{Argv: []string{"/bin/sleep", "600"}, Log: r.Log("x"), Mark: r.mark("hassio")})
	require.NoError(t, err)
	require.NoError(t, r.Down(context.Background(), nil))
	assert.False(t, id.Alive())
}

func TestRig_location(t *testing.T) {
	t.Parallel()
	r := written(t, false)
	for _, s := range sites {
		l := r.location(s)
		assert.Equal(t, "hassio="+r.AgentAddress("hassio")+",remote="+r.AgentAddress("remote"), l["agents"])
		assert.Equal(t, "remote", l["target"])
		assert.Equal(t, s.readOnly, l["restoreNode"] == "remote", "only the recovery site restores elsewhere")
	}
}

func TestRig_Environment(t *testing.T) {
	t.Parallel()
	value := func(r *Rig, name string) string {
		for _, v := range r.Environment() {
			if v.Name == name {
				return v.Value
			}
		}
		return ""
	}
	r := written(t, false)
	for _, name := range []string{"KUBECONFIG", "PRIMARY_KUBECONFIG", "DR_KUBECONFIG", "LAB_CLIENT_BUNDLE", "LAB_FOREIGN_BUNDLE", "LAB_S3_CREDENTIALS"} {
		assert.FileExists(t, value(r, name), name)
	}
	light := written(t, true)
	assert.Empty(t, value(light, "KUBECONFIG"), "a light rig has no clusters")
	assert.Equal(t, light.AgentAddress("remote"), value(light, "LAB_AGENT_REMOTE"))
}

func TestCopyChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	require.NoError(t, os.WriteFile(from, []byte("one"), 0o600))
	for _, tt := range []struct {
		content string
		changed bool
	}{{"one", true}, {"one", false}, {"two", true}} {
		require.NoError(t, os.WriteFile(from, []byte(tt.content), 0o600))
		changed, err := copyChanged(from, to)
		require.NoError(t, err)
		assert.Equal(t, tt.changed, changed)
		got, err := os.ReadFile(to)
		require.NoError(t, err)
		assert.Equal(t, tt.content, string(got))
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(file, []byte("first line\nsecond line\nthird\n"), 0o600))
	tests := []struct {
		name string
		size int64
		want string
	}{
		{"a short file is shown whole", 1000, "first line\nsecond line\nthird"},
		{"a long one from the beginning of a line", 15, "third"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, tail(file, tt.size))
		})
	}
	assert.Contains(t, tail(file+"x", 10), "no such file", "a log that isn't there says so")
}
