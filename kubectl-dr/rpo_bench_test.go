package kubectldr

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// rpoBar is how long kubectl dr rpo may take besides what the servers need to answer.
const rpoBar = time.Second

// BenchmarkRPO measures a plan with many volumes, through a real agent over a pool in
// memory. What the agent's commands take is the server's own time; on a real host it
// is more.
func BenchmarkRPO(b *testing.B) {
	for _, volumes := range []int{10, 1000} {
		b.Run(fmt.Sprintf("%d volumes", volumes), func(b *testing.B) { benchmarkRPO(b, volumes) })
	}
}

func benchmarkRPO(b *testing.B, volumes int) {
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(b, err)
	pool := &timed{Runner: zfstest.NewPool("backup")}
	address := serveAgent(b, ca, pool)
	credential, err := ca.Client("velero", time.Now())
	require.NoError(b, err)

	p := testPlan()
	p.Namespace = veleroNS
	at := metav1.Now()
	backup := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "wordpress-1", Labels: map[string]string{velerov1api.ScheduleNameLabel: "wordpress"}},
		Status:     velerov1api.BackupStatus{Phase: velerov1api.BackupPhaseCompleted, StartTimestamp: &at, CompletionTimestamp: &at},
	}
	location := &velerov1api.VolumeSnapshotLocation{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "zfs"},
		Spec: velerov1api.VolumeSnapshotLocationSpec{
			Provider:   zfssnap.Provider,
			Config:     map[string]string{"agents": "hassio=127.0.0.1:1,remote=" + address, "target": "remote", "targetPrefix": "backup/replica", "restoreNode": "remote"},
			Credential: &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: "agents"}, Key: "tls.pem"},
		},
	}
	secret := &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "agents"}, Data: map[string][]byte{"tls.pem": credential}}
	site := &cluster.Cluster{
		Client:    fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(p, backup, location, secret).Build(),
		Namespace: veleroNS, Context: "dr", Files: replicated(b, pool, backup.Name, volumes),
	}
	var out, errOut bytes.Buffer
	e := newEnv(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	e.open = func(cluster.RESTClientGetter, string) (*cluster.Cluster, error) { return site, nil }

	pool.reset()
	for b.Loop() {
		out.Reset()
		require.Zero(b, execute(b.Context(), []string{"rpo", "wordpress"}, e), errOut.String())
		require.Equal(b, volumes, strings.Count(out.String(), "wordpress/pvc-"))
	}
	beyond := (b.Elapsed() - pool.busy()) / time.Duration(b.N)
	b.ReportMetric(float64(beyond.Microseconds())/1000, "beyond-ms/op")
	b.ReportMetric(float64(pool.commands())/float64(b.N*volumes), "commands/volume")
	require.Less(b, beyond, rpoBar, "besides what the agent's commands take")
}

// serveAgent serves the agent of the recovery site, and returns its address.
func serveAgent(b *testing.B, ca *agent.Authority, runner zfs.Runner) string {
	pem, err := ca.Node("remote", time.Now())
	require.NoError(b, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(b, err)
	server := &agent.Server{
		Node: "remote", Bundle: bundle, ZFS: &zfs.Client{Runner: runner},
		Policy: agent.Policy{Identities: []agent.Grant{{Name: "velero", Verbs: []agent.Verb{agent.Read}, Prefixes: []string{"backup"}}}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	b.Cleanup(func() {
		server.Stop(context.Background())
		require.NoError(b, <-served)
	})
	return l.Addr().String()
}

// replicated makes the copies of a backup's volumes, and returns what Velero keeps of
// them.
func replicated(b *testing.B, pool zfs.Runner, backup string, volumes int) files {
	c := &zfs.Client{Runner: pool}
	var snapshots []string
	for i := range volumes {
		dataset := fmt.Sprintf("backup/replica/znvm/k3s/pvc-%d", i)
		require.NoError(b, c.Create(b.Context(), dataset, zfs.CreateOptions{Parents: true}))
		snapshots = append(snapshots, dataset+"@"+zfssnap.SnapshotName(backup, ""))
	}
	require.NoError(b, c.Snapshot(b.Context(), snapshots, nil))
	var infos, claims []string
	for i, snapshot := range snapshots {
		v, err := c.Lookup(b.Context(), snapshot)
		require.NoError(b, err)
		id := zfssnap.SnapshotID{Node: "hassio", Dataset: fmt.Sprintf("znvm/k3s/pvc-%d", i), Snapshot: v.Name, GUID: v.GUID, Created: time.Now()}
		infos = append(infos, fmt.Sprintf(`{"pvcNamespace":"wordpress","pvcName":"pvc-%d","backupMethod":"NativeSnapshot","nativeSnapshotInfo":{"snapshotHandle":%q}}`, i, id))
		claims = append(claims, fmt.Sprintf(`"wordpress/pvc-%d"`, i))
	}
	return files{
		string(velerov1api.DownloadTargetKindBackupVolumeInfos) + "/" + backup:  "[" + strings.Join(infos, ",") + "]",
		string(velerov1api.DownloadTargetKindBackupResourceList) + "/" + backup: `{"v1/PersistentVolumeClaim":[` + strings.Join(claims, ",") + "]}",
	}
}

// timed tells for how long commands ran, of which several at once count once.
type timed struct {
	zfs.Runner

	mu      sync.Mutex
	running int
	since   time.Time
	sum     time.Duration
	n       int
}

func (t *timed) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	t.mu.Lock()
	if t.running++; t.running == 1 {
		t.since = time.Now()
	}
	t.n++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.running--; t.running == 0 {
			t.sum += time.Since(t.since)
		}
	}()
	return t.Runner.Run(ctx, c)
}

func (t *timed) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum, t.n = 0, 0
}

func (t *timed) busy() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum
}

func (t *timed) commands() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}
