package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// volumes makes n volumes below one parent, and snapshots all of them at once.
func (h *host) volumes(ctx context.Context, parent string, n int, size int64) ([]string, error) {
	if _, err := command(ctx, "zfs", "create", path.Join(h.source, parent)); err != nil {
		return nil, err
	}
	var all []string
	for i := range n {
		dataset, err := h.volume(ctx, fmt.Sprintf("%s/%04d", parent, i), size)
		if err != nil {
			return nil, err
		}
		all = append(all, dataset)
	}
	return all, nil
}

// group takes one snapshot of several volumes, as the plugin does for those of a
// namespace.
func (h *host) group(ctx context.Context, datasets []string, backup string) ([]*agentpb.Version, error) {
	resp, err := h.client(sourceNode).CreateSnapshots(ctx, &agentpb.CreateSnapshotsRequest{
		Datasets: datasets, Name: "dr-" + backup, Hold: zfssnap.HoldTag("backup"),
		Properties: map[string]string{zfssnap.PropBackup: backup},
	})
	return resp.GetSnapshots(), err
}

// pass sees to it that all snapshots are on the target: it asks for all, and
// then waits for each.
func (h *host) pass(ctx context.Context, snapshots []*agentpb.Version) error {
	const atOnce = 32
	var ids = make([]string, len(snapshots))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, v := range snapshots {
		g.Go(func() error {
			t, err := h.client(sourceNode).Replicate(gctx, &agentpb.ReplicateRequest{
				Dataset: v.GetDataset(), Snapshot: v.GetName(), Guid: v.GetGuid(),
				TargetNode: targetNode, TargetAddress: h.addresses[targetNode], TargetDataset: h.site.Replica(v.GetDataset()),
			})
			ids[i] = t.GetId()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := h.done(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// measureNothing compares a pass over many volumes that have nothing new. The
// agents have just started, so that they remember nothing.
func measureNothing(ctx context.Context, h *host) ([]row, error) {
	n := 50
	if h.long {
		n = 200
	}
	datasets, err := h.volumes(ctx, "many", n, 4096)
	if err != nil {
		return nil, err
	}
	parent, copies := path.Join(h.source, "many"), path.Join(h.target, "many")
	snapshots, err := h.group(ctx, append(datasets, parent), "first")
	if err != nil {
		return nil, err
	}
	// The parent is only there for syncoid to go through.
	snapshots = slices.DeleteFunc(snapshots, func(v *agentpb.Version) bool { return v.GetDataset() == parent })
	if err := h.pass(ctx, snapshots); err != nil {
		return nil, err
	}
	// One stream of all is the quickest way to where syncoid has nothing to do.
	if err := pipe(ctx, copies, "-R", parent+"@dr-first"); err != nil {
		return nil, err
	}
	if err := h.restartAgents(ctx); err != nil {
		return nil, err
	}
	ours, err := timed(func() error { return h.pass(ctx, snapshots) })
	if err != nil {
		return nil, err
	}
	theirs, err := timed(func() error {
		_, err := command(ctx, "syncoid", "-r", "--no-sync-snap", "--no-privilege-elevation", "--quiet", parent, copies)
		return err
	})
	if err != nil {
		return nil, err
	}
	n = len(snapshots)
	r := times(fmt.Sprintf("a pass over %d volumes with nothing new", n), ours, "syncoid -r --no-sync-snap", theirs, below(0.1))
	r.note = fmt.Sprintf("one pass each; %.0f ms and %.0f ms for a volume", perStep(ours, n), perStep(theirs, n))
	return []row{r}, nil
}

// measureSteps compares snapshot and increment of many volumes with the bare
// commands.
func measureSteps(ctx context.Context, h *host) ([]row, error) {
	n := 16
	if h.long {
		n = 1000
	}
	datasets, err := h.volumes(ctx, "many", n, mebibyte)
	if err != nil {
		return nil, err
	}
	bare := path.Join(h.target, "bare")
	if _, err := command(ctx, "zfs", "create", bare); err != nil {
		return nil, err
	}
	first, err := h.group(ctx, datasets, "run-0")
	if err != nil {
		return nil, err
	}
	for _, d := range datasets {
		name := d + "@bare-0"
		if _, err := command(ctx, "zfs", "snapshot", name); err != nil {
			return nil, err
		}
		if err := pipe(ctx, path.Join(bare, path.Base(d)), name); err != nil {
			return nil, err
		}
	}
	if err := h.pass(ctx, first); err != nil {
		return nil, err
	}
	change := func() error {
		for _, d := range datasets {
			if err := h.write(d, "data", mebibyte); err != nil {
				return err
			}
		}
		return nil
	}
	const runs = 3
	ours, theirs, err := alternate(runs, func(i int) (time.Duration, error) {
		err := change()
		took, err2 := timed(func() error {
			snapshots, err := h.group(ctx, datasets, fmt.Sprint("run-", i+1))
			if err != nil {
				return err
			}
			return h.pass(ctx, snapshots)
		})
		return took, errors.Join(err, err2)
	}, func(i int) (time.Duration, error) {
		err := change()
		took, err2 := timed(func() error {
			for _, d := range datasets {
				base, name := fmt.Sprintf("%s@bare-%d", d, i), fmt.Sprintf("%s@bare-%d", d, i+1)
				if _, err := command(ctx, "zfs", "snapshot", name); err != nil {
					return err
				}
				if err := pipe(ctx, path.Join(bare, path.Base(d)), "-i", base, name); err != nil {
					return err
				}
			}
			return nil
		})
		return took, errors.Join(err, err2)
	})
	if err != nil {
		return nil, err
	}
	r := times(fmt.Sprintf("snapshots and increments of 1 MiB of %d volumes", n), median(ours), "zfs snapshot; zfs send -i | zfs receive", median(theirs), below(1.3))
	r.note = fmt.Sprintf("median of %d rounds each; %.0f ms and %.0f ms for a volume", runs, perStep(median(ours), n), perStep(median(theirs), n))
	return []row{r}, nil
}

// perStep is how many milliseconds each of n steps takes.
func perStep(d time.Duration, n int) float64 { return float64(d.Milliseconds()) / float64(n) }
