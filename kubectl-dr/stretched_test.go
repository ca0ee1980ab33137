package kubectldr

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// stretch puts the application's volumes on a pool that both hosts reach, and of which
// nothing is replicated.
func stretch(t *testing.T) *world {
	t.Helper()
	w := stretchSome(t, claims...)
	clear(w.host.snapshots)
	return w
}

// stretchSome puts some of them there; the others are replicated.
func stretchSome(t *testing.T, some ...string) *world {
	t.Helper()
	w := newWorld(t)
	w.change(t, func(p *plan.RecoveryPlan) {
		p.Spec.Source.StretchedPools = []plan.StretchedPool{{Pool: "metro", Source: "hassio", Recovery: "remote"}}
	})
	for _, claim := range claims {
		parent := "znvm/k3s"
		if slices.Contains(some, claim) {
			parent = "metro/k3s"
			w.volumes["hassio"][claim], w.volumes["remote"][claim] = "metro/k3s/"+claim, "metro/k3s/"+claim
			w.old.datasets["metro/k3s/"+claim] = map[string]string{}
		}
		pv := volumeOf(claim, claim, "hassio", parent)
		pv.Spec.ClaimRef.UID, pv.Status.Phase = "", corev1api.VolumeBound
		for _, obj := range []client.Object{claimOf(claim, claim), pv} {
			require.NoError(t, w.source.Client.Delete(t.Context(), obj.DeepCopyObject().(client.Object)))
			require.NoError(t, w.source.Client.Create(t.Context(), obj))
		}
	}
	w.old.absent = false
	w.old.reach, w.host.reach = w.host, w.old
	w.old.pools = map[string]*agentpb.PoolState{"metro": {Name: "metro", Health: "ONLINE", Imported: true, Multihost: true, Host: "hassio", Hostid: 1, OwnHostid: 1}}
	w.host.pools = map[string]*agentpb.PoolState{"metro": {Name: "metro", Health: "ONLINE", Multihost: true, Active: true, Host: "hassio", Hostid: 1, OwnHostid: 2}}
	w.holdStretched("primary")
	w.addBackup("wordpress-3", 5*time.Minute)
	return w
}

// holdStretched has backups hold the claims and volumes that a cluster has now.
func (w *world) holdStretched(name string) {
	w.t.Helper()
	from := w.recovery
	if name == "primary" {
		from = w.source
	}
	w.holds = []client.Object{&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress", Labels: map[string]string{"team": "blog"}}}}
	for _, name := range claims {
		claim, pv := &corev1api.PersistentVolumeClaim{}, &corev1api.PersistentVolume{}
		require.NoError(w.t, from.Client.Get(w.t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, claim))
		require.NoError(w.t, from.Client.Get(w.t.Context(), client.ObjectKey{Name: claim.Spec.VolumeName}, pv))
		w.holds = append(w.holds, claim, pv)
	}
}

// cutOff is what remote sees of the pool when the source is gone.
func (w *world) cutOff() {
	w.old.down = true
	w.host.pools["metro"].Active = false
}

func (w *world) bound(t *testing.T) {
	t.Helper()
	ns := &corev1api.Namespace{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Name: "wordpress"}, ns))
	assert.Equal(t, "blog", ns.Labels["team"], "Velero leaves a namespace that is there as it is")
	for _, name := range claims {
		claim, pv := w.claim(name)
		assert.Equal(t, corev1api.ClaimBound, claim.Status.Phase)
		assert.Equal(t, name, pv.Spec.CSI.VolumeHandle, "it is the dataset itself, and no clone of it")
		assert.Equal(t, "metro/k3s", pv.Spec.CSI.VolumeAttributes["openebs.io/poolname"])
		assert.Equal(t, []string{"remote"}, pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values)
		assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy)
		assert.Empty(t, w.host.origins["metro/k3s/"+name])
	}
}

func TestStretched_disaster(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	w.cutOff()
	golden(t, "stretched-disaster", w.run(t.Context(), "failover", "wordpress", "--disaster", "--yes").String())
	w.bound(t)
	r := w.lastRun(t)
	assert.Zero(t, r.Status.RPO.Duration)
	assert.True(t, *r.Status.RPOMet)
	assert.Equal(t, "remote:run/"+r.Name, w.host.pools["metro"].GetTakenBy())
	for _, v := range r.Status.Volumes {
		assert.Equal(t, "metro", v.StretchedPool)
		assert.Equal(t, "remote:metro/k3s/"+v.Claim+"@dr-kept-"+r.Name, v.Kept)
	}
	restore := &velerov1api.Restore{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: r.Name}, restore))
	assert.Equal(t, []string{"persistentvolumes", "persistentvolumeclaims"}, restore.Spec.ExcludedResources)
}

func TestStretched_aLivePoolIsNotTaken(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	o := w.run(t.Context(), "failover", "wordpress", "--disaster", "--source-fenced", "--yes")
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "hassio has it imported")
	assert.Contains(t, o.err, "switch that host off")
	assert.True(t, w.old.pools["metro"].GetImported())
	assert.False(t, w.host.pools["metro"].GetImported())

	// Once it is off, the same command goes on.
	w.cutOff()
	o = w.run(t.Context(), "failover", "wordpress", "--disaster", "--yes")
	assert.Zero(t, o.code, o.err)
	w.bound(t)
}

func TestStretched_disksThatAreNotSeen(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	w.cutOff()
	w.host.pools["metro"].Unseen, w.host.pools["metro"].Health = []string{"site-a"}, "DEGRADED"
	o := w.run(t.Context(), "failover", "wordpress", "--disaster", "--yes")
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "does not see site-a")
	o = w.run(t.Context(), "failover", "wordpress", "--disaster", "--source-fenced", "--yes")
	assert.Zero(t, o.code, o.err)
	assert.Contains(t, o.err, "it is not mirrored any more")
	w.bound(t)
}

func TestStretched_planned(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	golden(t, "stretched-planned", w.run(t.Context(), "failover", "wordpress", "--planned", "--source-context=primary", "--yes").String())
	w.bound(t)
	assert.False(t, w.old.pools["metro"].GetImported())
}

func TestStretched_plannedGoesOn(t *testing.T) {
	t.Parallel()
	for _, step := range []string{failover.StepFence, failover.StepExport, failover.StepImport, failover.StepBind} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := stretch(t)
			w.dies(t, doPlanned, step)
			w.do(t, doPlanned)
			w.bound(t)
			assert.False(t, w.old.pools["metro"].GetImported())
		})
	}
}

func TestStretched_plannedGivesThePoolBack(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	w.dies(t, doPlanned, failover.StepExport)
	w.host.pools["metro"].Unseen = []string{"site-a"} // before the import, after the export
	o := w.run(t.Context(), strings.Fields(doPlanned+" --resume")...)
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "does not see site-a")
	assert.True(t, w.old.pools["metro"].GetImported(), "the source has it again")
	assert.True(t, slices.ContainsFunc(w.lastRun(t).Status.Steps, func(s plan.Step) bool {
		return s.Name == failover.StepRollBack+failover.SourceSite && s.Phase == plan.PhasePassed
	}))
	assert.Equal(t, int32(1), w.replicas(t, w.source))
}

func TestStretched_warmStandby(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		flag     string
		restores int
	}{"activated": {"--cold=false", 0}, "removed": {"--cold", 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := stretch(t)
			w.profiles("- {name: wordpress-standby, state: standby, externalDNS: mute}\n- {name: wordpress-failover, state: standby}\n- {name: wordpress-drill, state: standby}\n")
			w.change(t, func(p *plan.RecoveryPlan) { p.Spec.Profiles.Standby = "wordpress-standby" })
			w.do(t, "sync")
			w.cutOff()
			o := w.run(t.Context(), "failover", "wordpress", "--disaster", "--yes", tt.flag)
			require.Zero(t, o.code, o.err)
			w.bound(t)
			restores := &velerov1api.RestoreList{}
			require.NoError(t, w.recovery.Client.List(t.Context(), restores))
			assert.Len(t, restores.Items, tt.restores, "every object is there, and every volume came with its pool")
		})
	}
}

func TestStretched_aDrillWantsCopies(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	o := w.run(t.Context(), "drill", "wordpress", "--backup=wordpress-3")
	assert.Equal(t, 1, o.code)
	assert.Contains(t, o.err, "there is no copy at the recovery site")
	assert.False(t, w.host.pools["metro"].GetImported())
}

func TestStretched_rpoIsZero(t *testing.T) {
	t.Parallel()
	w := stretch(t)
	o := w.run(t.Context(), "rpo", "wordpress")
	assert.Contains(t, o.out, "pool metro is mirrored at both sites")
	assert.Contains(t, o.out, "nothing in PVC wordpress-db, whose pool metro is mirrored")
}

func TestStretched_check(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		set  func(p *agentpb.PoolState)
		says string
	}{
		{"in use", func(*agentpb.PoolState) {}, "in use by hassio, and node remote sees all its disks"},
		{"no multihost", func(p *agentpb.PoolState) { p.Multihost, p.Active = false, false }, "its multihost is off"},
		{"no hostid", func(p *agentpb.PoolState) { p.OwnHostid = 0 }, "node remote has no hostid"},
		{"one hostid for two", func(p *agentpb.PoolState) { p.OwnHostid, p.Active = 1, false }, "which has the hostid of node remote"},
		{"a disk is not seen", func(p *agentpb.PoolState) { p.Unseen = []string{"site-a"} }, "node remote does not see site-a"},
		{"degraded", func(p *agentpb.PoolState) { p.Imported, p.Health = true, "DEGRADED" }, "it is DEGRADED"},
		{"imported by itself", func(p *agentpb.PoolState) { p.Imported, p.Cached = true, true }, "node remote imports it by itself when it starts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := stretch(t)
			tt.set(w.host.pools["metro"])
			assert.Contains(t, w.run(t.Context(), "check", "wordpress").out, tt.says)
		})
	}
	t.Run("not there", func(t *testing.T) {
		t.Parallel()
		w := stretch(t)
		delete(w.host.pools, "metro")
		assert.Contains(t, w.run(t.Context(), "check", "wordpress").out, "reaches the pool's disks")
	})
}

func TestStretched_lint(t *testing.T) {
	t.Parallel()
	for says, pools := range map[string][]plan.StretchedPool{
		"wants pool, source and recovery":  {{Pool: "metro"}},
		"a pool is imported as a whole":    {{Pool: "metro/k3s", Source: "a", Recovery: "b"}},
		`source and recovery are both "a"`: {{Pool: "metro", Source: "a", Recovery: "a"}},
	} {
		p := testPlan()
		p.Spec.Source.StretchedPools = pools
		assert.ErrorContains(t, p.Validate(), says)
	}
	s := plan.Source{StretchedPools: []plan.StretchedPool{{Pool: "metro", Source: "a", Recovery: "b"}}}
	assert.NotNil(t, s.Stretched("b", "metro/k3s/x"))
	assert.Nil(t, s.Stretched("c", "metro/k3s/x"))
	assert.Nil(t, s.Stretched("a", "metro2/k3s/x"))
	assert.Nil(t, s.OfCopies().Stretched("a", "metro/k3s/x"))
}
