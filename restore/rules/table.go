package rules

import "slices"

// Groups that several kinds here are in.
var (
	core          = []string{""}
	ingressGroups = []string{"networking.k8s.io", "extensions"}
	gatewayGroups = []string{"gateway.networking.k8s.io"}
	traefikGroups = []string{"traefik.io", "traefik.containo.us"}
)

const (
	istioNetworking = "networking.istio.io"
	istioSecurity   = "security.istio.io"
	nginx           = "nginx.ingress.kubernetes.io/"
)

// places are all there are. A field of a kind that is not here stays as it is,
// unless a rewriter of its own knows it.
var places = slices.Concat(hostPlaces, issuerPlaces)

// hostPlaces come from the definitions of the kinds and from the reference of
// annotations of ingress-nginx, cert-manager and external-dns.
var hostPlaces = []place{
	{"hosts", kindsIn("Ingress", ingressGroups...), "spec.rules[*].host", formElement},
	{"hosts", kindsIn("Ingress", ingressGroups...), "spec.tls[*].hosts", formList},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "server-alias]", formComma},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "upstream-vhost]", formOne},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-ssl-name]", formOne},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "session-cookie-domain]", formOne},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "mirror-host]", formOne},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "mirror-target]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-url]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-signin]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "permanent-redirect]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "temporal-redirect]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-redirect-from]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-redirect-to]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-cookie-domain]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "configuration-snippet]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "server-snippet]", formText},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "cors-allow-origin]", formCommaOrigins},
	{"hosts", kindsIn("Ingress", ingressGroups...), "metadata.annotations[cert-manager.io/common-name]", formOne},

	{"hosts", kindsIn("Gateway ListenerSet", gatewayGroups...), "spec.listeners[*].hostname", formListener},
	{"hosts", kindsIn("XListenerSet", "gateway.networking.x-k8s.io"), "spec.listeners[*].hostname", formListener},
	{"hosts", kindsIn("HTTPRoute GRPCRoute TLSRoute", gatewayGroups...), "spec.hostnames", formList},
	{"hosts", kindsIn("HTTPRoute", gatewayGroups...), "spec.rules[*].filters[*].requestRedirect.hostname", formOne},
	{"hosts", kindsIn("HTTPRoute", gatewayGroups...), "spec.rules[*].filters[*].urlRewrite.hostname", formOne},
	{"hosts", kindsIn("HTTPRoute", gatewayGroups...), "spec.rules[*].filters[*].cors.allowOrigins", formOrigins},
	{"hosts", kindsIn("HTTPRoute", gatewayGroups...), "spec.rules[*].backendRefs[*].filters[*].urlRewrite.hostname", formOne},
	{"hosts", kindsIn("BackendTLSPolicy", gatewayGroups...), "spec.validation.hostname", formOne},
	{"hosts", kindsIn("BackendTLSPolicy", gatewayGroups...), "spec.validation.subjectAltNames[*].hostname", formElement},

	{"hosts", kindsIn("IngressRoute IngressRouteTCP", traefikGroups...), "spec.routes[*].match", formTraefikRule},
	{"hosts", kindsIn("IngressRoute IngressRouteTCP", traefikGroups...), "spec.tls.domains[*]", formTraefikDomain},
	{"hosts", kindsIn("TLSStore", traefikGroups...), "spec.defaultGeneratedCert.domain", formTraefikDomain},
	{"hosts", kindsIn("ServersTransport", traefikGroups...), "spec.serverName", formOne},
	{"hosts", kindsIn("ServersTransportTCP", traefikGroups...), "spec.tls.serverName", formOne},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.redirectRegex.regex", formRegexp},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.redirectRegex.replacement", formText},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.forwardAuth.address", formText},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.customRequestHeaders[*]", formText},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.customResponseHeaders[*]", formText},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.contentSecurityPolicy", formText},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.accessControlAllowOriginList", formOrigins},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.accessControlAllowOriginListRegex[*]", formRegexp},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.allowedHosts", formList},
	{"hosts", kindsIn("Middleware", traefikGroups...), "spec.headers.sslHost", formOne},

	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.hosts", formList},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].match[*].authority.exact", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].match[*].authority.prefix", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].match[*].authority.regex", formRegexp},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].rewrite.authority", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].redirect.authority", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].route[*].destination.host", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].mirror.host", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].mirrors[*].destination.host", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].headers.request.set[*]", formText},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].headers.response.set[*]", formText},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].corsPolicy.allowOrigins[*].exact", formText},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].corsPolicy.allowOrigins[*].prefix", formText},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.http[*].corsPolicy.allowOrigins[*].regex", formRegexp},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.tls[*].match[*].sniHosts", formList},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.tls[*].route[*].destination.host", formOne},
	{"hosts", kindsIn("VirtualService", istioNetworking), "spec.tcp[*].route[*].destination.host", formOne},
	{"hosts", kindsIn("Gateway", istioNetworking), "spec.servers[*].hosts", formScoped},
	{"hosts", kindsIn("DestinationRule", istioNetworking), "spec.host", formOne},
	{"hosts", kindsIn("DestinationRule", istioNetworking), "spec.trafficPolicy.tls.sni", formOne},
	{"hosts", kindsIn("DestinationRule", istioNetworking), "spec.trafficPolicy.tls.subjectAltNames", formList},
	{"hosts", kindsIn("DestinationRule", istioNetworking), "spec.trafficPolicy.portLevelSettings[*].tls.sni", formOne},
	{"hosts", kindsIn("DestinationRule", istioNetworking), "spec.trafficPolicy.portLevelSettings[*].tls.subjectAltNames", formList},
	{"hosts", kindsIn("ServiceEntry", istioNetworking), "spec.hosts", formList},
	{"hosts", kindsIn("ServiceEntry", istioNetworking), "spec.endpoints[*].address", formOne},
	{"hosts", kindsIn("ServiceEntry", istioNetworking), "spec.subjectAltNames", formList},
	{"hosts", kindsIn("Sidecar", istioNetworking), "spec.egress[*].hosts", formScoped},
	{"hosts", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].to[*].operation.hosts", formList},
	{"hosts", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].to[*].operation.notHosts", formList},
	{"hosts", kindsIn("RequestAuthentication", istioSecurity), "spec.jwtRules[*].issuer", formText},
	{"hosts", kindsIn("RequestAuthentication", istioSecurity), "spec.jwtRules[*].jwksUri", formText},

	{"hosts", kindsIn("Route", "route.openshift.io"), "spec.host", formOne},
	{"hosts", kindsIn("HTTPProxy", "projectcontour.io"), "spec.virtualhost.fqdn", formOne},
	{"hosts", kindsIn("RouteGroup", "zalando.org"), "spec.hosts", formList},
	{"hosts", kindsIn("Probe", "monitoring.coreos.com"), "spec.targets.staticConfig.static", formOrigins},

	{"hosts", kindsIn("Certificate", certManager), "spec.dnsNames", formList},
	{"hosts", kindsIn("Certificate", certManager), "spec.commonName", formOne},
	{"hosts", kindsIn("Certificate", certManager), "spec.uris", formOrigins},
	{"hosts", kindsIn("Issuer ClusterIssuer", certManager), "spec.acme.solvers[*].selector.dnsNames", formList},

	{"hosts", nil, "metadata.annotations[external-dns/hostname]", formDNSNames},
	{"hosts", nil, "metadata.annotations[external-dns/internal-hostname]", formDNSNames},
	{"hosts", nil, "metadata.annotations[external-dns/target]", formTargets},
	{"hosts", nil, "pod.metadata.annotations[external-dns/hostname]", formDNSNames},
	{"hosts", nil, "pod.metadata.annotations[external-dns/internal-hostname]", formDNSNames},
	{"hosts", nil, "pod.metadata.annotations[external-dns/target]", formTargets},
	{"hosts", kindsIn("DNSEndpoint", "externaldns.k8s.io"), "spec.endpoints[*].dnsName", formElement},
	{"hosts", kindsIn("DNSEndpoint", "externaldns.k8s.io"), "spec.endpoints[*].targets[*]", formOne},

	{"hosts", kindsIn("Service", core...), "spec.externalName", formOne},

	{"hostsIn", kindsIn("ConfigMap", core...), "data[*]", formOptedIn},
	{"hostsIn", kindsIn("Secret", core...), "data[*]", formOptedIn},
	{"hostsIn", kindsIn("Secret", core...), "stringData[*]", formOptedIn},
	{"hostsIn", nil, "pod.spec.containers[*].env[*].value", formOptedIn},
	{"hostsIn", nil, "pod.spec.initContainers[*].env[*].value", formOptedIn},
	{"hostsIn", nil, "pod.spec.ephemeralContainers[*].env[*].value", formOptedIn},
}

var issuerPlaces = []place{
	{"issuers", kindsIn("Certificate", certManager), "spec.issuerRef.name", formOne},
	{"issuers", kindsIn("Ingress", ingressGroups...), "metadata.annotations[cert-manager.io/issuer]", formOne},
	{"issuers", kindsIn("Ingress", ingressGroups...), "metadata.annotations[cert-manager.io/cluster-issuer]", formOne},
	{"issuers", kindsIn("Gateway ListenerSet", gatewayGroups...), "metadata.annotations[cert-manager.io/issuer]", formOne},
	{"issuers", kindsIn("Gateway ListenerSet", gatewayGroups...), "metadata.annotations[cert-manager.io/cluster-issuer]", formOne},
}

// formOptedIn is text that is rewritten where the profile names it.
var formOptedIn = &form{about: "text or URL, where named"}
