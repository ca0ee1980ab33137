//go:build e2e

package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/flux"
)

// testRebuildByFlux has Flux itself bring from Git what Git has, after a rebuild and
// before it.
func testRebuildByFlux(t *testing.T) {
	programs, err := build.Programs(t.Context(), build.Options{Tell: func(step, what string) { t.Log(step, what) }}, flux.Programs...)
	require.NoError(t, err)
	f := flux.Start(t, lab.Kubeconfig(dr), programs)
	const late, early = "case-by-late", "case-by-early"
	head := f.Commit(t, map[string]string{
		"late/app.yaml":  app{Name: late}.render(t, "git.yaml.tmpl"),
		"early/app.yaml": app{Name: early}.render(t, "git.yaml.tmpl"),
	})
	f.Reconcile(t, "gitrepository/fleet")
	t.Run("late", func(t *testing.T) { t.Parallel(); testFluxIsLate(t, f, late, head) })
	t.Run("early", func(t *testing.T) { t.Parallel(); testFluxIsEarly(t, f, early, head) })
}

// The volume and its claim are there before Flux, which takes them for its own.
func testFluxIsLate(t *testing.T, f *flux.Flux, name, head string) {
	const mine = "kustomization/apps" // as in the backup
	a, plan, backup := newProtected(t, name)
	r := kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes", "--git-timeout=1s")
	require.Equal(t, 1, r.code, "nothing brings what Git has yet")
	made := a.claim(t)

	f.Apply(t, flux.Kustomization("apps", "late", ", wait: true"))
	f.Ready(t, mine)
	assert.Equal(t, made, a.claim(t), "Flux adopts the claim")
	r = kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Zero(t, r.code)
	assert.Contains(t, r.err, "goes on")
	a.requireRebuilt(t, f, mine, head, plan, backup)
}

// Flux is there first, with a claim that nobody has a volume for, and waits.
func testFluxIsEarly(t *testing.T, f *flux.Flux, name, head string) {
	const mine = "kustomization/early"
	a, plan, backup := newProtected(t, name)
	f.Apply(t, flux.Kustomization("early", "early", ", wait: true"))
	eventually(t, "Flux says what it has made", func() (bool, string) {
		seen := kubectl(t, dr, "-n", flux.Namespace, "get", mine, "-o", "jsonpath={.status}")
		return strings.Contains(seen, name+"_web_apps_Deployment"), seen
	})
	spec := kubectl(t, dr, "-n", flux.Namespace, "get", mine, "-o", "jsonpath={.spec}")

	r := kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Zero(t, r.code)
	assert.Contains(t, r.out, "paused Kustomization flux-system/early")
	assert.Contains(t, r.out, "bound to claims that were there: "+name+"/data")
	assert.Contains(t, r.out, "everything is in sync and healthy")
	assert.Equal(t, spec, kubectl(t, dr, "-n", flux.Namespace, "get", mine, "-o", "jsonpath={.spec}"), "exactly as it was")
	a.requireRebuilt(t, f, mine, head, plan, backup)
}

// claim is which one the application has, and which volume.
func (a app) claim(t *testing.T) string {
	t.Helper()
	return kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.metadata.uid} {.status.phase} {.spec.volumeName}")
}

// requireRebuilt checks that the data is there, that Flux is content with the head of
// its Git and finds nothing to change, and that another rebuild finds nothing either.
func (a app) requireRebuilt(t *testing.T, f *flux.Flux, kustomization, head, plan, backup string) {
	t.Helper()
	assert.Equal(t, a.posts(t, backup), recoveredPosts(t, a.Name))
	f.Ready(t, kustomization)
	assert.Equal(t, head, f.Revision(t, kustomization))
	r := kubectlDRWith(t, plan, "rebuild", "-f", "-", "--plan", "-o", "json")
	require.Zero(t, r.code)
	owners := ownersOf(t, r.out)
	for _, made := range slices.Sorted(maps.Keys(f.Owned(t, kustomization))) {
		if kind := strings.TrimPrefix(made, a.Name+" "); !strings.HasPrefix(kind, "PersistentVolumeClaim ") {
			assert.Equal(t, "both", owners[kind], made)
		}
	}
	assert.Equal(t, "backup", owners["Secret by-hand"])

	// What a Deployment counts is Kubernetes' own affair: that settles first.
	kubectl(t, dr, "-n", a.Name, "rollout", "status", "deployment/web", "--timeout="+patience.String())
	before, owned := a.inCluster(t), f.Owned(t, kustomization)
	f.Reconcile(t, kustomization)
	assert.Equal(t, owned, f.Owned(t, kustomization), "Flux finds no drift")
	r = kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Zero(t, r.code)
	assert.Contains(t, r.out, "nothing to do")
	assert.Equal(t, before, a.inCluster(t))
}
