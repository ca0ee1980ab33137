package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/draft"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

func newCmdPlan(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "plan",
		Short:   "Write, check and keep recovery plans",
		GroupID: groupOther,
		Long: `Write, check and keep recovery plans. A plan is a file, best kept in Git, and an
object of the recovery cluster, where it is when the source is gone.` + exitStatus,
	}
	c.AddCommand(newCmdPlanInit(e, g), newCmdPlanLint(e, g), newCmdPlanShow(e, g), newCmdPlanDiff(e, g), newCmdPlanApply(e, g), newCmdPlanSchema(e, g))
	return c
}

func newCmdPlanInit(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "init NAMESPACE...",
		Short: "Draft a plan of what runs",
		Long: `Draft a plan of what runs in namespaces of the source, which is --source-context or
else the current context, and print it with a comment for each field.

Waves come from what can be seen: which Services pods are told of in their
environment, arguments, initContainers, ConfigMaps and Secrets; databases go
before what serves a host. Probes are proposed for Services, hosts are those of
Ingresses and routes, and the restore points those of the Schedule that backs the
namespaces up most often. Without one the plan has classes of backups for
kubectl dr protect.

Secrets are searched for names of Services; nothing of them is printed. Nothing is
changed.` + exitStatus,
		Example: `  # A plan of what runs in the source cluster
  kubectl dr plan init wordpress --source-context=primary > plan.yaml

  # An application of two namespaces
  kubectl dr plan init shop shop-db --name=shop > plan.yaml`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint.Errorf(c.UseLine(), "name the namespaces of the application")
			}
			return nil
		},
	}
	out := addOutputFlags(c)
	c.Flags().Lookup("output").Usage = "one of: yaml, json, name, jsonpath=…, go-template=…; yaml, with comments, when not given"
	name := c.Flags().String("name", "", "name of the plan, if not that of the first namespace")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return names(c.Context(), e, g, func(ctx context.Context, cl *cluster.Cluster) ([]string, error) {
			list := &corev1api.NamespaceList{}
			err := cl.Client.List(ctx, list)
			var found []string
			for _, ns := range list.Items {
				if !slices.Contains(args, ns.Name) {
					found = append(found, ns.Name)
				}
			}
			return found, err
		})
	}
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		where := g.recovery
		if g.hasSource() {
			where = g.source
		}
		cl, err := e.open(where, g.namespace(nil))
		if err != nil {
			return err
		}
		if *name == "" {
			*name = args[0]
		}
		d, err := (&draft.Drafter{Client: cl.Client, VeleroNamespace: cl.Namespace, Now: e.now}).Draft(ctx, *name, args)
		if err != nil {
			return err
		}
		if format := *out.print.OutputFormat; format == "" || format == "yaml" {
			return d.WriteYAML(e.Out)
		}
		return out.result(e, d.Plan)
	})
	return c
}

func newCmdPlanLint(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "lint [PLAN | -f FILE]",
		Short: "See whether a plan is sound by itself",
		Long: `See whether a plan is sound by itself: its format, its names, and what it would be
better with. What it refers to is not looked at: kubectl dr check does that. A
file is checked without any cluster.` + exitStatus,
		Example: `  kubectl dr plan lint -f plan.yaml

  # In CI: no advice either
  kubectl dr plan lint -f plan.yaml --strict`,
	}
	plans := addPlanFlags(c, e, g)
	out := addOutputFlags(c)
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		var p *plan.RecoveryPlan
		var err error
		if plans.file != "" {
			p, err = plan.Read(plans.file, e.In)
		} else {
			_, p, err = plans.load(ctx, e, args)
		}
		var invalid *plan.InvalidError
		if err != nil && !errors.As(err, &invalid) {
			return err
		}
		r := e.linted(p, invalid)
		return e.judged(out.result(e, r), r.State, *strict)
	})
	return c
}

// linted makes a report of what is wrong with a plan.
func (e *env) linted(p *plan.RecoveryPlan, invalid *plan.InvalidError) *report.Check {
	r := &report.Check{TypeMeta: report.TypeMeta("LintReport"), At: metav1.NewTime(e.now()), State: report.OK}
	if invalid != nil {
		r.Name = invalid.Plan
		for _, f := range invalid.Faults {
			r.Add("plan", report.Item{Name: f.Field, State: report.Problem, Message: f.Message, Remedy: "correct the plan"})
		}
		return r
	}
	r.Name = p.Name
	r.Add("plan", report.Item{Name: "format", State: report.OK})
	for _, f := range p.Advice() {
		r.Add("plan", report.Item{Name: f.Field, State: report.Warning, Message: f.Message})
	}
	return r
}

func newCmdPlanShow(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "show [PLAN | -f FILE]",
		Short: "Show a plan",
		Long:  `Show a plan: objectives, backups, waves in their order, probes and traffic.` + exitStatus,
		Example: `  kubectl dr plan show wordpress
  kubectl dr plan show wordpress -o yaml > plan.yaml`,
	}
	plans := addPlanFlags(c, e, g)
	out := addOutputFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		_, p, err := plans.load(ctx, e, args)
		if err != nil {
			return err
		}
		return out.result(e, asFile(p))
	})
	return c
}

// asFile is a plan without what the cluster adds.
func asFile(p *plan.RecoveryPlan) *plan.RecoveryPlan {
	annotations := p.DeepCopy().Annotations
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if len(annotations) == 0 {
		annotations = nil
	}
	return &plan.RecoveryPlan{
		TypeMeta:   metav1.TypeMeta{APIVersion: plan.GroupVersion.String(), Kind: "RecoveryPlan"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, Annotations: annotations},
		Spec:       p.Spec,
	}
}

// fileFlags are those of commands about a plan in a file and the one in the
// cluster.
type fileFlags struct {
	global *globalFlags
	file   string
}

func addFileFlags(c *cobra.Command, g *globalFlags) *fileFlags {
	f := &fileFlags{global: g}
	c.Flags().StringVarP(&f.file, "filename", "f", "", "file of the plan, or - for standard input")
	c.Args = cobra.NoArgs
	return f
}

// read returns the recovery cluster and the plan of the file as it belongs there.
func (f *fileFlags) read(e *env) (*cluster.Cluster, *plan.RecoveryPlan, error) {
	if f.file == "" {
		return nil, nil, hint.Errorf("kubectl dr plan init drafts one", "give the file of the plan with -f")
	}
	p, err := plan.Read(f.file, e.In)
	if err != nil {
		return nil, nil, err
	}
	cl, err := e.open(f.global.recovery, f.global.namespace(p))
	if err != nil {
		return nil, nil, err
	}
	if p.Namespace != "" && p.Namespace != cl.Namespace {
		return nil, nil, hint.Errorf("correct metadata.namespace, or say --velero-namespace="+p.Namespace,
			"the plan belongs to namespace %s, and Velero is in %s: plans are kept beside it", p.Namespace, cl.Namespace)
	}
	p.Namespace = cl.Namespace
	return cl, p, nil
}

func newCmdPlanDiff(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what applying a plan would change",
		Long: `Show how the plan of a file differs from the one in the recovery cluster. Ends
with status 2 when they differ.` + exitStatus,
		Example: `  kubectl dr plan diff -f plan.yaml`,
	}
	f := addFileFlags(c, g)
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		cl, p, err := f.read(e)
		if err != nil {
			return err
		}
		have, err := cl.FindPlan(ctx, p.Name)
		if err != nil {
			return err
		}
		diff, err := planDiff(have, p)
		if err != nil || diff == "" {
			return err
		}
		if e.colour() {
			diff = rewrite.Colour(diff)
		}
		if _, err := fmt.Fprint(e.Out, diff); err != nil {
			return err
		}
		return &unhealthyError{}
	})
	return c
}

// planDiff compares a plan in the cluster, nil when there is none, with another.
func planDiff(have, want *plan.RecoveryPlan) (string, error) {
	var sides [2]*unstructured.Unstructured
	for i, p := range []*plan.RecoveryPlan{have, want} {
		if p == nil {
			continue
		}
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(asFile(p))
		if err != nil {
			return "", err
		}
		unstructured.RemoveNestedField(fields, "metadata", "creationTimestamp")
		sides[i] = &unstructured.Unstructured{Object: fields}
	}
	return rewrite.Unified("plan "+want.Name+" (cluster)", "plan "+want.Name+" (file)", sides[0], sides[1])
}

func newCmdPlanApply(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Keep a plan in the recovery cluster",
		Long: `Keep a plan in the recovery cluster, in Velero's namespace. A plan that is not sound
is refused. Runs in progress go on with the plan as it was.` + exitStatus,
		Example: `  # What would change?
  kubectl dr plan apply -f plan.yaml --dry-run

  kubectl dr plan apply -f plan.yaml`,
	}
	f := addFileFlags(c, g)
	out := addOutputFlags(c)
	c.Flags().Lookup("output").Usage = "one of: json, yaml, name, jsonpath=…, go-template=…; a line when not given"
	dryRun := c.Flags().Bool("dry-run", false, "say what would be done, and do nothing")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		cl, p, err := f.read(e)
		if err != nil {
			return err
		}
		done, err := cl.ApplyPlan(ctx, p, *dryRun)
		if err != nil {
			return err
		}
		if printer, err := out.printer(); printer != nil || err != nil {
			if err != nil {
				return err
			}
			return printer.PrintObj(asFile(p), e.Out)
		}
		if *dryRun {
			done += " (dry run)"
		}
		_, err = fmt.Fprintf(e.Out, "recoveryplan.%s/%s %s\n", plan.GroupVersion.Group, p.Name, done)
		return err
	})
	return c
}

func newCmdPlanSchema(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of plans",
		Long: `Print the JSON schema of plans, for editors that complete and check them. It is that
of the definition in the cluster; durations and names are checked by lint.` + exitStatus,
		Example: `  kubectl dr plan schema > plan.schema.json`,
		Args:    cobra.NoArgs,
	}
	c.RunE = g.run(func(context.Context, []string) error {
		schema, err := plan.Schema()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(e.Out, "%s\n", schema)
		return err
	})
	return c
}
