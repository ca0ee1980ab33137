package plugin

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// connect returns the agents of a location. Connections are made on first use
// and kept.
func connect(loc zfssnap.Location, bundle []byte) (zfssnap.Agents, error) {
	tlsConfig, err := clientTLS(bundle)
	if err != nil {
		return nil, err
	}
	return &agents{addresses: loc.Agents, tls: tlsConfig, conns: map[string]*grpc.ClientConn{}}, nil
}

type agents struct {
	addresses map[string]string
	tls       *tls.Config

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func (a *agents) Agent(node string) (zfssnap.Agent, error) {
	address, ok := a.addresses[node]
	if !ok {
		return nil, &zfssnap.NoAgentError{Node: node}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	conn, ok := a.conns[node]
	if !ok {
		config := a.tls.Clone()
		config.ServerName = node
		var err error
		if conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config))); err != nil {
			return nil, fmt.Errorf("connect to the agent on node %s: %w", node, err)
		}
		a.conns[node] = conn
	}
	return agentpb.NewAgentClient(conn), nil
}

// clientTLS reads a bundle of CA certificates, client certificate and client
// key, in any order.
func clientTLS(bundle []byte) (*tls.Config, error) {
	if len(bundle) == 0 {
		return nil, errors.New("the snapshot location has no credential; set spec.credential to a secret key with CA, certificate and key in PEM")
	}
	cas := x509.NewCertPool()
	var haveCA bool
	var leaf, key []byte
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			key = pem.EncodeToMemory(block)
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read credential: %w", err)
		}
		if cert.IsCA {
			cas.AddCert(cert)
			haveCA = true
		} else {
			leaf = append(leaf, pem.EncodeToMemory(block)...)
		}
	}
	if !haveCA || leaf == nil || key == nil {
		return nil, errors.New("read credential: want CA certificate, client certificate and client key in PEM")
	}
	pair, err := tls.X509KeyPair(leaf, key)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: cas, MinVersion: tls.VersionTLS13}, nil
}
