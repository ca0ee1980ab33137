package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
)

const operated = `apiVersion: rewrite.kubectl-dr.io/v1alpha1
kind: RewriteProfiles
profiles:
- name: shop
  state: standby
  rules:
  - match: {namespaces: [shop]}
    operators: {CRONTAB: {spec.size: 0}}
`

// TestSource_kindsThatAProfileHoldsBack are stopped where the application leaves, by
// the profile of where it goes, and started by what a run starts last.
func TestSource_kindsThatAProfileHoldsBack(t *testing.T) {
	t.Parallel()
	gvk := schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "CronTab"}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(gvk, meta.RESTScopeNamespace)
	for kind := range cluster.Scheme().AllKnownTypes() {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	tab := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"size": int64(3)}}}
	tab.SetGroupVersionKind(gvk)
	tab.SetNamespace("shop")
	tab.SetName("x")
	profiles := &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "rewrite", Labels: map[string]string{
		"velero.io/plugin-config": "", "kubectl-dr.io/rewrite": "RestoreItemAction",
	}}, Data: map[string]string{"shop.yaml": operated}}
	open := func(objects ...client.Object) *cluster.Cluster {
		return &cluster.Cluster{Namespace: "velero", Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithRESTMapper(mapper).WithObjects(objects...).Build()}
	}
	source, recovery := open(tab), open(profiles.DeepCopy())
	r := &plan.RecoveryRun{ObjectMeta: metav1.ObjectMeta{Name: "run"}, Spec: plan.RecoveryRunSpec{Kind: plan.RunPlannedFailover, PlanSpec: plan.RecoveryPlanSpec{
		Source: plan.Source{Namespaces: []string{"shop"}}, Profiles: plan.Profiles{Failover: "shop"},
	}}}
	size := func() any {
		require.NoError(t, source.Client.Get(t.Context(), client.ObjectKeyFromObject(tab), tab))
		return tab.Object["spec"].(map[string]any)["size"]
	}
	s := &Source{Cluster: source, Recovery: recovery, Site: SourceSite, Run: r, Interval: time.Millisecond, StopTimeout: time.Second}

	said, err := s.Stop().Do(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "crontab/x", said)
	assert.Equal(t, int64(0), size())

	started, err := s.StartAgain(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"crontab/x"}, started)
	assert.Equal(t, int64(3), size())
	assert.Empty(t, tab.GetAnnotations())

	_, err = s.Stop().Do(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context()))
	require.NoError(t, source.Client.Create(t.Context(), profiles))
	target := &run.Target{Cluster: source, Run: r, Interval: time.Millisecond}
	steps := target.Start(true)
	said, err = steps[len(steps)-1].Do(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "crontab/x ready", said)
	assert.Equal(t, int64(3), size())
}

// TestSource_theOtherSideIsToldOfTheBackup where both have one storage; elsewhere
// Velero has to find it.
func TestSource_theOtherSideIsToldOfTheBackup(t *testing.T) {
	t.Parallel()
	location := func(bucket string) *velerov1api.BackupStorageLocation {
		l := &velerov1api.BackupStorageLocation{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "default"}}
		l.Spec.Provider, l.Spec.Config = "aws", map[string]string{"region": "us-east-1"}
		l.Spec.ObjectStorage = &velerov1api.ObjectStorageLocation{Bucket: bucket}
		return l
	}
	backup := func() *velerov1api.Backup {
		b := &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "run", Labels: map[string]string{velerov1api.ScheduleNameLabel: "shop"}}}
		b.Spec.StorageLocation, b.Status.Phase = "default", velerov1api.BackupPhaseCompleted
		return b
	}
	files := &velerov1api.PodVolumeBackup{ObjectMeta: metav1.ObjectMeta{
		Namespace: "velero", Name: "run-x7x8k", Labels: map[string]string{velerov1api.BackupNameLabel: "run"},
	}}
	goesOn := backup()
	goesOn.Status.Phase = velerov1api.BackupPhaseFinalizing
	csi := backup()
	csi.Status.CSIVolumeSnapshotsAttempted = 1
	tests := []struct {
		name  string
		taken []client.Object
		there []client.Object
		says  string // while it waits; "" when it does not
	}{
		{"the same bucket", []client.Object{backup()}, []client.Object{location("backups")}, ""},
		{"it knows already", []client.Object{backup()}, []client.Object{backup()}, ""},
		{"another bucket", []client.Object{backup()}, []client.Object{location("copies")}, "another storage in each cluster"},
		{"no such location", []client.Object{backup()}, nil, `"default" not found`},
		{"a backup that goes on", []client.Object{goesOn}, []client.Object{location("backups")}, "is Finalizing"},
		{"files that Velero keeps", []client.Object{backup(), files}, []client.Object{location("backups")}, "has more than ZFS snapshots"},
		{"snapshots of a CSI driver", []client.Object{csi}, []client.Object{location("backups")}, "has more than ZFS snapshots"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			open := func(objects ...client.Object) *cluster.Cluster {
				return &cluster.Cluster{Namespace: "velero", Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects...).Build()}
			}
			recovery := open(tt.there...)
			tt.taken[0].(*velerov1api.Backup).Spec.Hooks.Resources = []velerov1api.BackupResourceHookSpec{{Name: "freeze"}}
			var said []string
			timeout := 2 * time.Minute
			if tt.says != "" {
				timeout = 50 * time.Millisecond // it is waited for in vain
			}
			s := &Source{
				Cluster: open(append(tt.taken, location("backups"))...), Recovery: recovery, Site: SourceSite, There: "here",
				Run:      &plan.RecoveryRun{Spec: plan.RecoveryRunSpec{Backup: "run"}},
				Interval: time.Millisecond, ArriveTimeout: timeout,
				Hooks: run.Hooks{Progress: func(msg string) { said = append(said, msg) }},
			}
			_, err := s.Arrive().Do(t.Context())
			if tt.says != "" {
				var unsynced *UnsyncedError
				require.ErrorAs(t, err, &unsynced)
				require.Len(t, said, 1, "it tries once")
				assert.Contains(t, said[0], tt.says)
				return
			}
			require.NoError(t, err)
			assert.Empty(t, said)
			got := &velerov1api.Backup{}
			require.NoError(t, recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "velero", Name: "run"}, got))
			assert.Equal(t, velerov1api.BackupPhaseCompleted, got.Status.Phase)
			assert.Equal(t, "shop", got.Labels[velerov1api.ScheduleNameLabel])
			assert.Empty(t, got.Spec.Hooks.Resources, "they have run")
		})
	}
}
