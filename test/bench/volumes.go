package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// measureSnapshot compares Velero's way to a snapshot, through the plugin's
// code and the agent, with zfs snapshot.
func measureSnapshot(ctx context.Context, h *host) ([]row, error) {
	const runs = 25
	dataset, err := h.volume(ctx, "volume", mebibyte)
	if err != nil {
		return nil, err
	}
	var held []time.Duration
	ours, theirs, err := alternate(runs, func(i int) (time.Duration, error) {
		var id zfssnap.SnapshotID
		start := time.Now()
		took, err := timed(func() (err error) {
			id, err = h.snapshotted(dataset, fmt.Sprint("run-", i))
			return err
		})
		if err != nil {
			return 0, err
		}
		// What is left to do must not burden what is measured next.
		isHeld := func() bool {
			refs, refsErr := command(ctx, "zfs", "get", "-Hpo", "value", "userrefs", id.Name())
			err = refsErr
			return err != nil || strings.TrimSpace(refs) == "1"
		}
		if !poll(ctx, time.Minute, isHeld) {
			return 0, fmt.Errorf("%s is not held", id.Name())
		}
		held = append(held, time.Since(start))
		return took, err
	}, func(i int) (time.Duration, error) {
		return timed(func() error {
			_, err := command(ctx, "zfs", "snapshot", fmt.Sprintf("%s@bare-%d", dataset, i))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	r := times("CreateSnapshot of a volume", median(ours), "zfs snapshot", median(theirs), below(2))
	r.note = fmt.Sprintf("median of %d each; seen to be held %s after the call began", runs, seconds(median(held)))
	return []row{r}, nil
}

// measureBackup compares the snapshots of a backup of many volumes, one by one as
// Velero asks for them, with as many zfs snapshot: each volume for itself, and all
// in one group.
func measureBackup(ctx context.Context, h *host) ([]row, error) {
	const volumes, runs = 100, 3
	datasets, err := h.volumes(ctx, "many", volumes, 4096)
	if err != nil {
		return nil, err
	}
	backup := func(name string, grouped bool) error {
		if grouped {
			for _, d := range datasets {
				h.groups.Join(name, types.UID(name), "wordpress", zfssnap.VolumeID{Node: sourceNode, Dataset: d}, "")
			}
		}
		for _, d := range datasets {
			if _, err := h.snapshotted(d, name); err != nil {
				return err
			}
		}
		return nil
	}
	// What is left to do must not burden what is measured next.
	held := func(name string) error {
		var err error
		allHeld := func() bool {
			refs := ""
			refs, err = command(ctx, "zfs", "list", "-Hrt", "snapshot", "-o", "userrefs,name", path.Join(h.source, "many"))
			held := 0
			for line := range strings.Lines(refs) {
				if strings.HasPrefix(line, "1\t") && strings.Contains(line, "@dr-"+name+"-") {
					held++
				}
			}
			return err != nil || held == volumes
		}
		if !poll(ctx, time.Minute, allHeld) {
			return fmt.Errorf("the snapshots of backup %s are not held", name)
		}
		return err
	}
	measure := func(kind string, grouped bool) func(int) (time.Duration, error) {
		return func(i int) (time.Duration, error) {
			name := fmt.Sprintf("%s-%d", kind, i)
			took, err := timed(func() error { return backup(name, grouped) })
			return took, errors.Join(err, held(name))
		}
	}
	bare := func(kind string) func(int) (time.Duration, error) {
		return func(i int) (time.Duration, error) {
			return timed(func() error {
				for _, d := range datasets {
					if _, err := command(ctx, "zfs", "snapshot", fmt.Sprintf("%s@bare-%s-%d", d, kind, i)); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	var rows []row
	for _, way := range []struct {
		what, kind string
		grouped    bool
	}{{"each for itself", "single", false}, {"in one group", "group", true}} {
		ours, theirs, err := alternate(runs, measure(way.kind, way.grouped), bare(way.kind))
		if err != nil {
			return rows, err
		}
		r := times(fmt.Sprintf("a backup's snapshots of %d volumes, %s", volumes, way.what), median(ours),
			fmt.Sprintf("%d times zfs snapshot", volumes), median(theirs), below(1.2))
		r.note = fmt.Sprintf("median of %d each; %.0f ms and %.0f ms for a volume", runs, perStep(median(ours), volumes), perStep(median(theirs), volumes))
		rows = append(rows, r)
	}
	return rows, nil
}

// measureClone compares the clones that a drill makes of a large and of a small
// volume: nothing may be copied.
func measureClone(ctx context.Context, h *host) ([]row, error) {
	const runs = 12
	clone := func(name string, size int64) (func(int) (time.Duration, error), error) {
		dataset, err := h.volume(ctx, name, size)
		if err != nil {
			return nil, err
		}
		id, err := h.snapshotted(dataset, "drill")
		if err != nil {
			return nil, err
		}
		return func(i int) (time.Duration, error) {
			made := path.Join(h.source, fmt.Sprintf("drill-%s-%d", name, i))
			took, err := timed(func() error {
				_, err := h.client(sourceNode).CreateVolume(ctx, &agentpb.CreateVolumeRequest{
					Snapshot: id.Name(), Guid: id.GUID, Dataset: made, Mode: zfssnap.ModeClone,
					Properties: map[string]string{zfssnap.PropRun: "bench"},
				})
				return err
			})
			if err == nil {
				_, err = h.client(sourceNode).DestroyVolume(ctx, &agentpb.DestroyVolumeRequest{Dataset: made})
			}
			return took, err
		}, nil
	}
	large, err := clone("large", gibibyte)
	if err != nil {
		return nil, err
	}
	small, err := clone("small", 10*mebibyte)
	if err != nil {
		return nil, err
	}
	larges, smalls, err := alternate(runs, large, small)
	if err != nil {
		return nil, err
	}
	r := times("a drill's clone of 1 GiB", median(larges), "its clone of 10 MiB", median(smalls), below(1.5))
	r.note = fmt.Sprintf("median of %d each", runs)
	return []row{r}, nil
}

// measureIncrement compares what an increment sends with what zfs send says it
// would.
func measureIncrement(ctx context.Context, h *host) ([]row, error) {
	dataset, err := h.volume(ctx, "volume", 64*mebibyte)
	if err != nil {
		return nil, err
	}
	first, err := h.snapshotted(dataset, "first")
	if err != nil {
		return nil, err
	}
	if _, err := h.replicated(ctx, first); err != nil {
		return nil, err
	}
	if err := h.write(dataset, "more", 16*mebibyte); err != nil {
		return nil, err
	}
	second, err := h.snapshotted(dataset, "second")
	if err != nil {
		return nil, err
	}
	out, err := command(ctx, "zfs", "send", "-nvP", "-i", first.Name(), second.Name())
	if err != nil {
		return nil, err
	}
	_, size, _ := strings.Cut(out, "\nsize\t")
	estimate, err := strconv.ParseUint(strings.TrimSpace(size), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read estimate %q: %w", out, err)
	}
	transfer, err := h.replicated(ctx, second)
	if err != nil {
		return nil, err
	}
	return []row{{
		what: "bytes sent for an increment", ours: mebibytes(transfer.GetBytesSent()),
		against: "zfs send -nvP -i", theirs: mebibytes(estimate),
		ratio: float64(transfer.GetBytesSent()) / float64(estimate), bar: around(0.1),
	}}, nil
}
