package drill

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

type noVolumes struct{}

func (noVolumes) DestroyRun(context.Context, string, time.Duration) ([]string, error) {
	return nil, nil
}

func TestCleanUp_doesNotWaitForTheDriver(t *testing.T) {
	t.Parallel()
	kind := schema.GroupVersionKind{Group: "zfs.openebs.io", Version: "v1", Kind: "ZFSVolume"}
	zfsVolume := func(name, run string) *unstructured.Unstructured {
		zv := &unstructured.Unstructured{}
		zv.SetGroupVersionKind(kind)
		zv.SetNamespace("openebs")
		zv.SetName(name)
		zv.SetLabels(map[string]string{zfssnap.LabelRun: run})
		zv.SetFinalizers([]string{zfssnap.OpenEBSFinalizer})
		return zv
	}
	scheme := cluster.Scheme()
	scheme.AddKnownTypeWithName(kind, &unstructured.Unstructured{})
	scheme.AddKnownTypeWithName(zfsVolumes, &unstructured.UnstructuredList{})
	kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(zfsVolume("ours", "wordpress-1"), zfsVolume("other", "wordpress-2")).Build()
	c := &Cleaner{Cluster: &cluster.Cluster{Client: kube, Namespace: "velero"}, Volumes: noVolumes{}}

	_, err := c.CleanUp(t.Context(), "wordpress-1")
	require.NoError(t, err)

	left := &unstructured.UnstructuredList{}
	left.SetGroupVersionKind(zfsVolumes)
	require.NoError(t, kube.List(t.Context(), left))
	require.Len(t, left.Items, 1)
	assert.Equal(t, "other", left.Items[0].GetName())
	assert.Equal(t, []string{zfssnap.OpenEBSFinalizer}, left.Items[0].GetFinalizers())
}
