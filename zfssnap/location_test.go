package zfssnap

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseLocation(t *testing.T) {
	t.Parallel()
	got, err := ParseLocation(map[string]string{
		"agents":             " hassio=127.0.0.1:31001, remote=[fd00::2]:31002 ",
		"target":             "remote",
		"targetAddress":      "10.0.2.2:31002",
		"targetPrefix":       "backup/replica",
		"replication":        "external",
		"archive":            "offsite",
		"restoreNode":        "remote",
		"restoreParents":     "znvm/k3s=backup/znvm/k3s,nas/k3s=backup/nas/k3s",
		"restoreMode":        "copy",
		"groupBy":            "label",
		"restoreAs":          "local",
		"storageHosts":       "nas.example.org=hassio",
		"datasetParents":     "org.democratic-csi.iscsi=tank/k8s/v",
		"openebsNamespace":   "zfs",
		"replicationTimeout": "90m",
		"credentialsFile":    "/tmp/credentials/velero/zfs",
	})
	require.NoError(t, err)
	assert.Equal(t, Location{
		Agents:             map[string]string{"hassio": "127.0.0.1:31001", "remote": "[fd00::2]:31002"},
		Target:             "remote",
		Replication:        ReplicationExternal,
		TargetAddress:      "10.0.2.2:31002",
		TargetPrefix:       "backup/replica",
		Archive:            "offsite",
		RestoreNode:        "remote",
		RestoreParents:     map[string]string{"znvm/k3s": "backup/znvm/k3s", "nas/k3s": "backup/nas/k3s"},
		RestoreMode:        ModeCopy,
		GroupBy:            GroupByLabel,
		RestoreAs:          AsLocal,
		StorageHosts:       map[string]string{"nas.example.org": "hassio"},
		DatasetParents:     map[string]string{"org.democratic-csi.iscsi": "tank/k8s/v"},
		OpenEBSNamespace:   "zfs",
		ReplicationTimeout: 90 * time.Minute,
		CredentialsFile:    "/tmp/credentials/velero/zfs",
	}, got)
	assert.Equal(t, "backup/replica/znvm/k3s/pvc-1", got.Replica("znvm/k3s/pvc-1"))
}

func TestParseLocation_defaults(t *testing.T) {
	t.Parallel()
	got, err := ParseLocation(map[string]string{"agents": "hassio=h:1,remote=r:1", "target": "remote", "targetPrefix": "backup/replica"})
	require.NoError(t, err)
	assert.Equal(t, "r:1", got.TargetAddress)
	assert.Equal(t, ModeClone, got.RestoreMode)
	assert.False(t, got.External(), "the agents replicate")
	assert.Equal(t, GroupByNamespace, got.GroupBy)
	assert.Equal(t, "openebs", got.OpenEBSNamespace)
	assert.Equal(t, 4*time.Hour, got.ReplicationTimeout)
	to, ok := got.Destination("hassio", "znvm/k3s/pvc-1")
	assert.True(t, ok)
	assert.Equal(t, Destination{Node: "remote", Address: "r:1", Dataset: "backup/replica/znvm/k3s/pvc-1"}, to)
	_, ok = got.Destination("remote", "backup/znvm/k3s/pvc-1")
	assert.False(t, ok, "the target's own volumes have nowhere to go")
	assert.False(t, got.Returns("remote"))
}

func TestLocation_failback(t *testing.T) {
	t.Parallel()
	config := map[string]string{
		"agents": "hassio=h:1,remote=r:1", "target": "remote", "targetPrefix": "backup/replica",
		"restoreNode": "remote", "restoreParents": "znvm/k3s=backup/znvm/k3s,nas/k3s=backup/nas/k3s",
		"failbackTarget": "hassio", "failbackPrefix": "replica",
	}
	l, err := ParseLocation(config)
	require.NoError(t, err)
	assert.True(t, l.Returns("remote"))
	assert.False(t, l.Returns("hassio"))
	back, ok := l.Destination("remote", "backup/nas/k3s/pvc-1-0a1b2c3d")
	assert.True(t, ok)
	assert.Equal(t, Destination{Node: "hassio", Address: "h:1", Dataset: "nas/replica/backup/nas/k3s/pvc-1-0a1b2c3d"}, back,
		"it goes to the pool that it came from")
	_, ok = l.Destination("remote", "backup/elsewhere/pvc-1")
	assert.False(t, ok, "where that came from is not known")
	parent, err := l.RestoreParent(SnapshotID{Node: "remote", Dataset: "backup/nas/k3s/pvc-1-0a1b2c3d"}, "hassio")
	require.NoError(t, err)
	assert.Equal(t, "nas/k3s", parent)

	config["restoreParents"] = "znvm/k3s=backup/k3s,nas/k3s=backup/k3s"
	l, err = ParseLocation(config)
	require.NoError(t, err)
	_, err = l.RestoreParent(SnapshotID{Node: "remote", Dataset: "backup/k3s/pvc-1"}, "hassio")
	require.ErrorContains(t, err, "has 2 entries")
	config["restoreParents"] += ",backup/k3s=znvm/k3s"
	l, err = ParseLocation(config)
	require.NoError(t, err)
	parent, err = l.RestoreParent(SnapshotID{Node: "remote", Dataset: "backup/k3s/pvc-1"}, "hassio")
	require.NoError(t, err, "an entry for the way back decides")
	assert.Equal(t, "znvm/k3s", parent)

	config["restoreParents"] += ",metro/k3s=backup/metro"
	l, err = ParseLocation(config)
	require.NoError(t, err)
	_, ok = l.Destination("remote", "metro/k3s/pvc-1")
	assert.False(t, ok, "a failover has not made that, but brought it with its pool")
}

func TestParseLocation_refuses(t *testing.T) {
	t.Parallel()
	with := func(key, value string) map[string]string {
		return map[string]string{"agents": "hassio=h:1,remote=r:1", key: value}
	}
	tests := []struct {
		name   string
		config map[string]string
		want   string
	}{
		{"a config without agents", nil, "agents: is required"},
		{"what can not name an archive", with("archive", "s3://bucket"), `archive: "s3://bucket" is not the name of an archive, as in zfs-agent serve --archive=NAME=FILE`},
		{"an unknown key, naming the known ones", with("targetprefix", "x"), `unknown key "targetprefix" (known: agents, archive, datasetParents, `},
		{"a malformed pair", with("agents", "hassio"), `agents: "hassio" is not a pair`},
		{"a node given twice", with("agents", "a=x:1,a=y:1"), `"a" is given twice`},
		{"a target without an agent", with("target", "nowhere"), `target: node "nowhere" is not in agents`},
		{"a target without a prefix", with("target", "remote"), "targetPrefix: is required with target"},
		{"an unknown way to replicate", with("replication", "syncoid"), `replication: "syncoid" is neither`},
		{"another tool without the node it replicates to", with("replication", "external"), "replication: external needs target"},
		{"a restore node without an agent", with("restoreNode", "nowhere"), `restoreNode: node "nowhere" is not in agents`},
		{"an unknown restore mode", with("restoreMode", "move"), `restoreMode: "move" is neither`},
		{"an unknown way to group", with("groupBy", "pod"), `groupBy: "pod" is none of "namespace", "label" and "volume"`},
		{"an unknown kind to restore as", with("restoreAs", "nfs"), `restoreAs: "nfs" is not "local"`},
		{"a storage host without an agent", with("storageHosts", "nas=nowhere"), `storageHosts: node "nowhere" of host "nas" is not in agents`},
		{"a parent of volumes that is no dataset", with("datasetParents", "d=/tank"), `datasetParents: "/tank" is not a dataset name`},
		{"a prefix that is no dataset", with("targetPrefix", "/backup"), `targetPrefix: "/backup" is not a dataset name`},
		{"a prefix with a snapshot", with("targetPrefix", "backup@x"), "is not a dataset name"},
		{"a parent that climbs", with("restoreParents", "znvm=backup/../x"), "is not a dataset name"},
		{"a duration without unit", with("replicationTimeout", "4"), "replicationTimeout: "},
		{"a negative duration", with("replicationTimeout", "-4h"), "is not positive"},
		{"a way back without a way there", with("failbackTarget", "hassio"), "failbackTarget: needs a target that is another node"},
		{"a prefix of the way back alone", with("failbackPrefix", "replica"), "need failbackTarget"},
		{
			"a way back to no place",
			map[string]string{"agents": "h=h:1,r=r:1", "target": "r", "targetPrefix": "backup/replica", "failbackTarget": "h"},
			"failbackPrefix: is required with failbackTarget",
		},
		{
			"volumes among the replicas of the way back",
			map[string]string{"agents": "r=r:1", "restoreParents": "znvm/k3s=backup/k3s", "failbackPrefix": "k3s"},
			"failbackPrefix: volumes lie in znvm/k3s",
		},
		{
			"volumes among the replicas",
			map[string]string{"agents": "r=r:1", "targetPrefix": "backup/replica", "restoreParents": "znvm=backup/replica/znvm"},
			"only replicas may be",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseLocation(tt.config)
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestLocation_RestoreParent(t *testing.T) {
	t.Parallel()
	snap := SnapshotID{Node: "hassio", Dataset: "znvm/k3s/pvc-1"}
	mapped := map[string]string{"znvm/k3s": "backup/znvm/k3s"}
	tests := []struct {
		name, restoreNode, node, want string
		parents                       map[string]string
	}{
		{name: "another node needs a mapping, and has one", node: "remote", parents: mapped, want: "backup/znvm/k3s"},
		{name: "another node without a mapping is refused", node: "remote"},
		{name: "the same node puts the volume beside its source", node: "hassio", parents: mapped, want: "znvm/k3s"},
		{name: "the same node by configuration follows the mapping", restoreNode: "hassio", node: "hassio", parents: mapped, want: "backup/znvm/k3s"},
		{name: "the same node by configuration needs no mapping", restoreNode: "hassio", node: "hassio", want: "znvm/k3s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Location{RestoreNode: tt.restoreNode, RestoreParents: tt.parents}.RestoreParent(snap, tt.node)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.want == "", err != nil)
		})
	}
}

func FuzzParsePairs(f *testing.F) {
	f.Add("hassio=127.0.0.1:31001,remote=127.0.0.1:31002")
	f.Add("a=b=c,,")
	f.Fuzz(func(t *testing.T, s string) {
		pairs, err := parsePairs(s)
		if err != nil {
			return
		}
		for k, v := range pairs {
			assert.NotEmpty(t, k)
			assert.NotEmpty(t, v)
		}
	})
}
