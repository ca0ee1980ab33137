//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// metro is a pool over the two disks that both hosts of a stretched rig reach.
const metro = "metro"

// TestStretched has an application on a pool that is mirrored over both sites, with one
// volume that is replicated beside. It moves to the recovery site and home by command.
// While the source lives its pool cannot be taken; when it dies, everything that was
// written is at the recovery site, and comes home once more. The source's host dies of
// it, so it has a rig of its own.
func TestStretched(t *testing.T) {
	on(t, hassio, "sh", "-ec", `disk() { for d in /sys/block/vd*; do [ "$(cat "$d/serial")" != "$1" ] || echo "/dev/${d##*/}1"; done; }
zpool create -o cachefile=none -o multihost=on -o ashift=12 -O mountpoint=none "$1" mirror "$(disk site-a)" "$(disk site-b)"`, "sh", metro)
	a := app{Name: "case-metro", Volume: "pvc-case-metro", Parent: metro + "/k3s"}.newApp(t)
	plan := strings.Replace(a.plan(t, a.Name), "source: {", "source: {stretchedPools: [{pool: metro, source: hassio, recovery: remote}], ", 1)
	require.Contains(t, plan, "stretchedPools")
	apply(t, dr, plan)
	app{Name: a.Name, Volume: a.Volume + "-more", Parent: parent}.newVolume(t, "more")

	a.post(t, 3)
	r := kubectlDR(t, "failover", a.Name, "--planned", "--yes", "--source-kubeconfig", source, "-o", "json")
	require.Zero(t, r.code)
	losesNothing(t, r)
	assert.Equal(t, a.Volume, volumeName(t, dr, a.Name, "data"), "it is the dataset itself")
	assert.NotEqual(t, a.Volume+"-more", volumeName(t, dr, a.Name, "more"), "that one is a clone of its copy")
	assert.Equal(t, "ONLINE", on(t, remote, "zpool", "list", "-H", "-o", "health", metro))
	assert.NotContains(t, on(t, hassio, "zpool", "list", "-H", "-o", "name"), metro)

	written := a.comesHome(t)
	assert.Equal(t, a.Volume, volumeName(t, primary, a.Name, "data"), "it is the volume that was there")
	assert.Equal(t, written, a.posts(t, ""))

	// What is replicated would be as old as its last backup.
	kubectl(t, primary, "-n", a.Name, "delete", "pvc/more")
	a.backUp(t, a.Name+"-1")
	completed(t, a.Name+"-1")
	known(t, a.Name+"-1")

	r = kubectlDR(t, "check", a.Name)
	assert.Contains(t, r.out, "in use by hassio, and node remote sees all its disks")
	failover := []string{"failover", a.Name, "--disaster", "--yes", "-o", "json"}
	r = kubectlDR(t, append(failover, "--source-fenced")...)
	assert.Equal(t, 1, r.code, "the source lives")
	assert.Contains(t, r.err, "hassio (hostid 1) has it imported")
	require.Zero(t, kubectlDR(t, append(failover, "--abandon")...).code)
	assert.Equal(t, "ONLINE", on(t, hassio, "zpool", "list", "-H", "-o", "health", metro))
	assert.NotContains(t, on(t, remote, "zpool", "list", "-H", "-o", "name"), metro)

	a.post(t, 3)
	last := a.posts(t, "")
	require.NotEqual(t, last, a.posts(t, a.Name+"-1"), "no backup has what was written last")
	on(t, hassio, "sh", "-ec", mounted+`echo committed > ../sentinel; sync ../sentinel`, "sh", a.dataset()) // fsync(2), as a database does
	require.NoError(t, lab.Stop(t.Context(), t.Output(), primary, hassio))
	r = kubectlDR(t, failover...)
	require.Zero(t, r.code)
	run := losesNothing(t, r)
	assert.Equal(t, last, recoveredPosts(t, a.Name), "nothing is lost")
	assert.Equal(t, "committed", kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "cat", "/data/sentinel"))
	_, kept, _ := strings.Cut(run.Status.Volumes[0].Kept, ":")
	// What the intent log held came back when the volume was mounted, after that.
	assert.Equal(t, kept, on(t, remote, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", kept), "it was kept before anything wrote")

	r = kubectlDR(t, back("reprotect", a.Name)...)
	assert.Equal(t, 1, r.code, "the source is not back")
	assert.Contains(t, r.err, "source cluster")

	// The host that died comes back, and does not get the pool.
	require.NoError(t, lab.Start(t.Context(), t.Output(), primary, hassio))
	assert.NotContains(t, on(t, hassio, "zpool", "list", "-H", "-o", "name"), metro)
	refused := on(t, hassio, "sh", "-c", `zpool import -d /dev -N -f "$1" 2>&1 && echo imported`+"\ntrue", "sh", metro)
	assert.Contains(t, refused, "pool is imported on host 'remote'")
	assert.Equal(t, last, recoveredPosts(t, a.Name))

	a.comesHome(t)
}

// back is a command of the way back.
func back(verb, name string) []string {
	return []string{verb, name, "--yes", "--source-kubeconfig", lab.Kubeconfig(primary), "-o", "json"}
}

// comesHome writes at the recovery site, and brings the application to the source with
// that. The command is killed while the pool is between the sites. It returns what
// was written so far.
func (a app) comesHome(t *testing.T) string {
	t.Helper()
	kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "sh", "-ec",
		`cd /data/posts; dd if=/dev/urandom of=.new bs=1M count=2; mv .new "$(sha256sum .new | cut -d' ' -f1)"; sync`)
	written := recoveredPosts(t, a.Name)
	r := kubectlDR(t, back("reprotect", a.Name)...)
	require.Zero(t, r.code)
	assert.Contains(t, r.err, "pool metro is ONLINE on node remote, and node hassio sees all its disks")

	killAt(t, "import the stretched pools", back("failback", a.Name)...)
	r = kubectlDR(t, append(back("failback", a.Name), "--resume")...)
	require.Zero(t, r.code)
	losesNothing(t, r)
	assert.Equal(t, written, kubectl(t, primary, "-n", a.Name, "exec", "deployment/web", "--", "ls", "/data/posts"))
	assert.Equal(t, "ONLINE", on(t, hassio, "zpool", "list", "-H", "-o", "health", metro))
	assert.NotContains(t, on(t, remote, "zpool", "list", "-H", "-o", "name"), metro)
	assert.Empty(t, kubectl(t, primary, "-n", "velero", "get", "schedule.velero.io/"+a.Name, "-o", "jsonpath={.spec.paused}"))
	assert.Contains(t, kubectlDR(t, "status", a.Name).out, "the source (epoch ")
	return written
}

// moved is a run that moved a stretched pool.
type moved struct {
	Status struct {
		RPO, RTO string
		Volumes  []struct{ Kept string }
	}
}

func losesNothing(t *testing.T, r result) moved {
	t.Helper()
	var run moved
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	assert.Equal(t, "0s", run.Status.RPO)
	t.Logf("RPO %s, RTO %s", run.Status.RPO, run.Status.RTO)
	return run
}

// volumeName is the PersistentVolume that a claim is bound to.
func volumeName(t *testing.T, site, namespace, claim string) string {
	t.Helper()
	kubectl(t, site, "-n", namespace, "wait", "pvc/"+claim, "--for=jsonpath={.status.phase}=Bound", "--timeout=5m")
	return kubectl(t, site, "-n", namespace, "get", "pvc/"+claim, "-o", "jsonpath={.spec.volumeName}")
}
