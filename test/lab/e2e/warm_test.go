//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestWarmStandby keeps a standby and fails over to it: Velero restores the volume
// alone, and the command is killed on the way.
func TestWarmStandby(t *testing.T) {
	t.Parallel()
	a := newApp(t, "case-warm")
	plan := strings.Replace(a.plan(t, a.Name), "failback: home}", "failback: home, standby: standby}", 1)
	apply(t, dr, plan)
	apply(t, dr, must(t, "", "cat", repository("examples/rbac/standby.yaml")))
	kubectl(t, dr, "create", "clusterrolebinding", "kubectl-dr-standby", "--clusterrole=kubectl-dr-standby", "--serviceaccount=default:kubectl-dr-operator")
	a.post(t, 2)
	const backup = "case-warm-1"
	a.backUp(t, backup)
	completed(t, backup)
	known(t, backup)

	var report struct {
		State                                        string
		Wanted, Missing, Drifted, Surplus, Conflicts int
	}
	synced := func(args ...string) {
		t.Helper()
		r := kubectlDR(t, append([]string{"sync", a.Name, "-o", "json"}, args...)...)
		require.Zero(t, r.code, r.all())
		report.Missing, report.Drifted, report.Surplus, report.Conflicts = 0, 0, 0, 0
		require.NoError(t, json.Unmarshal([]byte(r.out), &report))
		assert.Equal(t, "ok", report.State)
	}
	replicas := func() string {
		return kubectl(t, dr, "-n", a.Name, "get", "deployment/web", "-o", "jsonpath={.spec.replicas}")
	}
	synced()
	assert.Equal(t, report.Wanted, report.Missing+report.Drifted, "every namespace has a ServiceAccount by itself")
	assert.Equal(t, "0", replicas())
	synced()
	assert.Zero(t, report.Missing+report.Drifted+report.Surplus+report.Conflicts, "a second time changes nothing")
	kubectl(t, dr, "-n", a.Name, "scale", "deployment/web", "--replicas=2")
	synced()
	assert.Equal(t, 1, report.Drifted)
	assert.Equal(t, "0", replicas())
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "warm, at backup "+backup)
	assert.Empty(t, kubectl(t, dr, "-n", a.Name, "get", "persistentvolumeclaims", "-o", "name"), "volumes are left to the failover")

	failover := []string{"failover", a.Name, "--disaster", "--accept-data-loss=2h", "--yes", "-o", "json"}
	killAt(t, "bring the standby to the restore point", failover...)
	killAt(t, "restore", append(failover, "--resume")...)
	r := kubectlDR(t, append(failover, "--resume")...)
	require.Zero(t, r.code, r.all())
	assert.Contains(t, r.err, "from a warm standby")
	name := runOf(t, r)
	assert.Equal(t, a.posts(t, backup), recoveredPosts(t, a.Name))
	assert.Equal(t, "1", replicas())
	included := kubectl(t, dr, "-n", "velero", "get", "restores.velero.io/"+name, "-o", "jsonpath={.spec.includedResources}")
	assert.Contains(t, included, "persistentvolumeclaims")
	assert.NotContains(t, included, "deployments")

	r = kubectlDR(t, "sync", a.Name)
	assert.Equal(t, 1, r.code, "what runs is no standby")
	assert.Contains(t, r.err, "runs here since "+name)
}
