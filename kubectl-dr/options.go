package kubectldr

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// outputFlags choose how a result is printed.
type outputFlags struct {
	print     *genericclioptions.PrintFlags
	noHeaders bool
}

func addOutputFlags(c *cobra.Command) *outputFlags {
	o := &outputFlags{print: genericclioptions.NewPrintFlags("")}
	format := ""
	o.print.OutputFormat = &format
	o.print.AddFlags(c)
	if f := c.Flags().Lookup("output"); f != nil {
		f.Usage = "one of: wide, json, yaml, name, jsonpath=…, go-template=…; a table when not given"
	}
	c.Flags().BoolVar(&o.noHeaders, "no-headers", false, "print tables without headers")
	return o
}

// result prints the result of a command: one document on standard output.
func (o *outputFlags) result(e *env, obj runtime.Object) error {
	format := *o.print.OutputFormat
	if format == "" || format == "wide" {
		return report.Print(e.Out, obj, report.TableOptions{Wide: format == "wide", NoHeaders: o.noHeaders})
	}
	p, err := o.printer()
	if err != nil {
		return err
	}
	return p.PrintObj(obj, e.Out)
}

func (o *outputFlags) printer() (printers.ResourcePrinter, error) {
	if format := *o.print.OutputFormat; format == "" || format == "wide" {
		return nil, nil
	}
	return o.print.ToPrinter()
}

// planFlags choose a plan.
type planFlags struct {
	global *globalFlags
	file   string
}

func addPlanFlags(c *cobra.Command, e *env, g *globalFlags) *planFlags {
	p := &planFlags{global: g}
	c.Flags().StringVarP(&p.file, "filename", "f", "", "file of the plan, or - for standard input; instead of the name of a plan in the cluster")
	c.Args = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return hint.Errorf(c.UseLine(), "want one plan, not %d: %s", len(args), strings.Join(args, " "))
		case len(args) == 1 && p.file != "":
			return fmt.Errorf("give the name of a plan or a file, not both")
		}
		return nil
	}
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(c.Context(), e, g, func(ctx context.Context, cl *cluster.Cluster) ([]string, error) {
			plans, err := cl.Plans(ctx)
			return planNames(plans), err
		})
	}
	return p
}

const completionTimeout = 3 * time.Second

// names completes from the cluster, quietly and not for long.
func names(ctx context.Context, e *env, g *globalFlags, list func(context.Context, *cluster.Cluster) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	c, err := e.open(g.recovery, g.namespace(nil))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, err := list(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

func runNames(ctx context.Context, c *cluster.Cluster) ([]string, error) {
	runs, err := run.Runs(ctx, c.Client, c.Namespace, "")
	var all []string
	for _, r := range runs {
		all = append(all, r.Name)
	}
	return all, err
}

func planNames(plans []plan.RecoveryPlan) []string {
	var all []string
	for _, p := range plans {
		all = append(all, p.Name)
	}
	slices.Sort(all)
	return all
}

// namespace returns Velero's.
func (g *globalFlags) namespace(p *plan.RecoveryPlan) string {
	switch {
	case g.veleroNamespace != "":
		return g.veleroNamespace
	case p != nil && p.Spec.Source.VeleroNamespace != "":
		return p.Spec.Source.VeleroNamespace
	}
	return cluster.DefaultVeleroNamespace
}

// load returns the recovery cluster and the plan. A plan in the cluster that is
// not valid comes back with the error.
func (f *planFlags) load(ctx context.Context, e *env, args []string) (*cluster.Cluster, *plan.RecoveryPlan, error) {
	var p *plan.RecoveryPlan
	if f.file != "" {
		var err error
		if p, err = plan.Read(f.file, e.In); err != nil {
			return nil, p, err
		}
	}
	c, err := e.open(f.global.recovery, f.global.namespace(p))
	if err != nil || p != nil {
		return c, p, err
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	} else if name, err = theOnlyPlan(ctx, c); err != nil {
		return nil, nil, err
	}
	p, err = c.Plan(ctx, name)
	return c, p, err
}

func theOnlyPlan(ctx context.Context, c *cluster.Cluster) (string, error) {
	plans, err := c.Plans(ctx)
	switch {
	case err != nil:
		return "", err
	case len(plans) == 0:
		return "", hint.Errorf("give one with -f, or create one: see examples/wordpress/plan.yaml", "there is no plan in namespace %s of context %q", c.Namespace, c.Context)
	case len(plans) > 1:
		return "", hint.Errorf("there are "+strings.Join(planNames(plans), ", "), "say which plan")
	}
	return plans[0].Name, nil
}

func (g *globalFlags) agentOptions() cluster.AgentOptions {
	return cluster.AgentOptions{Addresses: g.agents, Credentials: g.agentCredentials}
}

// site is the recovery cluster with its storage and restore points.
type site struct {
	cluster *cluster.Cluster
	storage *cluster.Storage
	finder  *restorepoint.Finder
}

func (g *globalFlags) site(ctx context.Context, e *env, c *cluster.Cluster) (*site, error) {
	storage, err := e.storage(ctx, c, g.agentOptions())
	if err != nil {
		return nil, err
	}
	return &site{cluster: c, storage: storage, finder: finder(c, storage)}, nil
}

// openSite is site for commands about no plan.
func (g *globalFlags) openSite(ctx context.Context, e *env) (*site, error) {
	c, err := e.open(g.recovery, g.namespace(nil))
	if err != nil {
		return nil, err
	}
	return g.site(ctx, e, c)
}

// site returns the recovery site and the plan.
func (f *planFlags) site(ctx context.Context, e *env, args []string) (*site, *plan.RecoveryPlan, error) {
	c, p, err := f.load(ctx, e, args)
	if err != nil {
		return nil, nil, err
	}
	s, err := f.global.site(ctx, e, c)
	return s, p, err
}

func finder(c *cluster.Cluster, storage *cluster.Storage) *restorepoint.Finder {
	return &restorepoint.Finder{Client: c.Client, Namespace: c.Namespace, Files: c.Files, Replicas: storage}
}

// hooks print how a run goes on, on standard error.
func (e *env) hooks() run.Hooks {
	say := func(format string, args ...any) { fmt.Fprintf(e.ErrOut, format+"\n", args...) }
	return run.Hooks{
		StepStarted: func(s plan.Step) { say("running  %s", s.Name) },
		StepEnded: func(s plan.Step) {
			line := fmt.Sprintf("%-8s %s (%s)", strings.ToLower(string(s.Phase)), s.Name, report.Age(s.EndedAt.Sub(s.StartedAt.Time)))
			if s.Message != "" {
				line += ": " + s.Message
			}
			say("%s", line)
		},
		StepKept: func(s plan.Step) { say("done     %s (earlier)", s.Name) },
		Progress: func(s string) { say("         %s", s) },
		Warn:     func(s string) { say("warning: %s", s) },
	}
}
