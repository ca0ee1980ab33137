package plugin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// newBundle makes a CA and a client certificate of it, as one PEM bundle.
func newBundle(t *testing.T) []byte {
	t.Helper()
	issue := func(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(time.Now().UnixNano()),
			Subject:               pkix.Name{CommonName: name},
			NotAfter:              time.Now().Add(time.Hour),
			IsCA:                  parent == nil,
			BasicConstraintsValid: true,
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert, key
	}
	ca, caKey := issue("ca", nil, nil)
	cert, key := issue("velero", ca, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	var b bytes.Buffer
	for _, block := range []*pem.Block{
		{Type: "CERTIFICATE", Bytes: ca.Raw},
		{Type: "CERTIFICATE", Bytes: cert.Raw},
		{Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		require.NoError(t, pem.Encode(&b, block))
	}
	return b.Bytes()
}

func writeBundle(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(file, newBundle(t), 0o600))
	return file
}

func TestConnect(t *testing.T) {
	t.Parallel()
	loc := zfssnap.Location{Agents: map[string]string{"hassio": "127.0.0.1:1"}}
	agents, err := connect(loc, newBundle(t))
	require.NoError(t, err)
	_, err = agents.Agent("hassio")
	require.NoError(t, err, "nothing is dialled yet")
	_, err = agents.Agent("other")
	var none *zfssnap.NoAgentError
	require.ErrorAs(t, err, &none)

	for name, bundle := range map[string]string{"empty": "", "garbage": "garbage"} {
		_, err := connect(loc, []byte(bundle))
		require.Error(t, err, name)
	}
}
