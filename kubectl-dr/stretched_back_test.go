package kubectldr

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// stretchedAway is a world whose application a failover has moved with its pool, and whose
// source is back.
func stretchedAway(t *testing.T, how string, some ...string) *world {
	t.Helper()
	w := stretch(t)
	if len(some) > 0 {
		w = stretchSome(t, some...)
	}
	if how == doDisaster {
		w.cutOff()
	}
	w.do(t, how)
	w.old.down = false
	return w
}

// assertStretchedHome checks that the application runs at the source, on the datasets and
// with the volumes that it had there, and is protected as before.
func (w *world) assertStretchedHome(t *testing.T, some ...string) {
	t.Helper()
	r := w.lastRun(t)
	assert.Equal(t, plan.RunFailback, r.Spec.Kind)
	assert.Equal(t, plan.PhasePassed, r.Status.Phase)
	assert.Zero(t, r.Status.RPO.Duration, "nothing is lost")
	assert.True(t, w.old.pools["metro"].GetImported())
	assert.False(t, w.host.pools["metro"].GetImported())
	assert.Equal(t, int32(1), w.replicas(t, w.source))
	assert.Equal(t, int32(0), w.replicas(t, w.recovery))
	assert.False(t, w.schedule(t, w.source).Spec.Paused)
	assert.True(t, w.schedule(t, w.recovery).Spec.Paused)
	for _, name := range some {
		claim, pv := &corev1api.PersistentVolumeClaim{}, &corev1api.PersistentVolume{}
		require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, claim))
		require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Name: claim.Spec.VolumeName}, pv))
		assert.Equal(t, name, pv.Name, "it is the volume that was there")
		assert.Equal(t, corev1api.ClaimBound, claim.Status.Phase)
		assert.Equal(t, name, pv.Spec.CSI.VolumeHandle)
		assert.Equal(t, "metro/k3s", pv.Spec.CSI.VolumeAttributes["openebs.io/poolname"])
		assert.Equal(t, []string{"hassio"}, pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values)
		assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy)
		assert.Contains(t, w.old.datasets, "metro/k3s/"+name)
		kept := 0
		for _, v := range w.old.snapshots {
			if v.GetDataset()+"@"+v.GetName() == "metro/k3s/"+name+"@dr-kept-"+r.Name {
				kept++
			}
		}
		assert.Equal(t, 1, kept, "what came back is kept once, before anything writes to it")
	}
	for _, c := range []client.Client{w.source.Client, w.recovery.Client} {
		volumes := &corev1api.PersistentVolumeList{}
		require.NoError(t, c.List(t.Context(), volumes))
		of := map[string]int{}
		for _, pv := range volumes.Items {
			if pv.Spec.CSI != nil && pv.Spec.CSI.VolumeAttributes["openebs.io/poolname"] == "metro/k3s" {
				of[pv.Spec.CSI.VolumeHandle]++
			}
		}
		for name, n := range of {
			assert.Equal(t, 1, n, "two PersistentVolumes of %s would be two ways to lose it", name)
		}
	}
}

func TestStretched_thereAndBack(t *testing.T) {
	t.Parallel()
	w := stretchedAway(t, doPlanned)
	golden(t, "stretched-reprotect --dry-run", w.do(t, "reprotect --source-context=primary --dry-run").String())
	golden(t, "stretched-reprotect", w.do(t, doReprotect).String())
	pv := &corev1api.PersistentVolume{}
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Name: "wordpress-db"}, pv))
	assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy, "it outlives its claim")
	golden(t, "stretched-status when reprotected", w.do(t, "status --source-context=primary").String())
	assert.Contains(t, w.run(t.Context(), "check", "wordpress").out, "imported on node remote")

	golden(t, "stretched-failback --dry-run", w.do(t, "failback --source-context=primary --dry-run").String())
	golden(t, "stretched-failback", w.do(t, doFailback).String())
	w.assertStretchedHome(t, claims...)
	golden(t, "stretched-status after a failback", w.do(t, "status").String())
	assert.Contains(t, w.run(t.Context(), "rpo", "wordpress").out, "pool metro is mirrored at both sites")
	assert.Contains(t, w.run(t.Context(), "check", "wordpress").out, "in use by hassio, and node remote sees all its disks")

	// And once more: what the first round left is in nobody's way.
	w.do(t, doPlanned)
	w.bound(t)
	w.do(t, doReprotect, doFailback)
	w.assertStretchedHome(t, claims...)
}

func TestStretched_backAfterADisaster(t *testing.T) {
	t.Parallel()
	w := stretchedAway(t, doDisaster)
	w.diverged(t) // as far as it comes without its volumes
	w.do(t, doReprotect)
	assert.Equal(t, int32(0), w.replicas(t, w.source), "the source is stopped")
	w.do(t, doFailback)
	w.assertStretchedHome(t, claims...)
}

// TestStretched_someVolumes has one volume on a stretched pool, and one replicated.
func TestStretched_someVolumes(t *testing.T) {
	t.Parallel()
	for _, how := range []string{doPlanned, doDisaster} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := stretchedAway(t, how, "wordpress-db")
			r := w.lastRun(t)
			assert.Equal(t, "metro", r.Status.Volumes[0].StretchedPool)
			assert.NotEmpty(t, r.Status.Volumes[1].Snapshot)
			claim, pv := w.claim("wordpress-db")
			assert.Equal(t, corev1api.ClaimBound, claim.Status.Phase)
			assert.Equal(t, "wordpress-db", pv.Name, "under this name Velero leaves it alone")
			_, pv = w.claim("wordpress-html")
			assert.Equal(t, "wordpress-html-"+r.Name, pv.Name, "Velero restored it")
			assert.Len(t, w.clones(), 1)

			w.host.written[w.volumes["remote"]["wordpress-html"]] = 3 << 20
			reprotected := w.do(t, doReprotect)
			assert.Contains(t, reprotected.err, "written since the failover: about 3.0 MiB at the recovery site, 0 B at the source; pool metro is ONLINE")
			w.do(t, doFailback)
			w.assertStretchedHome(t, "wordpress-db")
			r = w.lastRun(t)
			assert.Equal(t, "hassio", r.Status.Volumes[1].Node)
			assert.Contains(t, r.Status.Volumes[1].Snapshot, "znvm/replica/")
		})
	}
}

// TestStretched_theWayBackGoesOn kills it after each of its steps, before that is
// recorded.
func TestStretched_theWayBackGoesOn(t *testing.T) {
	t.Parallel()
	for _, command := range []string{doReprotect, doFailback} {
		for _, step := range stretchedSteps(t, command) {
			t.Run(command+" killed after "+step, func(t *testing.T) {
				t.Parallel()
				w := stretchedAway(t, doPlanned, "wordpress-db")
				if command == doFailback {
					w.do(t, doReprotect)
				}
				w.pass(time.Minute)
				w.dies(t, command, step)
				w.do(t, command+" --resume")
				if command == doReprotect {
					w.do(t, doFailback)
				}
				w.assertStretchedHome(t, "wordpress-db")
			})
		}
	}
}

func stretchedSteps(t *testing.T, command string) []string {
	t.Helper()
	w := stretchedAway(t, doPlanned)
	if command == doFailback {
		w.do(t, doReprotect)
	}
	names := w.steps(t, command)
	require.Contains(t, names, map[string]string{doReprotect: "compare both sides", doFailback: failover.StepImport}[command])
	return names
}

// TestStretched_failbackGivesThePoolBack has the source lose sight of a disk after the
// recovery site has given the pool up.
func TestStretched_failbackGivesThePoolBack(t *testing.T) {
	t.Parallel()
	w := stretchedAway(t, doPlanned)
	w.do(t, doReprotect)
	w.dies(t, doFailback, failover.StepExport)
	assert.False(t, w.host.pools["metro"].GetImported())
	w.old.pools["metro"].Unseen = []string{"site-b"}
	o := w.run(t.Context(), strings.Fields(doFailback+" --resume")...)
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "rolled back")
	assert.True(t, w.host.pools["metro"].GetImported(), "the recovery site has it again")
	assert.Equal(t, int32(1), w.replicas(t, w.recovery), "and runs")
	assert.False(t, w.schedule(t, w.recovery).Spec.Paused)
	assert.Equal(t, int32(0), w.replicas(t, w.source))

	w.old.pools["metro"].Unseen = nil
	w.do(t, doFailback)
	w.assertStretchedHome(t, claims...)
}

// TestStretched_aPoolIsExportedOnceItIsNotBusy has a volume that is still mounted when the
// last pod is gone.
func TestStretched_aPoolIsExportedOnceItIsNotBusy(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	w.old.busy = 2
	w.do(t, doPlanned)
	w.bound(t)

	w = stretch(t)
	w.old.busy = 1 << 20
	o := w.run(t.Context(), strings.Fields(doPlanned+" --stop-timeout=20ms")...)
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "something on node hassio uses a dataset of the pool")
	assert.Equal(t, int32(1), w.replicas(t, w.source), "the source runs again")
}

func TestStretched_theWayBackIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		arrange   func(t *testing.T, w *world)
		err, hint string
	}{
		{"a mirror that is not whole", func(_ *testing.T, w *world) { w.host.pools["metro"].Health = "DEGRADED" },
			"pool metro: it is DEGRADED on node remote", "zpool status metro"},
		{"a disk that the source does not see", func(_ *testing.T, w *world) { w.old.pools["metro"].Unseen = []string{"site-b"} },
			"pool metro: node hassio does not see site-b", "connect the disks"},
		{"a source without a hostid", func(_ *testing.T, w *world) { w.old.pools["metro"].OwnHostid = 0 },
			"node hassio has no hostid", "zgenhostid"},
		{"a pool without multihost", func(_ *testing.T, w *world) { w.old.pools["metro"].Multihost = false },
			"its multihost is off", "zpool set multihost=on metro"},
		{"a pool that the recovery site does not have", func(_ *testing.T, w *world) { w.host.pools["metro"].Imported = false },
			"node remote, where the application runs, does not have it imported", "zpool import"},
		{"a source that is not back", func(_ *testing.T, w *world) { w.old.down = true },
			"look at pool metro on node hassio", "node hassio has to be up"},
		{"a volume that its driver would destroy", func(t *testing.T, w *world) {
			pv := volumeOf("wordpress-db", "wordpress-db", "hassio", "metro/k3s")
			require.NoError(t, w.source.Client.Delete(t.Context(), pv.DeepCopy()))
			pv.Status.Phase = corev1api.VolumeReleased
			require.NoError(t, w.source.Client.Create(t.Context(), pv))
		}, "drivers would destroy what is on it as soon as it is there: PersistentVolume wordpress-db was deleted", "Retain"},
		{"a ZFSVolume that its driver would destroy", func(t *testing.T, w *world) {
			zv := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "zfs.openebs.io/v1", "kind": "ZFSVolume",
				"metadata": map[string]any{"namespace": "openebs", "name": "wordpress-db", "finalizers": []any{zfssnap.OpenEBSFinalizer}},
				"spec":     map[string]any{"ownerNodeID": "hassio", "poolName": "metro/k3s"}}}
			require.NoError(t, w.source.Client.Create(t.Context(), zv))
			require.NoError(t, w.source.Client.Delete(t.Context(), zv))
		}, "ZFSVolume openebs/wordpress-db was deleted while it was away", "finalizers"},
	}
	for _, command := range []string{doReprotect, doFailback} {
		for _, tt := range tests {
			t.Run(command+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				w := stretchedAway(t, doPlanned)
				if command == doFailback {
					w.do(t, doReprotect)
				}
				tt.arrange(t, w)
				w.refuses(t, command, tt.err, tt.hint)
			})
		}
	}
}

// TestStretched_volumesInTheWay has PersistentVolumes at the source that are not what the
// application had there.
func TestStretched_volumesInTheWay(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		pv   *corev1api.PersistentVolume
		err  string
	}{
		{"one of its name", volumeOf("wordpress-db", "other", "hassio", "znvm/k3s"), "is not of dataset metro/k3s/wordpress-db on node hassio"},
		{"one of its dataset", func() *corev1api.PersistentVolume {
			pv := volumeOf("by-hand", "wordpress-db", "hassio", "metro/k3s")
			pv.Spec.CSI.VolumeHandle = "wordpress-db"
			return pv
		}(), "has dataset metro/k3s/wordpress-db, which by-hand has too"},
		{"one that another claim has", func() *corev1api.PersistentVolume {
			pv := volumeOf("wordpress-db", "other", "hassio", "metro/k3s")
			pv.Spec.ClaimRef.Namespace, pv.Status.Phase = "elsewhere", corev1api.VolumeBound
			return pv
		}(), "is bound to claim elsewhere/other"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := stretchedAway(t, doPlanned)
			w.do(t, doReprotect)
			tt.pv.Spec.PersistentVolumeReclaimPolicy = corev1api.PersistentVolumeReclaimRetain
			if tt.pv.Name == "wordpress-db" {
				require.NoError(t, w.source.Client.Delete(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: tt.pv.Name}}))
			}
			require.NoError(t, w.source.Client.Create(t.Context(), tt.pv))
			o := w.run(t.Context(), strings.Fields(doFailback)...)
			assert.Equal(t, 1, o.code)
			assert.Contains(t, o.err, tt.err)
			assert.Contains(t, o.err, "kubectl delete persistentvolume")
			assert.True(t, slices.ContainsFunc(w.lastRun(t).Status.Steps, func(s plan.Step) bool {
				return s.Name == failover.StepBind && s.Phase == plan.PhaseFailed
			}))

			// Once it is out of the way, the same command goes on.
			require.NoError(t, w.source.Client.Delete(t.Context(), tt.pv))
			w.do(t, doFailback+" --resume")
			assert.True(t, w.old.pools["metro"].GetImported())
		})
	}
}
