// Package metrics words for Prometheus what is measured of plans, as text or as a
// server; docs/metrics.md lists it. It measures nothing itself.
package metrics

import (
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

const namespace = "kubectl_dr"

// Measurement is what was found out about a plan.
type Measurement struct {
	Plan *plan.RecoveryPlan
	At   time.Time
	// RPO is nil when it could not be measured; Err says why.
	RPO *report.RPO
	// Status is nil when it was not asked for.
	Status *report.Status
	Err    error
}

// Write writes measurements in Prometheus' text format.
func Write(w io.Writer, all []Measurement, now time.Time) error {
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(collector(func() ([]Measurement, time.Time) { return all, now })); err != nil {
		return err
	}
	families, err := r.Gather()
	if err != nil {
		return fmt.Errorf("gather metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return fmt.Errorf("write metrics: %w", err)
		}
	}
	return nil
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, append([]string{"plan"}, labels...), nil)
}

var (
	rpoSeconds  = desc("rpo_seconds", "Age of the data that a failover would recover now: what would be lost.")
	rpoState    = desc("rpo_state", "0: within the objective; 1: up to twice as much; 2: above, or nothing can be recovered.")
	rpoWanted   = desc("rpo_objective_seconds", "The most data, as time, that the plan lets a failover lose.")
	rtoWanted   = desc("rto_objective_seconds", "The longest that the plan lets a failover take.")
	drillWanted = desc("drill_interval_objective_seconds", "How old the plan lets the last passed drill be.")
	metadata    = desc("metadata_rpo_seconds", "Age of the newest backup of the Kubernetes objects.")
	volumeRPO   = desc("volume_rpo_seconds", "Age of the newest point that a volume can be recovered to.", "namespace", "claim")
	active      = desc("active", "1 for the site that the application was moved to last.", "site")
	bothActive  = desc("both_active", "1 while the application seems to run at both sites.")
	epoch       = desc("epoch", "How many runs have changed roles.")
	inProgress  = desc("run_in_progress", "1 while a drill or failover is in progress.")
	lastRun     = desc("last_run_timestamp_seconds", "When the last run of a kind began.", "kind")
	lastPassed  = desc("last_run_passed", "1 if the last run of a kind passed.", "kind")
	lastRTO     = desc("last_run_rto_seconds", "How long recovery took in the last run of a kind.", "kind")
	standbyAge  = desc("standby_age_seconds", "Age of the backup that the warm standby is at.")
	standbyOK   = desc("standby_state", "0: as the backup has it; 1: something is left to do, or there is a newer backup; 2: something could not be done.")
	measured    = desc("measured_timestamp_seconds", "When the plan was last looked at.")
	failed      = desc("measurement_failed", "1 if the plan could not be looked at.")
	skew        = prometheus.NewDesc(prometheus.BuildFQName(namespace, "", "clock_skew_seconds"),
		"By how much the clock of a ZFS host is ahead of this machine's; ages may be off by as much.", []string{"node"}, nil)
)

// collector collects what a function returns, as of the time it returns.
type collector func() ([]Measurement, time.Time)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rpoSeconds, rpoState, rpoWanted, rtoWanted, drillWanted, metadata, volumeRPO, active, bothActive,
		epoch, inProgress, lastRun, lastPassed, lastRTO, standbyAge, standbyOK, measured, failed, skew} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Ages are as of the scrape, so that they
// grow while nothing can be measured.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	all, now := c()
	seen := map[string]bool{} // nodes
	for i := range all {
		m := &all[i]
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{m.Plan.Name}, labels...)...)
		}
		o := m.Plan.Spec.Objectives
		gauge(rpoWanted, o.RPO.Seconds())
		gauge(rtoWanted, o.RTO.Seconds())
		if o.DrillEvery != nil {
			gauge(drillWanted, o.DrillEvery.Seconds())
		}
		gauge(measured, float64(m.At.Unix()))
		gauge(failed, truth(m.Err != nil))
		gauge(rpoState, m.state())
		if r := m.RPO; r != nil {
			m.ages(r, now, gauge)
			for _, c := range r.Clocks {
				if !seen[c.Node] {
					seen[c.Node] = true
					ch <- prometheus.MustNewConstMetric(skew, prometheus.GaugeValue, c.Skew.Seconds(), c.Node)
				}
			}
		}
		if s := m.Status; s != nil {
			gauge(active, truth(s.Active == failover.SourceSite), "source")
			gauge(active, truth(s.Active == failover.RecoverySite), "recovery")
			gauge(bothActive, truth(len(s.BothActive) > 0))
			gauge(epoch, float64(s.Epoch))
			gauge(inProgress, truth(s.Running != nil))
			if b := s.Standby; b != nil && b.Backup != "" {
				gauge(standbyAge, now.Sub(b.At.Time).Seconds())
				gauge(standbyOK, graded(b.State))
			}
			for kind, r := range map[string]*report.RunSummary{"drill": s.LastDrill, "failover": s.LastFailover} {
				if r == nil || r.StartedAt == nil {
					continue
				}
				gauge(lastRun, float64(r.StartedAt.Unix()), kind)
				gauge(lastPassed, truth(r.Phase == plan.PhasePassed), kind)
				if r.RTO != nil {
					gauge(lastRTO, r.RTO.Seconds(), kind)
				}
			}
		}
	}
}

// ages are those of what could be recovered. There is none of an application that
// runs where nothing is replicated from: what is elsewhere is of before.
func (m *Measurement) ages(r *report.RPO, now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	if s := m.Status; s != nil && s.Active == failover.RecoverySite && s.LastReprotect == nil {
		return
	}
	if r.RestorePoint != nil {
		gauge(rpoSeconds, now.Sub(r.RestorePoint.RestoresTo.Time).Seconds())
	}
	if r.Metadata != nil {
		gauge(metadata, now.Sub(r.Metadata.CompletedAt.Time).Seconds())
	}
	for _, v := range r.Volumes {
		if v.SnapshotAt != nil {
			gauge(volumeRPO, now.Sub(v.SnapshotAt.Time).Seconds(), v.Namespace, v.Claim)
		}
	}
}

// state judges a plan: by its status where that is known, which also knows whether
// it is protected at all.
func (m *Measurement) state() float64 {
	s := report.Problem
	switch {
	case m.Status != nil && m.Status.RPO != nil:
		s = m.Status.RPO.State
	case m.RPO != nil:
		s = m.RPO.State
	}
	return graded(s)
}

// graded turns a state into a number.
func graded(s report.State) float64 {
	switch s {
	case report.Problem:
		return 2
	case report.Warning:
		return 1
	}
	return 0
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
