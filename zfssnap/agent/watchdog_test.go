package agent_test

import (
	"crypto/tls"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// healthOf asks a host for its health, with a certificate that may do nothing
// else.
func (w *world) healthOf(t *testing.T, h *host) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	pem, err := w.ca.Client("nobody", time.Now())
	require.NoError(t, err)
	cert, err := tls.X509KeyPair(pem[strings.Index(string(pem), "-----END")+26:], pem)
	require.NoError(t, err)
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
	})))
	require.NoError(t, err)
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	return resp.GetStatus()
}

func TestPoolThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var hung atomic.Int32
	w.hassio.restart(t, func(s *agent.Server) {
		s.CommandTimeout = 500 * time.Millisecond
		s.OnHang = func(pool string) {
			if pool == "znvm" {
				hung.Add(1)
			}
		}
	})
	look := func(dataset string) error {
		_, err := w.client.ListVersions(t.Context(), &agentpb.ListVersionsRequest{Dataset: dataset})
		return err
	}
	healthy := func(want healthpb.HealthCheckResponse_ServingStatus, ready bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			return w.healthOf(t, w.hassio) == want && (w.hassio.server.Ready() == nil) == ready
		}, 2*time.Minute, 5*time.Millisecond)
	}
	require.NoError(t, look("nas"))
	w.hassio.pool.SetHanging("znvm", true)
	err := look(source)
	require.ErrorIs(t, err, agent.ErrPool)
	require.NotErrorIs(t, err, agent.ErrUnreachable)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, "pool znvm hangs since")
	assert.Contains(t, hint(t, err), "zpool clear")
	require.NoError(t, look("nas"), "the other pool is served")
	healthy(healthpb.HealthCheckResponse_SERVING, true)
	assert.Equal(t, []string{"znvm"}, w.hassio.server.HangingPools())

	// A backup of what hangs fails with the reason, and is not tried for hours.
	v := &agentpb.Version{Dataset: source, Name: "dr-b1", Guid: 1}
	_, err = w.client.Replicate(t.Context(), w.request(v))
	require.ErrorIs(t, err, agent.ErrPool)

	w.hassio.pool.SetHanging("nas", true)
	require.ErrorIs(t, look("nas"), agent.ErrPool)
	healthy(healthpb.HealthCheckResponse_NOT_SERVING, false)
	assert.ErrorContains(t, w.hassio.server.Ready(), "no pool of this host answers, hanging: nas znvm")

	before := len(w.hassio.pool.Commands())
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() { assert.ErrorIs(t, look(source), agent.ErrPool) })
	}
	calls.Wait()
	assert.Less(t, len(w.hassio.pool.Commands())-before, 25, "processes do not pile up")

	w.hassio.pool.SetHanging("nas", false)
	w.hassio.pool.SetHanging("znvm", false)
	require.NoError(t, look("nas"))
	require.NoError(t, look(source))
	healthy(healthpb.HealthCheckResponse_SERVING, true)
	assert.NotContains(t, w.hassio.server.HangingPools(), "znvm")
	assert.Positive(t, hung.Load())
}

func TestReplicate_targetPoolHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.remote.restart(t, func(s *agent.Server) { s.CommandTimeout = 500 * time.Millisecond })
	v := w.snapshot(t, "b1")
	w.remote.pool.SetHanging("backup", true)
	tr := w.replicate(t, v)
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrPool)
	assert.Equal(t, "POOL_UNAVAILABLE", tr.GetReason())
	assert.Contains(t, tr.GetError(), "pool backup hangs since")
	assert.Contains(t, tr.GetError(), "zpool clear")
	w.remote.pool.SetHanging("backup", false)
	// One command finds out that the pool is back.
	require.Eventually(t, func() bool {
		_, err := w.far.ResolveDataset(t.Context(), &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: "backup"}})
		return err == nil
	}, 2*time.Minute, time.Millisecond)
	w.hassio.clock.advance(time.Hour)
	w.done(t, v)
}

func TestReplicate_thatStallsFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.restart(t, func(s *agent.Server) { s.StallTimeout = time.Second })
	at, release := blockReceive(w.remote)
	defer release()
	v := w.snapshot(t, "b1")
	tr, err := w.client.Replicate(t.Context(), w.request(v))
	require.NoError(t, err)
	<-at
	tr = w.until(t, tr.GetId(), func(tr *agentpb.Transfer) bool { return tr.GetStalled() })
	assert.Equal(t, agentpb.Transfer_RUNNING, tr.GetState(), "it is marked before it fails")
	tr = w.wait(t, tr.GetId())
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrStalled)
	assert.Equal(t, "STALLED", tr.GetReason())
	assert.False(t, tr.GetStalled())
	assert.Contains(t, tr.GetError(), "no data has moved for ")
	assert.Contains(t, tr.GetError(), "look at zpool status on both hosts")
	assert.Zero(t, tr.GetRateBytesPerSecond())

	release()
	w.hassio.clock.advance(time.Hour)
	require.Eventually(t, func() bool { return agent.TransferError(w.replicate(t, v)) == nil }, 2*time.Minute, 5*time.Millisecond)
	w.requireSame(t, v)
}
