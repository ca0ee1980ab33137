package oracles

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

const veleroObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: velero}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: velero, namespace: velero, labels: {component: velero}}
spec: {replicas: 0, selector: {matchLabels: {deploy: velero}}, template: {metadata: {labels: {deploy: velero}}, spec: {containers: [{name: velero, image: "velero/velero:v1.18.3"}]}}}
---
apiVersion: velero.io/v1
kind: BackupStorageLocation
metadata: {name: default, namespace: velero}
spec: {provider: aws, default: true, objectStorage: {bucket: velero}, config: {region: us-east-1, s3ForcePathStyle: "true", s3Url: "http://%s"}}
`

// veleroTimeout is for what Velero does, however much it is.
const veleroTimeout = 10 * time.Minute

// velero is a real Velero server with the plugin, beside a cluster.
type velero struct {
	*cluster
	bucket string // a folder
}

// startVelero starts one. Further arguments are the server's.
func startVelero(t *testing.T, c *cluster, args ...string) *velero {
	t.Helper()
	programs := build(t, "velero", "velero-plugin-for-aws", "versitygw")
	dir, s3, metrics, secret := t.TempDir(), beside.Address(t), beside.Address(t), rand.Text()
	v := &velero{cluster: c, bucket: filepath.Join(dir, "s3", "velero")}
	plugins := filepath.Join(dir, "plugins")
	require.NoError(t, os.MkdirAll(v.bucket, 0o700))
	require.NoError(t, os.MkdirAll(plugins, 0o700))
	home := t.TempDir()
	for _, plugin := range []string{programs[1], program(t, "velero-plugin-zfs-dr")} {
		copied, err := os.ReadFile(plugin)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(plugins, filepath.Base(plugin)), copied, 0o700)) // the server follows no links
	}

	credentials := filepath.Join(dir, "s3-credentials")
	require.NoError(t, os.WriteFile(credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = lab\naws_secret_access_key = %s\n", secret), 0o600))
	beside.Start(t, []string{"ROOT_ACCESS_KEY=lab", "ROOT_SECRET_KEY=" + secret}, programs[2], "--port="+s3, "posix", filepath.Join(dir, "s3"))
	v.create(t, fmt.Sprintf(veleroObjects, s3))
	beside.Start(t, []string{
		"KUBECONFIG=" + c.kubeconfig, "VELERO_NAMESPACE=velero", "AWS_SHARED_CREDENTIALS_FILE=" + credentials,
		"AWS_EC2_METADATA_DISABLED=true", "HOME=" + home, "TMPDIR=" + home,
	}, programs[0], append([]string{
		"server", "--namespace=velero", "--plugin-dir=" + plugins, "--metrics-address=" + metrics, "--profiler-address=",
		"--store-validation-frequency=5s",
	}, args...)...)
	beside.Answers(t, startTimeout, "velero is ready", "http://"+metrics+"/metrics")
	v.until(t, "backupstoragelocations", "default", "Available")
	return v
}

// create creates objects.
func (v *velero) create(t *testing.T, objects string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	require.NoError(t, os.WriteFile(file, []byte(objects), 0o600))
	for _, obj := range readObjects(t, file) {
		require.NoError(t, v.accepts(t.Context(), obj), obj.GetName())
	}
}

// until waits for a phase of an object of Velero and returns the object.
func (v *velero) until(t *testing.T, resource, name string, phases ...string) (obj *unstructured.Unstructured) {
	t.Helper()
	of := v.objects.Resource(schema.GroupVersionResource{Group: "velero.io", Version: "v1", Resource: resource}).Namespace("velero")
	beside.Eventually(t, veleroTimeout, name, func(ctx context.Context) (err error) {
		if obj, err = of.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		phase, _, err := unstructured.NestedString(obj.Object, "status", "phase")
		if err == nil && !slices.Contains(phases, phase) {
			err = fmt.Errorf("%s is %q: %v", name, phase, obj.Object["status"])
		}
		return err
	})
	return obj
}

// restore restores a backup of namespace web into another and waits for its end.
func (v *velero) restore(t *testing.T, name, profile, into string) (status map[string]any) {
	t.Helper()
	labels := "{}"
	if profile != "" {
		labels = "{kubectl-dr.io/profile: " + profile + "}"
	}
	v.create(t, fmt.Sprintf(`
apiVersion: velero.io/v1
kind: Restore
metadata: {name: %s, namespace: velero, labels: %s}
spec: {backupName: web, namespaceMapping: {web: %s}}
`, name, labels, into))
	obj := v.until(t, "restores", name, "Completed", "PartiallyFailed", "Failed", "FailedValidation")
	return obj.Object["status"].(map[string]any)
}

// stored is what Velero has stored about a restore.
func (v *velero) stored(t *testing.T, restore, what string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(v.bucket, "restores", restore, "restore-"+restore+"-"+what+".gz"))
	require.NoError(t, err)
	unzipped, err := gzip.NewReader(bytes.NewReader(content))
	require.NoError(t, err)
	text, err := io.ReadAll(unzipped)
	require.NoError(t, err)
	return string(text)
}

// configMapOfProfiles is the plugin's configuration.
func configMapOfProfiles(t *testing.T, content string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "rewrite", "namespace": "velero", "labels": map[string]any{
			"velero.io/plugin-config": "", "kubectl-dr.io/rewrite": "RestoreItemAction",
		}},
		"data": map[string]any{"profiles.yaml": content},
	})
	require.NoError(t, err)
	obj := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal(raw, obj))
	return obj
}

const profileHeading = "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n- name: drill\n"

// TestVelero_restoresByProfile restores with a real Velero: by a profile with a
// fault nothing at all, and by one without what it says.
func TestVelero_restoresByProfile(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ofVelero)
	v := startVelero(t, c)
	v.create(t, `
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: site, namespace: web}
data: {url: "https://www.example.org/"}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: web}
spec: {rules: [{host: www.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: velero.io/v1
kind: Backup
metadata: {name: web, namespace: velero}
spec: {includedNamespaces: [web]}
`)
	v.until(t, "backups", "web", "Completed")
	configMaps := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"})
	namespaces := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})

	broken := configMapOfProfiles(t, profileHeading+"  host: [{from: www.example.org, to: www.dr.example.org}]\n")
	_, err := configMaps.Namespace("velero").Create(t.Context(), broken, metav1.CreateOptions{})
	require.NoError(t, err)
	status := v.restore(t, "broken", "drill", "web-broken")
	assert.NotEqual(t, "Completed", status["phase"])
	assert.Contains(t, v.stored(t, "broken", "results"), `load ConfigMap velero/rewrite: profiles.yaml:5: profiles[0].host: unknown field; did you mean \"hosts\"?`)
	_, err = namespaces.Get(t.Context(), "web-broken", metav1.GetOptions{})
	assert.True(t, apierrors.IsNotFound(err), "not even the namespace is created: %v", err)

	status = v.restore(t, "plain", "", "web-plain")
	assert.Equal(t, "Completed", status["phase"], "a restore that names no profile is left alone")

	sound := configMapOfProfiles(t, profileHeading+"  hosts: [{from: www.example.org, to: www.dr.example.org}, {from: z.example.org, to: y.example.org}]\n  hostsIn: {configMaps: [site]}\n")
	_, err = configMaps.Namespace("velero").Update(t.Context(), sound, metav1.UpdateOptions{})
	require.NoError(t, err)
	status = v.restore(t, "drill", "drill", "web-drill")
	assert.Equal(t, "Completed", status["phase"])
	site, err := configMaps.Namespace("web-drill").Get(t.Context(), "site", metav1.GetOptions{})
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"url": "https://www.dr.example.org/"}, site.Object["data"])
	log := v.stored(t, "drill", "logs")
	assert.Contains(t, log, `hosts: spec.rules[0].host: \"www.example.org\" → \"www.dr.example.org\"`)
	assert.Contains(t, log, "so far 1 of 1 objects changed, 0 not restored: hostsIn 1; nothing yet for hosts[z.example.org]")
}
