package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAuthority_Issue(t *testing.T) {
	t.Parallel()
	ca, err := NewAuthority("ca")
	require.NoError(t, err)
	stranger, err := NewAuthority("stranger")
	require.NoError(t, err)
	server, err := ca.Issue(Subject{CommonName: "hassio", Hosts: []string{"hassio", "127.0.0.1"}})
	require.NoError(t, err)
	client, err := ca.Issue(Subject{CommonName: "velero"})
	require.NoError(t, err)
	foreign, err := stranger.Issue(Subject{CommonName: "velero"})
	require.NoError(t, err)

	tests := []struct {
		name     string
		cert     Pair
		host     string
		usage    x509.ExtKeyUsage
		accepted bool
	}{
		{"a server under its name", server, "hassio", x509.ExtKeyUsageServerAuth, true},
		{"a server under its address", server, "127.0.0.1", x509.ExtKeyUsageServerAuth, true},
		{"a server as a client of another", server, "", x509.ExtKeyUsageClientAuth, true},
		{"a server under another name", server, "remote", x509.ExtKeyUsageServerAuth, false},
		{"a client", client, "", x509.ExtKeyUsageClientAuth, true},
		{"a client that tries to serve", client, "", x509.ExtKeyUsageServerAuth, false},
		{"a client of a foreign authority", foreign, "", x509.ExtKeyUsageClientAuth, false},
	}
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.Cert))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pair, err := tls.X509KeyPair(tt.cert.Cert, tt.cert.Key)
			require.NoError(t, err)
			_, err = pair.Leaf.Verify(x509.VerifyOptions{
				Roots: roots, DNSName: tt.host, KeyUsages: []x509.ExtKeyUsage{tt.usage},
			})
			assert.Equal(t, tt.accepted, err == nil, "verify: %v", err)
		})
	}
}

func TestMake(t *testing.T) {
	t.Parallel()
	d := Dir(filepath.Join(t.TempDir(), "pki"))
	subjects := map[string]Subject{"agent": {CommonName: "hassio", Hosts: []string{"hassio"}}}
	foreign := Subject{CommonName: "velero"}
	require.NoError(t, os.MkdirAll(string(d)+".new", 0o700), "what an interrupted run left must not matter")
	require.NoError(t, Make(d, "rig", subjects, foreign))

	_, err := tls.LoadX509KeyPair(d.Cert("agent"), d.Key("agent"))
	require.NoError(t, err)
	_, err = tls.LoadX509KeyPair(d.Cert(Foreign), d.Key(Foreign))
	require.NoError(t, err)
	assert.FileExists(t, d.Key(ServiceAccountKey))

	before, err := os.ReadFile(d.Bundle("agent"))
	require.NoError(t, err)
	ca, err := os.ReadFile(d.CA())
	require.NoError(t, err)
	assert.Contains(t, string(before), string(ca), "a bundle carries its authority")

	require.NoError(t, Make(d, "rig", subjects, foreign))
	after, err := os.ReadFile(d.Bundle("agent"))
	require.NoError(t, err)
	assert.Equal(t, before, after, "a folder that exists is left alone")
}
