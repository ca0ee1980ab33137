//go:build e2e

package e2e

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBackupAndDrill goes with one application from its first backup to a
// rehearsal. Everything at the recovery site is done by an operator who has the
// role in examples/rbac and no other.
func TestBackupAndDrill(t *testing.T) {
	t.Parallel()
	a := newApp(t, "blog")

	a.post(t, 4)
	a.backUp(t, "blog-1")
	completed(t, "blog-1")
	a.requireCopy(t, "blog-1")

	a.post(t, 2)
	a.backUp(t, "blog-2")
	completed(t, "blog-2")
	a.requireCopy(t, "blog-2")
	requireIncremental(t, a, "blog-1", "blog-2")

	known(t, "blog-2")
	before := look(t)
	t.Run("look", func(t *testing.T) { testLook(t, a) })
	t.Run("wrong input", func(t *testing.T) { testWrongInput(t, a) })
	t.Run("drill", func(t *testing.T) {
		t.Run("kept", func(t *testing.T) { testKeptDrill(t, a) })
		if !testing.Short() {
			t.Run("cleaned up by itself", func(t *testing.T) { testDrill(t, a) })
		}
	})
	// What a drill makes carries the run's name, and so does what it leaves. The
	// backup taken meanwhile is there, in the place of the one before as the one
	// that the next increment starts from.
	var left []string
	for _, change := range changes(before, look(t)) {
		if !a.ofBackups(t, change, "blog-2", "blog-3") {
			left = append(left, change)
		}
	}
	assert.Empty(t, left, "nothing is left or changed")
}

// requireIncremental checks by Velero's own record that a backup moved what had
// changed since the one before, and no more.
func requireIncremental(t *testing.T, a app, before, backup string) {
	t.Helper()
	moved := regexp.MustCompile(`Progress:\s+(\d+) of \d+ complete \(Bytes\)`).FindStringSubmatch(details(t, backup))
	require.NotNil(t, moved, "Velero records what was moved")
	estimate := regexp.MustCompile(`(?m)^size\s+(\d+)`).FindStringSubmatch(
		on(t, hassio, "zfs", "send", "-nvP", "-L", "-e", "-c", "-i", snapshot(t, before), a.dataset()+snapshot(t, backup)))
	require.NotNil(t, estimate, "zfs send tells a size")
	got, err := strconv.ParseFloat(moved[1], 64)
	require.NoError(t, err)
	want, err := strconv.ParseFloat(estimate[1], 64)
	require.NoError(t, err)
	require.InEpsilon(t, want, got, 0.1, "bytes moved, and what zfs send -i says has changed")
}

// testLook checks what the commands that only look answer, and their exit
// statuses.
func testLook(t *testing.T, a app) {
	looked := a.plan(t, "looked-at")
	strict := strings.Replace(looked, "rpo: 30m", "rpo: 1s", 1)
	tests := []struct {
		name string
		plan string // on standard input
		args []string
		code int
		says string
	}{
		{"objective met", "", []string{"rpo", a.Name}, 0, "blog-2"},
		{"objective missed", strict, []string{"rpo", "-f", "-"}, 2, "problem"},
		{"ready, though never rehearsed", looked, []string{"check", "-f", "-"}, 0, "there was none: whether this plan works is not known"},
		{"a warning with --strict", looked, []string{"check", "-f", "-", "--strict"}, 2, "there was none"},
		{"status", "", []string{"status", a.Name}, 0, "standby"},
		{"dry run", looked, []string{"drill", "-f", "-", "--dry-run"}, 0, "have Velero restore"},
		{"out of time", "", []string{"check", a.Name, "--timeout=1ms"}, 124, "--timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := kubectlDRWith(t, tt.plan, tt.args...)
			assert.Equal(t, tt.code, r.code)
			assert.Contains(t, r.all(), tt.says)
		})
	}
}

// testKeptDrill rehearses while a backup is under way, which goes on: what the
// drill made is kept until it is removed by name.
func testKeptDrill(t *testing.T, a app) {
	t.Parallel()
	a.post(t, 12)
	a.backUp(t, "blog-3")
	r := kubectlDR(t, "drill", a.Name, "--keep", "--backup=blog-2", "-o", "json")
	require.Zero(t, r.code)
	name := runOf(t, r)
	completed(t, "blog-3")
	a.requireCopy(t, "blog-3")
	namespaces := strings.Fields(kubectl(t, dr, "get", "namespaces", "-l", "kubectl-dr.io/run="+name, "-o", "jsonpath={.items[*].metadata.name}"))
	require.Len(t, namespaces, 1)
	assert.Equal(t, a.posts(t, "blog-2"), recoveredPosts(t, namespaces[0]), "the drill has what was backed up")
	require.Zero(t, kubectlDR(t, "drill", "cleanup", name).code)
	require.Zero(t, kubectlDR(t, "drill", "cleanup", name).code, "it can be repeated")
}

// testDrill rehearses another plan for the same application at the same time. Its
// report outlives the cluster's record of it.
func testDrill(t *testing.T, a app) {
	t.Parallel()
	r := kubectlDRWith(t, a.plan(t, "beside"), "drill", "-f", "-", "--backup=blog-2", "-o", "json")
	require.Zero(t, r.code)
	name := runOf(t, r)
	assert.Contains(t, r.err, "the report is kept in archive offsite of ")
	before := kubectlDR(t, "report", name)
	require.Zero(t, before.code)
	kubectl(t, dr, "-n", "velero", "delete", "recoveryrun.kubectl-dr.io/"+name)
	lost := kubectlDR(t, "report", name)
	assert.Equal(t, 1, lost.code)
	assert.Contains(t, lost.err, "--archived")
	alone := []string{"--agents=" + hassio + "=" + lab.AgentAddress(hassio), "--agent-credentials=" + lab.PKI().Bundle("kubectl-dr")}
	for _, agents := range [][]string{nil, alone} {
		after := kubectlDR(t, append([]string{"report", name, "--archived"}, agents...)...)
		require.Zero(t, after.code)
		assert.Equal(t, before.out, after.out)
	}
}

// ofBackups reports whether a change is one that taking backups makes: to what
// bears their names, and to the lease by which the source's agent keeps what a
// target needs, which each transfer renews.
func (a app) ofBackups(t *testing.T, change string, backups ...string) bool {
	t.Helper()
	if strings.HasPrefix(change[2:], hassio+" "+a.dataset()+" io.kubectl-dr:target:") {
		return true
	}
	for _, b := range backups {
		if strings.Contains(change, b) {
			return true
		}
		// Bookmarks are named by guid.
		n, err := strconv.ParseUint(guid(t, hassio, a.dataset()+snapshot(t, b)), 10, 64)
		require.NoError(t, err)
		if strings.Contains(change, "_"+strconv.FormatUint(n, 16)) {
			return true
		}
	}
	return false
}

// runOf is the name of the run that a command reports, which has passed.
func runOf(t *testing.T, r result) string {
	t.Helper()
	var run struct {
		Metadata struct{ Name string }
		Status   struct{ Phase string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	require.Equal(t, "Passed", run.Status.Phase)
	return run.Metadata.Name
}
