package traffic

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns/dnstest"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// TestRegistry_name has the names that external-dns gives its records
// (registry/mapper of sigs.k8s.io/external-dns).
func TestRegistry_name(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		host string
		kind string
		want string
	}{
		{nil, "www.example.org", "A", "a-www.example.org"},
		{nil, "www.example.org", "CNAME", "cname-www.example.org"},
		{[]string{"--txt-prefix=Txt-"}, "www.example.org", "AAAA", "txt-aaaa-www.example.org"},
		{[]string{"--txt-suffix", "-txt"}, "www.example.org", "A", "a-www-txt.example.org"},
		{[]string{"--txt-prefix=%{record_type}-dr."}, "www.example.org", "A", "a-dr.www.example.org"},
		{[]string{"--txt-suffix=-%{record_type}-txt"}, "www.example.org", "AAAA", "www-aaaa-txt.example.org"},
		{[]string{"--txt-wildcard-replacement=any"}, "*.example.org", "A", "a-any.example.org"},
		{nil, "localhost", "A", "a-localhost"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, registryOf(corev1api.Container{Args: tt.args}).name(tt.host, tt.kind))
		})
	}
}

func deployment(name string, ready int32, c corev1api.Container) client.Object {
	return &appsv1api.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dns", Name: name},
		Spec:       appsv1api.DeploymentSpec{Template: corev1api.PodTemplateSpec{Spec: corev1api.PodSpec{Containers: []corev1api.Container{c}}}},
		Status:     appsv1api.DeploymentStatus{ReadyReplicas: ready},
	}
}

func TestFindRegistry(t *testing.T) {
	t.Parallel()
	image := "registry.k8s.io/external-dns/external-dns:v0.22.0"
	tests := []struct {
		name string
		have []client.Object
		want *Registry
	}{
		{"none", []client.Object{deployment("web", 1, corev1api.Container{Image: "web"})}, nil},
		{"by its defaults", []client.Object{deployment("a", 0, corev1api.Container{Image: image})},
			&Registry{Deployment: "dns/a", Kind: "txt", Owner: "default", Deletes: true}},
		{"the one that is ready", []client.Object{
			deployment("a", 0, corev1api.Container{Image: image}),
			deployment("b", 1, corev1api.Container{Image: image, Args: []string{"--txt-owner-id=dr", "--policy=upsert-only", "--registry=noop"}})},
			&Registry{Deployment: "dns/b", Ready: true, Kind: "noop", Owner: "dr"}},
		{"by variables", []client.Object{deployment("a", 1, corev1api.Container{Image: image, Env: []corev1api.EnvVar{
			{Name: "EXTERNAL_DNS_TXT_OWNER_ID", Value: "dr"}, {Name: "EXTERNAL_DNS_TXT_PREFIX", Value: "x-"}}})},
			&Registry{Deployment: "dns/a", Ready: true, Kind: "txt", Owner: "dr", Deletes: true, prefix: "x-"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := FindRegistry(t.Context(), fake.NewClientBuilder().WithObjects(tt.have...).Build())
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

const (
	web       = "www.example.org"
	ofPrimary = `heritage=external-dns,external-dns/owner=primary,external-dns/resource=ingress/web/web`
	ofDR      = `heritage=external-dns,external-dns/owner=dr,external-dns/resource=ingress/web/web`
)

func TestHost_HandOver(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		records []string
		want    []dns.Change
		owners  []string
	}{
		{"of nothing, which is made anew", nil, nil, nil},
		{"of what is its own", []string{web + ". 300 A 192.0.2.1", "a-" + web + `. 300 TXT "` + ofDR + `"`}, nil, []string{"dr"}},
		{"of what another owns, by the texts alone",
			[]string{web + ". 300 A 192.0.2.1", web + ". 300 AAAA 2001:db8::1", "a-" + web + `. 200 TXT "` + ofPrimary + `"`, "aaaa-" + web + `. 200 TXT "` + ofPrimary + `"`},
			[]dns.Change{
				{Name: "a-" + web, Delete: []string{"TXT"}, Add: []dns.Record{{Type: "TXT", Value: ofDR, TTL: 200 * time.Second}}},
				{Name: "aaaa-" + web, Delete: []string{"TXT"}, Add: []dns.Record{{Type: "TXT", Value: ofDR, TTL: 200 * time.Second}}},
			}, []string{"primary"}},
		{"of an alias that nobody owns", []string{web + ". 300 CNAME lb.example.net."},
			[]dns.Change{{Name: "cname-" + web, Add: []dns.Record{{Type: "TXT", Value: "heritage=external-dns,external-dns/owner=dr", TTL: 5 * time.Minute}}}}, nil},
		{"beside a text of somebody else", []string{web + ". 300 A 192.0.2.1", "a-" + web + `. 300 TXT "v=spf1 -all"`},
			[]dns.Change{{Name: "a-" + web, Add: []dns.Record{{Type: "TXT", Value: "heritage=external-dns,external-dns/owner=dr", TTL: 5 * time.Minute}}}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, "example.org", tt.records...)
			r := &Registry{Kind: "txt", Owner: "dr"}
			names := &dns.Client{Server: s.Address}
			h, err := Look(t.Context(), names, web, r)
			require.NoError(t, err)
			assert.Equal(t, tt.owners, h.Owners())
			changes := h.HandOver(r)
			assert.Equal(t, tt.want, changes)
			key := dns.Key{Name: dnstest.KeyName, Algorithm: "hmac-sha256", Secret: dnstest.Secret}
			require.NoError(t, key.Update(t.Context(), s.Address, h.Zone, changes))
			h, err = Look(t.Context(), names, web, r)
			require.NoError(t, err)
			assert.Empty(t, h.HandOver(r), "then it is its own")
		})
	}
}

func TestHost_PointTo(t *testing.T) {
	t.Parallel()
	ttl := &metav1.Duration{Duration: 30 * time.Second}
	a := dns.Record{Type: "A", Value: "192.0.2.1", TTL: 5 * time.Minute}
	tests := []struct {
		name    string
		have    []dns.Record
		targets []string
		want    []dns.Change
	}{
		{"where it points already", []dns.Record{a}, []string{"192.0.2.1"}, nil},
		{"an address that is written otherwise", []dns.Record{{Type: "AAAA", Value: "2001:db8::1"}}, []string{"2001:DB8:0::1"}, nil},
		{"another address", []dns.Record{a}, []string{"203.0.113.10"},
			[]dns.Change{{Name: web, Delete: []string{"A"}, Add: []dns.Record{{Type: "A", Value: "203.0.113.10", TTL: 5 * time.Minute}}}}},
		{"one address more", []dns.Record{a}, []string{"192.0.2.1", "2001:db8::1"},
			[]dns.Change{{Name: web, Delete: []string{"A"}, Add: []dns.Record{a, {Type: "AAAA", Value: "2001:db8::1", TTL: 5 * time.Minute}}}}},
		{"a name", []dns.Record{a}, []string{"lb.example.net"},
			[]dns.Change{{Name: web, Delete: []string{"A"}, Add: []dns.Record{{Type: "CNAME", Value: "lb.example.net", TTL: 5 * time.Minute}}}}},
		{"an address for the first time", nil, []string{"192.0.2.1"},
			[]dns.Change{{Name: web, Add: []dns.Record{{Type: "A", Value: "192.0.2.1", TTL: 30 * time.Second}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, (&Host{Name: web, Records: tt.have}).PointTo(tt.targets, ttl))
		})
	}
}

func TestDirector_Told(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, "example.org", web+". 300 A 192.0.2.1", "shop.example.org. 60 CNAME lb.example.net.")
	d := &Director{Traffic: &plan.Traffic{Hosts: []string{web}}, Names: &dns.Client{Server: s.Address}}
	require.EqualError(t, d.Told(t.Context()), "no load balancer has an address yet")
	d.Targets = []string{"203.0.113.10"}
	require.EqualError(t, d.Told(t.Context()), s.Address+" says of www.example.org: A 192.0.2.1, not 203.0.113.10")
	d.Targets = []string{"203.0.113.10", "192.0.2.1"}
	require.NoError(t, d.Told(t.Context()))
	d.Traffic.Hosts, d.Targets = []string{"shop.example.org"}, []string{"LB.example.net."}
	require.NoError(t, d.Told(t.Context()))
	d.Traffic.Hosts = []string{"nobody.example.org"}
	require.ErrorContains(t, d.Told(t.Context()), "nobody.example.org: nothing, not")
}

func TestDirector_Send_refuses(t *testing.T) {
	t.Parallel()
	secret := func(value string) client.Object {
		return &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "dns"}, Data: map[string][]byte{"key": []byte(value)}}
	}
	tests := []struct {
		name string
		have []client.Object
		err  string
	}{
		{"without a Secret", nil, `secrets "dns" not found`},
		{"without the entry", []client.Object{secret("")}, "Secret velero/dns has no key in base 64 in key"},
		{"with what is no key", []client.Object{secret("hunter two")}, "Secret velero/dns has no key in base 64 in key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &Director{Client: fake.NewClientBuilder().WithObjects(tt.have...).Build(), Namespace: "velero",
				Traffic: &plan.Traffic{Update: &plan.DNSUpdate{KeyName: "dr", Secret: plan.SecretKey{Name: "dns", Key: "key"}}}}
			err := d.Send(t.Context(), dns.Zone{Name: "example.org"}, nil)
			require.ErrorContains(t, err, tt.err)
			assert.NotContains(t, err.Error(), "hunter")
		})
	}
}
