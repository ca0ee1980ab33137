package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/forget"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

type forgetFlags struct {
	global      *globalFlags
	out         *outputFlags
	uid         string
	gone        []string
	minAge      time.Duration
	unsynced    bool
	yes, dryRun bool
}

func newCmdAgentForget(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "forget BACKUP",
		Short: "Destroy the snapshots of a backup that Velero knows no more",
		Long: `Destroy the snapshots that were taken for a backup which Velero has no record of, on
all ZFS hosts, with their copies on other hosts and in archives: because Velero's
plugin was killed at the wrong moment, or because a cluster and its bucket are gone.
A backup that Velero knows is deleted with velero backup delete.

Each snapshot, and each copy, is

  to destroy  and then destroyed
  later       destroyed when nothing keeps it any more, as the newest of a replica
  kept        the next increment may start from it, or another tool expires it
  known       of a backup of the same name that Velero knows; it is not touched
  blocked     not known to be ours, or needed by a clone or by a hold of others

Nothing is destroyed while anything is blocked, while an agent does not answer, or
where Velero of this cluster may not have seen the backup yet: because a snapshot is
younger than --min-age, or a storage location was not listed since. With
--source-context Velero of the source is asked too. Can be repeated.` + exitStatus,
		Example: `  # Which backups are not known?
  kubectl dr agent holds

  # What is there of one, and destroy it
  kubectl dr agent forget wordpress-20260102030000 --dry-run
  kubectl dr agent forget wordpress-20260102030000

  # Of two that had the same name
  kubectl dr agent forget before-upgrade --uid=0f1e2d3c`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return hint.Errorf("kubectl dr agent holds shows those that Velero does not know", "want the name of one backup, not %d", len(args))
			}
			return nil
		},
	}
	f := &forgetFlags{global: g, out: addOutputFlags(c)}
	fl := c.Flags()
	fl.StringVar(&f.uid, "uid", "", "the backup's uid, or its first 8 digits, which the names of its snapshots end in: where several had the name")
	fl.StringSliceVar(&f.gone, "gone", nil, "node that is lost for good: it is not asked, and its replicas need not wait for it (repeatable)")
	fl.DurationVar(&f.minAge, "min-age", forget.MinAge, "how old the newest snapshot has to be: a backup that runs is not known everywhere")
	fl.BoolVar(&f.unsynced, "accept-unsynced", false, "go on although Velero has not listed a storage location since the backup, or has none")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print what would be destroyed, and destroy nothing")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		s, err := g.openSite(ctx, e)
		if err != nil {
			return err
		}
		return f.forget(ctx, e, s, args[0])
	})
	return c
}

// aUID matches a uid, or its first digits.
var aUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?$`)

func (f *forgetFlags) validate() error {
	switch {
	case f.minAge < 0:
		return fmt.Errorf("--min-age=%s: want a time of zero or more", f.minAge)
	case f.uid != "" && !aUID.MatchString(f.uid):
		return fmt.Errorf("--uid=%s: want a uid, or its first 8 digits", f.uid)
	case f.uid != "":
		f.uid = zfssnap.ShortUID(types.UID(f.uid))
	}
	return nil
}

func (f *forgetFlags) forget(ctx context.Context, e *env, s *site, backup string) error {
	forgetter := &forget.Forgetter{
		Recovery: s.cluster, Storage: s.storage, Now: e.now,
		UID: f.uid, MinAge: f.minAge, Unsynced: f.unsynced, Gone: f.gone, Warn: e.hooks().Warn,
	}
	if f.global.hasSource() {
		source, err := e.open(f.global.source, f.global.namespace(nil))
		if err != nil {
			return fmt.Errorf("source cluster: %w", err)
		}
		forgetter.Others = []*cluster.Cluster{source}
	}
	p, err := forgetter.Plan(ctx, backup)
	if err != nil {
		return err
	}
	switch {
	case len(p.Items) == 0 && *f.out.print.OutputFormat == "":
		fmt.Fprintf(e.ErrOut, "there are no snapshots of backup %s\n", backup)
		return nil
	case f.dryRun:
		if err := f.out.result(e, forgotten(e, p)); err != nil {
			return err
		}
		return p.Refused
	case p.Refused == nil && !p.ToDo():
		fmt.Fprintf(e.ErrOut, "there is nothing to destroy of backup %s\n", backup)
		return f.out.result(e, forgotten(e, p))
	case p.Refused != nil || !f.yes:
		if err := report.Print(e.ErrOut, forgotten(e, p), report.TableOptions{}); err != nil {
			return err
		}
	}
	if p.Refused != nil {
		return p.Refused
	}
	if !f.yes {
		if err := e.confirm(ctx, "backup", backup); err != nil {
			return err
		}
	}
	err = forgetter.Apply(ctx, p)
	return errors.Join(err, f.out.result(e, forgotten(e, p)))
}

func forgotten(e *env, p *forget.Plan) *report.Forgotten {
	r := &report.Forgotten{
		TypeMeta: report.TypeMeta("ForgetReport"), ObjectMeta: metav1.ObjectMeta{Name: p.Backup}, At: metav1.NewTime(e.now()),
		Snapshots: []report.ForgottenSnapshot{},
	}
	for _, i := range p.Items {
		s := report.ForgottenSnapshot{
			Node: i.Node, Archive: i.Archive, Snapshot: i.Name, GUID: strconv.FormatUint(i.ID.GUID, 10), UID: i.UID,
			Taken: metav1.NewTime(i.ID.Created), Used: int64(i.Used), State: string(i.State), Reason: i.Reason,
		}
		if i.Copy() {
			s.CopyOf = i.ID.Node + ":" + i.ID.Name()
		}
		r.Snapshots = append(r.Snapshots, s)
	}
	return r
}
