package oracles

import "testing"

// TestControllers runs those of others over restored objects, in one cluster.
func TestControllers(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for name, test := range map[string]func(*testing.T, *cluster){"cert-manager": testCertManager, "external-dns": testExternalDNS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}
