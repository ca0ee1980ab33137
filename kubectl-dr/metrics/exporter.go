package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/health"
)

// Exporter measures plans again and again, and serves what it found last: a scrape
// never waits for a cluster.
type Exporter struct {
	// Measure looks at all plans.
	Measure func(context.Context) ([]Measurement, error)
	// Every is the time between two looks, and the most that one may take.
	Every time.Duration
	Now   func() time.Time
	// Failed is told of plans that can't be listed. The last measurements stay.
	Failed func(error)

	mu   sync.Mutex
	last []Measurement
	err  error
}

// ErrNotYet is why an exporter is not ready before it has measured.
var ErrNotYet = errors.New("nothing was measured yet")

// Run serves until the context ends.
func (e *Exporter) Run(ctx context.Context, listener net.Listener) error {
	e.set(nil, ErrNotYet)
	server := &http.Server{Handler: e.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.loop(ctx)
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(after) // what still reads is cut off then
	}()
	err := server.Serve(listener)
	if ctx.Err() == nil {
		return err
	}
	<-stopped
	return context.Cause(ctx)
}

func (e *Exporter) loop(ctx context.Context) {
	tick := time.NewTicker(e.Every)
	defer tick.Stop()
	for {
		e.once(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (e *Exporter) once(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, e.Every)
	defer cancel()
	all, err := e.Measure(bounded)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
		e.Failed(err)
	default:
		e.set(all, nil)
	}
}

func (e *Exporter) set(all []Measurement, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.err = all, err
}

func (e *Exporter) read() ([]Measurement, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, e.err
}

// Handler serves /metrics, /healthz and /readyz. The last is 503 while plans can't
// be listed.
func (e *Exporter) Handler() http.Handler {
	r := prometheus.NewRegistry()
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "up", Help: "1 if the last look at the plans worked."}, func() float64 {
		_, err := e.read()
		return truth(err == nil)
	})
	r.MustRegister(up, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector(func() ([]Measurement, time.Time) {
			last, _ := e.read()
			return last, e.Now()
		}))
	return health.Handler(r, func() error {
		_, err := e.read()
		return err
	})
}
