package kubectldr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rebuild"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// poolPlan is the plan of a rebuild from pools that has none.
const poolPlan = "pools"

type rebuildFlags struct {
	*moveFlags
	volumesOnly, plan, makeLocations bool
	replace, keep, pools             []string
	locations                        rebuild.Locations
	bucketConfig, snapshotConfig     []string
	syncTimeout                      time.Duration
	bindTimeout, gitTimeout          time.Duration
}

func newCmdRebuild(e *env, g *globalFlags) *cobra.Command {
	f := &rebuildFlags{moveFlags: &moveFlags{}}
	c := &cobra.Command{
		Use:     "rebuild [PLAN | -f FILE]",
		Short:   "Give a cluster that comes up from Git what Git does not hold",
		GroupID: groupAct,
		Long: `Give a fresh cluster that Git builds what Git does not hold: volumes first, bound
to the claims that Git makes or has made already, then the objects of the backup
that are not there and that nothing in Git owns, as Secrets, generated
certificates, objects that people made, accounts. What Argo CD and Flux reconcile
of the application is paused meanwhile, and resumed in order of dependency; then
it is waited for, started in waves, and probed. It does not matter who was first.

Who owns an object is told by the tracking of Argo CD, the labels of Flux and the
releases of Helm, in the cluster and, where that is still empty, in the backup.
--plan shows it for each object, and what would become of it, and does nothing.

No data is overwritten. A claim that is not there comes back with its volume; one
that is there without a volume is bound to it; one whose volume is empty and that
no pod has is swapped. A claim that may have been written to is replaced only if
--replace-claim names it: what it holds is kept then, as a snapshot on its host and
as its PersistentVolume, which becomes Retain.

Without a BackupStorageLocation and a VolumeSnapshotLocation it prints those that
have to be made, from --bucket, --snapshot-config and so on, or makes them itself
with --make-locations. The one of backups is ReadOnly. Secrets are named, never read.

--from-pool=NODE is for the day when the bucket is gone too: volumes are made of
what snapshots in the pools of a node tell of themselves. Needs no plan.

Asks for the plan's name before it begins, unless --yes is given. One that stopped
goes on when the command is run again, and one that is done changes nothing.` + exitStatus,
		Example: `  # Who owns what, and what would be done?
  kubectl dr rebuild -f plan.yaml --plan

  # A cluster whose Velero knows no bucket yet
  kubectl dr rebuild -f plan.yaml --make-locations \
    --bucket=backups/cluster-1 --bucket-config=region=eu-central-1 --bucket-secret=bucket/cloud \
    --snapshot-config=agents=hassio=hassio.example.org:7443 --snapshot-secret=zfs-agent-client/tls.pem

  # Argo CD was faster, and the database has initialised itself
  kubectl dr rebuild wordpress --replace-claim=wordpress/wordpress-db

  # Nothing but disks left
  kubectl dr rebuild --from-pool=remote --agent-credentials=kubectl-dr.pem \
    --snapshot-config=agents=remote=remote.example.org:7443 --snapshot-config=restoreNode=remote \
    --snapshot-config=restoreParents=znvm/k3s=backup/znvm/k3s`,
	}
	f.runFlags = addRunFlags(c, e, g)
	f.addPoint(c)
	f.addRestore(c)
	fl := c.Flags()
	fl.BoolVar(&f.plan, "plan", false, "show who owns what and what would be done, and do nothing; the same as --dry-run")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.abandon, "abandon", false, "end the rebuild in progress and leave everything as it is")
	fl.BoolVar(&f.volumesOnly, "volumes-only", false, "restore volumes and nothing else")
	fl.StringSliceVar(&f.replace, "replace-claim", nil, "namespace/name of claims that may hold data and are replaced; what they hold is kept")
	fl.StringSliceVar(&f.keep, "keep-claim", nil, "namespace/name of claims that stay as they are")
	fl.StringSliceVar(&f.pools, "from-pool", nil, "nodes whose pools are all there is: take volumes from snapshots there, and no backup")
	fl.BoolVar(&f.makeLocations, "make-locations", false, "make the BackupStorageLocation and VolumeSnapshotLocation that are missing")
	fl.StringVar(&f.locations.Bucket, "bucket", "", "bucket that the backups are in, or bucket/prefix")
	fl.StringVar(&f.locations.Provider, "bucket-provider", "aws", "Velero's provider for the bucket")
	fl.StringArrayVar(&f.bucketConfig, "bucket-config", nil, "key=value of the BackupStorageLocation's config; may be given several times")
	fl.StringVar(&f.locations.BucketSecret, "bucket-secret", "", "secret/key with the bucket's credentials; Velero's own when not given")
	fl.StringVar(&f.locations.Snapshot, "snapshot-location", "zfs", "name of the VolumeSnapshotLocation: the one that it had")
	fl.StringArrayVar(&f.snapshotConfig, "snapshot-config", nil, "key=value of the VolumeSnapshotLocation's config; may be given several times")
	fl.StringVar(&f.locations.SnapshotSecret, "snapshot-secret", "", "secret/key with the PEM bundle for the agents")
	fl.DurationVar(&f.syncTimeout, "sync-timeout", 90*time.Second, "for Velero to know a backup of the plan's schedule, and then a newer one whose copies have arrived")
	fl.DurationVar(&f.stopTimeout, "stop-timeout", 5*time.Minute, "for workloads to stop")
	fl.DurationVar(&f.bindTimeout, "bind-timeout", 2*time.Minute, "for a claim to be bound, or to go")
	fl.DurationVar(&f.gitTimeout, "git-timeout", 10*time.Minute, "for what Git brings to be there and healthy")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		f.dryRun = f.dryRun || f.plan
		if err := f.validate(); err != nil {
			return err
		}
		return f.run(ctx, e, args)
	})
	return c
}

func (f *rebuildFlags) validate() error {
	var errs []error
	for _, names := range []struct {
		flag   string
		claims []string
	}{{"--replace-claim", f.replace}, {"--keep-claim", f.keep}} {
		for _, claim := range names.claims {
			if ns, name, ok := strings.Cut(claim, "/"); !ok || ns == "" || name == "" {
				errs = append(errs, fmt.Errorf("%s: %q is not of the form namespace/name", names.flag, claim))
			}
		}
	}
	for _, claim := range f.replace {
		if slices.Contains(f.keep, claim) {
			errs = append(errs, fmt.Errorf("claim %s is to be replaced and to be kept", claim))
		}
	}
	if len(f.pools) > 0 && f.chosen() {
		errs = append(errs, errors.New("--from-pool excludes --backup and --before"))
	}
	var err error
	if f.locations.BucketConfig, err = keyValues("--bucket-config", f.bucketConfig); err != nil {
		errs = append(errs, err)
	}
	if f.locations.SnapshotConfig, err = keyValues("--snapshot-config", f.snapshotConfig); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keyValues reads key=value; values may hold commas and equals signs.
func keyValues(flag string, all []string) (map[string]string, error) {
	values := map[string]string{}
	for _, s := range all {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%s: %q is not of the form key=value", flag, s)
		}
		values[key] = value
	}
	return values, nil
}

func (f *rebuildFlags) run(ctx context.Context, e *env, args []string) error {
	c, p, err := f.load(ctx, e, args)
	if err != nil {
		return err
	}
	if len(f.pools) == 0 {
		if err := f.locate(ctx, e, c, p); err != nil {
			return err
		}
	}
	opts := f.global.agentOptions()
	if len(f.pools) > 0 && len(f.locations.SnapshotConfig) > 0 {
		opts.Config = f.locations.SnapshotConfig
	}
	storage, err := e.storage(ctx, c, opts)
	if err != nil {
		return err
	}
	return f.rebuild(ctx, e, &site{cluster: c, storage: storage, finder: finder(c, storage)}, p)
}

// load is planFlags.load; pools need no plan.
func (f *rebuildFlags) load(ctx context.Context, e *env, args []string) (*cluster.Cluster, *plan.RecoveryPlan, error) {
	if len(f.pools) == 0 || len(args) > 0 || f.file != "" {
		return f.planFlags.load(ctx, e, args)
	}
	c, err := e.open(f.global.recovery, f.global.namespace(nil))
	p := &plan.RecoveryPlan{}
	p.Name = poolPlan
	p.Spec.Source.Schedule = "none"
	return c, p, err
}

// locate sees to it that Velero knows where the backups are, and has found them.
func (f *rebuildFlags) locate(ctx context.Context, e *env, c *cluster.Cluster, p *plan.RecoveryPlan) error {
	missing, err := f.locations.Missing(ctx, c)
	if err != nil {
		return err
	}
	if len(missing) > 0 && (!f.makeLocations || f.dryRun) {
		y := &printers.YAMLPrinter{}
		for _, obj := range missing {
			if err := y.PrintObj(obj, e.Out); err != nil {
				return err
			}
		}
		return hint.Errorf("apply what was printed, or run this again with --make-locations and without --plan",
			"Velero in namespace %s does not know where the backups are", c.Namespace)
	}
	if err := rebuild.MakeLocations(ctx, c.Client, missing); err != nil {
		return err
	}
	for _, obj := range missing {
		e.hooks().Progressf("made %s %s", obj.GetObjectKind().GroupVersionKind().Kind, obj.GetName())
	}
	return f.awaitBackups(ctx, e, c, p, len(missing) > 0)
}

// awaitBackups gives Velero time to find the backups of the plan's schedule.
func (f *rebuildFlags) awaitBackups(ctx context.Context, e *env, c *cluster.Cluster, p *plan.RecoveryPlan, fresh bool) error {
	said := false
	err := cluster.Poll(ctx, e.interval, f.syncTimeout, func(ctx context.Context) (bool, error) {
		list := &velerov1api.BackupList{}
		if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace), client.MatchingLabels{velerov1api.ScheduleNameLabel: p.Spec.Source.Schedule}); err != nil {
			return false, err
		}
		if len(list.Items) == 0 && !said {
			said = true
			e.hooks().Progressf("waiting up to %s for Velero to find the backups of schedule %s", report.Age(f.syncTimeout), p.Spec.Source.Schedule)
		}
		return len(list.Items) > 0, nil
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return &restorepoint.NoBackupError{Schedule: p.Spec.Source.Schedule}
	}
	return err
}

func (f *rebuildFlags) rebuild(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan) error {
	ctx, release, err := e.lock(ctx, s.cluster, p.Name, f.dryRun)
	if err != nil {
		return err
	}
	defer release()
	r, err := f.toGoOn(ctx, e, s, p.Name, plan.RunRebuild)
	if err != nil || f.abandon {
		return err
	}
	fresh := r == nil
	if fresh {
		if r, err = f.fresh(ctx, e, s, p); err != nil {
			return err
		}
	}
	engine := f.engine(e, s, r)
	if fresh {
		if begin, err := f.look(ctx, e, engine); err != nil || !begin {
			return err
		}
		r.Status.Steps = run.NewRun(r.Name, r.Namespace, r.Spec, engine.Steps()).Status.Steps
		if err := f.confirm(ctx, e, r, engine.Steps()); err != nil {
			return err
		}
	} else if f.dryRun {
		_, err := f.look(ctx, e, engine)
		return err
	}
	e.begun(r, fresh)
	j := e.journal(f.global, s, r)
	return errors.Join(engine.Execute(ctx, j), f.out.result(e, typed(r)))
}

// fresh returns a run to begin.
func (f *rebuildFlags) fresh(ctx context.Context, e *env, s *site, p *plan.RecoveryPlan) (*plan.RecoveryRun, error) {
	spec := plan.RecoveryRunSpec{
		Kind: plan.RunRebuild, Plan: p.Name, PlanSpec: p.Spec,
		Rebuild: &plan.RebuildSpec{VolumesOnly: f.volumesOnly || len(f.pools) > 0, ReplaceClaims: f.replace, KeepClaims: f.keep, Pools: f.pools},
	}
	var objects []*unstructured.Unstructured
	if len(f.pools) == 0 {
		point, err := f.arrived(ctx, e, s, p.Spec.Source.OfCopies(), f.syncTimeout)
		if err != nil {
			return nil, err
		}
		spec.Backup = point.Backup
		backup := &rebuild.Backup{Name: point.Backup, Files: s.cluster.Files}
		if objects, err = backup.Objects(ctx); err != nil {
			return nil, err
		}
	} else if len(spec.PlanSpec.Source.Namespaces) == 0 {
		namespaces, err := f.pooled(ctx, s)
		if err != nil {
			return nil, err
		}
		spec.PlanSpec.Source.Namespaces = namespaces
	}
	found, err := gitops.Find(ctx, s.cluster.Client, spec.PlanSpec.Source.Namespaces, objects)
	if err != nil {
		return nil, err
	}
	known := gitops.Objects(p.Spec.GitOps)
	for _, o := range found {
		if !slices.Contains(known, o) {
			known = append(known, o)
		}
	}
	spec.PlanSpec.GitOps = gitops.Plan(known)
	r := run.NewRun(rebuild.Name(p.Name, e.now()), s.cluster.Namespace, spec, nil)
	return r, checkProfile(ctx, s.cluster, r)
}

// pooled returns the namespaces of the volumes that the pools know of.
func (f *rebuildFlags) pooled(ctx context.Context, s *site) ([]string, error) {
	pools := &rebuild.Pools{Nodes: f.pools, Pool: s.storage.Pool}
	sources, _, err := pools.Sources(ctx, &plan.RecoveryRun{})
	if err != nil {
		return nil, err
	}
	namespaces := map[string]bool{}
	for _, source := range sources {
		namespaces[source.Namespace] = true
	}
	return slices.Sorted(maps.Keys(namespaces)), nil
}

func (f *rebuildFlags) engine(e *env, s *site, r *plan.RecoveryRun) *rebuild.Rebuild {
	engine := &rebuild.Rebuild{
		Target: f.target(e, s.cluster, r), Volumes: s.storage, Now: e.now,
		StopTimeout: f.stopTimeout, BindTimeout: f.bindTimeout, GitTimeout: f.gitTimeout,
	}
	spec := r.Spec.Rebuild
	if len(spec.Pools) > 0 {
		pools := &rebuild.Pools{Nodes: spec.Pools, Namespaces: r.Spec.PlanSpec.Source.Namespaces, Pool: s.storage.Pool}
		engine.Sources = pools.Sources
		engine.Notes = pools.Notes
		return engine
	}
	backup := &rebuild.Backup{Name: r.Spec.Backup, Source: r.Spec.PlanSpec.Source.OfCopies(), Finder: s.finder, Files: s.cluster.Files, Keep: spec.KeepClaims}
	engine.Sources, engine.Objects = backup.Sources, backup.Objects
	engine.Live = func(ctx context.Context) ([]*unstructured.Unstructured, error) {
		return e.objects(ctx, f.global.recovery, r.Spec.PlanSpec.Source.Namespaces)
	}
	return engine
}

// look shows what would be done, and reports whether it is to begin.
func (f *rebuildFlags) look(ctx context.Context, e *env, engine *rebuild.Rebuild) (bool, error) {
	rep, all, err := engine.Plan(ctx)
	if err != nil {
		return false, err
	}
	err = rebuild.Refused(all)
	if f.dryRun {
		if err == nil && rep.ToDo > 0 {
			for i, step := range engine.Steps() {
				fmt.Fprintf(e.ErrOut, "%2d. %s: %s\n", i+1, step.Name, step.About)
			}
		}
		return false, cmp.Or(f.out.result(e, rep), err)
	}
	if err != nil || rep.ToDo > 0 {
		return true, err
	}
	return false, f.out.result(e, rep)
}
