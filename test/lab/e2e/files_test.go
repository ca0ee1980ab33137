//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/image"
	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// TestFileSystemBackup rehearses an application whose volume is not on ZFS: Velero's
// node-agent backs its files up from the pod and restores them into one. kubectl dr
// knows of them what Velero recorded. Other tests have no need of the node-agents, so
// it runs before them.
func TestFileSystemBackup(t *testing.T) {
	const name, backup, folder = "case-files", "case-files-1", "/srv/case-files"
	runNodeAgents(t, name)
	for site, node := range map[string]string{primary: hassio, dr: remote} {
		on(t, node, "mkdir", "-p", folder)
		apply(t, site, render(t, "files.yaml.tmpl", map[string]any{"Name": name, "Folder": folder, "Node": node, "Claimed": site == primary}))
	}
	post := func() {
		t.Helper()
		on(t, hassio, "sh", "-ec", `mkdir -p "$1/posts"; cd "$1/posts"
dd if=/dev/urandom of=.new bs=1M count=2 2>/dev/null; mv .new "$(sha256sum .new | cut -d' ' -f1)"`, "sh", folder)
	}
	post()
	posts := on(t, hassio, "ls", folder+"/posts")
	a := app{Name: name}
	apply(t, primary, a.render(t, "web.yaml.tmpl"))
	velero(t, primary, "schedule", "create", name, "--schedule", "0 0 29 2 *", "--include-namespaces", name,
		"--storage-location", name, "--volume-snapshot-locations", "zfs", "--default-volumes-to-fs-backup")
	apply(t, dr, strings.ReplaceAll(a.plan(t, name), ": recovery", ": files"))
	kubectl(t, primary, "-n", name, "wait", "deployment/web", "--for=condition=Available", "--timeout="+patience.String())

	a.backUp(t, backup)
	completed(t, backup)
	known(t, backup)
	post()
	kept := strings.Fields(kubectl(t, primary, "-n", "velero", "get", "podvolumebackups.velero.io", "-l", "velero.io/backup-name="+backup,
		"-o", "jsonpath={.items[*].spec.uploaderType} {.items[*].status.phase} {.items[*].status.startTimestamp}"))
	require.Len(t, kept, 3, "of the one volume")
	require.Equal(t, []string{"kopia", "Completed"}, kept[:2])

	r := kubectlDR(t, "rpo", name, "-o", "json")
	require.Zero(t, r.code, r.all())
	var rpo struct {
		Volumes []struct {
			Claim      string
			Backup     string
			SnapshotAt time.Time
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &rpo))
	require.Len(t, rpo.Volumes, 1)
	assert.Equal(t, backup, rpo.Volumes[0].Backup)
	assert.Equal(t, kept[2], rpo.Volumes[0].SnapshotAt.Format(time.RFC3339), "its age counts from when Velero began to read it")
	r = kubectlDR(t, "check", name)
	require.Zero(t, r.code, r.all())
	assert.Contains(t, r.out, "node-agent: ready on 1 node")
	assert.NotContains(t, r.out, "which the backup has too", "Velero provisions the volume anew, though one of its name is there")

	r = kubectlDR(t, "drill", name, "--keep", "-o", "json")
	require.Zero(t, r.code, r.all())
	run := runOf(t, r)
	namespace := kubectl(t, dr, "get", "namespaces", "-l", "kubectl-dr.io/run="+run, "-o", "jsonpath={.items[*].metadata.name}")
	assert.Equal(t, posts, recoveredPosts(t, namespace), "the drill has what was backed up")
	require.Zero(t, kubectlDR(t, "drill", "cleanup", run).code)
}

// runNodeAgents runs Velero's node-agent on both nodes until the test ends, with a
// backup storage location of that name that its pods reach.
func runNodeAgents(t *testing.T, location string) {
	t.Helper()
	const veleroImage = "docker.io/local/velero:1"
	importImage(t, veleroImage, "velero", "velero-restore-helper")
	credentials, err := os.ReadFile(os.Getenv("LAB_S3_CREDENTIALS"))
	require.NoError(t, err)
	storage := newGateOn(t, outside(t), strings.TrimPrefix(os.Getenv("LAB_S3_ENDPOINT"), "http://"), -1)
	for _, site := range []string{primary, dr} {
		values := map[string]string{
			"Name": location, "Image": veleroImage, "Host": vm.HostAddress, "Port": serverPort(t, site),
			"Credentials": base64.StdEncoding.EncodeToString(credentials), "AccessMode": "ReadWrite",
			"Bucket": os.Getenv("LAB_S3_BUCKET"), "S3URL": "http://" + storage.local(),
		}
		if site == dr {
			values["AccessMode"] = "ReadOnly"
		}
		file := filepath.Join(t.TempDir(), "node-agent.yaml")
		require.NoError(t, os.WriteFile(file, []byte(render(t, "node-agent.yaml.tmpl", values)), 0o600))
		kubectl(t, site, "apply", "-f", file)
		t.Cleanup(func() {
			_, err := prepared("kubectl", "--context", site, "delete", "-f", file)
			assert.NoError(t, err)
		})
	}
	for _, site := range []string{primary, dr} {
		kubectl(t, site, "-n", "velero", "rollout", "status", "daemonset/node-agent", "--timeout="+patience.String())
		kubectl(t, site, "-n", "velero", "wait", "backupstoragelocation.velero.io/"+location, "--for=jsonpath={.status.phase}=Available", "--timeout="+patience.String())
	}
}

// importImage gives both nodes an image of programs, which are at its root.
func importImage(t *testing.T, name string, programs ...string) {
	t.Helper()
	tar := httptest.NewServer(imageOf(t, name, programs...))
	defer tar.Close()
	for _, node := range []string{hassio, remote} {
		on(t, node, "sh", "-ec", `busybox wget -q -O - "$1" | ctr --namespace=k8s.io images import -`, "sh",
			"http://"+net.JoinHostPort(vm.HostAddress, port(t, tar.URL)))
	}
}

func imageOf(t *testing.T, name string, programs ...string) http.Handler {
	t.Helper()
	files, err := build.Programs(t.Context(), build.Options{Tell: func(step, what string) { t.Log(step, what) }}, programs...)
	require.NoError(t, err)
	tree := image.NewTree()
	tree.Dir("root", 0o700)
	tree.Dir("tmp", 0o1777)
	for _, program := range programs {
		content, err := os.ReadFile(files[program])
		require.NoError(t, err)
		tree.File(program, 0o755, content)
	}
	layer, err := tree.Layer()
	require.NoError(t, err)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = image.Build(w, name, image.Config{Env: []string{"HOME=/root"}}, layer) // who reads it tells
	})
}

// outside is the address of this machine by which it and pods reach it.
func outside(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String()
		}
	}
	require.Fail(t, "this machine has no address but its loopback's")
	return ""
}

// serverPort is the one of a site's API server, which pods reach at the address that
// this machine has for nodes.
func serverPort(t *testing.T, site string) string {
	t.Helper()
	return port(t, kubectl(t, site, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"))
}

func port(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Port()
}
