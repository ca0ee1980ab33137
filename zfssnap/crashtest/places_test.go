package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agenttest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// place is where stories are played: pools in memory, or real ones.
type place interface {
	// world returns two nodes for one story.
	world(t *testing.T) *world
	// faults says what is to go wrong at a step.
	faults(took) []fault
	// troubles says what can happen to pools.
	troubles() []trouble
	// parallel lets a test run beside others, where that does no harm.
	parallel(t *testing.T)
}

func newPlace(t *testing.T) place {
	t.Helper()
	if source := os.Getenv(zfstest.EnvPool); source != "" {
		require.Empty(t, os.Getenv(zfstest.EnvRunner), "agents run where the pools are")
		target := os.Getenv(zfstest.EnvReplicaPool)
		if target == "" {
			target = source
		}
		return &pools{source: source, target: target}
	}
	return memory{}
}

// identities are the PEM bundles of nodes and of who calls them; making keys
// takes longer than a story.
var identities = sync.OnceValues(func() (map[string][]byte, error) {
	ca, err := agent.NewAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	bundles := map[string][]byte{}
	for _, node := range []string{sourceNode, targetNode} {
		if bundles[node], err = ca.Node(node, time.Now()); err != nil {
			return nil, err
		}
	}
	bundles[caller], err = ca.Client(caller, time.Now())
	return bundles, err
})

func bundleOf(t *testing.T, identity string) *agent.Bundle {
	t.Helper()
	bundles, err := identities()
	require.NoError(t, err)
	b, err := agent.ParseBundle(bundles[identity])
	require.NoError(t, err)
	return b
}

// caller is the identity of Velero and kubectl dr.
const caller = "velero"

// policy lets the caller do everything, and the source's agent send.
func policy(targetRoot string) agent.Policy {
	return agent.Policy{Identities: []agent.Grant{
		{Name: caller, Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}},
		{Name: sourceNode, Verbs: []agent.Verb{agent.Read, agent.Receive}, Prefixes: []string{targetRoot + "/replica"}},
	}}
}

// memory plays on pools in memory.
type memory struct{}

func (memory) parallel(t *testing.T) { t.Parallel() }

func (memory) faults(s took) []fault { return faults(s) }

func (memory) world(t *testing.T) *world {
	t.Helper()
	w := &world{patience: 2 * time.Minute, pause: 2 * time.Millisecond, size: 32 << 10}
	log := slog.New(slog.NewTextHandler(output(t), nil))
	side := func(node, pool, root string) *side {
		p := zfstest.NewPool(pool)
		target := p.Target(pool)
		s := &side{
			node: node, root: root, zfs: &zfs.Client{Runner: p}, bundle: bundleOf(t, caller), write: target.Write, readFile: target.Read,
			read: func(_ context.Context, snapshot string, _ bool) (map[string][]byte, error) { return p.Files(snapshot) },
		}
		require.NoError(t, s.zfs.Create(t.Context(), root+"/replica", zfs.CreateOptions{Parents: true}))
		s.host = newInProcess(t, w, p, func(r zfs.Runner) *agent.Server {
			return &agent.Server{
				Node: node, Bundle: bundleOf(t, node), Policy: policy(root), ZFS: &zfs.Client{Runner: r}, Log: log.With("node", node),
				RetryDelay: func(int) time.Duration { return time.Millisecond },
			}
		})
		return s
	}
	w.connect(t, side(sourceNode, "znvm", "znvm/k3s"), side(targetNode, "backup", "backup/dr"))
	return w
}

// output is where agents log to.
func output(t *testing.T) io.Writer {
	if testing.Verbose() {
		return t.Output()
	}
	return io.Discard
}

// pools plays on real pools of this host, each side in a dataset of its own.
type pools struct{ source, target string }

func (*pools) parallel(*testing.T) {}

// faults implements place. A real command also dies at some instant of its own.
func (*pools) faults(s took) []fault {
	fs := faults(s)
	if !s.Step.reads() {
		for _, what := range []string{process, agents} {
			fs = append(fs, fault{Step: s.Step, What: what, When: anytime, Delay: rand.N(s.Time)})
		}
	}
	return fs
}

func (p *pools) world(t *testing.T) *world { return p.worldOn(t, p.source, p.target) }

// worldOn returns two nodes on two pools, or on one.
func (p *pools) worldOn(t *testing.T, source, target string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{patience: 5 * time.Minute, pause: 200 * time.Millisecond, size: 2 << 20}
	client := zfs.New()
	id := fmt.Sprintf("crashtest-%08x", rand.Uint32())
	side := func(node, pool, name string) *side {
		root := pool + "/" + id + "-" + name
		require.NoError(t, client.Create(t.Context(), root, zfs.CreateOptions{Properties: map[string]string{
			"mountpoint": "/tmp/" + id + "-" + name, "compression": "off",
		}}))
		t.Cleanup(func() { zfstest.Sweep(t, client, root) })
		require.NoError(t, client.Create(t.Context(), root+"/replica", zfs.CreateOptions{}))
		bundle := filepath.Join(dir, node+".pem")
		pem, err := identities()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(bundle, pem[node], 0o600))
		s := &side{node: node, root: root, zfs: client, bundle: bundleOf(t, caller)}
		s.write = func(t *testing.T, dataset, name string, data []byte) {
			t.Helper()
			require.NoError(t, os.WriteFile(filepath.Join(mountpoint(t, client, dataset), name), data, 0o600))
		}
		s.readFile = func(t *testing.T, dataset, name string) []byte {
			t.Helper()
			data, err := os.ReadFile(filepath.Join(mountpoint(t, client, dataset), name))
			require.NoError(t, err)
			return data
		}
		s.read = func(ctx context.Context, snapshot string, clone bool) (map[string][]byte, error) {
			if !clone {
				return nil, nil
			}
			return lookInto(ctx, client, snapshot, root+"/look")
		}
		s.host = newSpawned(t, w, agentSettings{Node: node, Address: freeAddress(t), Bundle: bundle, Policy: policy(root)}, output(t))
		return s
	}
	w.connect(t, side(sourceNode, source, "source"), side(targetNode, target, "target"))
	return w
}

// connect makes two sides a world.
func (w *world) connect(t *testing.T, source, target *side) {
	t.Helper()
	w.source, w.target = source, target
	w.link = agenttest.NewLink(t, target.host.address())
	source.redial(t)
	target.redial(t)
}

func mountpoint(t *testing.T, client *zfs.Client, dataset string) string {
	t.Helper()
	d, err := client.Dataset(t.Context(), dataset)
	require.NoError(t, err)
	require.True(t, d.Mounted, "%s is not mounted", dataset)
	return d.Mountpoint
}

// lookInto returns the files of a snapshot, by way of a clone.
func lookInto(ctx context.Context, client *zfs.Client, snapshot, clone string) (files map[string][]byte, err error) {
	dir, err := os.MkdirTemp("", "look")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := client.Clone(ctx, snapshot, clone, map[string]string{"mountpoint": dir, "canmount": "on", "readonly": "on"}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Destroy(ctx, clone, zfs.DestroyOptions{})) }()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files = map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
