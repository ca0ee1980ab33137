package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

const (
	source  = "znvm/k3s/pvc-1"
	replica = "backup/replica/znvm/k3s/pvc-1"
)

var everything = agent.Grant{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}}

// host is one node with its pools and its agent.
type host struct {
	node   string
	pool   *zfstest.Pool
	zfs    *zfs.Client
	bundle *agent.Bundle
	policy agent.Policy
	addr   string
	server *agent.Server
	clock  *clock
	events events
	tune   func(*agent.Server) // before it serves
	served chan error          // nil when it is stopped
}

// world is two nodes of one CA, and a client that may do everything.
type world struct {
	ca             *agent.Authority
	hassio, remote *host
	client         *agent.Client // of hassio
	far            *agent.Client // of remote
}

// clock moves when told to.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

type events struct {
	mu  sync.Mutex
	all []agent.TransferEvent
}

func (e *events) add(ev agent.TransferEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) take() []agent.TransferEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	return all
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	w := &world{ca: ca}
	w.hassio = newHost(t, ca, "hassio", agent.Policy{Identities: []agent.Grant{everything}}, "znvm", "nas")
	w.remote = newHost(t, ca, "remote", agent.Policy{Identities: []agent.Grant{
		everything,
		{Name: "hassio", Verbs: []agent.Verb{agent.Read, agent.Receive}, Prefixes: []string{"backup/replica"}},
	}}, "backup")
	w.client = w.dial(t, w.hassio, "velero")
	w.far = w.dial(t, w.remote, "velero")
	require.NoError(t, w.hassio.zfs.Create(t.Context(), source, zfs.CreateOptions{Parents: true}))
	require.NoError(t, w.hassio.pool.Write(source, "data", random(1<<20)))
	return w
}

func newHost(t testing.TB, ca *agent.Authority, node string, policy agent.Policy, pools ...string) *host {
	t.Helper()
	pool := zfstest.NewPool(pools...)
	h := newHostOn(t, ca, node, &zfs.Client{Runner: pool}, policy)
	h.pool = pool
	return h
}

// newHostOn is newHost on any ZFS.
func newHostOn(t testing.TB, ca *agent.Authority, node string, c *zfs.Client, policy agent.Policy) *host {
	t.Helper()
	pem, err := ca.Node(node, time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	h := &host{node: node, zfs: c, bundle: bundle, policy: policy, addr: "127.0.0.1:0", clock: &clock{}}
	h.start(t)
	t.Cleanup(func() { h.stop(t) })
	return h
}

// start serves, at the same address as before.
func (h *host) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", h.addr)
	require.NoError(t, err)
	h.addr = l.Addr().String()
	out := io.Discard
	if testing.Verbose() {
		out = t.Output()
	}
	mounts := filepath.Join(t.TempDir(), "mounts")
	require.NoError(t, os.WriteFile(mounts, []byte("znvm/old /data/wp zfs rw 0 0\nznvm/k3s/pvc-1 /data/wp zfs rw 0 0\n/dev/vda / ext4 rw 0 0\n"), 0o600))
	h.server = &agent.Server{
		Node: h.node, Bundle: h.bundle, Policy: h.policy, ZFS: h.zfs, Clock: h.clock.now, MountTable: mounts,
		Log:        slog.New(slog.NewTextHandler(out, nil)).With("node", h.node),
		RetryDelay: func(int) time.Duration { return time.Millisecond },
		OnTransfer: h.events.add,
	}
	if h.tune != nil {
		h.tune(h.server)
	}
	served := make(chan error, 1)
	h.served = served
	server := h.server
	go func() { served <- server.Serve(l) }()
}

// restart serves with other settings.
func (h *host) restart(t testing.TB, tune func(*agent.Server)) {
	t.Helper()
	h.stop(t)
	h.tune = tune
	h.start(t)
}

// stop ends the agent at once.
func (h *host) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cancel()
	h.server.Stop(ctx)
	if h.served != nil {
		err := <-h.served
		h.served = nil
		require.NoError(t, err)
	}
}

// dial connects to a host as an identity.
func (w *world) dial(t testing.TB, h *host, identity string) *agent.Client {
	t.Helper()
	pem, err := w.ca.Client(identity, time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	c, err := agent.Dial(h.node, h.addr, bundle)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// snapshot takes one of the source for a backup, and waits until it is held.
func (w *world) snapshot(t testing.TB, backup string) *agentpb.Version {
	t.Helper()
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source}, Name: "dr-" + backup, Hold: zfssnap.HoldTag("backup"),
		Properties: map[string]string{zfssnap.PropBackup: backup},
	})
	require.NoError(t, err)
	require.Len(t, resp.GetSnapshots(), 1)
	v := resp.GetSnapshots()[0]
	w.hassio.untilHeld(t, v.GetDataset()+"@"+v.GetName(), zfssnap.HoldTag("backup"))
	return v
}

func (w *world) request(v *agentpb.Version) *agentpb.ReplicateRequest {
	return &agentpb.ReplicateRequest{
		Dataset: v.GetDataset(), Snapshot: v.GetName(), Guid: v.GetGuid(),
		TargetNode: "remote", TargetAddress: w.remote.addr, TargetDataset: "backup/replica/" + v.GetDataset(),
	}
}

// replicate runs a transfer to its end.
func (w *world) replicate(t testing.TB, v *agentpb.Version) *agentpb.Transfer {
	t.Helper()
	return w.replicateAs(t, w.request(v))
}

func (w *world) replicateAs(t testing.TB, req *agentpb.ReplicateRequest) *agentpb.Transfer {
	t.Helper()
	tr, err := w.client.Replicate(t.Context(), req)
	require.NoError(t, err)
	return w.wait(t, tr.GetId())
}

func (w *world) wait(t testing.TB, id string) *agentpb.Transfer {
	t.Helper()
	return w.until(t, id, func(tr *agentpb.Transfer) bool { return tr.GetState() != agentpb.Transfer_RUNNING })
}

func (w *world) until(t testing.TB, id string, is func(*agentpb.Transfer) bool) *agentpb.Transfer {
	t.Helper()
	var tr *agentpb.Transfer
	require.Eventually(t, func() bool {
		var err error
		tr, err = w.client.GetTransfer(t.Context(), &agentpb.GetTransferRequest{Id: id})
		return err == nil && is(tr)
	}, time.Minute, 2*time.Millisecond)
	return tr
}

// forgotten waits until the agent answers that it knows no such transfer.
func (w *world) forgotten(t testing.TB, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := w.client.GetTransfer(t.Context(), &agentpb.GetTransferRequest{Id: id})
		return errors.Is(err, agent.ErrNotFound)
	}, time.Minute, 2*time.Millisecond)
}

// done replicates and requires success.
func (w *world) done(t testing.TB, v *agentpb.Version) *agentpb.Transfer {
	t.Helper()
	tr := w.replicate(t, v)
	require.NoError(t, agent.TransferError(tr))
	require.Equal(t, agentpb.Transfer_DONE, tr.GetState())
	return tr
}

// requireSame checks that a replica's snapshot has the data of its source's.
func (w *world) requireSame(t testing.TB, v *agentpb.Version) {
	t.Helper()
	want, err := w.hassio.pool.Files(v.GetDataset() + "@" + v.GetName())
	require.NoError(t, err)
	got, err := w.remote.pool.Files("backup/replica/" + v.GetDataset() + "@" + v.GetName())
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))
	for name := range want {
		require.True(t, bytes.Equal(want[name], got[name]), "file %s differs", name)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

func (h *host) holds(t testing.TB, snapshot string) []string {
	t.Helper()
	holds, err := h.zfs.Holds(t.Context(), snapshot)
	require.NoError(t, err)
	tags := []string{}
	for _, hold := range holds {
		tags = append(tags, hold.Tag)
	}
	return tags
}

// untilHeld waits until a snapshot has a hold.
func (h *host) untilHeld(t testing.TB, snapshot, tag string) {
	t.Helper()
	require.Eventually(t, func() bool { return slices.Contains(h.holds(t, snapshot), tag) }, 2*time.Minute, time.Millisecond)
}

func (h *host) bookmarks(t testing.TB, dataset string) []uint64 {
	t.Helper()
	vs, err := h.zfs.Versions(t.Context(), dataset)
	require.NoError(t, err)
	var guids []uint64
	for _, v := range vs {
		if v.Bookmark {
			guids = append(guids, v.GUID)
		}
	}
	return guids
}

func (h *host) props(t testing.TB, name string) map[string]string {
	t.Helper()
	props, err := h.zfs.UserProperties(t.Context(), name, zfs.SourceLocal)
	require.NoError(t, err)
	return props
}
