package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	batchv1api "k8s.io/api/batch/v1"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
)

// MaxName is how long a plan's name may be, so that the names of its runs are
// label values.
const MaxName = validation.LabelValueMaxLength - len("-reprotect-20060102-150405")

// Fault is one thing that is wrong with a plan.
type Fault struct {
	Field   string
	Message string
}

func (f Fault) String() string { return f.Field + ": " + f.Message }

// InvalidError lists everything that is wrong with a plan.
type InvalidError struct {
	Plan   string
	Faults []Fault
}

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return fmt.Sprintf("plan %q is not valid: %s", e.Plan, strings.Join(lines, "; "))
}

// Validate returns an *InvalidError for a plan with faults.
func (p *RecoveryPlan) Validate() error {
	if faults := p.Lint(); len(faults) > 0 {
		return &InvalidError{Plan: p.Name, Faults: faults}
	}
	return nil
}

// Lint says what is wrong with a plan by itself; what it refers to is not
// looked at.
func (p *RecoveryPlan) Lint() []Fault {
	l := &linter{namespaces: p.Spec.Source.Namespaces}
	if bad := validation.IsDNS1123Label(p.Name); len(bad) > 0 {
		l.fault("metadata.name", "%q is not a name: %s", p.Name, strings.Join(bad, ", "))
	} else if len(p.Name) > MaxName {
		l.fault("metadata.name", "%q has %d characters; runs are named after it, so it may have %d", p.Name, len(p.Name), MaxName)
	}
	l.objectives(p.Spec.Objectives)
	l.source(p.Spec.Source)
	l.stretched(p.Spec.Source.StretchedPools)
	l.protect(p.Spec.Source.Schedule, p.Spec.Protect)
	l.waves(p.Spec.Start)
	l.hooks(p.Spec.Start)
	for i, probe := range p.Spec.Probes {
		l.probe(fmt.Sprintf("spec.probes[%d]", i), probe)
	}
	l.unique("spec.probes", names(p.Spec.Probes, func(p Probe) string { return p.Name }))
	if t := p.Spec.Traffic; t != nil {
		l.traffic(t)
	}
	l.gitOps(p.Spec.GitOps)
	l.requires(p.Spec.Requires)
	return l.faults
}

// Advice says what a sound plan would be better with.
func (p *RecoveryPlan) Advice() []Fault {
	var l linter
	s := p.Spec
	if s.Objectives.DrillEvery == nil {
		l.fault("spec.objectives.drillEvery", "is missing: nothing reminds of the next drill")
	}
	switch {
	case len(s.Probes) == 0:
		l.fault("spec.probes", "is empty: a drill proves only that pods start")
	case !slices.ContainsFunc(s.Probes, Probe.looksInside):
		l.fault("spec.probes", "only connect or ask for a status: none looks at what was recovered, with contains, exec, sql or a job")
	}
	if s.Protect == nil || s.Protect.Interval == nil {
		return l.faults
	}
	if every, rpo := s.Protect.Interval.Every.Duration, s.Objectives.RPO.Duration; 2*every > rpo {
		l.fault("spec.protect.interval.every", "is %s: one backup that fails misses the RPO of %s", every, rpo)
	}
	return l.faults
}

// looksInside reports whether a probe depends on data.
func (p Probe) looksInside() bool {
	return p.Exec != nil || p.SQL != nil || p.Job != nil || p.HTTP != nil && p.HTTP.Expect.Contains != ""
}

func (l *linter) stretched(pools []StretchedPool) {
	for i, p := range pools {
		field := fmt.Sprintf("spec.source.stretchedPools[%d]", i)
		switch {
		case p.Pool == "" || p.Source == "" || p.Recovery == "":
			l.fault(field, "wants pool, source and recovery")
		case strings.Contains(p.Pool, "/"):
			l.fault(field+".pool", "%q is a dataset; a pool is imported as a whole", p.Pool)
		case p.Source == p.Recovery:
			l.fault(field, "source and recovery are both %q", p.Source)
		}
	}
	l.unique("spec.source.stretchedPools", names(pools, func(p StretchedPool) string { return p.Pool }))
}

func (l *linter) traffic(t *Traffic) {
	if len(t.Hosts) == 0 {
		l.fault("spec.traffic.hosts", "lists no host")
	}
	methods := []string{TrafficExternalDNS, TrafficManual, TrafficUpdate}
	if !slices.Contains(methods, t.Method) {
		l.fault("spec.traffic.method", "%q is none of %s", t.Method, strings.Join(methods, ", "))
	}
	if t.TTL != nil && t.TTL.Duration <= 0 {
		l.fault("spec.traffic.ttl", "must be a duration above zero, as 60s")
	}
	l.server("spec.traffic.resolver", t.Resolver)
	if s := t.Targets; s != nil {
		l.targets("spec.traffic.targets.source", s.Source)
		l.targets("spec.traffic.targets.recovery", s.Recovery)
	}
	switch u := t.Update; {
	case u == nil && t.Method == TrafficUpdate:
		l.fault("spec.traffic.update", "is missing: method %q needs the key of the zone's server", TrafficUpdate)
	case u != nil:
		l.server("spec.traffic.update.server", u.Server)
		if u.KeyName == "" {
			l.fault("spec.traffic.update.keyName", "is empty")
		}
		if u.Secret.Name == "" || u.Secret.Key == "" {
			l.fault("spec.traffic.update.secret", "wants name and key")
		}
	}
	if v := t.Verify; v != nil {
		l.timeout("spec.traffic.verify", v.Timeout.Duration)
		if u, err := url.Parse(v.URL); v.URL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			l.fault("spec.traffic.verify.url", "%q is not the URL of a page", v.URL)
		}
	}
}

func (l *linter) server(field, s string) {
	if _, _, err := net.SplitHostPort(s); s != "" && err != nil {
		l.fault(field, "%q is not host:port", s)
	}
}

// targets are addresses, or one name: a name with an alias has nothing else.
func (l *linter) targets(field string, all []string) {
	for i, s := range all {
		if net.ParseIP(s) != nil {
			continue
		}
		switch at := fmt.Sprintf("%s[%d]", field, i); {
		case len(validation.IsDNS1123Subdomain(s)) > 0:
			l.fault(at, "%q is neither an address nor a name", s)
		case len(all) > 1:
			l.fault(at, "%q is a name, and has to be the only target", s)
		}
	}
}

func (l *linter) gitOps(g *GitOps) {
	if g == nil {
		return
	}
	for i, a := range g.ArgoCD {
		if a.Application == "" {
			l.fault(fmt.Sprintf("spec.gitops.argocd[%d].application", i), "is empty")
		}
	}
	for i, f := range g.Flux {
		field := fmt.Sprintf("spec.gitops.flux[%d]", i)
		if f.Kind != FluxKustomization && f.Kind != FluxHelmRelease {
			l.fault(field+".kind", "%q is neither %q nor %q", f.Kind, FluxKustomization, FluxHelmRelease)
		}
		if f.Name == "" {
			l.fault(field+".name", "is empty")
		}
	}
}

func (l *linter) requires(all []Requirement) {
	for i, r := range all {
		field := fmt.Sprintf("spec.requires[%d]", i)
		switch u, err := url.Parse(r.URL); {
		case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "tcp"}, u.Scheme):
			l.fault(field+".url", "is no URL of http, https or tcp, as https://login.example.org or tcp://mail.example.org:25")
		case u.User != nil:
			l.fault(field+".url", "has a user: reports show it, and asking needs none")
		case u.Scheme == "tcp" && u.Port() == "":
			l.fault(field+".url", "%q has no port", r.URL)
		}
	}
	l.unique("spec.requires", names(all, func(r Requirement) string { return r.Name }))
}

type linter struct {
	namespaces []string
	faults     []Fault
}

func (l *linter) fault(field, format string, args ...any) {
	l.faults = append(l.faults, Fault{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (l *linter) objectives(o Objectives) {
	positive := func(field string, d time.Duration) {
		if d <= 0 {
			l.fault("spec.objectives."+field, "must be a duration above zero, as 15m")
		}
	}
	positive("rpo", o.RPO.Duration)
	positive("rto", o.RTO.Duration)
	if o.DrillEvery != nil {
		positive("drillEvery", o.DrillEvery.Duration)
	}
}

func (l *linter) source(s Source) {
	if len(s.Namespaces) == 0 {
		l.fault("spec.source.namespaces", "lists no namespace")
	}
	for i, ns := range s.Namespaces {
		if bad := validation.IsDNS1123Label(ns); len(bad) > 0 {
			l.fault(fmt.Sprintf("spec.source.namespaces[%d]", i), "%q is not a namespace: %s", ns, strings.Join(bad, ", "))
		}
	}
	l.unique("spec.source.namespaces", s.Namespaces)
	if s.Schedule == "" {
		l.fault("spec.source.schedule", "names no Velero Schedule")
	}
}

func (l *linter) waves(waves []Wave) {
	seen := map[Workload]string{}
	for i, wave := range waves {
		field := fmt.Sprintf("spec.start[%d]", i)
		if len(wave.Workloads) == 0 {
			l.fault(field+".workloads", "lists no workload")
		}
		l.timeout(field, wave.Timeout.Duration)
		for j, s := range wave.Workloads {
			w, err := ParseWorkload(s, l.namespaces)
			at := fmt.Sprintf("%s.workloads[%d]", field, j)
			if err != nil {
				l.fault(at, "%s", err)
				continue
			}
			if other, twice := seen[w]; twice {
				l.fault(at, "%s is started by %s already", s, other)
			}
			seen[w] = at
		}
	}
	l.unique("spec.start", names(waves, func(w Wave) string { return w.Name }))
}

// hooks have names that no other hook of the plan has: a run knows them by it.
func (l *linter) hooks(waves []Wave) {
	at := map[string]string{}
	look := func(field string, hooks []Hook) {
		for i, h := range hooks {
			field := fmt.Sprintf("%s[%d]", field, i)
			switch other, twice := at[h.Name]; {
			case h.Name == "":
				l.fault(field, "has no name")
			case twice:
				l.fault(field, "%q is there twice, also as %s", h.Name, other)
			}
			at[h.Name] = field
			l.hook(field, h)
		}
	}
	for i, w := range waves {
		look(fmt.Sprintf("spec.start[%d].before", i), w.Before)
		look(fmt.Sprintf("spec.start[%d].after", i), w.After)
	}
}

func (l *linter) hook(field string, h Hook) {
	for _, command := range h.In {
		if !slices.Contains(hookCommands, command) {
			l.fault(field+".in", "%q is none of %s", command, strings.Join(names(hookCommands, func(c HookCommand) string { return string(c) }), ", "))
		}
	}
	set := 0
	if h.Prompt == "" || h.does() {
		set = l.action(field, h.Probe)
	}
	if h.Prompt != "" {
		set++
	}
	if set != 1 {
		l.fault(field, "has %d of prompt, http, tcp, exec, sql and job; want exactly one", set)
	}
}

// does reports whether a probe says what to do.
func (p Probe) does() bool {
	return p.HTTP != nil || p.TCP != nil || p.Exec != nil || p.SQL != nil || p.Job != nil
}

func (l *linter) probe(field string, p Probe) {
	if set := l.action(field, p); set != 1 {
		l.fault(field, "has %d of http, tcp, exec, sql and job; want exactly one", set)
	}
}

// action looks at what a probe does, and returns how many things that are.
func (l *linter) action(field string, p Probe) int {
	l.timeout(field, p.Timeout.Duration)
	if _, err := ParseNamespace(p.Namespace, l.namespaces); err != nil && (p.Exec == nil && p.SQL == nil || p.Namespace != "") {
		l.fault(field+".namespace", "%s", err)
	}
	set := 0
	service := func(field, name string, port int32) {
		set++
		if name == "" {
			l.fault(field+".service", "names no Service")
		}
		if port < 0 || port > 65535 {
			l.fault(field+".port", "%d is not a port", port)
		}
	}
	if p.HTTP != nil {
		service(field+".http", p.HTTP.Service, p.HTTP.Port)
		if p.HTTP.Path != "" && !strings.HasPrefix(p.HTTP.Path, "/") {
			l.fault(field+".http.path", "%q does not begin with a slash", p.HTTP.Path)
		}
		if s := p.HTTP.Expect.Status; s != 0 && (s < 100 || s > 599) {
			l.fault(field+".http.expect.status", "%d is not an HTTP status", s)
		}
	}
	if p.TCP != nil {
		service(field+".tcp", p.TCP.Service, p.TCP.Port)
	}
	if p.Exec != nil {
		set++
		if _, err := ParseWorkload(p.Exec.Workload, l.namespaces); err != nil {
			l.fault(field+".exec.workload", "%s", err)
		}
		if len(p.Exec.Command) == 0 {
			l.fault(field+".exec.command", "is empty")
		}
	}
	if p.SQL != nil {
		set++
		l.sql(field+".sql", p.SQL)
	}
	if p.Job != nil {
		set++
		if _, err := p.Job.JobSpec(); err != nil {
			l.fault(field+".job.spec", "%s", err)
		}
	}
	return set
}

// variable is the name of an environment variable.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (l *linter) sql(field string, q *SQLProbe) {
	if _, err := ParseWorkload(q.Workload, l.namespaces); err != nil {
		l.fault(field+".workload", "%s", err)
	}
	if clients := []string{SQLMariaDB, SQLMySQL, SQLPostgres}; !slices.Contains(clients, q.Client) {
		l.fault(field+".client", "%q is none of %s", q.Client, strings.Join(clients, ", "))
	}
	if q.PasswordEnv != "" && !variable.MatchString(q.PasswordEnv) {
		l.fault(field+".passwordEnv", "%q is no environment variable", q.PasswordEnv)
	}
	if strings.TrimSpace(q.Query) == "" {
		l.fault(field+".query", "is empty")
	}
	if (q.Expect.Equals == nil) == (q.Expect.AtLeast == nil) {
		l.fault(field+".expect", "wants either equals or atLeast")
	}
}

// JobSpec reads it, with what a probe's Job has when it says nothing else.
func (p *JobProbe) JobSpec() (*batchv1api.JobSpec, error) {
	spec := &batchv1api.JobSpec{}
	d := json.NewDecoder(bytes.NewReader(p.Spec.Raw))
	d.DisallowUnknownFields()
	if err := d.Decode(spec); err != nil {
		return nil, fmt.Errorf("is not that of a Job: %w", err)
	}
	if len(spec.Template.Spec.Containers) == 0 {
		return nil, errors.New("has no container at template.spec.containers")
	}
	if spec.Template.Spec.RestartPolicy == "" {
		spec.Template.Spec.RestartPolicy = corev1api.RestartPolicyNever
	}
	if spec.BackoffLimit == nil {
		spec.BackoffLimit = ptr.To(int32(0))
	}
	return spec, nil
}

func (l *linter) timeout(field string, d time.Duration) {
	if d < 0 {
		l.fault(field+".timeout", "is negative")
	}
}

func (l *linter) unique(field string, all []string) {
	seen := map[string]bool{}
	for i, name := range all {
		if name == "" {
			l.fault(fmt.Sprintf("%s[%d]", field, i), "has no name")
		} else if seen[name] {
			l.fault(fmt.Sprintf("%s[%d]", field, i), "%q is there twice", name)
		}
		seen[name] = true
	}
}

func names[T any](items []T, name func(T) string) []string {
	all := make([]string, len(items))
	for i, item := range items {
		all[i] = name(item)
	}
	return all
}
