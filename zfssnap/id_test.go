package zfssnap

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

func TestVolumeID_roundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []VolumeID{
		{Node: "hassio", Dataset: "znvm/k3s/pvc-1"},
		{Node: "node.example.org", Dataset: "tank/with:colon and space"},
	} {
		got, err := ParseVolumeID(want.String())
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}

func TestSnapshotID_roundTrip(t *testing.T) {
	t.Parallel()
	want := SnapshotID{Node: "hassio", Dataset: "tank/a:b", Snapshot: "dr-nightly", GUID: 1<<64 - 1, Created: time.Unix(1700000000, 0)}
	got, err := ParseSnapshotID(want.String())
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, VolumeID{Node: "hassio", Dataset: "tank/a:b"}, got.Volume())
}

func TestParseIDs_refuse(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "vol-1", "zfs1", "zfs1:", "zfs1:node:", "zfs1::tank"} {
		_, err := ParseVolumeID(s)
		require.ErrorIs(t, err, ErrInvalidID, s)
	}
	for _, s := range []string{
		"", "snap-1", "zfs1:n:1:1", "zfs1:n:0:1:a@b", "zfs1:n:x:1:a@b", "zfs1:n:1:x:a@b", "zfs1:n:1:1:a", "zfs1:n:1:1:@b", "zfs1:n:1:1:a@", "zfs1::1:1:a@b",
	} {
		_, err := ParseSnapshotID(s)
		require.ErrorIs(t, err, ErrInvalidID, s)
	}
	_, err := ParseSnapshotID("zfs2:n:1:1:a@b")
	require.ErrorContains(t, err, "use the plugin version that made it, or a newer one")
}

func TestSnapshotName(t *testing.T) {
	t.Parallel()
	const uid = "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f"
	assert.Equal(t, "dr-wordpress-20260101030000-0f1e2d3c", SnapshotName("wordpress-20260101030000", uid))
	assert.Equal(t, "dr-wordpress.nightly-0f1e2d3c", SnapshotName("wordpress.nightly", uid))
	assert.NotEqual(t, SnapshotName("a", uid), SnapshotName("a", "1f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f"), "a backup that has the name of an earlier one")
	assert.NotEqual(t, SnapshotName("a", "x"), SnapshotName("a", "y"))
	long := strings.Repeat("a", 250)
	assert.Len(t, SnapshotName(long, uid), maxSnapshotName)
	assert.NotEqual(t, SnapshotName(long, uid), SnapshotName(long+"b", uid))
	assert.NotEqual(t, SnapshotName("a@b", uid), SnapshotName("a_b", uid))
	assert.NotEqual(t, SnapshotName("zurück", uid), SnapshotName("zuruck", uid))
	assert.NotContains(t, SnapshotName("a@b/c#d", uid), "@")

	for _, backup := range []string{"a", "wordpress-20260101030000", "a@b", long} {
		uid, ok := names.UIDOf(SnapshotName(backup, uid), SnapshotStem(backup))
		assert.True(t, ok)
		assert.Equal(t, "0f1e2d3c", uid)
	}
	for _, other := range []string{"dr-ab-0f1e2d3c", "dr-a-b-0f1e2d3c", "dr-a-0f1e2d3", "dr-a-0f1e2d3g", "dr-a-0F1E2D3C", "0f1e2d3c"} {
		_, ok := names.UIDOf(other, SnapshotStem("a"))
		assert.False(t, ok, other)
	}

	for _, backup := range []string{"wordpress-20260101030000", "a.b", "x-0123456789ab"} {
		got, ok := BackupOf(SnapshotName(backup, uid))
		assert.True(t, ok)
		assert.Equal(t, backup, got)
	}
	for _, other := range []string{"autosnap_2026-01-01_00:00:00_daily", "dr-with space-0f1e2d3c", "dr-a", "dr--0f1e2d3c", "dr-a-nothex00", SnapshotName(long, uid)} {
		_, ok := BackupOf(other)
		assert.False(t, ok, other)
	}
}

func FuzzParseIDs(f *testing.F) {
	f.Add("zfs1:hassio:znvm/k3s/pvc-1")
	f.Add("zfs1:hassio:42:1700000000:znvm/k3s/pvc-1@dr-nightly")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseVolumeID(s); err == nil {
			assert.Equal(t, s, id.String())
		}
		if id, err := ParseSnapshotID(s); err == nil {
			again, err := ParseSnapshotID(id.String())
			require.NoError(t, err)
			assert.Equal(t, id, again)
		}
	})
}

func FuzzParseVolumeType(f *testing.F) {
	f.Add("filesystem?compression=zstd&refquota=4294967296")
	f.Add("volume")
	f.Fuzz(func(t *testing.T, s string) {
		vt, err := parseVolumeType(s)
		if err != nil {
			return
		}
		again, err := parseVolumeType(vt.String())
		require.NoError(t, err)
		assert.Equal(t, vt, again)
	})
}

func FuzzSnapshotName(f *testing.F) {
	f.Add("wordpress-20260101030000", "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f")
	f.Add("zurück/zur@Zukunft", "")
	f.Fuzz(func(t *testing.T, backup, uid string) {
		name := SnapshotName(backup, types.UID(uid))
		assert.Regexp(t, `^dr-[A-Za-z0-9_.-]*-[0-9a-f]{8}$`, name)
		assert.LessOrEqual(t, len(name), maxSnapshotName)
	})
}
