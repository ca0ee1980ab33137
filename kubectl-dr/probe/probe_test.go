package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// pods leads every forward to one address and runs every command the same.
type pods struct {
	address string
	far     error
	result  cluster.ExecResult
	err     error
	ports   []int32
	in      []string
	log     string
}

func (p *pods) Forward(_ context.Context, namespace, pod string, port int32) (cluster.Tunnel, error) {
	p.ports, p.in = append(p.ports, port), append(p.in, namespace+"/"+pod)
	return tunnel{p}, p.err
}

func (p *pods) Logs(context.Context, string, string, string, cluster.LogOptions) ([]byte, error) {
	return []byte(p.log), nil
}

func (p *pods) Exec(_ context.Context, namespace, pod, _ string, _ []string) (cluster.ExecResult, error) {
	p.in = append(p.in, namespace+"/"+pod)
	return p.result, p.err
}

type tunnel struct{ p *pods }

func (t tunnel) Address() string { return t.p.address }
func (t tunnel) Close() error    { return t.p.far }

func objects(ready bool) []client.Object {
	status := corev1api.ConditionTrue
	if !ready {
		status = corev1api.ConditionFalse
	}
	labels := map[string]string{"app": "web"}
	return []client.Object{
		&corev1api.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop-drill", Name: "web"},
			Spec: corev1api.ServiceSpec{Selector: labels, Ports: []corev1api.ServicePort{
				{Port: 80, TargetPort: intstr.FromString("http")}, {Port: 81, TargetPort: intstr.FromInt32(9090)}, {Port: 82},
			}},
		},
		&corev1api.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop-drill", Name: "elsewhere"}},
		&appsv1api.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop-drill", Name: "web"},
			Spec:       appsv1api.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}},
		},
		&corev1api.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop-drill", Name: "web-0", Labels: labels},
			Spec:       corev1api.PodSpec{Containers: []corev1api.Container{{Name: "c", Ports: []corev1api.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
			Status:     corev1api.PodStatus{Conditions: []corev1api.PodCondition{{Type: corev1api.PodReady, Status: status}}},
		},
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "https://elsewhere.example.org/", http.StatusFound)
		case "/host":
			fmt.Fprint(w, r.Host, " ", r.Header.Get("X-Proto"))
		default:
			fmt.Fprint(w, "<title>shop</title>")
		}
	}))
	t.Cleanup(web.Close)
	closing, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = closing.Close() })
	go func() {
		for {
			conn, err := closing.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	at := web.Listener.Addr().String()
	get := func(p plan.HTTPProbe) plan.Probe { p.Service = "web"; return plan.Probe{HTTP: &p} }
	exec := func(e plan.ExecExpect) plan.Probe {
		return plan.Probe{Exec: &plan.ExecProbe{Workload: "deployment/web", Command: []string{"true"}, Expect: e}}
	}
	tests := []struct {
		name  string
		probe plan.Probe
		pods  *pods
		want  string
		err   string
		port  int32
	}{
		{"a page, at the pod's named port", get(plan.HTTPProbe{}), &pods{address: at}, "answered 200 ok, 19 bytes", "", 8080},
		{"a port by number", get(plan.HTTPProbe{Port: 81}), &pods{address: at}, "answered 200 ok, 19 bytes", "", 9090},
		{"a port that is the pod's too", get(plan.HTTPProbe{Port: 82}), &pods{address: at}, "answered 200 ok, 19 bytes", "", 82},
		{"a port that the service lacks", get(plan.HTTPProbe{Port: 83}), &pods{address: at}, "", "has no port 83", 0},
		{"a page with what is wanted", get(plan.HTTPProbe{Expect: plan.HTTPExpect{Contains: "<title>shop"}}), &pods{address: at}, "answered 200 ok, 19 bytes", "", 8080},
		{"a page without what is wanted", get(plan.HTTPProbe{Expect: plan.HTTPExpect{Contains: "blog"}}), &pods{address: at}, "", `answered 200 ok without "blog" in 19 bytes`, 8080},
		{"a redirect is not followed", get(plan.HTTPProbe{Path: "/redirect"}), &pods{address: at}, "", "answered 302 found to https://elsewhere.example.org/, want 200", 8080},
		{"a redirect that is wanted", get(plan.HTTPProbe{Path: "/redirect", Expect: plan.HTTPExpect{Status: 302}}), &pods{address: at}, "answered 302 found to https://elsewhere.example.org/, 53 bytes", "", 8080},
		{"host and headers", get(plan.HTTPProbe{Path: "/host", Host: "shop.example.org", Headers: map[string]string{"X-Proto": "https"}, Expect: plan.HTTPExpect{Contains: "shop.example.org https"}}), &pods{address: at}, "answered 200 ok as shop.example.org, 22 bytes", "", 8080},
		{"its own host in the page", get(plan.HTTPProbe{Path: "/host", Host: "shop.example.org", Expect: plan.HTTPExpect{Contains: "$(HOST) "}}), &pods{address: at}, "answered 200 ok as shop.example.org, 17 bytes", "", 8080},
		{"another host in the page", get(plan.HTTPProbe{Path: "/", Host: "shop.example.org", Expect: plan.HTTPExpect{Contains: "//$(HOST)/"}}), &pods{address: at}, "", `without "//shop.example.org/"`, 8080},
		{"a server that is down, with what the far end says", get(plan.HTTPProbe{}), &pods{address: closing.Addr().String(), far: errors.New("connection refused in pod")}, "", "connection refused in pod", 8080},
		{"a tunnel that can not be made", get(plan.HTTPProbe{}), &pods{err: errors.New("no kubelet")}, "", "no kubelet", 8080},
		{"an open port", plan.Probe{TCP: &plan.TCPProbe{Service: "web"}}, &pods{address: at}, "connected", "", 8080},
		{"a port that closes at once", plan.Probe{TCP: &plan.TCPProbe{Service: "web"}}, &pods{address: closing.Addr().String()}, "", "closed at once", 8080},
		{"a service that is not there", plan.Probe{TCP: &plan.TCPProbe{Service: "gone"}}, &pods{}, "", `services "gone" not found`, 0},
		{"a service without pods", plan.Probe{TCP: &plan.TCPProbe{Service: "elsewhere"}}, &pods{}, "", "selects no pods", 0},
		{"a command that works", exec(plan.ExecExpect{Contains: "3 rows"}), &pods{result: cluster.ExecResult{Output: "3 rows"}}, "exit code 0", "", 0},
		{"a command that fails", exec(plan.ExecExpect{}), &pods{result: cluster.ExecResult{ExitCode: 3, Output: "no\ntable"}}, "", "exit code 3, want 0: no table", 0},
		{"a command that says something else", exec(plan.ExecExpect{Contains: "3 rows"}), &pods{}, "", `no "3 rows" in its output: no output`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &Prober{Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects(true)...).Build(), Pods: tt.pods, Interval: time.Hour}
			tt.probe.Timeout.Duration = 2 * time.Second
			if tt.err != "" {
				tt.probe.Timeout.Duration = 700 * time.Millisecond
			}
			got, err := p.Probe(t.Context(), tt.probe, []string{"shop"}, func(ns string) string { return ns + "-drill" })
			assert.Equal(t, tt.want, got)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			for _, port := range tt.pods.ports {
				assert.Equal(t, tt.port, port)
			}
			for _, in := range tt.pods.in {
				assert.Equal(t, "shop-drill/web-0", in)
			}
		})
	}
}

func TestProbe_triesUntilItPasses(t *testing.T) {
	t.Parallel()
	tries := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "x")
	}))
	defer web.Close()
	p := &Prober{Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects(true)...).Build(), Pods: &pods{address: web.Listener.Addr().String()}, Interval: time.Millisecond}
	_, err := p.Probe(t.Context(), plan.Probe{HTTP: &plan.HTTPProbe{Service: "web"}}, []string{"shop"}, func(string) string { return "shop-drill" })
	require.NoError(t, err)
	assert.Equal(t, 3, tries)
}

func TestProbe_needsAReadyPod(t *testing.T) {
	t.Parallel()
	p := &Prober{Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects(false)...).Build(), Pods: &pods{}, Interval: time.Millisecond}
	probe := plan.Probe{HTTP: &plan.HTTPProbe{Service: "web"}}
	probe.Timeout.Duration = 5 * time.Millisecond
	_, err := p.Probe(t.Context(), probe, []string{"shop"}, func(string) string { return "shop-drill" })
	require.ErrorContains(t, err, "none of 1 pods is ready")
}
