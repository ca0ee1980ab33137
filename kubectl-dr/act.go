package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/drill"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/probe"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// runFlags are those of commands that begin a run.
type runFlags struct {
	*planFlags
	out            *outputFlags
	backup         string
	before         time.Time
	dryRun         bool
	resume         bool
	restoreTimeout time.Duration
	cleanUpTimeout time.Duration
	answered       []string
}

func addRunFlags(c *cobra.Command, e *env, g *globalFlags) *runFlags {
	f := &runFlags{planFlags: addPlanFlags(c, e, g), out: addOutputFlags(c)}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the steps and do nothing")
	c.Flags().BoolVar(&f.resume, "resume", false, "go on with the run in progress, and never begin one")
	return f
}

// addPoint adds the choice of a restore point.
func (f *runFlags) addPoint(c *cobra.Command) {
	c.Flags().StringVar(&f.backup, "backup", "", "restore point, instead of the newest that is recoverable; may be PartiallyFailed")
	c.Flags().TimeVar(&f.before, "before", time.Time{}, []string{time.RFC3339}, "the newest restore point with nothing of this time or later, as 2026-03-04T05:06:07Z")
	c.MarkFlagsMutuallyExclusive("backup", "before")
}

// chosen reports whether a restore point was.
func (f *runFlags) chosen() bool { return f.backup != "" || !f.before.IsZero() }

// point returns the restore point that was chosen.
func (f *runFlags) point(ctx context.Context, s *site, source plan.Source) (restorepoint.Point, error) {
	if !f.before.IsZero() {
		return s.finder.Before(ctx, source, f.before)
	}
	return s.point(ctx, source, f.backup)
}

// addRestore adds what a run needs that restores.
func (f *runFlags) addRestore(c *cobra.Command) {
	f.addStart(c)
	c.Flags().DurationVar(&f.restoreTimeout, "restore-timeout", 30*time.Minute, "for Velero's restore")
}

// addStart adds what a run needs that starts an application.
func (f *runFlags) addStart(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.answered, "answer", nil, "name of a prompt of the plan that is answered with yes; may be repeated")
	c.Flags().DurationVar(&f.cleanUpTimeout, "cleanup-timeout", 5*time.Minute, "for cleaning up, or giving the site that is left back what it had, also after an interrupt")
}

func (f *runFlags) target(e *env, c *cluster.Cluster, r *plan.RecoveryRun) *run.Target {
	return &run.Target{
		Cluster: c, Run: r, Hooks: e.hooks(), Interval: e.interval, RestoreTimeout: f.restoreTimeout,
		Prober: &probe.Prober{Client: c.Client, Pods: c.Pods, Interval: e.interval, Run: r.Name},
		Ask:    func(ctx context.Context, name, prompt string) error { return f.ask(ctx, e, name, prompt) },
	}
}

// ask asks what a plan's prompt says, unless it was answered beforehand. What was
// agreed to with --yes is the run as such.
func (f *runFlags) ask(ctx context.Context, e *env, name, prompt string) error {
	if slices.Contains(f.answered, name) {
		return nil
	}
	fmt.Fprintf(e.ErrOut, "         %s\n", prompt)
	if !e.interactive() {
		return hint.Errorf(fmt.Sprintf("see to it, and answer with --answer=%q", name), "there is no terminal to ask on")
	}
	fmt.Fprint(e.ErrOut, "Type yes to go on: ")
	got, err := e.line(ctx)
	if err == nil && got != "yes" {
		err = fmt.Errorf("it was answered with %q", got)
	}
	return err
}

// lock keeps others from working on the plan, except from what only looks.
func (e *env) lock(ctx context.Context, c *cluster.Cluster, planName string, dryRun bool) (context.Context, func(), error) {
	if dryRun {
		return ctx, func() {}, nil
	}
	l := &run.Lock{
		Client: c.Client, Namespace: c.Namespace, Plan: planName, Holder: e.holder, Now: e.now,
		Wait: run.LockWait, Interval: e.interval,
		Waiting: func(l *run.LockedError) { e.hooks().Warnf("%s; waiting", l) },
	}
	return l.Acquire(ctx)
}

// inProgress returns the run to go on with, nil when one is to begin.
func (f *runFlags) inProgress(ctx context.Context, c *cluster.Cluster, planName string, kinds ...plan.RunKind) (*plan.RecoveryRun, error) {
	runs, err := run.Runs(ctx, c.Client, c.Namespace, planName)
	if err != nil {
		return nil, err
	}
	r := run.InProgress(runs)
	if r == nil {
		if f.resume {
			return nil, fmt.Errorf("there is no run of plan %q in progress", planName)
		}
		return nil, nil
	}
	for _, k := range kinds {
		if r.Spec.Kind != k {
			continue
		}
		if f.backup != "" && f.backup != r.Spec.Backup {
			return nil, fmt.Errorf("run %s is in progress with backup %s, not %s", r.Name, r.Spec.Backup, f.backup)
		}
		return r, nil
	}
	verb := r.Spec.Kind.Verb()
	toDo := fmt.Sprintf("end it first: kubectl dr %s %s --resume", verb, planName)
	if verb == "drill" {
		toDo += ", or kubectl dr drill cleanup " + r.Name
	}
	return nil, hint.Errorf(toDo, "%s %s of plan %q is in progress", r.Spec.Kind.Words(), r.Name, planName)
}

func (s *site) point(ctx context.Context, source plan.Source, backup string) (restorepoint.Point, error) {
	if backup != "" {
		return s.finder.Named(ctx, source, backup)
	}
	return s.finder.Newest(ctx, source)
}

// arrived returns the point that was chosen, or else the newest. For that it waits until
// Velero knows a backup whose copies are here already: a source that died a moment ago
// should not cost more than it must.
func (f *runFlags) arrived(ctx context.Context, e *env, s *site, source plan.Source, timeout time.Duration) (restorepoint.Point, error) {
	point, err := f.point(ctx, s, source)
	if err != nil || f.chosen() {
		return point, err
	}
	backup, err := s.finder.Arrived(ctx, source, point)
	if backup == "" || err != nil {
		return point, err
	}
	if f.dryRun || timeout == 0 {
		e.hooks().Warnf("the copies of backup %s have arrived, and Velero of this cluster does not know it yet", backup)
		return point, nil
	}
	e.hooks().Progressf("the copies of backup %s have arrived; waiting up to %s for Velero of this cluster to know it", backup, report.Age(timeout))
	err = cluster.Poll(ctx, e.interval, timeout, func(ctx context.Context) (bool, error) {
		err := s.cluster.Client.Get(ctx, client.ObjectKey{Namespace: s.cluster.Namespace, Name: backup}, &velerov1api.Backup{})
		return err == nil, client.IgnoreNotFound(err)
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		e.hooks().Warnf("Velero of this cluster does not know backup %s after %s: the source may have died before it was complete", backup, report.Age(timeout))
		return point, nil
	case err != nil:
		return point, fmt.Errorf("wait for backup %s: %w", backup, err)
	}
	return s.point(ctx, source, "")
}

// checkProfile refuses to begin a run whose rewrite profile can't be used where it
// restores. Velero would fail object by object, after it has made volumes.
func checkProfile(ctx context.Context, c *cluster.Cluster, r *plan.RecoveryRun) error {
	name := r.Spec.PlanSpec.Profile(r.Spec.Kind)
	if name == "" {
		return nil
	}
	set, err := c.Profiles(ctx)
	if err == nil {
		_, err = set.Profile(name)
	}
	if err != nil {
		return hint.Errorf("correct spec.profiles of the plan or the ConfigMap of profiles; kubectl dr check "+r.Spec.Plan+" looks at both",
			"read rewrite profiles: %w", err)
	}
	return nil
}

// preview prints what would be done: on standard output it is the result.
func (f *runFlags) preview(e *env, r *plan.RecoveryRun, steps []run.Step) error {
	if printer, err := f.out.printer(); printer != nil || err != nil {
		if err != nil {
			return err
		}
		return printer.PrintObj(r, e.Out)
	}
	for i, s := range steps {
		if _, err := fmt.Fprintf(e.Out, "%2d. %s: %s\n", i+1, s.Name, s.About); err != nil {
			return err
		}
	}
	return nil
}

func newCmdDrill(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "drill [PLAN | -f FILE]",
		Short:   "Rehearse a recovery beside production",
		GroupID: groupAct,
		Long: `Rehearse a recovery: restore the newest recoverable point into namespaces of its
own on clones of the copies, start the application in waves, probe it, measure
RPO and RTO, and remove everything again.

Pods of a drill reach each other and DNS, nothing else. Jobs and CronJobs stay
suspended. Production, its backups and replication are not touched. What the
drill made is removed when it fails and when it is interrupted too, unless --keep
is given; kubectl dr drill cleanup removes it later, and with --expired what has
outlived its --ttl.

A drill that was killed goes on when the command is run again. Only one run of a
plan is in progress at a time.` + exitStatus,
		Example: `  # Say what would be done
  kubectl dr drill wordpress --dry-run

  # Rehearse, and look around before cleaning up
  kubectl dr drill wordpress --keep --ttl=2h
  kubectl dr drill cleanup wordpress-drill-20260102-030405

  # Unattended, in the cluster, with what removes forgotten ones
  kubectl apply -f examples/drill`,
	}
	f := addRunFlags(c, e, g)
	f.addPoint(c)
	f.addRestore(c)
	k := keptFor{}
	c.Flags().BoolVar(&k.keep, "keep", false, "leave everything in place")
	c.Flags().DurationVar(&k.ttl, "ttl", 0, "how long after its end what is kept is wanted, as 2h; kubectl dr drill cleanup --expired removes it then")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		k.limited = c.Flags().Changed("ttl")
		if err := k.validate(); err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		return f.drill(ctx, e, s, p, k)
	})
	c.AddCommand(newCmdDrillCleanup(e, g))
	return c
}

// keptFor says what becomes of a drill that is over.
type keptFor struct {
	keep, limited bool
	ttl           time.Duration
}

func (k keptFor) validate() error {
	switch {
	case k.limited && !k.keep:
		return errors.New("--ttl goes with --keep: nothing is kept otherwise")
	case k.limited && k.ttl <= 0:
		return fmt.Errorf("--ttl=%s: want a time above zero", k.ttl)
	}
	return nil
}

func (k keptFor) lifetime() *metav1.Duration {
	if !k.limited {
		return nil
	}
	return &metav1.Duration{Duration: k.ttl}
}

func (f *runFlags) drill(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan, k keptFor) error {
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return err
	}
	defer release()
	r, err := f.inProgress(ctx, s.cluster, p.Name, plan.RunDrill)
	if err != nil {
		return err
	}
	fresh := r == nil
	if fresh {
		point, err := f.point(ctx, s, p.Spec.Source.OfCopies())
		if err != nil {
			return err
		}
		name := drill.Name(p.Name, e.now())
		r = run.NewRun(name, s.cluster.Namespace, plan.RecoveryRunSpec{
			Kind: plan.RunDrill, Plan: p.Name, PlanSpec: p.Spec, Backup: point.Backup, Keep: k.keep, TTL: k.lifetime(),
			NamespaceMapping: drill.Mapping(name, p.Spec.Source.Namespaces),
		}, nil)
		if err := checkProfile(ctx, s.cluster, r); err != nil {
			return err
		}
	}
	d := &drill.Drill{
		Target: f.target(e, s.cluster, r), Finder: s.finder, CleanUpTimeout: f.cleanUpTimeout,
		Cleaner: cleaner(e, s),
	}
	if fresh {
		r.Status = run.NewRun(r.Name, r.Namespace, r.Spec, d.Steps()).Status
	}
	if f.dryRun {
		return f.preview(e, r, d.Steps())
	}
	e.begun(r, fresh)
	err = d.Execute(ctx, e.journal(f.global, s, r))
	err = errors.Join(err, f.out.result(e, typed(r)))
	var failed *drill.FailedError
	switch {
	case errors.As(err, &failed):
		return &unhealthyError{err}
	case err == nil && (missed(r.Status.RPOMet) || missed(r.Status.RTOMet)):
		return &unhealthyError{fmt.Errorf("drill %s passed, and missed an objective", r.Name)}
	}
	return err
}

func missed(met *bool) bool { return met != nil && !*met }

// journal is that of a run at a site. Its report is kept elsewhere too.
func (e *env) journal(g *globalFlags, s *site, r *plan.RecoveryRun) *run.Journal {
	keeper := &run.Keeper{Storage: s.storage, Now: e.now, Hooks: e.hooks()}
	if g.hasSource() {
		keeper.Other = func() (*cluster.Cluster, error) { return e.openSource(g, r) }
	}
	return &run.Journal{Run: r, Client: s.cluster.Client, Now: e.now, Hooks: e.hooks(), Keeper: keeper}
}

func (e *env) begun(r *plan.RecoveryRun, fresh bool) {
	verb := "begins"
	if !fresh {
		verb = "goes on"
	}
	with := ""
	if r.Spec.Backup != "" {
		with = " with backup " + r.Spec.Backup
	}
	fmt.Fprintf(e.ErrOut, "%s %s %s%s\n", r.Spec.Kind.Words(), r.Name, verb, with)
}

const recordTimeout = 30 * time.Second

func cleaner(e *env, s *site) *drill.Cleaner {
	return &drill.Cleaner{Cluster: s.cluster, Volumes: s.storage, Hooks: e.hooks(), Interval: e.interval, RecordTimeout: recordTimeout}
}

func newCmdDrillCleanup(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "cleanup (RUN | --expired | --restore=NAME)",
		Short: "Remove what a drill left",
		Long: `Remove what a drill left: its namespaces, volumes and clones, and Velero's record
of the restore. Only what carries the run's name is removed. A drill that is
still in progress is ended. Can be repeated.

--expired does so for every drill that was kept with --ttl and has outlived it.

--restore destroys the volumes that a Restore of Velero's own left: it failed, or
what it restored is deleted, and no PersistentVolume leads to them. As clones they
keep the snapshots they were made of. kubectl dr check lists them. One that is
mounted, or has snapshots, stays.` + exitStatus,
		Example: `  kubectl dr drill cleanup wordpress-drill-20260102-030405

  # Of all plans, what was kept longer than wanted
  kubectl dr drill cleanup --expired

  # What velero restore create left
  kubectl dr drill cleanup --restore=wordpress-20260102`,
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return names(c.Context(), e, g, runNames)
		},
	}
	expired := c.Flags().Bool("expired", false, "every kept drill that has outlived its --ttl")
	restore := c.Flags().String("restore", "", "what this Restore of Velero left and nothing uses")
	c.Args = func(_ *cobra.Command, args []string) error {
		ways := len(args)
		if *expired {
			ways++
		}
		if *restore != "" {
			ways++
		}
		if ways != 1 {
			return hint.Errorf("kubectl dr drill cleanup RUN, or kubectl dr drill cleanup --expired", "want either the name of one drill, --expired or --restore")
		}
		return nil
	}
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		s, err := g.openSite(ctx, e)
		if err != nil {
			return err
		}
		switch {
		case *expired:
			return e.cleanUpExpired(ctx, g, s)
		case *restore != "":
			message, err := cleaner(e, s).CleanUpRestore(ctx, s.storage, *restore)
			if message != "" {
				fmt.Fprintln(e.ErrOut, message)
			}
			return err
		}
		return e.cleanUp(ctx, g, s, args[0])
	})
	return c
}

// cleanUpExpired removes what was kept longer than wanted. One that can't be removed
// does not keep the others from it.
func (e *env) cleanUpExpired(ctx context.Context, g *globalFlags, s *site) error {
	runs, err := run.Runs(ctx, s.cluster.Client, s.cluster.Namespace, "")
	if err != nil {
		return err
	}
	var errs []error
	found := false
	for i := range runs {
		until := drill.KeptUntil(&runs[i])
		if until == nil || until.After(e.now()) {
			continue
		}
		found = true
		fmt.Fprintf(e.ErrOut, "drill %s was kept until %s\n", runs[i].Name, until.UTC().Format(time.RFC3339))
		errs = append(errs, e.cleanUp(ctx, g, s, runs[i].Name))
	}
	if !found {
		fmt.Fprintln(e.ErrOut, "no kept drill has outlived its --ttl")
	}
	return errors.Join(errs...)
}

func (e *env) cleanUp(ctx context.Context, g *globalFlags, s *site, name string) error {
	r := &plan.RecoveryRun{}
	err := s.cluster.Client.Get(ctx, client.ObjectKey{Namespace: s.cluster.Namespace, Name: name}, r)
	switch {
	case apierrors.IsNotFound(err):
		return hint.Errorf("kubectl dr history lists runs", "there is no run %q in namespace %s", name, s.cluster.Namespace)
	case err != nil:
		return fmt.Errorf("get run %q: %w", name, err)
	case r.Spec.Kind != plan.RunDrill:
		return fmt.Errorf("run %s is a %s; only drills are cleaned up", name, r.Spec.Kind.Words())
	}
	ctx, release, err := e.lock(ctx, s.cluster, r.Spec.Plan, false)
	if err != nil {
		return err
	}
	defer release()
	j := e.journal(g, s, r)
	// It is done again even if the journal says that it was done.
	for i := range r.Status.Steps {
		if r.Status.Steps[i].Name == drill.StepCleanUp {
			r.Status.Steps[i].Phase = plan.PhasePending
		}
	}
	step := run.Step{Name: drill.StepCleanUp, Do: func(ctx context.Context) (string, error) { return cleaner(e, s).CleanUp(ctx, name) }}
	if !r.InProgress() {
		return j.Amend(ctx, step)
	}
	if err := j.Do(ctx, step); err != nil {
		return err
	}
	return j.Finish(ctx, plan.PhaseAborted, "ended by kubectl dr drill cleanup")
}

// moveFlags are those of commands that work on both sites.
type moveFlags struct {
	*runFlags
	yes, abandon  bool
	stopTimeout   time.Duration
	backupTimeout time.Duration
	arriveTimeout time.Duration
}

func addMoveFlags(c *cobra.Command, e *env, g *globalFlags) *moveFlags {
	f := &moveFlags{runFlags: addRunFlags(c, e, g)}
	fl := c.Flags()
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.abandon, "abandon", false, fmt.Sprintf("end the %s in progress and leave everything as it is", c.Name()))
	fl.DurationVar(&f.stopTimeout, "stop-timeout", 5*time.Minute, "for workloads to stop")
	return f
}

// addBackup adds what a run needs that takes a last backup.
func (f *moveFlags) addBackup(c *cobra.Command) {
	c.Flags().DurationVar(&f.backupTimeout, "backup-timeout", time.Hour, "for the backup and its copies")
	c.Flags().DurationVar(&f.arriveTimeout, "arrive-timeout", 10*time.Minute, "for Velero of the other site to know the backup")
}

// failoverFlags are those of kubectl dr failover, and of kubectl dr failback.
type failoverFlags struct {
	*moveFlags
	planned, disaster bool
	// back is a planned failover from the recovery site to the source.
	back bool
	cold bool
	// sourceFenced: the hosts of stretched pools at the source are known to be off.
	sourceFenced bool
	accept       time.Duration
	acceptGiven  bool
	syncTimeout  time.Duration
}

func newCmdFailover(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "failover [PLAN | -f FILE] (--planned | --disaster)",
		Short:   "Move an application to the recovery site",
		GroupID: groupAct,
		Long: `Move an application to the recovery site. One of two ways has to be chosen:

--disaster: the source is gone, or does not count any more. What has arrived at
the recovery site is restored; newer data is lost. How much is shown, and has to
be accepted with --accept-data-loss. The source is neither asked nor stopped: if
it may still run, stop it first. The copies are fenced, so that a source that
comes back cannot send over them.

--planned: the source works. Its schedule is paused, its workloads are stopped, a
last backup is taken and waited for, and that is restored: nothing is lost. Needs
--source-context. If a step before the restore fails, the source gets back what
it had.

Then, either way: restore, start in waves, probe, direct traffic, measure.
Nothing at the recovery site is overwritten: namespaces that hold claims already
are refused. A warm standby that kubectl dr sync keeps there is brought to the
restore point, and the volumes alone are restored; with --cold, and when Velero
restores volumes into pods, it is deleted and everything is restored.

Until kubectl dr reprotect commits it, kubectl dr rollback undoes a failover, also one
that has stopped on the way.

Asks for the plan's name before it begins, unless --yes is given. A failover that
stopped goes on when the command is run again; steps that were completed are not
repeated. Only one run of a plan is in progress at a time.` + exitStatus,
		Example: `  # What would be lost and done?
  kubectl dr failover wordpress --disaster --dry-run

  # The source is gone
  kubectl dr failover wordpress --disaster --accept-data-loss=15m

  # Move while both sites work
  kubectl dr failover wordpress --planned --source-context=primary`,
	}
	f := &failoverFlags{moveFlags: addMoveFlags(c, e, g)}
	f.addPoint(c)
	f.addBackup(c)
	f.addRestore(c)
	fl := c.Flags()
	fl.BoolVar(&f.planned, "planned", false, "the source works: stop it, take a last backup, lose nothing")
	fl.BoolVar(&f.disaster, "disaster", false, "the source is gone: restore what has arrived")
	fl.BoolVar(&f.cold, "cold", false, "delete a warm standby and restore everything")
	fl.BoolVar(&f.sourceFenced, "source-fenced", false, "the source's hosts are off, or cut off from all disks of its stretched pools: import those though not every disk is seen here")
	fl.DurationVar(&f.accept, "accept-data-loss", 0, "the most that may be lost, as 15m; refused if it is more")
	fl.DurationVar(&f.syncTimeout, "sync-timeout", 90*time.Second, "for Velero of the recovery site to know a newer backup whose copies have arrived, in a disaster; 0 does not wait")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		f.acceptGiven = fl.Changed("accept-data-loss")
		if err := f.validate(); err != nil {
			return err
		}
		s, p, err := f.site(ctx, e, args)
		if err != nil {
			return err
		}
		return f.failover(ctx, e, s, p)
	})
	return c
}

func (f *failoverFlags) validate() error {
	switch {
	case f.abandon:
		return nil
	case f.planned == f.disaster:
		return hint.Errorf("--disaster: the source is gone, newer data is lost; --planned: the source works and nothing is lost",
			"choose one of --planned and --disaster")
	case f.planned && f.acceptGiven:
		return errors.New("--accept-data-loss goes with --disaster: a planned failover loses nothing")
	case f.planned && f.sourceFenced:
		return errors.New("--source-fenced goes with --disaster: a planned failover exports the pools at the source")
	case f.planned && f.chosen():
		return errors.New("--backup and --before go with --disaster: a planned failover takes a backup of its own")
	case f.planned && !f.global.hasSource():
		return hint.Errorf("if the source can't be reached any more, it is a --disaster", "--planned needs --source-context or --source-kubeconfig")
	}
	return nil
}

func (f *failoverFlags) kind() plan.RunKind {
	switch {
	case f.back:
		return plan.RunFailback
	case f.planned:
		return plan.RunPlannedFailover
	}
	return plan.RunFailover
}

func (f *failoverFlags) failover(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan) error {
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return err
	}
	defer release()
	kinds := []plan.RunKind{f.kind()}
	if f.abandon && !f.back {
		kinds = []plan.RunKind{plan.RunFailover, plan.RunPlannedFailover}
	}
	r, err := f.toGoOn(ctx, e, s, p.Name, kinds...)
	if err != nil || f.abandon {
		return err
	}
	runs, err := run.Runs(ctx, s.cluster.Client, s.cluster.Namespace, p.Name)
	if err != nil {
		return err
	}
	fresh := r == nil
	var loss failover.Loss
	if fresh {
		if r, loss, err = f.fresh(ctx, e, s, p, runs); err != nil {
			return err
		}
	}
	fo := &failover.Failover{Target: f.target(e, s.cluster, r), Finder: s.finder, Fencer: s.storage, Pools: s.storage, SourceFenced: f.sourceFenced, RollBackTimeout: f.cleanUpTimeout,
		Standby: e.standby(s.cluster, p.Name, r.Spec.PlanSpec.Source.Namespaces)}
	if t := r.Spec.PlanSpec.Traffic; t != nil {
		fo.Names = e.names(t.Resolver)
	}
	j := e.journal(f.global, s, r)
	if f.back || f.planned && !j.Done(fo.Taken()) {
		if err := f.sides(ctx, e, s, runs, fo); err != nil {
			return err
		}
	}
	if fresh {
		if err := f.makeRoom(ctx, fo, runs); err != nil {
			return err
		}
		if fo.Source != nil {
			if err := fo.CheckPools(ctx); err != nil {
				return err
			}
		}
		r.Status = run.NewRun(r.Name, r.Namespace, r.Spec, fo.Steps()).Status
		if err := f.agreed(ctx, e, fo, loss); err != nil || f.dryRun {
			return err
		}
	} else if f.dryRun {
		return f.preview(e, r, fo.Steps())
	}
	e.begun(r, fresh)
	return errors.Join(fo.Execute(ctx, j), f.out.result(e, typed(r)))
}

// toGoOn returns the run of one of the kinds that is in progress, or ends it when
// that was asked for.
func (f *moveFlags) toGoOn(ctx context.Context, e *env, s *site, planName string, kinds ...plan.RunKind) (*plan.RecoveryRun, error) {
	f.resume = f.resume || f.abandon
	r, err := f.inProgress(ctx, s.cluster, planName, kinds...)
	if err != nil || !f.abandon {
		return r, err
	}
	j := e.journal(f.global, s, r)
	return r, errors.Join(j.Finish(ctx, plan.PhaseAborted, "abandoned"), f.out.result(e, typed(r)))
}

// sides makes the two sides of a planned failover, or those of a failback: that
// goes to the source.
func (f *failoverFlags) sides(ctx context.Context, e *env, s *site, runs []plan.RecoveryRun, fo *failover.Failover) error {
	source, err := f.sourceCluster(ctx, e, s, fo.Run)
	if err != nil {
		return err
	}
	if !f.back {
		fo.Source = f.side(e, fo.Run, source, s.cluster)
		return nil
	}
	fo.Target, fo.Finder = f.target(e, source, fo.Run), finder(source, s.storage.Back())
	fo.Source = f.side(e, fo.Run, s.cluster, source)
	fo.Source.Site, fo.Source.There = failover.RecoverySite, "at the source"
	if move := run.Named(runs, fo.Run.Spec.Follows); move != nil {
		fo.Unfence = failover.Replicas(move)
	}
	return nil
}

// side returns the side that is left for another.
func (f *moveFlags) side(e *env, r *plan.RecoveryRun, from, to *cluster.Cluster) *failover.Source {
	return &failover.Source{
		Cluster: from, Recovery: to, Run: r, Hooks: e.hooks(), Interval: e.interval, Site: failover.SourceSite, There: "here",
		StopTimeout: f.stopTimeout, BackupTimeout: f.backupTimeout, ArriveTimeout: f.arriveTimeout,
	}
}

// sourceCluster opens the cluster that the application was installed in.
func (f *moveFlags) sourceCluster(ctx context.Context, e *env, s *site, r *plan.RecoveryRun) (*cluster.Cluster, error) {
	c, err := e.openSource(f.global, r)
	if err != nil {
		return nil, fmt.Errorf("source cluster: %w", err)
	}
	return c, failover.CheckSides(ctx, c.Client, s.cluster.Client)
}

// openSource opens the source cluster that the flags name, for a run.
func (e *env) openSource(g *globalFlags, r *plan.RecoveryRun) (*cluster.Cluster, error) {
	return e.open(g.source, g.namespace(&plan.RecoveryPlan{Spec: r.Spec.PlanSpec}))
}

// hasSource reports whether the flags name a source cluster.
func (g *globalFlags) hasSource() bool {
	return *g.source.Context != "" || *g.source.KubeConfig != ""
}

// fresh returns a run to begin, and what it would lose.
func (f *failoverFlags) fresh(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan, runs []plan.RecoveryRun) (*plan.RecoveryRun, failover.Loss, error) {
	name := failover.Name(p.Name, f.kind(), e.now())
	spec := plan.RecoveryRunSpec{Kind: f.kind(), Plan: p.Name, PlanSpec: p.Spec, Backup: name, Epoch: run.Epoch(runs) + 1}
	var loss failover.Loss
	if f.back {
		move, err := protected(p.Name, runs)
		if err != nil {
			return nil, loss, err
		}
		spec.Follows = move.Name
	}
	if f.disaster {
		point, err := f.arrived(ctx, e, s, p.Spec.Source, f.syncTimeout)
		if err != nil {
			return nil, loss, err
		}
		loss, spec.Backup = failover.Preview(point, e.now()), point.Backup
		// Files are restored into pods that Velero restores.
		f.cold = f.cold || len(point.By(plan.MethodPodVolumeBackup)) > 0
	}
	if f.planned && !f.back {
		if err := f.stoppable(ctx, s, p); err != nil {
			return nil, loss, err
		}
	}
	return run.NewRun(name, s.cluster.Namespace, spec, nil), loss, nil
}

// stoppable refuses to stop an application whose volumes are backed up from its
// running pods: the last backup would hold nothing of them. What can not be told
// from earlier backups is seen in the last one.
func (f *failoverFlags) stoppable(ctx context.Context, s *site, p *plan.RecoveryPlan) error {
	point, err := s.point(ctx, p.Spec.Source, "")
	if files := point.By(plan.MethodPodVolumeBackup); err == nil && len(files) > 0 {
		return hint.Errorf("stop writing to it, take a backup while its pods run, and use --disaster with what that loses",
			"%s is backed up from its running pod, which a planned failover stops first", strings.Join(files, ", "))
	}
	return ctx.Err()
}

// makeRoom refuses a target in which the application would not fit, and has the
// run set aside what an earlier one stopped there.
func (f *failoverFlags) makeRoom(ctx context.Context, fo *failover.Failover, runs []plan.RecoveryRun) error {
	err := failover.CheckTarget(ctx, fo.Cluster.Client, fo.Namespaces())
	var occupied *failover.OccupiedError
	if !f.back && !errors.As(err, &occupied) {
		if _, active := atRecovery(fo.Run.Spec.Plan, runs); err != nil || active == nil {
			return err
		}
		return f.useStandby(ctx, fo)
	}
	if stopped := failover.CheckStopped(ctx, fo.Cluster.Client, fo.Namespaces()); stopped != nil {
		if err != nil && !f.back {
			return err
		}
		return stopped
	}
	fo.Run.Spec.SetAside = true
	return nil
}

// useStandby has the run activate a warm standby, or delete it.
func (f *failoverFlags) useStandby(ctx context.Context, fo *failover.Failover) error {
	exists, err := fo.Standby.Exists(ctx)
	switch {
	case err != nil || !exists:
		return err
	case f.cold:
		fo.Run.Spec.Standby = plan.StandbyRemove
	default:
		fo.Run.Spec.Standby = plan.StandbyActivate
	}
	return nil
}

// agreed shows what would be lost and done, and returns nil when that may
// begin. A dry run ends with it.
func (f *failoverFlags) agreed(ctx context.Context, e *env, fo *failover.Failover, loss failover.Loss) error {
	if err := checkProfile(ctx, fo.Cluster, fo.Run); err != nil {
		return err
	}
	if f.disaster {
		fmt.Fprintf(e.ErrOut, "%s (backup %s, objective %s)\n", loss, loss.Backup, report.Age(fo.Run.Spec.PlanSpec.Objectives.RPO.Duration))
	}
	if f.dryRun {
		return f.preview(e, fo.Run, fo.Steps())
	}
	if f.disaster {
		if err := loss.Accept(f.acceptGiven, f.accept); err != nil {
			return err
		}
	}
	return f.confirm(ctx, e, fo.Run, fo.Steps())
}

// confirm shows what would be done and asks for the plan's name, unless it was
// agreed to.
func (f *moveFlags) confirm(ctx context.Context, e *env, r *plan.RecoveryRun, steps []run.Step) error {
	if f.yes {
		return nil
	}
	for i, step := range steps {
		fmt.Fprintf(e.ErrOut, "%2d. %s: %s\n", i+1, step.Name, step.About)
	}
	return e.confirm(ctx, "plan", r.Spec.Plan)
}

// confirm asks for the name of what is acted on.
func (e *env) confirm(ctx context.Context, what, name string) error {
	if !e.interactive() {
		return hint.Errorf("add --yes to begin without being asked", "there is no terminal to ask on")
	}
	fmt.Fprintf(e.ErrOut, "Type the %s's name to begin: ", what)
	got, err := e.line(ctx)
	if err == nil && got != name {
		err = fmt.Errorf("not begun: %q is not the %s's name", got, what)
	}
	return err
}

// line reads what somebody types.
func (e *env) line(ctx context.Context) (string, error) {
	typed := make(chan string, 1)
	go func() {
		line, _ := e.typed().ReadString('\n')
		typed <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case line := <-typed:
		return line, nil
	}
}
