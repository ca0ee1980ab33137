package kubectldr

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

const (
	doPlanned   = "failover --planned --source-context=primary --yes"
	doDisaster  = "failover --disaster --accept-data-loss=15m --yes"
	doReprotect = "reprotect --source-context=primary --yes"
	doFailback  = "failback --source-context=primary --yes"
)

// do runs commands that have to succeed, a minute after one another.
func (w *world) do(t *testing.T, commands ...string) outcome {
	t.Helper()
	var got outcome
	for _, c := range commands {
		w.pass(time.Minute)
		got = w.run(t.Context(), strings.Fields(c)...)
		require.Zero(t, got.code, "%s\n%s", c, got)
	}
	return got
}

// movedAway is a world whose application was moved to the recovery site, has
// written there since, and whose source is back.
func movedAway(t *testing.T, how string) *world {
	t.Helper()
	w := newWorld(t)
	w.do(t, how)
	w.old.absent = false
	for _, dataset := range w.volumes["remote"] {
		w.host.written[dataset] = 3 << 20
	}
	return w
}

// diverged lets the source run on after a disaster.
func (w *world) diverged(t *testing.T) {
	t.Helper()
	w.old.written["znvm/k3s/wordpress-db"], w.old.mounted["znvm/k3s/wordpress-db"] = 5<<10, true
	require.NoError(t, w.source.Client.Create(t.Context(), &corev1api.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-db-0", Labels: map[string]string{"app": "wordpress-db"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "wordpress-db", UID: types.UID("1"), Controller: ptr.To(true)}}},
		Status: corev1api.PodStatus{Phase: corev1api.PodRunning},
	}))
}

func (w *world) schedule(t *testing.T, c *cluster.Cluster) *velerov1api.Schedule {
	t.Helper()
	s := &velerov1api.Schedule{}
	require.NoError(t, c.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "wordpress"}, s))
	return s
}

func (w *world) replicas(t *testing.T, c *cluster.Cluster) int32 {
	t.Helper()
	d := &appsv1api.Deployment{}
	require.NoError(t, c.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "wordpress-db"}, d))
	return *d.Spec.Replicas
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	golden(t, "act/reprotect --dry-run", w.do(t, "reprotect --source-context=primary --dry-run").String())
	golden(t, "act/reprotect", w.do(t, doReprotect).String())
	assert.Empty(t, w.lastRun(t).Status.Volumes[0].Kept, "nothing diverged")
	assert.Equal(t, "dr", w.schedule(t, w.recovery).Spec.Template.StorageLocation)
	assert.Contains(t, w.old.datasets, "znvm/replica/"+w.volumes["remote"]["wordpress-db"])
	golden(t, "act/status when replicated back", w.do(t, "status --source-context=primary").String())
	again := w.run(t.Context(), strings.Fields(doReprotect)...)
	assert.Equal(t, 1, again.code)
	assert.Contains(t, again.err, "is replicated back since")
	refused := w.run(t.Context(), "drill", "--backup="+w.lastRun(t).Spec.Backup)
	assert.Equal(t, 1, refused.code)
	assert.Contains(t, refused.err, "cannot be recovered here")

	golden(t, "act/failback --dry-run", w.do(t, "failback --source-context=primary --dry-run").String())
	golden(t, "act/failback", w.do(t, doFailback).String())
	w.assertHome(t)
	golden(t, "act/status after a failback", w.do(t, "status").String())
	w.old.down = true
	w.do(t, "failover --disaster --accept-data-loss=1h --dry-run") // what is at the source is not waited for
	w.old.down = false

	// And once more: what the first round left is in nobody's way.
	w.do(t, doPlanned, doReprotect, doFailback)
	w.assertHome(t)
	assert.Equal(t, int64(6), w.lastRun(t).Spec.Epoch)
}

// assertHome checks that the application runs at the source, and is protected
// there as before the first failover.
func (w *world) assertHome(t *testing.T) {
	t.Helper()
	r := w.lastRun(t)
	assert.Equal(t, plan.RunFailback, r.Spec.Kind)
	assert.Equal(t, plan.PhasePassed, r.Status.Phase)
	assert.Zero(t, r.Status.RPO.Duration, "nothing is lost")
	assert.Equal(t, int32(1), w.replicas(t, w.source))
	assert.Equal(t, int32(0), w.replicas(t, w.recovery))
	assert.False(t, w.schedule(t, w.source).Spec.Paused)
	assert.True(t, w.schedule(t, w.recovery).Spec.Paused)
	for _, claim := range claims {
		pv := &corev1api.PersistentVolume{}
		require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Name: claim}, pv))
		assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy)
		assert.Contains(t, w.old.datasets, "znvm/k3s/"+claim, "what the failover left is kept")
		assert.Equal(t, r.Name, w.old.datasets["znvm/replica/"+w.volumes["remote"][claim]][zfssnap.PropFenced])
		assert.NotContains(t, w.host.datasets["backup/replica/znvm/k3s/"+claim], zfssnap.PropFenced)
	}
}

func TestReprotect_keepsWhatDiverged(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doDisaster)
	w.diverged(t)
	golden(t, "act/status when both sites are active", w.run(t.Context(), "status").String())
	seen := w.run(t.Context(), "status", "--source-context=primary")
	assert.Equal(t, 2, seen.code)
	assert.Contains(t, seen.out, "pod wordpress/wordpress-db-0 runs at the source too")

	refused := w.run(t.Context(), strings.Fields(doFailback)...)
	assert.Equal(t, 1, refused.code)
	assert.Contains(t, refused.err, "hint: kubectl dr reprotect wordpress")

	golden(t, "act/reprotect after a disaster", w.do(t, doReprotect).String())
	r := w.lastRun(t)
	db := r.Status.Volumes[0]
	assert.Equal(t, "znvm/k3s/wordpress-db@diverged-"+r.Name, db.Kept)
	assert.Equal(t, int64(5<<10), *db.Diverged)
	assert.Empty(t, r.Status.Volumes[1].Kept, "that one did not diverge")
	assert.True(t, slices.ContainsFunc(slices.Collect(maps.Values(w.old.snapshots)), func(v *agentpb.Version) bool {
		return v.GetDataset()+"@"+v.GetName() == db.Kept
	}))
	assert.Equal(t, int32(0), w.replicas(t, w.source), "the source is stopped")
	assert.True(t, w.schedule(t, w.source).Spec.Paused)

	w.do(t, doFailback)
	w.assertHome(t)
}

// TestTheWayBackGoesOnFromEachStep kills it after each of its steps, before that
// is recorded.
func TestTheWayBackGoesOnFromEachStep(t *testing.T) {
	t.Parallel()
	for _, command := range []string{doReprotect, doFailback} {
		for _, step := range wayBackSteps(t, command) {
			t.Run(command+" killed after "+step, func(t *testing.T) {
				t.Parallel()
				w := movedAway(t, doDisaster)
				w.diverged(t)
				if command == doFailback {
					w.do(t, doReprotect)
				}
				w.pass(time.Minute)
				w.dies(t, command, step)
				w.do(t, command+" --resume")
				if command == doReprotect {
					w.do(t, doFailback)
				}
				w.assertHome(t)
				kept := 0
				for _, v := range w.old.snapshots {
					if strings.HasPrefix(v.GetName(), "diverged-") {
						kept++
					}
				}
				assert.Equal(t, 1, kept, "what diverged is kept once")
			})
		}
	}
}

func wayBackSteps(t *testing.T, command string) []string {
	t.Helper()
	w := movedAway(t, doDisaster)
	if command == doFailback {
		w.do(t, doReprotect)
	}
	return w.steps(t, command)
}

func TestTheWayBackIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, command string
		arrange       func(t *testing.T, w *world)
		err, hint     string
	}{
		{"before a failover", doReprotect, nil, "does not run at the recovery site", "kubectl dr status wordpress"},
		{"a failback before a failover", doFailback, nil, "does not run at the recovery site", ""},
		{"without a source", "reprotect --yes", nil, "reprotect needs --source-context", ""},
		{"a failback that is not protected", doFailback, func(t *testing.T, w *world) { w.do(t, doPlanned) }, "is not replicated to the source", "kubectl dr reprotect wordpress"},
		{"a storage location that is read-only", doReprotect, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.old.absent = false
			l := &velerov1api.BackupStorageLocation{}
			key := client.ObjectKey{Namespace: veleroNS, Name: "dr"}
			require.NoError(t, w.recovery.Client.Get(t.Context(), key, l))
			l.Spec.AccessMode = velerov1api.BackupStorageLocationAccessModeReadOnly
			require.NoError(t, w.recovery.Client.Update(t.Context(), l))
		}, `may not write to BackupStorageLocation "dr"`, "spec.failback.storageLocation"},
		{"a volume that is gone", doReprotect, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.old.absent = false
			delete(w.host.datasets, w.volumes["remote"]["wordpress-db"])
		}, "is not there any more", ""},
		{"a source that is in use", doFailback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.old.absent = false
			w.do(t, doReprotect)
			require.NoError(t, w.source.Client.Create(t.Context(), &corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "shell"}}))
		}, "is in use: pod/shell", "only what a failover or kubectl dr reprotect stopped is set aside"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(t, w)
			}
			w.refuses(t, tt.command, tt.err, tt.hint)
		})
	}
}
