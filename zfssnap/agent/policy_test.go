package agent_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// exampleWorld is a world under the policies of the examples.
func exampleWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	for h, file := range map[*host]string{w.hassio: "policy-source.yaml", w.remote: "policy-recovery.yaml"} {
		policy, err := agent.LoadPolicy("../../examples/agent/" + file)
		require.NoError(t, err)
		h.stop(t)
		h.policy = policy
		h.start(t)
	}
	for _, parent := range []string{"backup/znvm", "backup/nas"} {
		require.NoError(t, w.remote.zfs.Create(t.Context(), parent, zfs.CreateOptions{}))
	}
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "znvm/home", zfs.CreateOptions{}))
	return w
}

// deeds is every kind of call there is, against a dataset.
func deeds(t *testing.T, c *agent.Client, dataset string) map[string]func() error {
	t.Helper()
	ctx := t.Context()
	return map[string]func() error{
		"read": func() error {
			_, err := c.ResolveDataset(ctx, byName(dataset))
			return err
		},
		"list holds": func() error {
			_, err := c.ListHolds(ctx, &agentpb.ListHoldsRequest{Dataset: dataset})
			return err
		},
		"snapshot": func() error {
			_, err := c.CreateSnapshots(ctx, &agentpb.CreateSnapshotsRequest{Datasets: []string{dataset}, Name: "deed"})
			return err
		},
		"hold": func() error {
			_, err := c.Hold(ctx, &agentpb.HoldRequest{Snapshot: dataset + "@none", Tag: "kubectl-dr:x"})
			return err
		},
		"reap": func() error {
			_, err := c.ReapHolds(ctx, &agentpb.ListHoldsRequest{Dataset: dataset})
			return err
		},
		"replicate": func() error {
			_, err := c.Replicate(ctx, &agentpb.ReplicateRequest{Dataset: dataset, Snapshot: "none", Guid: 1, TargetNode: "x", TargetAddress: "127.0.0.1:1", TargetDataset: "x"})
			return err
		},
		"archive": func() error {
			_, err := c.Archive(ctx, &agentpb.ArchiveRequest{Dataset: dataset, Snapshot: "none", Guid: 1, Archive: "offsite"})
			return err
		},
		"expire": func() error {
			_, err := c.ExpireArchived(ctx, &agentpb.ExpireArchivedRequest{Dataset: dataset, Guids: []uint64{1}, Archive: "offsite"})
			return err
		},
		"restore": func() error {
			_, err := c.CreateVolume(ctx, &agentpb.CreateVolumeRequest{Guid: 1, Dataset: dataset, Mode: agent.ModeArchive, Archive: "offsite"})
			return err
		},
		"receive": func() error {
			_, err := c.ReceiveState(ctx, &agentpb.ReceiveStateRequest{Dataset: dataset})
			return err
		},
		"clone": func() error {
			_, err := c.CreateVolume(ctx, &agentpb.CreateVolumeRequest{Snapshot: replica + "@none", Guid: 1, Dataset: dataset, Mode: zfssnap.ModeClone})
			return err
		},
		"destroy a snapshot": func() error {
			_, err := c.DestroySnapshot(ctx, &agentpb.DestroySnapshotRequest{Dataset: dataset, Name: "none"})
			return err
		},
		"destroy a volume": func() error {
			_, err := c.DestroyVolume(ctx, &agentpb.DestroyVolumeRequest{Dataset: dataset, Match: map[string]string{zfssnap.PropRun: "none"}})
			return err
		},
		"set properties": func() error {
			_, err := c.SetProperties(ctx, &agentpb.SetPropertiesRequest{Dataset: dataset, Properties: map[string]string{zfssnap.PropFenced: "deed"}})
			return err
		},
	}
}

// TestExamplePolicies tries every deed as every identity, over mutual TLS, on
// what each host has.
func TestExamplePolicies(t *testing.T) {
	t.Parallel()
	w := exampleWorld(t)
	sends := []string{"read", "list holds", "snapshot", "hold", "reap", "replicate", "archive", "expire", "restore", "destroy a snapshot", "destroy a volume", "set properties"}
	tests := []struct {
		identity string
		host     *host
		dataset  string
		may      []string
	}{
		{"velero", w.hassio, source, sends},
		{"velero", w.hassio, "znvm/home", nil},
		{"velero", w.hassio, "znvm", nil},
		{"kubectl-dr", w.hassio, source, []string{"read", "list holds", "hold", "reap", "snapshot"}},
		{"remote", w.hassio, source, nil}, // the recovery site's agent
		{"remote", w.hassio, "znvm/replica/backup/znvm/k3s/pvc-1", []string{"receive"}},
		{"kubectl-dr", w.hassio, "znvm/replica/backup/znvm/k3s/pvc-1", []string{"read", "list holds", "hold", "reap", "set properties"}},
		{"hassio", w.hassio, source, nil}, // its own certificate opens nothing here
		{"stranger", w.hassio, source, nil},

		{"hassio", w.remote, replica, []string{"receive"}},
		{"hassio", w.remote, "backup/replica", []string{"receive"}},
		{"hassio", w.remote, "backup/replicas", nil},
		{"hassio", w.remote, "backup/znvm/new", nil},
		{"hassio", w.remote, "backup", nil},
		{"velero", w.remote, replica, []string{"read", "list holds", "hold", "reap", "destroy a snapshot", "destroy a volume", "set properties"}},
		{"velero", w.remote, "backup/znvm/new", append([]string{"clone"}, sends...)},
		{"velero", w.remote, "backup", nil},
		{"kubectl-dr", w.remote, replica, []string{"read", "list holds", "hold", "reap", "set properties"}},
		{"kubectl-dr", w.remote, "backup/znvm/new", []string{"read", "list holds", "snapshot", "clone", "destroy a snapshot", "destroy a volume"}},
		{"stranger", w.remote, replica, nil},
	}
	for _, tt := range tests {
		before := tt.host.pool.Names()
		c := w.dial(t, tt.host, tt.identity)
		var may []string
		for name, do := range deeds(t, c, tt.dataset) {
			err := do()
			if !errors.Is(err, agent.ErrDenied) {
				may = append(may, name)
			}
			require.NotErrorIs(t, err, agent.ErrUnreachable)
		}
		assert.ElementsMatch(t, tt.may, may, "%s on %s of %s", tt.identity, tt.dataset, tt.host.node)
		if len(tt.may) == 0 {
			assert.Equal(t, before, tt.host.pool.Names())
		}
	}
}

// TestExamplePolicies_areEnough goes the whole way of a backup under them.
func TestExamplePolicies_areEnough(t *testing.T) {
	t.Parallel()
	w := exampleWorld(t)
	for _, backup := range []string{"b1", "b2"} {
		w.done(t, w.snapshot(t, backup))
	}
	velero := w.far
	v, err := velero.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{Guid: w.snapshot(t, "b2").GetGuid(), Hints: []string{replica}})
	require.NoError(t, err)
	const volume = "backup/znvm/k3s/pvc-1-0a1b2c3d"
	_, err = velero.CreateVolume(t.Context(), &agentpb.CreateVolumeRequest{
		Snapshot: v.GetDataset() + "@" + v.GetName(), Guid: v.GetGuid(), Dataset: volume, Mode: zfssnap.ModeClone, Properties: map[string]string{zfssnap.PropRun: "drill"},
	})
	require.NoError(t, err)
	operator := w.dial(t, w.remote, "kubectl-dr")
	_, err = operator.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: "drill"}})
	require.NoError(t, err)
	resp, err := operator.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: volume, Match: map[string]string{zfssnap.PropRun: "drill"}})
	require.NoError(t, err)
	assert.True(t, resp.GetExisted())
	_, err = operator.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropFenced: ""}})
	require.NoError(t, err)
	_, err = velero.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: replica, Name: "dr-b1"})
	require.NoError(t, err)
	for _, h := range []*host{w.hassio, w.remote} {
		_, err := w.dial(t, h, "kubectl-dr").Doctor(t.Context(), &agentpb.DoctorRequest{})
		require.NoError(t, err)
	}
}

// TestReceiver_canOnlyAppend lets a source's agent that somebody else controls
// do its worst to its replica.
func TestReceiver_canOnlyAppend(t *testing.T) {
	t.Parallel()
	w := exampleWorld(t)
	first := w.snapshot(t, "b1")
	w.done(t, first)
	before := w.remote.pool.Names()
	worst := map[string][]*agentpb.ReceiveRequest{
		"a full stream over what is there":     {header(func(h *agentpb.ReceiveHeader) { h.Snapshot, h.Guid = "evil", 7 }), data("not a stream"), end(12)},
		"the name of a snapshot that is there": {header(func(h *agentpb.ReceiveHeader) { h.Snapshot, h.Guid = first.GetName(), 7 }), data("x"), end(1)},
		"somebody else's replica":              {header(func(h *agentpb.ReceiveHeader) { h.Source = "other:tank/a" }), data("x"), end(1)},
		"another dataset's replica":            {header(func(h *agentpb.ReceiveHeader) { h.Source = "hassio:znvm/home" }), data("x"), end(1)},
		"what restores are made of":            {header(func(h *agentpb.ReceiveHeader) { h.Dataset = "backup/znvm/evil" }), data("x"), end(1)},
		"properties that mount":                {header(func(h *agentpb.ReceiveHeader) { h.SnapshotProperties = map[string]string{"mountpoint": "/"} }), end(0)},
		"a hold's record": {header(func(h *agentpb.ReceiveHeader) {
			h.Guid, h.SnapshotProperties = first.GetGuid(), map[string]string{"io.kubectl-dr:hold:replica": "{}"}
		}), end(0)},
	}
	for name, parts := range worst {
		require.Error(t, w.receive(t, "hassio", parts...), name)
		assert.Equal(t, before, w.remote.pool.Names(), name)
	}
	w.requireSame(t, first)
	for _, c := range w.remote.pool.Commands() {
		if c[1] == "receive" {
			assert.NotContains(t, c, "-F")
		}
		assert.NotContains(t, []string{"rollback", "destroy", "rename", "promote"}, c[1], "%v", c)
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{
		"", "identities: []", "identities:\n- {name: a, verbs: [read, receive], prefixes: [backup/replica]}\n", "identities: [{name: a, verbs: ['*'], prefixes: ['*']}]",
		"identities: [{name: a, verb: read}]", "{", "identities: [{name: '', verbs: [x], prefixes: [/tank]}]", "identities: &a [*a]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := agent.ParsePolicy(content)
		if err != nil {
			return
		}
		// What is accepted names somebody, grants known verbs and only what can
		// be a dataset.
		for _, g := range p.Identities {
			if g.Name == "" || len(g.Verbs) == 0 || len(g.Prefixes) == 0 {
				t.Errorf("%q grants %+v", content, g)
			}
			for _, prefix := range g.Prefixes {
				if prefix != "*" && (zfs.ValidateDataset(prefix) != nil || strings.Contains(prefix, "*")) {
					t.Errorf("%q grants prefix %q", content, prefix)
				}
			}
			if slices.Contains(g.Verbs, agent.Verb("")) {
				t.Errorf("%q grants an empty verb", content)
			}
		}
	})
}
