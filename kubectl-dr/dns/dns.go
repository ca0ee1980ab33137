// Package dns asks name servers what a resolver does not tell: which zone a name is
// in, who answers for it, and how long its records may be kept.
package dns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Client asks.
type Client struct {
	// Server is the recursive server, as host:port; that of /etc/resolv.conf when
	// empty.
	Server  string
	Timeout time.Duration // for one question; 3s when zero
}

// Zone is who answers for a name.
type Zone struct {
	Name string // without the last dot
	// Servers are the authoritative ones, as host:port, and Primary is the one that
	// takes changes.
	Servers []string
	Primary string
}

// Record is what one of them says of a name.
type Record struct {
	// Type is A, AAAA, CNAME or TXT.
	Type  string
	Value string
	// TTL is how long others keep it.
	TTL time.Duration
}

// ErrNoZone is returned for a name that nobody answers for.
var ErrNoZone = errors.New("no zone has it")

// Zone finds the zone of a name: the closest one above it.
func (c *Client) Zone(ctx context.Context, host string) (Zone, error) {
	server, err := c.server()
	if err != nil {
		return Zone{}, err
	}
	name := strings.TrimSuffix(host, ".")
	for {
		answer, err := c.ask(ctx, server, name, dnsmessage.TypeSOA, true)
		if err != nil {
			return Zone{}, fmt.Errorf("ask for the zone of %s: %w", host, err)
		}
		if i := slices.IndexFunc(answer.Answers, func(r dnsmessage.Resource) bool {
			return r.Header.Type == dnsmessage.TypeSOA && strings.EqualFold(r.Header.Name.String(), name+".")
		}); i >= 0 {
			zone := Zone{Name: name}
			if soa, ok := answer.Answers[i].Body.(*dnsmessage.SOAResource); ok {
				zone.Primary = c.address(server, soa.NS)
			}
			var err error
			zone.Servers, err = c.servers(ctx, server, name)
			return zone, err
		}
		_, above, ok := strings.Cut(name, ".")
		if !ok || !strings.Contains(above, ".") {
			return Zone{}, fmt.Errorf("%s: %w", host, ErrNoZone) // a whole top-level domain is nobody's of ours
		}
		name = above
	}
}

func (c *Client) servers(ctx context.Context, server, zone string) ([]string, error) {
	answer, err := c.ask(ctx, server, zone, dnsmessage.TypeNS, true)
	if err != nil {
		return nil, fmt.Errorf("ask for the servers of %s: %w", zone, err)
	}
	var found []string
	for _, r := range answer.Answers {
		if ns, ok := r.Body.(*dnsmessage.NSResource); ok {
			found = append(found, c.address(server, ns.NS))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("ask for the servers of %s: there is none", zone)
	}
	slices.Sort(found)
	return found, nil
}

// address is where a server of a zone is asked: at the port of the one that was named,
// if one was.
func (c *Client) address(server string, name dnsmessage.Name) string {
	_, port, err := net.SplitHostPort(server)
	if err != nil || c.Server == "" {
		port = "53"
	}
	return net.JoinHostPort(strings.TrimSuffix(name.String(), "."), port)
}

// Records asks the servers of a zone for the addresses of a name, until one answers.
// There is none for a name that does not exist.
func (c *Client) Records(ctx context.Context, zone Zone, host string) ([]Record, error) {
	return c.first(ctx, zone, host, dnsmessage.TypeA, dnsmessage.TypeAAAA)
}

// Texts is Records for what is written about a name.
func (c *Client) Texts(ctx context.Context, zone Zone, name string) ([]Record, error) {
	return c.first(ctx, zone, name, dnsmessage.TypeTXT)
}

// first asks the servers of a zone until one answers.
func (c *Client) first(ctx context.Context, zone Zone, name string, types ...dnsmessage.Type) ([]Record, error) {
	var errs []error
	for _, server := range zone.Servers {
		records, err := c.records(ctx, server, name, types...)
		if err == nil {
			return records, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Answer is Records of one server.
func (c *Client) Answer(ctx context.Context, server, host string) ([]Record, error) {
	return c.records(ctx, server, host, dnsmessage.TypeA, dnsmessage.TypeAAAA)
}

func (c *Client) records(ctx context.Context, server, name string, types ...dnsmessage.Type) ([]Record, error) {
	var records []Record
	for _, t := range types {
		answer, err := c.ask(ctx, server, strings.TrimSuffix(name, "."), t, false)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", server, err)
		}
		for _, r := range answer.Answers {
			if record := read(r); record.Type != "" && !slices.Contains(records, record) {
				records = append(records, record)
			}
		}
	}
	return records, nil
}

func read(r dnsmessage.Resource) Record {
	record := Record{TTL: time.Duration(r.Header.TTL) * time.Second}
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		record.Type, record.Value = "A", net.IP(b.A[:]).String()
	case *dnsmessage.AAAAResource:
		record.Type, record.Value = "AAAA", net.IP(b.AAAA[:]).String()
	case *dnsmessage.CNAMEResource:
		record.Type, record.Value = "CNAME", strings.TrimSuffix(b.CNAME.String(), ".")
	case *dnsmessage.TXTResource:
		record.Type, record.Value = "TXT", strings.Join(b.TXT, "")
	}
	return record
}

func (c *Client) server() (string, error) {
	if c.Server != "" {
		return c.Server, nil
	}
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return "", fmt.Errorf("find a name server: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			return net.JoinHostPort(fields[1], "53"), nil
		}
	}
	return "", errors.New("find a name server: /etc/resolv.conf names none")
}

// ask sends one question over UDP, and over TCP when the answer does not fit.
func (c *Client) ask(ctx context.Context, server, name string, t dnsmessage.Type, recursive bool) (dnsmessage.Message, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return dnsmessage.Message{}, fmt.Errorf("%q: %w", name, err)
	}
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: recursive},
		Questions: []dnsmessage.Question{{Name: q, Type: t, Class: dnsmessage.ClassINET}},
	}
	packed, err := question.Pack()
	if err != nil {
		return dnsmessage.Message{}, err
	}
	answer, err := exchange(ctx, "udp", server, packed, question.ID)
	if err == nil && answer.Truncated {
		answer, err = exchange(ctx, "tcp", server, packed, question.ID)
	}
	if err != nil {
		return answer, err
	}
	if answer.RCode != dnsmessage.RCodeSuccess && answer.RCode != dnsmessage.RCodeNameError {
		return answer, fmt.Errorf("it answered %s", strings.TrimPrefix(answer.RCode.String(), "RCode"))
	}
	return answer, nil
}

func exchange(ctx context.Context, network, server string, question []byte, id uint16) (dnsmessage.Message, error) {
	var answer dnsmessage.Message
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return answer, err
		}
	}
	if network == "tcp" {
		question = append([]byte{byte(len(question) >> 8), byte(len(question))}, question...)
	}
	if _, err := conn.Write(question); err != nil {
		return answer, err
	}
	buffer := make([]byte, 1<<16)
	for {
		message, err := receive(conn, network, buffer)
		if err != nil {
			return answer, err
		}
		// Somebody else's answer is not ours.
		if err := answer.Unpack(message); err == nil && answer.ID == id && answer.Response {
			return answer, nil
		}
	}
}

// receive reads one message. Over TCP two bytes before it say how long it is.
func receive(conn net.Conn, network string, buffer []byte) ([]byte, error) {
	if network != "tcp" {
		n, err := conn.Read(buffer)
		return buffer[:n], err
	}
	if _, err := io.ReadFull(conn, buffer[:2]); err != nil {
		return nil, err
	}
	n := int(buffer[0])<<8 | int(buffer[1])
	_, err := io.ReadFull(conn, buffer[:n])
	return buffer[:n], err
}
