package drill

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

func TestCleanUp_leavesTheSnapshotsOfTheBackup(t *testing.T) {
	t.Parallel()
	kind := schema.GroupVersionKind{Group: "snapshot.storage.k8s.io", Version: "v1", Kind: "VolumeSnapshotContent"}
	content := func(name, run, policy string) *unstructured.Unstructured {
		vsc := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"deletionPolicy": policy}}}
		vsc.SetGroupVersionKind(kind)
		vsc.SetName(name)
		vsc.SetLabels(map[string]string{"velero.io/restore-name": run})
		return vsc
	}
	for _, tt := range []struct {
		policy string
		left   []string
		fails  string
	}{
		{"Retain", []string{"other"}, ""},
		{"Delete", []string{"other", "ours"}, `VolumeSnapshotContent ours: its policy is "Delete", and would delete the backup's snapshot`},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			t.Parallel()
			scheme := cluster.Scheme()
			scheme.AddKnownTypeWithName(kind, &unstructured.Unstructured{})
			scheme.AddKnownTypeWithName(snapshotContents, &unstructured.UnstructuredList{})
			kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(content("ours", "wordpress-1", tt.policy), content("other", "wordpress-2", tt.policy)).Build()
			c := &Cleaner{Cluster: &cluster.Cluster{Client: kube, Namespace: "velero"}, Volumes: noVolumes{}}
			_, err := c.CleanUp(t.Context(), "wordpress-1")
			if tt.fails == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.fails)
			}
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(snapshotContents)
			require.NoError(t, kube.List(t.Context(), list))
			var left []string
			for _, item := range list.Items {
				left = append(left, item.GetName())
			}
			assert.Equal(t, tt.left, left)
		})
	}
}

func TestCleanUp_hasDriversDeleteWhatTheyMadeForTheRun(t *testing.T) {
	t.Parallel()
	began := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	ns := corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop-drill-1", CreationTimestamp: began}}
	volume := func(name, namespace string, age time.Duration, annotations map[string]string) client.Object {
		return &corev1api.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, CreationTimestamp: metav1.NewTime(began.Add(-age))},
			Spec: corev1api.PersistentVolumeSpec{
				PersistentVolumeReclaimPolicy: corev1api.PersistentVolumeReclaimRetain,
				ClaimRef:                      &corev1api.ObjectReference{Namespace: namespace, Name: name},
			},
		}
	}
	provisioned := map[string]string{zfssnap.ProvisionedBy: "csi.example.com"}
	kube := fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(
		volume("made", ns.Name, -time.Second, provisioned),
		volume("there-before", ns.Name, time.Hour, provisioned),
		volume("made-by-hand", ns.Name, -time.Second, nil),
		volume("elsewhere", "shop", -time.Second, provisioned),
	).Build()
	c := &Cleaner{Cluster: &cluster.Cluster{Client: kube, Namespace: "velero"}, Volumes: noVolumes{}}
	adopted, err := c.adopt(t.Context(), "shop-1", []corev1api.Namespace{ns})
	require.NoError(t, err)
	assert.Equal(t, 1, adopted)

	list := &corev1api.PersistentVolumeList{}
	require.NoError(t, kube.List(t.Context(), list))
	var deleted []string
	for _, pv := range list.Items {
		if pv.Spec.PersistentVolumeReclaimPolicy == corev1api.PersistentVolumeReclaimDelete {
			deleted = append(deleted, pv.Name)
			assert.Equal(t, "shop-1", pv.Labels[labelProvisionedFor])
		}
	}
	assert.Equal(t, []string{"made"}, deleted)
}
