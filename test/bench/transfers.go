package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// spent is what a transfer takes.
type spent struct {
	time time.Duration
	cpu  time.Duration // of the whole machine, the kernel's threads included
}

// measureThroughput compares a full stream from agent to agent with a bare
// pipe, with that pipe through mutual TLS, and with syncoid through ssh, over the
// same data. Where the processor has no instructions for it, as under emulation,
// encryption is what takes the time.
func measureThroughput(ctx context.Context, h *host) ([]row, error) {
	runs, size := 3, int64(64*mebibyte)
	if h.long {
		runs, size = 5, 256*mebibyte
	}
	dataset, err := h.volume(ctx, "ours", size)
	if err != nil {
		return nil, err
	}
	theirs, err := h.volume(ctx, "theirs", size)
	if err != nil {
		return nil, err
	}
	ours := func(int) (spent, error) {
		// A transfer that was done is remembered, so each has a snapshot of its own.
		id, err := h.snapshotted(dataset, fmt.Sprint("run-", time.Now().UnixNano()))
		if err != nil {
			return spent{}, err
		}
		used, err := h.spend(ctx, func() error {
			_, err := h.replicated(ctx, id)
			return err
		})
		return used, errors.Join(err, h.forget(ctx, h.site.Replica(dataset)))
	}
	target := path.Join(h.target, "bare")
	bare, err := h.barePipe(ctx, theirs, target)
	if err != nil {
		return nil, err
	}
	syncoid := func(int) (spent, error) {
		used, err := h.spend(ctx, func() error {
			_, err := command(ctx, "syncoid", "--no-sync-snap", "--no-privilege-elevation", "--quiet",
				"--sshoption=StrictHostKeyChecking=no", theirs, h.ssh+":"+target)
			return err
		})
		return used, errors.Join(err, h.forget(ctx, target))
	}
	type other struct {
		name string
		run  func(int) (spent, error)
		bar  bar
	}
	encrypted := func(int) (spent, error) {
		used, err := h.spend(ctx, func() error { return h.encryptedPipe(ctx, target, theirs+"@bare") })
		return used, errors.Join(err, h.forget(ctx, target))
	}
	others := []other{
		{"zfs send | zfs receive", bare, atLeast(0.95)},
		{"zfs send | mutual TLS | zfs receive", encrypted, atLeast(0.95)},
	}
	if h.ssh != "" {
		others = append(others, other{"syncoid through ssh", syncoid, atLeast(1)})
	}
	var rows []row
	for _, other := range others {
		us, them, err := alternate(runs, ours, other.run)
		if err != nil {
			return nil, err
		}
		rows = append(rows, throughput("throughput from agent to agent", other.name, size, us, them, other.bar))
	}
	return rows, nil
}

// barePipe is a full stream of a dataset from zfs send to zfs receive.
func (h *host) barePipe(ctx context.Context, dataset, target string) (func(int) (spent, error), error) {
	if _, err := command(ctx, "zfs", "snapshot", dataset+"@bare"); err != nil {
		return nil, err
	}
	return func(int) (spent, error) {
		used, err := h.spend(ctx, func() error { return pipe(ctx, target, dataset+"@bare") })
		return used, errors.Join(err, h.forget(ctx, target))
	}, nil
}

// throughput compares what the same bytes took.
func throughput(what, against string, size int64, us, them []spent, b bar) row {
	ourTime, ourCPU := medians(us)
	theirTime, theirCPU := medians(them)
	return row{
		what: what, ours: rate(size, ourTime), against: against, theirs: rate(size, theirTime),
		ratio: float64(theirTime) / float64(ourTime), bar: b,
		note: fmt.Sprintf("median of %d each of %s; processor time for a GiB: %s and %s",
			len(us), mebibytes(uint64(size)), perGiB(size, ourCPU), perGiB(size, theirCPU)),
	}
}

func medians(all []spent) (t, cpu time.Duration) {
	var ts, cpus []time.Duration
	for _, s := range all {
		ts, cpus = append(ts, s.time), append(cpus, s.cpu)
	}
	return median(ts), median(cpus)
}

func rate(bytes int64, d time.Duration) string {
	return fmt.Sprintf("%.1f MiB/s", float64(bytes)/mebibyte/d.Seconds())
}

func perGiB(bytes int64, cpu time.Duration) string {
	return fmt.Sprintf("%.1f s", cpu.Seconds()*gibibyte/float64(bytes))
}

// spend measures what something takes.
func (h *host) spend(ctx context.Context, f func() error) (spent, error) {
	before, err := busy()
	if err != nil {
		return spent{}, err
	}
	took, err := timed(f)
	if err != nil {
		return spent{}, err
	}
	// What is still to be written belongs to it.
	if _, err := command(ctx, "zpool", "sync"); err != nil {
		return spent{}, err
	}
	after, err := busy()
	return spent{took, after - before}, err
}

// busy is how long all processors have not been idle, from proc(5).
func busy() (time.Duration, error) {
	const tick = time.Second / 100
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var sum time.Duration
	for i, f := range strings.Fields(line)[1:] {
		const idle, iowait, guest = 3, 4, 8
		if i == idle || i == iowait || i >= guest {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// pipe is zfs send | zfs receive, as one would write it.
func pipe(ctx context.Context, target string, what ...string) error {
	send, receive := sending(ctx, what...), receiving(ctx, target)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	send.Stdout, receive.Stdin = w, r
	err = errors.Join(send.Start(), receive.Start())
	w.Close()
	r.Close()
	if err != nil {
		return err
	}
	return errors.Join(send.Wait(), receive.Wait())
}

func sending(ctx context.Context, what ...string) *exec.Cmd {
	send := exec.CommandContext(ctx, "zfs", append([]string{"send", "-Lec"}, what...)...)
	send.Stderr = os.Stderr
	return send
}

func receiving(ctx context.Context, target string) *exec.Cmd {
	receive := exec.CommandContext(ctx, "zfs", "receive", "-s", "-u", target)
	receive.Stderr = os.Stderr
	return receive
}

// encryptedPipe is pipe through a connection with mutual TLS, with certificates of
// the agents' kind.
func (h *host) encryptedPipe(ctx context.Context, target string, what ...string) error {
	from, err := h.certificate(sourceNode)
	if err != nil {
		return err
	}
	to, err := h.certificate(targetNode)
	if err != nil {
		return err
	}
	to.ClientAuth = tls.RequireAndVerifyClientCert
	from.ServerName = targetNode
	listener, err := tls.Listen("tcp", "127.0.0.1:0", to)
	if err != nil {
		return err
	}
	defer listener.Close()
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		receive := receiving(ctx, target)
		receive.Stdin = conn
		return receive.Run()
	})
	both.Go(func() error {
		conn, err := (&tls.Dialer{Config: from}).DialContext(ctx, "tcp", listener.Addr().String())
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		defer conn.Close()
		send := sending(ctx, what...)
		send.Stdout = conn
		return send.Run()
	})
	return both.Wait()
}

// certificate is how one of the agents identifies itself, and whom it trusts.
func (h *host) certificate(node string) (*tls.Config, error) {
	bundle, err := os.ReadFile(filepath.Join(h.dir, node+".pem"))
	if err != nil {
		return nil, err
	}
	_, afterAuthority := pem.Decode(bundle)
	own, err := tls.X509KeyPair(afterAuthority, afterAuthority)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of node %s: %w", node, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, ClientCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// forget destroys a replica, and waits until its space is free.
func (h *host) forget(ctx context.Context, dataset string) error {
	if err := destroy(ctx, dataset); err != nil {
		return err
	}
	_, err := command(ctx, "zpool", "wait", "-t", "free", h.targetPool)
	return err
}
