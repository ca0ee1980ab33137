package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
)

// measureArchive compares uploads to object storage, and restores from it, with
// a bare pipe over the same data, and the memory of a large upload with that of
// a small one.
func measureArchive(ctx context.Context, h *host) ([]row, error) {
	if h.archive == "" {
		return nil, nil
	}
	runs, size := 3, int64(64*mebibyte)
	if h.long {
		runs, size = 5, 256*mebibyte
	}
	const times10 = 10
	small, err := h.volume(ctx, "small", size)
	if err != nil {
		return nil, err
	}
	large, err := h.volume(ctx, "large", times10*size)
	if err != nil {
		return nil, err
	}
	bare, err := h.barePipe(ctx, small, path.Join(h.target, "bare"))
	if err != nil {
		return nil, err
	}
	taken := 0
	snapshot := func(dataset string) (string, error) {
		taken++
		name := fmt.Sprintf("%s@archived-%d", dataset, taken)
		_, err := command(ctx, "zfs", "snapshot", name)
		return name, err
	}
	var last string
	upload := func(int) (used spent, err error) {
		if last, err = snapshot(small); err != nil {
			return spent{}, err
		}
		return h.spend(ctx, func() error { return h.upload(ctx, last, nil) })
	}
	restored := path.Join(h.target, "restored")
	restore := func(int) (spent, error) {
		used, err := h.spend(ctx, func() error { return h.archiving(ctx, nil, "restore", last, "--to="+restored) })
		return used, errors.Join(err, h.forget(ctx, restored))
	}
	var rows []row
	for _, way := range []struct {
		what string
		run  func(int) (spent, error)
	}{{"upload to an S3 server of this machine", upload}, {"restore from it", restore}} {
		us, them, err := alternate(runs, way.run, bare)
		if err != nil {
			return nil, err
		}
		rows = append(rows, throughput(way.what, "zfs send | zfs receive", size, us, them, atLeast(0.8)))
	}

	var memory [2]uint64
	for i, dataset := range []string{small, large} {
		name, err := snapshot(dataset)
		if err != nil {
			return nil, err
		}
		if err := h.upload(ctx, name, &memory[i]); err != nil {
			return nil, err
		}
	}
	return append(rows, row{
		what: fmt.Sprintf("memory of an upload of %s", mebibytes(uint64(times10*size))), ours: mebibytes(memory[1]),
		against: "one of " + mebibytes(uint64(size)), theirs: mebibytes(memory[0]),
		ratio: float64(memory[1]) / float64(memory[0]), bar: below(1.25),
		note: "the most that the process had resident",
	}), nil
}

// upload archives a full stream of a snapshot.
func (h *host) upload(ctx context.Context, snapshot string, memory *uint64) error {
	return h.archiving(ctx, memory, "upload", snapshot, "--full", "--node="+sourceNode)
}

// archiving runs a command of the agent's on the archive. It sets memory, unless
// that is nil, to the most bytes that were resident.
func (h *host) archiving(ctx context.Context, memory *uint64, args ...string) error {
	cmd := exec.CommandContext(ctx, h.agent, append([]string{"archive", "--config=" + h.archive}, args...)...)
	cmd.Env = append(os.Environ(), "HOME=/root")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("archive %s: %w: %s", strings.Join(args, " "), err, out)
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && memory != nil {
		*memory = uint64(usage.Maxrss) << 10
	}
	return nil
}
