package oracles

import "testing"

// controllers are programs that act on restored objects. external-dns, with the
// libraries of every provider, takes long to build, so it is there only with the
// build tag soak.
var controllers = map[string]func(*testing.T, *cluster){"cert-manager": testCertManager}

// TestControllers runs each over restored objects, all in one cluster.
func TestControllers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, definitions...)
	for name, test := range controllers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}
