package rules

// rewriter applies one field of a profile to the kinds it knows.
type rewriter struct {
	// rule is the profile's field, as changes name it.
	rule string
	// apply changes the edit's copy. It does nothing when the profile doesn't use
	// the rule or the object is of another kind. It errs only when it can't do
	// what the profile asks and leaving the object as it is could do harm.
	apply func(*edit, *Rewrites) error
}

// rewriters run in this order. No two write the same field, except those after
// the rest, whose word is last.
var rewriters = []rewriter{
	{"ofTheCluster", leaveToTheCluster},
	{"certificates", rewriteCertificates},
	{"state", rewriteState},
	{"replicas", rewriteReplicas},
	{"hosts", rewriteHosts},
	{"hostsIn", rewriteValueHosts},
	{"externalDNS", rewriteExternalDNS},
	{"traffic", rewriteTraffic},
	mapping("issuers", func(p *Rewrites) map[string]string { return p.Issuers }),
	mapping("storageClasses", func(p *Rewrites) map[string]string { return p.StorageClasses }),
	mapping("ingressClasses", func(p *Rewrites) map[string]string { return p.IngressClasses }),
	mapping("gatewayClasses", func(p *Rewrites) map[string]string { return p.GatewayClasses }),
	mapping("priorityClasses", func(p *Rewrites) map[string]string { return p.PriorityClasses }),
	mapping("runtimeClasses", func(p *Rewrites) map[string]string { return p.RuntimeClasses }),
	mapping("loadBalancerClasses", func(p *Rewrites) map[string]string { return p.LoadBalancerClasses }),
	mapping("addressPools", func(p *Rewrites) map[string]string { return p.AddressPools }),
	{"serviceTypes", rewriteServiceTypes},
	{"loadBalancer", rewriteLoadBalancer},
	{"ipFamilies", rewriteIPFamilies},
	mapping("addresses", func(p *Rewrites) map[string]string { return p.Addresses }),
	{"images", rewriteImages},
	mapping("imagePullSecrets", func(p *Rewrites) map[string]string { return p.ImagePullSecrets }),
	{"nodeLabels", rewriteNodeLabels},
	mapping("nodeLabelKeys", func(p *Rewrites) map[string]string { return p.NodeLabelKeys }),
	{"affinity", rewriteAffinity},
	{"nodeSelector", rewriteNodeSelector},
	{"tolerations", rewriteTolerations},
	{"namespaces", rewriteNamespaces},
	naming("ConfigMap"), naming("PersistentVolumeClaim"), naming("Secret"), naming("Service"), naming("ServiceAccount"),
	{"labelValues", rewriteLabelValues},
	{"gitOps", rewriteGitOps},
	{"labels", rewriteLabels},
	{"annotations", rewriteAnnotations},
}

// mapping is the rewriter of a mapping from names to names, at the places of its
// rule.
func mapping(rule string, of func(*Rewrites) map[string]string) rewriter {
	return rewriter{rule, func(e *edit, p *Rewrites) error {
		if names := of(p); len(names) > 0 {
			return e.places(rule, e.names(rule, names))
		}
		return nil
	}}
}
