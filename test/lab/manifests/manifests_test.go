package manifests

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		AccessMode string
		Config     map[string]string
	}
}

func decode(t *testing.T, stream []byte) map[string]object {
	t.Helper()
	objects := map[string]object{}
	for doc := range strings.SplitSeq(string(stream), "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(doc), &o), doc)
		require.NotEmpty(t, o.Kind, doc)
		objects[o.Kind+"/"+o.Metadata.Name] = o
	}
	return objects
}

func TestCRDs(t *testing.T) {
	t.Parallel()
	stream, err := CRDs()
	require.NoError(t, err)
	objects := decode(t, stream)
	assert.Contains(t, objects, "CustomResourceDefinition/zfsvolumes.zfs.openebs.io")
	assert.Contains(t, objects, "CustomResourceDefinition/ingressroutes.traefik.io")
}

func TestSite_YAML(t *testing.T) {
	t.Parallel()
	location := map[string]string{"agents": "hassio=127.0.0.1:1,remote=127.0.0.1:2", "target": "remote"}
	tests := []struct {
		name string
		site Site
		mode string
	}{
		{"a site that makes backups", Site{}, "ReadWrite"},
		{"a site that only restores", Site{ReadOnly: true}, "ReadOnly"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.site.Location = location
			tt.site.Bucket, tt.site.S3URL = "velero", "http://127.0.0.1:9000"
			tt.site.StorageClasses = []StorageClass{{Name: "zfs-storage-nas", Pool: "nas/k3s"}}
			stream, err := tt.site.YAML()
			require.NoError(t, err)
			objects := decode(t, stream)
			assert.Equal(t, tt.mode, objects["BackupStorageLocation/default"].Spec.AccessMode)
			assert.Equal(t, location, objects["VolumeSnapshotLocation/zfs"].Spec.Config)
			assert.Contains(t, objects, "StorageClass/zfs-storage-nas")
		})
	}
}
