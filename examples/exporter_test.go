package examples

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	rbacv1api "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// TestAlerts has every alert say what it is about, of metrics that there are, and be
// documented as they are.
func TestAlerts(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	metric := regexp.MustCompile(`\b(?:kubectl_dr|zfs_agent)_[a-z_]+`)
	for _, file := range []string{"agent/alerts.yaml", "exporter/alerts.yaml"} {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		var rules struct {
			Groups []struct {
				Name  string `json:"name"`
				Rules []struct {
					Alert       string            `json:"alert"`
					Expr        string            `json:"expr"`
					For         metav1.Duration   `json:"for"`
					Labels      map[string]string `json:"labels"`
					Annotations map[string]string `json:"annotations"`
				} `json:"rules"`
			} `json:"groups"`
		}
		require.NoError(t, yaml.UnmarshalStrict(content, &rules))
		require.NotEmpty(t, rules.Groups, file)
		for _, g := range rules.Groups {
			require.NotEmpty(t, g.Rules, g.Name)
			for _, r := range g.Rules {
				assert.True(t, bytes.Contains(doc, []byte("`"+r.Alert+"`")), "docs/metrics.md has no %s", r.Alert)
				used := metric.FindAllString(r.Expr, -1)
				assert.NotEmpty(t, used, r.Alert)
				for _, name := range used {
					assert.True(t, bytes.Contains(doc, []byte("`"+name+"`")), "docs/metrics.md has no %s of %s", name, r.Alert)
				}
				assert.NotEmpty(t, r.Labels["severity"], r.Alert)
				assert.NotEmpty(t, r.Annotations["summary"], r.Alert)
				assert.NotEmpty(t, r.Annotations["description"], r.Alert)
			}
		}
	}
}
