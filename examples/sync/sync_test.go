package sync

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1api "k8s.io/api/batch/v1"
	corev1api "k8s.io/api/core/v1"
	rbacv1api "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	kubectldr "github.com/kubectl-dr/kubectl-dr/kubectl-dr"
)

// TestSync decodes every object, and gives the command the flags that it is started
// with.
func TestSync(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("sync.yaml")
	require.NoError(t, err)
	kinds := map[string]any{
		"ServiceAccount": &corev1api.ServiceAccount{}, "Role": &rbacv1api.Role{}, "RoleBinding": &rbacv1api.RoleBinding{},
		"ClusterRoleBinding": &rbacv1api.ClusterRoleBinding{}, "CronJob": &batchv1api.CronJob{},
	}
	documents := strings.Split(string(content), "\n---\n")
	require.Len(t, documents, len(kinds))
	for _, doc := range documents {
		var of metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal([]byte(doc), &of))
		require.Contains(t, kinds, of.Kind)
		require.NoError(t, yaml.UnmarshalStrict([]byte(doc), kinds[of.Kind]), of.Kind)
	}
	role := &rbacv1api.ClusterRole{}
	content, err = os.ReadFile("../rbac/standby.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.UnmarshalStrict(content, role))
	assert.Equal(t, role.Name, kinds["ClusterRoleBinding"].(*rbacv1api.ClusterRoleBinding).RoleRef.Name)

	pod := kinds["CronJob"].(*batchv1api.CronJob).Spec.JobTemplate.Spec.Template.Spec
	assert.Equal(t, kinds["ServiceAccount"].(*corev1api.ServiceAccount).Name, pod.ServiceAccountName)
	root := kubectldr.NewCommand(genericiooptions.NewTestIOStreamsDiscard())
	command, args, err := root.Find(pod.Containers[0].Args)
	require.NoError(t, err)
	assert.Equal(t, "sync", command.Name())
	require.NoError(t, command.ParseFlags(args))
}
