package draft

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
)

// databases are parts of the names of images.
var databases = regexp.MustCompile(`(^|[-_/])(mysql|mariadb|percona|postgres|postgresql|postgis|timescaledb|mongo|mongodb|redis|valkey|keydb|memcached|cassandra|scylla|couchdb|couchbase|elasticsearch|opensearch|clickhouse|influxdb|neo4j|etcd|cockroach|mssql|rabbitmq|kafka|nats|zookeeper)($|[-_/0-9])`)

// beside are parts of the names of what goes with a database and is none.
var (
	named  = regexp.MustCompile(`(^|[-_.])(db|database)($|[-_.0-9])`)
	beside = regexp.MustCompile(`exporter|proxy|admin|backup|operator|client|migrat`)
)

// isDatabase tells by the images of a workload, and by its name.
func isDatabase(w *workload) bool {
	if beside.MatchString(w.Name) {
		return false
	}
	return named.MatchString(w.Name) || slices.ContainsFunc(w.pod.Spec.Containers, func(c corev1api.Container) bool {
		image := c.Image[strings.LastIndex(c.Image, "/")+1:]
		image, _, _ = strings.Cut(image, "@")
		image, _, _ = strings.Cut(image, ":")
		return databases.MatchString(image) && !beside.MatchString(image)
	})
}

// public reports whether a host is a name that clients outside the cluster use.
func public(host string) bool {
	return strings.Contains(host, ".") && !strings.HasSuffix(host, ".local") && !strings.HasSuffix(host, ".svc") &&
		len(validation.IsDNS1123Subdomain(host)) == 0
}

// addressed are names of settings whose value is where something is.
var addressed = regexp.MustCompile(`(?i)(host|server|addr|url|uri|endpoint|service|broker|upstream|dsn|origin|backend|node|connection)`)

// connect finds which other workloads one needs: those behind Services that its
// pods are told of.
func (s *survey) connect(ctx context.Context, w *workload) {
	for i := range s.services {
		service := &s.services[i]
		for _, other := range s.behind(service) {
			if other == w || w.needs[other] != "" {
				continue
			}
			if where := s.mentions(ctx, w, service); where != "" {
				w.needs[other] = where
			}
		}
		for _, host := range s.front[service.Namespace+"/"+service.Name] {
			for _, other := range s.behind(service) {
				if other == w && !slices.Contains(w.hosts, host) {
					w.hosts = append(w.hosts, host)
				}
			}
		}
	}
}

// setting is one text that a pod is configured with.
type setting struct {
	where, key, value string
	// loose: a bare word in it may well be a Service's name.
	loose bool
}

// mentions says where a workload's pods are told of a Service, "" when nowhere.
func (s *survey) mentions(ctx context.Context, w *workload, service *corev1api.Service) string {
	for _, t := range s.settings(ctx, w) {
		if names(t, w.Namespace, service) {
			return t.where
		}
	}
	return ""
}

// names reports whether a setting names a Service. Its bare name is also a good
// name for a database or a user: that alone is not taken for it.
func names(t setting, from string, service *corev1api.Service) bool {
	if t.key != "" && addressed.MatchString(t.key) {
		t.loose = true
	}
	for _, at := range word.FindAllStringIndex(t.value, -1) {
		found := strings.TrimSuffix(t.value[at[0]:at[1]], ".")
		qualified := strings.HasPrefix(found, service.Name+"."+service.Namespace) &&
			(len(found) == len(service.Name+"."+service.Namespace) || strings.HasPrefix(found[len(service.Name+"."+service.Namespace):], ".svc"))
		// A StatefulSet's pod has a name below its Service's.
		if _, rest, ok := strings.Cut(found, "."); ok && strings.HasPrefix(rest, service.Name+"."+service.Namespace) {
			qualified = true
		}
		before, after := t.value[:at[0]], t.value[at[1]:]
		bare := found == service.Name && from == service.Namespace &&
			(t.loose || strings.HasSuffix(before, "//") || strings.HasSuffix(before, "@") || port.MatchString(after))
		if qualified || bare {
			return true
		}
	}
	return false
}

var (
	word = regexp.MustCompile(`[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?`)
	port = regexp.MustCompile(`^:[0-9]+`)
)

// settings are the texts that a workload's pods are configured with.
func (s *survey) settings(ctx context.Context, w *workload) []setting {
	var all []setting
	// from adds a key of a ConfigMap or Secret, or all; env is what a pod calls it.
	from := func(kind, name, only, env string) {
		config := s.config(ctx, kind, w.Namespace, name)
		for _, key := range slices.Sorted(maps.Keys(config)) {
			if only == "" || only == key {
				all = append(all, setting{where: fmt.Sprintf("%s %s, key %s", kind, name, key), key: env + " " + key, value: config[key]})
			}
		}
	}
	containers := func(list []corev1api.Container, initial bool) {
		for _, c := range list {
			for _, text := range slices.Concat(c.Command, c.Args) {
				where := "command of container " + c.Name
				if initial {
					// What waits for something before the application starts says for what.
					where = "initContainer " + c.Name
				}
				key, value, ok := strings.Cut(strings.TrimLeft(text, "-"), "=")
				if !ok {
					key, value = "", text
				}
				all = append(all, setting{where: where, key: key, value: value, loose: initial})
			}
			for _, e := range c.Env {
				switch f := e.ValueFrom; {
				case f == nil:
					all = append(all, setting{where: "env " + e.Name, key: e.Name, value: e.Value})
				case f.ConfigMapKeyRef != nil:
					from("ConfigMap", f.ConfigMapKeyRef.Name, f.ConfigMapKeyRef.Key, e.Name)
				case f.SecretKeyRef != nil:
					from("Secret", f.SecretKeyRef.Name, f.SecretKeyRef.Key, e.Name)
				}
			}
			for _, e := range c.EnvFrom {
				if e.ConfigMapRef != nil {
					from("ConfigMap", e.ConfigMapRef.Name, "", "")
				}
				if e.SecretRef != nil {
					from("Secret", e.SecretRef.Name, "", "")
				}
			}
		}
	}
	containers(w.pod.Spec.InitContainers, true)
	containers(w.pod.Spec.Containers, false)
	for _, v := range w.pod.Spec.Volumes {
		if v.ConfigMap != nil {
			from("ConfigMap", v.ConfigMap.Name, "", "")
		}
		if v.Secret != nil {
			from("Secret", v.Secret.SecretName, "", "")
		}
	}
	return all
}

// config reads a ConfigMap or Secret once. Nothing of a Secret's values leaves
// this package.
func (s *survey) config(ctx context.Context, kind, ns, name string) map[string]string {
	id := kind + "/" + ns + "/" + name
	if known, ok := s.configs[id]; ok {
		return known
	}
	values := map[string]string{}
	var err error
	if key := (client.ObjectKey{Namespace: ns, Name: name}); kind == "Secret" {
		secret := &corev1api.Secret{}
		err = s.Client.Get(ctx, key, secret)
		for k, v := range secret.Data {
			values[k] = string(v)
		}
		for k, v := range secret.StringData {
			values[k] = v
		}
	} else {
		cm := &corev1api.ConfigMap{}
		err = s.Client.Get(ctx, key, cm)
		values = maps.Clone(cm.Data)
	}
	if err != nil && client.IgnoreNotFound(err) != nil {
		s.unread(fmt.Sprintf("%s %s/%s", kind, ns, name))
	}
	if s.configs == nil {
		s.configs = map[string]map[string]string{}
	}
	s.configs[id] = values
	return values
}

// waves orders the workloads by what they need. One with hosts of its own, of
// which nothing else is known, comes after the databases of its namespace.
func (s *survey) waves() []plan.Wave {
	for _, w := range s.workloads {
		if len(w.needs) > 0 || len(w.hosts) == 0 || w.database {
			continue
		}
		for _, other := range s.workloads {
			if other.database && other.Namespace == w.Namespace && other != w {
				w.needs[other] = "it serves " + w.hosts[0] + ", and databases go first"
			}
		}
	}
	waiting := slices.Clone(s.workloads)
	started := map[*workload]bool{}
	var waves []plan.Wave
	for len(waiting) > 0 {
		var now []*workload
		for _, w := range waiting {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(w.needs)), func(other *workload) bool { return !started[other] }) {
				now = append(now, w)
			}
		}
		circle := len(now) == 0
		if circle {
			now = waiting // they need each other
		}
		wave := plan.Wave{Name: s.waveName(now, waves), Timeout: span(run.DefaultWaveTimeout)}
		for _, w := range now {
			started[w] = true
			wave.Workloads = append(wave.Workloads, s.words(w.Namespace, w.Kind+"/"+w.Name))
			for _, other := range s.workloads {
				if where := w.needs[other]; where != "" {
					s.draft.Why[wave.Name] = append(s.draft.Why[wave.Name], fmt.Sprintf("%s/%s needs %s/%s: %s", w.Kind, w.Name, other.Kind, other.Name, where))
				}
			}
		}
		if circle {
			s.draft.Why[wave.Name] = append(s.draft.Why[wave.Name], "these need each other: order them by hand")
		}
		waves = append(waves, wave)
		waiting = slices.DeleteFunc(waiting, func(w *workload) bool { return started[w] })
	}
	return waves
}

func (s *survey) waveName(workloads []*workload, before []plan.Wave) string {
	name := "services"
	switch {
	case !slices.ContainsFunc(workloads, func(w *workload) bool { return !w.database }):
		name = "database"
	case slices.ContainsFunc(workloads, func(w *workload) bool { return len(w.hosts) > 0 }):
		name = "web"
	}
	taken := func(name string) bool {
		return slices.ContainsFunc(before, func(w plan.Wave) bool { return w.Name == name })
	}
	unique := name
	for n := 2; taken(unique); n++ {
		unique = name + "-" + strconv.Itoa(n)
	}
	return unique
}

// probes proposes one for each Service that leads to a workload: what serves a
// host is asked for a page, other ports are connected to.
func (s *survey) probes() []plan.Probe {
	var probes []plan.Probe
	for i := range s.services {
		service := &s.services[i]
		behind := s.behind(service)
		if len(behind) == 0 || len(service.Spec.Ports) == 0 {
			continue
		}
		p := plan.Probe{Name: s.words(service.Namespace, service.Name)}
		if len(s.namespaces) > 1 {
			p.Namespace = service.Namespace
		}
		hosts := s.front[service.Namespace+"/"+service.Name]
		first := service.Spec.Ports[0]
		switch {
		case first.Protocol == corev1api.ProtocolUDP || first.Protocol == corev1api.ProtocolSCTP:
			continue
		case len(hosts) > 0:
			p.HTTP = &plan.HTTPProbe{Service: service.Name, Path: readyPath(behind[0]), Host: hosts[0], Expect: plan.HTTPExpect{Status: 200}}
		default:
			p.TCP = &plan.TCPProbe{Service: service.Name, Port: first.Port}
		}
		probes = append(probes, p)
	}
	return probes
}

// readyPath is where a workload's own readiness probe looks.
func readyPath(w *workload) string {
	for _, c := range w.pod.Spec.Containers {
		if r := c.ReadinessProbe; r != nil && r.HTTPGet != nil && r.HTTPGet.Path != "" {
			return r.HTTPGet.Path
		}
	}
	return "/"
}
