package rules

import (
	"slices"
	"strings"
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

// metalLBAddresses hold comma-separated addresses.
var metalLBAddresses = []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"}

func rewriteAddresses(e *edit, p *Rewrites) error {
	if len(p.Addresses) == 0 {
		return nil
	}
	if e.in(core, "Service") {
		// What loadBalancer has put here is the last word, not a thing to map.
		if lb := p.LoadBalancer; lb == nil || lb.LoadBalancerIP == nil {
			e.mapped(p.Addresses, "spec", "loadBalancerIP")
		}
		if lb := p.LoadBalancer; lb == nil || lb.ExternalIPs == nil {
			for i := range e.list("spec", "externalIPs") {
				e.mapped(p.Addresses, "spec", "externalIPs", i)
			}
		}
		e.mapped(p.Addresses, "spec", "externalName")
		e.annotations(metalLBAddresses, func(value string, at path) { e.set(mapComma(value, p.Addresses), at...) })
	}
	e.annotations(externalDNSKeys(p, "target"), func(value string, at path) { e.set(mapComma(value, p.Addresses), at...) })
	return nil
}

// mapComma maps the elements of a comma-separated list and leaves the rest of
// its bytes alone.
func mapComma(value string, mapping map[string]string) string {
	parts := strings.Split(value, ",")
	for i, part := range parts {
		if to, ok := mapping[strings.TrimSpace(part)]; ok {
			parts[i] = strings.Replace(part, strings.TrimSpace(part), to, 1)
		}
	}
	return strings.Join(parts, ",")
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
