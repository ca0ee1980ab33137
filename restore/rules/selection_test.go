package rules

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func selected(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func TestSelection(t *testing.T) {
	t.Parallel()
	s := Selection{}
	s.Add(selected("v1", "Secret", "wordpress", "db"))
	s.Add(selected("rbac.authorization.k8s.io/v1", "ClusterRole", "", "system:reader"))
	assert.Equal(t, "ClusterRole.rbac.authorization.k8s.io /system:reader\nSecret wordpress/db\n", s.String())

	got, err := ParseSelection(s.String())
	require.NoError(t, err)
	assert.Equal(t, s, got)
	assert.True(t, got.Has(selected("rbac.authorization.k8s.io/v1beta1", "ClusterRole", "", "system:reader")), "in whatever version")
	assert.False(t, got.Has(selected("v1", "Secret", "shop", "db")))
	assert.False(t, got.Has(selected("v1", "ConfigMap", "wordpress", "db")))
}

func TestParseSelection_refuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"Secret", "Secret db", "Secret wordpress/", "Secret wordpress/db\n /x"} {
		_, err := ParseSelection(text)
		assert.ErrorContains(t, err, "<kind>.<group> <namespace>/<name>", text)
	}
}
