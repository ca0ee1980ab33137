package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Lineage is what became of a dataset since a snapshot.
type Lineage struct {
	Exists bool
	// Knows: it has the snapshot, or is a clone of it.
	Knows bool
	// Written are the bytes written since, as ZFS counts them.
	Written uint64
	// Mounted: something may write to it now.
	Mounted bool
}

// Lineage looks at what became of a dataset on a node since the snapshot with
// that guid. One that was made from the snapshot is told by origin, its full name
// on that node; "" for others.
func (s *Storage) Lineage(ctx context.Context, node, dataset string, guid uint64, origin string) (Lineage, error) {
	l, err := s.location(node)
	if err != nil {
		return Lineage{}, err
	}
	ds, err := s.Dataset(ctx, zfssnap.VolumeID{Node: node, Dataset: dataset})
	if errors.Is(err, agent.ErrNotFound) {
		return Lineage{}, nil
	}
	if err != nil {
		return Lineage{}, err
	}
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListVersionsResponse, error) {
		return a.ListVersions(ctx, &agentpb.ListVersionsRequest{Dataset: dataset})
	})
	if err != nil {
		return Lineage{}, fmt.Errorf("list snapshots of %s on node %s: %w", dataset, node, err)
	}
	found := Lineage{Exists: true, Mounted: ds.GetMounted(), Knows: origin != "" && ds.GetOrigin() == origin}
	for _, v := range resp.GetVersions() {
		switch {
		case v.GetBookmark():
		case v.GetGuid() == guid:
			found.Knows, found.Written = true, 0
		default:
			found.Written += v.GetWritten()
		}
	}
	found.Written += ds.GetWritten()
	return found, nil
}

// Made returns the volumes that were made for a run on a node, by the full name
// of the snapshot that they were made from.
func (s *Storage) Made(ctx context.Context, node, run string) (map[string]string, error) {
	l, err := s.location(node)
	if err != nil {
		return nil, err
	}
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListDatasetsResponse, error) {
		return a.ListDatasets(ctx, &agentpb.ListDatasetsRequest{Match: map[string]string{zfssnap.PropManaged: "true", zfssnap.PropRun: run}})
	})
	if err != nil {
		return nil, fmt.Errorf("list volumes of run %s on node %s: %w", run, node, err)
	}
	made := map[string]string{}
	for _, d := range resp.GetDatasets() {
		if d.GetOrigin() != "" {
			made[d.GetOrigin()] = d.GetName()
		}
	}
	return made, nil
}

// Keep takes a snapshot of a dataset that keeps what a run found in it.
// Idempotent.
func (s *Storage) Keep(ctx context.Context, node, dataset, name, run string) error {
	l, err := s.location(node)
	if err != nil {
		return err
	}
	_, err = call(ctx, l, node, changeTimeout, func(ctx context.Context, a Agent) (*agentpb.CreateSnapshotsResponse, error) {
		return a.CreateSnapshots(ctx, &agentpb.CreateSnapshotsRequest{
			Datasets: []string{dataset}, Name: name, Properties: map[string]string{zfssnap.PropRun: run},
		})
	})
	if err != nil {
		return fmt.Errorf("keep %s on node %s as %s: %w", dataset, node, name, err)
	}
	return nil
}

// Returns reports whether copies of a node's volumes go back to where a failover
// came from.
func (s *Storage) Returns(node string) bool {
	return slices.ContainsFunc(s.Locations, func(l Location) bool {
		_, known := l.Location.Agents[node]
		return known && l.Returns(node)
	})
}
