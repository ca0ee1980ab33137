package oracles

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// ofGit is by what Flux knows its own.
	ofGit = "{kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}"

	rebuilt = `
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {team: blog}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: web, labels: ` + ofGit + `}
data: {theme: light}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: web, labels: ` + ofGit + `}
spec: {rules: [{host: www.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: v1
kind: Secret
metadata: {name: by-hand, namespace: web}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Secret
metadata: {name: web-tls, namespace: web, annotations: {cert-manager.io/certificate-name: web}}
type: kubernetes.io/tls
stringData: {tls.crt: certificate, tls.key: key}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: importer, namespace: web}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: importer, namespace: web}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: importer, namespace: web}]
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: by-people, namespace: web}
spec: {secretName: web-tls, dnsNames: [www.example.org], issuerRef: {name: letsencrypt}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: web-importer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: importer, namespace: web}]
---
apiVersion: velero.io/v1
kind: Backup
metadata: {name: web-1, namespace: velero, labels: {velero.io/schedule-name: web}}
spec: {includedNamespaces: [web], snapshotVolumes: false}
`

	rebuildPlan = `
apiVersion: kubectl-dr.io/v1alpha1
kind: RecoveryPlan
metadata: {name: web}
spec:
  objectives: {rpo: 24h, rto: 1h}
  source: {namespaces: [web], schedule: web}
`
)

// TestVelero_restoresWhatGitDoesNotOwn rebuilds an application's objects with the
// command, a real Velero with the plugin, and a real API server: what nothing in Git
// owns comes back, and what Git owns is left to it, there or not.
func TestVelero_restoresWhatGitDoesNotOwn(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	v := startVelero(t, c)
	for _, file := range []string{"recoveryplans", "recoveryruns"} {
		for _, crd := range readObjects(t, filepath.Join("..", "..", "examples", "crds", "kubectl-dr.io_"+file+".yaml")) {
			require.NoError(t, c.accepts(t.Context(), crd))
		}
	}
	v.create(t, rebuilt)
	v.until(t, "backups", "web-1", "Completed")
	dir := t.TempDir()
	command, plan := buildOwn(t, dir, "kubectl-dr"), filepath.Join(dir, "plan.yaml")
	require.NoError(t, os.WriteFile(plan, []byte(rebuildPlan), 0o600))
	rebuild := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), command, append([]string{"rebuild", "-f", plan, "--kubeconfig", c.kubeconfig}, args...)...)
		out, err := cmd.CombinedOutput()
		t.Logf("kubectl dr rebuild %s\n%s", args, out)
		require.NoError(t, err)
		return string(out)
	}

	// Everything but the Namespace goes, which nobody here would empty; Git comes back
	// with the ConfigMap, and has changed it.
	var objects []*unstructured.Unstructured
	for _, obj := range readText(t, rebuilt) {
		if kind := obj.GetKind(); kind == "Backup" || kind == "Namespace" {
			continue
		}
		resource, err := c.resource(obj)
		require.NoError(t, err)
		require.NoError(t, resource.Delete(t.Context(), obj.GetName(), metav1.DeleteOptions{}))
		objects = append(objects, obj)
	}
	git := objects[0]
	require.NoError(t, unstructured.SetNestedField(git.Object, "dark", "data", "theme"))
	require.NoError(t, c.accepts(t.Context(), git))

	out := rebuild("--plan")
	assert.Regexp(t, `both +leave +there +web +ConfigMap +settings +Kustomization flux-system/apps +data.theme`, out)
	assert.Regexp(t, `both +wait +absent +web +Ingress.networking.k8s.io +web +Kustomization flux-system/apps`, out)
	assert.Regexp(t, `backup +restore +absent +web +Secret +by-hand`, out)
	assert.Regexp(t, `backup +restore +absent +web +Certificate.cert-manager.io +by-people`, out)
	assert.NotContains(t, out, "hunter2")

	rebuild("--yes")
	get := func(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		resource, err := c.resource(obj)
		require.NoError(t, err)
		return resource.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
	}
	versions := map[string]string{}
	for _, obj := range objects {
		have, err := get(obj)
		name := obj.GetKind() + " " + obj.GetName()
		switch name {
		case "Ingress web":
			assert.True(t, apierrors.IsNotFound(err), "what Git owns is left to it: %v", err)
			continue
		case "ConfigMap settings":
			require.NoError(t, err)
			assert.Equal(t, map[string]any{"theme": "dark"}, have.Object["data"])
		default:
			assert.NoError(t, err, name)
		}
		if err == nil {
			versions[name] = have.GetResourceVersion()
		}
	}

	assert.Contains(t, rebuild("--yes"), "nothing to do")
	for _, obj := range objects {
		if have, err := get(obj); err == nil {
			assert.Equal(t, versions[obj.GetKind()+" "+obj.GetName()], have.GetResourceVersion(), "a second time changes nothing")
		}
	}
}

// readText reads objects.
func readText(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return readObjects(t, file)
}
