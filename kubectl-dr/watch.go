package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/metrics"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
)

// formatPrometheus is what -o of rpo and status knows beside what other commands do.
const formatPrometheus = "prometheus"

// watchFlags let a command that looks look again.
type watchFlags struct {
	watch    bool
	interval time.Duration
}

func addWatchFlags(c *cobra.Command) *watchFlags {
	f := &watchFlags{}
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "look again and again, until interrupted")
	c.Flags().DurationVar(&f.interval, "interval", 15*time.Second, "between two looks, with --watch")
	return f
}

func (f *watchFlags) validate() error {
	if f.interval <= 0 {
		return fmt.Errorf("--interval=%s: want a time above zero", f.interval)
	}
	return nil
}

// clearScreen empties a terminal and goes to its top.
const clearScreen = "\x1b[H\x1b[2J"

// repeat looks once, or again and again: an error is told then, and does not end
// it.
func (f *watchFlags) repeat(ctx context.Context, e *env, look func(context.Context) error) error {
	if !f.watch {
		return look(ctx)
	}
	for first := true; ; first = false {
		switch {
		case e.terminal():
			fmt.Fprint(e.Out, clearScreen)
		case !first:
			fmt.Fprintln(e.Out)
		}
		err := look(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var unhealthy *unhealthyError
		if err != nil && !errors.As(err, &unhealthy) {
			e.hooks().Warnf("%s; looking again in %s", err, f.interval)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(f.interval):
		}
	}
}

// measure looks at a plan as status does.
func (e *env) measure(ctx context.Context, g *globalFlags, cl *cluster.Cluster, p *plan.RecoveryPlan) (metrics.Measurement, error) {
	m := metrics.Measurement{Plan: p, At: e.now()}
	runs, err := run.Runs(ctx, cl.Client, cl.Namespace, p.Name)
	if err != nil {
		return m, err
	}
	m.RPO, m.Err = e.rpo(ctx, g, cl, p)
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	m.Status = e.status(p, runs, m.RPO, m.Err)
	m.Status.Standby = e.standbySummary(ctx, cl, p, m.Status)
	(&sides{env: e, global: g, plan: p, recovery: cl}).compare(ctx, run.LastMove(runs), m.Status)
	return m, nil
}

type exporterFlags struct {
	global   *globalFlags
	listen   string
	interval time.Duration
}

func newCmdExporter(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "exporter",
		Short:   "Serve metrics of all plans to Prometheus",
		GroupID: groupCheck,
		Long: `Serve metrics of all plans to Prometheus: RPO against its objective, the last drill,
which site is active, and more. It looks at the plans every --interval, and
answers with what it saw last; ages are as of the scrape. In the recovery cluster
it needs no kubeconfig.

It serves /metrics, /healthz and /readyz, without TLS. kubectl dr status -o
prometheus prints the same once.` + exitStatus,
		Example: `  kubectl dr exporter --listen=:9464

  # In the recovery cluster
  kubectl apply -f examples/exporter`,
		Args: cobra.NoArgs,
	}
	f := &exporterFlags{global: g}
	c.Flags().StringVar(&f.listen, "listen", ":9464", "address to serve on")
	c.Flags().DurationVar(&f.interval, "interval", time.Minute, "between two looks at the plans, and the most that one may take")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		if f.interval <= 0 {
			return fmt.Errorf("--interval=%s: want a time above zero", f.interval)
		}
		cl, err := e.open(g.recovery, g.namespace(nil))
		if err != nil {
			return err
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
		if err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
		fmt.Fprintf(e.ErrOut, "serving metrics on http://%s/metrics\n", listener.Addr())
		exporter := &metrics.Exporter{
			Measure: func(ctx context.Context) ([]metrics.Measurement, error) { return f.measure(ctx, e, cl) },
			Every:   f.interval, Now: e.now,
			Failed: func(err error) { e.hooks().Warnf("%s", strings.ReplaceAll(err.Error(), "\n", "; ")) },
		}
		return exporter.Run(ctx, listener)
	})
	return c
}

// measure looks at every plan. One that can't be looked at does not keep the others
// from it.
func (f *exporterFlags) measure(ctx context.Context, e *env, cl *cluster.Cluster) ([]metrics.Measurement, error) {
	plans, err := cl.Plans(ctx)
	if err != nil {
		return nil, err
	}
	var all []metrics.Measurement
	for i := range plans {
		m, err := e.measure(ctx, f.global, cl, &plans[i])
		if m.Err == nil {
			m.Err = err
		}
		if m.Err != nil {
			e.hooks().Warnf("plan %s: %s", plans[i].Name, m.Err)
		}
		all = append(all, m)
	}
	return all, ctx.Err()
}
