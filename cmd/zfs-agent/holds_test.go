package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// heldMachine has a volume that is backed up, replicated and drilled with, and
// a replica of another host's volume.
func heldMachine(t *testing.T) *machine {
	t.Helper()
	m := newMachine("znvm", "backup")
	ctx := t.Context()
	const volume, replica = "znvm/k3s/pvc-1", "backup/replica/tank/db"
	for _, name := range []string{volume, replica} {
		require.NoError(t, m.zfs.Create(ctx, name, zfs.CreateOptions{Parents: true}))
	}
	take := func(dataset, name string, props map[string]string, tags ...string) {
		t.Helper()
		full := dataset + "@" + name
		m.SetGUID(uint64(m.clock.Unix()))
		require.NoError(t, m.zfs.Snapshot(ctx, []string{full}, props))
		for _, tag := range tags {
			require.NoError(t, m.zfs.Hold(ctx, tag, full))
		}
		m.clock = m.clock.Add(24 * time.Hour)
	}
	backup := func(name string) map[string]string {
		return map[string]string{names.PropBackup: name, names.PropHold + "backup": holds.Record{By: "velero", Owner: "backup/" + name}.Encode()}
	}
	take(volume, "dr-b1", backup("b1"), "kubectl-dr:backup", "kubectl-dr:replication", "sanoid")
	drill := holds.Record{By: "kubectl-dr", Owner: "run/blog-drill-1", Why: "rehearsal", Until: m.clock.Add(time.Hour)}
	b2 := backup("b2")
	b2[names.PropHold+"run:blog-drill-1"] = drill.Encode()
	take(volume, "dr-b2", b2, "kubectl-dr:backup", "kubectl-dr:replication", "kubectl-dr:run:blog-drill-1")
	target := holds.Target{Node: "remote", Address: "127.0.0.1:1", Dataset: "backup/replica/" + volume, By: "hassio", Owner: "transfer/1", Until: m.clock}
	require.NoError(t, m.zfs.Set(ctx, volume, map[string]string{target.Property(): target.Encode()}))
	require.NoError(t, m.zfs.Bookmark(ctx, volume+"@dr-b2", volume+"#"+replicate.CursorPrefix+replicate.TargetKey("remote", target.Dataset)+"_1"))

	require.NoError(t, m.zfs.Set(ctx, replica, map[string]string{names.PropSource: "other:tank/db"}))
	source := map[string]string{names.PropSource: "other:tank/db"}
	take(replica, "dr-x", source, "kubectl-dr:replica")
	take(replica, "dr-y", source, "kubectl-dr:replica")
	m.clock = m.clock.Add(30 * time.Minute)
	return m
}

func TestHolds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args string
		arrange    func(ctx context.Context, t *testing.T, m *machine)
	}{
		{"all", "holds", nil},
		{"all wide", "holds -o wide", nil},
		{"of one dataset as json", "holds znvm/k3s/pvc-1 -o json", nil},
		{"below a dataset as yaml", "holds backup/replica -o yaml", nil},
		{"as operands of zfs release", "holds -o name", nil},
		{"what would be released", "holds --reap --dry-run", nil},
		{"released", "holds --reap -o wide", nil},
		{"released below a dataset that has nothing dead", "holds --reap znvm/k3s/none", func(ctx context.Context, t *testing.T, m *machine) {
			require.NoError(t, m.zfs.Create(ctx, "znvm/k3s/none", zfs.CreateOptions{}))
		}},
		{"a release that fails", "holds --reap backup", func(_ context.Context, _ *testing.T, m *machine) {
			m.Before(func(args []string) error {
				if args[1] == "release" {
					return errBroken
				}
				return nil
			})
		}},
		{"none as json", "holds znvm/k3s/none -o json", func(ctx context.Context, t *testing.T, m *machine) {
			require.NoError(t, m.zfs.Create(ctx, "znvm/k3s/none", zfs.CreateOptions{}))
		}},
		{"of a dataset that is not there", "holds znvm/nope", nil},
		{"of what is no dataset", "holds -- -r", nil},
		{"dry run of nothing", "holds --dry-run", nil},
		{"an unknown format", "holds -o xml", nil},
		{"a bundle that is not there", "holds --tls /nonexistent/tls.pem", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := heldMachine(t)
			if tt.arrange != nil {
				tt.arrange(t.Context(), t, m)
			}
			golden(t, filepath.Join("holds", tt.name), m.run(t.Context(), tt.args).String())
		})
	}
}

func TestHolds_canBeReapedAgain(t *testing.T) {
	t.Parallel()
	m := heldMachine(t)
	m.run(t.Context(), "holds --reap")
	golden(t, "holds/released again", m.run(t.Context(), "holds --reap").String())
	golden(t, "holds/all after reaping", m.run(t.Context(), "holds").String())
}
