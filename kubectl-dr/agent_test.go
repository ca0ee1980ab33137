package kubectldr

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

// credentialed gives the snapshot location of the world agents and a credential.
func credentialed(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	l := &velerov1api.VolumeSnapshotLocation{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "zfs"}, l))
	l.Spec.Config = map[string]string{"agents": "hassio=hassio:7443,remote=remote:7443", "target": "remote", "targetPrefix": "backup/replica"}
	l.Spec.Credential = &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: "zfs-agent-client"}, Key: "tls.pem"}
	require.NoError(t, w.recovery.Client.Update(t.Context(), l))
	return w
}

// certs runs kubectl dr agent certs, and calls the folder DIR in what it prints.
func (w *world) certs(dir string, args ...string) string {
	got := w.run(w.t.Context(), append([]string{"agent", "certs", "--ca-dir=" + dir}, args...)...)
	return strings.ReplaceAll(got.String(), dir, "DIR")
}

func (w *world) secret(t *testing.T, namespace, name string) map[string][]byte {
	t.Helper()
	s := &corev1api.Secret{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, s))
	return s.Data
}

func identityOf(t *testing.T, bundle []byte) string {
	t.Helper()
	b, err := agent.ParseBundle(bundle)
	require.NoError(t, err)
	return b.Identity()
}

const privateKey = "PRIVATE KEY"

func TestCerts(t *testing.T) {
	t.Parallel()
	w := credentialed(t)
	dir := filepath.Join(t.TempDir(), "ca")
	golden(t, "certs/dry run", w.certs(dir, "--dry-run"))
	assert.NoDirExists(t, dir, "a dry run makes nothing")

	golden(t, "certs/issued", w.certs(dir, "--client=backup-operator"))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		info, err := f.Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), f.Name())
	}
	assert.Equal(t, []string{"backup-operator.pem", "ca.crt", "ca.key", "hassio.pem", "kubectl-dr.pem", "remote.pem", "velero.pem"}, names)
	var secrets corev1api.SecretList
	require.NoError(t, w.recovery.Client.List(t.Context(), &secrets))
	assert.Empty(t, secrets.Items, "nothing is applied unasked")

	out := w.certs(dir, "--apply")
	golden(t, "certs/applied", out)
	assert.NotContains(t, out, privateKey)
	assert.Equal(t, "velero", identityOf(t, w.secret(t, veleroNS, "zfs-agent-client")["tls.pem"]))
	agents := w.secret(t, "kubectl-dr", "zfs-agent-tls")
	require.Len(t, agents, 1, "keys of the other site's hosts do not come here")
	assert.Equal(t, "remote", identityOf(t, agents["remote.pem"]))
	onDisk, err := os.ReadFile(filepath.Join(dir, "remote.pem"))
	require.NoError(t, err)
	assert.Equal(t, onDisk, agents["remote.pem"])
}

func TestCerts_areRenewed(t *testing.T) {
	t.Parallel()
	w := credentialed(t)
	dir := t.TempDir()
	require.Contains(t, w.certs(dir, "--apply"), "exit status 0")
	s := &corev1api.Secret{}
	key := client.ObjectKey{Namespace: veleroNS, Name: "zfs-agent-client"}
	require.NoError(t, w.recovery.Client.Get(t.Context(), key, s))
	first := s.Data["tls.pem"]
	s.Data["other"] = []byte("somebody's")
	require.NoError(t, w.recovery.Client.Update(t.Context(), s))

	require.Contains(t, w.certs(dir, "--apply"), "exit status 0")
	second := w.secret(t, veleroNS, "zfs-agent-client")
	assert.NotEqual(t, first, second["tls.pem"])
	assert.Equal(t, []byte("somebody's"), second["other"], "other keys stay")

	// The authority is replaced: both trust each other for a while.
	next := t.TempDir()
	_, err := agent.OpenAuthority(next, begin)
	require.NoError(t, err)
	require.Contains(t, w.certs(dir, "--apply", "--trust="+filepath.Join(next, "ca.crt")), "exit status 0")
	require.Contains(t, w.certs(next, "--apply", "--trust="+filepath.Join(dir, "ca.crt")), "exit status 0")
	b, err := agent.ParseBundle(w.secret(t, veleroNS, "zfs-agent-client")["tls.pem"])
	require.NoError(t, err)
	assert.Len(t, b.Certificates(), 3, "its own and two authorities")
	require.Contains(t, w.certs(next, "--apply"), "exit status 0")
}

func TestCerts_ofAnotherAuthorityAreNotReplaced(t *testing.T) {
	t.Parallel()
	w := credentialed(t)
	dir := filepath.Join(t.TempDir(), "ca")
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "zfs-agent-client"}, Data: map[string][]byte{"tls.pem": []byte("mine")},
	}))
	golden(t, "certs/another authority", w.certs(dir, "--apply"))
	assert.Equal(t, []byte("mine"), w.secret(t, veleroNS, "zfs-agent-client")["tls.pem"])
	assert.NoDirExists(t, dir, "nothing was made")
	require.Contains(t, w.certs(dir, "--apply", "--replace"), "exit status 0")
	assert.Equal(t, "velero", identityOf(t, w.secret(t, veleroNS, "zfs-agent-client")["tls.pem"]))
}

func TestCerts_asSecretsWhenAskedByName(t *testing.T) {
	t.Parallel()
	w := credentialed(t)
	got := w.run(t.Context(), "agent", "certs", "--ca-dir="+t.TempDir(), "-o", "yaml")
	require.Zero(t, got.code, got.err)
	var list corev1api.SecretList
	require.NoError(t, yaml.UnmarshalStrict([]byte(got.out), &list))
	require.Len(t, list.Items, 2)
	assert.Equal(t, "remote", identityOf(t, list.Items[0].Data["remote.pem"]))
	assert.Equal(t, "velero", identityOf(t, list.Items[1].Data["tls.pem"]))
	assert.Equal(t, "Secret", list.Items[0].Kind)
	for _, format := range []string{"", "wide", "name", "jsonpath={.items[*]}"} {
		got := w.run(t.Context(), "agent", "certs", "--ca-dir="+t.TempDir(), "-o", format)
		require.Zero(t, got.code, got.err)
		assert.NotContains(t, got.String(), privateKey, "-o %s", format)
	}
}

func TestCerts_refuses(t *testing.T) {
	t.Parallel()
	half := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(half, "ca.crt"), []byte("half"), 0o600))
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	tests := []struct {
		name string
		args []string
		says string
	}{
		{"replacing what is not applied", []string{"--replace"}, "--replace goes with --apply"},
		{"a dry run that applies", []string{"--dry-run", "--apply"}, "exclude each other"},
		{"keys on standard output beside something else", []string{"--apply", "-o", "yaml"}, "prints the Secrets with their keys"},
		{"a client that is an agent", []string{"--client=remote"}, "client remote: the name is taken"},
		{"a client that is no name", []string{"--client=../x"}, `"../x" is not a name`},
		{"half an authority", []string{"--ca-dir=" + half}, "open authority"},
		{"trust in a file that is not there", []string{"--trust=/nonexistent"}, "read authority to trust: open /nonexistent"},
		{"trust in a file without an authority", []string{"--trust=" + empty}, "trust another authority: no CA certificate in it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := credentialed(t)
			got := w.run(t.Context(), append([]string{"agent", "certs", "--ca-dir=" + filepath.Join(t.TempDir(), "ca")}, tt.args...)...)
			assert.Equal(t, 1, got.code)
			assert.Empty(t, got.out)
			assert.Contains(t, got.err, tt.says)
		})
	}
	w := newWorld(t)
	assert.Contains(t, w.certs(t.TempDir()), "VolumeSnapshotLocation zfs: read snapshot location config: agents: is required")
}
