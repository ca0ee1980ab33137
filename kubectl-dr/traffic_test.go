package kubectldr

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns/dnstest"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

const (
	blog = "vegard.blog.example.org"
	// registered is what the source's external-dns says of its record.
	registered = "a-" + blog + `. 60 TXT "heritage=external-dns,external-dns/owner=primary,external-dns/resource=service/wordpress/traefik"`
)

// onDNS is a world with a real name server, in which the source's external-dns has
// published the application, and the external-dns of the recovery site is called dr.
func onDNS(t *testing.T, change func(*plan.Traffic)) (*world, *dnstest.Server) {
	t.Helper()
	w := newWorld(t)
	s := dnstest.Start(t, "blog.example.org", blog+". 60 A 192.0.2.1", registered)
	w.names = &dns.Client{Server: s.Address}
	require.NoError(t, w.recovery.Client.Delete(t.Context(), publisher()))
	require.NoError(t, w.recovery.Client.Create(t.Context(), publisher("--txt-owner-id=dr", "--policy=sync")))
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "dns"}, Data: map[string][]byte{"tsig": []byte(dnstest.Secret + "\n")},
	}))
	w.change(t, func(p *plan.RecoveryPlan) {
		p.Spec.Traffic.Targets = &plan.TrafficTargets{Source: []string{"192.0.2.1"}, Recovery: []string{"203.0.113.10"}}
		change(p.Spec.Traffic)
	})
	return w, s
}

func signed(t *plan.Traffic) {
	t.Update = &plan.DNSUpdate{KeyName: dnstest.KeyName, Secret: plan.SecretKey{Name: "dns", Key: "tsig"}}
}

// at masks the port of the name server.
func masked(s *dnstest.Server, o outcome) string {
	_, port, _ := strings.Cut(s.Address, ":")
	return strings.ReplaceAll(strings.ReplaceAll(o.String(), s.Address, "127.0.0.1:53"), "127.0.0.1 "+port, "127.0.0.1 53")
}

func TestTraffic_ofAnotherOwner(t *testing.T) {
	t.Parallel()
	w, s := onDNS(t, func(*plan.Traffic) {})
	golden(t, "traffic/check of what another owns", masked(s, w.do(t, "check")))
	golden(t, "traffic/to do by hand", masked(s, w.do(t, doDisaster)))
	assert.Equal(t, []string{blog + ". 60 IN A 192.0.2.1"}, s.Records(blog), "it is left as it was")
}

func TestTraffic_isHandedOver(t *testing.T) {
	t.Parallel()
	w, s := onDNS(t, signed)
	assert.Contains(t, w.do(t, "check").out, "external-dns primary; a failover hands the records over to dr")
	golden(t, "traffic/handed over", masked(s, w.do(t, doDisaster)))
	assert.Equal(t, []string{blog + ". 60 IN A 192.0.2.1"}, s.Records(blog), "the address is for external-dns to change")
	assert.Contains(t, s.Records("a-" + blog)[0], "external-dns/owner=dr,external-dns/resource=service/wordpress/traefik")
	assert.Contains(t, w.do(t, "check").out, "external-dns dr of this cluster")
}

func TestTraffic_checkOfTheSameOwnerAtBothSites(t *testing.T) {
	t.Parallel()
	w, s := onDNS(t, signed)
	s.Set(t, strings.Replace(registered, "owner=primary", "owner=dr", 1))
	got := w.run(t.Context(), "check")
	assert.Equal(t, exitUnhealthy, got.code)
	assert.Contains(t, got.out, "the external-dns of this cluster is called dr as well, so it takes the records for its own, and deletes them while nothing here asks for them")
}

func TestTraffic_updateAndVerify(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<title>Vegard's blog</title>") }))
	t.Cleanup(site.Close)
	w, s := onDNS(t, func(traffic *plan.Traffic) {
		signed(traffic)
		traffic.Method = plan.TrafficUpdate
		traffic.Verify = &plan.TrafficVerify{URL: site.URL, Expect: plan.HTTPExpect{Contains: "Vegard"}}
	})
	mask := func(o outcome) string {
		return strings.ReplaceAll(masked(s, o), site.URL, "http://vegard.blog.example.org")
	}
	golden(t, "traffic/failover --dry-run with verification", mask(w.do(t, "failover --disaster --dry-run")))
	assert.Equal(t, []string{blog + ". 60 IN A 192.0.2.1"}, s.Records(blog))
	golden(t, "traffic/updated and verified", mask(w.do(t, doDisaster)))
	assert.Equal(t, []string{blog + ". 60 IN A 203.0.113.10"}, s.Records(blog))
}

func TestTraffic_isWaitedFor(t *testing.T) {
	t.Parallel()
	w, s := onDNS(t, func(traffic *plan.Traffic) {
		traffic.Method = plan.TrafficManual
		traffic.Verify = &plan.TrafficVerify{Timeout: metav1.Duration{Duration: 2 * time.Second}}
	})
	got := w.run(t.Context(), strings.Fields(doDisaster)...)
	assert.Equal(t, exitError, got.code)
	assert.Contains(t, masked(s, got), "to do by hand: point "+blog+" to 203.0.113.10: server 127.0.0.1 53; zone blog.example.org; update delete "+blog+" A; update add "+blog+" 60 A 203.0.113.10; send")
	assert.Contains(t, masked(s, got), "verify traffic: not so after 2s: 127.0.0.1:53 says of "+blog+": A 192.0.2.1, not 203.0.113.10")
	assert.Contains(t, got.err, "hint: run the same command again to go on from there")

	s.Set(t, blog+". 60 A 203.0.113.10")
	got = w.do(t, doDisaster)
	assert.Contains(t, got.err, "passed   verify traffic (0s): every server says 203.0.113.10")
	assert.Equal(t, plan.PhasePassed, w.lastRun(t).Status.Phase)
}

func TestTraffic_thatTheServerRefuses(t *testing.T) {
	t.Parallel()
	w, s := onDNS(t, func(traffic *plan.Traffic) {
		signed(traffic)
		traffic.Method, traffic.Update.KeyName = plan.TrafficUpdate, "other"
	})
	got := w.do(t, doDisaster)
	assert.Contains(t, masked(s, got), "warning: update zone blog.example.org at 127.0.0.1:53")
	assert.Contains(t, got.out, "to do by hand: point "+blog+" to 203.0.113.10: server", "the application runs all the same")
	assert.NotContains(t, got.String(), dnstest.Secret)
}

func TestTraffic_withoutNameServers(t *testing.T) {
	t.Parallel()
	w, _ := onDNS(t, signed)
	w.names = &dns.Client{Server: "127.0.0.1:1", Timeout: time.Second}
	got := w.do(t, doDisaster)
	assert.Contains(t, got.err, "what is published of "+blog+" is not known")
	assert.Contains(t, got.out, "external-dns of the recovery site publishes "+blog+", unless another owns it")
}
