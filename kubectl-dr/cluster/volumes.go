package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// makers finds agents for what makes volumes.
type makers struct{ Agents }

func (m makers) Agent(node string) (zfssnap.Agent, error) { return m.Agents.Agent(node) }

// Site is the location with its agents, beside a cluster.
func (l Location) Site(c client.Client) *zfssnap.Site {
	return zfssnap.NewSite(l.Location, makers{l.Agents}, c)
}

// Origin is what a volume is made of.
type Origin struct {
	Snapshot zfssnap.SnapshotID
	// VolumeType is what the snapshotter told of the source, "" when nobody knows.
	VolumeType string
	// Volume is the PersistentVolume as it was.
	Volume *unstructured.Unstructured
	// Node has the copy; "" has it looked for.
	Node string
}

// Make makes a volume from the copy of a snapshot for a run, and returns the
// PersistentVolume for it, which is not created. What the volume's driver needs
// beside it is. Idempotent for a snapshot and a run's uid.
func (s *Storage) Make(ctx context.Context, c client.Client, from Origin, run string, uid types.UID) (*unstructured.Unstructured, error) {
	l, err := s.location(from.Node)
	if from.Node == "" {
		l, err = s.locationFor(ctx, from.Snapshot)
	}
	if err != nil {
		return nil, err
	}
	site := l.Site(c)
	id, err := site.MakeVolume(ctx, from.Snapshot, from.VolumeType, &velerov1api.Restore{
		ObjectMeta: metav1.ObjectMeta{Name: run, UID: uid, Labels: map[string]string{zfssnap.LabelRun: run}},
	})
	if err != nil {
		return nil, fmt.Errorf("make a volume from %s: %w", from.Snapshot.Name(), err)
	}
	return site.SetVolume(ctx, from.Volume, id)
}

// locationFor returns the location through which a copy of a snapshot is found.
func (s *Storage) locationFor(ctx context.Context, id zfssnap.SnapshotID) (Location, error) {
	var errs []error
	for _, l := range s.leading(id) {
		one := &Storage{Locations: []Location{l}, back: s.back}
		_, err := one.Find(ctx, id)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	return Location{}, errors.Join(append(errs, s.needed())...)
}

// Locate returns the dataset of a PersistentVolume; false for one that is on no
// host with an agent.
func (s *Storage) Locate(ctx context.Context, c client.Client, pv *unstructured.Unstructured) (zfssnap.VolumeID, bool, error) {
	var errs []error
	for _, l := range s.Locations {
		id, ours, err := l.Site(c).Locate(ctx, pv)
		if ours {
			return id, true, nil
		}
		errs = append(errs, err)
	}
	return zfssnap.VolumeID{}, false, errors.Join(errs...)
}

// Dataset returns what the agent of a node says of a dataset.
func (s *Storage) Dataset(ctx context.Context, id zfssnap.VolumeID) (*agentpb.Dataset, error) {
	l, err := s.location(id.Node)
	if err != nil {
		return nil, err
	}
	ds, err := call(ctx, l, id.Node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.ResolveDataset(ctx, &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: id.Dataset}})
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s on node %s: %w", id.Dataset, id.Node, err)
	}
	return ds, nil
}

// Found is a volume that a pool knows of by itself.
type Found struct {
	zfssnap.ClaimRecord
	// Snapshot is the newest, as the node has it, and Node and Dataset are where it
	// lies.
	Snapshot zfssnap.SnapshotID
	Node     string
	Copy     string
}

// Pool returns the volumes whose snapshots on a node say which claim they belong
// to, and the names of those datasets whose snapshots do not.
func (s *Storage) Pool(ctx context.Context, node string) (all []Found, silent []string, err error) {
	l, err := s.location(node)
	if err != nil {
		return nil, nil, err
	}
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListDatasetsResponse, error) {
		return a.ListDatasets(ctx, &agentpb.ListDatasetsRequest{})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list datasets on node %s: %w", node, err)
	}
	for _, d := range resp.GetDatasets() {
		f, err := found(ctx, l, node, d)
		switch {
		case errors.Is(err, zfssnap.ErrNoClaim):
			silent = append(silent, d.GetName())
		case err != nil:
			return nil, nil, err
		case f != nil:
			all = append(all, *f)
		}
	}
	return all, silent, nil
}

// found looks at one dataset; nil for one without a snapshot of ours.
func found(ctx context.Context, l Location, node string, d *agentpb.Dataset) (*Found, error) {
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListVersionsResponse, error) {
		return a.ListVersions(ctx, &agentpb.ListVersionsRequest{Dataset: d.GetName(), NewestProperties: true})
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots of %s on node %s: %w", d.GetName(), node, err)
	}
	i := slices.IndexFunc(resp.GetVersions(), func(v *agentpb.Version) bool { return len(v.GetProperties()) > 0 })
	if i < 0 {
		return nil, nil
	}
	v := resp.GetVersions()[i]
	// A copy says where it comes from; what does not is the volume itself, or was
	// brought by another tool.
	id := zfssnap.SnapshotID{Node: node, Dataset: d.GetName(), Snapshot: v.GetName(), GUID: v.GetGuid(), Created: time.Unix(v.GetCreatedUnix(), 0)}
	dataset := d.GetName()
	if from, of, ok := strings.Cut(d.GetProperties()[zfssnap.PropSource], ":"); ok {
		id.Node, id.Dataset, dataset = from, of, of
	}
	record, err := zfssnap.ParseClaim(v.GetProperties(), dataset)
	if errors.Is(err, zfssnap.ErrNoClaim) {
		if record, err = zfssnap.ParseClaim(v.GetProperties(), ""); err == nil {
			id.Dataset = record.Dataset
		}
	}
	if err != nil {
		return nil, err
	}
	return &Found{ClaimRecord: *record, Snapshot: id, Node: node, Copy: d.GetName() + "@" + v.GetName()}, nil
}
