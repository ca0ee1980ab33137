package failover

import (
	"context"
	"fmt"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
)

// traffic points the names of the plan to where the application goes, and waits until
// they are when the plan wants that.
func (f *Failover) traffic() []run.Step {
	t := f.Run.Spec.PlanSpec.Traffic
	if t == nil {
		return []run.Step{{Name: StepTraffic, About: "nothing: the plan says nothing of traffic", Do: func(context.Context) (string, error) {
			return "the plan says nothing of it", nil
		}}}
	}
	hosts, where := strings.Join(t.Hosts, ", "), "here"
	if f.site() == SourceSite {
		where = "to the source"
	}
	steps := []run.Step{{
		Name: StepTraffic, About: fmt.Sprintf("point %s %s (%s)", hosts, where, t.Method),
		Do: func(ctx context.Context) (string, error) { return f.direct(ctx, t) },
	}}
	if v := t.Verify; v != nil && f.Names != nil {
		about := fmt.Sprintf("wait up to %s until every name server says that %s is there", report.Age(traffic.Timeout(v)), hosts)
		if v.URL != "" {
			about += ", and " + v.URL + " answers"
		}
		steps = append(steps, run.Step{Name: StepVerify, About: about, Do: func(ctx context.Context) (string, error) {
			return f.verify(ctx, t)
		}})
	}
	return steps
}

func (f *Failover) director(t *plan.Traffic) *traffic.Director {
	return &traffic.Director{Traffic: t, Names: f.Names, Client: f.Cluster.Client, Namespace: f.Cluster.Namespace}
}

// targets are what the names point to: what the plan says, or what load balancers gave
// the restored objects.
func (f *Failover) targets(t *plan.Traffic) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		if given := t.For(f.site() == RecoverySite); len(given) > 0 {
			return given, nil
		}
		return f.addresses(ctx)
	}
}

func (f *Failover) direct(ctx context.Context, t *plan.Traffic) (string, error) {
	var registry *traffic.Registry
	if t.Method == plan.TrafficExternalDNS {
		var err error
		registry, err = traffic.FindRegistry(ctx, f.Cluster.Client)
		switch {
		case err != nil:
			f.Hooks.Warnf("whose records %s has is not known: %s", strings.Join(t.Hosts, ", "), err)
		case registry == nil:
			f.Hooks.Warnf("no Deployment at %s runs external-dns: nothing claims %s", f.site(), strings.Join(t.Hosts, ", "))
		}
		if registry == nil || f.Names == nil || registry.Kind != "txt" {
			return fmt.Sprintf("external-dns of %s publishes %s", f.site(), strings.Join(t.Hosts, ", ")), nil
		}
	}
	targets, err := f.targets(t)(ctx)
	if err != nil {
		return "", err
	}
	d := f.director(t)
	var done []string
	for _, host := range t.Hosts {
		said, err := f.point(ctx, d, host, registry, targets)
		if err != nil {
			return "", err
		}
		done = append(done, said)
	}
	return strings.Join(done, "; "), nil
}

// point points one host to the targets, or says who does.
func (f *Failover) point(ctx context.Context, d *traffic.Director, host string, registry *traffic.Registry, targets []string) (string, error) {
	to := f.site() + " (no load balancer there has an address yet)"
	if len(targets) > 0 {
		to = strings.Join(targets, ", ")
	}
	byHand := func(h *traffic.Host, changes []dns.Change, what string) string {
		line := what
		if h != nil && len(changes) > 0 {
			line += ": " + strings.Join(dns.Script(h.Zone, changes), "; ")
		}
		f.Hooks.Warnf("%s", line)
		return "to do by hand: " + line
	}
	if f.Names == nil {
		return byHand(nil, nil, fmt.Sprintf("point %s to %s", host, to)), nil
	}
	h, err := traffic.Look(ctx, f.Names, host, registry)
	if err != nil {
		// Name servers may be beyond reach from here; the application runs all the same.
		f.Hooks.Warnf("what is published of %s is not known: %s", host, strings.ReplaceAll(err.Error(), "\n", "; "))
		if registry != nil {
			return fmt.Sprintf("external-dns of %s publishes %s, unless another owns it", f.site(), host), nil
		}
		return byHand(nil, nil, fmt.Sprintf("point %s to %s", host, to)), nil
	}
	var changes []dns.Change
	what := fmt.Sprintf("point %s to %s", host, to)
	if registry != nil {
		if changes = h.HandOver(registry); len(changes) == 0 {
			return fmt.Sprintf("external-dns of %s publishes %s", f.site(), host), nil
		}
		whose := "which no external-dns made"
		if owners := h.Owners(); len(owners) > 0 {
			whose = "which external-dns " + strings.Join(owners, " and ") + " owns"
		}
		what = fmt.Sprintf("hand %s over, %s, to external-dns %s", host, whose, registry.Owner)
	} else if len(targets) > 0 {
		if changes = h.PointTo(targets, d.Traffic.TTL); len(changes) == 0 {
			return fmt.Sprintf("%s points to %s already", host, to), nil
		}
	}
	if d.Traffic.Update == nil || len(changes) == 0 || d.Traffic.Method == plan.TrafficManual {
		return byHand(h, changes, what), nil
	}
	if err := d.Send(ctx, h.Zone, changes); err != nil {
		// The application runs all the same, and what is left can be done by hand.
		f.Hooks.Warnf("%s", err)
		return byHand(h, changes, what), nil
	}
	return strings.Replace(strings.Replace(what, "point ", "pointed ", 1), "hand ", "handed ", 1), nil
}

func (f *Failover) verify(ctx context.Context, t *plan.Traffic) (string, error) {
	return f.director(t).Verify(ctx, f.Interval, f.targets(t), func(s string) { f.Hooks.Progressf("%s", s) })
}
