//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPromote goes through "Promote a node" of docs/runbook.md: one cluster has both
// nodes and its control plane beside hassio, and both die. What is left becomes the
// cluster, with all that was in etcd. Of the rig only node remote and the bucket
// survive, so it has a rig of its own.
func TestPromote(t *testing.T) {
	require.True(t, lab.OneCluster(), "the rig is brought up with --one-cluster")
	a := newApp(t, "case-promoted")
	apply(t, primary, strings.NewReplacer(", failback: home", "", "  failback: {storageLocation: back}\n", "").Replace(a.plan(t, a.Name)))
	apply(t, primary, bystander)
	kubectl(t, primary, "wait", "pod/bystander", "--for=condition=Ready", "--timeout="+patience.String())
	ran := kubectl(t, primary, "get", "pod/bystander", "-o", containers)

	first := a.scheduled(t)
	kubectl(t, primary, "create", "configmap", "by-hand", "--from-literal=in=etcd alone")
	archive := archiveOnThisMachine(t)
	const taken = "etcd-before"
	etcd(t, "snapshot", filepath.Join(t.TempDir(), taken+".db"), "--endpoint="+lab.Etcd(primary), archive)
	assert.Contains(t, etcd(t, "verify", taken, archive), "the file is as it was taken")
	kubectl(t, primary, "create", "configmap", "too-late", "--from-literal=in=nothing")
	a.post(t, 2)
	second := a.scheduled(t)
	posts := a.posts(t, second)
	require.NotEqual(t, a.posts(t, first), posts)
	a.post(t, 3)

	lost := time.Now()
	since := func(what string) { t.Logf("%s after the loss: %s", time.Since(lost).Round(time.Second), what) }
	require.NoError(t, lab.Stop(t.Context(), t.Output(), primary, hassio))

	// 1. The kubelet is stopped.
	on(t, remote, "sh", "-ec", `kill -s STOP $(busybox pidof kubelet)`)
	// 2. and 3. etcd and the apiserver, with the keys of the lost cluster.
	assert.Contains(t, etcd(t, "list", archive), taken)
	etcd(t, "restore", taken, archive, "--data-dir="+lab.EtcdData(dr))
	start(t, "dr/etcd", "dr/apiserver")
	since("the API answers")
	// 4. The dead node goes, with its pods.
	kubectl(t, dr, "delete", "node", hassio)
	kubectl(t, dr, "delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+hassio, "--grace-period=0", "--force")
	// 5. What is to move is stopped, and so are its schedules.
	velero(t, dr, "schedule", "pause", a.Name)
	was := kubectl(t, dr, "-n", a.Name, "get", "deployments,statefulsets,services,ingresses", "-o", "yaml")
	kubectl(t, dr, "-n", a.Name, "scale", "deployment,statefulset", "--all", "--replicas=0")
	// 6. The rest of the control plane, and the kubelet, which is led to it.
	start(t, "dr/controller-manager", "dr/scheduler")
	on(t, remote, "sh", "-ec", `sed "s/:$1$/:$2/" /config/kubeconfig.yaml > /run/kubeconfig.yaml
mount --bind /run/kubeconfig.yaml /config/kubeconfig.yaml
kill -s KILL $(busybox pidof kubelet)`, "sh", port(t, lab.Server(primary)), port(t, lab.Server(dr)))
	start(t, "dr/velero")
	promote(t, operator)
	since("the cluster is complete")

	// 7. Volumes move to the surviving node.
	rebuild := []string{"rebuild", a.Name, "--volumes-only"}
	r := kubectlDR(t, append(rebuild, "--plan")...)
	require.Equal(t, 1, r.code, "nobody can say what was written last")
	assert.Contains(t, r.err, "--replace-claim="+a.Name+"/data")
	r = kubectlDR(t, append(rebuild, "--yes", "-o", "json", "--replace-claim="+a.Name+"/data")...)
	require.Zero(t, r.code)
	var run struct {
		Spec   struct{ Backup string }
		Status struct{ RestoredTo time.Time }
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &run))
	assert.Equal(t, second, run.Spec.Backup, "etcd did not know of it yet")
	since("the volumes have moved")

	// 8. Taints and selectors.
	file := filepath.Join(t.TempDir(), "was.yaml")
	require.NoError(t, os.WriteFile(file, []byte(was), 0o600))
	assert.Contains(t, kubectlDR(t, "rewrite", file, "--profile=recovery", "--diff").out, "kubernetes.io/hostname: remote")
	apply(t, dr, kubectlDR(t, "rewrite", file, "--profile=recovery").out)
	r = kubectlDR(t, "compare", "--backup="+second, "--profile=recovery", "--namespaces="+a.Name, "-o", "json")
	var compared struct {
		Objects []struct {
			Kind, Name, Difference string
			Fields                 []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &compared))
	require.Len(t, compared.Objects, 1, "all is as the profile has it")
	assert.Equal(t, []string{"spec.storageClassName"}, compared.Objects[0].Fields, "but claims keep their class")
	// 9. It starts, and works.
	kubectl(t, dr, "-n", a.Name, "scale", "deployment/web", "--replicas=1")
	kubectl(t, dr, "-n", a.Name, "wait", "deployment/web", "--for=condition=Available", "--timeout="+patience.String())
	t.Logf("RPO %s, RTO %s", lost.Sub(run.Status.RestoredTo).Round(time.Second), time.Since(lost).Round(time.Second))
	assert.Equal(t, posts, recoveredPosts(t, a.Name), "the newest copy")
	kubectl(t, dr, "-n", a.Name, "exec", "deployment/web", "--", "sh", "-ec", `cd /data/posts; ls | sed 's/.*/&  &/' | sha256sum -c`)

	assert.Equal(t, "etcd alone", kubectl(t, dr, "get", "configmap/by-hand", "-o", "jsonpath={.data.in}"))
	assert.Empty(t, kubectl(t, dr, "get", "configmap/too-late", "--ignore-not-found"), "what is younger than the snapshot is lost")
	assert.Equal(t, ran, kubectl(t, dr, "get", "pod/bystander", "-o", containers), "what ran on the node goes on")
	before := a.inCluster(t)
	r = kubectlDR(t, append(rebuild, "--yes")...)
	require.Zero(t, r.code)
	assert.Contains(t, r.out, "nothing to do")
	assert.Equal(t, before, a.inCluster(t))

	// 11. It is protected again, as well as one node can be.
	etcd(t, "snapshot", filepath.Join(t.TempDir(), "etcd-after.db"), "--endpoint="+lab.Etcd(dr), archive)
	velero(t, dr, "schedule", "unpause", a.Name)
	assert.Contains(t, kubectlDR(t, "check", a.Name).out, "PersistentVolume "+a.Volume+", which the backup has too, is Released")
}

// bystander runs on the node that survives.
const bystander = `
apiVersion: v1
kind: Pod
metadata: {name: bystander, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: remote}
  tolerations: [{key: dedicated, operator: Exists}]
  terminationGracePeriodSeconds: 2
  containers: [{name: sleep, image: "docker.io/local/busybox:1", imagePullPolicy: Never, args: [sleep, infinity]}]
`

// containers are the containers of a pod, which are others when it was started anew.
const containers = `jsonpath={.metadata.uid} {.status.containerStatuses[*].containerID}`

// scheduled takes a backup as the schedule does, and returns its name.
func (a app) scheduled(t *testing.T) string {
	t.Helper()
	said := velero(t, primary, "backup", "create", "--from-schedule", a.Name)
	name := regexp.MustCompile(`"(` + a.Name + `-\d+)"`).FindStringSubmatch(said)
	require.NotNil(t, name, said)
	completed(t, name[1])
	a.requireCopy(t, name[1])
	return name[1]
}

// start starts parts of the rig.
func start(t *testing.T, parts ...string) {
	t.Helper()
	require.NoError(t, lab.Start(t.Context(), t.Output(), parts...))
}

// etcd runs kubectl dr etcd, which needs no cluster.
func etcd(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, "", append([]string{"kubectl", "dr", "etcd"}, args...)...)
}

// promote leads a kubeconfig to the new control plane. Its token is the lost one's.
func promote(t *testing.T, kubeconfig string) {
	t.Helper()
	content, err := os.ReadFile(kubeconfig)
	require.NoError(t, err)
	require.Contains(t, string(content), lab.Server(primary))
	require.NoError(t, os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(string(content), lab.Server(primary), lab.Server(dr))), 0o600))
}

// archiveOnThisMachine is the flag that names the agents' archive, as it is reached
// from here.
func archiveOnThisMachine(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
type: S3
config:
  {bucket: archive, endpoint: %q, region: us-east-1, bucket_lookup_type: path, insecure: true, credentials_file: %q}
`, strings.TrimPrefix(os.Getenv("LAB_S3_ENDPOINT"), "http://"), os.Getenv("LAB_S3_CREDENTIALS")), 0o600))
	return "--archive=" + file
}
