package oracles

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/standby"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// keepsAStandby keeps a warm standby of objects of every kind that the server has
// filled in, on another real API server: the second sync changes nothing, what differs
// is brought back, and what can't be changed is made anew.
func keepsAStandby(t *testing.T, source *cluster) {
	site := startCluster(t, definitions...)
	var backup []*unstructured.Unstructured
	for _, obj := range readObjects(t, "testdata/around.yaml") {
		resource, err := source.resource(obj)
		require.NoError(t, err)
		made, err := resource.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
		require.NoError(t, err)
		backup = append(backup, made)
	}
	for _, obj := range readObjects(t, "testdata/objects.yaml") {
		resource, err := source.resource(obj)
		require.NoError(t, err)
		made, err := resource.Create(t.Context(), obj, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		require.NoError(t, err, "%s %s", obj.GetKind(), obj.GetName())
		backup = append(backup, made)
	}
	config, err := clientcmd.BuildConfigFromFlags("", site.kubeconfig)
	require.NoError(t, err)
	config.QPS = -1
	c, err := client.New(config, client.Options{})
	require.NoError(t, err)
	velero := namespace("velero")
	require.NoError(t, c.Create(t.Context(), velero))
	s := &standby.Standby{Client: c, Namespace: "velero", Plan: "web", Namespaces: []string{"web"}, Interval: 100 * time.Millisecond}
	sync := func() *report.Sync {
		t.Helper()
		r, err := s.Sync(t.Context(), backup, profile(t, "  state: standby\n  externalDNS: mute\n"))
		require.NoError(t, err)
		for _, o := range r.Objects {
			if !s.DryRun {
				assert.Empty(t, o.Message, "%s %s", o.Kind, o.Name)
			}
		}
		return r
	}

	first := sync()
	assert.Greater(t, first.Wanted, 30)
	assert.Equal(t, first.Wanted, first.Missing)
	assert.Equal(t, report.OK, first.State)
	second := sync()
	assert.Empty(t, second.Objects, "a second time changes nothing")
	s.DryRun = true
	assert.Empty(t, sync().Objects)
	s.DryRun = false

	get := func(obj *unstructured.Unstructured) *unstructured.Unstructured {
		now := &unstructured.Unstructured{}
		now.SetGroupVersionKind(obj.GroupVersionKind())
		require.NoError(t, c.Get(t.Context(), client.ObjectKeyFromObject(obj), now))
		return now
	}
	held := 0
	for _, obj := range backup {
		if _, err := rules.Standby(obj); err == nil && obj.GetNamespace() == "web" {
			assert.True(t, rules.OnStandby(get(obj)), "%s %s", obj.GetKind(), obj.GetName())
			held++
		}
	}
	assert.Greater(t, held, 3)

	changed := 0
	for _, obj := range backup {
		switch obj.GetKind() {
		case "StatefulSet": // somebody starts it, and its backup has another selector
			now := get(obj)
			require.NoError(t, unstructured.SetNestedField(now.Object, int64(2), "spec", "replicas"))
			require.NoError(t, c.Update(t.Context(), now))
			for _, at := range [][]string{{"spec", "selector", "matchLabels"}, {"spec", "template", "metadata", "labels"}} {
				require.NoError(t, unstructured.SetNestedStringMap(obj.Object, map[string]string{"app": "other"}, at...))
			}
			changed++
		case "Ingress":
			require.NoError(t, unstructured.SetNestedField(obj.Object, "other", "spec", "ingressClassName"))
			changed++
		}
	}
	s.DryRun = true
	assert.Equal(t, changed, sync().Drifted)
	s.DryRun = false
	r := sync()
	assert.Equal(t, changed, r.Drifted)
	done := map[string]string{}
	for _, o := range r.Objects {
		done[o.Kind] = o.Done
	}
	assert.Equal(t, "replaced", done["StatefulSet"])
	assert.Equal(t, "changed", done["Ingress"])
	assert.Empty(t, sync().Objects)

	n, err := s.Remove(t.Context())
	require.NoError(t, err)
	assert.Greater(t, n, 30)
	exists, err := s.Exists(t.Context())
	require.NoError(t, err)
	assert.False(t, exists)
}
