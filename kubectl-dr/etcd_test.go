package kubectldr

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The files are snapshots of a real etcd, taken with kubectl dr etcd snapshot.
func TestEtcd(t *testing.T) {
	t.Parallel()
	const dir = "testdata/etcd/"
	tests := []struct {
		name, args string
		code       int
	}{
		{"etcd verify", "etcd verify " + dir + "primary.db", 0},
		{"etcd verify, strict", "etcd verify " + dir + "primary.db --strict -o yaml", 2},
		{"etcd verify for a standby that lacks the key", "etcd verify " + dir + "primary.db --encryption-config=" + dir + "encryption.yaml", 2},
		{"etcd diff", "etcd diff " + dir + "primary.db " + dir + "standby.db", 2},
		{"etcd diff of the same", "etcd diff " + dir + "primary.db " + dir + "primary.db -o json", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t).run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, tt.code, got.code, got.err)
			golden(t, tt.name, got.out+"--- stderr\n"+got.err)
		})
	}
}

func TestEtcd_restore(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "etcd")
	args := []string{"etcd", "restore", "testdata/etcd/primary.db", "--data-dir=" + data, "--name=cp1", "--peer-url=https://10.0.0.11:2380"}
	got := newWorld(t).run(t.Context(), args...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "start etcd with --data-dir="+data+" --name=cp1")
	assert.DirExists(t, filepath.Join(data, "member", "wal"))

	got = newWorld(t).run(t.Context(), args...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, data+" is not empty")
}

func TestEtcd_ofAnArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "archive.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "type: FILESYSTEM\nconfig: {directory: %s}\n", dir), 0o600))
	content, err := os.ReadFile("testdata/etcd/primary.db")
	require.NoError(t, err)
	manifest, err := os.ReadFile("testdata/etcd/primary.db.json")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "etcd", "primary"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etcd", "primary", "00000"), content, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etcd", "primary.json"), []byte(strings.Replace(string(manifest), `"revision"`, `"parts": 1, "revision"`, 1)), 0o600))

	got := newWorld(t).run(t.Context(), "etcd", "list", "--archive="+config)
	require.Zero(t, got.code, got.err)
	golden(t, "etcd list", got.out)
	got = newWorld(t).run(t.Context(), "etcd", "verify", "primary", "--archive="+config)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.out, "the file is as it was taken")
}

func TestEtcd_refuses(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "there.db")
	require.NoError(t, os.WriteFile(there, nil, 0o600))
	tests := []struct{ name, args, want string }{
		{"a file that is there", "etcd snapshot " + there + " --endpoint=http://127.0.0.1:1", "is there already"},
		{"a certificate without a key", "etcd snapshot x.db --cert=a.pem", "--cert and --key go together"},
		{"a restore to nowhere", "etcd restore testdata/etcd/primary.db", `required flag(s) "data-dir" not set`},
		{"a restore without the key of encryption", "etcd restore testdata/etcd/primary.db --data-dir=nope --encryption-config=testdata/etcd/encryption.yaml", "the configuration lacks it"},
		{"a configuration of something else", "etcd verify testdata/etcd/primary.db --encryption-config=testdata/plan.yaml", `kind is "RecoveryPlan"`},
		{"a list of nothing", "etcd list", "--archive is needed"},
		{"what is no snapshot", "etcd diff testdata/plan.yaml testdata/plan.yaml", "it is damaged, cut off, or no snapshot"},
		{"keys of something else", "etcd diff testdata/etcd/primary.db testdata/etcd/primary.db --prefix=/nope", "has no keys below /nope"},
		{"an archive that is not there", "etcd list --archive=nope.yaml", "nope.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t).run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, 1, got.code)
			assert.Contains(t, got.err, tt.want)
			assert.Empty(t, got.out)
		})
	}
	assert.NoDirExists(t, "nope")
}
