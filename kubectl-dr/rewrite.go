package kubectldr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// rewriteFlags say what to rewrite and how to show it.
type rewriteFlags struct {
	files      []string
	recursive  bool
	namespace  string
	profiles   []string
	profile    string
	namespaces map[string]string
	diff       bool
	explain    bool
	lint       bool
	output     string
}

func newCmdRewrite(e *env, g *globalFlags) *cobra.Command {
	f := &rewriteFlags{output: "yaml"}
	c := &cobra.Command{
		Use:     "rewrite [FILE | FOLDER | BACKUP.tar.gz]...",
		Short:   "Preview what a restore makes of objects",
		GroupID: groupCheck,
		Long: `Preview what a restore makes of objects under a rewrite profile. Objects come from
files and folders, from a backup as Velero stores it, or from a namespace of the
cluster. Profiles are those among the files, those of --profiles, or else the
ConfigMap in Velero's namespace. Nothing is changed.

The result is the objects as they would be restored; with --diff what differs,
with --explain each change and the rule behind it. Fields of the profile that
matched nothing are named on standard error.

--lint only checks profiles: faults, and fields that match none of the objects
that are given too.` + exitStatus,
		Example: `  # What does a drill change?
  kubectl dr rewrite examples/wordpress --profile drill --diff

  # The same of a backup, as if restored into another namespace
  kubectl dr rewrite backup.tar.gz --profiles profiles.yaml --profile drill --namespace-mappings web=web-drill --explain

  # Are the profiles sound?
  kubectl dr rewrite --lint profiles.yaml`,
	}
	flags := c.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil, "files, folders or backups, or - for standard input; the same as arguments")
	flags.BoolVarP(&f.recursive, "recursive", "R", false, "read folders in folders too")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "read the objects in this namespace of the cluster")
	flags.StringSliceVar(&f.profiles, "profiles", nil, "files of profiles")
	flags.StringVar(&f.profile, "profile", "", "profile to apply, or drill or failover for the plan's; not needed when there is one")
	flags.StringToStringVar(&f.namespaces, "namespace-mappings", nil, "source=target,… namespaces, as for a restore")
	flags.BoolVar(&f.diff, "diff", false, "show what differs")
	flags.BoolVar(&f.explain, "explain", false, "show each change and its rule")
	flags.BoolVar(&f.lint, "lint", false, "check the profiles")
	flags.StringVarP(&f.output, "output", "o", f.output, "format of objects: yaml or json")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		f.files = append(f.files, args...)
		if err := f.validate(); err != nil {
			return err
		}
		in, set, err := f.read(ctx, e, g)
		if err != nil {
			return err
		}
		if f.lint {
			return e.lintProfiles(set, in)
		}
		p, err := rewrite.Choose(set, in.Plans, f.profile)
		if err != nil {
			return err
		}
		out, err := rewrite.Apply(p.InNamespaces(f.namespaces), in.Objects)
		if err != nil {
			return err
		}
		for _, field := range out.Unused {
			fmt.Fprintf(e.ErrOut, "warning: profile %s: %s matched nothing\n", out.Profile, field)
		}
		e.warnOf(out)
		return f.print(e, out)
	})
	return c
}

func (f *rewriteFlags) validate() error {
	modes := 0
	for _, on := range []bool{f.diff, f.explain, f.lint} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return errors.New("give one of --diff, --explain and --lint")
	case !slices.Contains([]string{"yaml", "json"}, f.output):
		return fmt.Errorf("unknown format %q of --output; want yaml or json", f.output)
	case len(f.files) == 0 && f.namespace == "" && !f.lint:
		return hint.Errorf("name files, folders or a backup, or a namespace with -n", "there is nothing to rewrite")
	}
	return nil
}

// read reads the objects and the profiles.
func (f *rewriteFlags) read(ctx context.Context, e *env, g *globalFlags) (*rewrite.Input, *rules.Set, error) {
	in, err := rewrite.Read(f.files, f.recursive, e.In)
	if err != nil {
		return nil, nil, err
	}
	own, err := rewrite.Read(f.profiles, false, e.In)
	if err != nil {
		return nil, nil, err
	}
	if len(f.profiles) > 0 {
		in.Profiles = own.Profiles
	}
	if f.namespace != "" {
		if err := readCluster(ctx, in, g.recovery, f.namespace); err != nil {
			return nil, nil, err
		}
	}
	if len(in.Profiles) > 0 {
		set, err := rules.Load(in.Profiles, expr.New())
		return in, set, err
	}
	cl, err := e.open(g.recovery, g.namespace(nil))
	if err != nil {
		return nil, nil, hint.Errorf("give a file of profiles with --profiles", "no profiles among the files, and the cluster can't be asked: %w", err)
	}
	set, err := cl.Profiles(ctx)
	return in, set, err
}

// readCluster reads the objects in a namespace of a cluster, or all for "".
func readCluster(ctx context.Context, in *rewrite.Input, getter genericclioptions.RESTClientGetter, namespace string) error {
	config, err := getter.ToRESTConfig()
	if err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	resources, err := getter.ToDiscoveryClient()
	if err != nil {
		return err
	}
	return in.Cluster(ctx, resources, objects, namespace)
}

// lintProfiles says of each profile which fields match none of the objects.
func (e *env) lintProfiles(set *rules.Set, in *rewrite.Input) error {
	for _, name := range set.Names() {
		p, err := set.Profile(name)
		if err != nil {
			return err
		}
		out, err := rewrite.Apply(p, in.Objects)
		if err != nil {
			return err
		}
		e.warnOf(out)
		if len(in.Objects) == 0 || len(out.Unused) == 0 {
			fmt.Fprintf(e.Out, "%s: ok\n", name)
			continue
		}
		fmt.Fprintf(e.Out, "%s: ok; nothing among the objects matches %s\n", name, strings.Join(out.Unused, ", "))
	}
	return nil
}

// warnOf says what a profile leaves as it was and somebody should look at.
func (e *env) warnOf(out *rewrite.Outcomes) {
	for _, o := range out.Objects {
		for _, warning := range o.Warnings {
			fmt.Fprintf(e.ErrOut, "warning: profile %s: %s: %s\n", out.Profile, o.Name, warning)
		}
	}
}

func (f *rewriteFlags) print(e *env, out *rewrite.Outcomes) error {
	switch {
	case f.diff:
		for i := range out.Objects {
			diff, err := out.Objects[i].Diff()
			if err != nil {
				return err
			}
			if e.colour() {
				diff = rewrite.Colour(diff)
			}
			fmt.Fprint(e.Out, diff)
		}
		return nil
	case f.explain:
		for _, o := range out.Objects {
			if len(o.Changes) == 0 {
				continue
			}
			fmt.Fprintln(e.Out, o.Name)
			for _, change := range o.Changes {
				fmt.Fprintf(e.Out, "  %s\n", change)
			}
		}
		return nil
	}
	return f.printObjects(e, out)
}

func (f *rewriteFlags) printObjects(e *env, out *rewrite.Outcomes) error {
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
	for _, obj := range out.After() {
		list.Items = append(list.Items, *obj)
	}
	if f.output == "json" {
		enc := json.NewEncoder(e.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	for i, obj := range list.Items {
		raw, err := yaml.Marshal(obj.Object)
		if err != nil {
			return fmt.Errorf("print %s: %w", rewrite.Name(&obj), err)
		}
		if i > 0 {
			fmt.Fprintln(e.Out, "---")
		}
		fmt.Fprintf(e.Out, "%s", raw)
	}
	return nil
}
