package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/driver"
)

type nodeServer struct {
	csi.UnimplementedNodeServer
	node string
	// mu makes looking whether something is mounted and mounting it one step.
	mu sync.Mutex
}

func (s *nodeServer) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             s.node,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{topologyKey: s.node}},
	}, nil
}

func (s *nodeServer) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (s *nodeServer) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if req.GetVolumeCapability().GetMount() == nil {
		return nil, status.Error(codes.InvalidArgument, "only volumes with a file system are supported")
	}
	pool, target := req.GetVolumeContext()[poolKey], req.GetTargetPath()
	if pool == "" || req.GetVolumeId() == "" || target == "" {
		return nil, status.Errorf(codes.InvalidArgument, "publish %q at %q: volume handle, target and %s are needed",
			req.GetVolumeId(), target, poolKey)
	}
	dataset := path.Join(pool, req.GetVolumeId())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := publish(ctx, dataset, target, mountOptions(req)); err != nil {
		return nil, status.Errorf(codes.Internal, "publish %s at %s: %v", dataset, target, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func mountOptions(req *csi.NodePublishVolumeRequest) []string {
	options := req.GetVolumeCapability().GetMount().GetMountFlags()
	if req.GetReadonly() {
		options = append(options, "ro")
	}
	if len(options) == 0 {
		return nil
	}
	return []string{"-o", strings.Join(options, ",")}
}

func publish(ctx context.Context, dataset, target string, options []string) error {
	if there, err := driver.Mounted(target); err != nil || there {
		return err
	}
	properties, err := output(ctx, "zfs", "get", "-Hpo", "value", "type,mountpoint", dataset)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	kind, mountpoint, _ := strings.Cut(strings.TrimSpace(properties), "\n")
	switch {
	case kind == "volume":
		return publishVolume(ctx, "/dev/zvol/"+dataset, target, options)
	case mountpoint != "legacy":
		return fmt.Errorf("mountpoint is %s, not legacy", mountpoint)
	}
	_, err = output(ctx, "mount", append(options, "-t", "zfs", dataset, target)...)
	return err
}

// publishVolume mounts a ZFS volume, with a new file system when it has none.
func publishVolume(ctx context.Context, device, target string, options []string) error {
	const nothingFound = 2
	_, err := output(ctx, "blkid", device)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == nothingFound {
		_, err = output(ctx, "mkfs.ext4", "-q", device)
	}
	if err != nil {
		return err
	}
	_, err = output(ctx, "mount", append(options, device, target)...)
	return err
}

func (s *nodeServer) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target := req.GetTargetPath()
	s.mu.Lock()
	defer s.mu.Unlock()
	there, err := driver.Mounted(target)
	if err == nil && there {
		_, err = output(ctx, "umount", target)
	}
	if err == nil {
		err = os.Remove(target)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Errorf(codes.Internal, "unpublish %s: %v", target, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// output runs a program; what it said about an error is in the error.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
