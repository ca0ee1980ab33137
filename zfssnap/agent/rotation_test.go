package agent_test

import (
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// filed is a world whose bundles lie in files, as they do in production.
type filed struct {
	*world
	dir string
}

func newFiled(t *testing.T) *filed {
	t.Helper()
	f := &filed{world: newWorld(t), dir: t.TempDir()}
	f.issue(t, f.ca, "hassio", "remote", "velero")
	for _, h := range []*host{f.hassio, f.remote} {
		h.stop(t)
		bundle, err := agent.LoadBundle(f.file(h.node))
		require.NoError(t, err)
		h.bundle = bundle
		h.start(t)
	}
	f.client = f.dialFiled(t, f.hassio)
	f.far = f.dialFiled(t, f.remote)
	return f
}

func (f *filed) file(name string) string { return filepath.Join(f.dir, name+".pem") }

// issue puts new bundles in the place of old ones.
func (f *filed) issue(t *testing.T, ca *agent.Authority, names ...string) {
	t.Helper()
	for _, name := range names {
		issue := ca.Node
		if name == "velero" {
			issue = ca.Client
		}
		bundle, err := issue(name, time.Now())
		require.NoError(t, err)
		require.NoError(t, agent.WriteBundle(f.file(name), bundle))
	}
}

// dialFiled connects anew, with what velero's file holds.
func (f *filed) dialFiled(t *testing.T, h *host) *agent.Client {
	t.Helper()
	bundle, err := agent.LoadBundle(f.file("velero"))
	require.NoError(t, err)
	c, err := agent.Dial(h.node, h.addr, bundle)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serial calls an agent, and returns the number of the certificate it showed.
func serial(t *testing.T, c *agent.Client) *big.Int {
	t.Helper()
	var p peer.Peer
	_, err := c.Info(t.Context(), &agentpb.InfoRequest{}, grpc.Peer(&p))
	require.NoError(t, err)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	require.True(t, ok)
	return info.State.PeerCertificates[0].SerialNumber
}

func caPEM(ca *agent.Authority) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})
}

func TestRotation_withoutARestart(t *testing.T) {
	t.Parallel()
	f := newFiled(t)
	at, release := blockReceive(f.remote)
	defer release()
	v := f.snapshot(t, "b1")
	tr, err := f.client.Replicate(t.Context(), f.request(v))
	require.NoError(t, err)
	<-at
	before := serial(t, f.client)

	f.issue(t, f.ca, "hassio", "remote", "velero")
	assert.Equal(t, before, serial(t, f.client), "a connection that is there goes on")
	after := serial(t, f.dialFiled(t, f.hassio))
	assert.NotEqual(t, before, after, "a new one shows the new certificate")
	release()
	require.NoError(t, agent.TransferError(f.wait(t, tr.GetId())), "and so does a stream that is under way")
	f.requireSame(t, v)
	f.done(t, f.snapshot(t, "b2"))
}

func TestRotation_ofTheAuthority(t *testing.T) {
	t.Parallel()
	f := newFiled(t)
	dir := t.TempDir()
	next, err := agent.OpenAuthority(dir, time.Now())
	require.NoError(t, err)
	first := f.client
	backup := 0
	works := func(phase string) {
		t.Helper()
		_, err := first.Info(t.Context(), &agentpb.InfoRequest{})
		require.NoError(t, err, "%s: the first connection", phase)
		for _, h := range []*host{f.hassio, f.remote} {
			_, err := f.dialFiled(t, h).Info(t.Context(), &agentpb.InfoRequest{})
			require.NoError(t, err, "%s: a new connection to %s", phase, h.node)
		}
		// Agents connect anew for each transfer.
		backup++
		f.done(t, f.snapshot(t, string(rune('a'+backup))))
	}
	works("one authority")

	require.NoError(t, f.ca.Trust(caPEM(next)))
	for _, name := range []string{"hassio", "velero", "remote"} {
		f.issue(t, f.ca, name)
		works("the next is trusted by " + name)
	}
	require.NoError(t, next.Trust(caPEM(f.ca)))
	for _, name := range []string{"remote", "hassio", "velero"} {
		f.issue(t, next, name)
		works("the next has issued the bundle of " + name)
	}
	// From here on the first authority counts no more.
	alone, err := agent.OpenAuthority(dir, time.Now())
	require.NoError(t, err)
	for _, name := range []string{"velero", "hassio", "remote"} {
		f.issue(t, alone, name)
		works("the first is no longer trusted by " + name)
	}
	require.NoError(t, f.ca.Trust(caPEM(next)))
	f.issue(t, f.ca, "velero")
	_, err = f.dialFiled(t, f.hassio).Info(t.Context(), &agentpb.InfoRequest{})
	require.ErrorIs(t, err, agent.ErrUnreachable, "a certificate of the first opens nothing, whatever its bundle trusts")
}

func TestRotation_endsWhatIsNoLongerTrusted(t *testing.T) {
	t.Parallel()
	f := newFiled(t)
	f.hassio.restart(t, func(s *agent.Server) { s.ConnectionAge = 50 * time.Millisecond })
	at, release := blockReceive(f.remote)
	defer release()
	tr, err := f.client.Replicate(t.Context(), f.request(f.snapshot(t, "b1")))
	require.NoError(t, err)
	<-at
	next, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	// The agent trusts another authority; this client's certificate is of the first.
	f.issue(t, next, "hassio")
	require.Eventually(t, func() bool {
		_, err := f.client.Info(t.Context(), &agentpb.InfoRequest{})
		return err != nil
	}, 2*time.Minute, 5*time.Millisecond, "its connection is made anew before long")
	f.issue(t, next, "velero")
	require.Eventually(t, func() bool {
		_, err := f.client.Info(t.Context(), &agentpb.InfoRequest{})
		return err == nil
	}, 2*time.Minute, 5*time.Millisecond, "a bundle of the new authority is taken without a restart")
	release()
	require.NoError(t, agent.TransferError(f.wait(t, tr.GetId())), "a stream under way was not cut off")
}
