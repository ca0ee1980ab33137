package kubectldr

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	networkingv1api "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// sideApp is what the backup has beside the application.
func sideApp() []client.Object {
	return []client.Object{
		&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress"}},
		&corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "settings"}, Data: map[string]string{"title": "Vegard's blog"}},
		&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "password"}, Data: map[string][]byte{"root": []byte("hunter2")}},
		&networkingv1api.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress"},
			Spec: networkingv1api.IngressSpec{Rules: []networkingv1api.IngressRule{{Host: "vegard.blog.example.org"}}}},
	}
}

// warm is a world whose plan has a standby profile.
func warm(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.profiles("- {name: wordpress-standby, state: standby, externalDNS: mute}\n- {name: wordpress-failover, state: standby}\n- {name: wordpress-drill, state: standby}\n")
	w.change(t, func(p *plan.RecoveryPlan) { p.Spec.Profiles.Standby = "wordpress-standby" })
	w.backedUp(sideApp()...)
	return w
}

// change changes the plan in the cluster.
func (w *world) change(t *testing.T, how func(*plan.RecoveryPlan)) {
	t.Helper()
	p := &plan.RecoveryPlan{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "wordpress"}, p))
	how(p)
	require.NoError(t, w.recovery.Client.Update(t.Context(), p))
}

// readOnly fails on every write, but those of the lock.
func (w *world) readOnly() { w.before = readOnly }

func readOnly(what string) error {
	if strings.HasSuffix(what, "lease") {
		return nil
	}
	return apierrors.NewForbidden(corev1api.Resource("everything"), what, nil)
}

// versions are those of the objects in the recovery cluster.
func (w *world) versions(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, list := range []client.ObjectList{&corev1api.NamespaceList{}, &corev1api.ConfigMapList{}, &corev1api.SecretList{}, &corev1api.ServiceList{},
		&appsv1api.DeploymentList{}, &networkingv1api.IngressList{}, &plan.RecoveryPlanList{}, &plan.RecoveryRunList{}} {
		require.NoError(t, w.recovery.Client.List(t.Context(), list))
		require.NoError(t, meta.EachListItem(list, func(obj runtime.Object) error {
			o := obj.(client.Object)
			found[fmt.Sprintf("%T %s", o, client.ObjectKeyFromObject(o))] = o.GetResourceVersion()
			return nil
		}))
	}
	return found
}

func inWordpress[T client.Object](t *testing.T, w *world, obj T, name string) T {
	t.Helper()
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, obj))
	return obj
}

func TestSync(t *testing.T) {
	t.Parallel()
	w := warm(t)
	golden(t, "sync/status before the first", w.do(t, "status").String())
	w.readOnly()
	golden(t, "sync/dry run", w.do(t, "sync wordpress --dry-run").String())
	strict := w.run(t.Context(), "sync", "--dry-run", "--strict")
	assert.Equal(t, exitUnhealthy, strict.code, "a check for differences")
	w.before = nil
	golden(t, "sync/first time", w.do(t, "sync").String())

	ingress := inWordpress(t, w, &networkingv1api.Ingress{}, "wordpress")
	assert.Contains(t, ingress.Annotations, "external-dns.alpha.kubernetes.io/controller", "names are muted")
	assert.Equal(t, int32(0), *inWordpress(t, w, &appsv1api.Deployment{}, "wordpress").Spec.Replicas)

	before := w.versions(t)
	golden(t, "sync/second time changes nothing", w.do(t, "sync").String())
	assert.Equal(t, before, w.versions(t))
	golden(t, "sync/status of a standby", w.do(t, "status").String())

	settings := inWordpress(t, w, &corev1api.ConfigMap{}, "settings")
	settings.Data["title"] = "changed here"
	require.NoError(t, w.recovery.Client.Update(t.Context(), settings))
	password := inWordpress(t, w, &corev1api.Secret{}, "password")
	password.Data["root"] = []byte("otherwise")
	require.NoError(t, w.recovery.Client.Update(t.Context(), password))
	w.addBackup("wordpress-3", 0)
	golden(t, "sync/status of a standby that is behind", w.do(t, "status").String())
	got := w.do(t, "sync --backup=wordpress-2 -o wide")
	golden(t, "sync/drifted, wide", got.String())
	assert.NotContains(t, got.String(), "hunter2", "values are not told")

	golden(t, "sync/surplus, as json", w.do(t, "sync -o json").String())
	golden(t, "sync/surplus, pruned", w.do(t, "sync --prune").String())
	golden(t, "sync/as yaml", w.do(t, "sync -o yaml").String())
	golden(t, "sync/name", w.do(t, "sync -o name").String())
	golden(t, "sync/status once more", w.do(t, "status -o yaml").String())
}

func TestSync_conflicts(t *testing.T) {
	t.Parallel()
	w := warm(t)
	theirs := &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "settings"}, Data: map[string]string{"title": "somebody else's"}}
	require.NoError(t, w.recovery.Client.Create(t.Context(), theirs))
	got := w.run(t.Context(), "sync")
	golden(t, "sync/conflict", got.String())
	assert.Equal(t, exitUnhealthy, got.code)
	assert.Equal(t, "somebody else's", inWordpress(t, w, &corev1api.ConfigMap{}, "settings").Data["title"])
	golden(t, "sync/status of a conflict", w.do(t, "status").String())
	golden(t, "sync/adopted", w.do(t, "sync --adopt=configmap/settings").String())
	assert.Equal(t, "Vegard's blog", inWordpress(t, w, &corev1api.ConfigMap{}, "settings").Data["title"])
}

func TestSync_watch(t *testing.T) {
	t.Parallel()
	got := warm(t).interrupted(t, 2, "sync", "--watch", "--interval=1ms", "-o", "name")
	assert.Equal(t, 130, got.code)
	assert.Equal(t, 2, strings.Count(got.out, "syncreport.kubectl-dr.io/wordpress"), got.out)
}

func TestSync_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args string
		arrange    func(*world)
		err, hint  string
	}{
		{"a plan without a standby profile", "sync", func(w *world) {
			w.change(w.t, func(p *plan.RecoveryPlan) { p.Spec.Profiles.Standby = "" })
		}, `plan "wordpress" names no spec.profiles.standby`, "state: standby and externalDNS: mute"},
		{"a profile that is not there", "sync", func(w *world) {
			w.change(w.t, func(p *plan.RecoveryPlan) { p.Spec.Profiles.Standby = "nope" })
		}, `unknown profile "nope"`, "correct spec.profiles.standby"},
		{"a profile that starts things", "sync", func(w *world) { w.profiles("- {name: wordpress-standby}\n") },
			"profile wordpress-standby would start the application: it has no state: standby", "state: standby"},
		{"an application that runs here", "sync", func(w *world) { w.do(w.t, doDisaster) }, "runs here since wordpress-failover-", "after a failback"},
		{"a failover in progress", "sync", func(w *world) {
			w.dies(w.t, doDisaster, "select restore point")
		}, "is in progress", "kubectl dr failover wordpress --resume"},
		{"a namespace with volumes", "sync", func(w *world) {
			claim := &corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-db"}}
			require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), claim))
		}, "namespace wordpress holds claims, so it is no standby", "delete the namespace"},
		{"a backup that can't be read", "sync", func(w *world) { delete(w.files, "BackupContents/wordpress-2") }, "download BackupContents", ""},
		{"what is no object", "sync --adopt=settings", nil, `--adopt: "settings" names no object`, ""},
		{"no time at all", "sync --watch --interval=0s", nil, "want a time above zero", ""},
		{"a backup that is not there", "sync --backup=nope", nil, "nope", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := warm(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			w.readOnly()
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, exitError, got.code, got)
			assert.Contains(t, got.err, tt.err)
			assert.Contains(t, got.err, tt.hint)
			assert.Empty(t, got.out)
		})
	}
}

func TestSync_warnsOfNamesThatMayBePublished(t *testing.T) {
	t.Parallel()
	w := warm(t)
	w.profiles("- {name: wordpress-standby, state: standby}\n")
	assert.Contains(t, w.do(t, "sync").err, "warning: profile wordpress-standby has no externalDNS: mute")
}

// surplusApp is of the standby, and not of later backups.
func surplusApp(t *testing.T, w *world) {
	t.Helper()
	w.backedUp(append(sideApp(), &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "gone"}})...)
	w.do(t, "sync")
	w.backedUp(sideApp()...)
}

func TestFailover_activatesAWarmStandby(t *testing.T) {
	t.Parallel()
	w := warm(t)
	surplusApp(t, w)
	golden(t, "sync/failover --dry-run", w.do(t, "failover --disaster --dry-run").String())
	golden(t, "sync/failover", w.do(t, doDisaster).String())
	w.assertActive(t)
	assert.NotContains(t, inWordpress(t, w, &networkingv1api.Ingress{}, "wordpress").Annotations, "external-dns.alpha.kubernetes.io/controller", "the failover's profile claims the names")
	err := w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "gone"}, &corev1api.ConfigMap{})
	assert.True(t, apierrors.IsNotFound(err), "what the source has no more is not recovered")
	restore := &velerov1api.Restore{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: w.lastRun(t).Name}, restore))
	assert.Contains(t, restore.Spec.IncludedResources, "persistentvolumeclaims")
	assert.NotContains(t, restore.Spec.IncludedResources, "deployments")
	assert.NotContains(t, restore.Annotations, zfssnap.AnnotationThin, "volumes in production have the space that their sources reserved")
	golden(t, "sync/report of a warm failover", w.do(t, "report").String())
	assert.Contains(t, w.do(t, "report -o markdown").out, "from a warm standby")
	assert.Contains(t, w.do(t, "report -o html").out, "from a warm standby")
}

// assertActive checks that the application runs at the recovery site as its source
// had it.
func (w *world) assertActive(t *testing.T) {
	t.Helper()
	for _, name := range []string{"wordpress", "wordpress-db"} {
		d := inWordpress(t, w, &appsv1api.Deployment{}, name)
		assert.Equal(t, int32(1), *d.Spec.Replicas)
		assert.NotContains(t, d.Annotations, rules.AnnotationOriginalState)
	}
	for _, claim := range claims {
		inWordpress(t, w, &corev1api.PersistentVolumeClaim{}, claim)
	}
	inWordpress(t, w, &corev1api.Service{}, "wordpress")
}

func TestFailover_cold(t *testing.T) {
	t.Parallel()
	w := warm(t)
	surplusApp(t, w)
	golden(t, "sync/failover --cold", w.do(t, doDisaster+" --cold").String())
	w.assertActive(t)
	err := w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "gone"}, &corev1api.ConfigMap{})
	assert.True(t, apierrors.IsNotFound(err))
	assert.Equal(t, plan.StandbyRemove, w.lastRun(t).Spec.Standby)
}

func TestFailover_planned_activatesAWarmStandby(t *testing.T) {
	t.Parallel()
	w := warm(t)
	w.do(t, "sync", doPlanned)
	w.assertActive(t)
	assert.True(t, w.lastRun(t).Spec.Warm())
	assert.Zero(t, w.lastRun(t).Status.RPO.Duration)

	// There and back: it becomes a standby again once its namespace is gone.
	w.old.absent = false
	w.do(t, doReprotect, doFailback)
	got := w.run(t.Context(), "sync")
	assert.Contains(t, got.err, "holds claims, so it is no standby")
	require.NoError(t, w.recovery.Client.Delete(t.Context(), &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress"}}))
	w.addBackup("wordpress-9", 0)
	w.do(t, "sync", doPlanned)
	w.assertActive(t)
	assert.True(t, w.lastRun(t).Spec.Warm())
}

func TestFailover_takesOverAStandbyThatWasStarted(t *testing.T) {
	t.Parallel()
	w := warm(t)
	w.do(t, "sync")
	d := inWordpress(t, w, &appsv1api.Deployment{}, "wordpress")
	*d.Spec.Replicas = 1
	delete(d.Annotations, rules.AnnotationOriginalState)
	require.NoError(t, w.recovery.Client.Update(t.Context(), d))
	assert.Equal(t, exitUnhealthy, w.run(t.Context(), "sync").code)
	w.do(t, doDisaster)
	w.assertActive(t)
}

func TestFailover_warm_leavesWhatOthersMade(t *testing.T) {
	t.Parallel()
	w := warm(t)
	theirs := &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "settings"}, Data: map[string]string{"title": "of this site"}}
	require.NoError(t, w.recovery.Client.Create(t.Context(), theirs))
	assert.Equal(t, exitUnhealthy, w.run(t.Context(), "sync").code)
	got := w.do(t, doDisaster)
	assert.Contains(t, got.err, "warning: configmap wordpress/settings stays as it is: somebody else made it")
	assert.Equal(t, "of this site", inWordpress(t, w, &corev1api.ConfigMap{}, "settings").Data["title"])
	w.assertActive(t)
}

// TestFailover_warm_goesOnFromEachStep kills a failover after each of its steps.
func TestFailover_warm_goesOnFromEachStep(t *testing.T) {
	t.Parallel()
	w := warm(t)
	w.do(t, "sync")
	steps := w.steps(t, doDisaster)
	require.Contains(t, steps, "bring the standby to the restore point")
	for _, step := range steps {
		t.Run(filepath.Base(step), func(t *testing.T) {
			t.Parallel()
			w := warm(t)
			w.do(t, "sync")
			w.pass(time.Minute)
			w.dies(t, doDisaster, step)
			w.do(t, "failover --disaster --accept-data-loss=15m --yes --resume")
			w.assertActive(t)
			assert.Equal(t, plan.PhasePassed, w.lastRun(t).Status.Phase)
		})
	}
}
