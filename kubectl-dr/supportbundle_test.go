package kubectldr

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// unpacked are the files of a bundle.
func unpacked(t *testing.T, content []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(content))
	require.NoError(t, err)
	archive := tar.NewReader(zip)
	files := map[string]string{}
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		text, err := io.ReadAll(archive)
		require.NoError(t, err)
		assert.Equal(t, int64(0o600), h.Mode, h.Name)
		files[h.Name] = string(text)
	}
}

// planted are secrets as they turn up in clusters; nothing of them may be in a
// bundle.
var planted = map[string]string{
	"a password in a Secret":           "correct-horse-battery",
	"a line of a file of credentials":  "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	"a key in a Secret":                "MHcCAQEEIBcNsecretKeyBytes0123456789abcdefghijk",
	"a value of an environment":        "env-value-that-nobody-knows",
	"a password in a log":              "log-password-77",
	"a bearer token in a log":          "abcdef0123456789abcdef",
	"a token of a ServiceAccount":      "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ2ZWxlcm8ifQ.c2lnbmF0dXJl",
	"a password in a URL":              "url-password-88",
	"a signature of a URL":             "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"an access key":                    "AKIAIOSFODNN7EXAMPLE",
	"a key in a log":                   "bG9nZ2VkLXByaXZhdGUta2V5LW1hdGVyaWFs",
	"a password in a location":         "location-password-99",
	"a password in what was applied":   "applied-password-11",
	"a token in a report of a failure": "failed-token-22",
}

func TestSupportBundle_holdsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	create := func(obj client.Object) { require.NoError(t, w.recovery.Client.Create(t.Context(), obj)) }
	create(&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "cloud"}, Data: map[string][]byte{
		"password": []byte(planted["a password in a Secret"]),
		"cloud":    []byte("[default]\naws_access_key_id=minio\naws_secret_access_key = " + planted["a line of a file of credentials"] + "\n"),
	}})
	create(&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kubectl-dr", Name: "zfs-agent-tls"}, Data: map[string][]byte{
		"remote.pem": []byte("-----BEGIN EC PRIVATE KEY-----\n" + planted["a key in a Secret"] + "\n-----END EC PRIVATE KEY-----\n"),
	}})
	d := &appsv1api.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "velero", Annotations: map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": `{"password":"` + planted["a password in what was applied"] + `"}`}}}
	d.Spec.Template.Spec.Containers = []corev1api.Container{{Name: "velero", Env: []corev1api.EnvVar{{Name: "SETTING", Value: planted["a value of an environment"]}},
		Args: []string{"server", "--features=EnableAPIGroupVersions"}}}
	create(d)
	create(&corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "velero-1"},
		Spec:   corev1api.PodSpec{Containers: []corev1api.Container{{Name: "velero"}}},
		Status: corev1api.PodStatus{ContainerStatuses: []corev1api.ContainerStatus{{Name: "velero", RestartCount: 2}}}})
	create(&corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kubectl-dr", Name: "zfs-agent-1"}, Spec: corev1api.PodSpec{Containers: []corev1api.Container{{Name: "zfs-agent"}}}})
	w.logs = map[string]string{
		"velero-1/velero": strings.Join([]string{
			`level=info msg="hello" cmd=/plugins/velero-plugin-zfs-dr`,
			`level=info msg="uses \"` + planted["a password in a Secret"] + `\" and ` + base64.StdEncoding.EncodeToString([]byte(planted["a password in a Secret"])) + `"`,
			`level=error error="login: password=\"` + planted["a password in a log"] + `\" refused"`,
			"Authorization: Bearer " + planted["a bearer token in a log"],
			"token " + planted["a token of a ServiceAccount"],
			"dial mysql://root:" + planted["a password in a URL"] + "@db:3306/wordpress",
			"GET https://s3.example.org/bucket/backup.tar.gz?X-Amz-Expires=600&X-Amz-Signature=" + planted["a signature of a URL"],
			"key " + planted["an access key"],
			"-----BEGIN PRIVATE KEY-----\n" + planted["a key in a log"] + "\n-----END PRIVATE KEY-----",
		}, "\n"),
		"velero-1/velero before": "panic: secret_key: " + planted["a line of a file of credentials"],
		"zfs-agent-1/zfs-agent":  "read " + planted["a key in a Secret"],
	}
	w.update(&velerov1api.BackupStorageLocation{}, "default", func(o client.Object) {
		o.(*velerov1api.BackupStorageLocation).Spec.Config = map[string]string{"s3Url": "https://s3.example.org", "password": planted["a password in a location"]}
	})
	w.files["BackupResults/wordpress-2"] = `{"errors":{"velero":["api_token: ` + planted["a token in a report of a failure"] + `"]}}`
	w.files["BackupLog/wordpress-2"] = "time=now level=info msg=\"Copied to remote\"\n"

	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	got := w.run(t.Context(), "support-bundle", "--file="+file, "--source-context=primary")
	require.Zero(t, got.code, got.err)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	files := unpacked(t, content)
	names := slices.Sorted(maps.Keys(files))
	golden(t, "bundle/files", strings.Join(names, "\n")+"\n")
	const root = "kubectl-dr-support-20260102-030405/"
	for name, text := range files {
		for what, secret := range planted {
			assert.NotContains(t, text, secret, "%s in %s", what, name)
			assert.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte(secret)), "%s, in base64, in %s", what, name)
		}
		assert.NotContains(t, name, "/secret/")
	}
	golden(t, "bundle/velero.log", files[root+"recovery/logs/velero/velero-1/velero.log"])
	assert.Contains(t, files[root+"recovery/objects/velero/deployment/velero.yaml"], "--features=EnableAPIGroupVersions", "what is no secret stays")
	assert.Contains(t, files[root+"recovery/objects/velero/recoveryplan/wordpress.yaml"], "drillEvery: 720h0m0s")
	assert.Contains(t, files[root+"recovery/velero/wordpress-2/BackupLog.txt"], "Copied to remote")
	assert.Contains(t, files[root+"reports/wordpress-rpo.yaml"], "a failover now loses 7m12s in PVC wordpress-db")
	assert.Contains(t, files[root+"reports/agents.yaml"], "kind: DoctorReport")
	assert.Contains(t, got.out, file+": ")
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestSupportBundle_saysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.noCRDs = true
	got := w.run(t.Context(), "support-bundle", "--file=-")
	require.Zero(t, got.code, got.err)
	files := unpacked(t, []byte(got.out))
	assert.Contains(t, files["kubectl-dr-support-20260102-030405/missing.txt"], "report plans: list plans in namespace velero: the custom resource definitions of kubectl dr are missing")
	assert.Contains(t, got.err, "warning: not in the bundle: report plans: ")
	assert.Contains(t, files, "kubectl-dr-support-20260102-030405/recovery/objects/velero/backup/wordpress-2.yaml", "the rest is there")
}
