package kubectldr

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	networkingv1api "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

const doRollback = "rollback --source-context=primary --yes"

// running counts the pods of the application at a site.
func (w *world) running(t *testing.T, c *cluster.Cluster) int {
	t.Helper()
	pods := &corev1api.PodList{}
	require.NoError(t, c.Client.List(t.Context(), pods, client.InNamespace("wordpress")))
	return len(pods.Items)
}

// alive is a source that a disaster has not reached: it runs, and its agent answers.
func (w *world) alive(t *testing.T) {
	t.Helper()
	w.old.absent = false
	for _, name := range []string{"wordpress", "wordpress-db"} {
		d := &unstructured.Unstructured{}
		d.SetGroupVersionKind(appsv1api.SchemeGroupVersion.WithKind("Deployment"))
		d.SetNamespace("wordpress")
		d.SetName(name)
		require.NoError(t, w.source.Client.Patch(t.Context(), d, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":1}}`))))
	}
}

// exclusive fails the test when the source is started while the recovery site runs.
func (w *world) exclusive(t *testing.T) {
	t.Helper()
	w.before = func(what string) error {
		if what == "primary patch deployment" {
			assert.Zero(t, w.running(t, w.recovery), "nothing runs at the recovery site when the source is started")
		}
		return nil
	}
}

// assertUndone checks that the application runs at the source as before the failover,
// and that what was written at the recovery site is kept there.
func (w *world) assertUndone(t *testing.T) {
	t.Helper()
	r := w.lastRun(t)
	assert.Equal(t, plan.RunRollback, r.Spec.Kind)
	assert.Equal(t, plan.PhasePassed, r.Status.Phase)
	copied := &plan.RecoveryRun{}
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKeyFromObject(&r), copied), "the source has a copy of the report")
	assert.Equal(t, plan.PhasePassed, copied.Status.Phase)
	assert.Equal(t, int32(1), w.replicas(t, w.source))
	for _, name := range []string{"wordpress", "wordpress-db"} {
		d := &appsv1api.Deployment{}
		require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, d))
		assert.Empty(t, d.Annotations, "nothing says that it was stopped once")
	}
	schedule := w.schedule(t, w.source)
	assert.False(t, schedule.Spec.Paused)
	assert.Empty(t, schedule.Annotations)
	assert.Zero(t, w.running(t, w.recovery))
	for i, claim := range claims {
		assert.NotContains(t, w.host.datasets["backup/replica/znvm/k3s/"+claim], zfssnap.PropFenced, "the source replicates again")
		assert.Equal(t, "hassio:znvm/k3s/"+claim, r.Status.Volumes[i].Left)
		pvs := &corev1api.PersistentVolumeList{}
		require.NoError(t, w.recovery.Client.List(t.Context(), pvs))
		for _, pv := range pvs.Items {
			assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy)
		}
		assert.Contains(t, w.host.datasets, w.volumes["remote"][claim], "the volume is kept")
		kept := 0
		for _, v := range w.host.snapshots {
			if v.GetDataset() == w.volumes["remote"][claim] && strings.HasPrefix(v.GetName(), "dr-kept-") {
				assert.Equal(t, uint64(3<<20), v.GetWritten())
				kept++
			}
		}
		assert.Equal(t, 1, kept, "what was written is kept once")
	}
}

func (w *world) gone(t *testing.T) {
	t.Helper()
	err := w.recovery.Client.Get(t.Context(), client.ObjectKey{Name: "wordpress"}, &corev1api.Namespace{})
	assert.True(t, apierrors.IsNotFound(err), "the namespace that the failover made is deleted")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	golden(t, "rollback/status before", w.run(t.Context(), "status", "--source-context=primary").String())
	golden(t, "rollback/dry run", w.do(t, "rollback --source-context=primary --dry-run").String())
	w.exclusive(t)
	w.tty, w.stdin = true, "wordpress\n"
	golden(t, "rollback/rollback", w.do(t, "rollback --source-context=primary").String())
	w.assertUndone(t)
	w.gone(t)
	golden(t, "rollback/status after", w.do(t, "status --source-context=primary").String())
	golden(t, "rollback/history", w.do(t, "history").String())
	assert.NotContains(t, w.do(t, "report "+w.lastRun(t).Name+" -o markdown").out, "objective", "it is none that is measured")

	// And all the way round: what was put away is in nobody's way.
	w.before = nil
	w.do(t, doPlanned, doReprotect, doFailback)
	w.assertHome(t)
	assert.Equal(t, int64(5), w.lastRun(t).Spec.Epoch)
}

// After a disaster the source may turn out to be alive, and to have run on.
func TestRollback_ofADisaster(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doDisaster)
	w.alive(t)
	w.old.written["znvm/k3s/wordpress-db"], w.old.mounted["znvm/k3s/wordpress-db"] = 5<<10, true
	golden(t, "rollback/of a disaster", w.do(t, doRollback).String())
	w.assertUndone(t)
	w.gone(t)
	assert.Equal(t, 2, w.running(t, w.source), "it was not stopped")
	assert.Equal(t, uint64(5<<10), w.old.written["znvm/k3s/wordpress-db"], "what it wrote is its own")
}

// TestRollback_goesOnFromEachStep kills it after each of its steps, before that is
// recorded.
func TestRollback_goesOnFromEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range movedAway(t, doPlanned).steps(t, doRollback) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := movedAway(t, doPlanned)
			w.exclusive(t)
			w.pass(time.Minute)
			w.dies(t, doRollback, step)
			assert.Contains(t, w.run(t.Context(), "status").out, "rolling back")
			w.do(t, doRollback)
			w.assertUndone(t)
			w.gone(t)
		})
	}
}

// TestRollback_ofAFailoverThatStopped undoes one that was killed after each of its
// steps, and then the rollback is killed too where it ends the failover.
func TestRollback_ofAFailoverThatStopped(t *testing.T) {
	t.Parallel()
	for _, step := range newWorld(t).steps(t, doPlanned) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.alive(t)
			w.dies(t, doPlanned, step)
			failed := w.lastRun(t).Name
			w.exclusive(t)
			w.pass(time.Minute)
			w.dies(t, doRollback, failover.StepEnd)
			w.do(t, doRollback)
			ended := &plan.RecoveryRun{}
			require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: failed}, ended))
			assert.Equal(t, plan.PhaseAborted, ended.Status.Phase)
			assert.Equal(t, "rolled back by "+w.lastRun(t).Name, ended.Status.Message)
			assert.Equal(t, int32(1), w.replicas(t, w.source))
			assert.False(t, w.schedule(t, w.source).Spec.Paused)
			assert.Zero(t, w.running(t, w.recovery))
			w.do(t, doPlanned)
		})
	}
}

// A failover whose probes do not pass says that it can be undone.
func TestRollback_isSuggested(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.old.absent = false
	w.change(t, func(p *plan.RecoveryPlan) { p.Spec.Probes[0].Timeout.Duration = 500 * time.Millisecond })
	answer := w.answer
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no database", http.StatusBadGateway) }
	got := w.run(t.Context(), strings.Fields(doPlanned)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "kubectl dr rollback gives the source back what it had")
	w.answer = answer
	w.do(t, doRollback)
	assert.Equal(t, int32(1), w.replicas(t, w.source))
}

// Before the source is started everything can be taken back.
func TestRollback_givesTheRecoverySiteBackWhatItHad(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.before = func(what string) error {
		w.host.down = w.host.down || what == "dr patch deployment" // before what was written can be kept
		return nil
	}
	w.pass(time.Minute)
	got := w.run(t.Context(), strings.Fields(doRollback)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "rolled back: keep what was written")
	assert.Equal(t, plan.PhaseFailed, w.lastRun(t).Status.Phase)
	assert.Equal(t, int32(1), w.replicas(t, w.recovery))
	assert.Equal(t, int32(0), w.replicas(t, w.source))

	w.before, w.host.down = nil, false
	assert.Contains(t, w.run(t.Context(), "status").out, "the recovery site (epoch 2), not committed")
	w.do(t, doRollback)
	w.assertUndone(t)
}

// What was given back in part runs again, so a run that goes on must not go ahead.
func TestFailover_goesOnGivingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	backups, schedules := 0, 0
	w.before = func(what string) error {
		switch what {
		case "primary create backup":
			backups++
			return errors.New("the disk is full")
		case "primary patch schedule":
			if schedules++; schedules == 2 {
				return errors.New("the API server is away")
			}
		}
		return nil
	}
	got := w.run(t.Context(), strings.Fields(doPlanned)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "the API server is away")
	assert.Equal(t, int32(1), w.replicas(t, w.source), "it runs again")
	assert.True(t, w.schedule(t, w.source).Spec.Paused)

	w.pass(time.Minute)
	got = w.run(t.Context(), strings.Fields(doPlanned)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "rolled back: final backup")
	assert.Equal(t, 1, backups, "none is taken of what runs")
	assert.False(t, w.schedule(t, w.source).Spec.Paused)
	assert.Equal(t, plan.PhaseFailed, w.lastRun(t).Status.Phase)
}

func TestRollback_isRefused(t *testing.T) {
	t.Parallel()
	const notThere = "the source is not what wordpress-failover-20260102-030505 left: "
	tests := []struct {
		name, command string
		arrange       func(t *testing.T, w *world)
		err, hint     string
	}{
		{"before a failover", doRollback, nil, "there is no failover to roll back", "kubectl dr status wordpress"},
		{"without a source", "rollback --yes", nil, "rollback needs --source-context", "it names the cluster"},
		{"twice", doRollback, func(t *testing.T, w *world) { w.do(t, doPlanned, doRollback) }, "there is no failover to roll back", ""},
		{"after a reprotection", doRollback, func(t *testing.T, w *world) { w.do(t, doPlanned, doReprotect) }, "has committed wordpress-failover-20260102-030505", "kubectl dr failback wordpress"},
		{"after a reprotection that was abandoned", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.pass(time.Minute)
			w.dies(t, doReprotect, "stop the source")
			w.do(t, "reprotect --abandon")
		}, "has committed", ""},
		{"after a failback", doRollback, func(t *testing.T, w *world) { w.do(t, doPlanned, doReprotect, doFailback) }, "there is no failover to roll back", ""},
		{"a dataset that is gone", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			delete(w.old.datasets, "znvm/k3s/wordpress-db")
		}, notThere + "volume wordpress/wordpress-db: hassio:znvm/k3s/wordpress-db is not there any more", "or commit the failover with kubectl dr reprotect wordpress"},
		{"a dataset without its snapshot", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			clear(w.old.snapshots)
		}, "has not got snapshot dr-wordpress-failover-20260102-030505-e3b0c442 any more", ""},
		{"a claim that is gone", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			require.NoError(t, w.source.Client.Delete(t.Context(), &corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-db"}}))
		}, notThere + "volume wordpress/wordpress-db: its claim is not there any more", ""},
		{"a volume that is gone", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			require.NoError(t, w.source.Client.Delete(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "wordpress-db"}}))
		}, "its claim is bound to no volume any more", ""},
		{"a claim of another dataset", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			require.NoError(t, w.source.Client.Delete(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "wordpress-db"}}))
			require.NoError(t, w.source.Client.Create(t.Context(), volumeOf("wordpress-db", "wordpress-db", "hassio", "znvm/new")))
		}, "its claim is bound to hassio:znvm/new/wordpress-db, and was to hassio:znvm/k3s/wordpress-db", ""},
		{"a workload that is gone", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			require.NoError(t, w.source.Client.Delete(t.Context(), &appsv1api.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress"}}))
		}, notThere + "deployment/wordpress is not there any more", ""},
		{"a source whose agent is down", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.old.down = true
		}, "agent on node hassio", ""},
		{"a stretched pool", doRollback, func(t *testing.T, w *world) {
			w.do(t, doPlanned)
			w.change(t, func(p *plan.RecoveryPlan) {
				p.Spec.Source.StretchedPools = []plan.StretchedPool{{Pool: "metro", Source: "hassio", Recovery: "remote"}}
			})
		}, "it has stretched pools", "docs/sites.md"},
		{"a drill in progress", doRollback, func(t *testing.T, w *world) {
			w.dies(t, "drill", "restore")
		}, "drill wordpress-drill-20260102-030405 of plan \"wordpress\" is in progress", "kubectl dr drill wordpress --resume"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.old.absent = false
			if tt.arrange != nil {
				tt.arrange(t, w)
			}
			w.refuses(t, tt.command, tt.err, tt.hint)
		})
	}
}

// A reprotection that only looked has committed nothing.
func TestRollback_afterALook(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.pass(time.Minute)
	w.dies(t, doReprotect, "compare both sides")
	w.do(t, "reprotect --abandon", doRollback)
	w.assertUndone(t)
}

func TestRollback_abandoned(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.pass(time.Minute)
	w.dies(t, doRollback, failover.StepKeep)
	w.do(t, "rollback --abandon", doRollback)
	assert.Equal(t, plan.PhasePassed, w.lastRun(t).Status.Phase, "it can be begun anew")
	w.gone(t)
}

func TestRollback_ofAWarmStandby(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, flag string }{{"activated", "--cold=false"}, {"removed", "--cold"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := warm(t)
			w.do(t, "sync", doDisaster+" "+tt.flag)
			w.assertActive(t)
			w.alive(t)
			for _, dataset := range w.volumes["remote"] {
				w.host.written[dataset] = 3 << 20
			}
			w.exclusive(t)
			got := w.do(t, doRollback)
			assert.Contains(t, got.out, failover.StepStandBy)
			w.assertUndone(t)
			assert.Equal(t, int32(0), w.replicas(t, w.recovery))
			assert.Contains(t, inWordpress(t, w, &networkingv1api.Ingress{}, "wordpress").Annotations, "external-dns.alpha.kubernetes.io/controller", "names are muted again")
			left := &corev1api.PersistentVolumeClaimList{}
			require.NoError(t, w.recovery.Client.List(t.Context(), left, client.InNamespace("wordpress")))
			assert.Empty(t, left.Items)
			assert.Contains(t, w.do(t, "status").out, "ok  warm, at backup wordpress-2")
			assert.Contains(t, w.do(t, "sync").out, "0 missing, 0 drifted, 0 surplus, 0 conflicts", "it is at rest")
			w.do(t, doDisaster)
			w.assertActive(t)
		})
	}
}

// Git still says that the application runs at the source, and may say that it runs at
// the recovery site: that stays paused.
func TestRollback_ofWhatComesFromGit(t *testing.T) {
	t.Parallel()
	w := fromGit(t, sourceSide, recoverySide)
	w.do(t, doPlanned, "gitops resume")
	w.old.absent = false
	w.exclusive(t)
	got := w.do(t, doRollback)
	assert.Contains(t, got.out, "kubectl dr gitops resume wordpress")
	assert.True(t, w.syncs(t, w.source))
	assert.False(t, w.syncs(t, w.recovery))
}

// A namespace that the failover has not made may hold more than the application.
func TestRollback_ofANamespaceThatWasThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress", CreationTimestamp: metav1.NewTime(begin)}}))
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "pull"}}))
	w.do(t, doPlanned)
	w.old.absent = false
	got := w.do(t, doRollback)
	assert.Contains(t, got.out, "; namespace wordpress was there before the failover, and stays")
	inWordpress(t, w, &corev1api.Secret{}, "pull")
	assert.Equal(t, int32(0), w.replicas(t, w.recovery))
	assert.Equal(t, int32(1), w.replicas(t, w.source))
	w.do(t, doPlanned)
	assert.Equal(t, int32(1), w.replicas(t, w.recovery), "what was stopped there is set aside")
}

func TestRollback_withoutZFS(t *testing.T) {
	t.Parallel()
	w := newWorldWithout(t, plan.MethodDataUpload)
	w.do(t, doDisaster)
	w.alive(t)
	got := w.do(t, doRollback)
	assert.Contains(t, got.err, "not known of 2 volumes")
	assert.Contains(t, got.out, "kept volumes pvc-wordpress-db-", "they hold what was written")
	w.gone(t)
}

// Nothing is restored, so what puts right what was restored has nothing to do.
func TestRollback_hooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withHooks(t)
	w.change(t, func(p *plan.RecoveryPlan) {
		p.Spec.Start[1].After = []plan.Hook{{Probe: plan.Probe{Name: "back"}, Prompt: "Have the VPN lead back.", In: []plan.HookCommand{"rollback"}}}
	})
	w.do(t, doPlanned+" --answer=router")
	w.old.absent = false
	got := w.do(t, doRollback+" --answer=back")
	assert.Contains(t, got.err, "passed   hook back")
	assert.NotContains(t, got.err, "hook sessions")
	assert.NotContains(t, got.err, "hook router")
}
