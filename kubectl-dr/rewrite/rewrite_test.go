package rewrite

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/fake"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

// backup makes an archive as Velero 1.18 writes it.
func backup(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	archive := tar.NewWriter(zipped)
	deployment := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"web"},"spec":{"replicas":2}}`
	for _, file := range [][2]string{
		{"metadata/version", "1.1.0"},
		{"resources/deployments.apps/namespaces/web/web.json", deployment},
		{"resources/deployments.apps/v1-preferredversion/namespaces/web/web.json", deployment},
		{"resources/persistentvolumes/cluster/pv.json", `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pv"}}`},
		{"resources/persistentvolumes/v1-preferredversion/cluster/pv.json", `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pv"}}`},
	} {
		require.NoError(t, archive.WriteHeader(&tar.Header{Name: file[0], Size: int64(len(file[1])), Typeflag: tar.TypeReg, Mode: 0o644}))
		_, err := archive.Write([]byte(file[1]))
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	require.NoError(t, zipped.Close())
	return writeFile(t, "backup.tar.gz", b.String())
}

func TestRead_backup(t *testing.T) {
	t.Parallel()
	in, err := Read([]string{backup(t)}, false, nil)
	require.NoError(t, err)
	var names []string
	for _, obj := range in.Objects {
		names = append(names, Name(obj))
	}
	assert.Equal(t, []string{"Deployment web/web", "PersistentVolume pv"}, names, "each object once")
	assert.Equal(t, int64(2), in.Objects[0].Object["spec"].(map[string]any)["replicas"])

	_, err = Read([]string{writeFile(t, "broken.tar.gz", "x")}, false, nil)
	assert.ErrorContains(t, err, "broken.tar.gz: unexpected EOF")
}

func TestRead_folders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "below"), 0o700))
	for _, file := range []string{"a.yaml", "below/b.json", "c.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "`+file+`"}}`), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts.yaml"), []byte("groups: []\n"), 0o600))
	in, err := Read([]string{dir}, false, nil)
	require.NoError(t, err, "what is no object is left out")
	assert.Len(t, in.Objects, 1)
	_, err = Read([]string{filepath.Join(dir, "alerts.yaml")}, false, nil)
	require.ErrorIs(t, err, errNoObject, "unless it was asked for")
	in, err = Read([]string{dir}, true, nil)
	require.NoError(t, err)
	assert.Len(t, in.Objects, 2)
}

func TestInput_Cluster(t *testing.T) {
	t.Parallel()
	resources := &fake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{{
		GroupVersion: "v1",
		APIResources: []metav1.APIResource{
			{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: []string{"list"}},
			{Name: "events", Kind: "Event", Namespaced: true, Verbs: []string{"list"}},
			{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: []string{"create"}},
			{Name: "nodes", Kind: "Node", Verbs: []string{"list"}},
		},
	}}}}
	objects := dynamicfake.NewSimpleDynamicClient(scheme.Scheme,
		&corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "mine"}},
		&corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "theirs"}},
		&corev1api.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "event"}},
	)
	in := &Input{}
	require.NoError(t, in.Cluster(t.Context(), preferred{resources}, objects, "web"))
	require.Len(t, in.Objects, 1)
	assert.Equal(t, "ConfigMap web/mine", Name(in.Objects[0]))

	in = &Input{}
	require.NoError(t, in.Cluster(t.Context(), preferred{resources}, objects, ""))
	assert.Len(t, in.Objects, 2, "in all namespaces")
}

// preferred answers what the fake leaves out.
type preferred struct{ *fake.FakeDiscovery }

func (p preferred) ServerPreferredResources() ([]*metav1.APIResourceList, error) {
	return p.Resources, nil
}

func TestOutcome_Diff_hidesSecrets(t *testing.T) {
	t.Parallel()
	set, err := rules.Load(map[string][]byte{"p": []byte(`apiVersion: rewrite.kubectl-dr.io/v1alpha1
kind: RewriteProfiles
profiles: [{name: p, hosts: [{from: a.example.org, to: b.example.org}], hostsIn: {secrets: ["*"]}}]
`)}, expr.New())
	require.NoError(t, err)
	p, err := set.Profile("p")
	require.NoError(t, err)
	in, err := Read([]string{"-"}, false, strings.NewReader("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {url: https://user:hunter2@a.example.org, password: hunter2}\n"))
	require.NoError(t, err)
	out, err := Apply(p, in.Objects)
	require.NoError(t, err)
	diff, err := out.Objects[0].Diff()
	require.NoError(t, err)
	assert.NotContains(t, diff, "hunter2")
	assert.Contains(t, diff, "-  url: (hidden)\n+  url: (hidden, changed)\n")
	assert.Contains(t, diff, "   password: (hidden)\n")
}

func TestColour(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "\x1b[1m--- a\x1b[0m\n\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n z\n", Colour("--- a\n-x\n+y\n z\n"))
}
