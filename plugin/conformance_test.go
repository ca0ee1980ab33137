package plugin

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/plugin/snapshottertest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

var built = flag.String("plugin", "", "the program to test, where there is nothing to build it with")

// binary builds the plugin once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	if *built != "" {
		return filepath.Abs(*built)
	}
	file := filepath.Join(buildDir, "velero-plugin-zfs-dr")
	out, err := exec.Command("go", "build", "-o", file, "github.com/kubectl-dr/kubectl-dr/cmd/velero-plugin-zfs-dr").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the plugin: %w: %s", err, out)
	}
	return file, nil
})

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "plugin-test")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// site is one host with an agent, and a cluster beside it.
type site struct {
	target     zfstest.Target
	zfs        *zfs.Client
	agents     *interrupter // what the agent's commands go through
	root       string       // dataset that all volumes lie below
	agent      string       // address
	credential string       // path of the client's bundle
	kubeconfig string
	api        *apiServer
	volumes    atomic.Int32
}

// newSite serves what the target's pool has below a dataset of its own.
func newSite(t testing.TB, target zfstest.Target) *site {
	t.Helper()
	s := &site{target: target, zfs: &zfs.Client{Runner: target.Runner}, agents: &interrupter{Runner: target.Runner}}
	s.root = fmt.Sprintf("%s/snapshotter-%d", target.Pool, os.Getpid())
	require.NoError(t, s.zfs.Create(t.Context(), s.root, zfs.CreateOptions{Properties: map[string]string{"mountpoint": "none"}}))
	t.Cleanup(func() { s.sweep(t) })

	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	s.credential = credential(t, ca)
	s.agent, _ = serve(t, ca, "hassio", &zfs.Client{Runner: s.agents}, agent.Grant{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{s.root}})
	return s
}

// interrupter breaks in on commands.
type interrupter struct {
	zfs.Runner

	mu   sync.Mutex
	left int
	do   func()
}

func (i *interrupter) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	i.mu.Lock()
	do := i.do
	if i.left > 0 {
		i.left, do = i.left-1, nil
	} else {
		i.do = nil
	}
	i.mu.Unlock()
	if do != nil {
		do()
	}
	return i.Runner.Run(ctx, c)
}

// at has do called before the command that follows n others. It returns whether
// there was one, and ends that.
func (i *interrupter) at(n int, do func()) (done func() bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	ended := make(chan struct{})
	i.left, i.do = n, func() {
		defer close(ended)
		do()
	}
	return func() bool {
		i.mu.Lock()
		waiting := i.do != nil
		i.do = nil
		i.mu.Unlock()
		if !waiting {
			<-ended
		}
		return !waiting
	}
}

// credential writes the bundle that the plugin has, and returns its path.
func credential(t testing.TB, ca *agent.Authority) string {
	t.Helper()
	bundle, err := ca.Client("velero", time.Now())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(file, bundle, 0o600))
	return file
}

// serve runs an agent until the test ends, or it is stopped.
func serve(t testing.TB, ca *agent.Authority, node string, client *zfs.Client, grants ...agent.Grant) (address string, stop func()) {
	t.Helper()
	return serveArchives(t, ca, node, client, nil, grants...)
}

// serveArchives is serve for an agent that has archives.
func serveArchives(t testing.TB, ca *agent.Authority, node string, client *zfs.Client, archives map[string]*archive.Config, grants ...agent.Grant) (address string, stop func()) {
	t.Helper()
	pem, err := ca.Node(node, time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	mounts := filepath.Join(t.TempDir(), "mounts")
	require.NoError(t, os.WriteFile(mounts, nil, 0o600))
	server := &agent.Server{
		Node: node, Bundle: bundle, ZFS: client, MountTable: mounts,
		Archives:   archives,
		Policy:     agent.Policy{Identities: grants},
		Log:        slog.New(slog.NewTextHandler(io.Discard, nil)),
		RetryDelay: func(int) time.Duration { return time.Millisecond },
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		server.Stop(ctx)
		require.NoError(t, <-served)
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// sweep destroys the site's datasets, clones and holds first.
func (s *site) sweep(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	datasets, err := s.zfs.Datasets(ctx, s.root, true)
	require.NoError(t, err)
	for _, d := range datasets {
		versions, err := s.zfs.Versions(ctx, d.Name)
		require.NoError(t, err)
		for _, v := range versions {
			if v.UserRefs > 0 {
				require.NoError(t, s.zfs.Release(ctx, zfssnap.HoldTag("backup"), v.FullName()))
			}
		}
	}
	for _, d := range datasets {
		if d.Origin != "" {
			require.NoError(t, s.zfs.Destroy(ctx, d.Name, zfs.DestroyOptions{Recursive: true}))
		}
	}
	require.NoError(t, s.zfs.Destroy(ctx, s.root, zfs.DestroyOptions{Recursive: true}))
}

func (s *site) config() map[string]string {
	return map[string]string{"agents": "hassio=" + s.agent, "credentialsFile": s.credential}
}

// newVolume makes a dataset with a mountpoint and returns a local volume of it.
func (s *site) newVolume(t testing.TB) *unstructured.Unstructured {
	t.Helper()
	dataset := fmt.Sprintf("%s/v%d", s.root, s.volumes.Add(1))
	require.NoError(t, s.zfs.Create(t.Context(), dataset, zfs.CreateOptions{Properties: map[string]string{"mountpoint": "/tmp/" + dataset}}))
	return s.volume("/tmp/" + dataset)
}

func (s *site) volume(dir string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": "data"},
		"spec": map[string]any{
			"accessModes":      []any{"ReadWriteOnce"},
			"capacity":         map[string]any{"storage": "1Gi"},
			"claimRef":         map[string]any{"kind": "PersistentVolumeClaim", "namespace": "wordpress", "name": "data"},
			"storageClassName": "local-storage",
			"local":            map[string]any{"path": dir},
			"nodeAffinity": map[string]any{"required": map[string]any{"nodeSelectorTerms": []any{map[string]any{
				"matchExpressions": []any{map[string]any{"key": "kubernetes.io/hostname", "operator": "In", "values": []any{"hassio"}}},
			}}}},
		},
	}}
}

// dataset is the one at a volume's path.
func (s *site) dataset(t *testing.T, pv *unstructured.Unstructured) string {
	t.Helper()
	dir, _, _ := unstructured.NestedString(pv.Object, "spec", "local", "path")
	datasets, err := s.zfs.Datasets(t.Context(), s.root, true)
	require.NoError(t, err)
	for _, d := range datasets {
		if d.Mountpoint == dir {
			return d.Name
		}
	}
	require.Fail(t, "no dataset", "at %s", dir)
	return ""
}

// TestConformance runs the suite on the plugin: with a pool in memory, and on
// the pool that the environment names.
func TestConformance(t *testing.T) {
	targets := map[string]zfstest.Target{"in memory": zfstest.NewPool("znvm").Target("znvm")}
	if target, ok := zfstest.RealTarget(); ok {
		targets["on OpenZFS"] = target
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) { snapshottertest.Run(t, conformanceTarget(t, target)) })
	}
}

func conformanceTarget(t *testing.T, pool zfstest.Target) snapshottertest.Target {
	t.Helper()
	file, err := binary()
	require.NoError(t, err)
	s := newSite(t, pool)
	s.api, s.kubeconfig = newAPIServer(t)
	other := s.config()
	other["replicationTimeout"] = "1h"
	bad := func(key, value string) map[string]string {
		c := maps.Clone(s.config())
		c[key] = value
		return c
	}
	claimed := func(spec map[string]any) *unstructured.Unstructured {
		pv := s.volume("/")
		unstructured.RemoveNestedField(pv.Object, "spec", "local")
		unstructured.RemoveNestedField(pv.Object, "spec", "nodeAffinity")
		maps.Copy(pv.Object["spec"].(map[string]any), spec)
		return pv
	}
	restoring := ""
	return snapshottertest.Target{
		Binary: file, Name: SnapshotterName, Args: []string{"--kubeconfig", s.kubeconfig, "--log-level", "debug"},
		Config: s.config(), Other: other,
		BadConfigs: map[string]map[string]string{
			"agents": bad("agents", "hassio"), "tarket": bad("tarket", "x"), "replicationTimeout": bad("replicationTimeout", "soon"),
			"credential": bad("credentialsFile", "/none"),
		},
		NewVolume: func(t *testing.T) *unstructured.Unstructured { return s.newVolume(t) },
		Write: func(t *testing.T, pv *unstructured.Unstructured, data string) {
			s.target.Write(t, s.dataset(t, pv), "data", []byte(data))
		},
		Read: func(t *testing.T, pv *unstructured.Unstructured) string {
			return string(s.target.Read(t, s.dataset(t, pv), "data"))
		},
		Foreign: map[string]*unstructured.Unstructured{
			"another CSI driver": claimed(map[string]any{"csi": map[string]any{"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}}),
			"an in-tree disk":    claimed(map[string]any{"awsElasticBlockStore": map[string]any{"volumeID": "vol-1"}}),
			"nfs":                claimed(map[string]any{"nfs": map[string]any{"server": "nas", "path": "/p"}}),
			"a directory":        s.volume("/srv/none"),
		},
		Unresolvable: claimed(map[string]any{"csi": map[string]any{
			"driver": "org.example.zfs", "volumeHandle": "x", "volumeAttributes": map[string]any{"provisioner_driver": "zfs-generic-nfs", "node_attach_driver": "nfs", "server": "nas"},
		}}),
		Gone: func(*testing.T) string {
			return zfssnap.VolumeID{Node: "hassio", Dataset: s.root + "/gone"}.String()
		},
		Snapshots: func(t *testing.T, pv *unstructured.Unstructured) (names []string) {
			versions, err := s.zfs.Versions(t.Context(), s.dataset(t, pv))
			require.NoError(t, err)
			for _, v := range versions {
				if !v.Bookmark {
					names = append(names, v.Name)
				}
			}
			return names
		},
		Tags: func(t *testing.T, pv *unstructured.Unstructured) (values []string) {
			versions, err := s.zfs.Versions(t.Context(), s.dataset(t, pv))
			require.NoError(t, err)
			for _, v := range versions {
				props, err := s.zfs.UserProperties(t.Context(), v.FullName(), zfs.SourceLocal)
				require.NoError(t, err)
				values = slices.AppendSeq(values, maps.Values(props))
			}
			return values
		},
		TakeForeign: func(t *testing.T, pv *unstructured.Unstructured) {
			require.NoError(t, s.zfs.Snapshot(t.Context(), []string{s.dataset(t, pv) + "@autosnap_hourly"}, nil))
		},
		Interrupt: func(_ *testing.T, n int, do func()) func() bool { return s.agents.at(n, do) },
		Backup: func(_ *testing.T, name string) {
			s.api.put("backups", name, "InProgress")
		},
		DeleteBackup: func(_ *testing.T, name string) { s.api.remove("backups", name) },
		Restore: func(_ *testing.T, name string) {
			if restoring != "" {
				s.api.put("restores", restoring, "Completed")
			}
			restoring = name
			s.api.put("restores", name, "InProgress")
		},
	}
}
