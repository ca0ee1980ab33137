// Package rpo measures how much a failover would lose now, from the surviving
// site alone.
package rpo

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
)

// Meter measures.
type Meter struct {
	Finder *restorepoint.Finder
	// Hosts asks the agents at the recovery site, for their clocks.
	Hosts func(context.Context) []cluster.Host
	Now   func() time.Time
}

// state judges an age: ok up to the objective, a problem above twice as much.
func state(age, objective time.Duration) report.State {
	switch {
	case age <= objective:
		return report.OK
	case age <= 2*objective:
		return report.Warning
	}
	return report.Problem
}

// Measure returns how far back each volume and the objects of a plan go.
func (m *Meter) Measure(ctx context.Context, p *plan.RecoveryPlan) (*report.RPO, error) {
	points, err := m.Finder.Points(ctx, p.Spec.Source)
	if err != nil {
		return nil, err
	}
	now := m.Now()
	objective := p.Spec.Objectives.RPO
	r := &report.RPO{
		TypeMeta:   report.TypeMeta("RPOReport"),
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		At:         metav1.NewTime(now),
		Objective:  objective,
		Metadata: &report.Metadata{
			Backup:      points[0].Backup,
			CompletedAt: metav1.NewTime(points[0].CompletedAt),
			Age:         rounded(now.Sub(points[0].CompletedAt)),
			State:       state(now.Sub(points[0].StartedAt), objective.Duration),
		},
	}
	r.State = r.Metadata.State
	for _, v := range points[0].Volumes {
		row := volume(points, v, now, objective.Duration)
		r.State = report.Worse(r.State, row.State)
		r.Volumes = append(r.Volumes, row)
	}
	if last := points[len(points)-1]; last.Recoverable() {
		at := last.RestoresTo(now)
		age := now.Sub(at)
		r.RestorePoint = &report.RestorePoint{Backup: last.Backup, RestoresTo: metav1.NewTime(at), Age: rounded(age)}
		r.State = report.Worse(r.State, state(age, objective.Duration))
		r.Message = failover.Preview(last, now).String()
	} else {
		r.State = report.Problem
		r.Message = (&restorepoint.UnrecoverableError{Points: points}).Error()
	}
	r.Notes = m.arrived(ctx, p, points[0])
	m.clocks(ctx, r)
	return r, ctx.Err()
}

// volume finds the newest point from which one volume can be recovered.
func volume(points []restorepoint.Point, v plan.Volume, now time.Time, objective time.Duration) report.VolumeRPO {
	row := report.VolumeRPO{Namespace: v.Namespace, Claim: v.Claim}
	switch {
	case v.Unprotected && v.Problem == "":
		row.State, row.Message = report.Skipped, "left out of backups, as the plan says"
		return row
	case v.Unprotected:
		row.State, row.Message = report.Problem, v.Problem
		return row
	}
	row.Message = v.Problem
	for _, p := range points {
		for _, have := range p.Volumes {
			if have.Namespace != v.Namespace || have.Claim != v.Claim || have.Problem != "" || have.Unprotected {
				continue
			}
			if have.StretchedPool != "" {
				row.Backup, row.SnapshotAt, row.Age, row.Node = p.Backup, &metav1.Time{Time: now}, &metav1.Duration{}, have.Node
				row.State, row.Message = report.OK, "pool "+have.StretchedPool+" is mirrored at both sites"
				return row
			}
			age := rounded(now.Sub(have.SnapshotAt.Time))
			at := have.SnapshotAt
			row.Backup, row.SnapshotAt, row.Age, row.Node, row.Snapshot, row.Method = p.Backup, &at, &age, have.Node, have.Snapshot, have.Method
			row.State = state(now.Sub(have.SnapshotAt.Time), objective)
			if row.Message == "" && have.Method.AtSource() {
				row.Message = "its snapshot is at the source: of use here only where the two sites share storage"
			}
			return row
		}
	}
	row.State = report.Problem
	return row
}

func rounded(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: max(0, d).Round(time.Second)}
}

// Noticeable is by how much clocks may differ before it is worth a note.
const Noticeable = 5 * time.Second

// arrived notes a backup that a failover could use as soon as Velero knows it.
func (m *Meter) arrived(ctx context.Context, p *plan.RecoveryPlan, newest restorepoint.Point) []string {
	backup, err := m.Finder.Arrived(ctx, p.Spec.Source, newest)
	switch {
	case err != nil && ctx.Err() == nil:
		return []string{err.Error()}
	case backup != "":
		return []string{fmt.Sprintf("the copies of backup %s have arrived; Velero of this cluster does not know it yet", backup)}
	}
	return nil
}

// clocks notes those that differ, and hosts that don't answer.
func (m *Meter) clocks(ctx context.Context, r *report.RPO) {
	for _, h := range m.Hosts(ctx) {
		if h.Err != nil {
			if !errors.Is(h.Err, context.Canceled) {
				r.Notes = append(r.Notes, h.Err.Error())
			}
			continue
		}
		skew, uncertain := h.Skew()
		r.Clocks = append(r.Clocks, report.Clock{Node: h.Node, Skew: exact(skew), Uncertain: exact(uncertain)})
		if skew.Abs() > Noticeable+uncertain {
			r.Notes = append(r.Notes, fmt.Sprintf("the clock of node %s is %s; ages may be off by as much", h.Node, Skewed(skew)))
		}
	}
}

func exact(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: d.Round(time.Millisecond)}
}

// Skewed words a difference of clocks.
func Skewed(skew time.Duration) string {
	if skew < 0 {
		return fmt.Sprintf("%s behind this machine's", skew.Abs().Round(time.Second))
	}
	return fmt.Sprintf("%s ahead of this machine's", skew.Round(time.Second))
}
