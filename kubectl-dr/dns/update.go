package dns

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Change replaces what a zone has of a name.
type Change struct {
	Name string
	// Delete are types of which all records go, before those of Add come.
	Delete []string
	Add    []Record
}

// Script returns the changes as nsupdate reads them; a zone file has the lines of
// "update add" without these two words.
func Script(zone Zone, changes []Change) []string {
	var lines []string
	if host, port, err := net.SplitHostPort(zone.Primary); err == nil {
		lines = append(lines, "server "+host+" "+port)
	}
	lines = append(lines, "zone "+zone.Name)
	for _, c := range changes {
		for _, t := range c.Delete {
			lines = append(lines, fmt.Sprintf("update delete %s %s", c.Name, t))
		}
		for _, r := range c.Add {
			lines = append(lines, fmt.Sprintf("update add %s %s", c.Name, r.line()))
		}
	}
	return append(lines, "send")
}

// line is a record without its name, as a zone file has it.
func (r Record) line() string {
	value := r.Value
	switch r.Type {
	case "TXT":
		value = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
	case "CNAME":
		value += "."
	}
	return fmt.Sprintf("%d %s %s", int(r.TTL.Seconds()), r.Type, value)
}

// Key signs updates (TSIG, RFC 8945).
type Key struct {
	Name string
	// Algorithm is as in hmac-sha256.
	Algorithm string
	// Secret is in base 64.
	Secret string
}

// updateTimeout bounds one update.
const updateTimeout = 10 * time.Second

// RefusedError is what a server says of an update that it does not take.
type RefusedError struct{ Server, Zone, Code string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("update zone %s at %s: it answered %s", e.Zone, e.Server, e.Code)
}

// Hint says what such a server lacks.
func (e *RefusedError) Hint() string {
	return "is the key known there, and allowed to change the zone? Are both clocks right?"
}

// Update sends the changes to a server, which makes all of them or none (RFC 2136).
func (k Key) Update(ctx context.Context, server string, zone Zone, changes []Change) error {
	m := &dns.Msg{}
	m.SetUpdate(dns.Fqdn(zone.Name))
	for _, c := range changes {
		var gone []dns.RR
		for _, t := range c.Delete {
			gone = append(gone, &dns.ANY{Hdr: dns.RR_Header{Name: dns.Fqdn(c.Name), Rrtype: dns.StringToType[t], Class: dns.ClassANY}})
		}
		m.RemoveRRset(gone)
		var added []dns.RR
		for _, r := range c.Add {
			rr, err := dns.NewRR(dns.Fqdn(c.Name) + " " + r.line())
			if err != nil {
				return fmt.Errorf("update zone %s: %s of %s: %w", zone.Name, r.Type, c.Name, err)
			}
			added = append(added, rr)
		}
		m.Insert(added)
	}
	m.SetTsig(dns.Fqdn(k.Name), dns.Fqdn(k.Algorithm), 300, time.Now().Unix())
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	client := &dns.Client{Net: "tcp", TsigSecret: map[string]string{dns.Fqdn(k.Name): k.Secret}}
	answer, _, err := client.ExchangeContext(ctx, m, server)
	switch {
	case answer != nil && answer.Rcode != dns.RcodeSuccess:
		return &RefusedError{Server: server, Zone: zone.Name, Code: dns.RcodeToString[answer.Rcode]}
	case err != nil:
		return fmt.Errorf("update zone %s at %s: %w", zone.Name, server, err)
	}
	return nil
}
