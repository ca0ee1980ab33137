package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Ways of making a volume from a snapshot.
const (
	ModeClone   = "clone"
	ModeCopy    = "copy"
	ModeArchive = "archive"
)

// propOrigin is the guid of the snapshot that a volume was made from. A copy has
// it when it is complete, and copying() until then; what comes from an archive
// has restoring() until then.
const propOrigin = zfs.UserNamespace + "origin"

func originOf(snap zfs.Version) string { return strconv.FormatUint(snap.GUID, 10) }

func copying(snap zfs.Version) string { return "copying " + originOf(snap) }

// CreateVolume implements agentpb.AgentServer.
func (s *Server) CreateVolume(ctx context.Context, req *agentpb.CreateVolumeRequest) (*agentpb.Dataset, error) {
	if err := s.allow(ctx, Clone, req.GetDataset()); err != nil {
		return nil, err
	}
	if req.GetMode() == ModeArchive {
		return s.restoreVolume(ctx, req)
	}
	if err := zfs.ValidateSnapshot(req.GetSnapshot()); err != nil {
		return nil, err
	}
	from, _, _ := zfs.SplitVersion(req.GetSnapshot())
	if err := s.allow(ctx, Read, from); err != nil {
		return nil, err
	}
	if err := checkOurs(req.GetProperties()); err != nil {
		return nil, err
	}
	source, err := s.ZFS.Dataset(ctx, from)
	if err != nil {
		return nil, err
	}
	native, err := nativeFor(source.Type, req.GetNative())
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", req.GetDataset(), err)
	}
	snap, err := s.ZFS.Lookup(ctx, req.GetSnapshot())
	if err != nil {
		return nil, err
	}
	if snap.GUID != req.GetGuid() {
		return nil, fmt.Errorf("create volume %s: %w: snapshot %s has guid %d, not %d", req.GetDataset(), ErrMismatch, snap.FullName(), snap.GUID, req.GetGuid())
	}
	props := volumeProperties(req)
	if _, busy := s.making.LoadOrStore(req.GetDataset(), true); busy {
		return nil, fmt.Errorf("create volume %s: %w: it is being made", req.GetDataset(), ErrBusy)
	}
	defer s.making.Delete(req.GetDataset())

	made := false
	have, err := s.ZFS.Dataset(ctx, req.GetDataset())
	switch {
	case err == nil:
		if err := s.sameVolume(ctx, have, snap, props); err != nil {
			return nil, err
		}
	case !errors.Is(err, ErrNotFound):
		return nil, err
	default:
		made = true
		if err := s.makeVolume(ctx, req, snap, source.Type, native, props); err != nil {
			return nil, err
		}
		if have, err = s.ZFS.Dataset(ctx, req.GetDataset()); err != nil {
			return nil, err
		}
	}
	if have, err = s.finishVolume(ctx, have, snap, req.GetNative(), made); err != nil {
		return nil, err
	}
	return s.describe(ctx, have)
}

// volumeProperties are our properties of a volume to be made.
func volumeProperties(req *agentpb.CreateVolumeRequest) map[string]string {
	props := maps.Clone(req.GetProperties())
	if props == nil {
		props = map[string]string{}
	}
	props[names.PropManaged] = "true"
	return props
}

// sameVolume tells a volume that an earlier, equal request made from any other
// of that name.
func (s *Server) sameVolume(ctx context.Context, have zfs.Dataset, snap zfs.Version, props map[string]string) error {
	got, err := s.ZFS.UserProperties(ctx, have.Name, zfs.SourceLocal)
	if err != nil {
		return err
	}
	switch {
	case got[names.PropManaged] != "true":
		return fmt.Errorf("create volume %s: dataset %w and is not ours", have.Name, ErrExists)
	case got[propOrigin] == copying(snap):
		// What an agent began that was killed may still run.
		complete, err := s.ZFS.Exists(ctx, have.Name+"@"+snap.Name)
		if err != nil {
			return err
		}
		if !complete {
			return fmt.Errorf("create volume %s: %w: an earlier copy into it has not ended", have.Name, ErrBusy)
		}
	case have.Origin != snap.FullName() && got[propOrigin] != originOf(snap):
		return fmt.Errorf("create volume %s: dataset %w and was not made from %s", have.Name, ErrExists, snap.FullName())
	}
	for name, want := range props {
		if got[name] != want {
			return fmt.Errorf("create volume %s: dataset %w with %s %q, not %q", have.Name, ErrExists, name, got[name], want)
		}
	}
	return nil
}

func (s *Server) makeVolume(ctx context.Context, req *agentpb.CreateVolumeRequest, snap zfs.Version, kind zfs.Type, native, props map[string]string) error {
	if err := s.makeParents(ctx, Clone, req.GetDataset()); err != nil {
		return err
	}
	maps.Copy(props, native)
	switch req.GetMode() {
	case ModeClone:
		props[propOrigin] = originOf(snap)
		if err := s.ZFS.Clone(ctx, snap.FullName(), req.GetDataset(), props); err != nil {
			return err
		}
	case ModeCopy:
		props[propOrigin] = copying(snap)
		if err := s.copyVolume(ctx, snap, req.GetDataset(), props); err != nil {
			return err
		}
	default:
		return fmt.Errorf("create volume %s: %w: mode %q is none of %q, %q and %q", req.GetDataset(), ErrInvalid, req.GetMode(), ModeClone, ModeCopy, ModeArchive)
	}
	s.Log.Info("volume made", "dataset", req.GetDataset(), "snapshot", snap.FullName(), "guid", snap.GUID, "mode", req.GetMode(), "type", string(kind))
	return nil
}

// copyVolume sends a snapshot to a new dataset of this host. A copy that fails
// leaves nothing.
func (s *Server) copyVolume(ctx context.Context, snap zfs.Version, dataset string, props map[string]string) error {
	ds, err := s.ZFS.Dataset(ctx, snap.Dataset)
	if err != nil {
		return err
	}
	// Without embedded blocks it may lie below an encrypted dataset.
	mode := replicate.ModeFor(ds, true)
	r, w := io.Pipe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.ZFS.Send(ctx, mode.Send("", snap.FullName()), w)
		w.CloseWithError(err)
		return err
	})
	g.Go(func() error {
		err := s.ZFS.Receive(ctx, zfs.ReceiveOptions{Target: dataset + "@" + snap.Name, Unmounted: true, Set: props}, r)
		if err == nil {
			// zfs receive may end before the sender has written its last byte.
			_, err = io.Copy(io.Discard, r)
		}
		r.CloseWithError(err)
		return err
	})
	return g.Wait()
}

// finishVolume does what a request that was cut off may have left: a copy that
// has arrived is marked so and loses the snapshot it came with, which would be
// found by guid in the place of its original, a volume grows to its size, and
// the space that was asked for is reserved. Without room for that, what this
// request has made goes again.
func (s *Server) finishVolume(ctx context.Context, have zfs.Dataset, snap zfs.Version, asked map[string]string, made bool) (zfs.Dataset, error) {
	if have.Origin == "" {
		came, err := s.ZFS.Lookup(ctx, have.Name+"@"+snap.Name)
		if err == nil && came.GUID == snap.GUID {
			if err = s.ZFS.Set(ctx, have.Name, map[string]string{propOrigin: originOf(snap)}); err == nil {
				err = s.ZFS.DestroySnapshots(ctx, have.Name, []string{snap.Name}, false)
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return have, err
		}
	}
	have, err := s.grow(ctx, have, asked["volsize"])
	if err != nil {
		return have, err
	}
	if err = s.reserve(ctx, have, asked); errors.Is(err, ErrNoSpace) && made {
		s.discard(ctx, have.Name)
	}
	return have, err
}

// grow gives a volume its size, unless it has that.
func (s *Server) grow(ctx context.Context, have zfs.Dataset, volsize string) (zfs.Dataset, error) {
	if have.Type != zfs.Volume || volsize == "" {
		return have, nil
	}
	size, err := strconv.ParseUint(volsize, 10, 64)
	switch {
	case err != nil:
		return have, fmt.Errorf("create volume %s: %w: volsize %q is not a number of bytes", have.Name, ErrInvalid, volsize)
	case size < have.VolSize:
		return have, fmt.Errorf("create volume %s: %w: volsize %d would cut off data, the snapshot has %d", have.Name, ErrInvalid, size, have.VolSize)
	case size > have.VolSize:
		if err := s.ZFS.Set(ctx, have.Name, map[string]string{"volsize": volsize}); err != nil {
			return have, err
		}
		have.VolSize = size
	}
	return have, nil
}

// reserve gives a volume the space that its source reserves, once it has its size.
// More than the size of a volume is what ZFS adds for metadata, which differs from
// pool to pool: that is "auto"; see zfsprops(7).
func (s *Server) reserve(ctx context.Context, have zfs.Dataset, asked map[string]string) error {
	set := map[string]string{}
	for _, name := range received.Reservations {
		size, _ := strconv.ParseUint(asked[name], 10, 64) // nativeFor has looked at it
		switch {
		case size == 0:
		case have.Type == zfs.Volume && name == "refreservation" && size > have.VolSize:
			set[name] = "auto"
		default:
			set[name] = asked[name]
		}
	}
	if len(set) == 0 {
		return nil
	}
	if err := s.ZFS.Set(ctx, have.Name, set); err != nil {
		return fmt.Errorf("create volume %s: reserve the space that its source does in pool %s: %w", have.Name, zfs.Pool(have.Name), err)
	}
	return nil
}

// discardTries is how often destroying a volume is tried while the device that it
// was just given is being looked at.
const discardTries = 5

// discard destroys a volume that this request has made and nobody knows of yet.
func (s *Server) discard(ctx context.Context, dataset string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	resp, err := s.planDestroy(ctx, dataset, false)
	if err == nil {
		err = s.destroyPlanned(ctx, "destroy "+dataset, resp)
	}
	for n := 1; n < discardTries && errors.Is(err, ErrBusy); n++ {
		if err = pause(ctx, s.RetryDelay(n)); err == nil {
			err = s.destroyPlanned(ctx, "destroy "+dataset, resp)
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.Log.Warn("a volume that has no room stays", "dataset", dataset, "error", err)
	}
}

// nativeFor returns the native properties of a new volume: those asked for, if
// allowed, and those that make it writable and leave mounting to whoever uses
// it. Sizes of volumes and reservations are set later; see finishVolume.
func nativeFor(kind zfs.Type, asked map[string]string) (map[string]string, error) {
	props := map[string]string{"readonly": "off"}
	if kind == zfs.Filesystem {
		props["mountpoint"], props["canmount"] = "legacy", "noauto"
	} else {
		props["volmode"] = "default"
	}
	for name, value := range asked {
		switch {
		case !slices.Contains(received.NativeProperties[kind], name):
			return nil, fmt.Errorf("%w: property %q of a %s is not one of %s", ErrInvalid, name, kind, strings.Join(received.NativeProperties[kind], ", "))
		case slices.Contains(received.Reservations, name):
			if _, err := strconv.ParseUint(value, 10, 64); err != nil {
				return nil, fmt.Errorf("%w: %s %q is not a number of bytes", ErrInvalid, name, value)
			}
			continue
		case name == "volsize":
			continue
		case name == "mountpoint" && value != "legacy" && value != "none":
			if !path.IsAbs(value) || path.Clean(value) != value || value == "/" {
				return nil, fmt.Errorf("%w: mountpoint %q is not a clean absolute path below /", ErrInvalid, value)
			}
			// A volume with a path of its own is mounted by ZFS.
			props["canmount"] = "on"
		}
		props[name] = value
	}
	return props, nil
}

// makeParents makes the missing datasets above one. They hold nothing and are
// never mounted.
func (s *Server) makeParents(ctx context.Context, verb Verb, dataset string) error {
	var missing []string
	for parent := zfs.Parent(dataset); parent != ""; parent = zfs.Parent(parent) {
		exists, err := s.ZFS.Exists(ctx, parent)
		if err != nil {
			return err
		}
		if exists {
			break
		}
		if err := s.allow(ctx, verb, parent); err != nil {
			return fmt.Errorf("parent %s of %s is missing: %w", parent, dataset, err)
		}
		missing = append(missing, parent)
	}
	for _, parent := range slices.Backward(missing) {
		err := s.ZFS.Create(ctx, parent, zfs.CreateOptions{Properties: map[string]string{
			"canmount": "off", "mountpoint": "none", names.PropManaged: "true",
		}})
		if err != nil && !errors.Is(err, ErrExists) {
			return err
		}
	}
	return nil
}
