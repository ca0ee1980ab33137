package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

const (
	// maxAnswer bounds lists of snapshots, which can be long.
	maxAnswer = 64 << 20
	// window is what may be under way on one stream: enough for a fast link
	// with some delay, and a buffer between send and receive, which alternate
	// otherwise.
	window = 16 << 20
	// keepaliveTime is after how long a silent peer is asked for a sign, and
	// keepaliveTimeout how long it has to give it.
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 20 * time.Second
)

// Client calls the agent of one node. Errors of its methods are *Error.
type Client struct {
	agentpb.AgentClient
	Node    string
	Address string
	conn    *grpc.ClientConn
}

// Dial returns a client of the agent of a node, which must prove that name with
// its certificate. Nothing is sent before the first call, and a connection that
// breaks is made again by the next one.
func Dial(node, address string, bundle *Bundle) (*Client, error) {
	if node == "" || address == "" {
		return nil, fmt.Errorf("dial agent of node %q at %q: %w: both are needed", node, address, ErrInvalid)
	}
	creds := newClientCredentials(bundle, node)
	wrap := func(err error) error { return fromStatus(node, address, creds.lastError(), err) }
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(creds),
		// Agents are peers on the same networks; a proxy set for the process is
		// for something else.
		grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.ForceCodecV2(agentpb.NewCodec())),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return wrap(invoke(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, wrap(err)
			}
			return &clientStream{ClientStream: s, wrap: wrap}, nil
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial agent of node %s at %s: %w", node, address, err)
	}
	return &Client{AgentClient: agentpb.NewAgentClient(conn), Node: node, Address: address, conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// clientStream gives the errors of a stream their causes.
type clientStream struct {
	grpc.ClientStream
	wrap func(error) error
}

func (s *clientStream) RecvMsg(m any) error { return s.wrap(s.ClientStream.RecvMsg(m)) }

// Directory finds the agents of nodes, with one identity for all. It connects
// when an agent is first called. Its methods may be called at once.
type Directory struct {
	addresses map[string]string
	bundle    *Bundle

	mu      sync.Mutex
	clients map[string]*Client
}

// NewDirectory returns a directory of agents, node to host:port, with the
// identity of a bundle file.
func NewDirectory(addresses map[string]string, bundlePath string) (*Directory, error) {
	bundle, err := LoadBundle(bundlePath)
	if err != nil {
		return nil, err
	}
	return NewDirectoryWith(addresses, bundle), nil
}

// NewDirectoryWith is NewDirectory for a bundle that was read already.
func NewDirectoryWith(addresses map[string]string, bundle *Bundle) *Directory {
	return &Directory{addresses: maps.Clone(addresses), bundle: bundle, clients: map[string]*Client{}}
}

// Client returns the client of a node's agent, ErrNotFound when no
// address is known. It does not touch the network.
func (d *Directory) Client(node string) (*Client, error) {
	address, ok := d.addresses[node]
	if !ok {
		return nil, fmt.Errorf("agent of node %q: address %w", node, ErrNotFound)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.clients[node]; ok {
		return c, nil
	}
	c, err := Dial(node, address, d.bundle)
	if err != nil {
		return nil, err
	}
	d.clients[node] = c
	return c, nil
}

// Close ends all connections.
func (d *Directory) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for node, c := range d.clients {
		errs = append(errs, c.Close())
		delete(d.clients, node)
	}
	return errors.Join(errs...)
}
