package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// measurePlanning times what comes on top of listing the snapshots of both
// sides: reading two lists and comparing them.
func measurePlanning(ctx context.Context, _ *host) ([]row, error) {
	const runs, n = 10, 10_000
	source, target := &zfs.Client{Runner: listing("tank/a", n)}, &zfs.Client{Runner: listing("dr/a", n-1)}
	var all []time.Duration
	for range runs {
		took, err := timed(func() error {
			here, err := source.Versions(ctx, "tank/a")
			if err != nil {
				return err
			}
			there, err := target.Versions(ctx, "dr/a")
			if err != nil {
				return err
			}
			plan, err := replicate.Make(replicate.Source{Versions: here}, replicate.Target{Dataset: "dr/a", Exists: true, Versions: there}, n)
			if err == nil && (plan.Action != replicate.Incremental || plan.From.GUID != n-1) {
				err = fmt.Errorf("%d snapshots lead to %v", n, plan)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	return []row{times(fmt.Sprintf("planning with %d snapshots on each side, once listed", n), median(all), "a second", time.Second, below(1))}, nil
}

// listed is a Runner whose every command has printed the same.
type listed []byte

func (l listed) Run(context.Context, zfs.Cmd) (zfs.Result, error) { return zfs.Result{Stdout: l}, nil }

// listing lists n snapshots of a dataset.
func listing(dataset string, n int) listed {
	var out []byte
	for guid := range n {
		out = fmt.Appendf(out, "%d\t%d\t1795218541\t4096\t1048576\t8192\t1\t%s@dr-wordpress-20261120%06d\n", guid+1, guid+1, dataset, guid+1)
	}
	return out
}
