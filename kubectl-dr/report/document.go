package report

import (
	"cmp"
	_ "embed"
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// Formats are those of documents about a run, for -o.
const (
	FormatHTML     = "html"
	FormatMarkdown = "markdown"
	FormatJUnit    = "junit"
)

// Document writes a run in one of the formats. runs are all of its plan, newest
// first: those up to it are the trend.
func Document(w io.Writer, format string, r *plan.RecoveryRun, runs []plan.RecoveryRun) error {
	d := newDocument(r, runs)
	switch format {
	case FormatHTML:
		return page.Execute(w, d)
	case FormatMarkdown:
		return d.markdown(w)
	case FormatJUnit:
		return d.junit(w)
	}
	return fmt.Errorf("no document of format %q", format)
}

// document is what the formats show.
type document struct {
	Name, Title, Kind, Plan, Phase, Backup, Message, By string
	Started, Ended, RestoredTo, Took                    string
	Passed                                              bool
	Measures                                            []measure
	// Executed and Unexecuted are the steps, each in the order of the run.
	Executed, Unexecuted []documentStep
	// StepShare is how many of the steps were executed, in percent.
	StepShare float64
	Volumes   []documentVolume
	// Trend are the runs of the plan up to this one, and Charts what was measured of
	// them.
	Trend  []trendRun
	Charts []chart
	Steps  []documentStep

	startedAt *metav1.Time
}

// measure is one number and what it should be; Share is how much of the objective
// it takes, in percent.
type measure struct {
	Name, About, Value, Objective, Verdict string
	Share                                  float64
}

// documentStep is a step; Offset and Width are in percent of the whole run.
type documentStep struct {
	Name, Phase, Took, Message string
	Offset, Width              float64
	took                       time.Duration
}

// executed reports whether a step was begun.
func (s documentStep) executed() bool {
	return s.Phase != string(plan.PhasePending) && s.Phase != string(plan.PhaseSkipped)
}

// documentVolume is a volume and where its copy is.
type documentVolume struct{ Name, Taken, Node, Copy, Kept string }

// trendRun is one run of the plan.
type trendRun struct {
	Name, Kind, Started, Phase, RPO, RTO string
	Passed, RPOMissed, RTOMissed, This   bool
}

// chart is one measure over the runs of a trend, oldest first. Line is the height of
// the objective in percent; above 100 it is not in the chart.
type chart struct {
	Name, About, Objective, From, To string
	Line                             float64
	Bars                             []bar
	Width                            float64 // at most, in rem
}

// bar is one run in a chart.
type bar struct {
	Run, Value             string
	Height                 float64
	Measured, Missed, This bool
}

// mostTrend bounds how many runs a trend shows.
const mostTrend = 24

// What the measures are.
const (
	aboutRPO = "age of the recovered data"
	aboutRTO = "time until it worked again"
)

func newDocument(r *plan.RecoveryRun, runs []plan.RecoveryRun) *document {
	s, o := r.Status, r.Spec.PlanSpec.Objectives
	d := &document{
		Name: r.Name, Kind: r.Spec.Kind.Words(), Plan: r.Spec.Plan, Phase: or(string(s.Phase)), Backup: or(r.Spec.Backup), Message: or(s.Message),
		By: executedBy(s.ExecutedBy), Started: clock(s.StartedAt), Ended: clock(s.EndedAt), RestoredTo: clock(s.RestoredTo), Took: none,
		Passed: s.Phase == plan.PhasePassed, startedAt: s.StartedAt,
	}
	if r.Spec.Kind.Measured() {
		d.Measures = []measure{
			{"RPO", aboutRPO, age(s.RPO), Age(o.RPO.Duration), verdict(s.RPOMet), share(s.RPO, o.RPO)},
			{"RTO", aboutRTO, age(s.RTO), Age(o.RTO.Duration), verdict(s.RTOMet), share(s.RTO, o.RTO)},
		}
	}
	d.Title = strings.ToUpper(d.Kind[:1]) + d.Kind[1:] + " of " + d.Plan
	if d.Passed && s.RTO != nil {
		d.Message = objectives(missed(s.RPOMet), missed(s.RTOMet))
	}
	notReached := "the run did not get there"
	if r.InProgress() {
		notReached = "the run is not there yet"
	}
	// What was done when the run was over, as cleaning up after a drill that was kept,
	// would leave nothing to see of the run.
	var whole time.Duration
	for _, step := range s.Steps {
		if s.StartedAt != nil && step.EndedAt != nil && !later(step.StartedAt, s.EndedAt) {
			whole = max(whole, step.EndedAt.Sub(s.StartedAt.Time))
		}
	}
	if whole > 0 {
		d.Took = Age(whole)
	}
	for _, step := range s.Steps {
		row := documentStep{Name: step.Name, Phase: string(step.Phase), Took: none, Message: step.Message}
		if step.StartedAt != nil && step.EndedAt != nil {
			row.took = step.EndedAt.Sub(step.StartedAt.Time)
			row.Took = Age(row.took)
			if whole > 0 && s.StartedAt != nil {
				row.Offset = min(100, percent(step.StartedAt.Sub(s.StartedAt.Time), whole))
				row.Width = min(100-row.Offset, percent(row.took, whole))
			}
		}
		if row.executed() {
			d.Executed = append(d.Executed, row)
		} else {
			row.Message = cmp.Or(row.Message, notReached)
			d.Unexecuted = append(d.Unexecuted, row)
		}
		d.Steps = append(d.Steps, row)
	}
	if len(d.Steps) > 0 {
		d.StepShare = 100 * float64(len(d.Executed)) / float64(len(d.Steps))
	}
	for _, v := range s.Volumes {
		d.Volumes = append(d.Volumes, documentVolume{v.Namespace + "/" + v.Claim, clock(&v.SnapshotAt), or(v.Node), copied(v.Snapshot, v.Method), or(v.Kept)})
	}
	d.trend(r, runs)
	return d
}

// clock is a time for people.
func clock(t *metav1.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// objectives says of a run that was measured what became of them.
func objectives(rpoMissed, rtoMissed bool) string {
	switch {
	case rpoMissed && rtoMissed:
		return "It missed both objectives."
	case rpoMissed:
		return "It met its RTO, and missed its RPO."
	case rtoMissed:
		return "It met its RPO, and missed its RTO."
	}
	return "It met both objectives."
}

func verdict(met *bool) string {
	switch {
	case met == nil:
		return "not measured"
	case *met:
		return "met"
	}
	return "missed"
}

func percent(part, whole time.Duration) float64 {
	return float64(int(1000*part.Seconds()/whole.Seconds())) / 10
}

// share is how much of an objective is used up, at most all of it.
func share(d *metav1.Duration, objective metav1.Duration) float64 {
	if d == nil || objective.Duration <= 0 {
		return 0
	}
	return min(100, percent(d.Duration, objective.Duration))
}

// trend takes the runs up to r that were measured, or failed before they could be.
func (d *document) trend(r *plan.RecoveryRun, runs []plan.RecoveryRun) {
	var shown []plan.RecoveryRun
	for _, other := range runs {
		s := other.Status
		counts := s.RTO != nil || other.Spec.Kind.Measured() && (s.Phase == plan.PhaseFailed || s.Phase == plan.PhaseAborted)
		if counts && !later(s.StartedAt, r.Status.StartedAt) && len(shown) < mostTrend {
			shown = append(shown, other)
		}
	}
	slices.Reverse(shown)
	for _, other := range shown {
		s := other.Status
		d.Trend = append(d.Trend, trendRun{
			Name: other.Name, Kind: other.Spec.Kind.Words(), Started: clock(s.StartedAt), Phase: string(s.Phase), RPO: age(s.RPO), RTO: age(s.RTO),
			Passed: s.Phase == plan.PhasePassed, RPOMissed: missed(s.RPOMet), RTOMissed: missed(s.RTOMet), This: other.Name == r.Name,
		})
	}
	o := r.Spec.PlanSpec.Objectives
	if len(shown) > 1 {
		d.Charts = []chart{
			newChart("RTO", aboutRTO, o.RTO.Duration, r, shown, func(s plan.RecoveryRunStatus) (*metav1.Duration, *bool) { return s.RTO, s.RTOMet }),
			newChart("RPO", aboutRPO, o.RPO.Duration, r, shown, func(s plan.RecoveryRunStatus) (*metav1.Duration, *bool) { return s.RPO, s.RPOMet }),
		}
	}
}

// newChart scales to the highest run. An objective that is far above all of them
// would leave nothing to see of them.
func newChart(name, about string, objective time.Duration, r *plan.RecoveryRun, runs []plan.RecoveryRun,
	of func(plan.RecoveryRunStatus) (*metav1.Duration, *bool)) chart {
	highest := time.Second
	for _, run := range runs {
		if d, _ := of(run.Status); d != nil {
			highest = max(highest, d.Duration)
		}
	}
	if objective <= 2*highest {
		highest = max(highest, objective)
	}
	c := chart{
		Name: name, About: about, Objective: Age(objective), Line: percent(objective, highest),
		From: day(runs[0]), To: day(runs[len(runs)-1]), Width: 3.75 * float64(len(runs)),
	}
	for _, run := range runs {
		b := bar{Run: run.Name, Value: none, This: run.Name == r.Name}
		if d, met := of(run.Status); d != nil {
			b.Measured, b.Value, b.Height, b.Missed = true, Age(d.Duration), percent(d.Duration, highest), missed(met)
		}
		c.Bars = append(c.Bars, b)
	}
	return c
}

func day(r plan.RecoveryRun) string {
	if r.Status.StartedAt.IsZero() {
		return none
	}
	return r.Status.StartedAt.UTC().Format(time.DateOnly)
}

func later(a, b *metav1.Time) bool { return a != nil && b != nil && a.After(b.Time) }

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{"judged": judged, "count": Count}).Parse(pageText))

func missed(met *bool) bool { return met != nil && !*met }

// judged says of a measure when it is above its objective.
func judged(value string, missed bool) string {
	if missed {
		return value + " (missed)"
	}
	return value
}

// cell keeps text within a cell of a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", "", "<", "&lt;").Replace(or(s))
}

func (d *document) markdown(w io.Writer) error {
	p := &printer{w: w}
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = cell(cells[i])
		}
		p.line("| %s |", strings.Join(cells, " | "))
	}
	p.line("# %s: %s", d.Title, d.Phase)
	p.line("")
	p.line("%s", d.Message)
	p.line("")
	p.line("Run %s, backup %s, data as of %s. Started %s, ended %s.", d.Name, d.Backup, d.RestoredTo, d.Started, d.Ended)
	p.line("Executed by %s.", cell(d.By))
	p.line("")
	if len(d.Measures) > 0 {
		row("measure", "measured", "objective", "verdict")
		p.line("|---|---|---|---|")
		for _, m := range d.Measures {
			row(m.Name, m.Value, m.Objective, m.Verdict)
		}
		p.line("")
	}
	p.line("## Steps")
	p.line("")
	row("step", "phase", "took", "message")
	p.line("|---|---|---|---|")
	for _, s := range d.Executed {
		row(s.Name, s.Phase, s.Took, s.Message)
	}
	if len(d.Unexecuted) > 0 {
		p.line("")
		p.line("## Not executed")
		p.line("")
		row("step", "phase", "message")
		p.line("|---|---|---|")
		for _, s := range d.Unexecuted {
			row(s.Name, s.Phase, s.Message)
		}
	}
	if len(d.Volumes) > 0 {
		p.line("")
		p.line("## Volumes")
		p.line("")
		row("volume", "snapshot taken", "node", "snapshot", "kept")
		p.line("|---|---|---|---|---|")
		for _, v := range d.Volumes {
			row(v.Name, v.Taken, v.Node, v.Copy, v.Kept)
		}
	}
	if len(d.Trend) > 0 {
		p.line("")
		p.line("## Trend")
		p.line("")
		row("run", "kind", "started", "phase", "RPO", "RTO")
		p.line("|---|---|---|---|---|---|")
		for _, t := range d.Trend {
			row(t.Name, t.Kind, t.Started, t.Phase, judged(t.RPO, t.RPOMissed), judged(t.RTO, t.RTOMissed))
		}
	}
	return p.err
}

// JUnit's elements, as CI servers read them:
// https://github.com/testmoapp/junitxml.
type (
	junitSuite struct {
		XMLName    xml.Name        `xml:"testsuite"`
		Name       string          `xml:"name,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		Classname string        `xml:"classname,attr"`
		Time      string        `xml:"time,attr"`
		Failure   *junitMessage `xml:"failure,omitempty"`
		Skipped   *junitMessage `xml:"skipped,omitempty"`
		Output    string        `xml:"system-out,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
	}
)

// junit makes a case of every step, and one of every objective.
func (d *document) junit(w io.Writer) error {
	suite := junitSuite{Name: d.Name, Timestamp: at(d.startedAt), Properties: []junitProperty{
		{"plan", d.Plan}, {"kind", d.Kind}, {"backup", d.Backup}, {"executed by", d.By},
	}}
	add := func(c junitCase) {
		c.Classname = d.Plan
		suite.Tests++
		if c.Failure != nil {
			suite.Failures++
		}
		if c.Skipped != nil {
			suite.Skipped++
		}
		suite.Cases = append(suite.Cases, c)
	}
	var whole time.Duration
	for _, s := range d.Steps {
		whole += s.took
		c := junitCase{Name: s.Name, Time: seconds(s.took)}
		switch plan.Phase(s.Phase) {
		case plan.PhasePassed:
			c.Output = s.Message
		case plan.PhaseFailed, plan.PhaseAborted:
			c.Failure = &junitMessage{s.Message}
		default:
			c.Skipped = &junitMessage{s.Message}
		}
		add(c)
	}
	for _, m := range d.Measures {
		c := junitCase{Name: m.Name + " objective", Time: seconds(0)}
		said := fmt.Sprintf("%s, objective %s", m.Value, m.Objective)
		switch m.Verdict {
		case "met":
			c.Output = said
		case "missed":
			c.Failure = &junitMessage{said}
		default:
			c.Skipped = &junitMessage{m.Verdict}
		}
		add(c)
	}
	suite.Time = seconds(whole)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()) }
