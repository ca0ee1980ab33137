package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func newController(t *testing.T) *controller {
	t.Helper()
	return &controller{store: &store{folder: t.TempDir()}}
}

func (c *controller) newVolume(t *testing.T, name string, from *csi.VolumeContentSource) string {
	t.Helper()
	made, err := c.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: name, VolumeContentSource: from})
	require.NoError(t, err)
	return filepath.Join(c.folder, "volumes", made.GetVolume().GetVolumeId())
}

func of(snapshot string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
	}}
}

func TestSnapshot_KeepsWhatTheVolumeHad(t *testing.T) {
	t.Parallel()
	c := newController(t)
	source := c.newVolume(t, "pvc-1", nil)
	require.NoError(t, os.MkdirAll(filepath.Join(source, "posts"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(source, "posts", "one"), []byte("before"), 0o600))

	take := &csi.CreateSnapshotRequest{Name: "snapshot-1", SourceVolumeId: "pvc-1"}
	first, err := c.CreateSnapshot(t.Context(), take)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(source, "posts", "one"), []byte("after"), 0o600))
	again, err := c.CreateSnapshot(t.Context(), take)
	require.NoError(t, err)
	assert.Equal(t, first.String(), again.String(), "taken once")
	listed, err := c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SnapshotId: "snapshot-1"})
	require.NoError(t, err)
	require.Len(t, listed.GetEntries(), 1)
	assert.Equal(t, "pvc-1", listed.GetEntries()[0].GetSnapshot().GetSourceVolumeId())

	_, err = c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "pvc-1"})
	require.NoError(t, err)
	restored := c.newVolume(t, "pvc-2", of("snapshot-1"))
	content, err := os.ReadFile(filepath.Join(restored, "posts", "one"))
	require.NoError(t, err)
	assert.Equal(t, "before", string(content))

	_, err = c.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: "snapshot-1"})
	require.NoError(t, err)
	listed, err = c.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SnapshotId: "snapshot-1"})
	require.NoError(t, err)
	assert.Empty(t, listed.GetEntries())
}

func TestController_Refuses(t *testing.T) {
	t.Parallel()
	c := newController(t)
	c.newVolume(t, "pvc-1", nil)
	c.newVolume(t, "pvc-2", nil)
	_, err := c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "taken", SourceVolumeId: "pvc-1"})
	require.NoError(t, err)
	block := []*csi.VolumeCapability{{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}}
	create := func(req *csi.CreateVolumeRequest) func() error {
		return func() error {
			_, err := c.CreateVolume(t.Context(), req)
			return err
		}
	}
	take := func(name, volume string) func() error {
		return func() error {
			_, err := c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
			return err
		}
	}
	for _, tt := range []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"a volume outside", create(&csi.CreateVolumeRequest{Name: "../pvc-1"}), codes.InvalidArgument},
		{"a volume without a name", create(&csi.CreateVolumeRequest{}), codes.InvalidArgument},
		{"a block volume", create(&csi.CreateVolumeRequest{Name: "pvc-3", VolumeCapabilities: block}), codes.InvalidArgument},
		{"a volume of a snapshot that is not here", create(&csi.CreateVolumeRequest{Name: "pvc-3", VolumeContentSource: of("gone")}), codes.NotFound},
		{"a snapshot of no volume", take("other", "gone"), codes.NotFound},
		{"a snapshot's name for another volume", take("taken", "pvc-2"), codes.AlreadyExists},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, status.Code(tt.call()))
		})
	}
}

func TestNode_FindsNoVolumeOfAnotherNode(t *testing.T) {
	t.Parallel()
	s := &nodeServer{store: &store{folder: t.TempDir()}, node: "remote"}
	_, err := s.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "pvc-1", TargetPath: t.TempDir() + "/t"})
	assert.Equal(t, codes.NotFound, status.Code(err))
	assert.ErrorContains(t, err, "there is no volume pvc-1 on node remote")
}
