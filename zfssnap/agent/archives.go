package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// LoadArchives reads the configurations of archives, each given as NAME=FILE.
func LoadArchives(given []string) (map[string]*archive.Config, error) {
	archives := map[string]*archive.Config{}
	for _, one := range given {
		name, file, ok := strings.Cut(one, "=")
		if !ok || file == "" {
			return nil, fmt.Errorf("archive %q: %w: write it as NAME=FILE", one, ErrInvalid)
		}
		if err := zfs.ValidateComponent(name); err != nil {
			return nil, fmt.Errorf("archive %q: %w", one, err)
		}
		if archives[name] != nil {
			return nil, fmt.Errorf("archive %q: %w: there is one of that name already", one, ErrInvalid)
		}
		c, err := archive.LoadConfig(file)
		if err != nil {
			return nil, fmt.Errorf("archive %s: %w", name, err)
		}
		archives[name] = c
	}
	return archives, nil
}

// archive finds an archive by name.
func (s *Server) archive(name string) (*archive.Config, error) {
	if c := s.Archives[name]; c != nil {
		return c, nil
	}
	known := "none"
	if len(s.Archives) > 0 {
		known = strings.Join(slices.Sorted(maps.Keys(s.Archives)), ", ")
	}
	return nil, hint.Add(fmt.Errorf("%w: %q; this node's are: %s", ErrNoArchive, name, known),
		fmt.Sprintf("start the agent of node %s with --archive=%s=FILE too, or correct the name", s.Node, name))
}

// openArchive makes an archive ready for use. It is opened anew each time, so
// credentials that were renewed count.
func (s *Server) openArchive(name string) (*archive.Config, *archive.Store, error) {
	c, err := s.archive(name)
	if err != nil {
		return nil, nil, err
	}
	store, err := c.Open()
	return c, store, archiveError(name, err)
}

// archiveError names the archive, and gives what is neither ZFS's nor known the
// cause that the archive fails.
func archiveError(name string, err error) error {
	if err == nil {
		return nil
	}
	var command *zfs.CommandError
	if _, reason := classify(err); reason == "" && !errors.As(err, &command) {
		return fmt.Errorf("%w: %s: %w", ErrArchive, name, err)
	}
	return fmt.Errorf("archive %s: %w", name, err)
}

// Archive implements agentpb.AgentServer.
func (s *Server) Archive(ctx context.Context, req *agentpb.ArchiveRequest) (*agentpb.Transfer, error) {
	if err := s.allow(ctx, Archive, req.GetDataset()); err != nil {
		return nil, err
	}
	if err := zfs.ValidateSnapshot(req.GetDataset() + "@" + req.GetSnapshot()); err != nil {
		return nil, err
	}
	if req.GetGuid() == 0 {
		return nil, fmt.Errorf("archive %s@%s: %w: no guid given", req.GetDataset(), req.GetSnapshot(), ErrInvalid)
	}
	if _, err := s.archive(req.GetArchive()); err != nil {
		return nil, err
	}
	return s.transfers.joinOrStart(ctx, &transfer{
		job:     replicate.Job{Node: s.Node, Dataset: req.GetDataset(), Snapshot: req.GetSnapshot(), GUID: req.GetGuid()},
		archive: req.GetArchive(), attempt: s.transfers.upload,
	})
}

// upload runs a transfer to an archive once. One dataset goes to an archive one
// snapshot at a time: the next one is based on it.
func (ts *transfers) upload(ctx context.Context, t *transfer) error {
	free, err := ts.slot(ctx, ts.archives.datasets, t.archive+"\n"+t.job.Dataset, 1)
	if err != nil {
		return err
	}
	defer free()
	return ts.turn(ctx, t, ts.archives, func(ctx context.Context) error {
		c, store, err := ts.s.openArchive(t.archive)
		if err != nil {
			return err
		}
		u := c.Uploader(store, ts.s.ZFS, ts.s.Node, ts.s.Clock)
		u.Limit = ts.limits.wait(t.archive)
		u.Hooks = archive.Hooks{
			Part: func(e archive.PartEvent) { t.Sent(int(e.Bytes)) },
			Warn: func(err error) {
				ts.s.Log.Warn("archived, with something left over", "transfer", t.state.GetId(), "archive", t.archive, "error", err)
			},
		}
		plan, err := u.Plan(ctx, t.job.Dataset+"@"+t.job.Snapshot)
		if err != nil {
			return archiveError(t.archive, err)
		}
		if uint64(plan.GUID) != t.job.GUID {
			return fmt.Errorf("%s: %w: its guid is %s", t, ErrMismatch, plan.GUID)
		}
		// The stream begins anew with each attempt, but what is there is not
		// stored again.
		t.update(func(pb *agentpb.Transfer) { pb.BytesSent = 0 })
		t.Step(baseName(plan.Base), plan.Estimate, plan.Kept > 0 && plan.Action != archive.AlreadyThere)
		_, err = u.Upload(ctx, plan)
		return archiveError(t.archive, err)
	})
}

// baseName is what follows '@' or '#'.
func baseName(full string) string {
	_, _, name := zfs.SplitVersion(full)
	return name
}

// ListArchived implements agentpb.AgentServer.
//
// What an archive has of other nodes is for all who may look at something here:
// those datasets are none of this host's.
func (s *Server) ListArchived(ctx context.Context, req *agentpb.ListArchivedRequest) (*agentpb.ListArchivedResponse, error) {
	if _, err := s.roots(ctx, Read); err != nil {
		return nil, err
	}
	if req.GetNode() == s.Node {
		if err := s.allow(ctx, Read, req.GetDataset()); err != nil {
			return nil, err
		}
	}
	_, store, err := s.openArchive(req.GetArchive())
	if err != nil {
		return nil, err
	}
	resp := &agentpb.ListArchivedResponse{}
	add := func(m *archive.Manifest, err error) {
		if m.Node != req.GetNode() || m.Dataset != req.GetDataset() {
			return
		}
		pb := &agentpb.ArchivedSnapshot{
			Node: m.Node, Dataset: m.Dataset, Name: m.Snapshot, Guid: uint64(m.GUID), CreatedUnix: m.Created.Unix(),
			Base: uint64(m.BaseGUID()), StoredBytes: uint64(m.StoredBytes()),
		}
		if err != nil {
			pb.Problem = err.Error()
		}
		resp.Snapshots = append(resp.Snapshots, pb)
	}
	if guid := archive.GUID(req.GetGuid()); guid != 0 {
		m, err := store.Point(ctx, guid)
		if errors.Is(err, ErrNotFound) {
			return resp, nil
		}
		if err != nil {
			return nil, archiveError(req.GetArchive(), err)
		}
		_, err = store.Chain(ctx, guid)
		if err != nil && !errors.Is(err, archive.ErrBroken) {
			return nil, archiveError(req.GetArchive(), err)
		}
		add(m, err)
		return resp, nil
	}
	c, err := store.Catalog(ctx)
	if err != nil {
		return nil, archiveError(req.GetArchive(), err)
	}
	for _, m := range c.Points {
		_, err := c.Chain(m.GUID)
		add(m, err)
	}
	return resp, nil
}

// ExpireArchived implements agentpb.AgentServer.
func (s *Server) ExpireArchived(ctx context.Context, req *agentpb.ExpireArchivedRequest) (*agentpb.ExpireArchivedResponse, error) {
	for _, verb := range []Verb{Archive, Destroy} {
		if err := s.allow(ctx, verb, req.GetDataset()); err != nil {
			return nil, err
		}
	}
	_, store, err := s.openArchive(req.GetArchive())
	if err != nil {
		return nil, err
	}
	p := &archive.Pruner{Store: store, Clock: s.Clock}
	for _, guid := range req.GetGuids() {
		m, err := store.Point(ctx, archive.GUID(guid))
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return nil, archiveError(req.GetArchive(), err)
		case m.Node != s.Node || m.Dataset != req.GetDataset():
			return nil, fmt.Errorf("expire guid %d in archive %s: %w: it is of %s", guid, req.GetArchive(), ErrMismatch, m.Source())
		default:
			p.Expired = append(p.Expired, m.GUID)
		}
	}
	resp := &agentpb.ExpireArchivedResponse{}
	if len(p.Expired) == 0 {
		return resp, nil
	}
	plan, err := p.Expire(ctx)
	if err != nil {
		return nil, archiveError(req.GetArchive(), err)
	}
	for _, v := range plan.Keep {
		if slices.Contains(p.Expired, v.GUID) {
			resp.Kept = append(resp.Kept, &agentpb.KeptArchived{Guid: uint64(v.GUID), Reason: strings.Join(v.Reasons, "; ")})
		}
	}
	for _, v := range plan.Delete {
		s.Log.Info("restore point deleted", "archive", req.GetArchive(), "snapshot", v.Snapshot, "guid", uint64(v.GUID))
	}
	return resp, nil
}

const restoringPrefix = "restoring "

// restoring is the origin of a volume that an archive has not given all of yet.
func restoring(guid archive.GUID) string { return restoringPrefix + guid.String() }

// isRestoring reports whether a dataset is not all there yet.
func isRestoring(props map[string]string) bool {
	return strings.HasPrefix(props[propOrigin], restoringPrefix)
}

// restoreVolume makes a volume of what an archive has.
//
// Until it is whole the volume is read-only, unmounted and marked, so nobody
// takes it for one. A failure destroys it; when the agent was killed, the same
// request goes on from the last whole snapshot.
func (s *Server) restoreVolume(ctx context.Context, req *agentpb.CreateVolumeRequest) (*agentpb.Dataset, error) {
	dataset := req.GetDataset()
	if err := s.allow(ctx, Archive, dataset); err != nil {
		return nil, err
	}
	if err := checkOurs(req.GetProperties()); err != nil {
		return nil, err
	}
	c, store, err := s.openArchive(req.GetArchive())
	if err != nil {
		return nil, err
	}
	if _, busy := s.making.LoadOrStore(dataset, true); busy {
		return nil, fmt.Errorf("create volume %s: %w: it is being made", dataset, ErrBusy)
	}
	defer s.making.Delete(dataset)
	chain, err := store.Chain(ctx, archive.GUID(req.GetGuid()))
	if err != nil {
		return nil, archiveError(req.GetArchive(), err)
	}
	m := chain[len(chain)-1]
	native, err := nativeFor(m.Type, req.GetNative())
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", dataset, err)
	}
	props := volumeProperties(req)
	snap := zfs.Version{Dataset: m.Dataset, Name: m.Snapshot, GUID: uint64(m.GUID)}
	done, err := s.restored(ctx, dataset, snap, props)
	if err != nil {
		return nil, err
	}
	if !done {
		identities, err := c.Identities()
		if err != nil {
			return nil, fmt.Errorf("archive %s: %w", req.GetArchive(), err)
		}
		mark := maps.Clone(props)
		mark[propOrigin] = restoring(m.GUID)
		r := &archive.Restorer{ZFS: s.ZFS, Store: store, Identities: identities, Concurrency: c.Concurrency, Mark: mark}
		if err := s.receiveArchived(ctx, r, chain, dataset); err != nil {
			s.abandon(ctx, dataset)
			return nil, archiveError(req.GetArchive(), err)
		}
		// All at once: from now on it is a volume.
		maps.Copy(native, props)
		native[propOrigin] = originOf(snap)
		if err := s.ZFS.Set(ctx, dataset, native); err != nil {
			return nil, err
		}
		s.Log.Info("volume made", "dataset", dataset, "archive", req.GetArchive(), "snapshot", m.FullName(), "guid", uint64(m.GUID), "type", string(m.Type))
	}
	if err := s.forgetReplica(ctx, dataset); err != nil {
		return nil, err
	}
	have, err := s.ZFS.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if have, err = s.finishVolume(ctx, have, snap, req.GetNative(), !done); err != nil {
		return nil, err
	}
	// One with a path of its own is mounted by ZFS, if its key is there and
	// nobody else has to do it.
	if path.IsAbs(have.Mountpoint) && !have.Mounted && !s.Delegated {
		if err := s.ZFS.Mount(ctx, dataset); err != nil && !errors.Is(err, ErrKey) {
			return nil, err
		}
		if have, err = s.ZFS.Dataset(ctx, dataset); err != nil {
			return nil, err
		}
	}
	return s.describe(ctx, have)
}

// restored reports whether an equal request has made the volume already. One
// that was cut off has not, and any other dataset of that name is an error.
func (s *Server) restored(ctx context.Context, dataset string, snap zfs.Version, props map[string]string) (bool, error) {
	have, err := s.ZFS.Dataset(ctx, dataset)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	got, err := s.ZFS.UserProperties(ctx, dataset, zfs.SourceLocal)
	if err != nil {
		return false, err
	}
	if got[names.PropManaged] == "true" && got[propOrigin] == restoring(archive.GUID(snap.GUID)) {
		return false, nil
	}
	return true, s.sameVolume(ctx, have, snap, props)
}

func (s *Server) receiveArchived(ctx context.Context, r *archive.Restorer, chain []*archive.Manifest, dataset string) error {
	if err := s.makeParents(ctx, Clone, dataset); err != nil {
		return err
	}
	plan, err := r.PlanChain(ctx, chain, dataset)
	if err != nil {
		return err
	}
	_, err = r.Restore(ctx, plan)
	return err
}

// abandonTimeout bounds destroying what a failed restore has left.
const abandonTimeout = 5 * time.Minute

// abandon destroys what is there of a volume that could not be restored.
func (s *Server) abandon(ctx context.Context, dataset string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	props, err := s.ZFS.UserProperties(ctx, dataset, zfs.SourceLocal)
	if err == nil && props[names.PropManaged] == "true" && isRestoring(props) {
		var resp *agentpb.DestroyVolumeResponse
		if resp, err = s.planDestroy(ctx, dataset, true); err == nil {
			err = s.destroyPlanned(ctx, "destroy "+dataset, resp)
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.Log.Warn("what was restored of a volume stays", "dataset", dataset, "error", err)
	}
}

// forgetReplica takes from a whole volume what made it a replica: the properties
// and the snapshots it was received with, which would be found by guid in the
// place of their originals.
func (s *Server) forgetReplica(ctx context.Context, dataset string) error {
	versions, err := s.ZFS.Versions(ctx, dataset)
	if err != nil {
		return err
	}
	var came []string
	for _, v := range versions {
		props, err := s.ZFS.UserProperties(ctx, v.FullName(), zfs.SourceLocal)
		if err != nil {
			return err
		}
		if !v.Bookmark && props[names.PropManaged] == "true" && props[names.PropSource] != "" {
			came = append(came, v.Name)
		}
	}
	if len(came) > 0 {
		if err := s.ZFS.DestroySnapshots(ctx, dataset, came, false); err != nil {
			return err
		}
	}
	for _, prop := range []string{names.PropSource, names.PropStream} {
		if err := s.ZFS.Inherit(ctx, dataset, prop); err != nil {
			return err
		}
	}
	return nil
}
