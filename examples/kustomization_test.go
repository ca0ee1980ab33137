package examples

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

// TestKustomization builds what kubectl apply -k applies, from a copy with
// certificates in it.
func TestKustomization(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.CopyFS(root, os.DirFS(".")))
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	node, err := ca.Node("hassio", time.Now())
	require.NoError(t, err)
	client, err := ca.Client("velero", time.Now())
	require.NoError(t, err)
	certs := filepath.Join(root, "certs")
	require.NoError(t, os.Mkdir(certs, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(certs, "hassio.pem"), node, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(certs, "velero.pem"), client, 0o600))

	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root)
	require.NoError(t, err)
	objects := map[string][]byte{}
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		require.NoError(t, err)
		objects[r.GetKind()+"/"+r.GetNamespace()+"/"+r.GetName()] = text
	}
	read := func(name string, into any) {
		t.Helper()
		require.Contains(t, objects, name)
		require.NoError(t, yaml.UnmarshalStrict(objects[name], into))
	}

	daemons := &appsv1api.DaemonSet{}
	read("DaemonSet/kubectl-dr/zfs-agent", daemons)
	pod := daemons.Spec.Template.Spec
	assert.Equal(t, "ghcr.io/kubectl-dr/zfs-agent:v0.1.0", pod.Containers[0].Image)
	bundles, policy := &corev1api.Secret{}, &corev1api.ConfigMap{}
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			read("Secret/kubectl-dr/"+v.Secret.SecretName, bundles)
		}
		if v.ConfigMap != nil {
			read("ConfigMap/kubectl-dr/"+v.ConfigMap.Name, policy)
		}
	}
	parsed, err := agent.ParseBundle(bundles.Data["hassio.pem"])
	require.NoError(t, err, "the file that --tls names on node hassio")
	assert.Equal(t, "hassio", parsed.Identity())
	_, err = agent.ParsePolicy([]byte(policy.Data["agent.yaml"]))
	require.NoError(t, err)

	vsl := &velerov1api.VolumeSnapshotLocation{}
	read("VolumeSnapshotLocation/velero/zfs", vsl)
	_, err = zfssnap.ParseLocation(vsl.Spec.Config)
	require.NoError(t, err)
	credential := &corev1api.Secret{}
	read("Secret/velero/"+vsl.Spec.Credential.Name, credential)
	parsed, err = agent.ParseBundle(credential.Data[vsl.Spec.Credential.Key])
	require.NoError(t, err)
	assert.Equal(t, "velero", parsed.Identity())

	for _, name := range []string{
		"Role/velero/kubectl-dr-plugin", "ClusterRole//kubectl-dr-plugin", "ClusterRole//kubectl-dr-operator",
		"CustomResourceDefinition//recoveryplans.kubectl-dr.io", "CustomResourceDefinition//recoveryruns.kubectl-dr.io",
	} {
		assert.Contains(t, objects, name)
	}
}
