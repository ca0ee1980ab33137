package rebuild

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

const ofFlux = "labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}"

func TestOwn(t *testing.T) {
	t.Parallel()
	configMap := func(meta, data string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {namespace: a, name: x, " + meta + "}, data: {" + data + "}}"
	}
	tests := []struct {
		name, backup, live string
		want               report.OwnedObject
	}{
		{"Git's, and there", "", configMap(ofFlux, ""), report.OwnedObject{Owner: report.OwnedByGit, By: "Kustomization flux-system/apps", InCluster: true, Action: ObjectLeave}},
		{"Git's too, and not there", configMap(ofFlux, ""), "", report.OwnedObject{Owner: report.OwnedByBoth, By: "Kustomization flux-system/apps", Action: ObjectWait}},
		{"Git's as the backup says alone", configMap(ofFlux, "a: b"), configMap("", "a: c"),
			report.OwnedObject{Owner: report.OwnedByBoth, By: "Kustomization flux-system/apps", InCluster: true, Action: ObjectLeave,
				Fields: []string{"data.a", "metadata.labels"}}},
		{"the backup's, and not there", configMap("", "a: b"), "", report.OwnedObject{Owner: report.OwnedByBackup, Action: ObjectRestore}},
		{"the backup's, and there", configMap("", "a: b"), configMap("", "a: b"), report.OwnedObject{Owner: report.OwnedByBackup, InCluster: true, Action: ObjectLeave}},
		{"nobody's", "", configMap("", ""), report.OwnedObject{Owner: report.OwnedByNeither, InCluster: true, Action: ObjectLeave}},
	}
	owners, err := gitops.NewOwners(t.Context(), fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build(), nil, nil)
	require.NoError(t, err)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var backup, live []*unstructured.Unstructured
			if tt.backup != "" {
				backup = append(backup, object(t, tt.backup))
			}
			if tt.live != "" {
				live = append(live, object(t, tt.live))
			}
			tt.want.Kind, tt.want.Namespace, tt.want.Name = "ConfigMap", "a", "x"
			assert.Equal(t, []report.OwnedObject{tt.want}, Own(owners, backup, live))
		})
	}
}

// What a cluster makes by itself is nobody's to bring back.
func TestOwn_leavesOut(t *testing.T) {
	t.Parallel()
	owners, err := gitops.NewOwners(t.Context(), fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build(), nil, nil)
	require.NoError(t, err)
	for _, text := range []string{
		"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {namespace: a, name: x}}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}}",
		"{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: a, name: default}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {namespace: a, name: kube-root-ca.crt}}",
		"{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {namespace: a, name: x}}",
		"{apiVersion: v1, kind: Secret, metadata: {namespace: a, name: x, ownerReferences: [{kind: SealedSecret, name: x, controller: true}]}}",
		"{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x}, status: {phase: Succeeded}}",
		"{apiVersion: batch/v1, kind: Job, metadata: {namespace: a, name: x}, status: {conditions: [{type: Complete, status: \"True\"}]}}",
	} {
		assert.Empty(t, Own(owners, []*unstructured.Unstructured{object(t, text)}, nil), text)
	}
}
