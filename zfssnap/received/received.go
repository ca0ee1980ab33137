// Package received says how a dataset that was received is kept, and which
// native properties belong to it, wherever the stream came from: another agent
// or an archive.
package received

import (
	"context"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Options keep a replica from ever being mounted, written to or shared,
// whatever its parents and its source say. They are set with every stream, so
// that one who changed them in between does not last. snapshot is the full name
// to receive, source is "node:dataset" of where it comes from, and mode the flags
// of zfs send that the stream has. A stream that is cut off leaves what can be
// resumed.
func Options(snapshot string, kind zfs.Type, source, mode string) zfs.ReceiveOptions {
	o := zfs.ReceiveOptions{
		Target: snapshot, Resumable: true, Unmounted: true,
		Set: map[string]string{"readonly": "on", names.PropManaged: "true", names.PropSource: source, names.PropStream: mode},
	}
	if kind == zfs.Filesystem {
		o.Set["canmount"] = "noauto"
		o.Exclude = []string{"mountpoint", "overlay", "sharenfs", "sharesmb", "exec", "setuid", "devices"}
	} else {
		// No device nodes for replicas, and no space reserved for them.
		o.Set["volmode"], o.Set["snapdev"], o.Set["refreservation"] = "none", "hidden", "none"
	}
	return o
}

// safe are the values of properties by which a replica can be neither written
// to, nor mounted by itself, nor used as a device.
var safe = map[zfs.Type]map[string][]string{
	zfs.Filesystem: {"readonly": {"on"}, "canmount": {"noauto", "off"}, "mounted": {"no"}},
	zfs.Volume:     {"readonly": {"on"}, "volmode": {"none"}, "refreservation": {"0"}},
}

// Problems says what of a replica is not as Options asked for, whatever zfs
// receive made of them. Properties must not come with a stream at all: we send
// none, and what else would (zfs send -p) could make files shared, executable or
// owned by someone else when the replica is cloned.
func Problems(ctx context.Context, c *zfs.Client, dataset string, kind zfs.Type) ([]string, error) {
	problems, _, err := look(ctx, c, kind, dataset)
	return problems, err
}

// Check is Problems of a snapshot's dataset, and returns the snapshot with it.
func Check(ctx context.Context, c *zfs.Client, snapshot string, kind zfs.Type) (zfs.Version, []string, error) {
	dataset, _, _ := zfs.SplitVersion(snapshot)
	problems, props, err := look(ctx, c, kind, dataset, snapshot)
	if err != nil {
		return zfs.Version{}, nil, err
	}
	v, err := zfs.VersionOf(snapshot, props[snapshot])
	return v, problems, err
}

// look has one process for a dataset and what is given with it.
func look(ctx context.Context, c *zfs.Client, kind zfs.Type, dataset string, with ...string) ([]string, map[string]map[string]zfs.Property, error) {
	want := safe[kind]
	ask := slices.Sorted(maps.Keys(want))
	if len(with) > 0 {
		ask = append(ask, zfs.VersionProperties...)
	}
	var props map[string]map[string]zfs.Property
	var came []string
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		props, err = c.GetEach(ctx, append([]string{dataset}, with...), ask...)
		return err
	})
	g.Go(func() (err error) {
		came, err = c.Received(ctx, dataset)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if value := props[dataset][name].Value; !slices.Contains(want[name], value) {
			problems = append(problems, name+"="+value)
		}
	}
	if len(came) > 0 {
		problems = append(problems, "properties that came with a stream: "+strings.Join(came, ", "))
	}
	return problems, props, nil
}

// NativeProperties are the native properties that belong to a volume rather
// than to the pool it lies on.
var NativeProperties = map[zfs.Type][]string{
	zfs.Filesystem: append([]string{"quota", "refquota", "recordsize", "compression", "mountpoint"}, Reservations...),
	zfs.Volume:     append([]string{"volsize", "compression"}, Reservations...),
}

// Reservations are those of NativeProperties that take space from the pool. A
// replica has none.
var Reservations = []string{"refreservation", "reservation"}
