package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/driver"
)

// nodeServer mounts volumes where kubelet wants them.
type nodeServer struct {
	csi.UnimplementedNodeServer
	*store
	node string
}

func (s *nodeServer) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.node}, nil
}

func (s *nodeServer) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (s *nodeServer) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	folder, err := s.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if there, err := exists(folder); err != nil || !there {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s on node %s", req.GetVolumeId(), s.node)
	}
	if err := bind(folder, req.GetTargetPath(), req.GetReadonly()); err != nil {
		return nil, status.Errorf(codes.Internal, "publish volume %s: %v", req.GetVolumeId(), err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func bind(folder, target string, readOnly bool) error {
	if there, err := driver.Mounted(target); err != nil || there {
		return err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	if err := unix.Mount(folder, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", folder, target, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("mount %s read-only: %w", target, err), unix.Unmount(target, 0))
	}
	return nil
}

func (s *nodeServer) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := req.GetTargetPath()
	there, err := driver.Mounted(target)
	if err == nil && there {
		err = unix.Unmount(target, 0)
	}
	if err == nil {
		err = os.Remove(target)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Errorf(codes.Internal, "unpublish %s: %v", target, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
