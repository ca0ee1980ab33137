package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// named is what of a listing tells snapshots apart.
func named(resp *agentpb.ListBackupResponse) (names []string) {
	for _, s := range resp.GetSnapshots() {
		names = append(names, s.GetVersion().GetDataset()+"@"+s.GetVersion().GetName())
	}
	return names
}

func TestListBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const name, newest = "dr-b-0a1b2c3d", "dr-b-4e5f6071"
	for _, backup := range []string{"b-0a1b2c3d", "b-4e5f6071", "b-2-0a1b2c3d", "bc-0a1b2c3d"} {
		v := w.snapshot(t, backup)
		if len(v.GetName()) == len(name) {
			w.done(t, v)
		}
	}
	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{"znvm@" + name}, nil))
	require.NoError(t, w.hassio.zfs.Clone(t.Context(), source+"@"+name, "znvm/clone", nil))
	require.NoError(t, w.hassio.zfs.Hold(t.Context(), "keep", source+"@"+name))
	req := &agentpb.ListBackupRequest{Prefix: "dr-b-"}

	resp, err := w.client.ListBackup(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, []string{source + "@" + name, source + "@" + newest, "znvm@" + name}, named(resp), "of any uid, and not of backups with longer names")
	ours, theirs := resp.GetSnapshots()[0], resp.GetSnapshots()[2]
	assert.Empty(t, theirs.GetVersion().GetProperties())
	assert.Equal(t, "true", ours.GetVersion().GetProperties()[zfssnap.PropManaged])
	assert.Equal(t, "b-0a1b2c3d", ours.GetVersion().GetProperties()[zfssnap.PropBackup])
	assert.Equal(t, []string{
		"clone znvm/clone: a clone of " + source + "@" + name,
		"hold keep: holds " + source + "@" + name,
		"hold kubectl-dr:backup ours: holds " + source + "@" + name,
	}, lines(ours.GetKeeping()))
	assert.Empty(t, ours.GetSource())
	assert.False(t, ours.GetGoing())

	require.NoError(t, w.hassio.zfs.DestroySnapshots(t.Context(), source, []string{name}, true))
	_, err = w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: "run-1"}})
	require.NoError(t, err)
	resp, err = w.client.ListBackup(t.Context(), req)
	require.NoError(t, err)
	assert.True(t, resp.GetSnapshots()[0].GetGoing())

	resp, err = w.far.ListBackup(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, []string{replica + "@" + name, replica + "@" + newest}, named(resp))
	assert.Empty(t, resp.GetSnapshots()[0].GetKeeping())
	assert.Equal(t, []string{"hold kubectl-dr:replica ours: holds " + replica + "@" + newest}, lines(resp.GetSnapshots()[1].GetKeeping()))
	assert.Equal(t, "hassio:"+source, resp.GetSnapshots()[0].GetSource())
	assert.Equal(t, "run-1", resp.GetSnapshots()[0].GetFenced())
}

func TestListBackup_looksWhereItMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, dataset := range []string{"znvm/a", "znvm/b"} {
		require.NoError(t, w.hassio.zfs.Create(t.Context(), dataset, zfs.CreateOptions{}))
		require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{dataset + "@dr-b-0a1b2c3d"}, nil))
	}
	w.hassio.policy = agent.Policy{Identities: []agent.Grant{
		{Name: "velero", Verbs: []agent.Verb{agent.Read}, Prefixes: []string{"znvm/a", "znvm/none"}},
		{Name: "remote", Verbs: []agent.Verb{agent.Receive}, Prefixes: []string{"znvm"}},
	}}
	w.hassio.restart(t, nil)
	resp, err := w.client.ListBackup(t.Context(), &agentpb.ListBackupRequest{Prefix: "dr-b-"})
	require.NoError(t, err)
	assert.Equal(t, []string{"znvm/a@dr-b-0a1b2c3d"}, named(resp))

	for _, prefix := range []string{"", "dr-b@", "dr/b"} {
		_, err = w.client.ListBackup(t.Context(), &agentpb.ListBackupRequest{Prefix: prefix})
		require.ErrorIs(t, err, agent.ErrInvalid, prefix)
	}
	_, err = w.dial(t, w.hassio, "remote").ListBackup(t.Context(), &agentpb.ListBackupRequest{Prefix: "dr-b-"})
	require.ErrorIs(t, err, agent.ErrDenied)
}
