package kubectldr

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/bundle"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

type bundleFlags struct {
	global         *globalFlags
	out            *outputFlags
	file           string
	agentNamespace string
}

func newCmdSupportBundle(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "support-bundle",
		Short:   "Collect what somebody needs who helps",
		GroupID: groupOther,
		Long: `Collect what somebody needs who helps, in a .tar.gz: plans and runs; Velero's
locations, schedules, backups and restores, its logs with those of the plugins, and
what it keeps of the newest backup and restore; pods and logs of agents; what check,
status and the agents' doctors say. With --source-context the source's too.

Secrets are not collected. What is known of their values is blanked in everything
else, and so is what looks like a secret: values of environment variables, private
keys, tokens, passwords, signed URLs. Look through it before you send it all the
same. What can't be collected is named in missing.txt. Nothing is changed.` + exitStatus,
		Example: `  kubectl dr support-bundle

  # Of both sites
  kubectl dr support-bundle --source-context=primary --file=bundle.tar.gz`,
		Args: cobra.NoArgs,
	}
	f := &bundleFlags{global: g, out: addOutputFlags(c)}
	c.Flags().StringVar(&f.file, "file", "", "file to write, which must not be there yet, or - for standard output; named after the time when not given")
	c.Flags().StringVar(&f.agentNamespace, "agent-namespace", "kubectl-dr", "namespace of the agents' DaemonSet")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		cl, err := e.open(g.recovery, g.namespace(nil))
		if err != nil {
			return err
		}
		return f.bundle(ctx, e, cl)
	})
	return c
}

func (f *bundleFlags) bundle(ctx context.Context, e *env, cl *cluster.Cluster) error {
	sites := []bundle.Site{{Name: "recovery", Cluster: cl}}
	if f.global.hasSource() {
		source, err := e.open(f.global.source, f.global.namespace(nil))
		if err != nil {
			return fmt.Errorf("source cluster: %w", err)
		}
		sites = append(sites, bundle.Site{Name: "source", Cluster: source})
	}
	name := "kubectl-dr-support-" + e.now().UTC().Format("20060102-150405")
	if f.file == "" {
		f.file = name + ".tar.gz"
	}
	collector := &bundle.Collector{
		Sites: sites, Reports: f.reports(ctx, e, cl), AgentNamespace: f.agentNamespace, Now: e.now,
		About:  fmt.Sprintf("Support bundle of kubectl dr %s, %s.\n", zfssnap.Version, e.now().UTC().Format("2006-01-02 15:04:05 UTC")),
		Missed: func(what string, err error) { e.hooks().Warnf("not in the bundle: %s: %s", what, err) },
	}
	if f.file == "-" {
		_, err := collector.Write(ctx, e.Out, name)
		return err
	}
	var summary bundle.Summary
	var size counter
	err := create(f.file, 0o600, func(w io.Writer) (err error) {
		size.Writer = w
		summary, err = collector.Write(ctx, &size, name)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return f.out.result(e, &report.Bundle{
		TypeMeta: report.TypeMeta("BundleReport"), ObjectMeta: metav1.ObjectMeta{Name: name}, At: metav1.NewTime(e.now()),
		File: f.file, Bytes: size.n, Files: summary.Files, Redacted: summary.Redacted, Missing: summary.Missing,
	})
}

// counter counts what is written.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// reports are what other commands would say.
func (f *bundleFlags) reports(ctx context.Context, e *env, cl *cluster.Cluster) []bundle.Report {
	storage, storageErr := e.storage(ctx, cl, f.global.agentOptions())
	reports := []bundle.Report{{Name: "agents", Make: func(ctx context.Context) (runtime.Object, error) {
		if storageErr != nil {
			return nil, storageErr
		}
		replies, err := cluster.Examine(ctx, storage, nil, e.now)
		if err != nil {
			return nil, err
		}
		return e.examined(replies), nil
	}}}
	plans, err := cl.Plans(ctx)
	if err != nil {
		return append(reports, bundle.Report{Name: "plans", Make: func(context.Context) (runtime.Object, error) { return nil, err }})
	}
	for i := range plans {
		p := &plans[i]
		reports = append(reports,
			bundle.Report{Name: p.Name + "-check", Make: func(ctx context.Context) (runtime.Object, error) {
				return e.checker(cl, storage, storageErr).Check(ctx, p)
			}},
			bundle.Report{Name: p.Name + "-rpo", Make: func(ctx context.Context) (runtime.Object, error) { return e.rpo(ctx, f.global, cl, p) }},
			bundle.Report{Name: p.Name + "-status", Make: func(ctx context.Context) (runtime.Object, error) {
				m, err := e.measure(ctx, f.global, cl, p)
				return m.Status, err
			}},
		)
	}
	return reports
}
