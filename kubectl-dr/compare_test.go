package kubectldr

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	const files = "compare testdata/compare/source.yaml --with=testdata/compare/standby.yaml"
	tests := []struct {
		name, args string
		code       int
	}{
		{"compare", files, 2},
		{"compare with what has no namespace", files + " --cluster-scoped -o name", 2},
		{"compare as yaml", files + " -o yaml", 2},
		{"compare of the same", "compare testdata/compare/source.yaml --with testdata/compare/source.yaml", 0},
		{"compare under a profile", "compare testdata/rewrite/objects.yaml --profiles=testdata/rewrite/profiles.yaml --profile=web-drill --with=testdata/rewrite/objects.yaml", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t).run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, tt.code, got.code, got.err)
			assert.NotContains(t, got.out, "b25l", "values of Secrets are not told")
			golden(t, tt.name, got.out+"--- stderr\n"+got.err)
		})
	}
}

func TestCompare_withABackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var archive bytes.Buffer
	packed := tar.NewWriter(&archive)
	content := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"gone","namespace":"wordpress"}}`)
	require.NoError(t, packed.WriteHeader(&tar.Header{Name: "resources/configmaps/namespaces/wordpress/gone.json", Mode: 0o600, Size: int64(len(content))}))
	_, err := packed.Write(content)
	require.NoError(t, err)
	require.NoError(t, packed.Close())
	w.files["BackupContents/wordpress-2"] = archive.String()
	got := w.run(t.Context(), "compare", "--backup=wordpress-2", "--with=testdata/compare/standby.yaml", "--namespaces=wordpress")
	assert.Equal(t, 2, got.code, got.err)
	assert.Contains(t, got.out, "missing      wordpress   ConfigMap   gone")
	assert.Contains(t, got.out, "1 objects of backup wordpress-2")

	got = w.run(t.Context(), "compare", "--backup=nope", "--with=testdata/compare/standby.yaml")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, `download BackupContents of "nope"`)
}

func TestCompare_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, args, want string }{
		{"no source", "compare", "want one source: a cluster, a backup or files"},
		{"two sources", "compare a.yaml --backup=b", "want one source"},
		{"a namespace without objects", "compare testdata/compare/source.yaml --with=testdata/compare/standby.yaml -n other", "has nothing that is to be compared"},
		{"profiles without a choice", "compare a.yaml --profiles=p.yaml", "--profiles are given and no --profile"},
		{"a namespace that is left out", "compare a.yaml -n kube-system", "namespace kube-system is to be compared and left out"},
		{"a file that is not there", "compare nope.yaml", "nope.yaml: no such file"},
		{"an unknown profile", "compare testdata/compare/source.yaml --profiles=testdata/rewrite/profiles.yaml --profile=x", `unknown profile "x"`},
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
}
