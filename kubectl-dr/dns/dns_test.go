package dns

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// serve plays a recursive and an authoritative server of the zone example.org on
// one address. Answers about "big" fit into TCP alone.
func serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close(); packets.Close() })
	go func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte("not an answer"), from)
			_, _ = packets.WriteTo(answer(buffer[:n], "udp"), from)
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 512)
			n, err := conn.Read(buffer)
			if err == nil && n > 2 {
				a := answer(buffer[2:n], "tcp")
				_, _ = conn.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
			}
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func answer(question []byte, network string) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response = true
	name := strings.TrimSuffix(q.Name.String(), ".")
	add := func(ttl uint32, body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: ttl}, Body: body})
	}
	switch {
	case name == "broken.example.org":
		m.RCode = dnsmessage.RCodeServerFailure
	case name == "example.org" && q.Type == dnsmessage.TypeSOA:
		add(60, &dnsmessage.SOAResource{NS: q.Name, MBox: q.Name})
	case name == "example.org" && q.Type == dnsmessage.TypeNS:
		add(60, &dnsmessage.NSResource{NS: dnsmessage.MustNewName("127.0.0.1.")})
	case name == "big.example.org" && network == "udp":
		m.Truncated = true
	case (name == "www.example.org" || name == "big.example.org") && q.Type == dnsmessage.TypeA:
		add(300, &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
	case name == "www.example.org" && q.Type == dnsmessage.TypeAAAA:
		add(600, &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}})
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func TestClient(t *testing.T) {
	t.Parallel()
	server := serve(t)
	c := &Client{Server: server}
	zone, err := c.Zone(t.Context(), "a.b.www.example.org.")
	require.NoError(t, err)
	assert.Equal(t, Zone{Name: "example.org", Servers: []string{server}, Primary: strings.Replace(server, "127.0.0.1", "example.org", 1)}, zone)

	records, err := c.Records(t.Context(), zone, "www.example.org")
	require.NoError(t, err)
	assert.Equal(t, []Record{{"A", "192.0.2.1", 5 * time.Minute}, {"AAAA", "2001:db8::1", 10 * time.Minute}}, records)

	records, err = c.Records(t.Context(), zone, "big.example.org")
	require.NoError(t, err)
	assert.Equal(t, []Record{{"A", "192.0.2.1", 5 * time.Minute}}, records, "over TCP")

	records, err = c.Records(t.Context(), zone, "nobody.example.org")
	require.NoError(t, err)
	assert.Empty(t, records)

	_, err = c.Zone(t.Context(), "www.example.net")
	require.ErrorIs(t, err, ErrNoZone)
	_, err = c.Zone(t.Context(), "broken.example.org")
	require.ErrorContains(t, err, "it answered ServerFailure")
}

func TestClient_anotherServerIsAsked(t *testing.T) {
	t.Parallel()
	server := serve(t)
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := closed.LocalAddr().String()
	closed.Close()
	c := &Client{Timeout: time.Second}
	records, err := c.Records(t.Context(), Zone{Name: "example.org", Servers: []string{gone, server}}, "www.example.org")
	require.NoError(t, err)
	assert.Len(t, records, 2)
	_, err = c.Records(t.Context(), Zone{Name: "example.org", Servers: []string{gone}}, "www.example.org")
	require.ErrorContains(t, err, "ask "+gone)
}
