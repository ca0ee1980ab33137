package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// TableOptions say how tables are printed.
type TableOptions struct {
	Wide      bool
	NoHeaders bool
}

// Print prints a report or an object of plan for people.
func Print(w io.Writer, obj runtime.Object, opts TableOptions) error {
	p := &printer{w: w, opts: opts}
	switch o := obj.(type) {
	case *RPO:
		p.rpo(o)
	case *Comparison:
		p.comparison(o)
	case *Sync:
		p.sync(o)
	case *GitOps:
		p.gitOps(o)
	case *Rebuild:
		p.rebuild(o)
	case *EtcdSnapshot:
		p.etcdSnapshots([]EtcdSnapshot{*o})
	case *EtcdSnapshotList:
		p.etcdSnapshots(o.Items)
	case *Check:
		p.check(o)
	case *Status:
		p.status(o)
	case *Version:
		p.version(o)
	case *Holds:
		p.holds(o)
	case *Forgotten:
		p.forgotten(o)
	case *Certificates:
		p.certificates(o)
	case *Bundle:
		p.line("%s: %s, %s, %s", o.File, Bytes(o.Bytes), Count(o.Files, "file"), blanked(o.Redacted))
	case *Signature:
		p.line("%s: signed by %s, key %s (%s)", o.File, o.Signer, o.Key, o.KeyType)
	case *Protection:
		p.protection(o)
	case *plan.RecoveryPlan:
		p.plan(o)
	case *plan.RecoveryRunList:
		p.history(o)
	case *plan.RecoveryRun:
		p.run(o)
	default:
		return fmt.Errorf("no table for %T", obj)
	}
	return p.err
}

// printer keeps the first error.
type printer struct {
	w    io.Writer
	opts TableOptions
	err  error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, strings.TrimRight(format, " ")+"\n", args...)
	}
}

// table prints rows; a header in lower case is for -o wide alone.
func (p *printer) table(headers []string, rows [][]any) {
	if p.err != nil {
		return
	}
	t := &metav1.Table{}
	for _, h := range headers {
		c := metav1.TableColumnDefinition{Name: strings.ToUpper(h), Type: "string"}
		if h != c.Name {
			c.Priority = 1
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, c)
	}
	for _, cells := range rows {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells})
	}
	p.err = printers.NewTablePrinter(printers.PrintOptions{Wide: p.opts.Wide, NoHeaders: p.opts.NoHeaders}).PrintObj(t, p.w)
}

const none = "-"

// Age words a duration for people.
func Age(d time.Duration) string { return duration.HumanDuration(max(0, d)) }

func age(d *metav1.Duration) string {
	if d == nil {
		return none
	}
	return Age(d.Duration)
}

func at(t *metav1.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

func or(s string) string {
	if s == "" {
		return none
	}
	return s
}

func (p *printer) comparison(c *Comparison) {
	var rows [][]any
	for _, o := range c.Objects {
		rows = append(rows, []any{string(o.Difference), or(o.Namespace), kindOf(o.Kind, o.Group), o.Name, or(strings.Join(o.Fields, ", "))})
	}
	if len(rows) > 0 {
		p.table([]string{"DIFFERENCE", "NAMESPACE", "KIND", "NAME", "FIELDS"}, rows)
		p.line("")
	}
	p.line("%s: %d objects of %s compared with %s: %d missing, %d surplus, %d drifted", c.State, c.Compared, c.Source, c.Standby, c.Missing, c.Surplus, c.Drifted)
}

func (p *printer) sync(s *Sync) {
	var rows [][]any
	for _, o := range s.Objects {
		rows = append(rows, []any{string(o.Difference), or(o.Namespace), kindOf(o.Kind, o.Group), o.Name, or(o.Done), or(o.Message), or(strings.Join(o.Fields, ", "))})
	}
	if len(rows) > 0 {
		p.table([]string{"DIFFERENCE", "NAMESPACE", "KIND", "NAME", "DONE", "MESSAGE", "fields"}, rows)
		p.line("")
	}
	p.line("%s: %s of backup %s (%s old): %d missing, %d drifted, %d surplus, %s", s.State, Count(s.Wanted, "object"), s.Backup,
		Age(s.At.Sub(s.BackupAt.Time)), s.Missing, s.Drifted, s.Surplus, Count(s.Conflicts, "conflict"))
}

func (p *printer) rebuild(r *Rebuild) {
	var volumes [][]any
	for _, v := range r.Volumes {
		volumes = append(volumes, []any{v.Namespace + "/" + v.Claim, v.State, v.Action, at(&v.SnapshotAt), or(v.Message), or(v.Node), or(v.Snapshot)})
	}
	if len(volumes) > 0 {
		p.table([]string{"VOLUME", "CLAIM", "ACTION", "SNAPSHOT TAKEN", "MESSAGE", "node", "snapshot"}, volumes)
		p.line("")
	}
	var objects [][]any
	owners := map[Owner]int{}
	for _, o := range r.Objects {
		owners[o.Owner]++
		there := "absent"
		if o.InCluster {
			there = "there"
		}
		objects = append(objects, []any{string(o.Owner), o.Action, there, or(o.Namespace), kindOf(o.Kind, o.Group), o.Name, or(o.By), or(strings.Join(o.Fields, ", "))})
	}
	if len(objects) > 0 {
		p.table([]string{"OWNER", "ACTION", "CLUSTER", "NAMESPACE", "KIND", "NAME", "FROM GIT BY", "DIFFERS IN"}, objects)
		p.line("")
	}
	for _, note := range r.Notes {
		p.line("note: %s", note)
	}
	from := "the pools"
	if r.Backup != "" {
		from = "backup " + r.Backup
	}
	p.line("%s from %s: %s; objects of Git %d, of the backup %d, of both %d, of neither %d", toDo(r.ToDo), from, Count(len(r.Volumes), "volume"),
		owners[OwnedByGit], owners[OwnedByBackup], owners[OwnedByBoth], owners[OwnedByNeither])
}

func toDo(n int) string {
	if n == 0 {
		return "nothing to do"
	}
	return fmt.Sprintf("%d to do", n)
}

func kindOf(kind, group string) string {
	if group == "" {
		return kind
	}
	return kind + "." + group
}

func (p *printer) gitOps(g *GitOps) {
	var rows [][]any
	for _, o := range g.Items {
		rows = append(rows, []any{o.Site, o.Namespace, o.Kind, o.Name, o.State, or(o.By)})
	}
	p.table([]string{"SITE", "NAMESPACE", "KIND", "NAME", "STATE", "BY"}, rows)
}

func (p *printer) etcdSnapshots(all []EtcdSnapshot) {
	var rows [][]any
	for _, s := range all {
		var keys []string
		for _, e := range s.Encryption {
			keys = append(keys, e.Provider+"/"+e.Name)
		}
		rows = append(rows, []any{s.Name, at(&s.TakenAt), s.Revision, s.Keys, Bytes(s.Size), or(strings.Join(keys, ",")), or(s.ServerVersion), s.SHA256})
	}
	p.table([]string{"NAME", "TAKEN", "REVISION", "KEYS", "SIZE", "ENCRYPTED BY", "etcd", "sha256"}, rows)
}

func (p *printer) rpo(r *RPO) {
	rows := [][]any{}
	for _, v := range r.Volumes {
		rows = append(rows, []any{v.Namespace + "/" + v.Claim, age(v.Age), Age(r.Objective.Duration), string(v.State), or(v.Backup), or(v.Message), or(v.Node), copied(v.Snapshot, v.Method)})
	}
	if m := r.Metadata; m != nil {
		rows = append(rows, []any{"(objects)", age(&m.Age), Age(r.Objective.Duration), string(m.State), m.Backup, none, none, none})
	}
	p.table([]string{"VOLUME", "AGE", "OBJECTIVE", "STATE", "BACKUP", "MESSAGE", "node", "snapshot"}, rows)
	p.line("")
	p.line("%s: %s", r.State, r.Message)
	for _, n := range r.Notes {
		p.line("note: %s", n)
	}
}

func (p *printer) check(c *Check) {
	for i, g := range c.Groups {
		if i > 0 {
			p.line("")
		}
		p.line("%s", g.Name)
		for _, item := range g.Items {
			if item.Message == "" {
				p.line("  %-8s %s", item.State, item.Name)
			} else {
				p.line("  %-8s %s: %s", item.State, item.Name, item.Message)
			}
			if item.Remedy != "" {
				p.line("           → %s", item.Remedy)
			}
		}
	}
	p.line("")
	p.line("%d ok, %s, %s", c.OK, Count(c.Warnings, "warning"), Count(c.Problems, "problem"))
}

// Bytes words a number of bytes for people.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// Count words a number of things.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (p *printer) status(s *Status) {
	active := fmt.Sprintf("%s (epoch %d)", s.Active, s.Epoch)
	if s.Uncommitted {
		active += ", not committed"
	}
	fields := [][2]string{{"Plan", s.Name}, {"Role", s.Role}, {"Active", active}}
	for _, why := range s.BothActive {
		fields = append(fields, [2]string{"BOTH ACTIVE", why})
	}
	if s.Unknown != "" {
		fields = append(fields, [2]string{"Other site", s.Unknown})
	}
	summary := func(name string, r *RunSummary) {
		value := "none"
		if r != nil {
			value = fmt.Sprintf("%s  %s", r.Phase, r.Name)
			if r.StartedAt != nil {
				value += fmt.Sprintf("  %s ago", Age(s.At.Sub(r.StartedAt.Time)))
			}
			if r.RTO != nil {
				value += fmt.Sprintf("  (RTO %s)", Age(r.RTO.Duration))
			}
		}
		fields = append(fields, [2]string{name, value})
	}
	if s.Running != nil {
		summary("Running", s.Running)
	}
	summary("Last drill", s.LastDrill)
	for _, k := range s.Kept {
		value := k.Name
		switch {
		case k.Expired:
			value += "  until " + at(k.Until) + ", which is over"
		case k.Until != nil:
			value += "  until " + at(k.Until)
		}
		fields = append(fields, [2]string{"Kept drill", value})
	}
	summary("Last failover", s.LastFailover)
	if s.LastReprotect != nil {
		summary("Reprotected", s.LastReprotect)
	}
	point := "none"
	if r := s.RestorePoint; r != nil {
		point = fmt.Sprintf("%s  data as of %s, %s ago", r.Backup, at(&r.RestoresTo), Age(r.Age.Duration))
	}
	fields = append(fields, [2]string{"Restore point", point})
	if b := s.Standby; b != nil {
		value := fmt.Sprintf("%s  warm, at backup %s, %s old", b.State, b.Backup, Age(b.Age.Duration))
		if b.Message != "" {
			value += ": " + b.Message
		}
		fields = append(fields, [2]string{"Standby", value})
	}
	if r := s.RPO; r != nil {
		fields = append(fields, [2]string{"RPO", fmt.Sprintf("%s  %s (objective %s)", r.State, r.Message, Age(r.Objective.Duration))})
	}
	for i, next := range s.Next {
		name := ""
		if i == 0 {
			name = "Next"
		}
		fields = append(fields, [2]string{name, next})
	}
	for _, f := range fields {
		p.line("%-15s%s", f[0], f[1])
	}
}

func (p *printer) version(v *Version) {
	p.line("%-12s %s", "kubectl dr", v.Client)
	if v.Server != "" {
		p.line("%-12s %s", "velero", v.Server)
	}
	for _, a := range v.Agents {
		if a.Error != "" {
			p.line("%-12s %s", "agent "+a.Node, a.Error)
			continue
		}
		p.line("%-12s %s (OpenZFS %s)", "agent "+a.Node, a.Version, a.ZFS)
	}
}

func (p *printer) holds(h *Holds) {
	rows := [][]any{}
	for _, i := range h.Holds {
		why := i.Why
		if i.Reason != "" {
			why = i.Reason
		}
		rows = append(rows, []any{i.Node, i.Snapshot, i.Tag, or(i.Owner), Age(h.At.Sub(i.Placed.Time)), i.State, or(why), or(i.result()), or(i.By), at(i.Until)})
	}
	p.table([]string{"NODE", "SNAPSHOT", "TAG", "OWNER", "AGE", "STATE", "WHY", "RESULT", "by", "until"}, rows)
}

func (p *printer) forgotten(f *Forgotten) {
	rows := [][]any{}
	for _, s := range f.Snapshots {
		where := s.Node
		if s.Archive != "" {
			where = "archive " + s.Archive
		}
		rows = append(rows, []any{where, s.Snapshot, s.UID, Age(f.At.Sub(s.Taken.Time)), Bytes(s.Used), s.State, or(s.Reason), or(s.CopyOf), s.GUID})
	}
	p.table([]string{"NODE", "SNAPSHOT", "UID", "AGE", "USED", "STATE", "WHY", "copy of", "guid"}, rows)
}

func (p *printer) certificates(c *Certificates) {
	rows := [][]any{}
	for _, i := range c.Certificates {
		rows = append(rows, []any{i.Identity, i.Role, i.State, at(i.Expires), or(strings.Join(i.Secrets, " ")), i.File})
	}
	p.table([]string{"IDENTITY", "ROLE", "STATE", "EXPIRES", "SECRET", "FILE"}, rows)
}

// result is what became of a dead hold.
func (h Hold) result() string {
	switch {
	case h.Released:
		return "released"
	case h.Error != "":
		return h.Error
	case h.Dead:
		return "can be released"
	}
	return ""
}

func objective(d *metav1.Duration, met *bool) string {
	return judged(age(d), missed(met))
}

func (p *printer) history(l *plan.RecoveryRunList) {
	rows := [][]any{}
	for i := range l.Items {
		r := &l.Items[i]
		rows = append(rows, []any{
			r.Name, string(r.Spec.Kind), r.Spec.Plan, at(r.Status.StartedAt), or(string(r.Status.Phase)),
			objective(r.Status.RPO, r.Status.RPOMet), objective(r.Status.RTO, r.Status.RTOMet), or(r.Spec.Backup),
			each(r.Status.ExecutedBy, func(e plan.Executor) string { return or(e.User) }),
			each(r.Status.ExecutedBy, func(e plan.Executor) string { return e.Version }),
			or(r.Status.Message),
		})
	}
	p.table([]string{"NAME", "KIND", "PLAN", "STARTED", "PHASE", "RPO", "RTO", "backup", "by", "version", "message"}, rows)
}

// each lists what is to be said of executors, once.
func each(by []plan.Executor, say func(plan.Executor) string) string {
	var said []string
	for _, e := range by {
		if word := say(e); !slices.Contains(said, word) {
			said = append(said, word)
		}
	}
	return or(strings.Join(said, ", "))
}

// executedBy says who worked on a run, with what, and from when where it was not from
// the start.
func executedBy(by []plan.Executor) string {
	var said []string
	for i, e := range by {
		who := e.User
		if who == "" {
			who = "somebody whom the API server did not name"
		}
		line := fmt.Sprintf("%s, kubectl dr %s", who, e.Version)
		if i > 0 {
			line = fmt.Sprintf("from %s %s", at(&e.Since), line)
		}
		said = append(said, line)
	}
	return or(strings.Join(said, "; "))
}

func blanked(n int) string {
	if n == 1 {
		return "a secret blanked once"
	}
	return fmt.Sprintf("secrets blanked %d times", n)
}

func (p *printer) protection(r *Protection) {
	rows := [][]any{}
	for _, s := range r.Schedules {
		next, later := none, none
		if len(s.Next) > 0 {
			next = at(&s.Next[0])
			var rest []string
			for _, t := range s.Next[1:] {
				rest = append(rest, at(&t))
			}
			later = or(strings.Join(rest, ", "))
		}
		if s.Paused {
			next = "paused"
		}
		keep := none
		if s.Keep > 0 {
			keep = fmt.Sprint(s.Keep)
		}
		rows = append(rows, []any{or(s.Class), s.Schedule, s.When, keep, Age(s.TTL.Duration), s.State, next, later, at(s.LastBackup)})
	}
	p.table([]string{"CLASS", "SCHEDULE", "WHEN", "KEEP", "FOR", "STATE", "NEXT", "later", "last"}, rows)
}

func (p *printer) plan(r *plan.RecoveryPlan) {
	s := r.Spec
	every := none
	if s.Objectives.DrillEvery != nil {
		every = Age(s.Objectives.DrillEvery.Duration)
	}
	fields := [][2]string{
		{"Plan", r.Name},
		{"Objectives", fmt.Sprintf("RPO %s, RTO %s, a drill every %s", Age(s.Objectives.RPO.Duration), Age(s.Objectives.RTO.Duration), every)},
		{"Namespaces", strings.Join(s.Source.Namespaces, ", ")},
		{"Schedule", s.Source.Schedule},
		{"Profiles", fmt.Sprintf("drill %s, failover %s, failback %s, standby %s", or(s.Profiles.Drill), or(s.Profiles.Failover), or(s.Profiles.Failback), or(s.Profiles.Standby))},
	}
	if len(s.Source.IgnoreClaims) > 0 {
		fields = append(fields, [2]string{"Comes back empty", strings.Join(s.Source.IgnoreClaims, ", ")})
	}
	if t := s.Traffic; t != nil {
		fields = append(fields, [2]string{"Traffic", fmt.Sprintf("%s (%s)", strings.Join(t.Hosts, ", "), t.Method)})
	}
	if f := s.Failback; f != nil {
		fields = append(fields, [2]string{"Way back", "backups to location " + or(f.StorageLocation)})
	}
	for _, f := range fields {
		p.line("%-18s%s", f[0], f[1])
	}
	rows := [][]any{}
	for _, c := range s.BackupClasses() {
		rows = append(rows, []any{c.Name, c.Schedule, c.Cron, fmt.Sprint(c.Keep), Age(c.TTL)})
	}
	if len(rows) > 0 {
		p.line("")
		p.table([]string{"BACKUPS", "SCHEDULE", "WHEN", "KEEP", "FOR"}, rows)
	}
	rows = nil
	for i, w := range s.Start {
		rows = append(rows, []any{fmt.Sprint(i + 1), w.Name, strings.Join(w.Workloads, ", "), span(w.Timeout)})
	}
	rows = append(rows, []any{fmt.Sprint(len(s.Start) + 1), "the rest", "whatever is in no wave", none})
	p.line("")
	p.table([]string{"ORDER", "WAVE", "WORKLOADS", "TIMEOUT"}, rows)
	rows = nil
	hooks := func(when string, all []plan.Hook) {
		for _, h := range all {
			in := none
			if len(h.In) > 0 {
				in = strings.Trim(fmt.Sprint(h.In), "[]")
			}
			does := probed(h.Probe)
			if h.Prompt != "" {
				does = "prompt: " + h.Prompt
			}
			rows = append(rows, []any{h.Name, when, does, in})
		}
	}
	for _, w := range s.Start {
		hooks("before "+w.Name, w.Before)
		hooks("after "+w.Name, w.After)
	}
	if len(rows) > 0 {
		p.line("")
		p.table([]string{"HOOK", "WHEN", "DOES", "ONLY IN"}, rows)
	}
	if len(s.Probes) == 0 {
		return
	}
	rows = nil
	for _, probe := range s.Probes {
		rows = append(rows, []any{probe.Name, probed(probe), span(probe.Timeout)})
	}
	p.line("")
	p.table([]string{"PROBE", "ASKS", "TIMEOUT"}, rows)
}

// span words a time that may be left to the default.
func span(d metav1.Duration) string {
	if d.Duration == 0 {
		return "default"
	}
	return Age(d.Duration)
}

// probed says in short what a probe asks.
func probed(p plan.Probe) string {
	switch {
	case p.HTTP != nil:
		return fmt.Sprintf("http %s%s", p.HTTP.Service, p.HTTP.Path)
	case p.TCP != nil:
		return fmt.Sprintf("tcp %s:%d", p.TCP.Service, p.TCP.Port)
	case p.Exec != nil:
		return "exec in " + p.Exec.Workload
	case p.SQL != nil:
		return p.SQL.Client + " in " + p.SQL.Workload
	case p.Job != nil:
		return "a job"
	}
	return none
}

func (p *printer) run(r *plan.RecoveryRun) {
	s := r.Status
	o := r.Spec.PlanSpec.Objectives
	fields := [][2]string{
		{"Run", r.Name},
		{"Kind", string(r.Spec.Kind)},
		{"Plan", r.Spec.Plan},
		{"Backup", or(r.Spec.Backup)},
		{"Started", at(s.StartedAt)},
		{"Ended", at(s.EndedAt)},
		{"By", executedBy(s.ExecutedBy)},
		{"Phase", or(string(s.Phase))},
		{"Message", or(s.Message)},
		{"RPO", fmt.Sprintf("%s (objective %s)", objective(s.RPO, s.RPOMet), Age(o.RPO.Duration))},
		{"RTO", fmt.Sprintf("%s (objective %s)", objective(s.RTO, s.RTOMet), Age(o.RTO.Duration))},
	}
	for _, f := range fields {
		p.line("%-10s%s", f[0], f[1])
	}
	p.line("")
	steps := [][]any{}
	for _, step := range s.Steps {
		took := none
		if step.StartedAt != nil && step.EndedAt != nil {
			took = Age(step.EndedAt.Sub(step.StartedAt.Time))
		}
		steps = append(steps, []any{step.Name, string(step.Phase), took, or(step.Message), at(step.StartedAt)})
	}
	p.table([]string{"STEP", "PHASE", "TOOK", "MESSAGE", "started"}, steps)
	if len(s.Volumes) == 0 {
		return
	}
	p.line("")
	switch r.Spec.Kind {
	case plan.RunReprotect:
		p.sides(s.Volumes)
		return
	case plan.RunRollback:
		p.undone(s.Volumes)
		return
	}
	volumes := [][]any{}
	for _, v := range s.Volumes {
		volumes = append(volumes, []any{v.Namespace + "/" + v.Claim, at(&v.SnapshotAt), or(v.Node), copied(v.Snapshot, v.Method)})
	}
	p.table([]string{"VOLUME", "SNAPSHOT TAKEN", "NODE", "SNAPSHOT"}, volumes)
}

// copied says where the copy of a volume is.
func copied(snapshot string, m plan.Method) string {
	switch m {
	case plan.MethodPodVolumeBackup:
		return "files in the backup's repository"
	case plan.MethodDataUpload:
		return "CSI snapshot, moved to the backup's repository"
	case plan.MethodCSISnapshot:
		return "CSI snapshot, with its driver"
	case plan.MethodNativeSnapshot:
		return "snapshot, with its provider"
	}
	return or(snapshot)
}

// sides prints what became of volumes on both sides of a failover.
func (p *printer) sides(volumes []plan.Volume) {
	rows := [][]any{}
	for _, v := range volumes {
		diverged, send := "no common snapshot", "everything"
		if v.Diverged != nil {
			diverged = Bytes(*v.Diverged)
			if v.Changed != nil {
				send = "about " + Bytes(*v.Changed)
			}
		}
		if v.StretchedPool != "" {
			diverged, send = none, "nothing: pool "+v.StretchedPool
		}
		rows = append(rows, []any{v.Namespace + "/" + v.Claim, or(v.Runs), send, or(v.Left), diverged, or(v.Kept), or(v.Node), or(v.Snapshot)})
	}
	p.table([]string{"VOLUME", "RUNS ON", "TO SEND", "LEFT BEHIND", "DIVERGED", "KEPT AS", "node", "copy"}, rows)
}

// undone prints what became of volumes on both sides of a failover that is undone.
func (p *printer) undone(volumes []plan.Volume) {
	rows := [][]any{}
	for _, v := range volumes {
		written := func(n *int64) string {
			if n == nil {
				return "not known"
			}
			return Bytes(*n)
		}
		rows = append(rows, []any{v.Namespace + "/" + v.Claim, or(v.Left), written(v.Diverged), or(v.Runs), written(v.Changed), or(v.Kept)})
	}
	p.table([]string{"VOLUME", "GOES ON WITH", "WRITTEN THERE", "PUTS AWAY", "WRITTEN THERE", "KEPT AS"}, rows)
}

// Sides prints what became of volumes on both sides of a failover, and what a run would
// send and keep of them.
func Sides(w io.Writer, r *plan.RecoveryRun) error {
	p := &printer{w: w}
	if r.Spec.Kind == plan.RunRollback {
		p.undone(r.Status.Volumes)
	} else {
		p.sides(r.Status.Volumes)
	}
	return p.err
}
