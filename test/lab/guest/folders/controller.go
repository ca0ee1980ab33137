package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// controller makes volumes and snapshots, which are called what they are asked to be.
type controller struct {
	csi.UnimplementedControllerServer
	*store
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, can := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: can}},
		})
	}
	return resp, nil
}

func (c *controller) CreateVolume(_ context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	folder, err := c.volume(req.GetName())
	if err != nil {
		return nil, err
	}
	for _, capability := range req.GetVolumeCapabilities() {
		if capability.GetMount() == nil {
			return nil, status.Error(codes.InvalidArgument, "a folder is no block device")
		}
	}
	from, err := c.source(req.GetVolumeContentSource())
	if err != nil {
		return nil, err
	}
	there, err := exists(folder)
	if err == nil && !there {
		err = fill(folder, from)
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "make volume %s: %v", req.GetName(), err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:      req.GetName(),
		CapacityBytes: req.GetCapacityRange().GetRequiredBytes(),
		ContentSource: req.GetVolumeContentSource(),
	}}, nil
}

// source is the folder that a volume begins with, "" for none.
func (c *controller) source(from *csi.VolumeContentSource) (string, error) {
	if from == nil {
		return "", nil
	}
	name := from.GetSnapshot().GetSnapshotId()
	if name == "" {
		return "", status.Error(codes.InvalidArgument, "a volume is made of a snapshot or of nothing")
	}
	snapshot, err := c.snapshot(name)
	if err != nil {
		return "", err
	}
	volume, _, err := taken(snapshot)
	if errors.Is(err, os.ErrNotExist) {
		return "", status.Errorf(codes.NotFound, "there is no snapshot %s", name)
	}
	if err != nil {
		return "", status.Errorf(codes.Internal, "read snapshot %s: %v", name, err)
	}
	return filepath.Join(snapshot, volume), nil
}

func (c *controller) DeleteVolume(_ context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	folder, err := c.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, status.Errorf(codes.Internal, "delete volume %s: %v", req.GetVolumeId(), err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: req.GetVolumeCapabilities(),
	}}, nil
}

func (c *controller) CreateSnapshot(_ context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	volume, err := c.volume(req.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	snapshot, err := c.snapshot(req.GetName())
	if err != nil {
		return nil, err
	}
	if there, err := exists(volume); err != nil || !there {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", req.GetSourceVolumeId())
	}
	of, _, err := taken(snapshot)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = fill(filepath.Join(snapshot, req.GetSourceVolumeId()), volume)
	case err == nil && of != req.GetSourceVolumeId():
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is of volume %s", req.GetName(), of)
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "take snapshot %s: %v", req.GetName(), err)
	}
	s, err := describe(snapshot)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "read snapshot %s: %v", req.GetName(), err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: s}, nil
}

func describe(snapshot string) (*csi.Snapshot, error) {
	volume, at, err := taken(snapshot)
	if err != nil {
		return nil, err
	}
	return &csi.Snapshot{SnapshotId: filepath.Base(snapshot), SourceVolumeId: volume, CreationTime: timestamppb.New(at), ReadyToUse: true}, nil
}

func (c *controller) DeleteSnapshot(_ context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	snapshot, err := c.snapshot(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(snapshot); err != nil {
		return nil, status.Errorf(codes.Internal, "delete snapshot %s: %v", req.GetSnapshotId(), err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// ListSnapshots has the one that is asked for: the sidecar asks for no others.
func (c *controller) ListSnapshots(_ context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	snapshot, err := c.snapshot(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	s, err := describe(snapshot)
	if errors.Is(err, os.ErrNotExist) {
		return &csi.ListSnapshotsResponse{}, nil
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "read snapshot %s: %v", req.GetSnapshotId(), err)
	}
	return &csi.ListSnapshotsResponse{Entries: []*csi.ListSnapshotsResponse_Entry{{Snapshot: s}}}, nil
}
