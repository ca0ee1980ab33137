// Package received says how a dataset that was received is kept, and which
// native properties belong to it, wherever the stream came from: another agent
// or an archive.
package received

import (
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Options keep a replica from ever being mounted, written to or shared,
// whatever its parents and its source say. They are set with every stream, so
// that one who changed them in between does not last. snapshot is the full name
// to receive, source is "node:dataset" of where it comes from. A stream that is
// cut off leaves what can be resumed.
func Options(snapshot string, kind zfs.Type, source string) zfs.ReceiveOptions {
	o := zfs.ReceiveOptions{
		Target: snapshot, Resumable: true, Unmounted: true,
		Set: map[string]string{"readonly": "on", names.PropManaged: "true", names.PropSource: source},
	}
	if kind == zfs.Filesystem {
		o.Set["canmount"] = "noauto"
		o.Exclude = []string{"mountpoint", "sharenfs", "sharesmb"}
	} else {
		// No device nodes for replicas, and no space reserved for them.
		o.Set["volmode"], o.Set["refreservation"] = "none", "none"
	}
	return o
}

// NativeProperties are the native properties that belong to a volume rather
// than to the pool it lies on.
var NativeProperties = map[zfs.Type][]string{
	zfs.Filesystem: {"quota", "refquota", "recordsize", "compression", "mountpoint"},
	zfs.Volume:     {"volsize", "compression"},
}
