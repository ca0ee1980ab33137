package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/compare"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// compareFlags say what to compare with what.
type compareFlags struct {
	files         []string
	backup        string
	with          []string
	namespaces    []string
	exclude       []string
	clusterScoped bool
	profiles      []string
	profile       string
}

func newCmdCompare(e *env, g *globalFlags) *cobra.Command {
	f := &compareFlags{exclude: slices.Clone(compare.SystemNamespaces)}
	c := &cobra.Command{
		Use:     "compare [FILE | FOLDER | BACKUP.tar.gz]...",
		Short:   "See what a standby lacks, has beyond its source, or has otherwise",
		GroupID: groupCheck,
		Long: `See what the recovery cluster lacks, has beyond its source, or has otherwise. The
source is the cluster of --source-context, a backup that Velero keeps, or files.
With --profile it is what a restore would make of the source under that profile.

Objects are compared as they are wanted: without status, without what each
cluster makes by itself (events, endpoints, tokens, nodes, volumes, what a
controller owns), and without fields that it fills in (addresses, node ports).
Fields that differ are named; their values, which may be secret, are not.` + exitStatus,
		Example: `  # The routine check of a standby
  kubectl dr compare --source-context=primary

  # Is all there that the newest backup has, as the failover would restore it?
  kubectl dr compare --backup=wordpress-20260304 --profile=wordpress-failover --namespaces=wordpress

  # Two backups
  kubectl dr compare monday.tar.gz --with=tuesday.tar.gz`,
	}
	flags := c.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil, "files, folders or backups to be the source, or - for standard input; the same as arguments")
	flags.StringVar(&f.backup, "backup", "", "name of the backup to be the source")
	flags.StringSliceVar(&f.with, "with", nil, "files, folders or backups to be the standby, instead of the recovery cluster")
	flags.StringSliceVarP(&f.namespaces, "namespaces", "n", nil, "compare these namespaces only")
	flags.StringSliceVar(&f.exclude, "exclude-namespaces", f.exclude, "namespaces to leave out")
	flags.BoolVar(&f.clusterScoped, "cluster-scoped", false, "compare objects without a namespace too")
	flags.StringSliceVar(&f.profiles, "profiles", nil, "files of profiles (default: the ConfigMap in Velero's namespace)")
	flags.StringVar(&f.profile, "profile", "", "profile to apply to the source first")
	out := addOutputFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		f.files = append(f.files, args...)
		if err := f.validate(g); err != nil {
			return err
		}
		source, from, err := f.source(ctx, e, g)
		if err != nil {
			return err
		}
		standby, to, err := f.standby(ctx, e, g)
		if err != nil {
			return err
		}
		r := compare.Objects(source, standby, f.scope())
		if r.Compared == 0 {
			return hint.Errorf("check --namespaces, --exclude-namespaces and, for objects without a namespace, --cluster-scoped", "%s has nothing that is to be compared", from)
		}
		r.TypeMeta, r.Name, r.At, r.Source, r.Standby = report.TypeMeta("Comparison"), "standby", metav1.Time{Time: e.now()}, from, to
		return e.judged(out.result(e, r), r.State, false)
	})
	return c
}

func (f *compareFlags) validate(g *globalFlags) error {
	sources := 0
	for _, given := range []bool{len(f.files) > 0, f.backup != "", g.hasSource()} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		return hint.Errorf("kubectl dr compare --source-context=… | --backup=… | FILE…", "want one source: a cluster, a backup or files")
	}
	if len(f.profiles) > 0 && f.profile == "" {
		return errors.New("--profiles are given and no --profile")
	}
	for _, ns := range f.namespaces {
		if slices.Contains(f.exclude, ns) {
			return fmt.Errorf("namespace %s is to be compared and left out", ns)
		}
	}
	return nil
}

func (f *compareFlags) scope() compare.Scope {
	return compare.Scope{Namespaces: f.namespaces, Exclude: f.exclude, ClusterScoped: f.clusterScoped}
}

// source reads what the standby should have, and names it.
func (f *compareFlags) source(ctx context.Context, e *env, g *globalFlags) ([]*unstructured.Unstructured, string, error) {
	in, err := rewrite.Read(f.files, true, e.In)
	name := strings.Join(f.files, ", ")
	switch {
	case err != nil:
		return nil, "", err
	case f.backup != "":
		name = "backup " + f.backup
		err = f.download(ctx, e, g, in)
	case g.hasSource():
		name = "the source cluster"
		err = f.live(ctx, in, g.source)
	}
	if err != nil || f.profile == "" {
		return in.Objects, name, err
	}
	p, err := f.chosen(ctx, e, g)
	if err != nil {
		return nil, "", err
	}
	// Who owns an object is not restored with it.
	rewritten, err := rewrite.Apply(p, slices.DeleteFunc(in.Objects, compare.OwnAffair))
	if err != nil {
		return nil, "", err
	}
	return rewritten.After(), name + " under profile " + p.Name, nil
}

// standby reads what there is.
func (f *compareFlags) standby(ctx context.Context, e *env, g *globalFlags) ([]*unstructured.Unstructured, string, error) {
	if len(f.with) > 0 {
		in, err := rewrite.Read(f.with, true, e.In)
		if err != nil {
			return nil, "", err
		}
		return in.Objects, strings.Join(f.with, ", "), nil
	}
	in := &rewrite.Input{}
	err := f.live(ctx, in, g.recovery)
	return in.Objects, "the recovery cluster", err
}

// live reads no more of a cluster than is compared.
func (f *compareFlags) live(ctx context.Context, in *rewrite.Input, getter genericclioptions.RESTClientGetter) error {
	if len(f.namespaces) == 0 || f.clusterScoped {
		return readCluster(ctx, in, getter, "")
	}
	for _, namespace := range f.namespaces {
		if err := readCluster(ctx, in, getter, namespace); err != nil {
			return err
		}
	}
	return nil
}

func (f *compareFlags) download(ctx context.Context, e *env, g *globalFlags, in *rewrite.Input) error {
	cl, err := e.open(g.recovery, g.namespace(nil))
	if err != nil {
		return err
	}
	return in.Download(ctx, cl.Files, f.backup)
}

func (f *compareFlags) chosen(ctx context.Context, e *env, g *globalFlags) (*rules.Profile, error) {
	if len(f.profiles) > 0 {
		in, err := rewrite.Read(f.profiles, false, e.In)
		if err != nil {
			return nil, err
		}
		set, err := rules.Load(in.Profiles, expr.New())
		if err != nil {
			return nil, err
		}
		return set.Profile(f.profile)
	}
	cl, err := e.open(g.recovery, g.namespace(nil))
	if err != nil {
		return nil, err
	}
	set, err := cl.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	return set.Profile(f.profile)
}
