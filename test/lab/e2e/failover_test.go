//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
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
	assert.Equal(t, 2, r.code, "there is no restore point yet")
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
	assert.Equal(t, name+" Passed", kubectl(t, primary, "-n", "velero", "get", "recoveryruns.kubectl-dr.io", "-l", "kubectl-dr.io/copy=true,kubectl-dr.io/plan="+a.Name,
		"-o", "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{end}"), "the source has a copy of the report")
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

	if !testing.Short() {
		a.rollBack(t)
		r = kubectlDR(t, failover...)
		require.Zero(t, r.code, "what was put away is in nobody's way: %s", r.all())
		a.failBack(t)
	}
}

// rollBack undoes a failover after something was written at the recovery site. The
// command is killed before the source is started, and while it is.
func (a app) rollBack(t *testing.T) {
	t.Helper()
	before := a.posts(t, "")
	a.postRecovered(t)
	written := recoveredPosts(t, a.Name)
	require.NotEqual(t, before, written)
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "not committed")
	rollback := []string{"rollback", a.Name, "--yes", "--source-kubeconfig", lab.Kubeconfig(primary), "-o", "json"}

	killAt(t, "keep what was written", rollback...)
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "rolling back")
	killAt(t, "start web", append(rollback, "--resume")...)
	r := kubectlDR(t, append(rollback, "--resume")...)
	require.Zero(t, r.code, r.all())
	var run struct {
		Status struct {
			Volumes []struct {
				Kept    string
				Changed uint64
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	v := run.Status.Volumes[0]
	assert.Greater(t, v.Changed, uint64(2<<20))
	assert.Less(t, v.Changed, uint64(4<<20), "what was there before the failover does not count")
	_, kept, _ := strings.Cut(v.Kept, ":")
	assert.Equal(t, written, on(t, remote, "sh", "-ec", mounted+"ls", "sh", kept), "what was written is kept under the run's name")
	assert.Equal(t, before, kubectl(t, primary, "-n", a.Name, "exec", "deployment/web", "--", "ls", "/data/posts"), "the source goes on where it stopped")
	assert.Empty(t, kubectl(t, primary, "-n", "velero", "get", "schedule.velero.io/"+a.Name, "-o", "jsonpath={.spec.paused}"))
	assert.Equal(t, "-", on(t, remote, "zfs", "get", "-H", "-o", "value", "io.kubectl-dr:fenced", a.replica()), "the source replicates again")
	assert.Empty(t, kubectl(t, dr, "get", "namespace", a.Name, "--ignore-not-found", "-o", "name"))
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "the source (epoch 2)")
}

// postRecovered writes random data at the recovery site.
func (a app) postRecovered(t *testing.T) {
	t.Helper()
	kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "sh", "-ec",
		`cd /data/posts; dd if=/dev/urandom of=.new bs=1M count=2; mv .new "$(sha256sum .new | cut -d' ' -f1)"; sync`)
}

// failBack brings an application that was moved to the recovery site home, after
// both sites have gone on by themselves. The command is killed on the way.
func (a app) failBack(t *testing.T) {
	t.Helper()
	before := a.posts(t, "")
	a.post(t, 1)
	diverged := a.posts(t, "")
	a.postRecovered(t)
	written := recoveredPosts(t, a.Name)
	require.NotEqual(t, before, written)
	back := func(verb string) []string {
		return []string{verb, a.Name, "--yes", "--source-kubeconfig", lab.Kubeconfig(primary), "-o", "json"}
	}

	killAt(t, "first backup the other way", back("reprotect")...)
	r := kubectlDR(t, append(back("reprotect"), "--resume")...)
	require.Zero(t, r.code)
	var run struct {
		Status struct {
			RPO     string
			Volumes []struct {
				Node, Snapshot, Kept string
				Changed, Diverged    uint64
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	v := run.Status.Volumes[0]
	assert.Greater(t, v.Diverged, uint64(1<<20))
	assert.Greater(t, v.Changed, uint64(2<<20))
	assert.Less(t, v.Changed, uint64(4<<20), "what was there before the failover does not count")
	assert.Equal(t, hassio, v.Node)
	copied, _, _ := strings.Cut(v.Snapshot, "@")
	assert.Contains(t, on(t, hassio, "zfs", "get", "-H", "-o", "value", "origin", copied), a.dataset()+"@", "only what has changed was sent")
	used, err := strconv.Atoi(on(t, hassio, "zfs", "get", "-Hp", "-o", "value", "used", copied))
	require.NoError(t, err)
	assert.Less(t, used, 4<<20, "bytes of its own")
	assert.Equal(t, diverged, a.posts(t, ""), "the volume that the failover left is as it was")
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "kubectl dr failback")

	killAt(t, "restore", back("failback")...)
	r = kubectlDR(t, append(back("failback"), "--resume")...)
	require.Zero(t, r.code)
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	assert.Equal(t, "0s", run.Status.RPO, "nothing is lost")
	assert.Equal(t, written, kubectl(t, primary, "-n", a.Name, "exec", "deployment/web", "--", "ls", "/data/posts"))
	assert.Equal(t, diverged, on(t, hassio, "sh", "-ec", mounted+"ls", "sh", v.Kept), "what diverged is kept under the run's name")
	assert.Empty(t, kubectl(t, primary, "-n", "velero", "get", "schedule.velero.io/"+a.Name, "-o", "jsonpath={.spec.paused}"))
	r = kubectlDR(t, "status", a.Name)
	assert.Contains(t, r.out, "the source (epoch 5)")
}

// killAt runs kubectl dr until it says that a step is running, and kills it.
func killAt(t *testing.T, step string, args ...string) {
	t.Helper()
	r, killed := killWhen(t, func(line string) bool { return line == "running  "+step }, args...)
	require.True(t, killed, "it comes to the step %q: %s", step, r.all())
}

// killWhen runs kubectl dr as the operator, and kills it once it says a line of
// which that is wanted. It reports whether it came to one.
func killWhen(t *testing.T, wanted func(line string) bool, args ...string) (r result, killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	argv := drCommand(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, said bytes.Buffer
	cmd.Stdout = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !killed && wanted(lines.Text()) {
			killed = true
			require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
		}
	}
	_ = cmd.Wait()
	require.NoError(t, ctx.Err(), said.String())
	r = result{out.String(), said.String(), cmd.ProcessState.ExitCode()}
	how := "killed"
	if !killed {
		how = fmt.Sprintf("exit status %d", r.code)
	}
	t.Logf("kubectl dr %s: %s\n%s", strings.Join(args, " "), how, r.err)
	require.NotContains(t, r.all(), "forbidden", "the roles in examples/rbac allow all that is needed")
	return r, killed
}
