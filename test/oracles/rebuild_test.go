package oracles

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
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

// drFor returns kubectl dr for a plan and a cluster.
func drFor(t *testing.T, c *cluster, text string) func(args ...string) (string, error) {
	t.Helper()
	c.knowsPlans(t)
	dir := t.TempDir()
	command, plan := program(t, "kubectl-dr"), filepath.Join(dir, "plan.yaml")
	require.NoError(t, os.WriteFile(plan, []byte(text), 0o600))
	return func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), command, append(args, "-f", plan, "--kubeconfig", c.kubeconfig)...)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		t.Logf("kubectl dr %s\n%s%s", args, said.String(), out)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
		return string(out), err
	}
}

// TestVelero_restoresWhatGitDoesNotOwn rebuilds an application's objects with the
// command, a real Velero with the plugin, and a real API server: what nothing in Git
// owns comes back, and what Git owns is left to it, there or not.
func TestVelero_restoresWhatGitDoesNotOwn(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ofVelero, ofCertManager)
	v := startVelero(t, c)
	v.create(t, rebuilt)
	v.until(t, "backups", "web-1", "Completed")
	dr := drFor(t, c, rebuildPlan)
	rebuild := func(args ...string) string {
		t.Helper()
		out, err := dr(append([]string{"rebuild"}, args...)...)
		require.NoError(t, err)
		return out
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

	assert.Contains(t, rebuild("--yes"), "By        admin, kubectl dr ", "the API server says who it is")
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

const (
	claims = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: zfsvolumes.zfs.openebs.io}
spec:
  group: zfs.openebs.io
  names: {kind: ZFSVolume, plural: zfsvolumes}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: v1
kind: Namespace
metadata: {name: openebs}
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: Secret
metadata: {name: zfs-agent-client, namespace: velero}
data: {tls.pem: %s}
---
apiVersion: velero.io/v1
kind: VolumeSnapshotLocation
metadata: {name: zfs, namespace: velero}
spec:
  provider: kubectl-dr.io/zfs
  credential: {name: zfs-agent-client, key: tls.pem}
  config: {agents: "hassio=%s", restoreNode: hassio}
`

	claimsBackup = `
apiVersion: velero.io/v1
kind: Backup
metadata: {name: web-1, namespace: velero, labels: {velero.io/schedule-name: web}}
spec: {includedNamespaces: [web], volumeSnapshotLocations: [zfs], defaultVolumesToFsBackup: false}
`

	volume = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[2]s}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: web, name: %[1]s}
  csi: {driver: zfs.csi.openebs.io, fsType: zfs, volumeHandle: %[2]s, volumeAttributes: {openebs.io/poolname: znvm/k3s}}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: openebs.io/nodeid, operator: In, values: [hassio]}]}]}}
  persistentVolumeReclaimPolicy: Retain
  storageClassName: zfs
`

	claim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: web, labels: ` + ofGit + `}
spec: {accessModes: [ReadWriteOnce], storageClassName: zfs, resources: {requests: {storage: 1Gi}}%s}
`
)

// startMemoryAgent starts an agent of node hassio over pools in memory, and returns
// what has Velero use it. A dataset is "<name>=<bytes>".
func startMemoryAgent(t *testing.T, datasets ...string) string {
	t.Helper()
	dir, address := t.TempDir(), beside.Address(t)
	certs := exec.CommandContext(t.Context(), program(t, "zfs-agent"), "certs", "--ca-dir="+dir, "--node=hassio", "--client=velero")
	out, err := certs.CombinedOutput()
	require.NoError(t, err, string(out))
	beside.Start(t, nil, program(t, "memoryagent"), "--node=hassio", "--listen="+address, "--tls="+filepath.Join(dir, "hassio.pem"), "--datasets="+strings.Join(datasets, ","))
	bundle, err := os.ReadFile(filepath.Join(dir, "velero.pem"))
	require.NoError(t, err)
	return fmt.Sprintf(claims, base64.StdEncoding.EncodeToString(bundle), address)
}

// TestKubernetes_bindsWhatIsRebuilt has the real controllers of volumes bind what a
// rebuild makes: for claims that are not there, that have no volume, whose volume is
// empty, and that were written to. The pools are in memory.
func TestKubernetes_bindsWhatIsRebuilt(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ofVelero)
	v := startVelero(t, c)
	c.bindVolumes(t)
	names := []string{"absent", "unbound", "empty", "written"}
	var datasets []string
	for _, name := range names {
		datasets = append(datasets, "znvm/k3s/"+name+"=65536")
	}
	v.create(t, startMemoryAgent(t, append(datasets, "znvm/k3s/git-empty=0", "znvm/k3s/git-written=4194304")...))
	for _, name := range names {
		v.create(t, fmt.Sprintf(volume, name, name)+"---"+fmt.Sprintf(claim, name, ", volumeName: "+name))
	}
	claimsOf := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}).Namespace("web")
	bound := func(name string) string {
		t.Helper()
		var volume string
		beside.Eventually(t, startTimeout, name+" is bound", func(ctx context.Context) error {
			obj, err := claimsOf.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase != "Bound" {
				return fmt.Errorf("it is %s", phase)
			}
			volume, _, err = unstructured.NestedString(obj.Object, "spec", "volumeName")
			return err
		})
		return volume
	}
	for _, name := range names {
		require.Equal(t, name, bound(name))
	}
	v.create(t, claimsBackup)
	v.until(t, "backups", "web-1", "Completed")

	volumes := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"})
	for _, name := range names {
		require.NoError(t, claimsOf.Delete(t.Context(), name, metav1.DeleteOptions{}))
		beside.Eventually(t, startTimeout, name+" is gone", func(ctx context.Context) error {
			if _, err := claimsOf.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %v", err)
			}
			return nil
		})
		require.NoError(t, volumes.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	v.create(t, fmt.Sprintf(claim, "unbound", "")+
		"---"+fmt.Sprintf(volume, "empty", "git-empty")+"---"+fmt.Sprintf(claim, "empty", ", volumeName: git-empty")+
		"---"+fmt.Sprintf(volume, "written", "git-written")+"---"+fmt.Sprintf(claim, "written", ", volumeName: git-written"))
	require.Equal(t, "git-empty", bound("empty"))
	require.Equal(t, "git-written", bound("written"))

	dr := drFor(t, c, rebuildPlan)
	rebuild := func(args ...string) (string, error) { return dr(append([]string{"rebuild", "--yes"}, args...)...) }
	_, err := rebuild()
	require.ErrorContains(t, err, "claims that may hold data are not overwritten: web/written (4.0 MiB were written to it)")
	assert.Equal(t, "git-empty", bound("empty"), "nothing has begun")

	said, err := rebuild("--replace-claim=web/written")
	require.NoError(t, err)
	assert.Contains(t, said, "web/written as hassio:znvm/k3s/git-written@dr-kept-")
	for _, name := range names {
		assert.Regexp(t, "^"+name+"-[0-9a-f]{8}$", bound(name))
	}
	for _, name := range []string{"git-empty", "git-written"} {
		left, err := volumes.Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		policy, _, _ := unstructured.NestedString(left.Object, "spec", "persistentVolumeReclaimPolicy")
		assert.Equal(t, "Retain", policy)
	}
	said, err = rebuild()
	require.NoError(t, err)
	assert.Contains(t, said, "nothing to do")

	// From what the snapshots say alone, as if there were no backup.
	require.NoError(t, claimsOf.Delete(t.Context(), "absent", metav1.DeleteOptions{}))
	said, err = rebuild("--from-pool=hassio", "--keep-claim=web/unbound,web/empty,web/written")
	require.NoError(t, err)
	assert.Contains(t, said, "restored with their claims: web/absent")
	assert.Regexp(t, "^absent-[0-9a-f]{8}$", bound("absent"))
}
