package guestcfg

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRead_IsWhatWasWritten(t *testing.T) {
	t.Parallel()
	want := Config{
		Hostname:  "hassio",
		Hosts:     map[string][]string{"10.77.0.2": {"remote"}},
		Link:      Link{Address: "10.77.0.1/24", Routes: []Route{{Destination: "10.78.2.0/24", Via: "10.77.0.2"}}},
		PodSubnet: "10.78.1.0/24",
		Pools:     []Pool{{Name: "znvm", Datasets: []string{"znvm/k3s"}}},
		Services: []Service{
			Containerd(),
			ImportImage("/config/images/pause.tar"),
			{Name: "slow", Argv: []string{"slow"}, Ready: &Probe{File: "/run/slow", Timeout: Duration(90 * time.Second)}},
		},
	}
	data, err := json.Marshal(want)
	require.NoError(t, err)
	assert.Contains(t, string(data), `"timeout":"1m30s"`)
	file := filepath.Join(t.TempDir(), "guest.json")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	got, err := Read(file)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestRead_NamesTheFileThatIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "guest.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"hostname": 1}`), 0o600))
	_, err := Read(file)
	require.ErrorContains(t, err, file)
}

func TestImportImage_IsNamedAfterItsFile(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "import-pause", ImportImage("/config/images/pause.tar").Name)
}
