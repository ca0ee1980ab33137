package kubectldr

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

const gitOpsAbout = `

With --source-context it is about both clusters, otherwise about the recovery
cluster alone.`

func newCmdGitOps(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "gitops",
		Short:   "See, pause and resume what Argo CD and Flux reconcile",
		GroupID: groupOther,
		Long: `See, pause and resume what Argo CD and Flux reconcile of the application of a plan,
as its spec.gitops names it. Failovers pause by themselves. What was paused by
somebody else stays so, and what is resumed is exactly as it was.`,
	}
	type verb struct {
		name, short, long string
		do                func(ctx context.Context, cl *cluster.Cluster, o gitops.Object) (bool, error)
	}
	for _, v := range []verb{
		{"status", "See what is paused, and by which run", "See what is paused, and by which run.", nil},
		{"pause", "Pause what reconciles", "Pause what reconciles, until kubectl dr gitops resume.",
			func(ctx context.Context, cl *cluster.Cluster, o gitops.Object) (bool, error) {
				return gitops.Pause(ctx, cl.Client, o, "kubectl dr gitops pause")
			}},
		{"resume", "Let what a run has paused go on", `Let what a run has paused go on. At the recovery site that is right once Git says what
runs there now: what is resumed makes the cluster as Git has it.`,
			func(ctx context.Context, cl *cluster.Cluster, o gitops.Object) (bool, error) {
				return gitops.Resume(ctx, cl.Client, o, "")
			}},
	} {
		sub := &cobra.Command{
			Use: v.name + " [PLAN | -f FILE]", Short: v.short, Long: v.long + gitOpsAbout + exitStatus,
			Example: fmt.Sprintf("  kubectl dr gitops %s wordpress --source-context=primary", v.name),
		}
		plans := addPlanFlags(sub, e, g)
		out := addOutputFlags(sub)
		sub.RunE = g.run(func(ctx context.Context, args []string) error {
			cl, p, err := plans.load(ctx, e, args)
			if err != nil {
				return err
			}
			r, err := e.gitOps(ctx, g, cl, p, v.do)
			if err != nil {
				return err
			}
			return out.result(e, r)
		})
		c.AddCommand(sub)
	}
	return c
}

// gitOps does something with each object that a plan names, unless it is not
// there, and says how all are then.
func (e *env) gitOps(ctx context.Context, g *globalFlags, recovery *cluster.Cluster, p *plan.RecoveryPlan, do func(context.Context, *cluster.Cluster, gitops.Object) (bool, error)) (*report.GitOps, error) {
	objects := gitops.Objects(p.Spec.GitOps)
	if len(objects) == 0 {
		return nil, hint.Errorf("name Applications, Kustomizations or HelmReleases in spec.gitops", "plan %s names nothing of Argo CD or Flux", p.Name)
	}
	type side struct {
		name string
		*cluster.Cluster
	}
	sides := []side{{failover.RecoverySite, recovery}}
	if g.hasSource() {
		source, err := e.open(g.source, g.namespace(p))
		if err != nil {
			return nil, err
		}
		sides = slices.Insert(sides, 0, side{failover.SourceSite, source})
	}
	r := &report.GitOps{TypeMeta: report.TypeMeta("GitOps"), ObjectMeta: metav1.ObjectMeta{Name: p.Name}}
	for _, s := range sides {
		ordered, err := gitops.InOrder(ctx, s.Client, objects)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if !slices.Contains(ordered, o) {
				ordered = append(ordered, o)
			}
		}
		for _, o := range ordered {
			item := report.GitOpsObject{Site: s.name, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
			if do != nil {
				if item.Changed, err = do(ctx, s.Cluster, o); err != nil && !gitops.Missing(err) {
					return nil, err
				}
			}
			state, by, err := gitops.Look(ctx, s.Client, o)
			if err != nil {
				return nil, err
			}
			item.State, item.By = string(state), by
			r.Items = append(r.Items, item)
		}
	}
	return r, nil
}
