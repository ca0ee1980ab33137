// Command bench measures on a host with OpenZFS how fast kubectl-dr is beside
// what one would otherwise use, and prints a table of the ratios. It makes and
// destroys datasets called bench in two pools, and runs two agents of its own.
//
// The exit status is 0 when everything was measured, whatever the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.agent, "agent", "zfs-agent", "the agent to measure")
	flag.StringVar(&o.sourcePool, "source-pool", "znvm", "pool that volumes are in")
	flag.StringVar(&o.targetPool, "target-pool", "nas", "pool that replicas are in")
	flag.StringVar(&o.ssh, "ssh", "", "how ssh reaches this host, as user@host; without it syncoid is not measured through ssh")
	flag.StringVar(&o.archive, "archive", "", "configuration of an archive; without it none is measured")
	flag.BoolVar(&o.long, "long", false, "measure with the full numbers of datasets and snapshots")
	only := flag.String("only", "", "measure only what this regular expression matches")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o, pattern)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type options struct {
	agent                  string
	sourcePool, targetPool string
	ssh                    string
	archive                string
	long                   bool
}

// benchmarks are run in this order, each on datasets of its own.
var benchmarks = []struct {
	name string
	run  func(context.Context, *host) ([]row, error)
}{
	{"snapshot", measureSnapshot},
	{"backup", measureBackup},
	{"clone", measureClone},
	{"increment", measureIncrement},
	{"throughput", measureThroughput},
	{"archive", measureArchive},
	{"nothing", measureNothing},
	{"steps", measureSteps},
	{"planning", measurePlanning},
}

// run prints what was measured even when something could not be.
func run(ctx context.Context, o options, only *regexp.Regexp) (err error) {
	var t table
	var errs []error
	for _, b := range benchmarks {
		if !only.MatchString(b.name) {
			continue
		}
		start := time.Now()
		h, err := newHost(ctx, o)
		if err == nil {
			var rows []row
			rows, err = b.run(ctx, h)
			t = append(t, rows...)
			err = errors.Join(err, h.close(context.WithoutCancel(ctx)))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", b.name, err))
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", b.name, time.Since(start).Round(time.Second))
	}
	return errors.Join(append(errs, t.print(os.Stdout))...)
}
