package compare

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

func TestObjects_differ(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, source, standby string
		want                  []string // fields; nil for none
	}{
		{"in nothing",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}, data: {x: '1'}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web, uid: u, resourceVersion: '7', generation: 3, managedFields: [{}], labels: {velero.io/restore-name: r}}, data: {x: '1'}, status: {s: 1}}", nil},
		{"in a value",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}, data: {x: '1', y: '1'}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}, data: {x: '2', y: '1'}}", []string{"data.x"}},
		{"in a value that one lacks",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}, data: {x: '1'}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}}", []string{"data"}},
		{"in a label with dots",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web, labels: {app.kubernetes.io/name: one}}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web, labels: {app.kubernetes.io/name: two}}}",
			[]string{"metadata.labels['app.kubernetes.io/name']"}},
		{"in an item",
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: web}, spec: {template: {spec: {containers: [{name: c, image: 'a:1'}]}}}}",
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: web, annotations: {deployment.kubernetes.io/revision: '4'}}, spec: {template: {spec: {containers: [{name: c, image: 'a:2'}]}}}}",
			[]string{"spec.template.spec.containers[0].image"}},
		{"in the number of items",
			"{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: web}, list: [1, 2]}",
			"{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: web}, list: [1]}", []string{"list"}},
		{"in what each cluster gives a service",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: web}, spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80, nodePort: 30001}]}}",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: web}, spec: {clusterIP: 10.1.0.1, clusterIPs: [10.1.0.1], ports: [{port: 80}]}}", nil},
		{"in a service's port",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: web}, spec: {ports: [{port: 80, nodePort: 30001}]}}",
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: web}, spec: {ports: [{port: 81}]}}", []string{"spec.ports[0].port"}},
		{"in the volume of a claim",
			"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: web, annotations: {pv.kubernetes.io/bind-completed: 'yes'}}, spec: {volumeName: one}}",
			"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: web}, spec: {volumeName: two}}", nil},
		{"in the version they were read in",
			"{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a, namespace: web}}",
			"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a, namespace: web}}", []string{"apiVersion"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := object(t, tt.source), object(t, tt.standby)
			before := a.DeepCopy()
			r := Objects([]*unstructured.Unstructured{a}, []*unstructured.Unstructured{b}, Scope{})
			assert.Equal(t, before, a, "what is compared is not changed")
			assert.Equal(t, 1, r.Compared)
			if tt.want == nil {
				assert.Empty(t, r.Objects)
				assert.Equal(t, report.OK, r.State)
				return
			}
			require.Len(t, r.Objects, 1)
			assert.Equal(t, tt.want, r.Objects[0].Fields)
			assert.Equal(t, report.Problem, r.State)
			assert.Equal(t, 1, r.Drifted)
		})
	}
}

func TestObjects_missingAndSurplus(t *testing.T) {
	t.Parallel()
	both := object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: both, namespace: web}}")
	gone := object(t, "{apiVersion: v1, kind: Secret, metadata: {name: gone, namespace: web}}")
	extra := object(t, "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, metadata: {name: extra, namespace: web}}")
	r := Objects([]*unstructured.Unstructured{both, gone}, []*unstructured.Unstructured{extra, both}, Scope{})
	assert.Equal(t, []report.ObjectDifference{
		{Kind: "IngressRoute", Group: "traefik.io", Namespace: "web", Name: "extra", Difference: report.Surplus},
		{Kind: "Secret", Namespace: "web", Name: "gone", Difference: report.Missing},
	}, r.Objects)
	assert.Equal(t, [3]int{1, 1, 0}, [3]int{r.Missing, r.Surplus, r.Drifted})
}

// What a cluster makes by itself is no difference.
func TestObjects_leavesOut(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: web, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]}}",
		"{apiVersion: v1, kind: Event, metadata: {name: e, namespace: web}}",
		"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: web}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: web}}",
		"{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: t, namespace: web}}",
		"{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: default}}",
		"{apiVersion: v1, kind: Node, metadata: {name: n}}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}}",
		"{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: system:node}}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: edit, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: excluded}}",
	} {
		r := Objects([]*unstructured.Unstructured{object(t, text)}, nil, Scope{Exclude: []string{"excluded"}, ClusterScoped: true})
		assert.Zero(t, r.Compared, text)
		assert.Empty(t, r.Objects, text)
	}
	for _, text := range []string{
		"{apiVersion: v1, kind: Pod, metadata: {name: alone, namespace: web}}",
		"{apiVersion: v1, kind: Namespace, metadata: {name: web}}",
		"{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast}}",
	} {
		r := Objects([]*unstructured.Unstructured{object(t, text)}, nil, Scope{ClusterScoped: true})
		assert.Equal(t, 1, r.Missing, text)
	}
}

func TestScope_Covers(t *testing.T) {
	t.Parallel()
	for scope, want := range map[*Scope]map[string]bool{
		{}:                            {"web": true, "": false},
		{ClusterScoped: true}:         {"web": true, "": true},
		{Namespaces: []string{"web"}}: {"web": true, "db": false, "": false},
		{Exclude: []string{"web"}}:    {"web": false, "db": true},
	} {
		got := maps.Clone(want)
		for ns := range want {
			got[ns] = scope.Covers(ns)
		}
		assert.Equal(t, want, got, "%+v", *scope)
	}
}

func TestObjects_boundsTheFieldsOfOne(t *testing.T) {
	t.Parallel()
	a := object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: web}}")
	b := a.DeepCopy()
	data := map[string]any{}
	for i := range 30 {
		data[string(rune('a'+i%26))+string(rune('a'+i/26))] = "x"
	}
	a.Object["data"], b.Object["data"] = data, map[string]any{}
	r := Objects([]*unstructured.Unstructured{a}, []*unstructured.Unstructured{b}, Scope{})
	require.Len(t, r.Objects, 1)
	assert.Len(t, r.Objects[0].Fields, maxFields+1)
	assert.Equal(t, "and 10 more", r.Objects[0].Fields[maxFields])
}
