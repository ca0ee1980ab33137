package main

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/health"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

const metricNamespace = "zfs_agent"

// metrics are what the agent tells Prometheus; docs/metrics.md lists them. The
// labels of transfers are direction, "sent" or "received"; dataset, this node's;
// and peer, the other node.
type metrics struct {
	registry    *prometheus.Registry
	bytes       *prometheus.CounterVec
	failures    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	lastSuccess *prometheus.GaugeVec
	hung        *prometheus.CounterVec
}

func newMetrics(node string, bundle *agent.Bundle) *metrics {
	labels := []string{"direction", "dataset", "peer"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricNamespace, Name: "transfer_bytes_total", Help: "Bytes of zfs streams, counted when they end.",
		}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricNamespace, Name: "transfer_failures_total", Help: "Transfers that ended with an error or were cancelled, and receives that were cut off, by reason.",
		}, append(labels[:3:3], "reason")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metricNamespace, Name: "transfer_duration_seconds", Help: "How long successful transfers took.",
			Buckets: prometheus.ExponentialBuckets(0.5, 4, 10),
		}, []string{"direction"}),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: metricNamespace, Name: "transfer_last_success_timestamp_seconds", Help: "When a transfer last succeeded, since the agent started.",
		}, labels),
		hung: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricNamespace, Name: "hung_commands_total", Help: "Commands of ZFS that did not end in time; pool is empty for those about none in particular.",
		}, []string{"pool"}),
	}
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: metricNamespace, Name: "info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"node": node, "version": names.Version},
	}, func() float64 { return 1 })
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: metricNamespace, Name: "certificate_expiry_timestamp_seconds", Help: "When the agent's certificate expires.",
	}, func() float64 { return float64(bundle.Expires().Unix()) })
	m.registry.MustRegister(m.bytes, m.failures, m.duration, m.lastSuccess, m.hung, info, expiry,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// transfer records the end of one.
func (m *metrics) transfer(e agent.TransferEvent) {
	direction := "sent"
	if e.Received {
		direction = "received"
	}
	m.bytes.WithLabelValues(direction, e.Dataset, e.Peer).Add(float64(e.Bytes))
	if e.Err != nil {
		m.failures.WithLabelValues(direction, e.Dataset, e.Peer, e.Reason).Inc()
		return
	}
	m.duration.WithLabelValues(direction).Observe(e.Duration.Seconds())
	m.lastSuccess.WithLabelValues(direction, e.Dataset, e.Peer).SetToCurrentTime()
}

// hang records a command that did not end in time.
func (m *metrics) hang(pool string) { m.hung.WithLabelValues(pool).Inc() }

// observe adds what the server tells when it is asked.
func (m *metrics) observe(server *agent.Server) {
	m.registry.MustRegister(serverCollector{server: server, now: time.Now})
}

// handler serves the metrics, and the agent's health beside them.
func (m *metrics) handler(server *agent.Server) http.Handler {
	return health.Handler(m.registry, server.Ready)
}

// serverCollector collects without waiting for ZFS.
type serverCollector struct {
	server *agent.Server
	now    func() time.Time
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricNamespace, "", name), help, labels, nil)
}

var (
	inFlight    = desc("transfers_in_flight", "Transfers under way.", "direction")
	waiting     = desc("transfers_waiting", "Transfers that wait for their turn, or to be tried again.")
	stalled     = desc("transfers_stalled", "Transfers under way that have moved no data for long.")
	sendRate    = desc("send_rate_bytes_per_second", "What all transfers under way send together.")
	hanging     = desc("pool_hanging", "1 while commands on the pool do not end; pool is empty for those about none in particular.", "pool")
	lag         = desc("replica_lag_seconds", "Age of the newest snapshot of a replica of this node.", "dataset", "source")
	replicasAge = desc("replicas_read_timestamp_seconds", "When the replicas were last looked at; the lag is of then.")
)

// Describe implements prometheus.Collector.
func (serverCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{inFlight, waiting, stalled, sendRate, hanging, lag, replicasAge} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c serverCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	a := c.server.Activity()
	gauge(inFlight, float64(a.Sending), "sent")
	gauge(inFlight, float64(a.Receiving), "received")
	gauge(waiting, float64(a.Waiting))
	gauge(stalled, float64(a.Stalled))
	gauge(sendRate, float64(a.Rate))
	for _, pool := range c.server.HangingPools() {
		gauge(hanging, 1, pool)
	}
	replicas, at := c.server.Replicas()
	for _, r := range replicas {
		// One that has nothing yet has no age; it shows as a transfer.
		if !r.Newest.IsZero() {
			gauge(lag, c.now().Sub(r.Newest).Seconds(), r.Dataset, r.Source)
		}
	}
	if !at.IsZero() {
		gauge(replicasAge, float64(at.UnixMilli())/1000)
	}
}
