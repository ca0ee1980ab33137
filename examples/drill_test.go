package examples

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
	"sigs.k8s.io/yaml"
)

// TestDrill decodes every object, and gives the commands the flags that they are
// started with.
func TestDrill(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("drill/drill.yaml")
	require.NoError(t, err)
	var commands []string
	for doc := range strings.SplitSeq(string(content), "\n---\n") {
		var of metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal([]byte(doc), &of))
		job := &batchv1api.CronJob{}
		into := map[string]any{"ServiceAccount": &corev1api.ServiceAccount{}, "ClusterRoleBinding": &rbacv1api.ClusterRoleBinding{}, "CronJob": job}
		require.Contains(t, into, of.Kind)
		require.NoError(t, yaml.UnmarshalStrict([]byte(doc), into[of.Kind]), of.Kind)
		if of.Kind != "CronJob" {
			continue
		}
		pod := job.Spec.JobTemplate.Spec.Template.Spec
		assert.Equal(t, "kubectl-dr-drill", pod.ServiceAccountName)
		commands = append(commands, command(t, pod.Containers[0].Args).Name())
	}
	assert.Equal(t, []string{"drill", "cleanup"}, commands)
}
