package main

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func mountCapability(flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{
		Mount: &csi.VolumeCapability_MountVolume{FsType: "zfs", MountFlags: flags}}}
}

func TestNodePublishVolume_RefusesWhatItCannotPlace(t *testing.T) {
	t.Parallel()
	pool := map[string]string{poolKey: "znvm/k3s"}
	tests := []struct {
		name string
		req  *csi.NodePublishVolumeRequest
	}{
		{"a raw block volume", &csi.NodePublishVolumeRequest{VolumeId: "pvc-1", TargetPath: "/t", VolumeContext: pool,
			VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{}}}},
		{"a volume without a pool", &csi.NodePublishVolumeRequest{VolumeId: "pvc-1", TargetPath: "/t", VolumeCapability: mountCapability()}},
		{"a volume without a handle", &csi.NodePublishVolumeRequest{TargetPath: "/t", VolumeContext: pool, VolumeCapability: mountCapability()}},
		{"a volume without a target", &csi.NodePublishVolumeRequest{VolumeId: "pvc-1", VolumeContext: pool, VolumeCapability: mountCapability()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := (&nodeServer{}).NodePublishVolume(t.Context(), tt.req)
			assert.Equal(t, codes.InvalidArgument, status.Code(err))
		})
	}
}

func TestMountOptions(t *testing.T) {
	t.Parallel()
	assert.Empty(t, mountOptions(&csi.NodePublishVolumeRequest{VolumeCapability: mountCapability()}))
	assert.Equal(t, []string{"-o", "noatime,ro"},
		mountOptions(&csi.NodePublishVolumeRequest{VolumeCapability: mountCapability("noatime"), Readonly: true}))
}

func TestNodeGetInfo_SaysWhereVolumesAre(t *testing.T) {
	t.Parallel()
	info, err := (&nodeServer{node: "hassio"}).NodeGetInfo(t.Context(), nil)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"openebs.io/nodeid": "hassio"}, info.GetAccessibleTopology().GetSegments())
}

func TestNodeUnpublishVolume_OfATargetThatIsGoneSucceeds(t *testing.T) {
	t.Parallel()
	_, err := (&nodeServer{}).NodeUnpublishVolume(t.Context(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: "pvc-1", TargetPath: t.TempDir() + "/gone"})
	require.NoError(t, err)
}
