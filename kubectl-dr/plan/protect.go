package plan

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// BackupClass is one class of a plan's backups, as Velero's Schedule has it.
type BackupClass struct {
	// Name is that of the field: interval, daily, weekly or monthly.
	Name string
	// Schedule is the name of the Velero Schedule.
	Schedule string
	// Cron says when, in the words of robfig/cron, as Velero does.
	Cron string
	// Keep backups are there when each lives for TTL.
	Keep int32
	TTL  time.Duration
}

// weekdays are as cron counts them.
var weekdays = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

const (
	day   = 24 * time.Hour
	month = 31 * day
)

// Schedules are the names that a plan's Velero Schedules may have, whether or not it has
// all classes: the restore points' first.
func (s Source) Schedules() []string {
	return []string{s.Schedule, s.Schedule + "-daily", s.Schedule + "-weekly", s.Schedule + "-monthly"}
}

// BackupClasses returns the classes of a plan, the restore points' first.
func (s RecoveryPlanSpec) BackupClasses() []BackupClass {
	p := s.Protect
	if p == nil {
		return nil
	}
	var classes []BackupClass
	add := func(name, cron string, keep int32, period time.Duration) {
		c := BackupClass{Name: name, Schedule: s.Source.Schedule, Cron: cron, Keep: keep, TTL: time.Duration(keep) * period}
		if name != "interval" {
			c.Schedule += "-" + name
		}
		classes = append(classes, c)
	}
	at := func(at, days string) string {
		t, _ := time.Parse("15:04", at) // linted
		return fmt.Sprintf("%d %d %s", t.Minute(), t.Hour(), days)
	}
	if c := p.Interval; c != nil {
		add("interval", "@every "+c.Every.Duration.String(), c.Keep, c.Every.Duration)
	}
	if c := p.Daily; c != nil {
		add("daily", at(c.At, "* * *"), c.Keep, day)
	}
	if c := p.Weekly; c != nil {
		add("weekly", at(c.At, fmt.Sprintf("* * %d", slices.Index(weekdays, c.Day))), c.Keep, 7*day)
	}
	if c := p.Monthly; c != nil {
		add("monthly", at(c.At, fmt.Sprintf("%d * *", c.Day)), c.Keep, month)
	}
	return classes
}

// maxClassSuffix is the longest that a class adds to the name of a Schedule, and
// Velero to that of its backups: both are label values.
const maxClassSuffix = len("-monthly-20060102150405")

func (l *linter) protect(schedule string, p *Protect) {
	if p == nil {
		return
	}
	const field = "spec.protect"
	if p.Interval == nil {
		l.fault(field+".interval", "is missing: its backups are the restore points")
	} else {
		l.keep(field+".interval", p.Interval.Keep)
		if p.Interval.Every.Duration < time.Minute {
			l.fault(field+".interval.every", "must be a minute at least, as 15m")
		}
	}
	if t := p.OperationTimeout; t != nil && t.Duration < time.Minute {
		l.fault(field+".operationTimeout", "must be a minute at least, as 24h")
	}
	if p.Daily != nil {
		l.class(field+".daily", p.Daily.At, p.Daily.Keep)
	}
	if p.Weekly != nil {
		l.class(field+".weekly", p.Weekly.At, p.Weekly.Keep)
		if !slices.Contains(weekdays, p.Weekly.Day) {
			l.fault(field+".weekly.day", "%q is not a day of the week, as sunday", p.Weekly.Day)
		}
	}
	if p.Monthly != nil {
		l.class(field+".monthly", p.Monthly.At, p.Monthly.Keep)
		if p.Monthly.Day < 1 || p.Monthly.Day > 28 {
			l.fault(field+".monthly.day", "%d is not a day that every month has; want 1 to 28", p.Monthly.Day)
		}
	}
	if bad := validation.IsDNS1123Label(schedule); schedule != "" && len(bad) > 0 {
		l.fault("spec.source.schedule", "%q is not a name: %s", schedule, bad[0])
	} else if most := validation.LabelValueMaxLength - maxClassSuffix; len(schedule) > most {
		l.fault("spec.source.schedule", "%q has %d characters; Schedules and backups are named after it, so it may have %d", schedule, len(schedule), most)
	}
}

func (l *linter) class(field, at string, keep int32) {
	if _, err := time.Parse("15:04", at); err != nil || len(at) != len("15:04") {
		l.fault(field+".at", "%q is not a time, as 02:30", at)
	}
	l.keep(field, keep)
}

func (l *linter) keep(field string, keep int32) {
	if keep < 2 {
		l.fault(field+".keep", "must be 2 at least: the last one expires while the next is taken")
	}
}
