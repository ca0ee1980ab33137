package proc

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " 1 4711 4711 0 -1 4194560 177 0 0 0 0 0 0 0 20 0 1 0 98765 2375680 192"
	tests := []struct {
		name  string
		line  string
		want  status
		fails bool
	}{
		{"a plain name", "4711 (sleep) S" + rest, status{'S', 98765}, false},
		{"a name with spaces and parentheses", "4711 (a) b (c) R" + rest, status{'R', 98765}, false},
		{"a zombie", "4711 (sleep) Z" + rest, status{'Z', 98765}, false},
		{"a cut line", "4711 (sleep) S 1 4711", status{}, true},
		{"nothing", "", status{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStat(tt.line)
			assert.Equal(t, tt.fails, err != nil)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestHasMark(t *testing.T) {
	t.Parallel()
	environ := []byte("HOME=/root\x00KUBECTL_DR_LAB_PART=/rigs/one/primary/etcd\x00TERM=dumb\x00")
	tests := []struct {
		name string
		mark string
		want bool
	}{
		{"its own mark", "/rigs/one/primary/etcd", true},
		{"a folder above", "/rigs/one", true},
		{"another rig", "/rigs/two", false},
		{"a rig whose name begins alike", "/rigs/on", false},
		{"something below", "/rigs/one/primary/etcd/x", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, hasMark(environ, tt.mark))
		})
	}
}

func TestID_lifeOfAProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	id, err := Start(Spec{Argv: []string{sleep, "600"}, Log: filepath.Join(dir, "log"), Mark: dir + "/part"})
	require.NoError(t, err)
	assert.True(t, id.Alive())
	assert.Positive(t, id.Resident())
	found, err := Marked(dir)
	require.NoError(t, err)
	assert.Equal(t, []ID{id}, found, "a process is found by its mark")

	reused := ID{PID: id.PID, Start: id.Start - 1}
	assert.False(t, reused.Alive(), "a process that took over the number is another one")
	require.NoError(t, reused.Stop(context.Background(), time.Second))
	assert.True(t, id.Alive(), "a foreign process is never stopped")

	require.NoError(t, id.Stop(context.Background(), 10*time.Second))
	assert.False(t, id.Alive())
	assert.Zero(t, id.Resident())
	require.NoError(t, id.Stop(context.Background(), time.Second), "stopping twice is fine")
}

func TestID_Stop_kills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	id, err := Start(Spec{Argv: []string{"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"}, Log: log, Mark: dir})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.True(t, Poll(ctx, 10*time.Millisecond, func() bool {
		data, _ := os.ReadFile(log)
		return len(data) > 0
	}))
	require.NoError(t, id.Stop(context.Background(), 50*time.Millisecond), "one that ignores the request is killed")
	assert.False(t, id.Alive())
}

func TestStart_missingProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Start(Spec{Argv: []string{filepath.Join(dir, "none")}, Log: filepath.Join(dir, "log"), Mark: dir})
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "start none")
}
