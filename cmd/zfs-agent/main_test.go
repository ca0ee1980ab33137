package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// run runs a fresh command.
func run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	cmd := newCommand(hostEnv())
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	err = cmd.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

func TestVersion(t *testing.T) {
	t.Parallel()
	out, _, err := run(t.Context(), "version")
	require.NoError(t, err)
	assert.Equal(t, "dev\n", out)
}

func TestCerts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	out, _, err := run(t.Context(), "certs", "--ca-dir", dir, "--node=hassio", "--node=remote", "--client=velero")
	require.NoError(t, err)
	assert.Equal(t, dir+"/hassio.pem\n"+dir+"/remote.pem\n"+dir+"/velero.pem\n", out)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, files, 5)
	for _, f := range files {
		info, err := f.Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), f.Name())
	}
	b, err := agent.LoadBundle(filepath.Join(dir, "velero.pem"))
	require.NoError(t, err)
	assert.Equal(t, "velero", b.Identity())

	_, _, err = run(t.Context(), "certs", "--ca-dir", dir)
	require.ErrorContains(t, err, "name a --node or a --client")
	_, _, err = run(t.Context(), "certs", "--ca-dir", dir, "--node=../x")
	require.ErrorContains(t, err, "is not a name")
}

func TestServe_refuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, err := run(t.Context(), "certs", "--ca-dir", dir, "--node=hassio")
	require.NoError(t, err)
	bundle, policy := filepath.Join(dir, "hassio.pem"), filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(policy, []byte("identity: []\n"), 0o600))
	good := filepath.Join(dir, "good.yaml")
	require.NoError(t, os.WriteFile(good, []byte("identities: []\n"), 0o600))
	tests := []struct {
		name string
		args []string
		says string
	}{
		{"without a bundle", []string{"--config", policy}, `required flag(s) "tls" not set`},
		{"a certificate of another node", []string{"--node=remote", "--tls", bundle, "--config", policy}, `is issued to "hassio", and --node is "remote"`},
		{"a policy with an unknown field", []string{"--node=hassio", "--tls", bundle, "--config", policy}, `unknown field "identity"`},
		{"a bandwidth that is none", []string{"--node=hassio", "--tls", bundle, "--config", good, "--bandwidth-limit=fast"}, `"fast" is no size`},
		{"an unknown log format", []string{"--node=hassio", "--tls", bundle, "--config", good, "--log-format=xml"}, `log format "xml" is neither text nor json`},
		{"a bundle that is not there", []string{"--node=hassio", "--tls", bundle + "x", "--config", policy}, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := run(t.Context(), append([]string{"serve", "--listen=127.0.0.1:0"}, tt.args...)...)
			require.ErrorContains(t, err, tt.says)
		})
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	fake := func(name, script string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700))
	}
	fake("zfs", "echo zfs-2.1.11-1; echo zfs-kmod-2.1.11-1\n")
	fake("zpool", `printf 'tank\tONLINE\t100\t50\n'`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	_, _, err := run(t.Context(), "certs", "--ca-dir", dir, "--node=hassio", "--client=me")
	require.NoError(t, err)
	policy := filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(policy, []byte("identities: [{name: me, verbs: [read], prefixes: [tank]}]\n"), 0o600))

	address, metrics := freeAddress(t), freeAddress(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := run(ctx, "serve", "--node=hassio", "--listen", address, "--metrics-listen", metrics,
			"--tls", filepath.Join(dir, "hassio.pem"), "--config", policy)
		done <- err
	}()
	agents, err := agent.NewDirectory(map[string]string{"hassio": address}, filepath.Join(dir, "me.pem"))
	require.NoError(t, err)
	defer agents.Close()
	c, err := agents.Client("hassio")
	require.NoError(t, err)
	var info *agentpb.InfoResponse
	require.Eventually(t, func() bool {
		info, err = c.Info(t.Context(), &agentpb.InfoRequest{})
		return err == nil
	}, 2*time.Minute, 10*time.Millisecond)
	assert.Equal(t, "2.1.11-1", info.GetZfsVersion())
	assert.Equal(t, uint64(50), info.GetPools()[0].GetFree())

	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + metrics + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	_, body := get("/metrics")
	assert.Contains(t, body, `zfs_agent_info{node="hassio",version="dev"} 1`)
	assert.Contains(t, body, `zfs_agent_transfers_in_flight{direction="sent"} 0`)
	for _, path := range []string{"/healthz", "/readyz"} {
		code, body := get(path)
		assert.Equal(t, http.StatusOK, code, path)
		assert.Equal(t, "ok\n", body, path)
	}

	stop()
	require.NoError(t, <-done)
}
