package rules

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	certManager     = "cert-manager.io"
	acmeCertManager = "acme.cert-manager.io"
)

// issuance are annotations that make cert-manager issue a certificate for an
// Ingress or a Gateway.
var issuance = []string{
	"cert-manager.io/issuer", "cert-manager.io/cluster-issuer",
	"cert-manager.io/issuer-kind", "cert-manager.io/issuer-group", "kubernetes.io/tls-acme",
}

// letsEncryptStaging is in the place of the production server on staging.
var letsEncryptStaging = map[string]string{
	"https://acme-v02.api.letsencrypt.org/directory": "https://acme-staging-v02.api.letsencrypt.org/directory",
}

func rewriteCertificates(e *edit, p *Rewrites) error {
	if p.Certificates == "" || p.Certificates == CertificatesKeep {
		return nil
	}
	switch {
	case e.in([]string{certManager}, "CertificateRequest"),
		e.in([]string{acmeCertManager}, "Order", "Challenge"),
		e.str("metadata", "labels", "acme.cert-manager.io/http01-solver") == "true":
		// What is half issued at the source can't be finished elsewhere.
		e.drop = true
	case p.Certificates == CertificatesKeepSecret:
		if e.in(ingressGroups, "Ingress") || e.in(gatewayGroups, "Gateway", "ListenerSet") {
			for _, key := range issuance {
				e.remove("metadata", "annotations", key)
			}
		}
	case e.in([]string{certManager}, "Certificate"):
		// cert-manager makes it again for its Ingress or Gateway, and would not
		// touch one that isn't theirs.
		owner := metav1.GetControllerOf(e.orig)
		e.drop = owner != nil && (owner.Kind == "Ingress" || owner.Kind == "Gateway")
	case e.in(core, "Secret"):
		_, issued := e.annotation("cert-manager.io/certificate-name")
		e.drop = issued && !e.isCA()
	case p.Certificates == CertificatesStaging && e.in([]string{certManager}, "Issuer", "ClusterIssuer"):
		at := path{"spec", "acme", "server"}
		if to, ok := letsEncryptStaging[e.str(at...)]; ok {
			e.set(to, at...)
		}
	}
	return nil
}

// isCA reports whether the Secret's certificate signs others: without it, what
// it signed would lose its issuer.
func (e *edit) isCA() bool {
	raw, err := base64.StdEncoding.DecodeString(e.str("data", "tls.crt"))
	if err != nil {
		return false
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && cert.IsCA
}
