package rules

import (
	"net/netip"
	"slices"
)

func rewriteServiceTypes(e *edit, p *Rewrites) error {
	if !e.in(core, "Service") {
		return nil
	}
	to, ok := p.ServiceTypes[e.str("spec", "type")]
	if !ok {
		return nil
	}
	if e.str("spec", "type") == "LoadBalancer" {
		for _, field := range []string{
			"allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP",
			"loadBalancerSourceRanges", "healthCheckNodePort",
		} {
			e.remove("spec", field)
		}
	}
	if to == "ClusterIP" {
		dropNodePorts(e)
		e.remove("spec", "externalTrafficPolicy")
	}
	e.set(to, "spec", "type")
	return nil
}

func rewriteLoadBalancer(e *edit, p *Rewrites) error {
	if p.LoadBalancer == nil || !e.in(core, "Service") {
		return nil
	}
	if p.LoadBalancer.DropNodePorts {
		dropNodePorts(e)
	}
	if ip := p.LoadBalancer.LoadBalancerIP; ip != nil && e.str("spec", "loadBalancerIP") != "" {
		if *ip == "" {
			e.remove("spec", "loadBalancerIP")
		} else {
			e.set(*ip, "spec", "loadBalancerIP")
		}
	}
	if ips := p.LoadBalancer.ExternalIPs; ips != nil && len(e.list("spec", "externalIPs")) > 0 {
		if len(*ips) == 0 {
			e.remove("spec", "externalIPs")
		} else {
			e.set(anys(*ips), "spec", "externalIPs")
		}
	}
	return nil
}

func dropNodePorts(e *edit) {
	for i := range e.list("spec", "ports") {
		e.remove("spec", "ports", i, "nodePort")
	}
	e.remove("spec", "healthCheckNodePort")
}

// Addresses that loadBalancer has put in place are the last word, not a thing to
// map.
var (
	formLoadBalancerIP = &form{formOne.about, func(e *edit, m mapper, at path) error {
		if e.p.LoadBalancer != nil && e.p.LoadBalancer.LoadBalancerIP != nil {
			return nil
		}
		return formOne.rewrite(e, m, at)
	}}
	formExternalIP = &form{formOne.about, func(e *edit, m mapper, at path) error {
		if e.p.LoadBalancer != nil && e.p.LoadBalancer.ExternalIPs != nil {
			return nil
		}
		return formOne.rewrite(e, m, at)
	}}
)

// formRange is a range of addresses, which may be one address.
var formRange = &form{"address or range", func(e *edit, m mapper, at path) error {
	value := e.str(at...)
	if to, ok := one(m, value); ok {
		e.set(to, at...)
		return nil
	}
	prefix, err := netip.ParsePrefix(value)
	if err != nil || !prefix.IsSingleIP() {
		return nil
	}
	if to, ok := one(m, prefix.Addr().String()); ok {
		addr, err := netip.ParseAddr(to)
		if err != nil {
			return nil
		}
		e.set(netip.PrefixFrom(addr, addr.BitLen()).String(), at...)
	}
	return nil
}}

// formCertificateIP leaves a Certificate that is to be used as it is.
var formCertificateIP = &form{formOne.about, func(e *edit, m mapper, at path) error {
	if e.keepsHosts() {
		return nil
	}
	return formOne.rewrite(e, m, at)
}}

func rewriteIPFamilies(e *edit, p *Rewrites) error {
	if p.IPFamilies == nil || !e.in(core, "Service") || e.str("spec", "type") == "ExternalName" {
		return nil
	}
	before := e.list("spec", "ipFamilies")
	if p.IPFamilies.Policy != "" {
		e.set(p.IPFamilies.Policy, "spec", "ipFamilyPolicy")
	}
	if len(p.IPFamilies.Families) == 0 {
		return nil
	}
	e.set(anys(p.IPFamilies.Families), "spec", "ipFamilies")
	if e.str("spec", "clusterIP") != "None" && !slices.Equal(before, e.list("spec", "ipFamilies")) {
		// They are of the old families, and the cluster gives out new ones.
		e.remove("spec", "clusterIP")
		e.remove("spec", "clusterIPs")
	}
	return nil
}

func anys[T any](values []T) []any {
	out := make([]any, 0, len(values))
	for _, v := range values {
		out = append(out, v)
	}
	return out
}

// strs returns the strings of a list, and false when it holds anything else.
func strs(values []any) ([]string, bool) {
	out := make([]string, 0, len(values))
	for _, v := range values {
		s, ok := v.(string)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return slices.Clip(out), true
}
