//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ofGit is by what Flux knows what it has applied.
var ofGit = []string{"kustomize.toolkit.fluxcd.io/name=apps", "kustomize.toolkit.fluxcd.io/namespace=flux-system"}

// fromGit are objects as Git has them for the new cluster: applied with the labels
// of Flux, for its nodes and its class.
func (a app) fromGit(t *testing.T) string {
	t.Helper()
	objects := a.render(t, "git.yaml.tmpl")
	return must(t, objects, append([]string{"kubectl", "--context", dr, "label", "--local", "-o", "json", "-f", "-"}, ofGit...)...)
}

// newProtected makes an application that comes from Git at the primary site, with a
// Secret that does not, and a backup of it that the other site knows.
func newProtected(t *testing.T, name string) (a app, plan, backup string) {
	t.Helper()
	a = newApp(t, name)
	kubectl(t, primary, append([]string{"-n", name, "label", "deployment/web", "service/web", "pvc/data"}, ofGit...)...)
	kubectl(t, primary, "-n", name, "create", "secret", "generic", "by-hand", "--from-literal=password="+name)
	kubectl(t, primary, "-n", name, "create", "serviceaccount", "importer")
	a.post(t, 2)
	backup = name + "-1"
	a.backUp(t, backup)
	completed(t, backup)
	known(t, backup)
	plan = strings.Replace(a.plan(t, name), "drill: recovery,", "drill: recovery, rebuild: rebuild,", 1)
	return a, plan, backup
}

// TestRebuild gives a cluster that comes up from Git, late or early, what Git does
// not hold; a second time it changes nothing.
func TestRebuild(t *testing.T) {
	t.Parallel()
	t.Run("before Git", testRebuildBeforeGit)
	t.Run("after Git", testRebuildAfterGit)
	t.Run("from a pool", testRebuildFromPool)
	t.Run("by Flux", testRebuildByFlux)
}

func testRebuildBeforeGit(t *testing.T) {
	a, plan, backup := newProtected(t, "case-late")
	rebuild := []string{"rebuild", "-f", "-", "--yes", "--git-timeout=1s"}

	r := kubectlDRWith(t, plan, "rebuild", "-f", "-", "--plan", "-o", "json")
	require.Zero(t, r.code)
	owners := ownersOf(t, r.out)
	assert.Equal(t, "both", owners["Deployment web"])
	assert.Equal(t, "both", owners["Service web"])
	assert.Equal(t, "backup", owners["Secret by-hand"])
	assert.Equal(t, "backup", owners["ServiceAccount importer"])
	assert.NotContains(t, r.all(), "password")

	r = kubectlDRWith(t, plan, rebuild...)
	require.Equal(t, 1, r.code, "nothing brings what Git has yet")
	assert.Contains(t, r.err, "not there yet: deployment/web")
	assert.Equal(t, "Bound", kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.status.phase}"))
	kubectl(t, dr, "-n", a.Name, "get", "secret/by-hand", "serviceaccount/importer")
	missing := run(t.Context(), "", "kubectl", "--context", dr, "-n", a.Name, "get", "deployment/web")
	require.NotZero(t, missing.code, "what Git owns is left to it")

	uid := kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.metadata.uid}")
	apply(t, dr, a.fromGit(t))
	r = kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Zero(t, r.code)
	assert.Contains(t, r.err, "goes on")
	assert.Equal(t, uid, kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.metadata.uid}"), "Git adopts the claim")
	assert.Equal(t, a.posts(t, backup), recoveredPosts(t, a.Name))

	before := a.inCluster(t)
	r = kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Zero(t, r.code)
	assert.Contains(t, r.out, "nothing to do")
	assert.Equal(t, before, a.inCluster(t))
}

// inCluster is every object of the application at the recovery site with its
// version, and what runs on its pools for it.
func (a app) inCluster(t *testing.T) string {
	t.Helper()
	return kubectl(t, dr, "-n", a.Name, "get", "deployments,services,secrets,serviceaccounts,persistentvolumeclaims", "-o",
		"custom-columns=K:.kind,N:.metadata.name,V:.metadata.resourceVersion") +
		on(t, remote, "sh", "-ec", `zfs list -H -o name -r backup/znvm | grep -e "$1" || true`, "sh", a.Volume)
}

// Git was faster, and the application has written: nothing is overwritten unless it
// is named, and what was written is kept.
func testRebuildAfterGit(t *testing.T) {
	a, plan, backup := newProtected(t, "case-early")
	fresh := a
	fresh.Parent, fresh.Volume, fresh.Kind = "backup/znvm/k3s", "pvc-fresh-early", "provisioned"
	on(t, remote, "zfs", "create", "-p", "-o", "mountpoint=legacy", fresh.dataset())
	apply(t, dr, strings.NewReplacer("hassio", remote, "zfs-storage-znvm", "zfs-storage-znvm-dr").Replace(fresh.render(t, "volume.yaml.tmpl")))
	apply(t, dr, fresh.fromGit(t))
	kubectl(t, dr, append([]string{"-n", a.Name, "label", "pvc/data"}, ofGit...)...)
	kubectl(t, dr, "-n", a.Name, "wait", "deployment/web", "--for=condition=Available", "--timeout=8m")
	kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "sh", "-ec", "dd if=/dev/urandom of=/data/new bs=1M count=2; sync")
	written := kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "sha256sum", "/data/new")

	r := kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes")
	require.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "in use by pod web-")
	assert.Contains(t, r.err, "--replace-claim="+a.Name+"/data")
	assert.Equal(t, fresh.Volume, kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.spec.volumeName}"))

	r = kubectlDRWith(t, plan, "rebuild", "-f", "-", "--yes", "--replace-claim="+a.Name+"/data", "-o", "json")
	require.Zero(t, r.code)
	assert.Equal(t, a.posts(t, backup), recoveredPosts(t, a.Name))
	var done struct {
		Status struct{ Volumes []struct{ Kept, Left string } }
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &done))
	kept := strings.TrimPrefix(done.Status.Volumes[0].Kept, remote+":")
	require.Contains(t, kept, fresh.dataset()+"@dr-kept-")
	sum := on(t, remote, "sh", "-ec", `at=$(mktemp -d); mount -t zfs "$1" "$at"; trap 'umount "$at"' EXIT; sha256sum "$at/new"`, "sh", kept)
	assert.Equal(t, strings.Fields(written)[0], strings.Fields(sum)[0], "what the application had written")
	assert.Equal(t, fresh.Volume, done.Status.Volumes[0].Left)
	kubectl(t, dr, "get", "pv/"+fresh.Volume)
}

// Neither the cluster nor the bucket is left, but the copies.
func testRebuildFromPool(t *testing.T) {
	a, _, backup := newProtected(t, "case-pool")
	location := []string{
		"--snapshot-config=agents=" + remote + "=" + lab.AgentAddress(remote), "--snapshot-config=restoreNode=" + remote,
		"--snapshot-config=restoreParents=znvm/k3s=backup/znvm/k3s", "--agent-credentials=" + lab.PKI().Bundle("kubectl-dr"),
	}
	plan := strings.Replace(a.plan(t, a.Name), "drill: recovery,", "drill: recovery, rebuild: rebuild,", 1)
	r := kubectlDRWith(t, plan, append([]string{"rebuild", "-f", "-", "--from-pool=" + remote, "--yes"}, location...)...)
	require.Zero(t, r.code)
	assert.Equal(t, "Bound", kubectl(t, dr, "-n", a.Name, "get", "pvc/data", "-o", "jsonpath={.status.phase}"))
	apply(t, dr, a.fromGit(t))
	kubectl(t, dr, "-n", a.Name, "wait", "deployment/web", "--for=condition=Available", "--timeout=8m")
	assert.Equal(t, a.posts(t, backup), recoveredPosts(t, a.Name))
}

// ownersOf reads "<kind> <name>" → owner from a plan as JSON.
func ownersOf(t *testing.T, text string) map[string]string {
	t.Helper()
	var plan struct {
		Objects []struct{ Kind, Name, Owner string }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &plan))
	owners := map[string]string{}
	for _, o := range plan.Objects {
		owners[o.Kind+" "+o.Name] = o.Owner
	}
	return owners
}
