// Package traffic points the names of an application to a site: it looks whose the
// records are, says or sends what to change, and waits until clients are told.
package traffic

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// Names asks name servers; *dns.Client does. The errors are its own.
type Names interface {
	Zone(ctx context.Context, host string) (dns.Zone, error)
	Records(ctx context.Context, zone dns.Zone, host string) ([]dns.Record, error)
	// Answer is what one server says of a host.
	Answer(ctx context.Context, server, host string) ([]dns.Record, error)
	Texts(ctx context.Context, zone dns.Zone, name string) ([]dns.Record, error)
}

// Text is a TXT record of a registry.
type Text struct {
	Name, Value, Owner string
	TTL                time.Duration
	// Of is the type of the records that it is about.
	Of string
}

// Host is what a zone has of a name.
type Host struct {
	Name    string
	Zone    dns.Zone
	Records []dns.Record
	// Texts say whose the records are; there is none of records that no external-dns
	// made.
	Texts []Text
}

// addressed are the types of records by which clients find a host.
var addressed = []string{"A", "AAAA", "CNAME"}

// Look asks for a host. Without a registry nobody is asked whose it is.
func Look(ctx context.Context, names Names, host string, r *Registry) (*Host, error) {
	zone, err := names.Zone(ctx, host)
	if err != nil {
		return nil, err
	}
	h := &Host{Name: host, Zone: zone}
	if h.Records, err = names.Records(ctx, zone, host); err != nil {
		return nil, fmt.Errorf("zone %s: %w", zone.Name, err)
	}
	if r == nil || r.Kind != "txt" {
		return h, nil
	}
	for _, kind := range addressed {
		name := r.name(host, kind)
		texts, err := names.Texts(ctx, zone, name)
		if err != nil {
			return nil, fmt.Errorf("zone %s: %w", zone.Name, err)
		}
		for _, t := range texts {
			if owner := ownerIn(t.Value); owner != "" {
				h.Texts = append(h.Texts, Text{Name: name, Value: t.Value, Owner: owner, TTL: t.TTL, Of: kind})
			}
		}
	}
	return h, nil
}

// Owners are those that the texts name, each once.
func (h *Host) Owners() []string {
	var owners []string
	for _, t := range h.Texts {
		owners = append(owners, t.Owner)
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// HandOver is what has to change so that a registry's external-dns takes the records
// for its own: nothing but the texts beside them. There is none when it does already,
// or when there are no records, which it makes.
func (h *Host) HandOver(r *Registry) []dns.Change {
	var changes []dns.Change
	for _, kind := range addressed {
		i := slices.IndexFunc(h.Records, func(record dns.Record) bool { return record.Type == kind })
		j := slices.IndexFunc(h.Texts, func(t Text) bool { return t.Of == kind })
		switch {
		case j >= 0 && h.Texts[j].Owner != r.Owner:
			t := h.Texts[j]
			changes = append(changes, dns.Change{Name: t.Name, Delete: []string{"TXT"}, Add: []dns.Record{{Type: "TXT", Value: text(t.Value, r.Owner), TTL: t.TTL}}})
		case i >= 0 && j < 0:
			changes = append(changes, dns.Change{Name: r.name(h.Name, kind), Add: []dns.Record{{Type: "TXT", Value: text("", r.Owner), TTL: h.Records[i].TTL}}})
		}
	}
	return changes
}

// defaultTTL is that of records that were not there.
const defaultTTL = time.Minute

// PointTo is what has to change so that a host has exactly the targets.
func (h *Host) PointTo(targets []string, given *metav1.Duration) []dns.Change {
	if leads(h.Records, targets) && len(h.Records) == len(targets) {
		return nil
	}
	ttl := defaultTTL
	if given != nil {
		ttl = given.Duration
	}
	change := dns.Change{Name: h.Name}
	for _, r := range h.Records {
		if !slices.Contains(change.Delete, r.Type) {
			change.Delete = append(change.Delete, r.Type)
		}
		ttl = r.TTL
	}
	for _, target := range targets {
		change.Add = append(change.Add, dns.Record{Type: kindOf(target), Value: target, TTL: ttl})
	}
	return []dns.Change{change}
}

// kindOf is the type of record that points to a target.
func kindOf(target string) string {
	switch ip := net.ParseIP(target); {
	case ip == nil:
		return "CNAME"
	case ip.To4() != nil:
		return "A"
	}
	return "AAAA"
}

// leads reports whether records lead to the targets, and nowhere else.
func leads(records []dns.Record, targets []string) bool {
	if i := slices.IndexFunc(records, func(r dns.Record) bool { return r.Type == "CNAME" }); i >= 0 {
		records = records[i : i+1] // what it is an alias of is not asked for here
	}
	return len(records) > 0 && !slices.ContainsFunc(records, func(r dns.Record) bool {
		return !slices.ContainsFunc(targets, func(target string) bool { return same(r.Value, target) })
	})
}

// same compares addresses, or names, however they are written.
func same(a, b string) bool {
	if x, y := net.ParseIP(a), net.ParseIP(b); x != nil && y != nil {
		return x.Equal(y)
	}
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// Director points names to one site.
type Director struct {
	Traffic *plan.Traffic
	Names   Names
	// Targets are what the names point to then.
	Targets []string
	// Client and Namespace are of the site, to read the key of updates.
	Client    client.Reader
	Namespace string
}

// Send has the zone's server make the changes.
func (d *Director) Send(ctx context.Context, zone dns.Zone, changes []dns.Change) error {
	u := d.Traffic.Update
	secret := &corev1api.Secret{}
	if err := d.Client.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: u.Secret.Name}, secret); err != nil {
		return fmt.Errorf("get the key of updates: %w", err)
	}
	value := strings.TrimSpace(string(secret.Data[u.Secret.Key]))
	if _, err := base64.StdEncoding.DecodeString(value); err != nil || value == "" {
		return fmt.Errorf("get the key of updates: Secret %s/%s has no key in base 64 in %s", d.Namespace, u.Secret.Name, u.Secret.Key)
	}
	key := dns.Key{Name: u.KeyName, Algorithm: u.Algorithm, Secret: value}
	if key.Algorithm == "" {
		key.Algorithm = "hmac-sha256"
	}
	server := u.Server
	if server == "" {
		server = zone.Primary
	}
	return key.Update(ctx, server, zone, changes)
}

// Told returns why clients are not told yet that the hosts are at the targets: what a
// server of their zone says instead. It is nil when every server says so.
func (d *Director) Told(ctx context.Context) error {
	if len(d.Targets) == 0 {
		return errors.New("no load balancer has an address yet")
	}
	var errs []error
	for _, host := range d.Traffic.Hosts {
		zone, err := d.Names.Zone(ctx, host)
		if err != nil {
			return err
		}
		for _, server := range zone.Servers {
			records, err := d.Names.Answer(ctx, server, host)
			switch {
			case err != nil:
				errs = append(errs, err)
			case !leads(records, d.Targets):
				errs = append(errs, fmt.Errorf("%s says of %s: %s, not %s", server, host, said(records), strings.Join(d.Targets, ", ")))
			}
		}
	}
	return errors.Join(errs...)
}

func said(records []dns.Record) string {
	if len(records) == 0 {
		return "nothing"
	}
	var all []string
	for _, r := range records {
		all = append(all, r.Type+" "+r.Value)
	}
	return strings.Join(all, ", ")
}

// maxBody bounds what is read of a page.
const maxBody = 4 << 20

// askTimeout bounds one question to the URL.
const askTimeout = 20 * time.Second

// Ask gets the URL as any client would, and says what came.
func (d *Director) Ask(ctx context.Context) (string, error) {
	v := d.Traffic.Verify
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.URL, nil)
	if err != nil {
		return "", err
	}
	// Each question resolves the name anew.
	plain := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	resp, err := plain.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return "", fmt.Errorf("get %s: %w", v.URL, err)
	}
	want := v.Expect.Status
	if want == 0 {
		want = http.StatusOK
	}
	switch {
	case resp.StatusCode != want:
		return "", fmt.Errorf("get %s: answered %s, want %d", v.URL, strings.ToLower(resp.Status), want)
	case !strings.Contains(string(body), v.Expect.Contains):
		return "", fmt.Errorf("get %s: answered %s without %q in %d bytes", v.URL, strings.ToLower(resp.Status), v.Expect.Contains, len(body))
	}
	return fmt.Sprintf("%s answered %s, %d bytes", v.URL, strings.ToLower(resp.Status), len(body)), nil
}

// DefaultTimeout is how long is waited for names that say nothing else.
const DefaultTimeout = 5 * time.Minute

// Timeout is how long is waited.
func Timeout(v *plan.TrafficVerify) time.Duration {
	if v.Timeout.Duration > 0 {
		return v.Timeout.Duration
	}
	return DefaultTimeout
}

// Verify waits until every server of the zones tells the targets, and the URL answers
// as expected. targets are looked up again and again, for load balancers take their
// time.
func (d *Director) Verify(ctx context.Context, interval time.Duration, targets func(context.Context) ([]string, error), progress func(string)) (string, error) {
	v := d.Traffic.Verify
	var last error
	var answer string
	err := cluster.Poll(ctx, interval, Timeout(v), func(ctx context.Context) (bool, error) {
		found, err := targets(ctx)
		if err == nil {
			d.Targets = found
			err = d.Told(ctx)
		}
		if err == nil && v.URL != "" {
			answer, err = d.Ask(ctx)
		}
		// What was cut off says less than what was there before.
		end, ends := ctx.Deadline()
		cut := last != nil && (ctx.Err() != nil || ends && !time.Now().Before(end))
		if err != nil && !cut {
			if last == nil || err.Error() != last.Error() {
				progress(strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			last = err
		}
		return err == nil, nil
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		return "", fmt.Errorf("not so after %s: %w", Timeout(v), last)
	case err != nil:
		return "", err
	}
	message := fmt.Sprintf("every server says %s", strings.Join(d.Targets, ", "))
	if answer != "" {
		message += "; " + answer
	}
	return message, nil
}
