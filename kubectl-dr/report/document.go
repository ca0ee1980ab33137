package report

import (
	_ "embed"
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
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
// first: measured ones up to it are the trend.
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
	Title, Plan, Phase, Backup, Message string
	Started, Ended, RestoredTo, Took    string
	Passed                              bool
	Measures                            []measure
	Steps                               []documentStep
	Volumes                             []plan.Volume
	Trend                               []trendRun
	Objective                           float64 // height of the RTO's line in the trend, in percent
	ObjectiveRTO                        string
}

// measure is one number and what it should be.
type measure struct{ Name, Value, Objective, Verdict string }

// documentStep is a step; Offset and Width are in percent of the whole run.
type documentStep struct {
	Name, Phase, Took, Message string
	Offset, Width              float64
	took                       time.Duration
}

// trendRun is one measured run; Height is in percent.
type trendRun struct {
	Name, Kind, Started, RPO, RTO string
	Height                        float64
	Missed, This                  bool
}

// mostTrend bounds how many runs a trend shows.
const mostTrend = 24

func newDocument(r *plan.RecoveryRun, runs []plan.RecoveryRun) *document {
	s, o := r.Status, r.Spec.PlanSpec.Objectives
	d := &document{
		Title: r.Name, Plan: r.Spec.Plan, Phase: or(string(s.Phase)), Backup: or(r.Spec.Backup), Message: or(s.Message),
		Started: at(s.StartedAt), Ended: at(s.EndedAt), RestoredTo: at(s.RestoredTo), Took: none,
		Passed: s.Phase == plan.PhasePassed, Volumes: s.Volumes, ObjectiveRTO: Age(o.RTO.Duration),
		Measures: []measure{
			{"RPO", age(s.RPO), Age(o.RPO.Duration), verdict(s.RPOMet)},
			{"RTO", age(s.RTO), Age(o.RTO.Duration), verdict(s.RTOMet)},
		},
	}
	var whole time.Duration
	for _, step := range s.Steps {
		if s.StartedAt != nil && step.EndedAt != nil {
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
				row.Offset = percent(step.StartedAt.Sub(s.StartedAt.Time), whole)
				row.Width = percent(row.took, whole)
			}
		}
		d.Steps = append(d.Steps, row)
	}
	d.trend(r, runs)
	return d
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

// trend takes the measured runs up to r, oldest first.
func (d *document) trend(r *plan.RecoveryRun, runs []plan.RecoveryRun) {
	objective := r.Spec.PlanSpec.Objectives.RTO.Duration
	highest := objective
	var shown []plan.RecoveryRun
	for _, other := range runs {
		if other.Status.RTO == nil || later(other.Status.StartedAt, r.Status.StartedAt) || len(shown) == mostTrend {
			continue
		}
		shown = append([]plan.RecoveryRun{other}, shown...)
		highest = max(highest, other.Status.RTO.Duration)
	}
	if highest <= 0 {
		return
	}
	d.Objective = percent(objective, highest)
	for _, other := range shown {
		s := other.Status
		d.Trend = append(d.Trend, trendRun{
			Name: other.Name, Kind: string(other.Spec.Kind), Started: at(s.StartedAt), RPO: age(s.RPO), RTO: age(s.RTO),
			Height: percent(s.RTO.Duration, highest), Missed: s.RTOMet != nil && !*s.RTOMet, This: other.Name == r.Name,
		})
	}
}

func later(a, b *metav1.Time) bool { return a != nil && b != nil && a.After(b.Time) }

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

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
	p.line("Plan %s, backup %s, data as of %s. Started %s, ended %s.", d.Plan, d.Backup, d.RestoredTo, d.Started, d.Ended)
	p.line("")
	p.line("%s", d.Message)
	p.line("")
	row("", "measured", "objective", "")
	p.line("|---|---|---|---|")
	for _, m := range d.Measures {
		row(m.Name, m.Value, m.Objective, m.Verdict)
	}
	p.line("")
	p.line("## Steps")
	p.line("")
	row("step", "phase", "took", "message")
	p.line("|---|---|---|---|")
	for _, s := range d.Steps {
		row(s.Name, s.Phase, s.Took, s.Message)
	}
	if len(d.Volumes) > 0 {
		p.line("")
		p.line("## Volumes")
		p.line("")
		row("volume", "node", "snapshot", "kept")
		p.line("|---|---|---|---|")
		for _, v := range d.Volumes {
			row(v.Namespace+"/"+v.Claim, v.Node, v.Snapshot, v.Kept)
		}
	}
	if len(d.Trend) > 0 {
		p.line("")
		p.line("## Trend")
		p.line("")
		row("run", "kind", "started", "RPO", "RTO")
		p.line("|---|---|---|---|---|")
		for _, t := range d.Trend {
			row(t.Name, t.Kind, t.Started, t.RPO, t.RTO)
		}
	}
	return p.err
}

// JUnit's elements, as CI servers read them:
// https://github.com/testmoapp/junitxml.
type (
	junitSuite struct {
		XMLName   xml.Name    `xml:"testsuite"`
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
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
	suite := junitSuite{Name: d.Title, Timestamp: d.Started}
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
			c.Skipped = &junitMessage{or(s.Message)}
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
