package rules

func rewriteIngressClasses(e *edit, p *Rewrites) error {
	if len(p.IngressClasses) == 0 {
		return nil
	}
	if e.in(ingressGroups, "Ingress") {
		e.mapped(p.IngressClasses, "spec", "ingressClassName")
	}
	e.mapped(p.IngressClasses, "metadata", "annotations", "kubernetes.io/ingress.class")
	return nil
}
