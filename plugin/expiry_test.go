package plugin

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// pair is a source with one volume and a target, and the plugin between them.
type pair struct {
	*testing.T
	source, target *zfstest.Pool
	snapshotter    *zfssnap.Snapshotter
	site           *zfssnap.Site
	kube           client.Client
	volume         zfssnap.VolumeID
	config         map[string]string // of the location
	made           int
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{T: t, source: zfstest.NewPool("znvm"), target: zfstest.NewPool("backup"), volume: zfssnap.VolumeID{Node: "hassio", Dataset: "znvm/data"}}
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	all := agent.Grant{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}}
	from := &zfs.Client{Runner: p.source}
	require.NoError(t, from.Create(t.Context(), p.volume.Dataset, zfs.CreateOptions{}))
	hassio, _ := serve(t, ca, "hassio", from, all)
	remote, _ := serve(t, ca, "remote", &zfs.Client{Runner: p.target}, all,
		agent.Grant{Name: "hassio", Verbs: []agent.Verb{agent.Read, agent.Receive}, Prefixes: []string{"backup/replica"}})

	scheme, err := newScheme()
	require.NoError(t, err)
	p.kube = fake.NewClientBuilder().WithScheme(scheme).Build()
	log := logrus.New()
	log.SetOutput(io.Discard)
	p.snapshotter = &zfssnap.Snapshotter{
		Sites:     &zfssnap.Sites{Connect: connect, Kube: func() (client.Client, error) { return p.kube, nil }},
		Namespace: "velero", Log: log,
	}
	p.config = map[string]string{
		"agents": "hassio=" + hassio + ",remote=" + remote, "target": "remote", "targetPrefix": "backup/replica",
		"credentialsFile": credential(t, ca),
	}
	require.NoError(t, p.snapshotter.Init(p.config))
	loc, err := zfssnap.ParseLocation(p.config)
	require.NoError(t, err)
	pem, err := os.ReadFile(loc.CredentialsFile)
	require.NoError(t, err)
	p.site, err = p.snapshotter.Sites.Open(loc, pem)
	require.NoError(t, err)
	return p
}

// backup takes a snapshot of new data.
func (p *pair) backup() zfssnap.SnapshotID {
	p.Helper()
	p.made++
	name := fmt.Sprint("b", p.made)
	require.NoError(p, p.source.Write(p.volume.Dataset, "data", []byte(name)))
	require.NoError(p, p.kube.Create(p.Context(), &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{
		Namespace: "velero", Name: name, UID: types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", p.made)),
	}}))
	snapshot, err := p.snapshotter.CreateSnapshot(p.volume.String(), "", map[string]string{"velero.io/backup": name})
	require.NoError(p, err)
	id, err := zfssnap.ParseSnapshotID(snapshot)
	require.NoError(p, err)
	return id
}

// replicate copies a snapshot and returns what it was incremental from.
func (p *pair) replicate(id zfssnap.SnapshotID) (base string) {
	p.Helper()
	require.Eventually(p, func() bool {
		transfer, err := p.site.Replicate(p.Context(), p.volume, id.Snapshot)
		require.NoError(p, err)
		require.NoError(p, agent.TransferError(transfer))
		base = transfer.GetBase()
		return transfer.GetState() == agentpb.Transfer_DONE
	}, 2*time.Minute, time.Millisecond)
	files, err := p.target.Files("backup/replica/znvm/data@" + id.Snapshot)
	require.NoError(p, err)
	want, err := p.source.Files(id.Name())
	require.NoError(p, err)
	require.Equal(p, want, files)
	return base
}

// TestExpiry_neverStrandsTheChain takes backups, copies some, and lets any of
// them expire, in any order and also while the target does not answer: what is
// copied next always builds on what the target has.
func TestExpiry_neverStrandsTheChain(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			p, random := newPair(t), rand.New(rand.NewPCG(seed, 0))
			var backups []zfssnap.SnapshotID
			copied := false
			for range 40 {
				switch n := random.IntN(6); {
				case n < 3 || len(backups) == 0:
					id := p.backup()
					backups = append(backups, id)
					if n == 0 {
						continue // not copied in time
					}
					base := p.replicate(id)
					require.Equal(t, copied, base != "", "%s builds on what the target has", id.Snapshot)
					copied = true
				default:
					i := random.IntN(len(backups))
					p.cut(n == 5)
					require.NoError(t, p.snapshotter.DeleteSnapshot(backups[i].String()))
					p.cut(false)
					backups = append(backups[:i], backups[i+1:]...)
				}
			}
			for _, id := range backups {
				require.NoError(t, p.snapshotter.DeleteSnapshot(id.String()))
			}
			left, err := (&zfs.Client{Runner: p.source}).Versions(t.Context(), p.volume.Dataset)
			require.NoError(t, err)
			for _, v := range left {
				require.True(t, v.Bookmark, "the source does not fill up: %s", v.FullName())
			}
			require.NotEmpty(t, p.replicate(p.backup()), "after all have expired too")
		})
	}
}

// cut makes the target's pool unreachable.
func (p *pair) cut(on bool) { p.target.SetSuspended("backup", on) }

func TestExpiry_ofWhatOthersNeed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		need func(ctx context.Context, c *zfs.Client, snapshot string) error
		free func(ctx context.Context, c *zfs.Client, snapshot string) error
	}{
		{
			"a hold of someone else's",
			func(ctx context.Context, c *zfs.Client, snapshot string) error {
				return c.Hold(ctx, "theirs", snapshot)
			},
			func(ctx context.Context, c *zfs.Client, snapshot string) error {
				return c.Release(ctx, "theirs", snapshot)
			},
		},
		{
			"a clone",
			func(ctx context.Context, c *zfs.Client, snapshot string) error {
				return c.Clone(ctx, snapshot, "znvm/clone", nil)
			},
			func(ctx context.Context, c *zfs.Client, _ string) error {
				return c.Destroy(ctx, "znvm/clone", zfs.DestroyOptions{})
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			source := &zfs.Client{Runner: p.source}
			id := p.backup()
			require.NoError(t, tt.need(t.Context(), source, id.Name()))
			for range 2 {
				require.NoError(t, p.snapshotter.DeleteSnapshot(id.String()), "the backup is not kept by it")
			}
			_, err := source.Lookup(t.Context(), id.Name())
			require.NoError(t, err, "it is still there")
			require.NoError(t, tt.free(t.Context(), source, id.Name()))
			_, err = source.Lookup(t.Context(), id.Name())
			require.ErrorIs(t, err, zfs.ErrNotFound, "it goes with the last that needs it")
		})
	}
}

func TestExpiry_ofWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	source := &zfs.Client{Runner: p.source}
	id := p.backup()
	theirs := p.volume.Dataset + "@autosnap_hourly"
	require.NoError(t, source.Snapshot(t.Context(), []string{theirs}, nil))
	v, err := source.Lookup(t.Context(), theirs)
	require.NoError(t, err)

	foreign := id
	foreign.Snapshot, foreign.GUID = "autosnap_hourly", v.GUID
	require.ErrorContains(t, p.snapshotter.DeleteSnapshot(foreign.String()), agent.ErrForeign.Error())

	namesake := id
	namesake.GUID++
	require.NoError(t, p.snapshotter.DeleteSnapshot(namesake.String()), "the one meant is gone")
	_, err = source.Lookup(t.Context(), id.Name())
	require.NoError(t, err, "and this is another")

	elsewhere := id
	elsewhere.Dataset = "znvm/none"
	require.NoError(t, p.snapshotter.DeleteSnapshot(elsewhere.String()), "gone with its volume")
}
