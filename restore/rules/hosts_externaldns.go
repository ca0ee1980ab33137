package rules

import (
	"slices"
	"strings"
)

// externalDNSPrefixes are the annotation prefixes external-dns has by default,
// until v0.21 and since v0.22.
var externalDNSPrefixes = []string{"external-dns.alpha.kubernetes.io/", "external-dns.kubernetes.io/"}

// externalDNSMuted names a controller that isn't external-dns, which makes
// external-dns pass the object by.
const externalDNSMuted = "kubectl-dr.io"

func externalDNSKeys(p *Rewrites, names ...string) []string {
	var keys []string
	for _, prefix := range slices.Concat(externalDNSPrefixes, p.ExternalDNSPrefixes) {
		for _, name := range names {
			keys = append(keys, prefix+name)
		}
	}
	return keys
}

// rewriteExternalDNSMute takes away the names an object asks for, and tells
// external-dns that the object isn't its own: it reads hosts from the spec of
// some kinds too, whatever the annotations say.
func rewriteExternalDNSMute(e *edit, p *Rewrites) error {
	if p.ExternalDNS != ExternalDNSMute {
		return nil
	}
	speaks := e.in(ingressGroups, "Ingress") ||
		e.in(traefikGroups, "IngressRoute", "IngressRouteTCP", "IngressRouteUDP") ||
		e.in(gatewayGroups, "Gateway", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")
	var used []string
	for _, prefix := range externalDNSKeys(p, "") {
		for key := range e.orig.GetAnnotations() {
			if strings.HasPrefix(key, prefix) && !slices.Contains(used, prefix) {
				used = append(used, prefix)
			}
		}
	}
	if speaks {
		used = externalDNSKeys(p, "")
	}
	for _, prefix := range used {
		for _, name := range []string{"hostname", "internal-hostname"} {
			if _, ok := e.orig.GetAnnotations()[prefix+name]; ok {
				e.set("", "metadata", "annotations", prefix+name)
			}
		}
		e.set(externalDNSMuted, "metadata", "annotations", prefix+"controller")
	}
	return nil
}
