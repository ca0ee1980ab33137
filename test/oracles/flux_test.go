//go:build soak

package oracles

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/flux"
)

const (
	fluxSettings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: %s, namespace: web}
data: {theme: %s}
`

	fluxPlan = `  gitops: {flux: [{kind: Kustomization, name: apps}, {kind: Kustomization, name: more}]}
`
)

// startFlux starts one beside a cluster.
func startFlux(t *testing.T, c *cluster) *flux.Flux {
	t.Helper()
	programs := map[string]string{}
	for i, program := range build(t, flux.Programs...) {
		programs[flux.Programs[i]] = program
	}
	return flux.Start(t, c.kubeconfig, programs)
}

// settings are how Kustomizations are set, without what asks Flux to look at them.
func settings(t *testing.T, f *flux.Flux, names ...string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, name := range names {
		var k struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(f.Kubectl(t, "-n", flux.Namespace, "get", name, "-o", "json")), &k))
		delete(k.Metadata.Annotations, "reconcile.fluxcd.io/requestedAt")
		if len(k.Metadata.Annotations) == 0 {
			k.Metadata.Annotations = nil
		}
		all[name] = k
	}
	return all
}

// TestFlux_isPausedAndResumed pauses Kustomizations that are themselves from Git, with
// suspend: false and without, and lets them go on: twice, for what has paused once must
// not be easier to undo.
func TestFlux_isPausedAndResumed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, definitions...)
	f := startFlux(t, c)
	dr := drFor(t, c, rebuildPlan+fluxPlan)
	const apps, more, parent, control = "kustomization/apps", "kustomization/more", "kustomization/cluster", "kustomization/control"
	head := f.Commit(t, map[string]string{
		"cluster/apps.yaml": flux.Kustomization("apps", "apps", ""),
		"cluster/more.yaml": flux.Kustomization("more", "more", ", suspend: false, dependsOn: [{name: apps}]"),
		"apps/web.yaml":     "{apiVersion: v1, kind: Namespace, metadata: {name: web}}\n---" + fmt.Sprintf(fluxSettings, "apps", "light"),
		"more/more.yaml":    fmt.Sprintf(fluxSettings, "more", "light"),
		"control/c.yaml":    "{apiVersion: v1, kind: Namespace, metadata: {name: control}}\n---" + strings.Replace(fmt.Sprintf(fluxSettings, "control", "light"), "namespace: web", "namespace: control", 1),
	})
	f.Apply(t, flux.Kustomization("cluster", "cluster", "")+flux.Kustomization("control", "control", ""))
	f.Ready(t, parent, control, apps, more)
	require.Equal(t, head, f.Revision(t, more))
	theme := func(namespace, name string) string {
		return f.Kubectl(t, "-n", namespace, "get", "configmap", name, "-o", "jsonpath={.data.theme}")
	}
	before := settings(t, f, apps, more)
	out, err := dr("gitops", "status")
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(out, "reconciling"), out)

	for _, now := range []string{"dark", "darker"} {
		_, err = dr("gitops", "pause")
		require.NoError(t, err)
		for namespace, names := range map[string][]string{"web": {"apps", "more"}, "control": {"control"}} {
			for _, name := range names {
				f.Kubectl(t, "-n", namespace, "patch", "configmap", name, "--type=merge", "--patch", `{"data": {"theme": "by hand"}}`)
			}
		}
		head = f.Commit(t, map[string]string{
			"apps/web.yaml":  "{apiVersion: v1, kind: Namespace, metadata: {name: web}}\n---" + fmt.Sprintf(fluxSettings, "apps", now),
			"more/more.yaml": fmt.Sprintf(fluxSettings, "more", now),
		})
		f.Request(t, apps)
		f.Request(t, more)
		f.Reconcile(t, "gitrepository/fleet", parent, control)
		require.Equal(t, head, f.Revision(t, parent))
		require.Equal(t, "light", theme("control", "control"), "what is not paused goes on")
		assert.Equal(t, []string{"by hand", "by hand"}, []string{theme("web", "apps"), theme("web", "more")}, "nothing is undone")
		for _, name := range []string{apps, more} {
			assert.Equal(t, "true", f.Kubectl(t, "-n", flux.Namespace, "get", name, "-o", "jsonpath={.spec.suspend}"), "what has made %s leaves it so", name)
		}
		out, err = dr("gitops", "status")
		require.NoError(t, err)
		assert.Equal(t, 2, strings.Count(out, "paused"), out)

		_, err = dr("gitops", "resume")
		require.NoError(t, err)
		f.Reconcile(t, apps, more)
		assert.Equal(t, []string{now, now}, []string{theme("web", "apps"), theme("web", "more")})
		assert.Equal(t, []string{head, head}, []string{f.Revision(t, apps), f.Revision(t, more)})
		assert.Equal(t, before, settings(t, f, apps, more), "exactly as it was")
		requireNoDrift(t, f, parent, apps, more)
		assert.Equal(t, before, settings(t, f, apps, more))
	}
}

// requireNoDrift has Flux look again, and find nothing to do.
func requireNoDrift(t *testing.T, f *flux.Flux, kustomizations ...string) {
	t.Helper()
	made := slices.DeleteFunc(slices.Clone(kustomizations), func(k string) bool { return k == "kustomization/cluster" })
	before := f.Owned(t, made...)
	f.Reconcile(t, kustomizations...)
	require.Equal(t, before, f.Owned(t, made...), "Flux finds the cluster as Git says")
}

const fluxClaim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: web}
spec: {accessModes: [ReadWriteOnce], storageClassName: zfs, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// TestFlux_getsWhatGitDoesNotHold loses an application that Flux has made, and has it
// rebuilt, before Flux comes back and after: Flux takes what the rebuild made for its
// own, the rebuild takes for Git's what Flux says is its own, and neither undoes
// anything of the other.
func TestFlux_getsWhatGitDoesNotHold(t *testing.T) {
	t.Parallel()
	c := startCluster(t, definitions...)
	v := startVelero(t, c)
	f := startFlux(t, c)
	dr := drFor(t, c, rebuildPlan+strings.Replace(fluxPlan, ", {kind: Kustomization, name: more}", "", 1))
	c.bindVolumes(t)
	v.create(t, startMemoryAgent(t, "znvm/k3s/data=65536", "znvm/k3s/git-empty=0"))
	v.create(t, fmt.Sprintf(volume, "data", "data"))
	const apps = "kustomization/apps"
	git := map[string]string{"apps/web.yaml": fluxClaim, "apps/settings.yaml": fmt.Sprintf(fluxSettings, "settings", "light")}
	f.Commit(t, git)
	f.Apply(t, flux.Kustomization("apps", "apps", ", wait: true"))
	f.Ready(t, apps)
	v.create(t, "{apiVersion: v1, kind: Secret, metadata: {name: by-hand, namespace: web}, stringData: {password: hunter2}}")
	v.create(t, claimsBackup)
	v.until(t, "backups", "web-1", "Completed")

	claim := func() string {
		return f.Kubectl(t, "-n", "web", "get", "pvc/data", "-o", "jsonpath={.metadata.uid} {.status.phase} {.spec.volumeName}")
	}
	lose := func() {
		f.Kubectl(t, "-n", flux.Namespace, "delete", apps, "--ignore-not-found", "--timeout=2m") // with what it has made
		f.Kubectl(t, "-n", "web", "delete", "secret/by-hand", "--timeout=2m")
		f.Kubectl(t, "wait", "-n", "web", "pvc/data", "--for=delete", "--timeout=2m")
		f.Kubectl(t, "delete", "pv", "--all", "--timeout=2m")
	}

	// The rebuild is first.
	lose()
	out, err := dr("rebuild", "--yes")
	require.NoError(t, err)
	assert.Contains(t, out, "restored with their claims: web/data")
	made := claim()
	assert.Regexp(t, `Bound data-[0-9a-f]{8}$`, made)
	git["apps/added.yaml"] = fmt.Sprintf(fluxSettings, "added", "light")
	f.Commit(t, git)
	f.Apply(t, flux.Kustomization("apps", "apps", ", wait: true"))
	f.Reconcile(t, "gitrepository/fleet", apps)
	assert.Equal(t, made, claim(), "Flux adopts the claim")
	requireNoDrift(t, f, apps)
	v.create(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: mine, namespace: web}}")
	requireOwners(t, f, dr)
	owned := f.Owned(t, apps)
	out, err = dr("rebuild", "--yes")
	require.NoError(t, err)
	assert.Contains(t, out, "nothing to do")
	assert.Equal(t, owned, f.Owned(t, apps))

	// Flux is first, and waits for a volume; then it has one, and it is empty.
	for _, there := range []struct{ volume, does string }{{"", "bound to claims that were there: web/data"}, {fmt.Sprintf(volume, "data", "git-empty"), "swapped for empty ones: web/data"}} {
		lose()
		if there.volume != "" {
			v.create(t, there.volume)
		}
		f.Apply(t, flux.Kustomization("apps", "apps", ", wait: true, suspend: false"))
		f.Kubectl(t, "-n", "web", "wait", "pvc/data", "--for=create", "--timeout=2m")
		if there.volume != "" {
			f.Ready(t, apps)
		}
		before := settings(t, f, apps)
		out, err = dr("rebuild", "--yes")
		require.NoError(t, err)
		assert.Contains(t, out, "paused Kustomization flux-system/apps")
		assert.Contains(t, out, there.does)
		assert.Contains(t, out, "everything is in sync and healthy")
		bound := claim()
		assert.Regexp(t, `Bound data-[0-9a-f]{8}$`, bound)
		f.Kubectl(t, "-n", "web", "get", "secret/by-hand")
		assert.Equal(t, before, settings(t, f, apps), "exactly as it was")
		requireNoDrift(t, f, apps)
		assert.Equal(t, bound, claim())
		requireOwners(t, f, dr)
		owned = f.Owned(t, apps)
		out, err = dr("rebuild", "--yes")
		require.NoError(t, err)
		assert.Contains(t, out, "nothing to do")
		assert.Equal(t, owned, f.Owned(t, apps))
		assert.Equal(t, before, settings(t, f, apps))
	}
}

// requireOwners checks that a rebuild takes for Git's what Flux says that it has made.
func requireOwners(t *testing.T, f *flux.Flux, dr func(...string) (string, error)) {
	t.Helper()
	out, err := dr("rebuild", "--plan", "-o", "json")
	require.NoError(t, err)
	var plan struct {
		Objects []struct{ Namespace, Kind, Name, Owner string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &plan))
	owners := map[string][]string{}
	for _, o := range plan.Objects {
		owners[o.Owner] = append(owners[o.Owner], strings.TrimSpace(o.Namespace+" "+o.Kind+" "+o.Name))
	}
	inventory := slices.DeleteFunc(slices.Sorted(maps.Keys(f.Owned(t, "kustomization/apps"))), func(o string) bool { return strings.Contains(o, " PersistentVolumeClaim ") })
	assert.ElementsMatch(t, inventory, slices.Concat(owners["Git"], owners["both"]))
	assert.Equal(t, []string{"web ConfigMap added"}, owners["Git"], "it is newer than the backup")
	assert.ElementsMatch(t, []string{"Namespace web", "web Secret by-hand"}, owners["backup"])
	assert.Equal(t, []string{"web ConfigMap mine"}, owners["neither"])
}
