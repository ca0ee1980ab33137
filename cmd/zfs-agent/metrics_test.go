package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// newTestMetrics is of an agent over a host in memory.
func newTestMetrics(t *testing.T, pool *zfstest.Pool) (*metrics, *agent.Server) {
	t.Helper()
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	pem, err := ca.Node("hassio", time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	m := newMetrics("hassio", bundle)
	server := &agent.Server{Node: "hassio", Bundle: bundle, ZFS: &zfs.Client{Runner: pool}, OnHang: m.hang, CommandTimeout: time.Second}
	m.observe(server)
	t.Cleanup(func() { server.Stop(t.Context()) })
	return m, server
}

func requireMetrics(t *testing.T, m *metrics, want string, names ...string) {
	t.Helper()
	var help strings.Builder
	for line := range strings.Lines(want) {
		help.WriteString(strings.TrimSpace(line) + "\n")
	}
	require.NoError(t, testutil.GatherAndCompare(m.registry, strings.NewReader(help.String()), names...))
}

func TestMetrics_transfer(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics(t, zfstest.NewPool())
	m.transfer(agent.TransferEvent{Dataset: "tank/a", Peer: "remote", Bytes: 7, Duration: time.Second})
	m.transfer(agent.TransferEvent{Dataset: "tank/a", Peer: "remote", Bytes: 5, Err: io.EOF, Reason: "NO_SPACE"})
	m.transfer(agent.TransferEvent{Received: true, Dataset: "tank/b", Peer: "other", Bytes: 3})
	requireMetrics(t, m, `
		# HELP zfs_agent_transfer_bytes_total Bytes of zfs streams, counted when they end.
		# TYPE zfs_agent_transfer_bytes_total counter
		zfs_agent_transfer_bytes_total{dataset="tank/a",direction="sent",peer="remote"} 12
		zfs_agent_transfer_bytes_total{dataset="tank/b",direction="received",peer="other"} 3
		# HELP zfs_agent_transfer_failures_total Transfers that ended with an error or were cancelled, and receives that were cut off, by reason.
		# TYPE zfs_agent_transfer_failures_total counter
		zfs_agent_transfer_failures_total{dataset="tank/a",direction="sent",peer="remote",reason="NO_SPACE"} 1
	`, "zfs_agent_transfer_bytes_total", "zfs_agent_transfer_failures_total")
	assert.Equal(t, 2, testutil.CollectAndCount(m.lastSuccess))
}

func TestMetrics_lagOfReplicas(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool("tank", "back")
	client := &zfs.Client{Runner: pool}
	begin := time.Now().Truncate(time.Second)
	pool.SetClock(func() time.Time { return begin.Add(-time.Hour) })
	for _, name := range []string{"tank/a", "back/b", "back/empty", "tank/other"} {
		require.NoError(t, client.Create(t.Context(), name, zfs.CreateOptions{}))
		if name != "tank/other" {
			require.NoError(t, client.Set(t.Context(), name, map[string]string{names.PropSource: "hassio:" + name}))
		}
		if name != "back/empty" {
			require.NoError(t, client.Snapshot(t.Context(), []string{name + "@one"}, nil))
		}
	}
	pool.SetClock(func() time.Time { return begin.Add(-time.Minute) })
	require.NoError(t, client.Snapshot(t.Context(), []string{"tank/a@two"}, nil))

	m, _ := newTestMetrics(t, pool)
	lags := func() map[string]float64 {
		families, err := m.registry.Gather()
		require.NoError(t, err)
		got := map[string]float64{}
		for _, f := range families {
			if f.GetName() != "zfs_agent_replica_lag_seconds" {
				continue
			}
			for _, s := range f.GetMetric() {
				got[s.GetLabel()[0].GetValue()+" of "+s.GetLabel()[1].GetValue()] = s.GetGauge().GetValue()
			}
		}
		return got
	}
	want := map[string]float64{"tank/a of hassio:tank/a": 60, "back/b of hassio:back/b": 3600}
	assert.InDeltaMapValues(t, want, lags(), 30)

	// A scrape does not wait for a pool that hangs, nor read anew each time.
	pool.SetHanging("tank", true)
	pool.SetHanging("back", true)
	before := len(pool.Commands())
	start := time.Now()
	for range 20 {
		assert.InDeltaMapValues(t, want, lags(), 30)
	}
	assert.Less(t, time.Since(start), 20*time.Second)
	assert.Equal(t, before, len(pool.Commands()))
}

func TestMetrics_aPoolThatHangs(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	m, server := newTestMetrics(t, pool)
	pool.SetHanging("tank", true)
	server.Replicas()
	requireMetrics(t, m, `
		# HELP zfs_agent_hung_commands_total Commands of ZFS that did not end in time; pool is empty for those about none in particular.
		# TYPE zfs_agent_hung_commands_total counter
		zfs_agent_hung_commands_total{pool="tank"} 1
		# HELP zfs_agent_pool_hanging 1 while commands on the pool do not end; pool is empty for those about none in particular.
		# TYPE zfs_agent_pool_hanging gauge
		zfs_agent_pool_hanging{pool="tank"} 1
	`, "zfs_agent_hung_commands_total", "zfs_agent_pool_hanging")

	ready := httptest.NewRequest(http.MethodGet, "/readyz", nil)
	var resp *httptest.ResponseRecorder
	require.Eventually(t, func() bool {
		resp = httptest.NewRecorder()
		m.handler(server).ServeHTTP(resp, ready)
		return resp.Code == http.StatusServiceUnavailable
	}, 2*time.Minute, 5*time.Millisecond)
	assert.Equal(t, "pool is unavailable: no pool of this host answers, hanging: tank\n", resp.Body.String())
	resp = httptest.NewRecorder()
	m.handler(server).ServeHTTP(resp, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	assert.Equal(t, http.StatusOK, resp.Code, "a restart would not help")
}

// metricNames are the names of all metrics that are ours.
func metricNames(t *testing.T) []string {
	t.Helper()
	m, server := newTestMetrics(t, zfstest.NewPool())
	ch := make(chan *prometheus.Desc, 100)
	m.registry.Describe(ch)
	serverCollector{server: server}.Describe(ch)
	close(ch)
	var all []string
	name := regexp.MustCompile(`fqName: "(` + metricNamespace + `_[a-z_]+)"`)
	for d := range ch {
		if found := name.FindStringSubmatch(d.String()); found != nil {
			all = append(all, found[1])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mentioned are the names of metrics in a text.
func mentioned(text string) []string {
	all := regexp.MustCompile(metricNamespace+`_[a-z_]+`).FindAllString(text, -1)
	for i := range all {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			all[i] = strings.TrimSuffix(all[i], suffix)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestMetrics_areDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	assert.Equal(t, metricNames(t), mentioned(string(doc)), "the document names all metrics, and no others")
}
