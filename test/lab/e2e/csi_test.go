//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// snapshotDefinitions has the CustomResourceDefinitions of snapshots.
const snapshotDefinitions = "github.com/kubernetes-csi/external-snapshotter/client/v8@v8.4.0"

// TestCSI rehearses an application whose volume is not on ZFS and has a CSI driver that
// takes snapshots. Velero leaves them with the driver, or moves what they hold to object
// storage. With the feature it takes Velero takes no snapshots of ours of volumes of CSI
// drivers, so it runs before other tests.
func TestCSI(t *testing.T) {
	const name, kept, moved = "case-csi", "case-csi-kept", "case-csi-moved"
	runNodeAgents(t, name)
	runDriver(t, name)
	enableCSI(t)
	a := app{Name: name}
	apply(t, primary, a.render(t, "claim.yaml.tmpl")+"---\n"+a.render(t, "web.yaml.tmpl"))
	t.Cleanup(func() { forget(t, primary, name) })
	kubectl(t, primary, "-n", name, "wait", "deployment/web", "--for=condition=Available", "--timeout="+patience.String())
	post := func() {
		t.Helper()
		kubectl(t, primary, "-n", name, "exec", "deployment/web", "--", "sh", "-ec", `cd /data/posts
dd if=/dev/urandom of=.new bs=1M count=2 2>/dev/null; mv .new "$(sha256sum .new | cut -d' ' -f1)"`)
	}
	posts := func(site, namespace string) string {
		t.Helper()
		return kubectl(t, site, "-n", namespace, "exec", "deployment/web", "--", "ls", "/data/posts")
	}
	plan := func(schedule string) string {
		return strings.Replace(a.plan(t, schedule), "schedule: "+name, "schedule: "+schedule, 1)
	}
	backUp := func(schedule, backup string, flags ...string) (held string) {
		t.Helper()
		post()
		held = posts(primary, name)
		velero(t, primary, append([]string{"schedule", "create", schedule, "--schedule", "0 0 29 2 *", "--include-namespaces", name, "--storage-location", name}, flags...)...)
		velero(t, primary, "backup", "create", backup, "--from-schedule", schedule)
		completed(t, backup)
		known(t, backup)
		post()
		return held
	}

	t.Run("a snapshot that stays with its driver", func(t *testing.T) {
		const backup = kept + "-1"
		held := backUp(kept, backup)
		apply(t, dr, plan(kept))
		v := volumeOf(t, kept)
		assert.Equal(t, backup, v.Backup)
		assert.Equal(t, "CSISnapshot", v.Method)
		assert.Contains(t, v.Message, "its snapshot is at the source")
		r := kubectlDR(t, "check", kept)
		assert.Contains(t, r.out, "claim "+name+"/data: its snapshot stays with the source's storage")

		// At the source it is good for as long as its storage is.
		apply(t, primary, strings.Replace(plan(kept), "profiles: {drill: recovery, failover: recovery, failback: home}", "profiles: {}", 1))
		atSource := func(args ...string) result {
			t.Helper()
			r := run(t.Context(), "", append(append([]string{"kubectl", "dr"}, args...), "--kubeconfig", lab.Kubeconfig(primary))...)
			require.Zero(t, r.code, r.all())
			return r
		}
		drill := runOf(t, atSource("drill", kept, "--keep", "-o", "json"))
		assert.Equal(t, held, posts(primary, namespaceOf(t, primary, drill)), "the drill has what was backed up")
		atSource("drill", "cleanup", drill)
		requireNoSnapshots(t)
	})

	t.Run("data that is moved", func(t *testing.T) {
		const backup = moved + "-1"
		held := backUp(moved, backup, "--snapshot-move-data")
		apply(t, dr, plan(moved))
		v := volumeOf(t, moved)
		assert.Equal(t, backup, v.Backup)
		assert.Equal(t, "DataUpload", v.Method)
		assert.Empty(t, v.Message)
		began := kubectl(t, primary, "-n", "velero", "get", "backup.velero.io/"+backup, "-o", "jsonpath={.status.startTimestamp}")
		assert.Equal(t, began, v.SnapshotAt.Format(time.RFC3339), "Velero does not record when it took the snapshot")

		r := kubectlDR(t, "check", moved)
		assert.Equal(t, 2, r.code)
		assert.Contains(t, r.out, "problem  node for data: Velero's pods that bring back the data of "+name+"/data tolerate no taint")
		kubectl(t, dr, "taint", "node", remote, "dedicated-")
		t.Cleanup(func() {
			_, err := prepared("kubectl", "--context", dr, "taint", "node", remote, "dedicated=remote:NoSchedule")
			assert.NoError(t, err)
		})
		r = kubectlDR(t, "check", moved)
		require.Zero(t, r.code, r.all())
		assert.Contains(t, r.out, "node-agent: ready on 1 node")

		r = kubectlDR(t, "drill", moved, "--keep", "-o", "json")
		require.Zero(t, r.code, r.all())
		drill := runOf(t, r)
		assert.Equal(t, held, posts(dr, namespaceOf(t, dr, drill)), "the drill has what was backed up")
		require.Zero(t, kubectlDR(t, "drill", "cleanup", drill).code)
		assert.Empty(t, volumesOfClass(t, dr, name), "the driver has deleted what it made for the drill")

		t.Cleanup(func() { forget(t, dr, name) })
		r = kubectlDR(t, "failover", moved, "--disaster", "--accept-data-loss=1h", "--yes")
		require.Zero(t, r.code, r.all())
		assert.Equal(t, held, posts(dr, name), "the failover has what was backed up")
		requireNoSnapshots(t)
	})
}

// volumeOf is what rpo knows of a plan's only volume.
func volumeOf(t *testing.T, plan string) (v struct {
	Backup, Method, Message string
	SnapshotAt              time.Time
}) {
	t.Helper()
	r := kubectlDR(t, "rpo", plan, "-o", "json")
	require.Zero(t, r.code, r.all())
	var rpo struct{ Volumes []json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(r.out), &rpo))
	require.Len(t, rpo.Volumes, 1)
	require.NoError(t, json.Unmarshal(rpo.Volumes[0], &v))
	return v
}

// namespaceOf is the only one of a drill.
func namespaceOf(t *testing.T, site, drill string) string {
	t.Helper()
	return kubectl(t, site, "get", "namespaces", "-l", "kubectl-dr.io/run="+drill, "-o", "jsonpath={.items[*].metadata.name}")
}

// volumesOfClass are the names of a storage class's volumes.
func volumesOfClass(t *testing.T, site, class string) string {
	t.Helper()
	return kubectl(t, site, "get", "persistentvolumes", "-o", `jsonpath={.items[?(@.spec.storageClassName=="`+class+`")].metadata.name}`)
}

// requireNoSnapshots checks that neither cluster has one: drivers keep those of backups
// without.
func requireNoSnapshots(t *testing.T) {
	t.Helper()
	for _, site := range []string{primary, dr} {
		require.Empty(t, kubectl(t, site, "get", "volumesnapshots,volumesnapshotcontents", "--all-namespaces", "-o", "name"), site)
	}
}

// forget removes an application and its volumes, of the storage class of its name, as
// long as there is a driver.
func forget(t *testing.T, site, name string) {
	t.Helper()
	_, err := prepared("kubectl", "--context", site, "delete", "namespace", name, "--ignore-not-found")
	assert.NoError(t, err)
	volumes, err := prepared("kubectl", "--context", site, "get", "persistentvolumes", "-o", `jsonpath={.items[?(@.spec.storageClassName=="`+name+`")].metadata.name}`)
	assert.NoError(t, err)
	for _, volume := range strings.Fields(volumes) {
		_, err := prepared("kubectl", "--context", site, "delete", "persistentvolume", volume, "--ignore-not-found")
		assert.NoError(t, err)
	}
}

// enableCSI has Velero's servers take CSI snapshots until the test ends.
func enableCSI(t *testing.T) {
	t.Helper()
	const feature = "EnableCSI"
	// The servers run beside their clusters; there, this is all that tells.
	tell := func(args string) error {
		_, err := prepared("kubectl", "--context", dr, "-n", "velero", "patch", "deployment", "velero", "-p",
			`{"spec": {"template": {"spec": {"containers": [{"name": "velero", "args": `+args+`}]}}}}`)
		return err
	}
	require.NoError(t, lab.SetFeatures(t.Context(), t.Output(), feature))
	t.Cleanup(func() { assert.NoError(t, lab.SetFeatures(context.Background(), t.Output())) })
	require.NoError(t, tell(`["server", "--features=`+feature+`"]`))
	t.Cleanup(func() { assert.NoError(t, tell("null")) })
}

// runDriver runs a CSI driver on both nodes until the test ends, with a storage class
// of a name. The ones of the two nodes know nothing of each other's snapshots.
func runDriver(t *testing.T, name string) {
	t.Helper()
	const driverImage = "docker.io/local/csi:1"
	sidecars := map[string]string{
		"csi-provisioner": "--csi-address=/csi/csi.sock, --extra-create-metadata",
		"csi-snapshotter": "--csi-address=/csi/csi.sock",
	}
	importImage(t, driverImage, "folders", "csi-provisioner", "csi-snapshotter")
	programs, err := build.Programs(t.Context(), build.Options{}, "snapshot-controller")
	require.NoError(t, err)
	definitions := filepath.Join(beside.Module(t, snapshotDefinitions), "config", "crd")
	for _, site := range []string{primary, dr} {
		kubectl(t, site, "apply", "-k", definitions)
		t.Cleanup(func() {
			_, err := prepared("kubectl", "--context", site, "delete", "-k", definitions)
			assert.NoError(t, err)
		})
		kubectl(t, site, "wait", "crd/volumesnapshots.snapshot.storage.k8s.io", "crd/volumesnapshotclasses.snapshot.storage.k8s.io",
			"crd/volumesnapshotcontents.snapshot.storage.k8s.io", "--for=condition=Established", "--timeout=1m")
		beside.Start(t, nil, programs["snapshot-controller"], "--kubeconfig="+lab.Kubeconfig(site))
		values := map[string]any{
			"Name": name, "Driver": name + ".example.com", "Image": driverImage, "Sidecars": sidecars,
			"Host": vm.HostAddress, "Port": serverPort(t, site), "BindingMode": "WaitForFirstConsumer",
		}
		if site == dr {
			// Data comes back before pods are started.
			values["BindingMode"] = "Immediate"
		}
		objects := render(t, "csi.yaml.tmpl", values)
		apply(t, site, objects)
		t.Cleanup(func() {
			r := run(context.Background(), objects, "kubectl", "--context", site, "delete", "-f", "-")
			assert.Zero(t, r.code, r.all())
		})
	}
	for _, site := range []string{primary, dr} {
		kubectl(t, site, "-n", name+"-driver", "rollout", "status", "daemonset/driver", "--timeout="+patience.String())
	}
}
