package plugin

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

func TestRewriting(t *testing.T) {
	t.Parallel()
	configMap := func(namespace, name string, labels map[string]string) *corev1api.ConfigMap {
		return &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
	}
	ours := map[string]string{"velero.io/plugin-config": "", RewriteName: "RestoreItemAction"}
	scheme, err := newScheme()
	require.NoError(t, err)
	kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
		configMap("velero", "profiles", ours),
		configMap("velero", "other", map[string]string{"velero.io/plugin-config": ""}),
		configMap("default", "profiles", ours),
		&velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "mine"}},
		&velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}},
	).Build()
	cluster := rewriting{func() (client.Client, error) { return kube, nil }}
	found, err := cluster.ListConfigMaps(t.Context(), "velero", rules.ConfigMapSelector)
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "profiles", found[0].Name)

	restores, err := cluster.ListRestores(t.Context(), "velero")
	require.NoError(t, err)
	require.Len(t, restores, 1)
	assert.Equal(t, "mine", restores[0].Name)
}
