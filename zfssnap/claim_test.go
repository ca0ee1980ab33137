package zfssnap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

func TestClaimRecord(t *testing.T) {
	t.Parallel()
	vol := VolumeID{Node: "hassio", Dataset: volDataset}
	text := RecordClaim(openEBSPV(t), vol)
	require.NotEmpty(t, text)
	assert.NotContains(t, text, "hassio", "the node may be gone")

	r, err := ParseClaim(map[string]string{names.ClaimProperty(volDataset): text, names.ClaimProperty("znvm/other"): "x", PropBackup: "nightly"}, volDataset)
	require.NoError(t, err)
	assert.Equal(t, []string{"wordpress", "data", "pvc-1", volDataset}, []string{r.Namespace, r.Claim, r.Volume, r.Dataset})

	claim, err := r.PersistentVolumeClaim()
	require.NoError(t, err)
	assert.Equal(t, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": map[string]any{"namespace": "wordpress", "name": "data"},
		"spec": map[string]any{
			"accessModes": []any{"ReadWriteOnce"}, "storageClassName": "zfs-storage-znvm", "volumeMode": "Filesystem",
			"resources": map[string]any{"requests": map[string]any{"storage": "4Gi"}},
		},
	}, claim.Object)

	pv, err := r.PersistentVolume()
	require.NoError(t, err)
	assert.Equal(t, "pvc-1", pv.GetName())
	assert.Equal(t, map[string]string{ProvisionedBy: "zfs.csi.openebs.io"}, pv.GetAnnotations())
	for field, want := range map[string]string{"driver": "zfs.csi.openebs.io", "volumeHandle": "pvc-1", "fsType": "zfs"} {
		got, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", field)
		assert.Equal(t, want, got, field)
	}
}

// Every kind of volume has to come back from what its snapshot keeps.
func TestClaimRecord_ofEveryKind(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/volumes/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			pv := pvFrom(t, string(content))
			text := RecordClaim(pv, VolumeID{Node: "nas", Dataset: "tank/a"})
			if _, bound, _ := unstructured.NestedMap(pv.Object, "spec", "claimRef"); !bound {
				assert.Empty(t, text)
				return
			}
			r, err := ParseClaim(map[string]string{names.ClaimProperty("tank/a"): text}, "")
			require.NoError(t, err)
			back, err := r.PersistentVolume()
			require.NoError(t, err)
			was, err := toPV(pv)
			require.NoError(t, err)
			typed, err := toPV(back)
			require.NoError(t, err)
			assert.Equal(t, driverOf(was), driverOf(typed), "the same driver knows it")
		})
	}
}

func TestRecordClaim_ofWhatHasNoRoom(t *testing.T) {
	t.Parallel()
	pv := openEBSPV(t)
	require.NoError(t, unstructured.SetNestedField(pv.Object, strings.Repeat("x", 9000), "spec", "csi", "volumeAttributes", "long"))
	assert.Empty(t, RecordClaim(pv, VolumeID{Dataset: volDataset}))
}

func TestParseClaim_refuses(t *testing.T) {
	t.Parallel()
	text := RecordClaim(openEBSPV(t), VolumeID{Dataset: volDataset})
	two := map[string]string{names.ClaimProperty("a"): text, names.ClaimProperty("b"): text}
	_, err := ParseClaim(two, "")
	require.ErrorIs(t, err, ErrNoClaim, "which of the two?")
	_, err = ParseClaim(two, "c")
	require.ErrorIs(t, err, ErrNoClaim)
	_, err = ParseClaim(map[string]string{names.ClaimProperty("a"): "{"}, "a")
	require.ErrorContains(t, err, "read the record of the claim")
	_, err = ParseClaim(map[string]string{names.ClaimProperty("a"): "{}"}, "a")
	require.ErrorContains(t, err, "names no claim")
}

func TestClaimRecord_VolumeType(t *testing.T) {
	t.Parallel()
	of := func(spec string) string {
		r, err := ParseClaim(map[string]string{names.ClaimProperty("a"): `{"namespace":"a","claim":"b","volume":"c","spec":` + spec + `}`}, "a")
		require.NoError(t, err)
		return r.VolumeType()
	}
	assert.Equal(t, "filesystem?mountpoint=%2Ftank%2Fa", of(`{"local":{"path":"/tank/a"}}`))
	assert.Equal(t, "filesystem?mountpoint=%2Ftank%2Fa", of(`{"nfs":{"server":"nas","path":"/tank/a"}}`))
	assert.Empty(t, of(`{"local":{"path":"/dev/zvol/tank/a"}}`))
	assert.Empty(t, of(`{"csi":{"driver":"zfs.csi.openebs.io","volumeHandle":"a"}}`))
}
