package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Streams are those of a command. Nil ones are empty or discarded.
type Streams struct {
	In          io.Reader
	Out, ErrOut io.Writer
}

// Exec runs a command in the guest as root and returns its exit status. The
// error is about running it at all.
func (m Machine) Exec(ctx context.Context, argv []string, s Streams) (int, error) {
	client, err := m.dial(ctx)
	if err != nil {
		return 0, fmt.Errorf("connect to machine %s: %w", m.Name, err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return 0, fmt.Errorf("run %s on machine %s: %w", argv[0], m.Name, err)
	}
	session.Stdin, session.Stdout, session.Stderr = s.In, s.Out, s.ErrOut
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	err = session.Run(commandLine(argv))
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return 0, fmt.Errorf("run %s on machine %s: %w", argv[0], m.Name, err)
}

// dial connects to the guest and makes sure that it is this machine's.
func (m Machine) dial(ctx context.Context) (*ssh.Client, error) {
	k, err := m.readKeys()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort("127.0.0.1", fmt.Sprint(m.SSHPort))
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// The emulator accepts connections whether or not the guest answers.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(k.client)},
		HostKeyCallback:   ssh.FixedHostKey(k.host),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return ssh.NewClient(c, channels, requests), conn.SetDeadline(time.Time{})
}
