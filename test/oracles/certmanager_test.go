package oracles

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

// backedUp are the kinds that a backup of a namespace with certificates has, in
// the order in which Velero restores them.
var backedUp = []schema.GroupVersionKind{
	secrets,
	requests,
	certificates,
	challenges,
	{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "Gateway"},
	ingresses,
	{Group: "cert-manager.io", Version: "v1", Kind: "Issuer"},
	orders,
}

var (
	secrets      = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	requests     = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "CertificateRequest"}
	certificates = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}
	challenges   = schema.GroupVersionKind{Group: "acme.cert-manager.io", Version: "v1", Kind: "Challenge"}
	orders       = schema.GroupVersionKind{Group: "acme.cert-manager.io", Version: "v1", Kind: "Order"}
	ingresses    = schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}
)

// testCertManager runs cert-manager's own controllers over what is restored from
// a namespace where they issued certificates.
func testCertManager(t *testing.T, c *cluster) {
	beside.Start(t, nil, build(t, "cert-manager")[0], "--kubeconfig="+c.kubeconfig, "--cluster-resource-namespace=default")
	require.NoError(t, c.accepts(t.Context(), namespace("certified")))
	for _, name := range []string{"ca", "ca-staging"} {
		require.NoError(t, c.accepts(t.Context(), authority(t, name)))
	}
	for _, obj := range readObjects(t, "testdata/certified.yaml") {
		require.NoError(t, c.accepts(t.Context(), inNamespace(obj, "certified")), obj.GetName())
	}
	issued := c.certificates(t, "certified", "api", "gate", "shared", "shop")
	for name, hosts := range map[string][]string{
		"shared": {"www.dr.example.org", "www.example.org"}, "api": {"api.example.org", "static.example.net"}, "shop": {"shop.example.org"}, "gate": {"gate.example.org"},
	} {
		require.Equal(t, hosts, hostsOf(issued[name]), "production, as it is: %s", name)
		require.Equal(t, "ca", issued[name].Issuer.CommonName)
	}
	backup := c.backup(t, "certified")

	const hosts = `  hosts: [{from: "*.example.org", to: "*.dr.example.org"}]` + "\n"
	mapped := map[string][]string{
		"shared": {"www.dr.example.org"}, "api": {"api.dr.example.org", "static.example.net"},
		"shop": {"shop.dr.example.org"}, "gate": {"gate.dr.example.org"},
	}
	t.Run("keepSecret", func(t *testing.T) {
		t.Parallel()
		// The other issuer is for when it is time to renew.
		c.restoreCertified(t, backup, "kept", hosts+"  certificates: keepSecret\n  issuers: {ca: ca-staging}\n")
		c.issue(t, "kept", "later")
		kept := c.certificates(t, "kept", "api", "gate", "later", "shared", "shop")
		for name, cert := range issued {
			assert.True(t, cert.Equal(kept[name]), "%s is production's", name)
		}
		require.Equal(t, []string{"www.dr.example.org"}, c.tlsHosts(t, "kept", "www"))
		assert.NoError(t, kept["shared"].VerifyHostname("www.dr.example.org"), "what serves both sites serves the mapped host")
		assert.Equal(t, []string{"later"}, c.requested(t, "kept"))
	})
	for setting, more := range map[string]struct{ fields, issuer string }{
		"reissue": {"  certificates: reissue\n", "ca"},
		"staging": {"  certificates: staging\n  issuers: {ca: ca-staging}\n", "ca-staging"},
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			c.restoreCertified(t, backup, setting, hosts+more.fields)
			anew := c.certificates(t, setting, "api", "gate", "shared", "shop")
			for name, hosts := range mapped {
				assert.Equal(t, hosts, hostsOf(anew[name]), name)
				assert.Equal(t, more.issuer, anew[name].Issuer.CommonName, name)
				assert.NotEqual(t, issued[name].SerialNumber, anew[name].SerialNumber, name)
			}
			assert.Equal(t, []string{"api", "gate", "shared", "shop"}, c.requested(t, setting), "each once")
		})
	}
}

// authority is a Secret with the key of a certificate authority.
func authority(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	encode := func(kind string, der []byte) any {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
		"metadata": map[string]any{"name": name, "namespace": "certified"},
		"data":     map[string]any{"tls.crt": encode("CERTIFICATE", cert), "tls.key": encode("PRIVATE KEY", secret)},
	}}
}

// list returns the objects of a kind in a namespace.
func (c *cluster) list(t *testing.T, kind schema.GroupVersionKind, namespace string) []unstructured.Unstructured {
	t.Helper()
	like := &unstructured.Unstructured{}
	like.SetGroupVersionKind(kind)
	like.SetNamespace(namespace)
	resource, err := c.resource(like)
	require.NoError(t, err)
	all, err := resource.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	return all.Items
}

// certificates waits until the Certificates in a namespace are these and all are
// ready, and returns what their Secrets hold.
func (c *cluster) certificates(t *testing.T, namespace string, names ...string) map[string]*x509.Certificate {
	t.Helper()
	beside.Eventually(t, startTimeout, "certificates in "+namespace, func(context.Context) error {
		var ready []string
		for _, obj := range c.list(t, certificates, namespace) {
			if holds(obj, "Ready") && !holds(obj, "Issuing") {
				ready = append(ready, obj.GetName())
			}
		}
		if slices.Sort(ready); !slices.Equal(ready, names) {
			return fmt.Errorf("ready are %v", ready)
		}
		return nil
	})
	found := map[string]*x509.Certificate{}
	for _, obj := range c.list(t, secrets, namespace) {
		if !slices.Contains(names, obj.GetName()) {
			continue
		}
		encoded, _, err := unstructured.NestedString(obj.Object, "data", "tls.crt")
		require.NoError(t, err)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(t, err)
		block, _ := pem.Decode(raw)
		require.NotNil(t, block)
		found[obj.GetName()], err = x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
	}
	require.Len(t, found, len(names))
	return found
}

// holds reports whether a condition of an object is true.
func holds(obj unstructured.Unstructured, condition string) bool {
	conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		is := c.(map[string]any)
		return is["type"] == condition && is["status"] == "True"
	})
}

func hostsOf(cert *x509.Certificate) []string { return slices.Sorted(slices.Values(cert.DNSNames)) }

// backup is what is in a namespace, as it would be in a backup.
func (c *cluster) backup(t *testing.T, namespace string) (objects []*unstructured.Unstructured) {
	t.Helper()
	for _, kind := range backedUp {
		all := c.list(t, kind, namespace)
		require.NotEmpty(t, all, kind.Kind)
		for i := range all {
			objects = append(objects, &all[i])
		}
	}
	return objects
}

// restoreCertified restores a backup by a profile into a namespace, and gives an
// object no more than Velero does.
func (c *cluster) restoreCertified(t *testing.T, backup []*unstructured.Unstructured, to, fields string) {
	t.Helper()
	require.NoError(t, c.accepts(t.Context(), namespace(to)))
	p := profile(t, fields).InNamespaces(map[string]string{"certified": to})
	for _, obj := range backup {
		r, err := p.Apply(obj)
		require.NoError(t, err)
		switch obj.GetKind() {
		case requests.Kind, orders.Kind, challenges.Kind:
			require.True(t, r.Drop, "%s %s", obj.GetKind(), obj.GetName())
		}
		if r.Drop {
			continue
		}
		kept := map[string]any{"namespace": to}
		for _, field := range []string{"name", "labels", "annotations"} {
			if value, ok, _ := unstructured.NestedFieldCopy(r.Object.Object, "metadata", field); ok {
				kept[field] = value
			}
		}
		r.Object.Object["metadata"] = kept
		delete(r.Object.Object, "status")
		require.NoError(t, c.accepts(t.Context(), r.Object), "%s %s", obj.GetKind(), obj.GetName())
	}
}

// issue asks for one more certificate, by which to tell that the controllers
// have seen what came before.
func (c *cluster) issue(t *testing.T, namespace, name string) {
	t.Helper()
	require.NoError(t, c.accepts(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": map[string]any{"name": name, "namespace": namespace},
		"spec": map[string]any{"secretName": name, "dnsNames": []any{"later.example.org"}, "issuerRef": map[string]any{"name": "ca"}},
	}}))
}

// tlsHosts are those that an Ingress has a Secret for.
func (c *cluster) tlsHosts(t *testing.T, namespace, name string) (hosts []string) {
	t.Helper()
	for _, obj := range c.list(t, ingresses, namespace) {
		if obj.GetName() == name {
			tls, _, err := unstructured.NestedSlice(obj.Object, "spec", "tls")
			require.NoError(t, err)
			for _, of := range tls {
				all, _, err := unstructured.NestedStringSlice(of.(map[string]any), "hosts")
				require.NoError(t, err)
				hosts = append(hosts, all...)
			}
		}
	}
	return hosts
}

// requested are the Certificates that requests in a namespace are for, each as
// often as it was requested. There is nothing of ACME's.
func (c *cluster) requested(t *testing.T, namespace string) (names []string) {
	t.Helper()
	for _, obj := range c.list(t, requests, namespace) {
		names = append(names, obj.GetAnnotations()["cert-manager.io/certificate-name"])
	}
	slices.Sort(names)
	for _, kind := range []schema.GroupVersionKind{orders, challenges} {
		assert.Empty(t, c.list(t, kind, namespace), kind.Kind)
	}
	return names
}
