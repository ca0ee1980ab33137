package rules

var gatewayGroups = []string{"gateway.networking.k8s.io"}

func rewriteGatewayHosts(e *edit, p *Rewrites) error {
	m := e.hosts(p)
	switch {
	case e.in(gatewayGroups, "HTTPRoute", "GRPCRoute", "TLSRoute"):
		e.hostList(m, "spec", "hostnames")
	case e.in(gatewayGroups, "Gateway"):
		// Listeners' names are unique, so the added one needs its own.
		e.hostElements(m, "hostname", func(listener map[string]any) {
			if name, ok := listener["name"].(string); ok {
				listener["name"] = name + "-dr"
			}
		}, "spec", "listeners")
	}
	return nil
}
