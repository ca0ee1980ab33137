package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

func newSupervisor(t *testing.T) (*supervisor, string) {
	t.Helper()
	dir := t.TempDir()
	s := &supervisor{logFile: func(service string) string { return filepath.Join(dir, service+".log") }}
	t.Cleanup(s.stop)
	return s, dir
}

func TestSupervisor_StartsAServiceAgainWhenItEnds(t *testing.T) {
	t.Parallel()
	s, dir := newSupervisor(t)
	require.NoError(t, s.start(t.Context(), guestcfg.Service{Name: "short", Argv: []string{"echo", "started"}}))
	require.Eventually(t, func() bool {
		log, err := os.ReadFile(filepath.Join(dir, "short.log"))
		return err == nil && strings.Count(string(log), "started") >= 2
	}, 10*time.Second, 20*time.Millisecond)
}

func TestSupervisor_StartWaitsUntilTheServiceIsReady(t *testing.T) {
	t.Parallel()
	s, dir := newSupervisor(t)
	file := filepath.Join(dir, "ready")
	require.NoError(t, s.start(t.Context(), guestcfg.Service{
		Name: "slow", Argv: []string{"sh", "-c", `touch "$READY"; exec sleep 60`}, Env: []string{"READY=" + file},
		Ready: &guestcfg.Probe{File: file},
	}))
	assert.FileExists(t, file)
	s.stop()
	assert.Empty(t, s.running, "a stopped service isn't started again")
}

func TestSupervisor_AServiceThatRunsOnceMustSucceed(t *testing.T) {
	t.Parallel()
	s, dir := newSupervisor(t)
	require.NoError(t, s.start(t.Context(), guestcfg.Service{Name: "fine", Argv: []string{"true"}, Once: true}))
	err := s.start(t.Context(), guestcfg.Service{Name: "import", Argv: []string{"false"}, Once: true})
	require.ErrorContains(t, err, filepath.Join(dir, "import.log"))
	require.Error(t, s.start(t.Context(), guestcfg.Service{Name: "missing", Argv: []string{"/nowhere"}, Once: true}))
}

func TestProbe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, file := filepath.Join(dir, "socket"), filepath.Join(dir, "file")
	unixListener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unixListener.Close() })
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = tcp.Close() })
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	all := guestcfg.Probe{File: file, Socket: socket, TCP: tcp.Addr().String()}
	require.NoError(t, probe(all))
	for _, missing := range []guestcfg.Probe{
		{File: file + "x", Socket: all.Socket, TCP: all.TCP},
		{File: all.File, Socket: file, TCP: all.TCP},
		{File: all.File, Socket: all.Socket, TCP: "127.0.0.1:1"},
	} {
		assert.Error(t, probe(missing))
	}
}

func TestAwait_GivesUp(t *testing.T) {
	t.Parallel()
	never := guestcfg.Probe{File: filepath.Join(t.TempDir(), "never"), Timeout: guestcfg.Duration(time.Millisecond)}
	require.ErrorContains(t, await(t.Context(), never), "not ready after 1ms")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never.Timeout = 0
	require.Error(t, await(ctx, never))
}
