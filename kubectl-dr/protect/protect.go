// Package protect has Velero take the backups that a plan asks for: it makes one
// Schedule for each class of them. It touches no Schedule but those of the plan,
// which carry its name in a label.
package protect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Action is what has to be done about a Schedule.
type Action string

// The actions. Surplus Schedules are the plan's, of a class that it does not have
// any more.
const (
	Create    Action = "create"
	Change    Action = "change"
	Unchanged Action = "unchanged"
	Surplus   Action = "surplus"
)

// Item is one Schedule of a plan.
type Item struct {
	// Class is zero for a surplus Schedule.
	Class plan.BackupClass
	// Schedule is as it will be; Have is as it is, nil when there is none.
	Schedule, Have *velerov1api.Schedule
	Action         Action
}

// Protector makes Schedules in the cluster that the application runs in.
type Protector struct {
	Client client.Client
	// Namespace is Velero's.
	Namespace string
}

// ForeignError says that a Schedule has a name that a plan needs, and is not the
// plan's.
type ForeignError struct {
	Schedule, Namespace, Plan string
	// Owner is the plan it belongs to, "" for none.
	Owner string
}

func (e *ForeignError) Error() string {
	if e.Owner != "" {
		return fmt.Sprintf("schedule %s is of plan %q", e.Schedule, e.Owner)
	}
	return fmt.Sprintf("schedule %s is there already, and was not made for plan %q", e.Schedule, e.Plan)
}

// Hint says how it can be given to the plan.
func (e *ForeignError) Hint() string {
	if e.Owner != "" {
		return "give spec.source.schedule of the plan a name of its own"
	}
	return fmt.Sprintf("to let the plan have it: kubectl -n %s label schedules.velero.io %s %s=%s; or give spec.source.schedule another name",
		e.Namespace, e.Schedule, zfssnap.LabelPlan, e.Plan)
}

// NoClassesError says that a plan asks for no backups.
type NoClassesError struct{ Plan string }

func (e *NoClassesError) Error() string {
	return fmt.Sprintf("plan %q does not say which backups to take", e.Plan)
}

// Hint shows how to say it.
func (e *NoClassesError) Hint() string {
	return "add spec.protect to the plan, as protect: {interval: {every: 5m, keep: 288}, daily: {at: \"02:10\", keep: 10}}"
}

// Plan says what has to be done; surplus Schedules come last. The error is a
// *ForeignError when a name is taken.
func (p *Protector) Plan(ctx context.Context, of *plan.RecoveryPlan) ([]Item, error) {
	classes := of.Spec.BackupClasses()
	if len(classes) == 0 {
		return nil, &NoClassesError{Plan: of.Name}
	}
	var items []Item
	for _, class := range classes {
		item := Item{Class: class}
		have := &velerov1api.Schedule{}
		err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: class.Schedule}, have)
		switch {
		case apierrors.IsNotFound(err):
			item.Action, item.Schedule = Create, p.fresh(of, class)
		case err != nil:
			return nil, fmt.Errorf("get schedule %q in namespace %s: %w", class.Schedule, p.Namespace, err)
		case have.Labels[zfssnap.LabelPlan] != of.Name:
			return nil, &ForeignError{Schedule: have.Name, Namespace: p.Namespace, Plan: of.Name, Owner: have.Labels[zfssnap.LabelPlan]}
		default:
			item.Have, item.Schedule, item.Action = have, have.DeepCopy(), Unchanged
			set(item.Schedule, of, class)
			if !equality.Semantic.DeepEqual(have.Spec, item.Schedule.Spec) {
				item.Action = Change
			}
		}
		items = append(items, item)
	}
	surplus, err := p.surplus(ctx, of, classes)
	return append(items, surplus...), err
}

// fresh is a Schedule that is not there yet.
func (p *Protector) fresh(of *plan.RecoveryPlan, class plan.BackupClass) *velerov1api.Schedule {
	s := &velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: class.Schedule, Labels: map[string]string{zfssnap.LabelPlan: of.Name},
	}}
	// Backups outlive their Schedule.
	s.Spec.UseOwnerReferencesInBackup = ptr.To(false)
	s.Spec.Template.SnapshotVolumes = ptr.To(true)
	set(s, of, class)
	return s
}

// set sets what a plan says of a Schedule. Everything else stays as somebody made
// it, and so does whether it is paused.
func set(s *velerov1api.Schedule, of *plan.RecoveryPlan, class plan.BackupClass) {
	s.Spec.Schedule = class.Cron
	t := &s.Spec.Template
	t.IncludedNamespaces = of.Spec.Source.Namespaces
	t.TTL = metav1.Duration{Duration: class.TTL}
	if timeout := of.Spec.Protect.OperationTimeout; timeout != nil {
		t.ItemOperationTimeout = *timeout
	}
	if l := of.Spec.Protect.StorageLocation; l != "" {
		t.StorageLocation = l
	}
	if l := of.Spec.Protect.SnapshotLocations; len(l) > 0 {
		t.VolumeSnapshotLocations = l
	}
}

// surplus finds the plan's Schedules of classes that it doesn't have.
func (p *Protector) surplus(ctx context.Context, of *plan.RecoveryPlan, classes []plan.BackupClass) ([]Item, error) {
	list := &velerov1api.ScheduleList{}
	if err := p.Client.List(ctx, list, client.InNamespace(p.Namespace), client.MatchingLabels{zfssnap.LabelPlan: of.Name}); err != nil {
		return nil, fmt.Errorf("list schedules in namespace %s: %w", p.Namespace, err)
	}
	var items []Item
	for i := range list.Items {
		s := &list.Items[i]
		if !slices.ContainsFunc(classes, func(c plan.BackupClass) bool { return c.Schedule == s.Name }) {
			items = append(items, Item{Schedule: s, Have: s, Action: Surplus})
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Schedule.Name, b.Schedule.Name) })
	return items, nil
}

// Apply does what an item asks for. Surplus Schedules are deleted, and their
// backups stay: ask before.
func (p *Protector) Apply(ctx context.Context, item *Item) error {
	switch name := item.Schedule.Name; item.Action {
	case Create:
		if err := p.Client.Create(ctx, item.Schedule); err != nil {
			return fmt.Errorf("create schedule %s: %w", name, err)
		}
	case Change:
		if err := p.Client.Patch(ctx, item.Schedule, client.MergeFrom(item.Have)); err != nil {
			return fmt.Errorf("change schedule %s: %w", name, err)
		}
	case Surplus:
		// It may have been made anew by somebody since it was looked at.
		if err := p.Client.Delete(ctx, item.Schedule, client.Preconditions{UID: ptr.To(item.Have.UID)}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete schedule %s: %w", name, err)
		}
	}
	return nil
}

// Next returns when Velero takes the next backups of a Schedule, none while it is
// paused. The first is now when one is due. It counts as Velero's controller of
// schedules does.
func Next(s *velerov1api.Schedule, now time.Time, count int) ([]time.Time, error) {
	when, err := cron.ParseStandard(s.Spec.Schedule)
	if err != nil {
		return nil, fmt.Errorf("schedule %s: %q: %w", s.Name, s.Spec.Schedule, err)
	}
	if s.Spec.Paused {
		return nil, nil
	}
	last := s.CreationTimestamp.Time
	if last.IsZero() {
		last = now
	}
	if t := s.Status.LastBackup; t != nil {
		last = t.Time
	}
	if t := s.Status.LastSkipped; t != nil && t.After(last) {
		last = t.Time
	}
	var next []time.Time
	at := last.UTC()
	for range count {
		if at = when.Next(at); at.Before(now) {
			at = now
		}
		next = append(next, at.UTC())
	}
	return next, nil
}
