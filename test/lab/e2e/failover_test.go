//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPlannedFailover moves an application and loses nothing, although the
// command is killed on the way and another has to go on.
func TestPlannedFailover(t *testing.T) {
	t.Parallel()
	a := newApp(t, "shop")
	a.post(t, 4)
	failover := []string{"failover", a.Name, "--planned", "--yes", "--source-kubeconfig", source, "-o", "json"}

	killAt(t, "wait for the backup here", failover...)
	r := kubectlDR(t, "status", a.Name)
	assert.Zero(t, r.code)
	assert.Contains(t, r.out, "failing over")
	r = kubectlDR(t, "drill", a.Name, "--dry-run")
	assert.Equal(t, 1, r.code, "one run at a time")
	assert.Contains(t, r.err, "in progress")
	assert.Contains(t, r.err, "--resume")

	killAt(t, "restore", append(failover, "--resume")...)
	r = kubectlDR(t, append(failover, "--resume")...)
	require.Zero(t, r.code)
	assert.Contains(t, r.err, "goes on")
	name := runOf(t, r)

	assert.Equal(t, a.posts(t, ""), recoveredPosts(t, a.Name), "what was written last is there")
	assert.Equal(t, "0", kubectl(t, primary, "-n", a.Name, "get", "deployment/web", "-o", "jsonpath={.spec.replicas}"), "the source is stopped")
	assert.Equal(t, "true", kubectl(t, primary, "-n", "velero", "get", "schedule.velero.io/"+a.Name, "-o", "jsonpath={.spec.paused}"))
	assert.Equal(t, name, on(t, remote, "zfs", "get", "-H", "-o", "value", "io.kubectl-dr:fenced", a.replica()))
	restores := kubectl(t, dr, "-n", "velero", "get", "restores.velero.io", "-l", "kubectl-dr.io/plan="+a.Name, "-o", "name")
	assert.Len(t, strings.Fields(restores), 1, "going on restores nothing twice")
	var run struct {
		Status struct{ RPO string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	assert.Equal(t, "0s", run.Status.RPO, "nothing is lost")

	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "active")
	r = kubectlDR(t, failover...)
	assert.Equal(t, 1, r.code, "what runs there is not overwritten")
	assert.Contains(t, r.err, "holds claims already: data")
}

// killAt runs kubectl dr until it says that a step is running, and kills it.
func killAt(t *testing.T, step string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	argv := drCommand(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var said bytes.Buffer
	reached := false
	for lines := bufio.NewScanner(stderr); !reached && lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		reached = lines.Text() == "running  "+step
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "it was killed")
	t.Logf("kubectl dr %s: killed\n%s", strings.Join(args, " "), said.String())
	require.True(t, reached, "it comes to the step %q", step)
}
