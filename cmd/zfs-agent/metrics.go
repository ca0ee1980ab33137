package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// metrics are what the agent tells Prometheus. The labels are direction, "sent"
// or "received"; dataset, this node's; and peer, the other node.
type metrics struct {
	registry    *prometheus.Registry
	bytes       *prometheus.CounterVec
	failures    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	lastSuccess *prometheus.GaugeVec
}

func newMetrics(node string, bundle *agent.Bundle) *metrics {
	const namespace = "zfs_agent"
	labels := []string{"direction", "dataset", "peer"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "transfer_bytes_total", Help: "Bytes of zfs streams.",
		}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "transfer_failures_total", Help: "Transfers that ended with an error or were cancelled, and receives that were cut off.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "transfer_duration_seconds", Help: "How long successful transfers took.",
			Buckets: prometheus.ExponentialBuckets(0.5, 4, 10),
		}, []string{"direction"}),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "transfer_last_success_timestamp_seconds", Help: "When a transfer last succeeded, since the agent started.",
		}, labels),
	}
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"node": node, "version": names.Version},
	}, func() float64 { return 1 })
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "certificate_expiry_timestamp_seconds", Help: "When the agent's certificate expires.",
	}, func() float64 { return float64(bundle.Expires().Unix()) })
	m.registry.MustRegister(m.bytes, m.failures, m.duration, m.lastSuccess, info, expiry,
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
		m.failures.WithLabelValues(direction, e.Dataset, e.Peer).Inc()
		return
	}
	m.duration.WithLabelValues(direction).Observe(e.Duration.Seconds())
	m.lastSuccess.WithLabelValues(direction, e.Dataset, e.Peer).SetToCurrentTime()
}

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}
