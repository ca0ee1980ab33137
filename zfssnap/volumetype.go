package zfssnap

import (
	"fmt"
	"net/url"
	"path"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
)

// Dataset types as the agent reports them.
const (
	typeFilesystem = "filesystem"
	typeVolume     = "volume"
)

const propMountpoint = "mountpoint"

// volumeType describes a source dataset so that a volume restored from it gets
// the same properties: a clone inherits from its new parent, not from its
// origin. Velero keeps the string with the backup and hands it back verbatim on
// restore, also to another cluster.
type volumeType struct {
	Kind   string // typeFilesystem or typeVolume
	Native map[string]string
}

// noVolumeType gives a volume nothing of its source's.
var noVolumeType = volumeType{Native: map[string]string{}}

func volumeTypeOf(ds *agentpb.Dataset) volumeType {
	vt := volumeType{Kind: ds.GetType(), Native: map[string]string{}}
	for k, v := range ds.GetNative() {
		vt.Native[k] = v
	}
	delete(vt.Native, propMountpoint)
	if vt.Kind == typeFilesystem && path.IsAbs(ds.GetMountpoint()) {
		vt.Native[propMountpoint] = ds.GetMountpoint()
	}
	return vt
}

// String returns "<kind>" or "<kind>?<property>=<value>&…", sorted.
func (t volumeType) String() string {
	q := url.Values{}
	for k, v := range t.Native {
		q.Set(k, v)
	}
	u := url.URL{Path: t.Kind, RawQuery: q.Encode()}
	return u.String()
}

func parseVolumeType(s string) (volumeType, error) {
	u, err := url.Parse(s)
	if err != nil {
		return volumeType{}, fmt.Errorf("volume type %q: %w", s, err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return volumeType{}, fmt.Errorf("volume type %q: %w", s, err)
	}
	t := volumeType{Kind: u.Path, Native: map[string]string{}}
	if t.Kind != typeFilesystem && t.Kind != typeVolume {
		return volumeType{}, fmt.Errorf("volume type %q: want %s or %s", s, typeFilesystem, typeVolume)
	}
	for k := range q {
		t.Native[k] = q.Get(k)
	}
	return t, nil
}

// nativeFor returns the properties of a volume to be made as dataset. A source
// that a path leads to gets one again, at ZFS's usual place for the new name;
// every other stays with a driver that mounts it itself, unless a path is asked
// for. A thin one reserves no space.
func (t volumeType) nativeFor(dataset string, withPath, thin bool) map[string]string {
	native := map[string]string{}
	for k, v := range t.Native {
		native[k] = v
	}
	if thin {
		for _, name := range received.Reservations {
			delete(native, name)
		}
	}
	_, had := native[propMountpoint]
	if had || withPath && t.Kind == typeFilesystem {
		native[propMountpoint] = "/" + dataset
	}
	return native
}
