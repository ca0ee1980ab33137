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
	{"certificates", rewriteCertificates},
	{"state", rewriteState},
	{"replicas", rewriteReplicas},
	{"hosts", rewriteHosts},
	{"hostsIn", rewriteValueHosts},
	{"externalDNS", rewriteExternalDNS},
	{"traffic", rewriteTraffic},
	{"issuers", rewriteIssuers},
	{"storageClasses", rewriteStorageClasses},
	{"ingressClasses", rewriteIngressClasses},
	{"addressPools", rewriteAddressPools},
	{"serviceTypes", rewriteServiceTypes},
	{"loadBalancer", rewriteLoadBalancer},
	{"addresses", rewriteAddresses},
	{"nodeSelector", rewriteNodeSelector},
	{"tolerations", rewriteTolerations},
	{"labels", rewriteLabels},
	{"annotations", rewriteAnnotations},
}
