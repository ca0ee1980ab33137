package zfssnap

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

func zfsVolume(name, pool, node string) client.Object {
	zv := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"poolName": pool, "ownerNodeID": node}}}
	zv.SetGroupVersionKind(zfsVolumeKind)
	zv.SetNamespace("openebs")
	zv.SetName(name)
	return zv
}

// onNode is a node affinity, as a line of YAML.
func onNode(key, node string) string {
	return `nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: ` + key + `, operator: In, values: [` + node + `]}]}]}}`
}

func TestSite_Locate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		pv      string // spec
		want    string // dataset on hassio, "" for foreign
		wantErr string
	}{
		{
			name: "OpenEBS with its own topology key",
			pv:   "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-1, volumeAttributes: {openebs.io/poolname: znvm/k3s}}\n" + onNode("openebs.io/nodeid", "hassio"),
			want: "znvm/k3s/pvc-1",
		},
		{
			name: "OpenEBS with the older topology key",
			pv:   "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-1, volumeAttributes: {openebs.io/poolname: znvm}}\n" + onNode("openebs.io/nodename", "hassio"),
			want: "znvm/pvc-1",
		},
		{
			name: "OpenEBS imported, pinned by hostname",
			pv:   "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-1, volumeAttributes: {openebs.io/poolname: znvm}}\n" + onNode("kubernetes.io/hostname", "hassio"),
			want: "znvm/pvc-1",
		},
		{
			name: "OpenEBS without attributes is found through its ZFSVolume",
			pv:   "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-cr}",
			want: "nas/k3s/pvc-cr",
		},
		{
			name:    "OpenEBS without attributes and ZFSVolume is an error",
			pv:      "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-none}",
			wantErr: `get ZFSVolume openebs/pvc-none`,
		},
		{
			name:    "OpenEBS without a handle is an error",
			pv:      "csi: {driver: zfs.csi.openebs.io}\n" + onNode("openebs.io/nodeid", "hassio"),
			wantErr: "no volumeHandle",
		},
		{
			name:    "OpenEBS on a node without an agent is an error",
			pv:      "csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-1, volumeAttributes: {openebs.io/poolname: znvm}}\n" + onNode("openebs.io/nodeid", "other"),
			wantErr: `no agent is known on node "other"`,
		},
		{
			name: "local volume on a mountpoint",
			pv:   "local: {path: /srv/data}\n" + onNode("kubernetes.io/hostname", "hassio"),
			want: "nas/data",
		},
		{
			name: "local volume with an untidy path",
			pv:   "local: {path: /srv//data/}\n" + onNode("kubernetes.io/hostname", "hassio"),
			want: "nas/data",
		},
		{
			name: "local block volume on a zvol",
			pv:   "volumeMode: Block\nlocal: {path: /dev/zvol/nas/disk}\n" + onNode("kubernetes.io/hostname", "hassio"),
			want: "nas/disk",
		},
		{
			name: "hostPath on a mountpoint",
			pv:   "hostPath: {path: /srv/data, type: Directory}\n" + onNode("kubernetes.io/hostname", "hassio"),
			want: "nas/data",
		},
		{
			name: "hostPath that names no node, when there is only one",
			pv:   "hostPath: {path: /srv/data}",
			want: "nas/data",
		},
		{name: "local volume inside a dataset is foreign", pv: "local: {path: /srv/data/sub}\n" + onNode("kubernetes.io/hostname", "hassio")},
		{name: "local volume on another node is foreign", pv: "local: {path: /srv/data}\n" + onNode("kubernetes.io/hostname", "other")},
		{name: "another CSI driver is foreign", pv: "csi: {driver: ebs.csi.aws.com, volumeHandle: vol-1}"},
		{name: "NFS is foreign", pv: "nfs: {server: nas, path: /srv/data}"},
		{name: "an in-tree disk is foreign", pv: "awsElasticBlockStore: {volumeID: vol-1}"},
		{name: "no source at all is foreign", pv: "capacity: {storage: 1Gi}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, primaryConfig(), zfsVolume("pvc-cr", "nas/k3s", "hassio"))
			w.agents["hassio"] = newFakeAgent(
				&agentpb.Dataset{Name: "nas/data", Type: typeFilesystem, Mountpoint: "/srv/data"},
				&agentpb.Dataset{Name: "nas/disk", Type: typeVolume},
			)
			pv := &unstructured.Unstructured{Object: map[string]any{
				"metadata": map[string]any{"name": "pv"},
				"spec":     pvFrom(t, tt.pv).Object,
			}}
			before := pv.DeepCopy()
			id, ours, err := w.site(t).Locate(t.Context(), pv)
			assert.Equal(t, before, pv, "the volume is not changed")
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				require.ErrorContains(t, err, "find the dataset of PersistentVolume pv")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want != "", ours)
			if ours {
				assert.Equal(t, VolumeID{Node: "hassio", Dataset: tt.want}, id)
			}
		})
	}
}

func TestPin(t *testing.T) {
	t.Parallel()
	term := func(key, node string) string { return `{key: ` + key + `, operator: In, values: [` + node + `]}` }
	tests := []struct{ name, terms, want string }{
		{
			"changes what names a node and keeps the rest",
			`[{matchExpressions: [` + term("openebs.io/nodename", "hassio") + `,` + term("disk", "ssd") + `]}]`,
			`[{matchExpressions: [` + term("openebs.io/nodename", "remote") + `,` + term("disk", "ssd") + `]}]`,
		},
		{
			"changes every term",
			`[{matchExpressions: [` + term("openebs.io/nodeid", "a") + `]},{matchExpressions: [` + term("kubernetes.io/hostname", "b") + `]}]`,
			`[{matchExpressions: [` + term("openebs.io/nodeid", "remote") + `]},{matchExpressions: [` + term("kubernetes.io/hostname", "remote") + `]}]`,
		},
		{
			"replaces an affinity with a way round the node",
			`[{matchExpressions: [` + term("openebs.io/nodeid", "a") + `]},{matchExpressions: [` + term("disk", "ssd") + `]}]`,
			`[{matchExpressions: [` + term("key", "remote") + `]}]`,
		},
		{"adds what is missing", `[]`, `[{matchExpressions: [` + term("key", "remote") + `]}]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pv := pvFrom(t, `{spec: {nodeAffinity: {required: {nodeSelectorTerms: `+tt.terms+`}}}}`)
			require.NoError(t, pin(pv, "remote", "key"))
			assert.Equal(t, pvFrom(t, `{spec: {nodeAffinity: {required: {nodeSelectorTerms: `+tt.want+`}}}}`), pv)
		})
	}
}
