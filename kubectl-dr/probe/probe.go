// Package probe checks that a recovered application works, through the API
// server alone: nothing has to be exposed for it.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

const (
	// DefaultTimeout is for a probe that says nothing else, retries included, and
	// DefaultJobTimeout for one that is a Job.
	DefaultTimeout    = time.Minute
	DefaultJobTimeout = 10 * time.Minute
	// attemptTimeout bounds one try.
	attemptTimeout = 20 * time.Second
	// settle is how long a forwarded connection has to stay open to count.
	settle = 500 * time.Millisecond
	// maxBody bounds what is read of an answer.
	maxBody = 4 << 20
)

// Prober runs probes in one cluster.
type Prober struct {
	Client   client.Client
	Pods     cluster.Pods
	Interval time.Duration
	// Run is the name of the run, which the Jobs of probes carry.
	Run string
}

// Describe says what a probe does.
func Describe(p plan.Probe) string {
	switch {
	case p.HTTP != nil:
		return fmt.Sprintf("GET %s from service %s, expect %s", path(p.HTTP), p.HTTP.Service, expectation(p.HTTP.Expect))
	case p.TCP != nil:
		return fmt.Sprintf("connect to service %s", p.TCP.Service)
	case p.Exec != nil:
		return fmt.Sprintf("run a command in %s, expect exit code %d", p.Exec.Workload, p.Exec.Expect.ExitCode)
	case p.SQL != nil:
		return fmt.Sprintf("ask %s in %s, expect %s", p.SQL.Client, p.SQL.Workload, answer(p.SQL.Expect))
	case p.Job != nil:
		return "run a job, expect that it succeeds, and delete it"
	}
	return ""
}

func path(p *plan.HTTPProbe) string {
	if p.Path == "" {
		return "/"
	}
	return p.Path
}

func expectation(e plan.HTTPExpect) string {
	s := fmt.Sprint(status(e))
	if e.Contains != "" {
		s += fmt.Sprintf(" with %q in it", e.Contains)
	}
	return s
}

func status(e plan.HTTPExpect) int {
	if e.Status == 0 {
		return http.StatusOK
	}
	return e.Status
}

// Probe tries until the probe passes or its time is up, and returns what was
// seen. place says where a source namespace is restored to.
func (p *Prober) Probe(ctx context.Context, probe plan.Probe, namespaces []string, place func(string) string) (string, error) {
	timeout := probe.Timeout.Duration
	switch {
	case timeout == 0 && probe.Job != nil:
		timeout = DefaultJobTimeout
	case timeout == 0:
		timeout = DefaultTimeout
	}
	if probe.Job != nil {
		ns, err := plan.ParseNamespace(probe.Namespace, namespaces)
		if err != nil {
			return "", err
		}
		return p.job(ctx, probe, place(ns), timeout)
	}
	var seen string
	var last error
	err := cluster.Poll(ctx, p.Interval, timeout, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		s, err := p.try(ctx, probe, namespaces, place)
		if err == nil {
			seen = s
			return true, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		return false, nil
	})
	switch {
	case err == nil:
		return seen, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	default:
		return "", fmt.Errorf("not passed after %s: %w", timeout, last)
	}
}

func (p *Prober) try(ctx context.Context, probe plan.Probe, namespaces []string, place func(string) string) (string, error) {
	if probe.Exec != nil {
		w, err := plan.ParseWorkload(probe.Exec.Workload, namespaces)
		if err != nil {
			return "", err
		}
		return p.exec(ctx, probe.Exec, w, place(w.Namespace))
	}
	if probe.SQL != nil {
		w, err := plan.ParseWorkload(probe.SQL.Workload, namespaces)
		if err != nil {
			return "", err
		}
		return p.sql(ctx, probe.SQL, w, place(w.Namespace))
	}
	ns, err := plan.ParseNamespace(probe.Namespace, namespaces)
	if err != nil {
		return "", err
	}
	if probe.TCP != nil {
		return p.tcp(ctx, probe.TCP, place(ns))
	}
	return p.http(ctx, probe.HTTP, place(ns))
}

func (p *Prober) http(ctx context.Context, probe *plan.HTTPProbe, namespace string) (seen string, err error) {
	tunnel, err := p.forward(ctx, namespace, probe.Service, probe.Port)
	if err != nil {
		return "", err
	}
	defer func() {
		// What the far end says explains a connection that broke.
		if far := tunnel.Close(); err != nil && far != nil {
			err = fmt.Errorf("%w (%w)", err, far)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+tunnel.Address()+path(probe), nil)
	if err != nil {
		return "", err
	}
	req.Host = probe.Host
	if req.Host == "" {
		req.Host = probe.Service + "." + namespace
	}
	for name, value := range probe.Headers {
		req.Header.Set(name, value)
	}
	plain := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		// A redirect leads out of the tunnel; it is an answer like others.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := plain.Do(req)
	if err != nil {
		return "", fmt.Errorf("get %s from service %s: %w", path(probe), probe.Service, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return "", fmt.Errorf("get %s from service %s: %w", path(probe), probe.Service, err)
	}
	got := strings.ToLower(resp.Status)
	if to := resp.Header.Get("Location"); to != "" {
		got += " to " + to
	}
	if resp.StatusCode != status(probe.Expect) {
		return "", fmt.Errorf("get %s from service %s: answered %s, want %d", path(probe), probe.Service, got, status(probe.Expect))
	}
	if wanted := strings.ReplaceAll(probe.Expect.Contains, "$(HOST)", req.Host); !strings.Contains(string(body), wanted) {
		return "", fmt.Errorf("get %s from service %s: answered %s without %q in %d bytes", path(probe), probe.Service, got, wanted, len(body))
	}
	if probe.Host != "" {
		got += " as " + probe.Host
	}
	return fmt.Sprintf("answered %s, %d bytes", got, len(body)), nil
}

func (p *Prober) tcp(ctx context.Context, probe *plan.TCPProbe, namespace string) (string, error) {
	tunnel, err := p.forward(ctx, namespace, probe.Service, probe.Port)
	if err != nil {
		return "", err
	}
	err = connected(ctx, tunnel.Address())
	if far := tunnel.Close(); err == nil && far != nil {
		err = far
	}
	if err != nil {
		return "", fmt.Errorf("connect to service %s: %w", probe.Service, err)
	}
	return "connected", nil
}

// connected reports whether the far end holds the connection or talks. The near
// end accepts at once, whatever happens behind it.
func connected(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	var timeout net.Error
	switch {
	case err == nil, errors.As(err, &timeout) && timeout.Timeout():
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("the connection was closed at once")
	}
	return err
}

// forward opens a tunnel to a ready pod behind a service.
func (p *Prober) forward(ctx context.Context, namespace, service string, port int32) (cluster.Tunnel, error) {
	svc := &corev1api.Service{}
	if err := p.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: service}, svc); err != nil {
		return nil, fmt.Errorf("get service %s/%s: %w", namespace, service, err)
	}
	if len(svc.Spec.Selector) == 0 {
		return nil, fmt.Errorf("service %s/%s selects no pods", namespace, service)
	}
	i := 0
	if port != 0 {
		i = slices.IndexFunc(svc.Spec.Ports, func(sp corev1api.ServicePort) bool { return sp.Port == port })
	}
	if i < 0 || i >= len(svc.Spec.Ports) {
		return nil, fmt.Errorf("service %s/%s has no port %d", namespace, service, port)
	}
	pod, err := p.readyPod(ctx, namespace, svc.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("service %s/%s: %w", namespace, service, err)
	}
	target, err := targetPort(svc.Spec.Ports[i], pod)
	if err != nil {
		return nil, fmt.Errorf("service %s/%s: %w", namespace, service, err)
	}
	return p.Pods.Forward(ctx, namespace, pod.Name, target)
}

func targetPort(port corev1api.ServicePort, pod *corev1api.Pod) (int32, error) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port, nil
		}
		return port.TargetPort.IntVal, nil
	}
	for _, c := range pod.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal {
				return cp.ContainerPort, nil
			}
		}
	}
	return 0, fmt.Errorf("pod %s has no port named %q", pod.Name, port.TargetPort.StrVal)
}

func (p *Prober) readyPod(ctx context.Context, namespace string, selector map[string]string) (*corev1api.Pod, error) {
	pods := &corev1api.PodList{}
	if err := p.Client.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels(selector)); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		if podReady(&pods.Items[i]) {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("none of %d pods is ready", len(pods.Items))
}

func podReady(pod *corev1api.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1api.PodCondition) bool {
		return c.Type == corev1api.PodReady && c.Status == corev1api.ConditionTrue
	})
}

func (p *Prober) exec(ctx context.Context, probe *plan.ExecProbe, w plan.Workload, namespace string) (string, error) {
	result, pod, err := p.in(ctx, w, namespace, probe.Container, probe.Command)
	if err != nil {
		return "", err
	}
	said := tail(result.Output)
	if result.ExitCode != probe.Expect.ExitCode {
		return "", fmt.Errorf("exec in pod %s: exit code %d, want %d: %s", pod, result.ExitCode, probe.Expect.ExitCode, said)
	}
	if !strings.Contains(result.Output, probe.Expect.Contains) {
		return "", fmt.Errorf("exec in pod %s: no %q in its output: %s", pod, probe.Expect.Contains, said)
	}
	return fmt.Sprintf("exit code %d", result.ExitCode), nil
}

// in runs a command in a ready pod of a workload, and returns the pod's name.
func (p *Prober) in(ctx context.Context, w plan.Workload, namespace, container string, command []string) (cluster.ExecResult, string, error) {
	none := cluster.ExecResult{}
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion("apps/v1")
	obj.SetKind(map[string]string{"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}[w.Kind])
	if err := p.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: w.Name}, obj); err != nil {
		return none, "", fmt.Errorf("get %s %s/%s: %w", w.Kind, namespace, w.Name, err)
	}
	labels, _, _ := unstructured.NestedStringMap(obj.Object, "spec", "selector", "matchLabels")
	pod, err := p.readyPod(ctx, namespace, labels)
	if err != nil {
		return none, "", fmt.Errorf("%s %s/%s: %w", w.Kind, namespace, w.Name, err)
	}
	result, err := p.Pods.Exec(ctx, namespace, pod.Name, container, command)
	return result, pod.Name, err
}

// tail returns the end of an output in one line.
func tail(output string) string {
	line := strings.Join(strings.Fields(output), " ")
	const keep = 200
	if r := []rune(line); len(r) > keep {
		return "…" + string(r[len(r)-keep:])
	}
	if line == "" {
		return "no output"
	}
	return line
}
