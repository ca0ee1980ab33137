package rules

var ingressGroups = []string{"networking.k8s.io", "extensions"}

func rewriteIngressHosts(e *edit, p *Rewrites) error {
	if !e.in(ingressGroups, "Ingress") {
		return nil
	}
	m := e.hosts(p)
	e.hostElements(m, "host", nil, "spec", "rules")
	for i := range e.list("spec", "tls") {
		e.hostList(m, "spec", "tls", i, "hosts")
	}
	return nil
}
