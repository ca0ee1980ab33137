// Package check says whether a plan could be carried out now. It looks from the
// recovery site alone: what a check needs the source for would be worth nothing
// on the day.
package check

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Checker checks plans.
type Checker struct {
	Cluster *cluster.Cluster
	// Storage is nil when it could not be opened; StorageErr says why.
	Storage    *cluster.Storage
	StorageErr error
	Finder     *restorepoint.Finder
	Now        func() time.Time
	// Interval is how often an answer of Velero's server is looked for, and
	// ServerTimeout for how long.
	Interval, ServerTimeout time.Duration
	// Images and Names ask the world outside; nil does not.
	Images   Images
	Names    traffic.Names
	Services Services
}

// inspection is one check of a plan under way.
type inspection struct {
	*Checker
	plan   *plan.RecoveryPlan
	group  string
	report *report.Check

	backups  []velerov1api.Backup
	contents map[string][]string // of the newest backup: "apps/v1/Deployment" to "namespace/name"
	// points are those looked at for a recoverable one, and pointsErr why that ended.
	points    []restorepoint.Point
	pointsErr error
	rules     *rules.Set
	recovered recovered
	// pluginVersion is the tag of the plugin's image here, "" when not known.
	pluginVersion string
	agentVersions map[string]string // by node
}

// Check looks at everything, and returns an error only when the recovery
// cluster can't be asked at all.
func (c *Checker) Check(ctx context.Context, p *plan.RecoveryPlan) (*report.Check, error) {
	in := &inspection{Checker: c, plan: p, agentVersions: map[string]string{}, report: &report.Check{
		TypeMeta:   report.TypeMeta("CheckReport"),
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		At:         metav1.NewTime(c.Now()),
		State:      report.OK,
	}}
	in.load(ctx)
	for _, subject := range []struct {
		name string
		look func(context.Context)
	}{
		{"plan", in.lint},
		{"velero", in.velero},
		{"storage", in.storage},
		{"stretched pools", in.stretched},
		{"restore point", in.restorePoint},
		{"volumes", in.volumes},
		{"profiles", in.profiles},
		{"cluster", in.cluster},
		{"backup", in.contained},
		{"profiles", in.consumed},
		{"backup", in.served},
		{"backup", in.classes},
		{"backup", in.addressPools},
		{"backup", in.needed},
		{"backup", in.certificates},
		{"room", in.capacity},
		{"room", in.quotas},
		{"room", in.webhooks},
		{"images", in.images},
		{"git", in.gitOps},
		{"services", in.requires},
		{"traffic", in.traffic},
		{"drills", in.drills},
		{"reports", in.reports},
	} {
		in.group = subject.name
		subject.look(ctx)
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	r := in.report
	for _, g := range r.Groups {
		slices.SortStableFunc(g.Items, func(a, b report.Item) int { return cmp.Compare(a.Name, b.Name) })
	}
	return r, nil
}

func (in *inspection) add(state report.State, name, message, remedy string) {
	if state == report.OK || state == report.Skipped {
		remedy = ""
	}
	in.report.Add(in.group, report.Item{Name: name, State: state, Message: strings.ReplaceAll(message, "\n", "; "), Remedy: remedy})
}

func (in *inspection) ok(name, message string)   { in.add(report.OK, name, message, "") }
func (in *inspection) skip(name, message string) { in.add(report.Skipped, name, message, "") }
func (in *inspection) warn(name, message, remedy string) {
	in.add(report.Warning, name, message, remedy)
}
func (in *inspection) problem(name, message, remedy string) {
	in.add(report.Problem, name, message, remedy)
}

// failed reports an error with what it knows to do about it.
func (in *inspection) failed(name string, err error, remedy string) {
	in.problem(name, err.Error(), HintOr(err, remedy))
}
