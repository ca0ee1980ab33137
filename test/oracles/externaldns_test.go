//go:build soak

package oracles

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

const (
	zone    = "example.org."
	zoneKey = "external-dns."
)

const nameServerConfig = `
options {
  directory %q;
  listen-on port %s { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  lock-file none;
  recursion no;
  notify no;
  dnssec-validation no;
};
controls {};
key "external-dns" { algorithm hmac-sha256; secret %q; };
zone "example.org" { type primary; file "zone"; allow-update { key "external-dns"; }; allow-transfer { key "external-dns"; }; };
`

const emptyZone = `$TTL 60
@ IN SOA ns hostmaster 1 60 60 60 60
@ IN NS ns
ns IN A 127.0.0.1
`

func init() { controllers["external-dns"] = testExternalDNS }

// nameServer is a BIND with a zone that it lets others change by a key.
type nameServer struct{ port, secret string }

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	program := build(t, "named")[0]
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(beside.Address(t))
	require.NoError(t, err)
	s := &nameServer{port: port, secret: base64.StdEncoding.EncodeToString([]byte(rand.Text()))}
	config := filepath.Join(dir, "named.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, nameServerConfig, dir, port, s.secret), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zone"), []byte(emptyZone), 0o600))
	beside.Start(t, nil, program, "-g", "-c", config)
	beside.Eventually(t, startTimeout, "the name server is ready", func(context.Context) error {
		_, err := s.published()
		return err
	})
	return s
}

// registered is whose a record is, as a record of external-dns' own says.
var registered = regexp.MustCompile(`heritage=external-dns,external-dns/owner=([a-z]+)`)

// published transfers the zone and returns the record of each name and whose it
// is. What belongs to no record is returned by itself.
func (s *nameServer) published() (map[string]string, error) {
	ask := &dns.Msg{}
	ask.SetAxfr(zone)
	ask.SetTsig(zoneKey, dns.HmacSHA256, 300, time.Now().Unix())
	transfer := &dns.Transfer{TsigSecret: map[string]string{zoneKey: s.secret}}
	answers, err := transfer.In(ask, "127.0.0.1:"+s.port)
	if err != nil {
		return nil, err
	}
	found, owners := map[string]string{}, map[string]string{}
	for answer := range answers {
		if answer.Error != nil {
			return nil, answer.Error
		}
		for _, record := range answer.RR {
			name := strings.TrimSuffix(record.Header().Name, "."+zone)
			switch r := record.(type) {
			case *dns.A:
				if name != "ns" {
					found[name] = "a " + r.A.String()
				}
			case *dns.CNAME:
				found[name] = "cname " + r.Target
			case *dns.TXT:
				text := strings.Join(r.Txt, "")
				if owner := registered.FindStringSubmatch(text); owner != nil {
					owners[name] = owner[1]
				} else {
					found[name] = text
				}
			case *dns.SOA, *dns.NS:
			default:
				found[name] = record.String()
			}
		}
	}
	for name, record := range found {
		kind, _, _ := strings.Cut(record, " ")
		if owner, ok := owners[kind+"-"+name]; ok {
			found[name] = owner + " " + record
			delete(owners, kind+"-"+name)
		}
	}
	for name, owner := range owners {
		found[name] = owner + " txt"
	}
	return found, nil
}

// synchronise runs external-dns once over a namespace, in the name of an owner.
func (s *nameServer) synchronise(t *testing.T, c *cluster, namespace, owner string, more ...string) {
	t.Helper()
	args := append([]string{
		"--once", "--policy=sync", "--kubeconfig=" + c.kubeconfig, "--namespace=" + namespace, "--metrics-address=" + beside.Address(t),
		"--source=service", "--source=ingress", "--source=traefik-proxy", "--source=crd", "--source=gateway-httproute",
		"--source=istio-gateway", "--source=openshift-route",
		"--registry=txt", "--txt-owner-id=" + owner,
		"--provider=rfc2136", "--rfc2136-host=127.0.0.1", "--rfc2136-port=" + s.port, "--rfc2136-zone=" + strings.TrimSuffix(zone, "."),
		"--rfc2136-tsig-keyname=" + strings.TrimSuffix(zoneKey, "."), "--rfc2136-tsig-secret-alg=hmac-sha256", "--rfc2136-tsig-axfr",
	}, more...)
	cmd := exec.CommandContext(t.Context(), build(t, "external-dns")[0], args...)
	cmd.Env = append(os.Environ(), "EXTERNAL_DNS_RFC2136_TSIG_SECRET="+s.secret)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("external-dns over %s:\n%s", namespace, out)
}

const (
	productionAddress = "192.0.2.10"
	siteAddress       = "198.51.100.10"
)

// testExternalDNS runs a real external-dns with a real name server over what is
// restored: production's records stay as they are, and of the restored objects
// it publishes exactly the hosts that the profile says.
func testExternalDNS(t *testing.T, c *cluster) {
	server := startNameServer(t)
	objects := readObjects(t, "testdata/published.yaml")
	production := map[string]string{"route": "production cname router.example.net."}
	for _, name := range []string{"www", "shop", "app", "static", "gate", "mesh"} {
		production[name] = "production a " + productionAddress
	}
	require.NoError(t, c.accepts(t.Context(), namespace("published")))
	for _, obj := range objects {
		c.run(t, inNamespace(obj, "published"), productionAddress)
	}
	server.synchronise(t, c, "published", "production", "--annotation-prefix=external-dns.kubernetes.io/")
	records, err := server.published()
	require.NoError(t, err)
	require.Equal(t, production, records, "production, as it is")

	const (
		elsewhere = "  addresses: {" + productionAddress + ": " + siteAddress + "}\n"
		replace   = elsewhere + `  hosts: [{from: "*.example.org", to: "*.dr.example.org"}]` + "\n"
		add       = elsewhere + `  hosts: [{from: "*.example.org", to: "*.dr.example.org", mode: add}]` + "\n"
	)
	muted := profile(t, "  externalDNS: mute\n")
	for _, tt := range []struct {
		name, fields string
		before       *rules.Profile // what was done to the objects before the backup
		want         []string       // names below dr.example.org
	}{
		{name: "muted", fields: replace + "  externalDNS: mute\n"},
		{name: "replaced", fields: replace, want: []string{"www", "shop", "app", "static", "gate", "mesh", "route"}},
		// A Route has room for one host, and production's stays production's.
		{name: "added", fields: add, want: []string{"www", "shop", "app", "static", "gate", "mesh"}},
		// Of the others external-dns would take both hosts or none.
		{name: "passive", fields: add + "  traffic: passive\n", want: []string{"www", "shop", "static", "gate"}},
		// Muted, a Service has no hostname, an IngressRoute no target and a DNSEndpoint
		// no endpoints.
		{name: "claimed", fields: replace + "  externalDNS: claim\n", before: muted, want: []string{"shop", "gate", "mesh", "route"}},
		{name: "muted before", fields: replace, before: muted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := "published-" + strings.ReplaceAll(tt.name, " ", "-")
			require.NoError(t, c.accepts(t.Context(), namespace(to)))
			p := profile(t, tt.fields)
			for _, obj := range objects {
				if tt.before != nil {
					r, err := tt.before.Apply(obj)
					require.NoError(t, err)
					obj = r.Object
				}
				r, err := p.Apply(obj)
				require.NoError(t, err)
				c.run(t, inNamespace(r.Object, to), siteAddress)
			}
			want := maps.Clone(production)
			for _, name := range tt.want {
				want[name+".dr"] = strings.NewReplacer("production", "site", productionAddress, siteAddress).Replace(production[name])
			}
			prefixes := []string{"external-dns.kubernetes.io/"}
			if len(tt.want) == 0 {
				prefixes = append(prefixes, "external-dns.alpha.kubernetes.io/")
			}
			for _, prefix := range prefixes {
				server.synchronise(t, c, to, "site", "--annotation-prefix="+prefix)
				records, err := server.published()
				require.NoError(t, err)
				assert.Equal(t, want, records, prefix)
			}
		})
	}
}

// run creates an object, and gives it the status that controllers would give it
// where its traffic comes in at an address.
func (c *cluster) run(t *testing.T, obj *unstructured.Unstructured, address string) {
	t.Helper()
	status, ok := obj.Object["status"]
	require.NoError(t, c.accepts(t.Context(), obj))
	if !ok {
		return
	}
	raw, err := (&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Status", "status": status}}).MarshalJSON()
	require.NoError(t, err)
	at := &unstructured.Unstructured{}
	require.NoError(t, at.UnmarshalJSON([]byte(strings.ReplaceAll(string(raw), productionAddress, address))))
	if host, ok, _ := unstructured.NestedString(obj.Object, "spec", "host"); ok && obj.GetKind() == "Route" {
		at.Object["status"].(map[string]any)["ingress"].([]any)[0].(map[string]any)["host"] = host
	}
	c.setStatus(t, obj, at.Object["status"])
}
