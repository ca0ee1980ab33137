package rig

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/pki"
	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

func TestChoosePorts(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	first, err := choosePorts(names, nil)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, name := range names {
		port := first[name]
		assert.False(t, seen[port], "no two parts share a port")
		seen[port] = true
		assert.GreaterOrEqual(t, port, firstPort)
		assert.LessOrEqual(t, port, lastPort)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		require.NoError(t, err, "the port is free")
		require.NoError(t, l.Close())
	}
	again, err := choosePorts(append(names, "d"), first)
	require.NoError(t, err)
	for _, name := range names {
		assert.Equal(t, first[name], again[name], "a port that was chosen stays")
	}
	assert.False(t, seen[again["d"]], "a new part takes a new port")
}

func TestState(t *testing.T) {
	t.Parallel()
	p := Paths{Dir: t.TempDir()}
	_, err := readState(p)
	require.ErrorIs(t, err, ErrNoRig)

	want := &state{Name: "one", Light: true, Ports: map[string]int{"s3": 20001},
		Processes: map[string]proc.ID{"s3": {PID: 7, Start: 8}}}
	require.NoError(t, want.write(p))
	got, err := readState(p)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	require.NoError(t, os.WriteFile(p.state(), []byte("{"), 0o600))
	_, err = readState(p)
	assert.ErrorContains(t, err, p.state())
}

func TestLockFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(path)
	require.NoError(t, err)
	_, err = lockFile(path)
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, os.Remove(path))
	second, err := lockFile(path)
	require.NoError(t, err, "a lock that was removed holds nobody up")
	unlock()
	_, err = lockFile(path)
	require.ErrorIs(t, err, ErrBusy, "releasing the removed lock does not release the new one")
	second()
}

func TestFolder(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	t.Setenv(FolderVariable, "")
	tests := []struct {
		name, rig, dir, variable string
		want                     string
		fails                    string
	}{
		{"below the user's state", "default", "", "", "/state/kubectl-dr/lab/default", ""},
		{"where the variable says", "default", "", "/rig", "/rig", ""},
		{"where the flag says", "default", "/flag", "/rig", "/flag", ""},
		{"a name that would leave the folder", "../x", "", "", "", "lower-case"},
		{"no name", "", "", "", "", "lower-case"},
		{"a folder too deep for sockets", "default", "/" + strings.Repeat("x", 80), "", "", "sockets"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(FolderVariable, tt.variable)
			got, err := Folder(tt.rig, tt.dir)
			if tt.fails != "" {
				require.ErrorContains(t, err, tt.fails)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	d := pki.Dir(filepath.Join(t.TempDir(), "pki"))
	require.NoError(t, pki.Make(d, "rig", map[string]pki.Subject{"admin": {CommonName: "admin"}}, pki.Subject{CommonName: "x"}))
	data, err := kubeconfig(d,
		access{context: "primary", server: "https://127.0.0.1:1", pair: "admin"},
		access{context: "dr", server: "https://127.0.0.1:2", pair: "admin"})
	require.NoError(t, err)

	var got struct {
		CurrentContext string `json:"current-context"`
		Clusters       []struct {
			Name    string
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Contexts []struct{ Name string }
	}
	require.NoError(t, yaml.Unmarshal(data, &got))
	assert.Equal(t, "primary", got.CurrentContext)
	assert.Len(t, got.Contexts, 2)
	ca, err := os.ReadFile(d.CA())
	require.NoError(t, err)
	assert.Equal(t, ca, got.Clusters[1].Cluster.CA, "the server is verified against the rig's authority")
	assert.NotContains(t, string(data), "insecure")
}
