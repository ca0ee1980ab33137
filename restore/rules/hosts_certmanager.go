package rules

func rewriteCertificateHosts(e *edit, p *Rewrites) error {
	if !e.in([]string{"cert-manager.io"}, "Certificate") {
		return nil
	}
	m := e.hosts(p)
	e.hostList(m, "spec", "dnsNames")
	if host, ok := m.one(e.str("spec", "commonName")); ok {
		e.set(host, "spec", "commonName")
	}
	return nil
}
