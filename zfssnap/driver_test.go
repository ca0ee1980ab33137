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
		{
			name: "NFS share of a node, by its name",
			pv:   "nfs: {server: hassio, path: /srv/data}",
			want: "nas/data",
		},
		{name: "NFS inside a dataset is foreign", pv: "nfs: {server: hassio, path: /srv/data/sub}"},
		{name: "NFS from elsewhere is foreign", pv: "nfs: {server: nas, path: /srv/data}"},
		{
			name: "democratic-csi by its attributes, whatever the driver is called",
			pv:   "csi: {driver: local.example.org, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: zfs-local, provisioner_driver: zfs-local-dataset, zfs_asset_name: tank/v/pvc-1}}\n" + onNode("org.democratic-csi.topology/node", "hassio"),
			want: "tank/v/pvc-1",
		},
		{
			name:    "democratic-csi without its node is an error",
			pv:      "csi: {driver: d, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: zfs-local, provisioner_driver: zfs-local-dataset, zfs_asset_name: tank/v/pvc-1}}",
			wantErr: "no node in its affinity",
		},
		{
			name:    "democratic-csi on a host without an agent is an error",
			pv:      "csi: {driver: d, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: nfs, provisioner_driver: zfs-generic-nfs, server: 10.1.2.3, share: /srv/data}}",
			wantErr: "no agent is known on the host it is reached at (10.1.2.3); add <host>=<node> to storageHosts",
		},
		{
			name:    "democratic-csi that shares what is no dataset is an error",
			pv:      "csi: {driver: d, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: nfs, provisioner_driver: zfs-generic-nfs, server: hassio, share: /none}}",
			wantErr: `node hassio has no dataset mounted at "/none"`,
		},
		{
			name:    "democratic-csi over iSCSI needs to be told the parent",
			pv:      "csi: {driver: my.iscsi, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: iscsi, provisioner_driver: zfs-generic-iscsi, portal: 'hassio:3260'}}",
			wantErr: "add my.iscsi=<datasetParentName> to datasetParents",
		},
		{name: "democratic-csi's drivers without ZFS are foreign", pv: "csi: {driver: d, volumeHandle: pvc-1, volumeAttributes: {node_attach_driver: iscsi, provisioner_driver: synology-iscsi, portal: 'hassio:3260'}}"},
		{name: "node-manual from elsewhere is foreign", pv: "csi: {driver: d, volumeHandle: x, volumeAttributes: {node_attach_driver: nfs, provisioner_driver: node-manual, server: nas, share: /srv/data}}"},
		{name: "node-manual on a directory is foreign", pv: "csi: {driver: d, volumeHandle: x, volumeAttributes: {node_attach_driver: nfs, provisioner_driver: node-manual, server: hassio, share: /srv/data/sub}}"},
		{
			name: "TrueNAS by its portal",
			pv:   "csi: {driver: csi.truenas.io, volumeHandle: tank/pvc-1, volumeAttributes: {targetPortal: '[fd00::1]:3260'}}",
			want: "tank/pvc-1",
		},
		{
			name:    "TrueNAS that names no host is an error",
			pv:      "csi: {driver: csi.truenas.io, volumeHandle: tank/pvc-1}",
			wantErr: "it names no host it is reached at",
		},
		{
			name:    "TrueNAS whose handle is no dataset is an error",
			pv:      "csi: {driver: csi.truenas.io, volumeHandle: tank@pvc-1, volumeAttributes: {nfsServer: hassio}}",
			wantErr: `"tank@pvc-1" is not a dataset name`,
		},
		{name: "an in-tree disk is foreign", pv: "awsElasticBlockStore: {volumeID: vol-1}"},
		{name: "no source at all is foreign", pv: "capacity: {storage: 1Gi}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := primaryConfig()
			config[KeyStorageHosts] = "fd00::1=hassio"
			w := newWorld(t, config, zfsVolume("pvc-cr", "nas/k3s", "hassio"))
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

func TestSite_Locate_zfsProvisioner(t *testing.T) {
	t.Parallel()
	pv := func(dataset, host string) *unstructured.Unstructured {
		return pvFrom(t, "{metadata: {name: pv, annotations: {zfs.pv.kubernetes.io/zfs-dataset-path: "+dataset+", zfs.pv.kubernetes.io/zfs-host: "+host+"}}, spec: {nfs: {server: nas, path: /tank/x}}}")
	}
	site := newWorld(t, primaryConfig()).site(t)
	id, ours, err := site.Locate(t.Context(), pv("tank/x", "hassio"))
	require.NoError(t, err)
	assert.True(t, ours)
	assert.Equal(t, VolumeID{Node: "hassio", Dataset: "tank/x"}, id)
	_, _, err = site.Locate(t.Context(), pv("tank/x", "elsewhere"))
	require.ErrorContains(t, err, "no agent is known on the host it is reached at (elsewhere, nas)")
	_, _, err = site.Locate(t.Context(), pv("/tank/x", "hassio"))
	require.ErrorContains(t, err, `annotation zfs.pv.kubernetes.io/zfs-dataset-path: "/tank/x" is not a dataset name`)
}

func TestLocation_servers(t *testing.T) {
	t.Parallel()
	l := Location{
		Agents:       map[string]string{"nas": "10.0.0.20:7443", "one": "127.0.0.1:1", "two": "127.0.0.1:2", "six": "[fd00::6]:7443"},
		StorageHosts: map[string]string{"nfs.example.org": "nas", "10.9.9.9": "one"},
	}
	for name, want := range map[string]string{
		"nas": "nas", "10.0.0.20": "nas", "10.0.0.20:3260": "nas", "nfs.example.org": "nas",
		"10.9.9.9": "one", "fd00::6": "six", "[fd00::6]:3260": "six",
		"127.0.0.1": "", "other": "", "": "",
	} {
		got, err := l.nodeOf("", name)
		assert.Equal(t, want, got, name)
		assert.Equal(t, want == "", err != nil, name)
	}
	assert.Equal(t, "10.0.0.20", l.serverOf("nas", "10.0.0.20"), "a name that leads there stays")
	assert.Equal(t, "nfs.example.org", l.serverOf("nas", "elsewhere"))
	assert.Equal(t, "127.0.0.1", l.serverOf("two", "elsewhere"))
	assert.Equal(t, "[fd00::6]:3260", l.portalOf("six", "elsewhere:3260"))
	assert.Equal(t, "fd00::6", l.portalOf("six", "elsewhere"))
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
