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

// TestStretched has an application on a pool that is mirrored over both sites. While
// the source lives its pool cannot be taken; when it dies, everything that was written
// is at the recovery site. The source's host dies of it, so it has a rig of its own.
func TestStretched(t *testing.T) {
	on(t, hassio, "sh", "-ec", `disk() { for d in /sys/block/vd*; do [ "$(cat "$d/serial")" != "$1" ] || echo "/dev/${d##*/}1"; done; }
zpool create -o cachefile=none -o multihost=on -o ashift=12 -O mountpoint=none "$1" mirror "$(disk site-a)" "$(disk site-b)"`, "sh", metro)
	a := app{Name: "case-metro", Volume: "pvc-case-metro", Parent: metro + "/k3s"}.newApp(t)
	plan := strings.Replace(a.plan(t, a.Name), "source: {", "source: {stretchedPools: [{pool: metro, source: hassio, recovery: remote}], ", 1)
	require.Contains(t, plan, "stretchedPools")
	apply(t, dr, plan)
	a.backUp(t, a.Name+"-1")
	completed(t, a.Name+"-1")
	known(t, a.Name+"-1")

	r := kubectlDR(t, "check", a.Name)
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
	var run struct {
		Status struct {
			RPO     string
			Volumes []struct{ Kept string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	assert.Equal(t, "0s", run.Status.RPO)
	assert.Equal(t, last, recoveredPosts(t, a.Name), "nothing is lost")
	assert.Equal(t, "committed", kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "cat", "/data/sentinel"))
	_, kept, _ := strings.Cut(run.Status.Volumes[0].Kept, ":")
	// What the intent log held came back when the volume was mounted, after that.
	assert.Equal(t, kept, on(t, remote, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", kept), "it was kept before anything wrote")

	// The host that died comes back, and does not get the pool.
	require.NoError(t, lab.Start(t.Context(), t.Output(), primary, hassio))
	assert.NotContains(t, on(t, hassio, "zpool", "list", "-H", "-o", "name"), metro)
	refused := on(t, hassio, "sh", "-c", `zpool import -d /dev -N -f "$1" 2>&1 && echo imported`+"\ntrue", "sh", metro)
	assert.Contains(t, refused, "pool is imported on host 'remote'")
	assert.Equal(t, last, recoveredPosts(t, a.Name))
}
