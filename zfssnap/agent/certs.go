package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Lifetimes of what an Authority makes.
const (
	authorityLifetime   = 10 * 365 * 24 * time.Hour
	certificateLifetime = 2 * 365 * 24 * time.Hour
	// clockSkew is how far behind a peer's clock may be.
	clockSkew = time.Hour
)

// Authority issues certificates to agents and their clients.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// others are authorities that issued bundles trust as well.
	others []*x509.Certificate
}

// OpenAuthority reads the authority in a directory, ca.crt and ca.key, and
// makes it when there is none.
func OpenAuthority(dir string, now time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil {
		key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
		if !ok || !pair.Leaf.IsCA {
			return nil, fmt.Errorf("open authority %s: it is not a CA with an ECDSA key", dir)
		}
		return &Authority{cert: pair.Leaf, key: key}, nil
	}
	// Only when both are missing: half an authority is not to be replaced.
	for _, f := range []string{certFile, keyFile} {
		if _, statErr := os.Stat(f); !errors.Is(statErr, fs.ErrNotExist) {
			return nil, fmt.Errorf("open authority %s: %w", dir, err)
		}
	}
	a, err := NewAuthority(now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := keyPEM(a.key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		return nil, err
	}
	return a, os.WriteFile(certFile, certPEM(a.cert), 0o600)
}

// NewAuthority makes an authority in memory.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("kubectl-dr", now, authorityLifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	cert, err := sign(template, template, key, key)
	return &Authority{cert: cert, key: key}, err
}

// Trust makes the bundles issued from now on trust the authorities in a PEM file
// as well. While one authority takes the place of another, every bundle has to
// trust both.
func (a *Authority) Trust(data []byte) error {
	found := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parse certificate: %w", err)
		}
		if !cert.IsCA {
			continue
		}
		found++
		if !cert.Equal(a.cert) {
			a.others = append(a.others, cert)
		}
	}
	if found == 0 {
		return errors.New("no CA certificate in it")
	}
	return nil
}

// Certificate returns the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CheckIdentity refuses names that no certificate is issued to: they are names
// of files and of keys in Secrets too.
func CheckIdentity(name string) error {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") {
		return fmt.Errorf("%q is not a name", name)
	}
	return nil
}

// WriteBundle puts a bundle in a file that its owner alone can read. An earlier
// one is replaced at once, so that an agent reading it sees one or the other.
func WriteBundle(file string, bundle []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(bundle)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}

// Node issues the bundle of a node's agent. The names and addresses by which it
// is reached do not matter: callers check for the node's name.
func (a *Authority) Node(node string, now time.Time) ([]byte, error) {
	return a.issue(node, now, []string{node}, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
}

// Client issues the bundle of a client.
func (a *Authority) Client(name string, now time.Time) ([]byte, error) {
	return a.issue(name, now, nil, x509.ExtKeyUsageClientAuth)
}

func (a *Authority) issue(name string, now time.Time, dnsNames []string, usage ...x509.ExtKeyUsage) ([]byte, error) {
	if err := CheckIdentity(name); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(name, now, certificateLifetime)
	if err != nil {
		return nil, err
	}
	template.KeyUsage, template.ExtKeyUsage, template.DNSNames = x509.KeyUsageDigitalSignature, usage, dnsNames
	cert, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", name, err)
	}
	k, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	bundle := certPEM(a.cert)
	for _, other := range a.others {
		bundle = append(bundle, certPEM(other)...)
	}
	return append(append(bundle, certPEM(cert)...), k...), nil
}

func newTemplate(name string, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(lifetime),
	}, err
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
