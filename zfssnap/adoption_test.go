package zfssnap_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// tool replicates a dataset to another, and is not ours. It heeds these options
// of syncoid(8).
type tool func(t *testing.T, source, copied string, options ...string)

const (
	noMark     = "--no-sync-snap" // without a snapshot of its own, taken first
	onlyTheOne = "--no-stream"    // the newest snapshot alone
)

// TestAdoption has volumes backed up that another tool replicates: it runs with
// a stand-in on pools in memory, and with syncoid itself on the pools that the
// environment names.
func TestAdoption(t *testing.T) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		from, to := zfstest.NewPool("tank").Target("tank"), zfstest.NewPool("back").Target("back")
		adopt(t, from, to, copier(from.Runner, to.Runner))
	})
	if from, ok := zfstest.RealTarget(); ok {
		t.Run("syncoid", func(t *testing.T) {
			to := from
			to.Pool = os.Getenv(zfstest.EnvReplicaPool)
			require.NotEmpty(t, to.Pool, zfstest.EnvReplicaPool)
			adopt(t, from, to, syncoid(from.Runner))
		})
	}
}

// syncoid(8) finds both pools on the host that it runs on.
func syncoid(run zfs.Runner) tool {
	return func(t *testing.T, source, copied string, options ...string) {
		t.Helper()
		args := slices.Concat([]string{"syncoid", "--no-privilege-elevation", "--quiet"}, options, []string{source, copied})
		res, err := run.Run(t.Context(), zfs.Cmd{Args: args})
		require.NoError(t, err)
		require.Zero(t, res.ExitCode, "%v: %s", args, res.Stderr)
		assert.Empty(t, res.Stderr, "syncoid has nothing to complain of")
	}
}

// copier is a stand-in for syncoid: it brings every snapshot that is newer than
// the newest common one, and drops its own old marks.
func copier(from, to zfs.Runner) tool {
	n, source, target := 0, &zfs.Client{Runner: from}, &zfs.Client{Runner: to}
	return func(t *testing.T, dataset, copied string, options ...string) {
		t.Helper()
		ctx, marks := t.Context(), !slices.Contains(options, noMark)
		if marks {
			n++
			require.NoError(t, source.Snapshot(ctx, []string{fmt.Sprintf("%s@syncoid_%d", dataset, n)}, nil))
		}
		all, err := source.Versions(ctx, dataset)
		require.NoError(t, err)
		there, err := target.Versions(ctx, copied)
		if err != nil {
			require.ErrorIs(t, err, zfs.ErrNotFound)
		}
		base := ""
		for _, v := range all {
			if slices.ContainsFunc(there, func(c zfs.Version) bool { return c.GUID == v.GUID }) {
				base = v.FullName()
				continue
			}
			if slices.Contains(options, onlyTheOne) && v.GUID != all[len(all)-1].GUID {
				continue
			}
			r, w := io.Pipe()
			var g errgroup.Group
			g.Go(func() error {
				err := source.Send(ctx, zfs.SendOptions{From: base, To: v.FullName()}, w)
				return w.CloseWithError(err)
			})
			require.NoError(t, target.Receive(ctx, zfs.ReceiveOptions{Target: copied + "@" + v.Name}, r))
			require.NoError(t, g.Wait())
			base = v.FullName()
		}
		for _, v := range all {
			if marks && v.Name == fmt.Sprintf("syncoid_%d", n-1) {
				require.NoError(t, source.DestroySnapshots(ctx, dataset, []string{v.Name}, false))
				require.NoError(t, target.DestroySnapshots(ctx, copied, []string{v.Name}, false))
			}
		}
	}
}

// directory is a directory of agents as zfssnap wants it.
type directory struct{ *agent.Directory }

func (d directory) Agent(node string) (zfssnap.Agent, error) { return d.Client(node) }

// serve starts an agent, and returns its address.
func serve(t *testing.T, ca *agent.Authority, node string, run zfs.Runner, grants ...agent.Grant) string {
	t.Helper()
	pem, err := ca.Node(node, time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &agent.Server{
		Node: node, Bundle: bundle, Policy: agent.Policy{Identities: grants}, ZFS: &zfs.Client{Runner: run},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", node),
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop(context.WithoutCancel(t.Context()))
		assert.NoError(t, <-served)
	})
	return l.Addr().String()
}

func adopt(t *testing.T, from, to zfstest.Target, replicate tool) {
	t.Helper()
	ctx := t.Context()
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	name := "adoption-" + hex.EncodeToString(id)
	source, target := &zfs.Client{Runner: from.Runner}, &zfs.Client{Runner: to.Runner}
	for c, pool := range map[*zfs.Client]string{source: from.Pool, target: to.Pool} {
		root := pool + "/" + name
		require.NoError(t, c.Create(ctx, root, zfs.CreateOptions{Properties: map[string]string{"mountpoint": "/tmp/" + name + "-" + pool}}))
		t.Cleanup(func() { zfstest.Sweep(t, c, root) })
	}
	dataset, copies := from.Pool+"/"+name+"/db", to.Pool+"/"+name+"/copies"
	copied, drills := copies+"/elsewhere", to.Pool+"/"+name+"/drills"
	require.NoError(t, source.Create(ctx, dataset, zfs.CreateOptions{}))
	require.NoError(t, target.Create(ctx, copies, zfs.CreateOptions{}))

	// Nobody may receive, and nobody may change anything where the copies are.
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	pem, err := ca.Client("velero", time.Now())
	require.NoError(t, err)
	bundle := filepath.Join(t.TempDir(), "velero.pem")
	require.NoError(t, os.WriteFile(bundle, pem, 0o600))
	verbs := func(prefix string, vs ...agent.Verb) agent.Grant {
		return agent.Grant{Name: "velero", Verbs: vs, Prefixes: []string{prefix}}
	}
	agents := "hassio=" + serve(t, ca, "hassio", from.Runner, verbs(path.Dir(dataset), agent.Read, agent.Snapshot, agent.Hold, agent.Destroy)) +
		",remote=" + serve(t, ca, "remote", to.Runner, verbs(path.Dir(copies), agent.Read), verbs(drills, agent.Clone, agent.Destroy))

	scheme := runtime.NewScheme()
	require.NoError(t, velerov1api.AddToScheme(scheme))
	kube := fake.NewClientBuilder().WithScheme(scheme).Build()
	sites := &zfssnap.Sites{
		Connect: func(l zfssnap.Location, pem []byte) (zfssnap.Agents, error) {
			b, err := agent.ParseBundle(pem)
			return directory{agent.NewDirectoryWith(l.Agents, b)}, err
		},
		Kube: func() (client.Client, error) { return kube, nil },
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	snapshotter := &zfssnap.Snapshotter{Sites: sites, Namespace: "velero", Log: log}
	config := map[string]string{"agents": agents, "target": "remote", "replication": "external", "credentialsFile": bundle}
	require.NoError(t, snapshotter.Init(config))
	location, err := zfssnap.ParseLocation(config)
	require.NoError(t, err)
	site, err := sites.Open(location, pem)
	require.NoError(t, err)
	remote, err := site.Agent("remote")
	require.NoError(t, err)

	vol := zfssnap.VolumeID{Node: "hassio", Dataset: dataset}
	backup := func(name string, data []byte) zfssnap.SnapshotID {
		t.Helper()
		from.Write(t, dataset, "data", data)
		require.NoError(t, kube.Create(ctx, &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name, UID: types.UID(name)}}))
		text, err := snapshotter.CreateSnapshot(vol.String(), "", map[string]string{"velero.io/backup": name, "velero.io/pv": "pv"})
		require.NoError(t, err)
		snap, err := zfssnap.ParseSnapshotID(text)
		require.NoError(t, err)
		return snap
	}
	arrival := func(snap zfssnap.SnapshotID) zfssnap.Arrival {
		t.Helper()
		a, err := site.Arrival(ctx, vol, snap.Snapshot)
		require.NoError(t, err)
		return a
	}
	arrived := func(snap zfssnap.SnapshotID) {
		t.Helper()
		a := arrival(snap)
		require.True(t, a.Arrived(), a)
		assert.Equal(t, copied, a.Newest.GetDataset(), "it is found by guid, wherever the tool put it")
		assert.Equal(t, a.Snapshot.GetCreatedUnix(), a.Newest.GetCreatedUnix())
	}
	// theirs is what there is of the tool's, on its target.
	theirs := func() []string {
		t.Helper()
		vs, err := target.Versions(ctx, copied)
		require.NoError(t, err)
		var all []string
		for _, v := range vs {
			all = append(all, fmt.Sprintf("%s %d, %d holds", v.FullName(), v.GUID, v.UserRefs))
		}
		props, err := target.UserProperties(ctx, copied, zfs.SourceLocal)
		require.NoError(t, err)
		return append(all, fmt.Sprint(props))
	}

	first := bytes.Repeat([]byte("first "), 10_000)
	one := backup("one", first)
	a := arrival(one)
	assert.Nil(t, a.Newest, "the tool has yet to run: %s", a)
	replicate(t, dataset, copied)
	arrived(one)

	two := backup("two", bytes.Repeat([]byte("second "), 10_000))
	a = arrival(two)
	require.False(t, a.Arrived())
	assert.Equal(t, copied, a.Newest.GetDataset(), "how far it has come, and so the RPO, can be read meanwhile: %s", a)

	// A drill works on a clone, and the tool goes on beside it.
	before := theirs()
	found, err := remote.FindSnapshot(ctx, &agentpb.FindSnapshotRequest{Guid: one.GUID, Hints: location.Hints(vol.Node, dataset)})
	require.NoError(t, err)
	drilled := drills + "/db"
	_, err = remote.CreateVolume(ctx, &agentpb.CreateVolumeRequest{
		Snapshot: found.GetDataset() + "@" + found.GetName(), Guid: one.GUID, Dataset: drilled, Mode: agent.ModeClone,
		Native: map[string]string{"mountpoint": "/tmp/" + name + "-drill"},
	})
	require.NoError(t, err)
	require.NoError(t, target.Mount(ctx, drilled))
	assert.True(t, bytes.Equal(first, to.Read(t, drilled, "data")))
	to.Write(t, drilled, "data", []byte("the drill's own"))
	assert.Equal(t, before, theirs(), "what is the tool's is as it was")
	replicate(t, dataset, copied)
	arrived(two)

	// What we delete at the source is never what the tool goes on from.
	require.NoError(t, snapshotter.DeleteSnapshot(one.String()))
	replicate(t, dataset, copied)
	three := backup("three", []byte("third"))
	replicate(t, dataset, copied, noMark)
	arrived(three)
	err = snapshotter.DeleteSnapshot(three.String())
	require.ErrorIs(t, err, zfssnap.ErrToolNeeds)
	four := backup("four", []byte("fourth"))
	require.ErrorIs(t, snapshotter.DeleteSnapshot(three.String()), zfssnap.ErrToolNeeds)
	replicate(t, dataset, copied, noMark)
	arrived(four)
	require.NoError(t, snapshotter.DeleteSnapshot(three.String()))
	five := backup("five", []byte("fifth"))
	replicate(t, dataset, copied)
	arrived(five)
	require.NoError(t, target.Destroy(ctx, drilled, zfs.DestroyOptions{}))

	// What the tool went past without bringing it never comes.
	six := backup("six", []byte("sixth"))
	replicate(t, dataset, copied, onlyTheOne)
	_, err = site.Arrival(ctx, vol, six.Snapshot)
	require.ErrorIs(t, err, zfssnap.ErrPassedOver)
	_, err = site.Arrival(ctx, vol, "none-such")
	require.ErrorIs(t, err, zfssnap.ErrNoSnapshot)
}
