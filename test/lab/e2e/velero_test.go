//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestVeleroDies kills Velero's server, and its plugins with it, while a copy is
// under way. Started again it goes on waiting for that copy. Other tests would
// lose their backups with the server, so this one runs before them.
func TestVeleroDies(t *testing.T) {
	way := newGate(t, lab.AgentAddress(remote), 1)
	a := newVolume(t, "case-dies")
	copyLocation(t, a.Name, []string{"spec", "config", "targetAddress"}, way.address())
	a.backUpTo(t, a.Name, a.Name)
	kubectl(t, primary, "-n", "velero", "wait", "backup.velero.io/"+a.Name, "--for=jsonpath={.status.phase}=WaitingForPluginOperations",
		"--timeout="+patience.String())
	require.NoError(t, lab.Stop(t.Context(), t.Output(), "primary/velero"))
	require.NoError(t, lab.Start(t.Context(), t.Output(), "primary/velero"))
	way.open()
	completed(t, a.Name)
	a.requireCopy(t, a.Name)
}

// TestManyAtOnce backs up five namespaces at once, and deletes one backup again:
// each has its own snapshot and copy, and only the deleted one's goes.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var apps []app
	for i := range 5 {
		apps = append(apps, newVolume(t, fmt.Sprint("case-many-", i)))
	}
	for _, a := range apps {
		a.backUpTo(t, "zfs", a.Name)
	}
	for _, a := range apps {
		completed(t, a.Name)
		a.requireCopy(t, a.Name)
		assert.Len(t, versions(t, hassio, a.dataset()), 1)
	}

	gone := apps[0]
	known(t, gone.Name)
	taken := gone.dataset() + snapshot(t, gone.Name)
	velero(t, primary, "backup", "delete", gone.Name, "--confirm")
	for _, site := range []string{primary, dr} {
		kubectl(t, site, "-n", "velero", "wait", "backup.velero.io/"+gone.Name, "--for=delete", "--timeout="+patience.String())
	}
	assert.NotContains(t, on(t, hassio, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-r", parent), taken)
	assert.Len(t, versions(t, remote, gone.replica()), 1, "the copy that the next increment starts from stays")
	for _, a := range apps[1:] {
		a.requireCopy(t, a.Name)
	}
}

// TestRestoreBeside restores a backup into another namespace of the cluster it
// was made in, from the snapshot that is still there.
func TestRestoreBeside(t *testing.T) {
	t.Parallel()
	a := newVolume(t, "case-beside")
	a.backUpTo(t, "zfs", a.Name)
	completed(t, a.Name)
	a.post(t, 1)

	velero(t, primary, "restore", "create", a.Name, "--from-backup", a.Name, "--namespace-mappings", a.Name+":"+a.Name+"-2")
	require.Equal(t, "Completed", phase(t, primary, "restore", a.Name), velero(t, primary, "restore", "describe", a.Name))
	kubectl(t, primary, "-n", a.Name+"-2", "wait", "pvc/data", "--for=jsonpath={.status.phase}=Bound", "--timeout="+patience.String())
	volume := kubectl(t, primary, "-n", a.Name+"-2", "get", "pvc/data", "-o", "jsonpath={.spec.volumeName}")
	handle := kubectl(t, primary, "get", "pv", volume, "-o", "jsonpath={.spec.csi.volumeAttributes.openebs\\.io/poolname}/{.spec.csi.volumeHandle}")
	restored := app{Name: a.Name + "-2", Parent: handle[:strings.LastIndex(handle, "/")], Volume: handle[strings.LastIndex(handle, "/")+1:]}
	assert.Equal(t, a.dataset()+snapshot(t, a.Name), on(t, hassio, "zfs", "get", "-H", "-o", "value", "origin", restored.dataset()), "nothing is copied")
	assert.Equal(t, a.posts(t, a.Name), restored.posts(t, ""), "it has what was backed up")
	assert.NotEqual(t, a.posts(t, ""), restored.posts(t, ""), "and not what came later")
}
