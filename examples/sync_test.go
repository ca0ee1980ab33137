package examples

import (
	"testing"

	"github.com/stretchr/testify/assert"
	batchv1api "k8s.io/api/batch/v1"
	corev1api "k8s.io/api/core/v1"
	rbacv1api "k8s.io/api/rbac/v1"
)

// TestSync decodes every object, and gives the command the flags that it is started
// with.
func TestSync(t *testing.T) {
	t.Parallel()
	kinds := map[string]any{
		"ServiceAccount": &corev1api.ServiceAccount{}, "Role": &rbacv1api.Role{}, "RoleBinding": &rbacv1api.RoleBinding{},
		"ClusterRoleBinding": &rbacv1api.ClusterRoleBinding{}, "CronJob": &batchv1api.CronJob{},
	}
	decode(t, "sync/sync.yaml", kinds)
	role := &rbacv1api.ClusterRole{}
	decode(t, "rbac/standby.yaml", map[string]any{"ClusterRole": role})
	assert.Equal(t, role.Name, kinds["ClusterRoleBinding"].(*rbacv1api.ClusterRoleBinding).RoleRef.Name)

	pod := kinds["CronJob"].(*batchv1api.CronJob).Spec.JobTemplate.Spec.Template.Spec
	assert.Equal(t, kinds["ServiceAccount"].(*corev1api.ServiceAccount).Name, pod.ServiceAccountName)
	assert.Equal(t, "sync", command(t, pod.Containers[0].Args).Name())
}
