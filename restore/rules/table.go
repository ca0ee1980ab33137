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
var places = slices.Concat(hostPlaces, issuerPlaces, classPlaces, addressPlaces, podPlaces, namespacePlaces, namePlaces, labelPlaces)

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
	{"hosts", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].matches[*].headers[*].value", formOne},
	{"hosts", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].filters[*].requestHeaderModifier.set[*].value", formText},
	{"hosts", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].filters[*].requestHeaderModifier.add[*].value", formText},
	{"hosts", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].filters[*].responseHeaderModifier.set[*].value", formText},
	{"hosts", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].filters[*].responseHeaderModifier.add[*].value", formText},
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
	{"hosts", ciliumPolicies, "spec.egress[*].toFQDNs[*].matchName", formElement},
	{"hosts", kindsIn("HTTPProxy", "projectcontour.io"), "spec.virtualhost.fqdn", formOne},
	{"hosts", kindsIn("RouteGroup", "zalando.org"), "spec.hosts", formList},
	{"hosts", kindsIn("Probe", prometheus), "spec.targets.staticConfig.static", formOrigins},

	{"hosts", kindsIn("Certificate", certManager), "spec.dnsNames", formList},
	{"hosts", kindsIn("Certificate", certManager), "spec.commonName", formOne},
	{"hosts", kindsIn("Certificate", certManager), "spec.uris", formOrigins},
	{"hosts", kindsIn("Issuer ClusterIssuer", certManager), "spec.acme.solvers[*].selector.dnsNames", formList},

	{"hosts", nil, "metadata.annotations[external-dns/hostname]", formDNSNames},
	{"hosts", nil, "metadata.annotations[external-dns/internal-hostname]", formDNSNames},
	{"hosts", nil, "metadata.annotations[external-dns/target]", formTargets},
	{"hosts", nil, "template.metadata.annotations[external-dns/hostname]", formDNSNames},
	{"hosts", nil, "template.metadata.annotations[external-dns/internal-hostname]", formDNSNames},
	{"hosts", nil, "template.metadata.annotations[external-dns/target]", formTargets},
	{"hosts", kindsIn("DNSEndpoint", "externaldns.k8s.io"), "spec.endpoints[*].dnsName", formElement},
	{"hosts", kindsIn("DNSEndpoint", "externaldns.k8s.io"), "spec.endpoints[*].targets[*]", formOne},

	{"hosts", kindsIn("Service", core...), "spec.externalName", formOne},

	{"hostsIn", kindsIn("ConfigMap", core...), "data[*]", formConfigMapText},
	{"hostsIn", kindsIn("Secret", core...), "stringData[*]", formSecretText},
	{"hostsIn", kindsIn("Secret", core...), "data[*]", formSecretData},
	{"hostsIn", nil, "pod.spec.initContainers[*].env[*].value", formEnvText},
	{"hostsIn", nil, "pod.spec.containers[*].env[*].value", formEnvText},
	{"hostsIn", nil, "pod.spec.ephemeralContainers[*].env[*].value", formEnvText},
}

var issuerPlaces = []place{
	{"issuers", kindsIn("Certificate", certManager), "spec.issuerRef.name", formOne},
	{"issuers", kindsIn("Ingress", ingressGroups...), "metadata.annotations[cert-manager.io/issuer]", formOne},
	{"issuers", kindsIn("Ingress", ingressGroups...), "metadata.annotations[cert-manager.io/cluster-issuer]", formOne},
	// What its Secret says of its issuer goes with a Certificate, or it is issued anew.
	{"issuers", kindsIn("Secret", core...), "metadata.annotations[cert-manager.io/issuer-name]", formOne},
	{"issuers", kindsIn("Gateway ListenerSet", gatewayGroups...), "metadata.annotations[cert-manager.io/issuer]", formOne},
	{"issuers", kindsIn("Gateway ListenerSet", gatewayGroups...), "metadata.annotations[cert-manager.io/cluster-issuer]", formOne},
}

const (
	betaStorageClass = "volume.beta.kubernetes.io/storage-class"

	cnpg         = "postgresql.cnpg.io"
	strimzi      = "kafka.strimzi.io"
	zalando      = "acid.zalan.do"
	rabbitmq     = "rabbitmq.com"
	perconaPG    = "pgv2.percona.com"
	perconaPXC   = "pxc.percona.com"
	perconaMongo = "psmdb.percona.com"
	perconaMySQL = "ps.percona.com"
	crunchy      = "postgres-operator.crunchydata.com"
	prometheus   = "monitoring.coreos.com"
	kubevirt     = "kubevirt.io"
	kruise       = "apps.kruise.io"
	knative      = "serving.knative.dev"
	mariadb      = "k8s.mariadb.com"
	elastic      = "elasticsearch.k8s.elastic.co"
	kibana       = "kibana.k8s.elastic.co"
	jobset       = "jobset.x-k8s.io"
)

var classPlaces = []place{
	{"storageClasses", kindsIn("PersistentVolume PersistentVolumeClaim", core...), "spec.storageClassName", formOne},
	{"storageClasses", kindsIn("PersistentVolume PersistentVolumeClaim", core...), "metadata.annotations[" + betaStorageClass + "]", formOne},
	{"storageClasses", kindsIn("StatefulSet", "apps", kruise), "spec.volumeClaimTemplates[*].spec.storageClassName", formOne},
	{"storageClasses", kindsIn("StatefulSet", "apps", kruise), "spec.volumeClaimTemplates[*].metadata.annotations[" + betaStorageClass + "]", formOne},
	{"storageClasses", nil, "pod.spec.volumes[*].ephemeral.volumeClaimTemplate.spec.storageClassName", formOne},
	{"storageClasses", kindsIn("Cluster", cnpg), "spec.storage.storageClass", formOne},
	{"storageClasses", kindsIn("Cluster", cnpg), "spec.storage.pvcTemplate.storageClassName", formOne},
	{"storageClasses", kindsIn("Cluster", cnpg), "spec.walStorage.storageClass", formOne},
	{"storageClasses", kindsIn("Cluster", cnpg), "spec.walStorage.pvcTemplate.storageClassName", formOne},
	{"storageClasses", kindsIn("Cluster", cnpg), "spec.tablespaces[*].storage.storageClass", formOne},
	{"storageClasses", kindsIn("Kafka", strimzi), "spec.kafka.storage.class", formOne},
	{"storageClasses", kindsIn("Kafka", strimzi), "spec.kafka.storage.volumes[*].class", formOne},
	{"storageClasses", kindsIn("Kafka", strimzi), "spec.zookeeper.storage.class", formOne},
	{"storageClasses", kindsIn("KafkaNodePool", strimzi), "spec.storage.class", formOne},
	{"storageClasses", kindsIn("KafkaNodePool", strimzi), "spec.storage.volumes[*].class", formOne},
	{"storageClasses", kindsIn("postgresql", zalando), "spec.volume.storageClass", formOne},
	{"storageClasses", kindsIn("PostgresCluster", crunchy), "spec.instances[*].dataVolumeClaimSpec.storageClassName", formOne},
	{"storageClasses", kindsIn("PostgresCluster", crunchy), "spec.instances[*].walVolumeClaimSpec.storageClassName", formOne},
	{"storageClasses", kindsIn("PostgresCluster", crunchy), "spec.backups.pgbackrest.repos[*].volume.volumeClaimSpec.storageClassName", formOne},
	{"storageClasses", kindsIn("PerconaPGCluster", perconaPG), "spec.instances[*].dataVolumeClaimSpec.storageClassName", formOne},
	{"storageClasses", kindsIn("PerconaXtraDBCluster", perconaPXC), "spec.pxc.volumeSpec.persistentVolumeClaim.storageClassName", formOne},
	{"storageClasses", kindsIn("PerconaServerMongoDB", perconaMongo), "spec.replsets[*].volumeSpec.persistentVolumeClaim.storageClassName", formOne},
	{"storageClasses", kindsIn("MariaDB", mariadb), "spec.storage.storageClassName", formOne},
	{"storageClasses", kindsIn("RabbitmqCluster", rabbitmq), "spec.persistence.storageClassName", formOne},
	{"storageClasses", kindsIn("Elasticsearch", elastic), "spec.nodeSets[*].volumeClaimTemplates[*].spec.storageClassName", formOne},
	{"storageClasses", kindsIn("Prometheus Alertmanager", prometheus), "spec.storage.volumeClaimTemplate.spec.storageClassName", formOne},
	{"storageClasses", kindsIn("VirtualMachine", kubevirt), "spec.dataVolumeTemplates[*].spec.storage.storageClassName", formOne},
	{"storageClasses", kindsIn("VirtualMachine", kubevirt), "spec.dataVolumeTemplates[*].spec.pvc.storageClassName", formOne},
	{"storageClasses", kindsIn("DataVolume", "cdi.kubevirt.io"), "spec.storage.storageClassName", formOne},
	{"storageClasses", kindsIn("DataVolume", "cdi.kubevirt.io"), "spec.pvc.storageClassName", formOne},

	{"ingressClasses", kindsIn("Ingress", ingressGroups...), "spec.ingressClassName", formOne},
	{"ingressClasses", nil, "metadata.annotations[kubernetes.io/ingress.class]", formOne},
	{"ingressClasses", kindsIn("Issuer ClusterIssuer", certManager), "spec.acme.solvers[*].http01.ingress.ingressClassName", formOne},
	{"ingressClasses", kindsIn("Issuer ClusterIssuer", certManager), "spec.acme.solvers[*].http01.ingress.class", formOne},
	{"gatewayClasses", kindsIn("Gateway", gatewayGroups...), "spec.gatewayClassName", formOne},
	{"priorityClasses", nil, "pod.spec.priorityClassName", formPriorityClass},
	{"priorityClasses", kindsIn("Cluster", cnpg), "spec.priorityClassName", formOne},
	{"runtimeClasses", nil, "pod.spec.runtimeClassName", formRuntimeClass},
	{"loadBalancerClasses", kindsIn("Service", core...), "spec.loadBalancerClass", formOne},
}

var addressPlaces = []place{
	{"addressPools", nil, "metadata.annotations[metallb.io/address-pool]", formOne},
	{"addressPools", nil, "metadata.annotations[metallb.universe.tf/address-pool]", formOne},
	{"addressPools", nil, "metadata.annotations[projectcalico.org/ipv4pools]", formJSONList},
	{"addressPools", nil, "metadata.annotations[projectcalico.org/ipv6pools]", formJSONList},
	{"addressPools", nil, "metadata.annotations[cni.projectcalico.org/ipv4pools]", formJSONList},
	{"addressPools", nil, "metadata.annotations[cni.projectcalico.org/ipv6pools]", formJSONList},
	{"addressPools", nil, "template.metadata.annotations[cni.projectcalico.org/ipv4pools]", formJSONList},
	{"addressPools", nil, "template.metadata.annotations[cni.projectcalico.org/ipv6pools]", formJSONList},

	{"addresses", kindsIn("Service", core...), "spec.loadBalancerIP", formLoadBalancerIP},
	{"addresses", kindsIn("Service", core...), "spec.externalIPs[*]", formExternalIP},
	{"addresses", kindsIn("Service", core...), "spec.externalName", formOne},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[metallb.io/loadBalancerIPs]", formTargets},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[metallb.universe.tf/loadBalancerIPs]", formTargets},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[lbipam.cilium.io/ips]", formTargets},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[io.cilium/lb-ipam-ips]", formTargets},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[kube-vip.io/loadbalancerIPs]", formTargets},
	{"addresses", kindsIn("Service", core...), "metadata.annotations[projectcalico.org/loadBalancerIPs]", formJSONList},
	{"addresses", nil, "pod.metadata.annotations[cni.projectcalico.org/ipAddrs]", formJSONList},
	{"addresses", kindsIn("Gateway", gatewayGroups...), "spec.addresses[*].value", formOne},
	{"addresses", kindsIn("DNSEndpoint", "externaldns.k8s.io"), "spec.endpoints[*].targets[*]", formOne},
	{"addresses", nil, "metadata.annotations[external-dns/target]", formTargets},
	{"addresses", nil, "template.metadata.annotations[external-dns/target]", formTargets},
}

var podPlaces = []place{
	{"images", nil, "pod.spec.containers[*].image", formOne},
	{"images", nil, "pod.spec.initContainers[*].image", formOne},
	{"images", nil, "pod.spec.ephemeralContainers[*].image", formOne},
	{"images", nil, "pod.spec.volumes[*].image.reference", formOne},
	{"images", kindsIn("VirtualMachine VirtualMachineInstanceReplicaSet", kubevirt), "spec.template.spec.volumes[*].containerDisk.image", formOne},
	{"images", kindsIn("Cluster", cnpg), "spec.imageName", formOne},
	{"images", kindsIn("MariaDB MaxScale", mariadb), "spec.image", formOne},
	{"images", kindsIn("Alertmanager Prometheus PrometheusAgent ThanosRuler", prometheus), "spec.image", formOne},
	{"images", kindsIn("Elasticsearch", elastic), "spec.image", formOne},
	{"images", kindsIn("RabbitmqCluster", rabbitmq), "spec.image", formOne},
	{"images", kindsIn("PerconaServerMongoDB", perconaMongo), "spec.image", formOne},
	{"images", kindsIn("PerconaXtraDBCluster", perconaPXC), "spec.pxc.image", formOne},
	{"images", kindsIn("PerconaXtraDBCluster", perconaPXC), "spec.haproxy.image", formOne},
	{"images", kindsIn("PerconaXtraDBCluster", perconaPXC), "spec.proxysql.image", formOne},
	{"images", kindsIn("PostgresCluster", crunchy), "spec.image", formOne},
	{"images", kindsIn("postgresql", zalando), "spec.dockerImage", formOne},

	{"imagePullSecrets", nil, "pod.spec.imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("ServiceAccount", core...), "imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("Cluster", cnpg), "spec.imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("RabbitmqCluster", rabbitmq), "spec.imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("PerconaServerMongoDB", perconaMongo), "spec.imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("PerconaXtraDBCluster", perconaPXC), "spec.pxc.imagePullSecrets[*].name", formOne},
	{"imagePullSecrets", kindsIn("PostgresCluster", crunchy), "spec.imagePullSecrets[*].name", formOne},

	{"nodeLabels", nil, "pod.spec.nodeSelector", formNodeSelector},
	{"nodeLabels", nil, "pod.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[*].matchExpressions[*]", formNodeExpression},
	{"nodeLabels", nil, "pod.spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[*].preference.matchExpressions[*]", formNodeExpression},
	{"nodeLabels", kindsIn("PersistentVolume", core...), "spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*]", formNodeExpression},
	{"nodeLabels", kindsIn("StorageClass", "storage.k8s.io"), "allowedTopologies[*].matchLabelExpressions[*]", formNodeExpression},
	{"nodeLabels", kindsIn("Cluster", cnpg), "spec.affinity.nodeSelector", formNodeSelector},
}

var (
	webhooks      = kindsIn("ValidatingWebhookConfiguration MutatingWebhookConfiguration", "admissionregistration.k8s.io")
	networkPolicy = kindsIn("NetworkPolicy", "networking.k8s.io")
	gatewayRoutes = kindsIn("HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute", gatewayGroups...)
	ingressRoutes = kindsIn("IngressRoute IngressRouteTCP IngressRouteUDP", traefikGroups...)
	monitors      = kindsIn("ServiceMonitor PodMonitor Probe", prometheus)
	workloads     = slices.Concat(kindsIn("Deployment StatefulSet DaemonSet ReplicaSet", "apps"), kindsIn("Rollout", "argoproj.io"),
		kindsIn("CloneSet StatefulSet DaemonSet", kruise))
	ciliumPolicies = kindsIn("CiliumNetworkPolicy CiliumClusterwideNetworkPolicy", "cilium.io")
	required       = "requiredDuringSchedulingIgnoredDuringExecution[*]"
	preferred      = "preferredDuringSchedulingIgnoredDuringExecution[*].podAffinityTerm"
	injectCA       = "metadata.annotations[cert-manager.io/inject-ca-from]"
	// ciliumNamespace is the label that Cilium has for a Pod's namespace.
	ciliumNamespace = "io.kubernetes.pod.namespace"
	namespaceLabel  = "matchLabels[" + namespaceName + "]"
)

// namespacePlaces hold names of namespaces, which follow the restore's mapping.
var namespacePlaces = []place{
	{"namespaces", kindsIn("RoleBinding ClusterRoleBinding", "rbac.authorization.k8s.io"), "subjects[*].namespace", formOne},
	{"namespaces", webhooks, "webhooks[*].clientConfig.service.namespace", formOne},
	{"namespaces", webhooks, "webhooks[*].namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", webhooks, "webhooks[*].namespaceSelector.matchExpressions[*]", formNamespaceKey},
	{"namespaces", webhooks, injectCA, formInNamespace},
	{"namespaces", kindsIn("CustomResourceDefinition", "apiextensions.k8s.io"), "spec.conversion.webhook.clientConfig.service.namespace", formOne},
	{"namespaces", kindsIn("CustomResourceDefinition", "apiextensions.k8s.io"), injectCA, formInNamespace},
	{"namespaces", kindsIn("APIService", "apiregistration.k8s.io"), "spec.service.namespace", formOne},
	{"namespaces", kindsIn("APIService", "apiregistration.k8s.io"), injectCA, formInNamespace},
	{"namespaces", networkPolicy, "spec.ingress[*].from[*].namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", networkPolicy, "spec.ingress[*].from[*].namespaceSelector.matchExpressions[*]", formNamespaceKey},
	{"namespaces", networkPolicy, "spec.egress[*].to[*].namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", networkPolicy, "spec.egress[*].to[*].namespaceSelector.matchExpressions[*]", formNamespaceKey},
	{"namespaces", kindsIn("PersistentVolumeClaim", core...), "spec.dataSourceRef.namespace", formOne},
	{"namespaces", kindsIn("Service", core...), "spec.externalName", formServiceName},
	{"namespaces", nil, "pod.spec.affinity.podAffinity." + required + ".namespaces", formList},
	{"namespaces", nil, "pod.spec.affinity.podAffinity." + required + ".namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", nil, "pod.spec.affinity.podAffinity." + preferred + ".namespaces", formList},
	{"namespaces", nil, "pod.spec.affinity.podAffinity." + preferred + ".namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", nil, "pod.spec.affinity.podAntiAffinity." + required + ".namespaces", formList},
	{"namespaces", nil, "pod.spec.affinity.podAntiAffinity." + required + ".namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", nil, "pod.spec.affinity.podAntiAffinity." + preferred + ".namespaces", formList},
	{"namespaces", nil, "pod.spec.affinity.podAntiAffinity." + preferred + ".namespaceSelector." + namespaceLabel, formOne},
	{"namespaces", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-secret]", formInNamespace},
	{"namespaces", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-tls-secret]", formInNamespace},
	{"namespaces", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-ssl-secret]", formInNamespace},
	{"namespaces", kindsIn("Ingress", ingressGroups...), "metadata.annotations[traefik.ingress.kubernetes.io/router.middlewares]", formMiddlewares},
	{"namespaces", kindsIn("Ingress", ingressGroups...), "metadata.annotations[traefik.ingress.kubernetes.io/router.tls.options]", formMiddlewares},
	{"namespaces", kindsIn("Service", core...), "metadata.annotations[traefik.ingress.kubernetes.io/service.serverstransport]", formMiddlewares},
	{"namespaces", gatewayRoutes, "spec.parentRefs[*].namespace", formOne},
	{"namespaces", gatewayRoutes, "spec.rules[*].backendRefs[*].namespace", formOne},
	{"namespaces", kindsIn("Gateway ListenerSet", gatewayGroups...), "spec.listeners[*].tls.certificateRefs[*].namespace", formOne},
	{"namespaces", kindsIn("Gateway ListenerSet", gatewayGroups...), "spec.listeners[*].allowedRoutes.namespaces.selector." + namespaceLabel, formOne},
	{"namespaces", kindsIn("ReferenceGrant", gatewayGroups...), "spec.from[*].namespace", formOne},
	{"namespaces", ingressRoutes, "spec.routes[*].services[*].namespace", formOne},
	{"namespaces", ingressRoutes, "spec.routes[*].middlewares[*].namespace", formOne},
	{"namespaces", ingressRoutes, "spec.tls.options.namespace", formOne},
	{"namespaces", ingressRoutes, "spec.tls.store.namespace", formOne},
	{"namespaces", kindsIn("Middleware", traefikGroups...), "spec.chain.middlewares[*].namespace", formOne},
	{"namespaces", kindsIn("Middleware", traefikGroups...), "spec.errors.service.namespace", formOne},
	{"namespaces", kindsIn("TraefikService", traefikGroups...), "spec.weighted.services[*].namespace", formOne},
	{"namespaces", kindsIn("VirtualService", istioNetworking), "spec.gateways", formInNamespaceList},
	{"namespaces", kindsIn("VirtualService", istioNetworking), "spec.hosts", formServiceNames},
	{"namespaces", kindsIn("VirtualService", istioNetworking), "spec.http[*].route[*].destination.host", formServiceName},
	{"namespaces", kindsIn("VirtualService", istioNetworking), "spec.tcp[*].route[*].destination.host", formServiceName},
	{"namespaces", kindsIn("VirtualService", istioNetworking), "spec.tls[*].route[*].destination.host", formServiceName},
	{"namespaces", kindsIn("VirtualService DestinationRule ServiceEntry", istioNetworking), "spec.exportTo", formList},
	{"namespaces", kindsIn("DestinationRule", istioNetworking), "spec.host", formServiceName},
	{"namespaces", kindsIn("Gateway", istioNetworking), "spec.servers[*].hosts", formInNamespaceList},
	{"namespaces", kindsIn("Sidecar", istioNetworking), "spec.egress[*].hosts", formInNamespaceList},
	{"namespaces", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.namespaces", formList},
	{"namespaces", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.notNamespaces", formList},
	{"namespaces", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.principals", formPrincipals},
	{"namespaces", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.notPrincipals", formPrincipals},
	{"namespaces", ciliumPolicies, "spec.ingress[*].fromEndpoints[*].matchLabels[" + ciliumNamespace + "]", formOne},
	{"namespaces", ciliumPolicies, "spec.ingress[*].fromEndpoints[*].matchLabels[k8s:" + ciliumNamespace + "]", formOne},
	{"namespaces", ciliumPolicies, "spec.egress[*].toEndpoints[*].matchLabels[" + ciliumNamespace + "]", formOne},
	{"namespaces", ciliumPolicies, "spec.egress[*].toEndpoints[*].matchLabels[k8s:" + ciliumNamespace + "]", formOne},
	{"namespaces", monitors, "spec.namespaceSelector.matchNames", formList},
	{"namespaces", kindsIn("Application", "argoproj.io"), "spec.destination.namespace", formOne},
	{"namespaces", kindsIn("Kustomization", "kustomize.toolkit.fluxcd.io"), "spec.targetNamespace", formOne},
	{"namespaces", kindsIn("Kustomization", "kustomize.toolkit.fluxcd.io"), "spec.sourceRef.namespace", formOne},
	{"namespaces", kindsIn("HelmRelease", "helm.toolkit.fluxcd.io"), "spec.targetNamespace", formOne},
	{"namespaces", kindsIn("HelmRelease", "helm.toolkit.fluxcd.io"), "spec.chart.spec.sourceRef.namespace", formOne},
}

// namePlaces hold names of objects and what refers to them.
var namePlaces = []place{
	{"names[ConfigMap]", kindsIn("ConfigMap", core...), "metadata.name", formOwnName},
	{"names[ConfigMap]", nil, "pod.spec.volumes[*].configMap.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.volumes[*].projected.sources[*].configMap.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.containers[*].env[*].valueFrom.configMapKeyRef.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.initContainers[*].env[*].valueFrom.configMapKeyRef.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.ephemeralContainers[*].env[*].valueFrom.configMapKeyRef.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.containers[*].envFrom[*].configMapRef.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.initContainers[*].envFrom[*].configMapRef.name", formReference},
	{"names[ConfigMap]", nil, "pod.spec.ephemeralContainers[*].envFrom[*].configMapRef.name", formReference},
	{"names[ConfigMap]", kindsIn("BackendTLSPolicy", gatewayGroups...), "spec.validation.caCertificateRefs[*].name", formReference},

	{"names[PersistentVolumeClaim]", kindsIn("PersistentVolumeClaim", core...), "metadata.name", formOwnName},
	{"names[PersistentVolumeClaim]", kindsIn("PersistentVolumeClaim", core...), "spec.dataSource.name", formReference},
	{"names[PersistentVolumeClaim]", kindsIn("PersistentVolumeClaim", core...), "spec.dataSourceRef.name", formReference},
	{"names[PersistentVolumeClaim]", kindsIn("PersistentVolume", core...), "spec.claimRef.name", formReference},
	{"names[PersistentVolumeClaim]", nil, "pod.spec.volumes[*].persistentVolumeClaim.claimName", formReference},

	{"names[Secret]", kindsIn("Secret", core...), "metadata.name", formOwnName},
	{"names[Secret]", nil, "pod.spec.volumes[*].secret.secretName", formReference},
	{"names[Secret]", nil, "pod.spec.volumes[*].projected.sources[*].secret.name", formReference},
	{"names[Secret]", nil, "pod.spec.volumes[*].csi.nodePublishSecretRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.containers[*].env[*].valueFrom.secretKeyRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.initContainers[*].env[*].valueFrom.secretKeyRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.ephemeralContainers[*].env[*].valueFrom.secretKeyRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.containers[*].envFrom[*].secretRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.initContainers[*].envFrom[*].secretRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.ephemeralContainers[*].envFrom[*].secretRef.name", formReference},
	{"names[Secret]", nil, "pod.spec.imagePullSecrets[*].name", formReference},
	{"names[Secret]", kindsIn("ServiceAccount", core...), "imagePullSecrets[*].name", formReference},
	{"names[Secret]", kindsIn("ServiceAccount", core...), "secrets[*].name", formReference},
	{"names[Secret]", kindsIn("Ingress", ingressGroups...), "spec.tls[*].secretName", formReference},
	{"names[Secret]", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-secret]", formScopedReference},
	{"names[Secret]", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "auth-tls-secret]", formScopedReference},
	{"names[Secret]", kindsIn("Ingress", ingressGroups...), "metadata.annotations[" + nginx + "proxy-ssl-secret]", formScopedReference},
	{"names[Secret]", kindsIn("Gateway ListenerSet", gatewayGroups...), "spec.listeners[*].tls.certificateRefs[*].name", formReference},
	{"names[Secret]", kindsIn("IngressRoute IngressRouteTCP", traefikGroups...), "spec.tls.secretName", formReference},
	{"names[Secret]", kindsIn("TLSStore", traefikGroups...), "spec.defaultCertificate.secretName", formReference},
	{"names[Secret]", kindsIn("TLSStore", traefikGroups...), "spec.certificates[*].secretName", formReference},
	{"names[Secret]", kindsIn("TLSOption", traefikGroups...), "spec.clientAuth.secretNames", formReferenceList},
	{"names[Secret]", kindsIn("ServersTransport", traefikGroups...), "spec.rootCAsSecrets", formReferenceList},
	{"names[Secret]", kindsIn("ServersTransport", traefikGroups...), "spec.certificatesSecrets", formReferenceList},
	{"names[Secret]", kindsIn("Middleware", traefikGroups...), "spec.basicAuth.secret", formReference},
	{"names[Secret]", kindsIn("Middleware", traefikGroups...), "spec.digestAuth.secret", formReference},
	{"names[Secret]", kindsIn("Middleware", traefikGroups...), "spec.forwardAuth.tls.caSecret", formReference},
	{"names[Secret]", kindsIn("Middleware", traefikGroups...), "spec.forwardAuth.tls.certSecret", formReference},
	{"names[Secret]", kindsIn("Gateway", istioNetworking), "spec.servers[*].tls.credentialName", formReference},
	{"names[Secret]", kindsIn("Certificate", certManager), "spec.secretName", formReference},
	{"names[Secret]", kindsIn("Issuer", certManager), "spec.ca.secretName", formReference},
	{"names[Secret]", kindsIn("Issuer", certManager), "spec.acme.privateKeySecretRef.name", formReference},
	{"names[Secret]", kindsIn("Route", "route.openshift.io"), "spec.tls.externalCertificate.name", formReference},
	{"names[Secret]", kindsIn("Cluster", cnpg), "spec.bootstrap.initdb.secret.name", formReference},
	{"names[Secret]", kindsIn("Cluster", cnpg), "spec.superuserSecret.name", formReference},

	{"names[Service]", kindsIn("Service", core...), "metadata.name", formOwnName},
	{"names[Service]", kindsIn("Endpoints", core...), "metadata.name", formOwnName},
	{"names[Service]", kindsIn("EndpointSlice", "discovery.k8s.io"), "metadata.labels[kubernetes.io/service-name]", formReference},
	{"names[Service]", kindsIn("Service", core...), "spec.externalName", formServiceReference},
	{"names[Service]", kindsIn("StatefulSet", "apps", kruise), "spec.serviceName", formReference},
	{"names[Service]", kindsIn("Ingress", "networking.k8s.io"), "spec.defaultBackend.service.name", formReference},
	{"names[Service]", kindsIn("Ingress", "networking.k8s.io"), "spec.rules[*].http.paths[*].backend.service.name", formReference},
	{"names[Service]", kindsIn("Ingress", "extensions"), "spec.backend.serviceName", formReference},
	{"names[Service]", kindsIn("Ingress", "extensions"), "spec.rules[*].http.paths[*].backend.serviceName", formReference},
	{"names[Service]", kindsIn("HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute", gatewayGroups...), "spec.rules[*].backendRefs[*].name", formReference},
	{"names[Service]", kindsIn("HTTPRoute GRPCRoute", gatewayGroups...), "spec.rules[*].filters[*].requestMirror.backendRef.name", formReference},
	{"names[Service]", kindsIn("BackendTLSPolicy", gatewayGroups...), "spec.targetRefs[*].name", formReference},
	{"names[Service]", kindsIn("IngressRoute IngressRouteTCP IngressRouteUDP", traefikGroups...), "spec.routes[*].services[*].name", formReference},
	{"names[Service]", kindsIn("Middleware", traefikGroups...), "spec.errors.service.name", formReference},
	{"names[Service]", kindsIn("TraefikService", traefikGroups...), "spec.weighted.services[*].name", formReference},
	{"names[Service]", kindsIn("TraefikService", traefikGroups...), "spec.mirroring.name", formReference},
	{"names[Service]", kindsIn("TraefikService", traefikGroups...), "spec.mirroring.mirrors[*].name", formReference},
	{"names[Service]", kindsIn("Route", "route.openshift.io"), "spec.to.name", formReference},
	{"names[Service]", kindsIn("Route", "route.openshift.io"), "spec.alternateBackends[*].name", formReference},
	{"names[Service]", kindsIn("VirtualService", istioNetworking), "spec.http[*].route[*].destination.host", formServiceReference},
	{"names[Service]", kindsIn("VirtualService", istioNetworking), "spec.tcp[*].route[*].destination.host", formServiceReference},
	{"names[Service]", kindsIn("VirtualService", istioNetworking), "spec.tls[*].route[*].destination.host", formServiceReference},
	{"names[Service]", kindsIn("DestinationRule", istioNetworking), "spec.host", formServiceReference},
	{"names[Service]", kindsIn("ValidatingWebhookConfiguration MutatingWebhookConfiguration", "admissionregistration.k8s.io"), "webhooks[*].clientConfig.service.name", formReference},
	{"names[Service]", kindsIn("APIService", "apiregistration.k8s.io"), "spec.service.name", formReference},
	{"names[Service]", kindsIn("CustomResourceDefinition", "apiextensions.k8s.io"), "spec.conversion.webhook.clientConfig.service.name", formReference},

	{"names[ServiceAccount]", kindsIn("ServiceAccount", core...), "metadata.name", formOwnName},
	{"names[ServiceAccount]", nil, "pod.spec.serviceAccountName", formReference},
	{"names[ServiceAccount]", nil, "pod.spec.serviceAccount", formReference},
	{"names[ServiceAccount]", kindsIn("RoleBinding ClusterRoleBinding", "rbac.authorization.k8s.io"), "subjects[*].name", formReference},
	{"names[ServiceAccount]", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.principals", formPrincipalAccounts},
	{"names[ServiceAccount]", kindsIn("AuthorizationPolicy", istioSecurity), "spec.rules[*].from[*].source.notPrincipals", formPrincipalAccounts},
	{"names[ServiceAccount]", kindsIn("Secret", core...), "metadata.annotations[kubernetes.io/service-account.name]", formReference},
}

// labelPlaces hold labels and what selects by them.
var labelPlaces = []place{
	{"labelValues", nil, "metadata.labels", formLabels},
	{"labelValues", nil, "template.metadata.labels", formLabels},
	{"labelValues", kindsIn("CronJob", "batch"), "spec.jobTemplate.metadata.labels", formLabels},
	{"labelValues", kindsIn("StatefulSet", "apps", kruise), "spec.volumeClaimTemplates[*].metadata.labels", formLabels},
	{"labelValues", kindsIn("Service ReplicationController", core...), "spec.selector", formLabels},
	{"labelValues", kindsIn("DeploymentConfig", "apps.openshift.io"), "spec.selector", formLabels},
	{"labelValues", workloads, "spec.selector.matchLabels", formLabels},
	{"labelValues", workloads, "spec.selector.matchExpressions[*]", formExpression},
	{"labelValues", kindsIn("Job", "batch"), "spec.selector.matchLabels", formLabels},
	{"labelValues", kindsIn("PersistentVolumeClaim", core...), "spec.selector.matchLabels", formLabels},
	{"labelValues", kindsIn("PodDisruptionBudget", "policy"), "spec.selector.matchLabels", formLabels},
	{"labelValues", kindsIn("PodDisruptionBudget", "policy"), "spec.selector.matchExpressions[*]", formExpression},
	{"labelValues", monitors, "spec.selector.matchLabels", formLabels},
	{"labelValues", monitors, "spec.selector.matchExpressions[*]", formExpression},
	{"labelValues", networkPolicy, "spec.podSelector.matchLabels", formLabels},
	{"labelValues", networkPolicy, "spec.podSelector.matchExpressions[*]", formExpression},
	{"labelValues", networkPolicy, "spec.ingress[*].from[*].podSelector.matchLabels", formLabels},
	{"labelValues", networkPolicy, "spec.ingress[*].from[*].podSelector.matchExpressions[*]", formExpression},
	{"labelValues", networkPolicy, "spec.egress[*].to[*].podSelector.matchLabels", formLabels},
	{"labelValues", networkPolicy, "spec.egress[*].to[*].podSelector.matchExpressions[*]", formExpression},
	{"labelValues", nil, "pod.spec.affinity.podAffinity." + required + ".labelSelector.matchLabels", formLabels},
	{"labelValues", nil, "pod.spec.affinity.podAffinity." + required + ".labelSelector.matchExpressions[*]", formExpression},
	{"labelValues", nil, "pod.spec.affinity.podAffinity." + preferred + ".labelSelector.matchLabels", formLabels},
	{"labelValues", nil, "pod.spec.affinity.podAffinity." + preferred + ".labelSelector.matchExpressions[*]", formExpression},
	{"labelValues", nil, "pod.spec.affinity.podAntiAffinity." + required + ".labelSelector.matchLabels", formLabels},
	{"labelValues", nil, "pod.spec.affinity.podAntiAffinity." + required + ".labelSelector.matchExpressions[*]", formExpression},
	{"labelValues", nil, "pod.spec.affinity.podAntiAffinity." + preferred + ".labelSelector.matchLabels", formLabels},
	{"labelValues", nil, "pod.spec.affinity.podAntiAffinity." + preferred + ".labelSelector.matchExpressions[*]", formExpression},
	{"labelValues", nil, "pod.spec.topologySpreadConstraints[*].labelSelector.matchLabels", formLabels},
	{"labelValues", nil, "pod.spec.topologySpreadConstraints[*].labelSelector.matchExpressions[*]", formExpression},
	{"labelValues", kindsIn("Gateway", istioNetworking), "spec.selector", formLabels},
	{"labelValues", kindsIn("Sidecar ServiceEntry", istioNetworking), "spec.workloadSelector.labels", formLabels},
	{"labelValues", kindsIn("DestinationRule", istioNetworking), "spec.subsets[*].labels", formLabels},
	{"labelValues", ciliumPolicies, "spec.endpointSelector.matchLabels", formLabels},
	{"labelValues", ciliumPolicies, "spec.ingress[*].fromEndpoints[*].matchLabels", formLabels},
	{"labelValues", ciliumPolicies, "spec.egress[*].toEndpoints[*].matchLabels", formLabels},
	{"labelValues", kindsIn("AuthorizationPolicy PeerAuthentication RequestAuthentication", istioSecurity), "spec.selector.matchLabels", formLabels},
}
