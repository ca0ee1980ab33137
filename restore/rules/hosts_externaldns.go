package rules

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// externalDNSPrefixes are the annotation prefixes external-dns has by default,
// until v0.21 and since v0.22.
var externalDNSPrefixes = []string{"external-dns.alpha.kubernetes.io/", "external-dns.kubernetes.io/"}

// externalDNSMuted names a controller that isn't external-dns, which makes
// external-dns pass most objects by.
const externalDNSMuted = "kubectl-dr.io"

// Keys of external-dns' annotations, after the prefix.
const (
	dnsController   = "controller"
	dnsHostname     = "hostname"
	dnsInternal     = "internal-hostname"
	dnsTarget       = "target"
	dnsAnnotateOnly = "annotation-only"
)

// publisher is how external-dns reads hosts from the spec of a kind.
type publisher struct {
	// hosts returns them.
	hosts func(*edit) []string
	// source is the annotation that can say "annotation-only"; empty when nothing
	// keeps external-dns from the spec.
	source string
	// byTarget says that external-dns heeds no controller annotation until v0.22,
	// and publishes nothing without a target.
	byTarget bool
}

var publishers = map[schema.GroupKind]*publisher{}

func init() {
	add := func(kinds []schema.GroupKind, p publisher) {
		for _, gk := range kinds {
			publishers[gk] = &p
		}
	}
	at := func(steps ...any) func(*edit) []string {
		return func(e *edit) []string {
			if host := e.str(steps...); host != "" {
				return []string{host}
			}
			hosts, _ := strs(e.list(steps...))
			return hosts
		}
	}
	add(kindsIn("Ingress", ingressGroups...), publisher{hosts: ingressHosts, source: "ingress-hostname-source"})
	add(kindsIn("HTTPRoute GRPCRoute TLSRoute", gatewayGroups...), publisher{hosts: at("spec", "hostnames"), source: "gateway-hostname-source"})
	add(kindsIn("Gateway TCPRoute UDPRoute", gatewayGroups...), publisher{hosts: noHosts})
	add(kindsIn("IngressRoute IngressRouteTCP", traefikGroups...), publisher{hosts: traefikHosts, byTarget: true})
	add(kindsIn("IngressRouteUDP", traefikGroups...), publisher{hosts: noHosts, byTarget: true})
	add(kindsIn("VirtualService", istioNetworking), publisher{hosts: at("spec", "hosts")})
	add(kindsIn("Gateway", istioNetworking), publisher{hosts: istioGatewayHosts})
	add(kindsIn("Route", "route.openshift.io"), publisher{hosts: at("spec", "host")})
	add(kindsIn("HTTPProxy", "projectcontour.io"), publisher{hosts: at("spec", "virtualhost", "fqdn")})
	add(kindsIn("RouteGroup", "zalando.org"), publisher{hosts: at("spec", "hosts")})
}

func noHosts(*edit) []string { return nil }

func ingressHosts(e *edit) []string {
	var hosts []string
	for i := range e.list("spec", "rules") {
		if host := e.str("spec", "rules", i, "host"); host != "" {
			hosts = append(hosts, host)
		}
	}
	for i := range e.list("spec", "tls") {
		more, _ := strs(e.list("spec", "tls", i, "hosts"))
		hosts = append(hosts, more...)
	}
	return hosts
}

func istioGatewayHosts(e *edit) []string {
	var hosts []string
	for i := range e.list("spec", "servers") {
		more, _ := strs(e.list("spec", "servers", i, "hosts"))
		for _, host := range more {
			hosts = append(hosts, host[strings.Index(host, "/")+1:])
		}
	}
	return hosts
}

func traefikHosts(e *edit) []string {
	var hosts []string
	for i := range e.list("spec", "routes") {
		if rule, err := parseRule(e.str("spec", "routes", i, "match")); err == nil {
			hosts = append(hosts, rule.hosts()...)
		}
	}
	return hosts
}

// prefixed returns an annotation under each prefix.
func prefixed(prefixes []string, name string) []string {
	keys := make([]string, 0, len(prefixes))
	for _, prefix := range prefixes {
		keys = append(keys, prefix+name)
	}
	return keys
}

// allDNSPrefixes are the usual ones and those of the profile.
func allDNSPrefixes(p *Rewrites) []string {
	return slices.Concat(externalDNSPrefixes, p.ExternalDNSPrefixes)
}

func rewriteExternalDNS(e *edit, p *Rewrites) error {
	switch p.ExternalDNS {
	case ExternalDNSMute:
		e.mute()
	case ExternalDNSClaim:
		e.claim()
	}
	return nil
}

func rewriteTraffic(e *edit, p *Rewrites) error {
	switch p.Traffic {
	case TrafficActive:
		e.claim()
	case TrafficPassive:
		e.publishOwn(e.hosts(p))
	}
	return nil
}

func (e *edit) annotation(key string) (string, bool) {
	value, ok := e.get("metadata", "annotations", key).(string)
	return value, ok
}

func (e *edit) annotate(key, value string) { e.set(value, "metadata", "annotations", key) }

// dnsPrefixes returns the prefixes that matter for the object: all for a kind
// whose spec external-dns reads, otherwise those it has annotations of.
func (e *edit) dnsPrefixes() []string {
	all := allDNSPrefixes(e.p)
	if publishers[e.kind] != nil {
		return all
	}
	annotations, _ := lookup(e.orig.Object, path{"metadata", "annotations"}).(map[string]any)
	return slices.DeleteFunc(all, func(prefix string) bool {
		for key := range annotations {
			if strings.HasPrefix(key, prefix) {
				return false
			}
		}
		return true
	})
}

var dnsEndpoints = path{"spec", "endpoints"}

func (e *edit) isDNSEndpoint() bool { return e.in([]string{"externaldns.k8s.io"}, "DNSEndpoint") }

// mute makes external-dns publish nothing for the object: it takes away the
// names that it asks for, and says that the object is another controller's.
func (e *edit) mute() {
	if e.isDNSEndpoint() {
		// external-dns publishes it whatever its annotations say.
		if len(e.list(dnsEndpoints...)) > 0 {
			e.set([]any{}, dnsEndpoints...)
		}
		return
	}
	kind := publishers[e.kind]
	for _, prefix := range e.dnsPrefixes() {
		for _, name := range []string{dnsHostname, dnsInternal} {
			if _, ok := e.annotation(prefix + name); ok {
				e.annotate(prefix+name, "")
			}
		}
		if _, ok := e.annotation(prefix + dnsTarget); ok && kind != nil && kind.byTarget {
			e.annotate(prefix+dnsTarget, "")
		}
		e.annotate(prefix+dnsController, externalDNSMuted)
	}
	for _, template := range e.templates() {
		at := template.join("metadata", "annotations")
		if annotations, _ := e.get(at...).(map[string]any); len(template) == 0 || len(annotations) == 0 {
			continue
		}
		for _, prefix := range allDNSPrefixes(e.p) {
			for _, name := range []string{dnsHostname, dnsInternal} {
				if e.str(at.join(prefix+name)...) != "" {
					e.set("", at.join(prefix+name)...)
				}
			}
		}
	}
}

// claim takes away what keeps external-dns from publishing the object.
func (e *edit) claim() {
	for _, prefix := range allDNSPrefixes(e.p) {
		if controller, ok := e.annotation(prefix + dnsController); ok && controller != "dns-controller" {
			e.remove("metadata", "annotations", prefix+dnsController)
		}
		for _, name := range []string{dnsHostname, dnsInternal, dnsTarget} {
			if value, ok := e.annotation(prefix + name); ok && value == "" {
				e.remove("metadata", "annotations", prefix+name)
			}
		}
	}
}

// publishOwn makes external-dns publish the hosts that the mapping produces and
// no others. Where it can't be told apart, it publishes nothing.
func (e *edit) publishOwn(m hostMap) {
	if e.isDNSEndpoint() {
		var own []any
		for _, endpoint := range e.list(dnsEndpoints...) {
			if name, _ := lookup(endpoint, path{"dnsName"}).(string); m.produces(name) {
				own = append(own, endpoint)
			}
		}
		if len(own) < len(e.list(dnsEndpoints...)) {
			e.set(append([]any{}, own...), dnsEndpoints...)
		}
		return
	}
	var own, others []string
	sort := func(hosts []string) {
		for _, host := range hosts {
			switch {
			case host == "":
			case !m.produces(host):
				others = append(others, host)
			case !slices.Contains(own, host):
				own = append(own, host)
			}
		}
	}
	kind := publishers[e.kind]
	if kind != nil {
		sort(kind.hosts(e))
	}
	prefixes := e.dnsPrefixes()
	for _, prefix := range prefixes {
		value, _ := e.annotation(prefix + dnsHostname)
		sort(splitHosts(value))
	}
	switch {
	case len(others) == 0:
	case len(own) == 0 || kind != nil && kind.source == "":
		e.mute()
	default:
		for _, prefix := range prefixes {
			e.annotate(prefix+dnsHostname, strings.Join(own, ","))
			if kind != nil {
				e.annotate(prefix+kind.source, dnsAnnotateOnly)
			}
		}
	}
}

func splitHosts(value string) []string {
	hosts := strings.Split(value, ",")
	for i := range hosts {
		hosts[i] = strings.TrimSpace(hosts[i])
	}
	return hosts
}
