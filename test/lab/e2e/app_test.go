//go:build e2e

package e2e

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
)

const (
	parent   = "znvm/k3s"
	replicas = "backup/replica"
)

// app is an application at the primary site: a namespace with one volume, and
// with a web server unless a test needs only the volume.
type app struct {
	Name   string // of its namespace, schedule and plan
	Volume string
	Parent string // of its volume's dataset
	Kind   string // of its volume, when it is none of OpenEBS on a filesystem
}

func (a app) dataset() string { return a.Parent + "/" + a.Volume }
func (a app) replica() string { return replicas + "/" + a.dataset() }

func (a app) render(t *testing.T, file string) string {
	t.Helper()
	return render(t, file, a)
}

// render fills in one of the templates in testdata.
func render(t *testing.T, file string, values any) string {
	t.Helper()
	parsed, err := template.ParseFiles("testdata/" + file)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, parsed.Execute(&out, values))
	return out.String()
}

// plan is a plan for the application, of any name.
func (a app) plan(t *testing.T, name string) string {
	t.Helper()
	return strings.Replace(a.render(t, "plan.yaml.tmpl"), "metadata: {name: "+a.Name, "metadata: {name: "+name, 1)
}

// newVolume makes a namespace with a volume that nothing runs on, with some data.
func newVolume(t *testing.T, name string) app {
	t.Helper()
	return app{Name: name, Volume: "pvc-" + name, Parent: parent}.newVolume(t, "data")
}

// newVolume makes the application's volume, with some data and that claim.
func (a app) newVolume(t *testing.T, claim string) app {
	t.Helper()
	on(t, hassio, "zfs", "create", "-p", "-o", "mountpoint=legacy", a.dataset())
	a.post(t, 1)
	apply(t, primary, strings.ReplaceAll(a.render(t, "volume.yaml.tmpl"), "name: data", "name: "+claim))
	kubectl(t, primary, "-n", a.Name, "wait", "pvc/"+claim, "--for=jsonpath={.status.phase}=Bound", "--timeout=5m")
	return a
}

// newShape makes a namespace with a volume of another kind, with some data: local
// or hostPath on a dataset, or a zvol of OpenEBS with a file system.
func newShape(t *testing.T, name, kind string) app {
	t.Helper()
	a := app{Name: name, Volume: "pvc-" + name, Parent: parent, Kind: kind}
	if kind == "zvol" {
		on(t, hassio, "sh", "-ec", `zfs create -p -V 64M "$1"
until [ -e "/dev/zvol/$1" ]; do :; done
mkfs.ext4 -q "/dev/zvol/$1"
at=$(mktemp -d); mount "/dev/zvol/$1" "$at"; mkdir "$at/posts"
dd if=/dev/urandom of="$at/.new" bs=1M count=1 2>/dev/null
mv "$at/.new" "$at/posts/$(sha256sum "$at/.new" | cut -d' ' -f1)"; umount "$at"`, "sh", a.dataset())
	} else {
		on(t, hassio, "zfs", "create", "-p", "-o", "mountpoint=/srv/"+name, a.dataset())
		a.post(t, 1)
	}
	apply(t, primary, a.render(t, "shape.yaml.tmpl"))
	kubectl(t, primary, "-n", name, "wait", "pvc/data", "--for=jsonpath={.status.phase}=Bound", "--timeout=5m")
	return a
}

// newApp makes an application that runs, with a schedule whose time never comes
// and a plan at the recovery site.
func newApp(t *testing.T, name string) app {
	t.Helper()
	return app{Name: name, Volume: "pvc-" + name, Parent: parent}.newApp(t)
}

func (a app) newApp(t *testing.T) app {
	t.Helper()
	a, name := a.newVolume(t, "data"), a.Name
	apply(t, primary, a.render(t, "web.yaml.tmpl"))
	velero(t, primary, "schedule", "create", name, "--schedule", "0 0 29 2 *", "--include-namespaces", name, "--volume-snapshot-locations", "zfs")
	apply(t, recovery, a.plan(t, name))
	kubectl(t, primary, "-n", name, "wait", "deployment/web", "--for=condition=Available", "--timeout=8m")
	return a
}

// mounted is where a dataset is mounted on its node, if need be for the time of
// a script.
const mounted = `at=$(findmnt -n -o TARGET -S "$1" | head -n 1)
[ -n "$at" ] || { at=$(mktemp -d); mount -t zfs "$1" "$at"; trap 'cd /; umount "$at"' EXIT; }
mkdir -p "$at/posts"; cd "$at/posts"
`

// post writes random data into a file that is named by its checksum.
func (a app) post(t *testing.T, mib int) {
	t.Helper()
	on(t, hassio, "sh", "-ec", mounted+`dd if=/dev/urandom of=.new bs=1M count="$2" 2>/dev/null
mv .new "$(sha256sum .new | cut -d' ' -f1)"; sync`, "sh", a.dataset(), strconv.Itoa(mib))
}

// posts are the checksums of what was written until a backup of the volume, or
// until now when it is "".
func (a app) posts(t *testing.T, backup string) string {
	t.Helper()
	from := a.dataset()
	if backup != "" {
		from += snapshot(t, backup)
	}
	return on(t, hassio, "sh", "-ec", mounted+"ls", "sh", from)
}

// recoveredPosts are the names of those that a running pod at the recovery site
// has. That each is what its name says, the plan's probe has proved.
func recoveredPosts(t *testing.T, namespace string) string {
	t.Helper()
	return kubectl(t, dr, "-n", namespace, "exec", "deployment/web", "--", "ls", "/data/posts")
}

// backUp takes a backup of the application's schedule, and does not wait for it.
func (a app) backUp(t *testing.T, name string) {
	t.Helper()
	velero(t, primary, "backup", "create", name, "--from-schedule", a.Name)
}

// backUpTo takes a backup into a snapshot location.
func (a app) backUpTo(t *testing.T, location, name string) {
	t.Helper()
	velero(t, primary, "backup", "create", name, "--include-namespaces", a.Name, "--volume-snapshot-locations", location)
}

// phase waits until a backup or a restore has ended, and says how.
func phase(t *testing.T, site, kind, name string) string {
	t.Helper()
	object := kind + ".velero.io/" + name
	kubectl(t, site, "-n", "velero", "wait", object, "--for=jsonpath={.status.completionTimestamp}", "--timeout="+patience.String())
	return kubectl(t, site, "-n", "velero", "get", object, "-o", "jsonpath={.status.phase}")
}

// completed waits for a backup, which has to be good.
func completed(t *testing.T, name string) {
	t.Helper()
	if got := phase(t, primary, "backup", name); got != "Completed" {
		require.Fail(t, "backup "+name+" is "+got, details(t, name))
	}
}

// details is what Velero tells a user about a backup.
func details(t *testing.T, name string) string {
	t.Helper()
	return velero(t, primary, "backup", "describe", name, "--details")
}

// known waits until Velero of the recovery site knows a backup.
func known(t *testing.T, name string) {
	t.Helper()
	kubectl(t, dr, "-n", "velero", "wait", "backup.velero.io/"+name, "--for=create", "--timeout="+patience.String())
	completed := kubectl(t, dr, "-n", "velero", "get", "backup.velero.io/"+name, "-o", "jsonpath={.status.phase}")
	require.Equal(t, "Completed", completed)
}

// snapshot is what a backup's snapshots are called, from the '@' on: its name and
// the beginning of its uid.
func snapshot(t *testing.T, backup string) string {
	t.Helper()
	uid := kubectl(t, primary, "-n", "velero", "get", "backups.velero.io", backup, "-o", "jsonpath={.metadata.uid}")
	return "@dr-" + backup + "-" + uid[:8]
}

func guid(t *testing.T, node, name string) string {
	t.Helper()
	return on(t, node, "zfs", "get", "-Hp", "-o", "value", "guid", name)
}

// requireCopy checks that a backup's snapshot is on both nodes.
func (a app) requireCopy(t *testing.T, backup string) {
	t.Helper()
	require.Equal(t, guid(t, hassio, a.dataset()+snapshot(t, backup)), guid(t, remote, a.replica()+snapshot(t, backup)),
		"backup %s is Completed, so its copy is at the recovery site", backup)
}

// versions lists a dataset's snapshots with their guids.
func versions(t *testing.T, node, dataset string) []string {
	t.Helper()
	return strings.Split(on(t, node, "zfs", "list", "-Hp", "-t", "snapshot", "-d", "1", "-o", "name,guid", dataset), "\n")
}
