//go:build soak

package oracles

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	drdns "github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
)

func init() { controllers["hand-over"] = testHandOver }

// names asks a name server whose own name nobody can look up.
type names struct {
	*drdns.Client
	zone drdns.Zone
}

func (n names) Zone(context.Context, string) (drdns.Zone, error) { return n.zone, nil }

// testHandOver moves records from one real external-dns to another on one real name
// server. Their names are asked for every 100 ms: each has an address at all times.
func testHandOver(t *testing.T, c *cluster) {
	server := startNameServer(t)
	address := "127.0.0.1:" + server.port
	sites := []struct{ namespace, address, fields string }{
		{"here", productionAddress, ""},
		{"there", siteAddress, "  addresses: {" + productionAddress + ": " + siteAddress + "}\n"},
	}
	for _, site := range sites {
		require.NoError(t, c.accepts(t.Context(), namespace(site.namespace)))
		p := profile(t, site.fields)
		for _, obj := range readObjects(t, "testdata/published.yaml") {
			r, err := p.Apply(obj)
			require.NoError(t, err)
			c.run(t, inNamespace(r.Object, site.namespace), site.address)
		}
	}
	synchronise := func(namespace, owner string) {
		t.Helper()
		server.synchronise(t, c, namespace, owner, "--annotation-prefix=external-dns.kubernetes.io/")
	}
	synchronise("here", "production")
	before, err := server.published()
	require.NoError(t, err)
	require.Equal(t, "production a "+productionAddress, before["www"])

	ask := names{&drdns.Client{}, drdns.Zone{Name: "example.org", Servers: []string{address}, Primary: address}}
	hosts := []string{"www.example.org", "shop.example.org", "app.example.org", "static.example.org", "gate.example.org", "mesh.example.org", "route.example.org"}
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	looks, missing := 0, []string{}
	watching.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			looks++
			for _, host := range hosts {
				if records, err := ask.Answer(ctx, address, host); err == nil && len(records) == 0 {
					missing = append(missing, host)
				}
			}
		}
	})

	synchronise("there", "site")
	records, err := server.published()
	require.NoError(t, err)
	require.Equal(t, before, records, "the other owner's records stay as they are")

	r := &traffic.Registry{Kind: "txt", Owner: "site"}
	key := drdns.Key{Name: "external-dns", Algorithm: "hmac-sha256", Secret: server.secret}
	for _, host := range hosts {
		h, err := traffic.Look(t.Context(), ask, host, r)
		require.NoError(t, err)
		assert.Equal(t, []string{"production"}, h.Owners(), host)
		changes := h.HandOver(r)
		require.NotEmpty(t, changes, host)
		require.NoError(t, key.Update(t.Context(), address, h.Zone, changes))
	}
	want := map[string]string{}
	for name, record := range before {
		want[name] = "site" + record[len("production"):]
	}
	records, err = server.published()
	require.NoError(t, err)
	require.Equal(t, want, records, "nothing but the owner has changed")

	synchronise("there", "site")
	records, err = server.published()
	require.NoError(t, err)
	assert.Equal(t, "site a "+siteAddress, records["www"])
	for name := range before {
		assert.Contains(t, records[name], "site ", name)
		assert.NotContains(t, records[name], productionAddress, name)
	}
	synchronise("here", "production")
	again, err := server.published()
	require.NoError(t, err)
	assert.Equal(t, records, again, "the source comes back, and takes nothing")

	stop()
	watching.Wait()
	assert.Empty(t, missing)
	t.Logf("each of %d names had an address in each of %d looks", len(hosts), looks)
}

// TestNameServer_takesUpdates sends a real name server what a failover changes.
func TestNameServer_takesUpdates(t *testing.T) {
	t.Parallel()
	server := startNameServer(t)
	address := "127.0.0.1:" + server.port
	at := drdns.Zone{Name: "example.org", Servers: []string{address}, Primary: address}
	key := drdns.Key{Name: "external-dns", Algorithm: "hmac-sha256", Secret: server.secret}
	host := &traffic.Host{Name: "www.example.org", Zone: at}
	require.NoError(t, key.Update(t.Context(), address, at, host.PointTo([]string{productionAddress, "2001:db8::1"}, nil)))
	client := &drdns.Client{}
	var err error
	host.Records, err = client.Answer(t.Context(), address, host.Name)
	require.NoError(t, err)
	assert.Equal(t, []drdns.Record{{Type: "A", Value: productionAddress, TTL: time.Minute}, {Type: "AAAA", Value: "2001:db8::1", TTL: time.Minute}}, host.Records)

	changes := host.PointTo([]string{"site.example.net"}, nil)
	for _, wrong := range []drdns.Key{{Name: "external-dns", Algorithm: "hmac-sha256", Secret: "b3RoZXI="}, {Name: "other", Algorithm: "hmac-sha256", Secret: server.secret}} {
		require.ErrorContains(t, wrong.Update(t.Context(), address, at, changes), "update zone example.org at "+address)
	}
	require.ErrorContains(t, key.Update(t.Context(), address, drdns.Zone{Name: "example.net"}, changes), "it answered NOTAUTH")
	require.NoError(t, key.Update(t.Context(), address, at, changes))
	host.Records, err = client.Answer(t.Context(), address, host.Name)
	require.NoError(t, err)
	assert.Equal(t, []drdns.Record{{Type: "CNAME", Value: "site.example.net", TTL: time.Minute}}, host.Records)

	const owner = "a-www.example.org"
	text := []drdns.Record{{Type: "TXT", Value: `heritage=external-dns,external-dns/owner=dr,external-dns/resource=ingress/web/"x"\y`, TTL: time.Minute}}
	require.NoError(t, key.Update(t.Context(), address, at, []drdns.Change{{Name: owner, Add: text}}))
	got, err := client.Texts(t.Context(), at, owner)
	require.NoError(t, err)
	assert.Equal(t, text, got)
}
