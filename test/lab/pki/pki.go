// Package pki makes the certificates of a rig: one authority per rig, real
// certificates for every connection, so that nothing has to skip verification.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const validity = 365 * 24 * time.Hour

// Subject says whom a certificate is for. Certificates with names or addresses
// serve; all of them identify a client.
type Subject struct {
	CommonName    string
	Organizations []string
	// Hosts are DNS names and IP addresses.
	Hosts []string
}

// Pair is a certificate and its key, in PEM.
type Pair struct {
	Cert, Key []byte
}

// Authority signs certificates.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes a self-signed authority.
func NewAuthority(commonName string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(pkix.Name{CommonName: commonName})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority %s: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pair, err := encode(der, key)
	return &Authority{Pair: pair, cert: cert, key: key}, err
}

// Issue signs a certificate for the subject, for serving and for identifying a client.
func (a *Authority) Issue(s Subject) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template, err := newTemplate(pkix.Name{CommonName: s.CommonName, Organization: s.Organizations})
	if err != nil {
		return Pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(s.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range s.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate of %s: %w", s.CommonName, err)
	}
	return encode(der, key)
}

// Bundle is one PEM file with everything a TLS peer needs: the authority, its
// own certificate and its key.
func (a *Authority) Bundle(p Pair) []byte {
	return bytes.Join([][]byte{a.Cert, p.Cert, p.Key}, nil)
}

// NewKey makes a private key alone, such as the one that signs service-account tokens.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

// A Dir is a folder with the files of one rig: NAME.crt and NAME.key per
// certificate, NAME.pem for those used as bundles.
type Dir string

// CA is the file with the authority's certificate.
func (d Dir) CA() string { return d.Cert("ca") }

// Cert is the file with the named certificate.
func (d Dir) Cert(name string) string { return filepath.Join(string(d), name+".crt") }

// Key is the file with the named certificate's key.
func (d Dir) Key(name string) string { return filepath.Join(string(d), name+".key") }

// Bundle is the file with authority, certificate and key of the name.
func (d Dir) Bundle(name string) string { return filepath.Join(string(d), name+".pem") }

// Foreign is the name of a pair whose authority nobody in the rig trusts, for
// tests that expect a refusal.
const Foreign = "foreign"

// ServiceAccountKey is the name of the key that signs service-account tokens.
const ServiceAccountKey = "service-account"

// Make fills the folder with an authority and a certificate per subject, keyed
// by file name, and the foreign pair. A folder that exists is complete and is
// left alone: it is made beside and renamed.
func Make(d Dir, commonName string, subjects map[string]Subject, foreign Subject) error {
	if _, err := os.Stat(string(d)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	making := Dir(string(d) + ".new")
	if err := os.RemoveAll(string(making)); err != nil {
		return err
	}
	if err := os.MkdirAll(string(making), 0o700); err != nil {
		return err
	}
	ca, err := NewAuthority(commonName)
	if err != nil {
		return err
	}
	other, err := NewAuthority("a stranger to " + commonName)
	if err != nil {
		return err
	}
	if err := os.WriteFile(making.CA(), ca.Cert, 0o600); err != nil {
		return err
	}
	for name, s := range subjects {
		if err := making.issue(ca, name, s); err != nil {
			return err
		}
	}
	if err := making.issue(other, Foreign, foreign); err != nil {
		return err
	}
	key, err := NewKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(making.Key(ServiceAccountKey), key, 0o600); err != nil {
		return err
	}
	return os.Rename(string(making), string(d))
}

func (d Dir) issue(a *Authority, name string, s Subject) error {
	pair, err := a.Issue(s)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(d.Cert(name), pair.Cert, 0o600),
		os.WriteFile(d.Key(name), pair.Key, 0o600),
		os.WriteFile(d.Bundle(name), a.Bundle(pair), 0o600),
	)
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		// Guests may run a little behind the host.
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(validity),
	}, nil
}

func encode(der []byte, key *ecdsa.PrivateKey) (Pair, error) {
	k, err := encodeKey(key)
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: k}, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
