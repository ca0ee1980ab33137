package dns

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns/dnstest"
)

var (
	moved = []Change{
		{Name: "www.example.org", Delete: []string{"A", "AAAA"}, Add: []Record{{"A", "203.0.113.10", time.Minute}, {"AAAA", "2001:db8::10", time.Minute}}},
		{Name: "a-www.example.org", Delete: []string{"TXT"}, Add: []Record{{"TXT", `heritage=external-dns,external-dns/owner=dr,external-dns/resource=ingress/web/"x"`, time.Minute}}},
		{Name: "shop.example.org", Add: []Record{{"CNAME", "dr.example.net", 30 * time.Second}}},
	}
	key = Key{Name: dnstest.KeyName, Algorithm: "hmac-sha256", Secret: dnstest.Secret}
)

func TestScript(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{
		"server ns1.example.org 53",
		"zone example.org",
		"update delete www.example.org A",
		"update delete www.example.org AAAA",
		"update add www.example.org 60 A 203.0.113.10",
		"update add www.example.org 60 AAAA 2001:db8::10",
		"update delete a-www.example.org TXT",
		`update add a-www.example.org 60 TXT "heritage=external-dns,external-dns/owner=dr,external-dns/resource=ingress/web/\"x\""`,
		"update add shop.example.org 30 CNAME dr.example.net.",
		"send",
	}, Script(Zone{Name: "example.org", Primary: "ns1.example.org:53"}, moved))
}

func TestKey_Update(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, "example.org", "www.example.org. 300 A 192.0.2.1", "www.example.org. 300 MX 10 mail.example.org.",
		`a-www.example.org. 300 TXT "heritage=external-dns,external-dns/owner=primary"`)
	c := &Client{Server: s.Address}
	zone, err := c.Zone(t.Context(), "www.example.org")
	require.NoError(t, err)
	assert.Equal(t, s.Address, zone.Primary)
	require.NoError(t, key.Update(t.Context(), zone.Primary, zone, moved))
	assert.Equal(t, []string{
		"www.example.org. 300 IN MX 10 mail.example.org.", "www.example.org. 60 IN A 203.0.113.10", "www.example.org. 60 IN AAAA 2001:db8::10",
	}, s.Records("www.example.org"), "what has another type stays")
	assert.Equal(t, []string{"shop.example.org. 30 IN CNAME dr.example.net."}, s.Records("shop.example.org"))

	texts, err := c.Texts(t.Context(), zone, "a-www.example.org")
	require.NoError(t, err)
	assert.Equal(t, moved[1].Add, texts, "quotes survive")
	records, err := c.Answer(t.Context(), s.Address, "shop.example.org")
	require.NoError(t, err)
	assert.Equal(t, moved[2].Add, records)
}

func TestKey_Update_refused(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, "example.org", "www.example.org. 300 A 192.0.2.1")
	zone := Zone{Name: "example.org"}
	wrong := key
	wrong.Secret = "b3RoZXI="
	err := wrong.Update(t.Context(), s.Address, zone, moved)
	require.ErrorContains(t, err, "update zone example.org at "+s.Address)
	assert.NotContains(t, err.Error(), wrong.Secret)
	assert.Equal(t, []string{"www.example.org. 300 IN A 192.0.2.1"}, s.Records("www.example.org"))
	require.ErrorContains(t, key.Update(t.Context(), s.Address, zone, []Change{{Name: "x.example.org", Add: []Record{{"A", "no address", time.Minute}}}}), "A of x.example.org")
}
