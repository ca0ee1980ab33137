package rig

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

const (
	stopGrace  = 15 * time.Second
	readyAfter = 3 * time.Minute
	// importAfter is for machines that import large images, which is slow under
	// emulation.
	importAfter = 8 * time.Minute
)

// part is a process of the rig.
type part struct {
	name  string
	needs []string
	port  int
	// log is the file with its output.
	log string
	// start starts it; the rig has made sure that it isn't running.
	start func(context.Context) (proc.ID, error)
	// ready is asked until it returns nil, for as long as within says; readyAfter
	// when it is zero.
	ready  func(context.Context) error
	within time.Duration
	// renew, when set, says that what runs is out of date and must be started anew.
	renew func() (bool, error)
	// abrupt parts are stopped as a power cut would.
	abrupt bool
}

// up are the steps that start everything.
func (r *Rig) up() []step {
	var steps []step
	for _, p := range r.parts() {
		steps = append(steps, step{name: p.name, needs: p.needs, do: func(ctx context.Context) (string, error) {
			return r.ensure(ctx, p)
		}})
	}
	if !r.state.Light {
		for _, s := range r.furnished() {
			steps = append(steps, r.siteSteps(s)...)
		}
		for _, n := range nodes {
			steps = append(steps, r.joinStep(n))
		}
	}
	return steps
}

// atFirst are those that are done without being asked for.
func (r *Rig) atFirst() []step {
	steps := r.up()
	if !r.state.OneCluster {
		return steps
	}
	return slices.DeleteFunc(steps, func(s step) bool { return matches(s.name, recovery) })
}

// parts are the processes of the rig.
func (r *Rig) parts() []part {
	parts := []part{r.s3Part()}
	if !r.state.Light {
		for _, s := range sites {
			parts = append(parts, r.planeParts(s)...)
			parts = append(parts, r.veleroPart(s))
		}
	}
	for _, n := range nodes {
		parts = append(parts, r.machinePart(n))
	}
	for i, p := range parts {
		if p.log == "" {
			parts[i].log = r.Log(p.name)
		}
	}
	return parts
}

// ensure starts the part unless it runs, and waits until it is ready.
func (r *Rig) ensure(ctx context.Context, p part) (string, error) {
	id, what := r.process(p.name), ""
	if p.renew != nil {
		outdated, err := p.renew()
		if err != nil {
			return "", err
		}
		if outdated && id.Alive() {
			if err := id.Stop(ctx, stopGrace); err != nil {
				return "", err
			}
		}
	}
	if !id.Alive() {
		if err := r.stopStrays(ctx, p); err != nil {
			return "", err
		}
		var err error
		if id, err = p.start(ctx); err != nil {
			return "", err
		}
		if err := r.setProcess(p.name, id); err != nil {
			return "", err
		}
		what = fmt.Sprintf("ready, process %d, port %d", id.PID, p.port)
	}
	return what, r.await(ctx, p, id)
}

// await waits until the part is ready; a process that ends meanwhile is an
// error at once.
func (r *Rig) await(ctx context.Context, p part, id proc.ID) error {
	within := cmp.Or(p.within, readyAfter)
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	ready := proc.Poll(ctx, 100*time.Millisecond, func() bool {
		last = probe(ctx, p)
		return last == nil || !id.Alive()
	})
	switch {
	case ready && last == nil:
		return nil
	case !id.Alive():
		return fmt.Errorf("it ended; the end of %s:\n%s", p.log, tail(p.log, 2000))
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ctx.Err()
	}
	return fmt.Errorf("not ready after %s: %w (see %s)", within, last, p.log)
}

func probe(ctx context.Context, p part) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return p.ready(ctx)
}

// stop stops the parts of the targets in the reverse order of starting; all
// when there are none.
func (r *Rig) stop(ctx context.Context, targets ...string) error {
	var steps []step
	for _, p := range r.parts() {
		steps = append(steps, step{name: p.name, needs: p.needs, do: func(ctx context.Context) (string, error) {
			id, what := r.process(p.name), ""
			if id.Alive() {
				what = "stopped"
			}
			grace := stopGrace
			if p.abrupt {
				grace = 0
			}
			if err := id.Stop(ctx, grace); err != nil {
				return "", err
			}
			if err := r.stopStrays(ctx, p); err != nil {
				return "", err
			}
			return what, r.setProcess(p.name, proc.ID{})
		}})
	}
	return runSteps(ctx, chosen(reversed(steps), targets), r.progress.tell)
}

// stopStrays ends processes of a part that no record names: its children, and
// what an interrupted command started.
func (r *Rig) stopStrays(ctx context.Context, p part) error {
	strays, err := r.Processes(p.name)
	if err != nil {
		return err
	}
	for _, id := range strays {
		if err := id.Stop(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// mark is what processes of the part carry in their environment.
func (r *Rig) mark(part string) string { return r.in(part) }

// Processes are those of a part and their children.
func (r *Rig) Processes(part string) ([]proc.ID, error) { return proc.Marked(r.mark(part)) }

func (r *Rig) process(part string) proc.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Processes[part]
}

func (r *Rig) setProcess(part string, id proc.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == (proc.ID{}) {
		delete(r.state.Processes, part)
	} else {
		r.state.Processes[part] = id
	}
	return r.state.write(r.Paths)
}

// run starts a program as a part.
func (r *Rig) run(part string, s proc.Spec) (proc.ID, error) {
	s.Log, s.Mark, s.Dir = r.Log(part), r.mark(part), r.Dir
	return proc.Start(s)
}

// httpReady asks an address on this machine for status 200.
func httpReady(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %s", url, resp.Status)
	}
	return nil
}

// tlsConfig identifies as the pair and trusts the rig's authority alone.
func (r *Rig) tlsConfig(pair string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(r.PKI().Cert(pair), r.PKI().Key(pair))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(r.PKI().CA())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// adminReady is httpReady as the administrator.
func (r *Rig) adminReady(ctx context.Context, url string) error {
	config, err := r.tlsConfig("admin")
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	return httpReady(ctx, &http.Client{Transport: transport}, url)
}

// tcpReady asks whether something listens.
func tcpReady(ctx context.Context, port int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", local(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// local is the address of a port on this machine.
func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// tail is the end of a file, from the beginning of a line.
func tail(path string, size int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(0, info.Size()-size)
	data, err := io.ReadAll(io.NewSectionReader(f, from, size))
	if err != nil {
		return err.Error()
	}
	text := string(data)
	if _, rest, ok := strings.Cut(text, "\n"); ok && from > 0 {
		text = rest
	}
	return strings.TrimSpace(text)
}
