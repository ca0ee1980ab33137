package examples

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	rbacv1api "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// TestExporter decodes every object, and gives the command the flags that it is
// started with.
func TestExporter(t *testing.T) {
	t.Parallel()
	kinds := map[string]any{
		"ServiceAccount": &corev1api.ServiceAccount{}, "Role": &rbacv1api.Role{}, "RoleBinding": &rbacv1api.RoleBinding{},
		"Deployment": &appsv1api.Deployment{}, "Service": &corev1api.Service{},
	}
	decode(t, "exporter/exporter.yaml", kinds)
	pod := kinds["Deployment"].(*appsv1api.Deployment).Spec.Template.Spec
	assert.Equal(t, kinds["ServiceAccount"].(*corev1api.ServiceAccount).Name, pod.ServiceAccountName)
	assert.Equal(t, pod.Containers[0].Ports[0].Name, kinds["Service"].(*corev1api.Service).Spec.Ports[0].TargetPort.StrVal)
	assert.Equal(t, "exporter", command(t, pod.Containers[0].Args).Name())
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("exporter/alerts.yaml")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	require.NoError(t, yaml.UnmarshalStrict(content, &rules))
	known, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	for _, r := range rules.Groups[0].Rules {
		assert.NotEmpty(t, r.Annotations["summary"], r.Alert)
		for _, word := range strings.FieldsFunc(r.Expr, func(c rune) bool { return !(c == '_' || c >= 'a' && c <= 'z') }) {
			if strings.HasPrefix(word, "kubectl_dr_") {
				assert.Contains(t, string(known), "`"+word+"`", "docs/metrics.md has every metric")
			}
		}
	}
}
