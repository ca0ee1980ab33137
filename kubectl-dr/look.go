package kubectldr

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/check"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/drill"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/metrics"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rpo"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

const serverTimeout = 10 * time.Second

func newCmdCheck(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "check [PLAN | -f FILE]",
		Short:   "See whether a plan could be carried out now",
		GroupID: groupCheck,
		Long: `See whether a plan could be carried out now: the plan itself, Velero, agents and
pools, the newest restore point, rewrite profiles, nodes and classes; what the newest
backup holds, as a failover would restore it: kinds that are served here, references,
certificates, address pools, room for its pods, quotas, webhooks, images; what comes
from Git, and its repositories; services that the plan requires; names and their TTL;
and how long ago the last drill was. Each is ok, a warning or a problem with what to
do about it. What is not used is not looked at.

Everything is looked at from the recovery site; the source is not asked. Registries,
required services and name servers are asked from this machine, unless --offline is
given. Nothing is changed.` + exitStatus,
		Example: `  # The only plan there is
  kubectl dr check

  # A plan that is still a file
  kubectl dr check -f plan.yaml`,
	}
	plans := addPlanFlags(c, e, g)
	out := addOutputFlags(c)
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	offline := c.Flags().Bool("offline", false, "ask neither registries, required services nor name servers")
	dnsServer := c.Flags().String("dns-server", "", "name server to ask, as host:port; this machine's when not given")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		cl, p, err := plans.load(ctx, e, args)
		if p == nil || cl == nil {
			return err
		}
		// A plan in the cluster that is not valid is what is to be shown.
		storage, storageErr := e.storage(ctx, cl, g.agentOptions())
		checker := e.checker(cl, storage, storageErr)
		if !*offline {
			checker.Images, checker.Services, checker.Names = e.images(), e.services(), e.names(*dnsServer)
		}
		r, err := checker.Check(ctx, p)
		if err != nil {
			return err
		}
		return e.judged(out.result(e, r), r.State, *strict)
	})
	return c
}

func (e *env) checker(cl *cluster.Cluster, storage *cluster.Storage, storageErr error) *check.Checker {
	return &check.Checker{
		Cluster: cl, Storage: storage, StorageErr: storageErr, Finder: finder(cl, storage),
		Now: e.now, Interval: e.interval, ServerTimeout: serverTimeout,
	}
}

// judged turns a state into an exit status.
func (e *env) judged(err error, state report.State, strict bool) error {
	if err == nil && (state == report.Problem || strict && state == report.Warning) {
		return &unhealthyError{}
	}
	return err
}

func newCmdRPO(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "rpo [PLAN | -f FILE]",
		Short:   "Measure how much a failover would lose now",
		GroupID: groupCheck,
		Long: `Measure how much a failover would lose now: the age of the newest point each
volume can be recovered to at the recovery site, and of the newest backup of the
Kubernetes objects.

A point counts when the copy of the volume's snapshot was found on the recovery
site's ZFS host, or when Velero recorded that it keeps the volume by itself. An age
is ok up to the plan's RPO, a warning up to twice as much, and a problem above, which
ends with status 2.

-o prometheus prints metrics in Prometheus' text format, as for node_exporter's
textfile collector; kubectl dr exporter serves them.` + exitStatus,
		Example: `  # How much would be lost now?
  kubectl dr rpo wordpress

  # In a monitoring script: status 2 as soon as the objective is missed
  kubectl dr rpo wordpress --strict -o json

  # Keep an eye on it
  kubectl dr rpo wordpress --watch`,
	}
	plans := addPlanFlags(c, e, g)
	out := addOutputFlags(c)
	c.Flags().Lookup("output").Usage += "; or prometheus"
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	watch := addWatchFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := watch.validate(); err != nil {
			return err
		}
		cl, p, err := plans.load(ctx, e, args)
		if err != nil {
			return err
		}
		return watch.repeat(ctx, e, func(ctx context.Context) error {
			r, err := e.rpo(ctx, g, cl, p)
			if err != nil {
				return err
			}
			if *out.print.OutputFormat == formatPrometheus {
				err = metrics.Write(e.Out, []metrics.Measurement{{Plan: p, At: e.now(), RPO: r}}, e.now())
			} else {
				err = out.result(e, r)
			}
			return e.judged(err, r.State, *strict)
		})
	})
	return c
}

func (e *env) rpo(ctx context.Context, g *globalFlags, cl *cluster.Cluster, p *plan.RecoveryPlan) (*report.RPO, error) {
	s, err := g.site(ctx, e, cl)
	if err != nil {
		return nil, err
	}
	runs, err := run.Runs(ctx, cl.Client, cl.Namespace, p.Name)
	if err != nil {
		return nil, err
	}
	if _, err := protected(p.Name, runs); err == nil {
		s.finder = finder(cl, s.storage.Back())
	}
	meter := &rpo.Meter{Finder: s.finder, Now: e.now, Hosts: func(ctx context.Context) []cluster.Host { return s.storage.Hosts(ctx, e.now) }}
	return meter.Measure(ctx, p)
}

func newCmdStatus(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "status [PLAN | -f FILE]",
		Short:   "Show where a plan stands",
		GroupID: groupCheck,
		Long: `Show where a plan stands: which site is active, the role of the recovery site, the
run in progress, the last drill and failover, the newest restore point, the RPO,
and what to do next. Nothing is changed. An RPO above twice its objective, or
nothing to recover from, ends with status 2.

After a failover it is looked at whether the application runs at both sites, which
ends with status 2 too: by the pods in both clusters with --source-context,
otherwise by what the other site's agent says of the volumes that were left.

-o prometheus prints metrics in Prometheus' text format; kubectl dr exporter serves
them.` + exitStatus,
		Example: `  kubectl dr status wordpress

  # Follow a failover from another terminal
  kubectl dr status wordpress --watch --interval=5s

  # Look at the pods of both clusters
  kubectl dr status wordpress --source-context=primary`,
	}
	plans := addPlanFlags(c, e, g)
	out := addOutputFlags(c)
	c.Flags().Lookup("output").Usage += "; or prometheus"
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	watch := addWatchFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := watch.validate(); err != nil {
			return err
		}
		cl, p, err := plans.load(ctx, e, args)
		if err != nil {
			return err
		}
		return watch.repeat(ctx, e, func(ctx context.Context) error {
			m, err := e.measure(ctx, g, cl, p)
			if err != nil {
				return err
			}
			if *out.print.OutputFormat == formatPrometheus {
				err = metrics.Write(e.Out, []metrics.Measurement{m}, e.now())
			} else {
				err = out.result(e, m.Status)
			}
			state := m.Status.RPO.State
			if len(m.Status.BothActive) > 0 {
				state = report.Problem
			}
			return e.judged(err, state, *strict)
		})
	})
	return c
}

// The roles of a recovery site.
const (
	roleStandby     = "standby"
	roleFailingOver = "failing over"
	roleActive      = "active"
	roleFailingBack = "failing back"
	roleRollingBack = "rolling back"
)

func (e *env) status(p *plan.RecoveryPlan, runs []plan.RecoveryRun, r *report.RPO, rpoErr error) *report.Status {
	s := &report.Status{
		TypeMeta:   report.TypeMeta("StatusReport"),
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		At:         metav1.NewTime(e.now()),
		Role:       roleStandby,
		Active:     failover.SourceSite,
		Epoch:      run.Epoch(runs),
	}
	move := run.LastMove(runs)
	if move != nil && !move.Spec.Kind.Returns() {
		s.Role, s.Active = roleActive, failover.RecoverySite
		if back := run.LastReprotect(runs); back != nil && back.Spec.Follows == move.Name {
			s.LastReprotect = summary(back)
		}
		_, err := uncommitted(p.Name, runs)
		s.Uncommitted = err == nil && len(p.Spec.Source.StretchedPools) == 0
	}
	for i := range runs {
		r := &runs[i]
		if drill.Kept(r) {
			s.Kept = append(s.Kept, kept(r, e.now()))
		}
		switch {
		case r.InProgress() && s.Running == nil:
			s.Running = summary(r)
			switch {
			case r.Spec.Kind == plan.RunFailback:
				s.Role = roleFailingBack
			case r.Spec.Kind == plan.RunRollback:
				s.Role = roleRollingBack
			case r.Spec.Kind.Moves():
				s.Role = roleFailingOver
			}
			if r.Spec.Kind != plan.RunDrill {
				s.Next = append(s.Next, fmt.Sprintf("kubectl dr %s %s --resume (plus the flags it was begun with)", r.Spec.Kind.Verb(), p.Name))
			}
		case r.InProgress():
		case r.Spec.Kind == plan.RunDrill && s.LastDrill == nil:
			s.LastDrill = summary(r)
		case r.Spec.Kind.Moves() && s.LastFailover == nil:
			s.LastFailover = summary(r)
		}
	}
	if r != nil {
		s.RestorePoint = r.RestorePoint
		s.RPO = &report.RPOSummary{State: r.State, Objective: r.Objective, Message: r.Message}
	} else if rpoErr != nil {
		s.RPO = &report.RPOSummary{State: report.Problem, Objective: p.Spec.Objectives.RPO, Message: rpoErr.Error()}
	}
	if s.Role == roleActive && s.LastReprotect == nil {
		s.RestorePoint = nil
		s.RPO = &report.RPOSummary{State: report.Problem, Objective: p.Spec.Objectives.RPO,
			Message: "nothing is replicated that was written here since " + move.Name}
	}
	s.Next = e.next(p, s)
	return s
}

func kept(r *plan.RecoveryRun, now time.Time) report.KeptDrill {
	k := report.KeptDrill{Name: r.Name}
	if until := drill.KeptUntil(r); until != nil {
		k.Until, k.Expired = ptr.To(metav1.NewTime(*until)), !until.After(now)
	}
	return k
}

func summary(r *plan.RecoveryRun) *report.RunSummary {
	return &report.RunSummary{Name: r.Name, Phase: r.Status.Phase, StartedAt: r.Status.StartedAt, RTO: r.Status.RTO, Message: r.Status.Message}
}

// next says what to do, most urgent first.
func (e *env) next(p *plan.RecoveryPlan, s *report.Status) []string {
	next := s.Next
	switch {
	case len(next) > 0:
	case s.Running != nil:
		next = append(next, "kubectl dr drill "+p.Name+" --resume")
	case s.Role == roleActive && s.LastReprotect == nil:
		next = append(next, "kubectl dr reprotect "+p.Name+" --source-context=…, once the source is back")
		if s.Uncommitted {
			next[len(next)-1] += ": it commits the failover"
			next = append(next, "kubectl dr rollback "+p.Name+" --source-context=… undoes it: the source goes on where it stopped")
		}
	case s.Role == roleActive:
		next = append(next, "kubectl dr failback "+p.Name+" --source-context=…")
	}
	if s.Role == roleActive {
		return append(next, "kubectl dr report "+s.LastFailover.Name)
	}
	if s.RPO != nil && s.RPO.State == report.Problem {
		next = append(next, "kubectl dr check "+p.Name)
	}
	if slices.ContainsFunc(s.Kept, func(k report.KeptDrill) bool { return k.Expired }) {
		next = append(next, "kubectl dr drill cleanup --expired")
	}
	every := p.Spec.Objectives.DrillEvery
	switch d := s.LastDrill; {
	case d == nil:
		next = append(next, "kubectl dr drill "+p.Name+" (there was none yet)")
	case d.Phase != plan.PhasePassed:
		next = append(next, "kubectl dr report "+d.Name, "kubectl dr drill "+p.Name)
	case every != nil && d.StartedAt != nil && e.now().Sub(d.StartedAt.Time) > every.Duration:
		next = append(next, fmt.Sprintf("kubectl dr drill %s (wanted every %s)", p.Name, report.Age(every.Duration)))
	}
	return next
}

func newCmdHistory(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "history [PLAN]",
		Short:   "List drills and failovers",
		GroupID: groupCheck,
		Long: `List drills and failovers, of one plan or of all, newest first, with the RPO and
RTO that were measured.

` + aboutArchived + exitStatus,
		Example: `  kubectl dr history
  kubectl dr history wordpress -o wide

  # The cluster is a new one, and knows nothing
  kubectl dr history wordpress --archived

  # There is no cluster
  kubectl dr history --archived --agents=remote=remote.example.org:7443 --agent-credentials=kubectl-dr.pem`,
		Args: cobra.MaximumNArgs(1),
	}
	out := addOutputFlags(c)
	from := addRunsFlags(c, g)
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return names(c.Context(), e, g, func(ctx context.Context, cl *cluster.Cluster) ([]string, error) {
			plans, err := cl.Plans(ctx)
			return planNames(plans), err
		})
	}
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		runs, err := from.runs(ctx, e, strings.Join(args, ""))
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			fmt.Fprintf(e.ErrOut, "there was no run yet in %s\n", from.where())
		}
		list := &plan.RecoveryRunList{Items: runs}
		list.APIVersion, list.Kind = plan.GroupVersion.String(), "RecoveryRunList"
		for i := range list.Items {
			typed(&list.Items[i])
		}
		return out.result(e, list)
	})
	return c
}

// typed says of a run what it is: clients drop it on reading.
func typed(r *plan.RecoveryRun) *plan.RecoveryRun {
	r.APIVersion, r.Kind = plan.GroupVersion.String(), "RecoveryRun"
	r.ManagedFields = nil
	return r
}

func newCmdVersion(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print versions",
		GroupID: groupOther,
		Long: `Print the version of kubectl dr and, with --remote, of Velero and the agents at
the recovery site.` + exitStatus,
		Example: `  kubectl dr version --remote`,
		Args:    cobra.NoArgs,
	}
	out := addOutputFlags(c)
	remote := c.Flags().Bool("remote", false, "ask Velero and the agents at the recovery site too")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		v := &report.Version{TypeMeta: report.TypeMeta("VersionReport"), ObjectMeta: metav1.ObjectMeta{Name: "kubectl-dr"}, Client: zfssnap.Version}
		if *remote {
			s, err := g.openSite(ctx, e)
			if err != nil {
				return err
			}
			if v.Server, err = check.ServerVersion(ctx, s.cluster, e.interval, serverTimeout); err != nil {
				return err
			}
			for _, h := range s.storage.Hosts(ctx, e.now) {
				info := report.AgentInfo{Node: h.Node, Version: h.Info.GetAgentVersion(), ZFS: h.Info.GetZfsVersion()}
				if h.Err != nil {
					info.Error = h.Err.Error()
				}
				v.Agents = append(v.Agents, info)
			}
		}
		return out.result(e, v)
	})
	return c
}
