//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
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

// TestPluginDies kills the plugin's process in the midst of calls of Velero's
// server. Velero fails what it called for, and starts the plugin again for the
// next: nothing that is left is in its way.
func TestPluginDies(t *testing.T) {
	agents, target := newGate(t, lab.AgentAddress(hassio), -1), newGate(t, lab.AgentAddress(remote), 1)
	const killed, waiting = "case-killed", "case-waiting"
	through := func(config map[string]any) {
		config["agents"] = "hassio=" + agents.local() + ",remote=" + lab.AgentAddress(remote)
	}
	otherLocation(t, primary, killed, func(location map[string]any) {
		through(location["spec"].(map[string]any)["config"].(map[string]any))
	})
	otherLocation(t, primary, waiting, func(location map[string]any) {
		config := location["spec"].(map[string]any)["config"].(map[string]any)
		through(config)
		config["targetAddress"] = target.address()
	})
	for _, location := range []string{killed, waiting} {
		t.Cleanup(func() {
			_, err := prepared("kubectl", "--context", primary, "-n", "velero", "delete", "volumesnapshotlocation.velero.io/"+location)
			assert.NoError(t, err)
		})
	}
	a := newVolume(t, killed)
	taken := func(backup string) bool {
		return strings.Contains(strings.Join(versions(t, hassio, a.dataset()), " "), snapshot(t, backup))
	}
	failed := func(backup, says string) {
		t.Helper()
		assert.Equal(t, "PartiallyFailed", phase(t, primary, "backup", backup))
		assert.Contains(t, velero(t, primary, "backup", "logs", backup), says)
	}

	inCall := func(call func()) {
		t.Helper()
		called, resume := agents.hold()
		call()
		awaitClosed(t, called)
		killPlugin(t)
		resume()
	}
	inCall(func() { a.backUpTo(t, killed, killed+"-info") })
	failed(killed+"-info", "error getting volume info")
	assert.False(t, taken(killed+"-info"))

	log := lab.Log("primary/velero")
	at := size(t, log)
	a.backUpTo(t, killed, killed+"-snapshot")
	awaitLine(t, log, at, "Snapshotting persistent volume")
	killPlugin(t)
	failed(killed+"-snapshot", "error taking snapshot of volume")
	unrecorded := snapshot(t, killed+"-snapshot")
	velero(t, primary, "backup", "delete", killed+"-snapshot", "--confirm")

	a.backUpTo(t, waiting, killed+"-copy")
	kubectl(t, primary, "-n", "velero", "wait", "backup.velero.io/"+killed+"-copy", "--for=jsonpath={.status.phase}=WaitingForPluginOperations",
		"--timeout="+patience.String())
	inCall(func() {})
	assert.Equal(t, "PartiallyFailed", phase(t, primary, "backup", killed+"-copy"))
	target.open()

	kubectl(t, primary, "-n", "velero", "wait", "backup.velero.io/"+killed+"-snapshot", "--for=delete", "--timeout="+patience.String())
	assert.NotContains(t, strings.Join(versions(t, hassio, a.dataset()), " "), unrecorded, "what Velero does not know of goes with its backup")

	a.backUpTo(t, killed, killed+"-good")
	completed(t, killed+"-good")
	a.requireCopy(t, killed+"-good")
	a.requireCopy(t, killed+"-copy")

	restore := func(name string) {
		velero(t, primary, "restore", "create", name, "--from-backup", killed+"-good", "--namespace-mappings", killed+":"+name)
	}
	inCall(func() { restore(killed + "-1") })
	assert.Equal(t, "PartiallyFailed", phase(t, primary, "restore", killed+"-1"))
	restore(killed + "-2")
	assert.Equal(t, "Completed", phase(t, primary, "restore", killed+"-2"), velero(t, primary, "restore", "describe", killed+"-2"))

	remove := func() { velero(t, primary, "backup", "delete", killed+"-good", "--confirm") }
	inCall(remove)
	eventually(t, "the deletion has failed", func() (bool, string) {
		seen := kubectl(t, primary, "-n", "velero", "get", "deletebackuprequests.velero.io", "-l", "velero.io/backup-name="+killed+"-good",
			"-o", "jsonpath={.items[*].status}")
		return strings.Contains(seen, "error deleting snapshot"), seen
	})
	assert.True(t, taken(killed+"-good"), "the backup is whole")
	remove()
	kubectl(t, primary, "-n", "velero", "wait", "backup.velero.io/"+killed+"-good", "--for=delete", "--timeout="+patience.String())
}

// killPlugin kills every process of the plugin that Velero's server of the primary
// site has started.
func killPlugin(t *testing.T) {
	t.Helper()
	processes, err := lab.Processes("primary/velero")
	require.NoError(t, err)
	killed := 0
	for _, p := range processes {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		if err == nil && filepath.Base(exe) == "velero-plugin-zfs-dr" && syscall.Kill(p.PID, syscall.SIGKILL) == nil {
			killed++
		}
	}
	require.NotZero(t, killed, "there was a process")
}

func awaitClosed(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(t, "there was no call")
	}
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	require.NoError(t, err)
	return info.Size()
}

// awaitLine waits until a log has a line that contains a text, after an offset.
func awaitLine(t *testing.T, file string, from int64, text string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Seek(from, io.SeekStart)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := ""
	require.True(t, proc.Poll(ctx, time.Millisecond, func() bool {
		more, err := io.ReadAll(f)
		seen += string(more)
		return err != nil || strings.Contains(seen, text)
	}), "%s has %q", file, text)
}

// TestManyAtOnce backs up five namespaces with volumes of four kinds at once, and
// lets one backup expire: each has its own snapshot and copy, those of one namespace
// are of one moment, and only those of the expired one go. In the long form the rarer
// kinds are restored at the recovery site, where a pod finds in them what was there.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	apps := []app{newVolume(t, "case-many-0"), newVolume(t, "case-many-1")}
	for _, kind := range []string{"local", "hostPath", "zvol"} {
		apps = append(apps, newShape(t, "case-many-"+strings.ToLower(kind), kind))
	}
	second := app{Name: apps[1].Name, Volume: apps[1].Volume + "-second", Parent: parent}.newVolume(t, "second")
	for _, a := range apps {
		a.backUpTo(t, "zfs", a.Name)
	}
	for _, a := range apps {
		completed(t, a.Name)
		a.requireCopy(t, a.Name)
		assert.Len(t, versions(t, hassio, a.dataset()), 1)
	}
	second.requireCopy(t, second.Name)
	moment := func(a app) string {
		return on(t, hassio, "zfs", "get", "-Hp", "-o", "value", "createtxg", a.dataset()+snapshot(t, a.Name))
	}
	assert.Equal(t, moment(apps[1]), moment(second))

	gone := apps[0]
	known(t, gone.Name)
	taken := gone.dataset() + snapshot(t, gone.Name)
	kubectl(t, primary, "-n", "velero", "patch", "backup.velero.io/"+gone.Name, "--type=merge", `--patch={"status":{"expiration":"2020-01-01T00:00:00Z"}}`)
	for _, site := range []string{primary, dr} {
		kubectl(t, site, "-n", "velero", "wait", "backup.velero.io/"+gone.Name, "--for=delete", "--timeout="+patience.String())
	}
	assert.NotContains(t, on(t, hassio, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-r", parent), taken)
	assert.Len(t, versions(t, remote, gone.replica()), 1, "the copy that the next increment starts from stays")
	for _, a := range apps[1:] {
		a.requireCopy(t, a.Name)
	}
	if testing.Short() {
		return
	}
	for _, a := range apps[2:] {
		known(t, a.Name)
		velero(t, dr, "restore", "create", a.Name, "--from-backup", a.Name)
	}
	for _, a := range apps[2:] {
		require.Equal(t, "Completed", phase(t, dr, "restore", a.Name), velero(t, dr, "restore", "describe", a.Name))
		apply(t, dr, a.render(t, "reader.yaml.tmpl"))
	}
	for _, a := range apps[2:] {
		kubectl(t, dr, "-n", a.Name, "wait", "pod/reader", "--for=jsonpath={.status.phase}=Succeeded", "--timeout="+patience.String())
		assert.Equal(t, 1, strings.Count(kubectl(t, dr, "-n", a.Name, "logs", "pod/reader"), ": OK"), a.Kind)
	}
}

// TestRestoreByHand restores a backup in the cluster it was made in, from the
// snapshot that is still there: into another namespace, into its own where
// everything is there, and where the claim has gone.
func TestRestoreByHand(t *testing.T) {
	t.Parallel()
	a := newVolume(t, "case-hand")
	a.backUpTo(t, "zfs", a.Name)
	completed(t, a.Name)
	a.post(t, 1)
	restore := func(name string, args ...string) {
		t.Helper()
		velero(t, primary, append([]string{"restore", "create", name, "--from-backup", a.Name}, args...)...)
		require.Equal(t, "Completed", phase(t, primary, "restore", name), velero(t, primary, "restore", "describe", name))
	}
	requireRestored := func(namespace string) {
		t.Helper()
		r := restored(t, namespace)
		assert.Equal(t, a.dataset()+snapshot(t, a.Name), on(t, hassio, "zfs", "get", "-H", "-o", "value", "origin", r.dataset()), "nothing is copied")
		assert.Equal(t, a.posts(t, a.Name), r.posts(t, ""), "it has what was backed up")
		assert.NotEqual(t, a.posts(t, ""), r.posts(t, ""), "and not what came later")
	}

	restore("case-hand-beside", "--namespace-mappings", a.Name+":case-hand-beside")
	requireRestored("case-hand-beside")

	restore("case-hand-there")
	assert.Contains(t, velero(t, primary, "restore", "describe", "case-hand-there"), "PersistentVolumeClaim:data already exists")
	assert.Equal(t, a.dataset(), restored(t, a.Name).dataset(), "what is there stays")

	kubectl(t, primary, "-n", a.Name, "delete", "pvc/data")
	kubectl(t, primary, "delete", "pv/"+a.Volume)
	restore("case-hand-gone", "--existing-resource-policy=update")
	requireRestored(a.Name)
}

// restored is the volume that a namespace's claim has at the primary site.
func restored(t *testing.T, namespace string) app {
	t.Helper()
	kubectl(t, primary, "-n", namespace, "wait", "pvc/data", "--for=jsonpath={.status.phase}=Bound", "--timeout="+patience.String())
	volume := kubectl(t, primary, "-n", namespace, "get", "pvc/data", "-o", "jsonpath={.spec.volumeName}")
	dataset := kubectl(t, primary, "get", "pv", volume, "-o", "jsonpath={.spec.csi.volumeAttributes.openebs\\.io/poolname}/{.spec.csi.volumeHandle}")
	return app{Name: namespace, Parent: path.Dir(dataset), Volume: path.Base(dataset)}
}
