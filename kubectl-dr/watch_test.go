package kubectldr

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/metrics"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

func TestPrometheus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*world)
	}{
		{"rpo", "rpo -o prometheus", nil},
		{"rpo above twice the objective", "rpo -o prometheus", func(w *world) { w.pass(time.Hour); w.host.skew = time.Minute }},
		{"status after a drill", "status -o prometheus", func(w *world) { require.Zero(w.t, w.run(w.t.Context(), "drill").code) }},
		{"status after a failover", "status -o prometheus", func(w *world) {
			require.Zero(w.t, w.run(w.t.Context(), "failover", "--disaster", "--yes", "--accept-data-loss=1h").code)
		}},
		{"status with nothing to recover from", "status -o prometheus", func(w *world) { w.host.down = true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			parser := expfmt.NewTextParser(model.UTF8Validation)
			_, err := parser.TextToMetricFamilies(strings.NewReader(got.out))
			require.NoError(t, err, got.out)
			golden(t, filepath.Join("prometheus", tt.name), got.String())
		})
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	looks := 0
	w.looked = func() {
		// Each look asks for two volumes.
		if looks++; looks == 5 {
			w.host.down = true
		}
		if looks == 7 {
			interrupt()
		}
	}
	got := w.run(ctx, "rpo", "--watch", "--interval=1ms")
	assert.Equal(t, 130, got.code)
	assert.GreaterOrEqual(t, strings.Count(got.out, "a failover now loses"), 2)
	assert.Contains(t, got.out, "PVC wordpress-html\n\nVOLUME", "one after the other, with a line between")
	assert.Contains(t, got.err, "agent is unreachable; looking again in 1ms", "an error does not end it")
	assert.NotContains(t, got.out, "\x1b", "what is no terminal is not cleared")

	got = newWorld(t).interrupted(t, 2, "status", "--watch", "--interval=1ms")
	assert.Equal(t, 130, got.code)
	assert.Equal(t, 2, strings.Count(got.out, "Role           standby"))
	got = newWorld(t).run(t.Context(), "status", "--watch", "--interval=1ms", "--timeout=200ms")
	assert.Equal(t, exitTimeout, got.code)
}

// interrupted runs a command until it has looked at the volumes so many times.
func (w *world) interrupted(t *testing.T, times int, args ...string) outcome {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	looks := 0
	w.looked = func() {
		if looks++; looks > times*len(claims) {
			interrupt()
		}
	}
	return w.run(ctx, args...)
}

func TestStatus_strict(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pass(10 * time.Minute)
	assert.Zero(t, w.run(t.Context(), "status").code)
	assert.Equal(t, 2, w.run(t.Context(), "status", "--strict").code, "a warning")
	w.pass(time.Hour)
	assert.Equal(t, 2, w.run(t.Context(), "status").code)
}

func TestExporter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan outcome)
	go func() { done <- w.run(ctx, "exporter", "--listen="+address, "--interval=10s") }()
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(content)
	}
	require.Eventually(t, func() bool {
		code, _ := get("/readyz")
		return code == http.StatusOK
	}, 2*time.Minute, 5*time.Millisecond)
	code, body := get("/metrics")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, `kubectl_dr_rpo_seconds{plan="wordpress"} 432`)
	assert.Contains(t, body, "kubectl_dr_up 1")
	w.pass(time.Minute)
	_, body = get("/metrics")
	assert.Contains(t, body, `kubectl_dr_rpo_seconds{plan="wordpress"} 492`, "ages are as of the scrape")
	code, body = get("/healthz")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "ok\n", body)
	stop()
	got := <-done
	assert.Equal(t, 130, got.code)
	assert.Contains(t, got.err, "serving metrics on http://"+address+"/metrics\n")
}

func TestExporter_keepsWhatItSawLast(t *testing.T) {
	t.Parallel()
	fails := false
	p := testPlan()
	e := &metrics.Exporter{
		Every: time.Millisecond, Now: func() time.Time { return begin }, Failed: func(error) {},
		Measure: func(context.Context) ([]metrics.Measurement, error) {
			if fails {
				return nil, io.ErrUnexpectedEOF
			}
			fails = true
			return []metrics.Measurement{{Plan: p, At: begin, RPO: &report.RPO{State: report.Warning}}}, nil
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx, listener) }()
	base := "http://" + listener.Addr().String()
	get := func(path string) (int, string) {
		resp, err := http.Get(base + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(content)
	}
	require.Eventually(t, func() bool {
		_, body := get("/readyz")
		return body == "unexpected EOF\n"
	}, 2*time.Minute, 5*time.Millisecond)
	_, body := get("/metrics")
	assert.Contains(t, body, "kubectl_dr_up 0")
	assert.Contains(t, body, `kubectl_dr_rpo_state{plan="wordpress"} 1`)
	stop()
	require.ErrorIs(t, <-done, context.Canceled)
}
