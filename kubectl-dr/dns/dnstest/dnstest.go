// Package dnstest is a name server in memory: the primary of one zone, which takes
// signed updates.
package dnstest

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// The key that updates have to be signed with.
const (
	KeyName = "dr"
	Secret  = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg=="
)

// Server answers for a zone, and as a resolver would for its SOA and NS.
type Server struct {
	// Address is its host:port.
	Address string
	// Asked is called before each answer, when set, with the question's name and type.
	Asked func(name, kind string)

	zone string
	mu   sync.Mutex
	rrs  []dns.RR
}

// Start starts one with records as in a zone file; it ends with the test.
func Start(t *testing.T, zone string, records ...string) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	require.NoError(t, err)
	s := &Server{Address: listener.Addr().String(), zone: dns.Fqdn(zone)}
	s.Set(t, records...)
	for _, server := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		server.Handler = s
		server.TsigSecret = map[string]string{dns.Fqdn(KeyName): Secret}
		server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			require.NoError(t, server.Shutdown())
			<-ended
		})
	}
	return s
}

// Set adds records as in a zone file, in the place of those of the same name and type.
func (s *Server) Set(t *testing.T, records ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		require.NoError(t, err)
		s.rrs = slices.DeleteFunc(s.rrs, func(o dns.RR) bool {
			return o.Header().Name == rr.Header().Name && o.Header().Rrtype == rr.Header().Rrtype
		})
		s.rrs = append(s.rrs, rr)
	}
}

// Records are those of a name, as in a zone file, sorted.
func (s *Server) Records(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, rr := range s.rrs {
		if rr.Header().Name == dns.Fqdn(name) {
			all = append(all, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	slices.Sort(all)
	return all
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	answer := (&dns.Msg{}).SetReply(m)
	if m.Opcode == dns.OpcodeUpdate {
		answer.Rcode = dns.RcodeRefused
		if m.IsTsig() != nil && w.TsigStatus() == nil {
			s.update(m)
			answer.Rcode = dns.RcodeSuccess
			answer.SetTsig(dns.Fqdn(KeyName), dns.HmacSHA256, 300, time.Now().Unix())
		}
		_ = w.WriteMsg(answer)
		return
	}
	q := m.Question[0]
	if s.Asked != nil {
		s.Asked(q.Name, dns.TypeToString[q.Qtype])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	host, _, _ := net.SplitHostPort(s.Address)
	switch {
	case q.Name == s.zone && q.Qtype == dns.TypeSOA:
		answer.Answer = append(answer.Answer, &dns.SOA{Hdr: header(q), Ns: host + ".", Mbox: host + "."})
	case q.Name == s.zone && q.Qtype == dns.TypeNS:
		answer.Answer = append(answer.Answer, &dns.NS{Hdr: header(q), Ns: host + "."})
	}
	for _, rr := range s.rrs {
		if rr.Header().Name == q.Name && (rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME) {
			answer.Answer = append(answer.Answer, rr)
		}
	}
	_ = w.WriteMsg(answer)
}

func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
}

// update makes the changes of an update (RFC 2136, section 2.5).
func (s *Server) update(m *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rr := range m.Ns {
		switch rr.Header().Class {
		case dns.ClassANY:
			s.rrs = slices.DeleteFunc(s.rrs, func(o dns.RR) bool {
				return o.Header().Name == rr.Header().Name && o.Header().Rrtype == rr.Header().Rrtype
			})
		case dns.ClassINET:
			s.rrs = append(s.rrs, rr)
		}
	}
}
