package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Bundle is what a TLS peer needs: the certificates of the authorities it
// trusts, its own certificate and its key. It comes from one PEM file, which is
// read again when it has changed, so certificates are renewed without a restart.
type Bundle struct {
	path string // "" when there is no file to follow

	mu       sync.Mutex
	modified time.Time
	size     int64
	current  material
}

type material struct {
	authorities *x509.CertPool
	trusted     []*x509.Certificate // what is in authorities
	own         tls.Certificate
}

// LoadBundle reads a bundle from a file.
func LoadBundle(path string) (*Bundle, error) {
	b := &Bundle{path: path}
	if err := b.reload(); err != nil {
		return nil, fmt.Errorf("read TLS bundle %s: %w", path, err)
	}
	return b, nil
}

// ParseBundle reads a bundle from memory.
func ParseBundle(data []byte) (*Bundle, error) {
	m, err := parseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("read TLS bundle: %w", err)
	}
	return &Bundle{current: m}, nil
}

// Identity returns the common name of the own certificate.
func (b *Bundle) Identity() string { return b.get().own.Leaf.Subject.CommonName }

// Expires returns when the own certificate does.
func (b *Bundle) Expires() time.Time { return b.get().own.Leaf.NotAfter }

// Certificates returns the own certificate, and those of the authorities.
func (b *Bundle) Certificates() []*x509.Certificate {
	m := b.get()
	return append([]*x509.Certificate{m.own.Leaf}, m.trusted...)
}

// get returns what the file holds now. A file that cannot be read, as while it
// is being replaced, leaves what was read before.
func (b *Bundle) get() material {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path != "" {
		_ = b.reload()
	}
	return b.current
}

func (b *Bundle) reload() error {
	info, err := os.Stat(b.path)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(b.modified) && info.Size() == b.size {
		return nil
	}
	data, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	m, err := parseBundle(data)
	if err != nil {
		return err
	}
	b.current, b.modified, b.size = m, info.ModTime(), info.Size()
	return nil
}

func parseBundle(data []byte) (material, error) {
	m := material{authorities: x509.NewCertPool()}
	var chain, key bytes.Buffer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return material{}, fmt.Errorf("parse certificate: %w", err)
			}
			if cert.IsCA {
				m.authorities.AddCert(cert)
				m.trusted = append(m.trusted, cert)
				continue
			}
			_ = pem.Encode(&chain, block)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			_ = pem.Encode(&key, block)
		}
	}
	switch {
	case len(m.trusted) == 0:
		return material{}, errors.New("no CA certificate in it")
	case chain.Len() == 0:
		return material{}, errors.New("no certificate of its own in it")
	case key.Len() == 0:
		return material{}, errors.New("no private key in it")
	}
	own, err := tls.X509KeyPair(chain.Bytes(), key.Bytes())
	if err != nil {
		return material{}, err
	}
	if own.Leaf.Subject.CommonName == "" {
		return material{}, errors.New("its certificate has no common name, which is the identity")
	}
	m.own = own
	return m, nil
}

func (m material) server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    m.authorities,
		NextProtos:   []string{"h2"},
	}
}

func (m material) client(node string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.own},
		RootCAs:      m.authorities,
		ServerName:   node,
		NextProtos:   []string{"h2"},
	}
}

// serverCredentials are those of an agent.
func (b *Bundle) serverCredentials() credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return b.get().server(), nil },
	})
}

// clientCredentials are those of a caller of one node's agent. They take the
// bundle as it is at each handshake and remember how the last one ended.
type clientCredentials struct {
	credentials.TransportCredentials
	bundle *Bundle
	node   string

	mu   sync.Mutex
	last error
}

func newClientCredentials(b *Bundle, node string) *clientCredentials {
	return &clientCredentials{TransportCredentials: credentials.NewTLS(b.get().client(node)), bundle: b, node: node}
}

func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := credentials.NewTLS(c.bundle.get().client(c.node)).ClientHandshake(ctx, authority, conn)
	c.mu.Lock()
	c.last = err
	c.mu.Unlock()
	return secure, info, err
}

// Clone implements credentials.TransportCredentials. The outcome of handshakes
// is this value's own business, so it is shared.
func (c *clientCredentials) Clone() credentials.TransportCredentials { return c }

func (c *clientCredentials) lastError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// untrusted reports whether a handshake failed because of the certificate that
// was shown in it.
func untrusted(handshake error) bool {
	var shown *tls.CertificateVerificationError
	return errors.As(handshake, &shown)
}

// unreachableHint tells a certificate that does not fit from a network that
// does not.
func unreachableHint(node, address string, handshake error) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(handshake, &name):
		return fmt.Sprintf("what answers at %s is not the agent of node %s: correct the address, or the agent's --node and certificate", address, node)
	case errors.As(handshake, &authority):
		return fmt.Sprintf("the agent at %s has a certificate of another authority than the bundle used here: issue both with the same CA (zfs-agent certs)", address)
	case errors.As(handshake, &invalid):
		return fmt.Sprintf("the certificate of the agent at %s is not valid: renew it (zfs-agent certs)", address)
	default:
		return fmt.Sprintf("check that zfs-agent runs on node %s, that %s is reachable from here, and that the certificate used here is of the agent's CA and not expired", node, address)
	}
}
