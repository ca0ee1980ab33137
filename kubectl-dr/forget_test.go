package kubectldr

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

const (
	uidA = types.UID("aaaaaaaa-1111-4222-8333-444444444444")
	uidB = types.UID("bbbbbbbb-1111-4222-8333-444444444444")
	uidC = types.UID("cccccccc-1111-4222-8333-444444444444")
)

const (
	database = "znvm/k3s/wordpress-db"
	copied   = "backup/replica/" + database
)

// pools are a world whose hosts have agents, over pools in memory.
type pools struct {
	*world
	znvm, backup   *zfstest.Pool
	hassio, remote *agent.Client
	address        string // of remote's agent
	guid           uint64
	age            atomic.Int64 // of snapshots that are taken
}

// newPools has two volumes that were backed up the day before yesterday for a
// backup called gone, and yesterday for another. Both have been replicated.
func newPools(t *testing.T) *pools {
	t.Helper()
	p := &pools{world: newWorld(t), znvm: zfstest.NewPool("znvm"), backup: zfstest.NewPool("backup"), guid: 1000}
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.Mkdir(dir, 0o700))
	offsite, err := archive.ParseConfig(fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %q}}", dir))
	require.NoError(t, err)
	p.agents = map[string]cluster.Agent{}
	serve := func(node string, pool *zfstest.Pool) (*agent.Client, string) {
		pool.SetClock(func() time.Time { return begin.Add(-time.Duration(p.age.Load())) })
		all := []agent.Grant{{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}},
			{Name: "hassio", Verbs: []agent.Verb{agent.Receive}, Prefixes: []string{"backup/replica"}}}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := &agent.Server{
			Node: node, Bundle: bundleOf(t, ca.Node, node), ZFS: &zfs.Client{Runner: pool}, Policy: agent.Policy{Identities: all},
			Log: slog.New(slog.DiscardHandler), Archives: map[string]*archive.Config{"offsite": offsite},
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		t.Cleanup(func() {
			server.Stop(t.Context())
			require.NoError(t, <-served)
		})
		c, err := agent.Dial(node, l.Addr().String(), bundleOf(t, ca.Client, "velero"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		p.agents[node] = c
		return c, l.Addr().String()
	}
	p.hassio, _ = serve("hassio", p.znvm)
	p.remote, p.address = serve("remote", p.backup)
	p.age.Store(int64(72 * time.Hour))
	for _, claim := range claims {
		require.NoError(t, p.zfs(p.znvm).Create(t.Context(), "znvm/k3s/"+claim, zfs.CreateOptions{Parents: true}))
	}
	for _, name := range []string{"default", "dr"} {
		p.update(&velerov1api.BackupStorageLocation{}, name, func(o client.Object) {
			o.(*velerov1api.BackupStorageLocation).Status.LastSyncedTime = ptr.To(metav1.NewTime(begin.Add(-time.Minute)))
		})
	}
	p.backedUp("gone", uidA, 48*time.Hour)
	p.backedUp("next", uidB, 30*time.Hour)
	return p
}

func bundleOf(t *testing.T, issue func(string, time.Time) ([]byte, error), name string) *agent.Bundle {
	t.Helper()
	pem, err := issue(name, time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	return bundle
}

func (p *pools) zfs(pool *zfstest.Pool) *zfs.Client { return &zfs.Client{Runner: pool} }

// take takes the snapshots of a backup.
func (p *pools) take(backup string, uid types.UID, age time.Duration) []*agentpb.Version {
	p.t.Helper()
	p.age.Store(int64(age))
	var taken []*agentpb.Version
	for _, claim := range claims {
		p.guid++
		p.znvm.SetGUID(p.guid)
		require.NoError(p.t, p.znvm.Write("znvm/k3s/"+claim, "data", []byte(backup)))
		resp, err := p.hassio.CreateSnapshots(p.t.Context(), &agentpb.CreateSnapshotsRequest{
			Datasets: []string{"znvm/k3s/" + claim}, Name: zfssnap.SnapshotName(backup, uid), Hold: zfssnap.HoldTag("backup"),
			Properties: map[string]string{zfssnap.PropBackup: backup},
		})
		require.NoError(p.t, err)
		taken = append(taken, resp.GetSnapshots()...)
	}
	return taken
}

// backedUp takes the snapshots of a backup and replicates them.
func (p *pools) backedUp(backup string, uid types.UID, age time.Duration) {
	p.t.Helper()
	for _, v := range p.take(backup, uid, age) {
		p.finished(func() (*agentpb.Transfer, error) {
			return p.hassio.Replicate(p.t.Context(), &agentpb.ReplicateRequest{
				Dataset: v.GetDataset(), Snapshot: v.GetName(), Guid: v.GetGuid(),
				TargetNode: "remote", TargetAddress: p.address, TargetDataset: "backup/replica/" + v.GetDataset(),
			})
		})
	}
}

// archived puts the snapshots of a backup into the archive.
func (p *pools) archived(backup string, uid types.UID) {
	p.t.Helper()
	p.archive = "offsite"
	for i, claim := range claims {
		v, err := p.zfs(p.znvm).Lookup(p.t.Context(), "znvm/k3s/"+claim+"@"+zfssnap.SnapshotName(backup, uid))
		require.NoError(p.t, err, i)
		p.finished(func() (*agentpb.Transfer, error) {
			return p.hassio.Archive(p.t.Context(), &agentpb.ArchiveRequest{Dataset: v.Dataset, Snapshot: v.Name, Guid: v.GUID, Archive: "offsite"})
		})
	}
}

func (p *pools) finished(ask func() (*agentpb.Transfer, error)) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		transfer, err := ask()
		require.NoError(p.t, err)
		require.NoError(p.t, agent.TransferError(transfer))
		return transfer.GetState() == agentpb.Transfer_DONE
	}, 2*time.Minute, time.Millisecond)
}

// known has Velero of a cluster know a backup; one that was synced has a uid of its
// own, and a record of the snapshots of the uid that it had.
func (p *pools) known(at *cluster.Cluster, backup string, uid types.UID, synced bool) {
	p.t.Helper()
	start := metav1.NewTime(begin.Add(-48 * time.Hour))
	b := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: backup, UID: uid, CreationTimestamp: start},
		Spec:       velerov1api.BackupSpec{StorageLocation: "default"},
		Status:     velerov1api.BackupStatus{Phase: velerov1api.BackupPhaseCompleted, StartTimestamp: &start},
	}
	if synced {
		b.UID, b.CreationTimestamp = uidC, metav1.NewTime(start.Add(time.Hour))
	}
	require.NoError(p.t, at.Client.Create(p.t.Context(), b))
}

// recorded has object storage a record of a backup's snapshots.
func (p *pools) recorded(backup string, uid types.UID) {
	id := zfssnap.SnapshotID{Node: "hassio", Dataset: database, Snapshot: zfssnap.SnapshotName(backup, uid), GUID: 1, Created: begin}
	p.files.put(p.t, velerov1api.DownloadTargetKindBackupVolumeInfos, backup, []map[string]any{
		{"pvcName": "files", "backupMethod": "PodVolumeBackup"},
		{"pvcName": "failed", "backupMethod": "NativeSnapshot", "nativeSnapshotInfo": map[string]string{"snapshotHandle": ""}},
		{"pvcName": "db", "backupMethod": "NativeSnapshot", "nativeSnapshotInfo": map[string]string{"snapshotHandle": id.String()}},
	})
}

// forget runs the command.
func (p *pools) forget(args ...string) outcome {
	return p.run(p.t.Context(), append([]string{"agent", "forget"}, args...)...)
}

// snapshots are those on both hosts.
func (p *pools) snapshots() []string {
	var all []string
	for _, name := range append(p.znvm.Names(), p.backup.Names()...) {
		if strings.Contains(name, "@") {
			all = append(all, name)
		}
	}
	return all
}

// of are those of a backup.
func of(snapshots []string, backup string) []string {
	return slices.DeleteFunc(slices.Clone(snapshots), func(name string) bool { return !strings.Contains(name, "@dr-"+backup+"-") })
}

func TestForget(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	before := p.snapshots()
	golden(t, "forget/dry run", p.forget("gone", "--dry-run").String())
	golden(t, "forget/dry run, wide", p.forget("gone", "--dry-run", "-o", "wide").String())
	golden(t, "forget/dry run as yaml", p.forget("gone", "--dry-run", "-o", "yaml").String())
	golden(t, "forget/dry run, printing names", p.forget("gone", "--dry-run", "-o", "name").String())
	p.tty, p.stdin = true, "yes\n"
	golden(t, "forget/not confirmed", p.forget("gone").String())
	assert.Equal(t, before, p.snapshots(), "nothing is destroyed unasked")

	p.stdin = "gone\n"
	golden(t, "forget/confirmed", p.forget("gone").String())
	assert.Empty(t, of(p.snapshots(), "gone"))
	assert.Equal(t, of(before, "next"), p.snapshots(), "others stay")
	golden(t, "forget/again", p.forget("gone").String())
	golden(t, "forget/again as json", p.forget("gone", "-o", "json").String())

	p.backedUp("last", uidC, time.Hour)
	assert.Len(t, of(p.snapshots(), "last"), 4, "replication goes on")
}

// What the next increment is received onto goes when there is a newer one.
func TestForget_theNewestOfAReplica(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	golden(t, "forget/newest", p.forget("next", "--yes").String())
	assert.Equal(t, []string{copied + "@dr-next-bbbbbbbb"}, of(p.snapshots(), "next")[:1])
	golden(t, "forget/newest, again", p.forget("next", "--yes").String())
	p.backedUp("last", uidC, time.Hour)
	assert.Empty(t, of(p.snapshots(), "next"))
}

// A copy under newer ones that the source does not know is what the two sides may
// yet be brought together by.
func TestForget_whatTheChainNeeds(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	c := p.zfs(p.znvm)
	vs, err := c.Versions(t.Context(), database)
	require.NoError(t, err)
	for _, v := range vs {
		switch {
		case v.Bookmark:
			require.NoError(t, c.DestroyBookmark(t.Context(), v.FullName()))
		case strings.HasPrefix(v.Name, "dr-next"):
			require.NoError(t, c.Release(t.Context(), zfssnap.HoldTag("backup"), v.FullName()))
			require.NoError(t, c.Release(t.Context(), zfssnap.HoldTag("replication"), v.FullName()))
			require.NoError(t, c.DestroySnapshots(t.Context(), database, []string{v.Name}, false))
		}
	}
	golden(t, "forget/chain", p.forget("gone", "--yes").String())
	assert.Equal(t, []string{copied + "@dr-gone-aaaaaaaa"}, of(p.snapshots(), "gone"))
	golden(t, "forget/chain, again", p.forget("gone", "--yes").String())

	// The volume is deleted: nothing is left to send.
	require.NoError(t, c.Destroy(t.Context(), database, zfs.DestroyOptions{Recursive: true}))
	golden(t, "forget/chain of a volume that is gone", p.forget("gone", "--yes").String())
	assert.Empty(t, of(p.snapshots(), "gone"))
}

// Copies that a failover was made from are not touched. They are remembered at
// their source, and go with a later deletion.
func TestForget_whatIsFenced(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	fence := func(by string) {
		_, err := p.remote.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: copied, Properties: map[string]string{zfssnap.PropFenced: by}})
		require.NoError(t, err)
	}
	fence("wordpress-failover-1")
	golden(t, "forget/fenced", p.forget("gone", "--yes").String())
	assert.Equal(t, []string{copied + "@dr-gone-aaaaaaaa"}, of(p.snapshots(), "gone"))
	fence("")
	p.take("last", uidC, 26*time.Hour)
	require.Zero(t, p.forget("last", "--yes").code)
	assert.Empty(t, of(p.snapshots(), "gone"))
}

func TestForget_whatFailsIsToldAndGoneOnWith(t *testing.T) {
	t.Parallel()
	for name, pool := range map[string]func(*pools) *zfstest.Pool{
		"at the source": func(p *pools) *zfstest.Pool { return p.znvm }, "of a copy": func(p *pools) *zfstest.Pool { return p.backup },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPools(t)
			failed := false
			pool(p).Before(func(args []string) error {
				if args[1] == "destroy" && !failed {
					failed = true
					return errors.New("out of processes")
				}
				return nil
			})
			golden(t, "forget/fails "+name, p.forget("gone", "--yes").String())
			assert.NotEmpty(t, of(p.snapshots(), "gone"))
			assert.Zero(t, p.forget("gone", "--yes").code)
			assert.Empty(t, of(p.snapshots(), "gone"))
		})
	}
}

func TestForget_restorePoints(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.archived("gone", uidA)
	// What compressed streams take differs.
	stored := regexp.MustCompile(`\d\d\d B`)
	forget := func(args ...string) string { return stored.ReplaceAllString(p.forget(args...).String(), "200 B") }
	golden(t, "forget/archived, alone", forget("gone", "--dry-run"))
	p.archived("next", uidB)
	golden(t, "forget/archived, others are based on it", forget("gone", "--yes"))
	p.archive = "elsewhere"
	golden(t, "forget/archived, where nobody knows", forget("next", "--dry-run"))
	p.archive = "offsite"
	golden(t, "forget/archived", forget("next", "--yes"))
}

// A backup has the name of an earlier one, which is known no more.
func TestForget_ofOneName(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.known(p.recovery, "gone", uidB, false)
	p.backedUp("gone", uidB, 29*time.Hour)
	golden(t, "forget/the other of a name", p.forget("gone", "--yes").String())
	left := of(p.snapshots(), "gone")
	assert.Len(t, left, 4)
	for _, name := range left {
		assert.Contains(t, name, "@dr-gone-bbbbbbbb")
	}
	golden(t, "forget/the other of a name, again", p.forget("gone", "--yes").String())

	require.NoError(t, p.recovery.Client.Delete(t.Context(), &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "gone"}}))
	p.backedUp("gone", uidC, 28*time.Hour)
	golden(t, "forget/two of a name", p.forget("gone", "--yes").String())
	golden(t, "forget/one of two", p.forget("gone", "--uid", string(uidB), "--yes").String())
	golden(t, "forget/one of two, again", p.forget("gone", "--uid=bbbbbbbb", "--yes").String())
}

func TestForget_ofWhatAnotherToolReplicates(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.external = true
	taken := p.take("mine", uidA, 28*time.Hour)
	newer := p.take("newer", uidB, 27*time.Hour)
	for _, v := range append(taken, newer...) {
		parent := "backup/syncoid"
		if ok, err := p.zfs(p.backup).Exists(t.Context(), parent); err == nil && !ok {
			require.NoError(t, p.zfs(p.backup).Create(t.Context(), parent, zfs.CreateOptions{}))
		}
		p.bring(v, parent+"/"+filepath.Base(v.GetDataset()))
	}
	golden(t, "forget/external", p.forget("mine", "--yes").String())
	golden(t, "forget/external, again", p.forget("mine", "--yes").String())
	golden(t, "forget/external, needed", p.forget("newer", "--yes").String())
	assert.Len(t, of(p.snapshots(), "newer"), 4)
}

// bring plays syncoid.
func (p *pools) bring(v *agentpb.Version, to string) {
	p.t.Helper()
	ctx, target := p.t.Context(), p.zfs(p.backup)
	from := ""
	vs, _ := target.Versions(ctx, to)
	if len(vs) > 0 {
		from = v.GetDataset() + "@" + vs[len(vs)-1].Name
	}
	var stream bytes.Buffer
	require.NoError(p.t, p.zfs(p.znvm).Send(ctx, zfs.SendOptions{From: from, To: v.GetDataset() + "@" + v.GetName()}, &stream))
	require.NoError(p.t, target.Receive(ctx, zfs.ReceiveOptions{Target: to + "@" + v.GetName()}, &stream))
}

func TestForget_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*pools)
	}{
		{"what Velero knows", "gone", func(p *pools) { p.known(p.recovery, "gone", uidA, false) }},
		{"what Velero knows, by its uid", "gone --uid=aaaaaaaa", func(p *pools) { p.known(p.recovery, "gone", uidA, false) }},
		{"what was synced", "gone", func(p *pools) {
			p.known(p.recovery, "gone", uidA, true)
			p.recorded("gone", uidA)
		}},
		{"what was synced and has no record", "gone", func(p *pools) { p.known(p.recovery, "gone", uidA, true) }},
		{"what the source knows", "gone --source-context=primary", func(p *pools) { p.known(p.source, "gone", uidA, false) }},
		{"what is young", "now", func(p *pools) { p.backedUp("now", uidA, 5*time.Hour) }},
		{"what a location may have that was never listed", "gone", func(p *pools) { p.listed(nil) }},
		{"what a location may have that was listed long ago", "gone", func(p *pools) { p.listed(ptr.To(metav1.NewTime(begin.Add(-47 * time.Hour)))) }},
		{"what nobody could know", "gone", func(p *pools) {
			require.NoError(p.t, p.recovery.Client.DeleteAllOf(p.t.Context(), &velerov1api.BackupStorageLocation{}, client.InNamespace(veleroNS)))
		}},
		{"what a drill has cloned", "gone", func(p *pools) {
			require.NoError(p.t, p.zfs(p.backup).Clone(p.t.Context(), copied+"@dr-gone-aaaaaaaa", "backup/drill", nil))
		}},
		{"what somebody holds", "gone", func(p *pools) {
			require.NoError(p.t, p.zfs(p.znvm).Hold(p.t.Context(), "keep", database+"@dr-gone-aaaaaaaa"))
			require.NoError(p.t, p.zfs(p.znvm).Hold(p.t.Context(), zfssnap.HoldTag("run:drill-1"), database+"@dr-gone-aaaaaaaa"))
		}},
		{"what is not known to be ours", "gone", func(p *pools) {
			require.NoError(p.t, p.zfs(p.znvm).Snapshot(p.t.Context(), []string{"znvm@dr-gone-aaaaaaaa"}, nil))
		}},
		{"what says that it is of another", "gone", func(p *pools) {
			require.NoError(p.t, p.zfs(p.znvm).Snapshot(p.t.Context(), []string{"znvm@dr-gone-aaaaaaaa"},
				map[string]string{zfssnap.PropManaged: "true", zfssnap.PropBackup: "other"}))
		}},
		{"while an agent does not answer", "gone", func(p *pools) {
			delete(p.agents, "hassio")
			p.old.absent, p.old.down = false, true
		}},
		{"while an agent is of an earlier version", "gone", func(p *pools) {
			delete(p.agents, "hassio")
			p.old.absent, p.old.old = false, true
		}},
		{"a node that nobody knows", "gone --gone=nope", nil},
		{"when nobody is left to ask", "gone --gone=hassio,remote", nil},
		{"no backup", "", nil},
		{"two backups", "gone next", nil},
		{"what is no uid", "gone --uid=aaaa", nil},
		{"what is no age", "gone --min-age=-1h", nil},
		{"without a terminal", "gone", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPools(t)
			if tt.arrange != nil {
				tt.arrange(p)
			}
			before := p.snapshots()
			args := strings.Fields(tt.args)
			if tt.name != "without a terminal" {
				args = append(args, "--yes")
			}
			got := p.forget(args...)
			assert.Equal(t, 1, got.code)
			assert.Empty(t, got.out)
			golden(t, "forget/refuses "+tt.name, got.String())
			assert.Equal(t, before, p.snapshots())
			if strings.HasPrefix(tt.name, "what ") && !strings.HasPrefix(tt.name, "what is no ") {
				dry := p.forget(append(strings.Fields(tt.args), "--dry-run")...)
				assert.Equal(t, 1, dry.code, "a dry run says so too")
				assert.Contains(t, dry.out, "SNAPSHOT")
			}
		})
	}
}

// listed says when Velero last listed one of its locations.
func (p *pools) listed(at *metav1.Time) {
	p.update(&velerov1api.BackupStorageLocation{}, "dr", func(o client.Object) {
		o.(*velerov1api.BackupStorageLocation).Status.LastSyncedTime = at
	})
}

func TestForget_whenAskedFor(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*pools)
	}{
		{"what is young", "now --min-age=0s", func(p *pools) {
			p.backedUp("now", uidA, 5*time.Hour)
			p.backedUp("then", uidB, 4*time.Hour)
		}},
		{"what a location may have", "gone --accept-unsynced", func(p *pools) { p.listed(nil) }},
		{"what was synced and is known where it was taken", "gone --source-context=primary", func(p *pools) {
			p.known(p.recovery, "gone", uidB, true)
			p.known(p.source, "gone", uidB, false)
		}},
		{"what was synced and is another", "gone", func(p *pools) {
			p.known(p.recovery, "gone", uidB, true)
			p.recorded("gone", uidB)
		}},
		{"what a lost node sent", "gone --gone=hassio", func(p *pools) {
			delete(p.agents, "hassio")
			p.old.absent, p.old.down = false, true
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPools(t)
			tt.arrange(p)
			golden(t, "forget/asked "+tt.name, p.forget(append(strings.Fields(tt.args), "--yes")...).String())
			backup, _, _ := strings.Cut(tt.args, " ")
			left := of(p.backup.Names(), backup)
			assert.Empty(t, left)
		})
	}
}
