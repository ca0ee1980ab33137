package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Pods reaches into running pods through the API server.
type Pods interface {
	// Forward opens a tunnel to a port of a pod.
	Forward(ctx context.Context, namespace, pod string, port int32) (Tunnel, error)
	// Exec runs a command in a container, in the default one when none is
	// named. A command that ends with another code than 0 is not an error.
	Exec(ctx context.Context, namespace, pod, container string, command []string) (ExecResult, error)
	// Logs returns what a container wrote.
	Logs(ctx context.Context, namespace, pod, container string, opts LogOptions) ([]byte, error)
}

// LogOptions say which part of a log is wanted.
type LogOptions struct {
	// Lines are the last so many.
	Lines int64
	// Previous is the log of the container before it restarted.
	Previous bool
}

// Tunnel is a local address that leads to a port of a pod.
type Tunnel interface {
	Address() string
	// Close ends it and returns what went wrong at the far end.
	Close() error
}

// ExecResult is how a command ended.
type ExecResult struct {
	Output   string // standard output and error, cut at 64 KiB
	Stdout   string // standard output alone, cut too
	ExitCode int
}

type podAccess struct {
	config *rest.Config
}

// url is that of a subresource of a pod.
func (p *podAccess) url(namespace, pod, sub string, query url.Values) (*url.URL, error) {
	base, _, err := rest.DefaultServerUrlFor(p.config)
	if err != nil {
		return nil, err
	}
	base = base.JoinPath("api", "v1", "namespaces", namespace, "pods", pod, sub)
	base.RawQuery = query.Encode()
	return base, nil
}

// fallBack tells a server that can't do WebSockets from one that refuses.
func fallBack(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

func (p *podAccess) Forward(ctx context.Context, namespace, pod string, port int32) (Tunnel, error) {
	wrap := func(err error) error {
		return fmt.Errorf("forward to port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	target, err := p.url(namespace, pod, "portforward", nil)
	if err != nil {
		return nil, wrap(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(p.config)
	if err != nil {
		return nil, wrap(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(target, p.config)
	if err != nil {
		return nil, wrap(err)
	}
	t := &tunnel{stop: make(chan struct{}), done: make(chan error, 1)}
	ready := make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(portforward.NewFallbackDialer(overWebSocket, dialer, fallBack),
		[]string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(int(port))}, t.stop, ready, io.Discard, &t.far)
	if err != nil {
		return nil, wrap(err)
	}
	go func() { t.done <- forwarder.ForwardPorts() }()
	select {
	case err := <-t.done:
		if err == nil {
			err = errors.New("the connection ended")
		}
		return nil, wrap(err)
	case <-ctx.Done():
		close(t.stop)
		return nil, wrap(context.Cause(ctx))
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil || len(ports) == 0 {
		close(t.stop)
		return nil, wrap(errors.Join(err, errors.New("no local port")))
	}
	t.address = "127.0.0.1:" + strconv.Itoa(int(ports[0].Local))
	return t, nil
}

type tunnel struct {
	address string
	stop    chan struct{}
	done    chan error
	far     lockedBuffer
}

func (t *tunnel) Address() string { return t.address }

func (t *tunnel) Close() error {
	close(t.stop)
	<-t.done
	if line, _, _ := strings.Cut(t.far.String(), "\n"); line != "" {
		return errors.New(line)
	}
	return nil
}

func (p *podAccess) Logs(ctx context.Context, namespace, pod, container string, opts LogOptions) ([]byte, error) {
	c, err := corev1client.NewForConfig(p.config)
	if err != nil {
		return nil, err
	}
	log, err := c.Pods(namespace).GetLogs(pod, &corev1api.PodLogOptions{
		Container: container, TailLines: &opts.Lines, Previous: opts.Previous, Timestamps: true,
	}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the log of container %s in pod %s/%s: %w", container, namespace, pod, err)
	}
	return log, nil
}

// maxOutput bounds what is kept of a command's output.
const maxOutput = 64 << 10

// lockedBuffer is a bounded buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p[:min(len(p), max(0, maxOutput-l.b.Len()))])
	return len(p), nil
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (p *podAccess) Exec(ctx context.Context, namespace, pod, container string, command []string) (ExecResult, error) {
	wrap := func(err error) error { return fmt.Errorf("exec in pod %s/%s: %w", namespace, pod, err) }
	query, err := scheme.ParameterCodec.EncodeParameters(&corev1api.PodExecOptions{
		Container: container, Command: command, Stdout: true, Stderr: true,
	}, corev1api.SchemeGroupVersion)
	if err != nil {
		return ExecResult{}, wrap(err)
	}
	target, err := p.url(namespace, pod, "exec", query)
	if err != nil {
		return ExecResult{}, wrap(err)
	}
	overSPDY, err := remotecommand.NewSPDYExecutor(p.config, http.MethodPost, target)
	if err != nil {
		return ExecResult{}, wrap(err)
	}
	overWebSocket, err := remotecommand.NewWebSocketExecutor(p.config, http.MethodGet, target.String())
	if err != nil {
		return ExecResult{}, wrap(err)
	}
	executor, err := remotecommand.NewFallbackExecutor(overWebSocket, overSPDY, fallBack)
	if err != nil {
		return ExecResult{}, wrap(err)
	}
	var output, stdout lockedBuffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.MultiWriter(&output, &stdout), Stderr: &output})
	result := ExecResult{Output: output.String(), Stdout: stdout.String()}
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		result.ExitCode = exit.Code
	case err != nil:
		return result, wrap(err)
	}
	return result, nil
}
