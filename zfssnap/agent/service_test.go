package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func byName(name string) *agentpb.ResolveDatasetRequest {
	return &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: name}}
}

func byMountpoint(dir string) *agentpb.ResolveDatasetRequest {
	return &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Mountpoint{Mountpoint: dir}}
}

func hint(t *testing.T, err error) string {
	t.Helper()
	var h interface{ Hint() string }
	require.ErrorAs(t, err, &h)
	return h.Hint()
}

func TestInfo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info, err := w.client.Info(t.Context(), &agentpb.InfoRequest{})
	require.NoError(t, err)
	assert.Equal(t, "hassio", info.GetNode())
	assert.Equal(t, zfssnap.Version, info.GetAgentVersion())
	assert.Equal(t, "2.1.11-1+deb12u1", info.GetZfsVersion())
	assert.Len(t, info.GetPools(), 2)
	assert.InDelta(t, time.Now().UnixMilli(), info.GetUnixTimeMs(), 60_000)
}

func TestResolveDataset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Set(t.Context(), source, map[string]string{"refquota": "8388608", "mountpoint": "/srv/wp"}))
	ds, err := w.client.ResolveDataset(t.Context(), byName(source))
	require.NoError(t, err)
	assert.Equal(t, "filesystem", ds.GetType())
	assert.Equal(t, map[string]string{"refquota": "8388608", "mountpoint": "/srv/wp"}, ds.GetNative())

	tests := []struct{ name, dir, want string }{
		{"the mountpoint property", "/srv/wp", source},
		{"an unclean path", "/srv//wp/", source},
		{"what is mounted there last, as with legacy mountpoints", "/data/wp", source},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ds, err := w.client.ResolveDataset(t.Context(), byMountpoint(tt.dir))
			require.NoError(t, err)
			assert.Equal(t, tt.want, ds.GetName())
		})
	}
	_, err = w.client.ResolveDataset(t.Context(), byMountpoint("/srv/wp/below"))
	require.ErrorIs(t, err, agent.ErrNotFound)
	_, err = w.client.ResolveDataset(t.Context(), byName("znvm/none"))
	require.ErrorIs(t, err, agent.ErrNotFound)
	assert.Equal(t, codes.NotFound, status.Code(err), "also for who looks at codes")
	require.EqualError(t, err, "node hassio: zfs list: cannot open 'znvm/none': dataset does not exist")
	_, err = w.client.ResolveDataset(t.Context(), byName("-r"))
	require.ErrorIs(t, err, agent.ErrInvalid)
}

func TestListDatasets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	all, err := w.far.ListDatasets(t.Context(), &agentpb.ListDatasetsRequest{})
	require.NoError(t, err)
	assert.Len(t, all.GetDatasets(), 5)
	ours, err := w.far.ListDatasets(t.Context(), &agentpb.ListDatasetsRequest{
		Root: "backup", Match: map[string]string{zfssnap.PropManaged: "true", zfssnap.PropSource: "hassio:" + source},
	})
	require.NoError(t, err)
	require.Len(t, ours.GetDatasets(), 1)
	assert.Equal(t, replica, ours.GetDatasets()[0].GetName())
	_, err = w.far.ListDatasets(t.Context(), &agentpb.ListDatasetsRequest{Root: "backup/none"})
	require.ErrorIs(t, err, agent.ErrNotFound)

	limited, err := w.dial(t, w.remote, "hassio").ListDatasets(t.Context(), &agentpb.ListDatasetsRequest{})
	require.NoError(t, err)
	assert.Len(t, limited.GetDatasets(), 4, "only what may be read")
}

func TestFindSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.done(t, v)
	for _, hints := range [][]string{nil, {replica}, {"backup/none", "not a name!"}} {
		got, err := w.far.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{Guid: v.GetGuid(), Hints: hints})
		require.NoError(t, err)
		assert.Equal(t, replica, got.GetDataset())
		assert.Equal(t, v.GetName(), got.GetName())
	}
	_, err := w.far.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{Guid: 1})
	require.ErrorIs(t, err, agent.ErrNotFound)
	_, err = w.far.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{})
	require.ErrorIs(t, err, agent.ErrInvalid)
}

func TestCreateSnapshots_isIdempotent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "znvm/other", zfs.CreateOptions{}))
	first := w.snapshot(t, "b1")
	assert.Equal(t, first.GetGuid(), w.snapshot(t, "b1").GetGuid())

	// A group of which one is there cannot be of one instant; it is completed when
	// that is allowed.
	req := &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source, "znvm/other"}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
	}
	_, err := w.client.CreateSnapshots(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrSkew)
	assert.ErrorContains(t, err, source+"@dr-b1 was taken before, and znvm/other@dr-b1 was not")
	assert.NotContains(t, w.hassio.pool.Names(), "znvm/other@dr-b1")
	req.AllowSkew = true
	resp, err := w.client.CreateSnapshots(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, resp.GetSnapshots(), 2)
	assert.False(t, resp.GetAtomic())
	assert.GreaterOrEqual(t, resp.GetSkewMs(), uint64(1000), "times of snapshots are in whole seconds")
	assert.Equal(t, first.GetGuid(), resp.GetSnapshots()[0].GetGuid())
	assert.Equal(t, "znvm/other", resp.GetSnapshots()[1].GetDataset())
	assert.Equal(t, map[string]string{
		zfssnap.PropManaged: "true", zfssnap.PropBackup: "b1", names.PropHold + "backup": `{"by":"velero","owner":"backup/b1"}`,
	}, w.hassio.props(t, "znvm/other@dr-b1"))

	req.Properties = map[string]string{zfssnap.PropBackup: "b2"}
	_, err = w.client.CreateSnapshots(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrExists)
	assert.ErrorContains(t, err, `is of backup "b1", not "b2"`)
	assert.Equal(t, codes.AlreadyExists, status.Code(err))
	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{source + "@mine"}, nil))
	_, err = w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "mine"})
	require.ErrorIs(t, err, agent.ErrExists)
}

// during runs f when a command begins with verb, until the returned function is
// called.
func (h *host) during(verb string, f func() error) (stop func()) {
	h.pool.Before(func(args []string) error {
		if args[1] == verb {
			return f()
		}
		return nil
	})
	return func() { h.pool.Before(nil) }
}

func TestCreateSnapshots_answersBeforeTheHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answered := make(chan struct{})
	var tries atomic.Int32
	w.hassio.during("hold", func() error {
		<-answered
		if tries.Add(1) < 3 {
			return errors.New("out of processes")
		}
		return nil
	})
	req := &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
	}
	_, err := w.client.CreateSnapshots(t.Context(), req)
	require.NoError(t, err)
	var verbs []string
	for _, c := range w.hassio.pool.Commands() {
		if c[len(c)-1] == source+"@dr-b1" && c[1] != "hold" {
			verbs = append(verbs, c[1])
		}
	}
	assert.Equal(t, []string{"program"}, verbs, "the answer takes one process")
	close(answered)
	w.hassio.untilHeld(t, source+"@dr-b1", zfssnap.HoldTag("backup"))
	assert.EqualValues(t, 3, tries.Load(), "a hold that fails is tried again")
}

func TestCreateSnapshots_areHeldTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	req := &agentpb.CreateSnapshotsRequest{Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"}}
	for i := range 100 {
		dataset := fmt.Sprintf("znvm/v%d", i)
		require.NoError(t, w.hassio.zfs.Create(t.Context(), dataset, zfs.CreateOptions{}))
		req.Datasets = append(req.Datasets, dataset)
	}
	_, err := w.client.CreateSnapshots(t.Context(), req)
	require.NoError(t, err)
	for _, dataset := range req.Datasets {
		w.hassio.untilHeld(t, dataset+"@dr-b1", zfssnap.HoldTag("backup"))
	}
	var held []int
	for _, c := range w.hassio.pool.Commands() {
		if c[1] == "hold" {
			held = append(held, len(c)-3)
		}
	}
	assert.ElementsMatch(t, []int{64, 36}, held)
}

// One that somebody has destroyed keeps no other from being held.
func TestCreateSnapshots_areHeldAlthoughOneIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "znvm/other", zfs.CreateOptions{}))
	gone := source + "@dr-b1"
	w.hassio.during("hold", sync.OnceValue(func() error {
		return w.hassio.zfs.DestroySnapshots(t.Context(), source, []string{"dr-b1"}, false)
	}))
	_, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source, "znvm/other"}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
	})
	require.NoError(t, err)
	w.hassio.untilHeld(t, "znvm/other@dr-b1", zfssnap.HoldTag("backup"))
	assert.NotContains(t, w.hassio.pool.Names(), gone)
}

func TestServe_holdsWhatWasLeftUnheld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stopped := make(chan struct{})
	refuse := w.hassio.during("hold", func() error {
		<-stopped
		return errors.New("the agent is gone")
	})
	_, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
	})
	require.NoError(t, err)
	// Foreign snapshots, and ours that wait to be destroyed, stay as they are.
	ctx := t.Context()
	require.NoError(t, w.hassio.zfs.Snapshot(ctx, []string{source + "@mine"}, nil))
	require.NoError(t, w.hassio.zfs.Snapshot(ctx, []string{source + "@dr-b0"}, map[string]string{zfssnap.PropManaged: "true", zfssnap.PropBackup: "b0"}))
	require.NoError(t, w.hassio.zfs.Clone(ctx, source+"@dr-b0", "znvm/clone", nil))
	require.NoError(t, w.hassio.zfs.DestroySnapshots(ctx, source, []string{"dr-b0"}, true))
	close(stopped)
	w.hassio.stop(t)
	refuse()
	require.Empty(t, w.hassio.holds(t, source+"@dr-b1"))

	w.hassio.start(t)
	w.hassio.untilHeld(t, source+"@dr-b1", zfssnap.HoldTag("backup"))
	assert.Empty(t, w.hassio.holds(t, source+"@mine"))
	assert.Empty(t, w.hassio.holds(t, source+"@dr-b0"))
}

func TestServe_leavesTheHoldsOfReplicasAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.snapshot(t, "b1")
	w.done(t, first)
	w.done(t, w.snapshot(t, "b2"))
	w.remote.stop(t)
	w.remote.start(t)
	unheld, err := w.remote.zfs.Unheld(t.Context(), zfssnap.PropBackup, zfssnap.PropSource)
	require.NoError(t, err)
	assert.Empty(t, unheld)
	assert.Empty(t, w.remote.holds(t, replica+"@"+first.GetName()))
}

func TestCreateSnapshots_ofAGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"znvm/other", "nas/third"} {
		require.NoError(t, w.hassio.zfs.Create(t.Context(), name, zfs.CreateOptions{}))
	}
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source, "znvm/other"}, Name: "one"})
	require.NoError(t, err)
	assert.Contains(t, w.hassio.pool.Commands(), []string{"zfs", "program", "-j", "znvm", "-", "1", "io.kubectl-dr:managed", "true", source + "@one", "znvm/other@one"})
	assert.True(t, resp.GetAtomic())
	assert.Zero(t, resp.GetSkewMs())
	assert.Equal(t, resp.GetSnapshots()[0].GetCreatetxg(), resp.GetSnapshots()[1].GetCreatetxg())

	req := &agentpb.CreateSnapshotsRequest{Datasets: []string{source, "znvm/other", "nas/third"}, Name: "two"}
	_, err = w.client.CreateSnapshots(t.Context(), req)
	require.ErrorIs(t, err, zfs.ErrSeveralPools)
	assert.ErrorContains(t, err, "nas and znvm; snapshots of two pools cannot be of one instant")
	assert.Contains(t, hint(t, err), "allow_skew")
	assert.NotContains(t, strings.Join(w.hassio.pool.Names(), " "), "@two")

	req.AllowSkew = true
	resp, err = w.client.CreateSnapshots(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, resp.GetSnapshots(), 3)
	assert.False(t, resp.GetAtomic())
	assert.NotZero(t, resp.GetSkewMs())
	assert.Less(t, resp.GetSkewMs(), uint64(time.Minute/time.Millisecond))
	assert.Equal(t, resp.GetSnapshots()[0].GetCreatetxg(), resp.GetSnapshots()[1].GetCreatetxg(), "those of one pool still are of one instant")
}

func TestCreateSnapshots_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "nas/a", zfs.CreateOptions{}))
	tests := []struct {
		name string
		req  *agentpb.CreateSnapshotsRequest
		code codes.Code
	}{
		{"no datasets", &agentpb.CreateSnapshotsRequest{Name: "a"}, codes.InvalidArgument},
		{"a bad name", &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "a b@"}, codes.InvalidArgument},
		{"a dataset twice", &agentpb.CreateSnapshotsRequest{Datasets: []string{source, source}, Name: "a"}, codes.InvalidArgument},
		{"a group over two pools", &agentpb.CreateSnapshotsRequest{Datasets: []string{source, "nas/a"}, Name: "a"}, codes.InvalidArgument},
		{"a foreign property", &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "a", Properties: map[string]string{"com.sun:x": "y"}}, codes.InvalidArgument},
		{"a foreign hold tag", &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "a", Hold: "keep"}, codes.InvalidArgument},
		{"a missing dataset", &agentpb.CreateSnapshotsRequest{Datasets: []string{"znvm/none"}, Name: "a"}, codes.NotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.client.CreateSnapshots(t.Context(), tt.req)
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
		})
	}
	assert.NotContains(t, strings.Join(w.hassio.pool.Names(), " "), "@")
}

func TestDestroySnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	destroy := func(c *agent.Client, dataset, name string, guid uint64) (*agentpb.DestroySnapshotResponse, error) {
		return c.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: dataset, Name: name, Guid: guid})
	}
	for _, name := range []string{"none", v.GetName()} {
		resp, err := destroy(w.client, source, name, v.GetGuid()+1)
		require.NoError(t, err, "missing, or another one of that name, is success")
		assert.False(t, resp.GetExisted())
	}
	resp, err := destroy(w.client, "znvm/none", "x", 0)
	require.NoError(t, err)
	assert.False(t, resp.GetExisted())

	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{source + "@mine"}, nil))
	_, err = destroy(w.client, source, "mine", 0)
	require.ErrorIs(t, err, agent.ErrForeign)
	assert.Equal(t, codes.FailedPrecondition, status.Code(err))

	// One that others need goes with the last of them.
	require.NoError(t, w.hassio.zfs.Clone(t.Context(), source+"@dr-b1", "znvm/clone", nil))
	resp, err = destroy(w.client, source, "dr-b1", v.GetGuid())
	require.NoError(t, err)
	assert.True(t, resp.GetExisted())
	assert.False(t, resp.GetKeptBookmark())
	assert.Empty(t, w.hassio.holds(t, source+"@dr-b1"))
	require.NoError(t, w.hassio.zfs.Destroy(t.Context(), "znvm/clone", zfs.DestroyOptions{}))
	assert.NotContains(t, w.hassio.pool.Names(), source+"@dr-b1")
}

func TestDestroySnapshot_beforeItIsHeld(t *testing.T) {
	t.Parallel()
	for _, fails := range []error{nil, errors.New("out of processes")} {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			// The hold is placed when the snapshot is about to be destroyed, unless
			// that waits for it.
			holding, destroying := make(chan struct{}, 1), make(chan struct{}, 1)
			w.hassio.pool.Before(func(args []string) error {
				switch args[1] {
				case "hold":
					select {
					case holding <- struct{}{}:
					default:
					}
					select {
					case <-destroying:
					case <-time.After(100 * time.Millisecond):
					}
					return fails
				case "destroy":
					destroying <- struct{}{}
					<-time.After(100 * time.Millisecond)
				}
				return nil
			})
			resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
				Datasets: []string{source}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
			})
			require.NoError(t, err)
			<-holding
			_, err = w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "dr-b1", Guid: resp.GetSnapshots()[0].GetGuid()})
			require.NoError(t, err)
			assert.NotContains(t, w.hassio.pool.Names(), source+"@dr-b1")
		})
	}
}

func TestDestroySnapshot_whileItsHoldWaitsForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.restart(t, func(s *agent.Server) { s.HoldAfter = time.Hour })
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source}, Name: "dr-b1", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b1"},
	})
	require.NoError(t, err)
	assert.Empty(t, w.hassio.holds(t, source+"@dr-b1"))
	_, err = w.client.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "dr-b1", Guid: resp.GetSnapshots()[0].GetGuid()})
	require.NoError(t, err)
	assert.NotContains(t, w.hassio.pool.Names(), source+"@dr-b1")

	_, err = w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
		Datasets: []string{source}, Name: "dr-b2", Hold: zfssnap.HoldTag("backup"), Properties: map[string]string{zfssnap.PropBackup: "b2"},
	})
	require.NoError(t, err)
	w.hassio.restart(t, func(s *agent.Server) { s.HoldAfter = 10 * time.Millisecond })
	w.hassio.untilHeld(t, source+"@dr-b2", zfssnap.HoldTag("backup"))
}

func TestDestroySnapshot_keepsAReplicasNewestUntilItIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.done(t, v)
	_, err := w.far.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: replica, Name: "dr-b1", Guid: v.GetGuid()})
	require.NoError(t, err)
	assert.Contains(t, w.remote.pool.Names(), replica+"@dr-b1", "the next increment needs it")
	tr := w.done(t, w.snapshot(t, "b2"))
	assert.NotEmpty(t, tr.GetBase())
	assert.NotContains(t, w.remote.pool.Names(), replica+"@dr-b1")
}

func TestHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.snapshot(t, "b1")
	req := &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: zfssnap.HoldTag("drill")}
	for range 2 {
		_, err := w.client.Hold(t.Context(), req)
		require.NoError(t, err)
	}
	list, err := w.client.ListHolds(t.Context(), &agentpb.ListHoldsRequest{Dataset: source})
	require.NoError(t, err)
	assert.Len(t, list.GetHolds(), 2)
	for range 2 {
		_, err := w.client.Release(t.Context(), req)
		require.NoError(t, err)
	}
	require.NoError(t, w.hassio.zfs.Hold(t.Context(), "keep", source+"@dr-b1"))
	_, err = w.client.Release(t.Context(), &agentpb.HoldRequest{Snapshot: source + "@dr-b1", Tag: "keep"})
	require.ErrorIs(t, err, agent.ErrInvalid)
	assert.Contains(t, w.hassio.holds(t, source+"@dr-b1"), "keep")
}

func TestCreateVolume(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{zfssnap.ModeClone, zfssnap.ModeCopy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			v := w.snapshot(t, "b1")
			w.done(t, v)
			const vol = "backup/znvm/k3s/pvc-1-0a1b2c3d"
			req := &agentpb.CreateVolumeRequest{
				Snapshot: replica + "@dr-b1", Guid: v.GetGuid(), Dataset: vol, Mode: mode,
				Properties: map[string]string{zfssnap.PropRestore: "run-1", zfssnap.PropRun: "run-1"},
				Native:     map[string]string{"refquota": "8388608"},
			}
			ds, err := w.far.CreateVolume(t.Context(), req)
			require.NoError(t, err)
			assert.Equal(t, "legacy", ds.GetMountpoint())
			assert.False(t, ds.GetReadonly())
			assert.False(t, ds.GetMounted())
			assert.Equal(t, "8388608", ds.GetNative()["refquota"])
			assert.Equal(t, "run-1", ds.GetProperties()[zfssnap.PropRun])
			assert.Equal(t, "true", ds.GetProperties()[zfssnap.PropManaged])
			assert.Equal(t, mode == zfssnap.ModeClone, ds.GetOrigin() != "")
			want, err := w.hassio.pool.Read(source+"@dr-b1", "data")
			require.NoError(t, err)
			got, err := w.remote.pool.Read(vol, "data")
			require.NoError(t, err)
			assert.Equal(t, want, got)
			require.NoError(t, w.remote.pool.Write(vol, "data", []byte("changed")))

			again, err := w.far.CreateVolume(t.Context(), req)
			require.NoError(t, err)
			assert.Equal(t, ds.GetGuid(), again.GetGuid())
			got, err = w.remote.pool.Read(vol, "data")
			require.NoError(t, err)
			assert.Equal(t, []byte("changed"), got)

			found, err := w.far.FindSnapshot(t.Context(), &agentpb.FindSnapshotRequest{Guid: v.GetGuid()})
			require.NoError(t, err)
			assert.Equal(t, replica, found.GetDataset(), "a copy does not stand in for the replica")

			req.Properties = map[string]string{zfssnap.PropRestore: "run-2"}
			_, err = w.far.CreateVolume(t.Context(), req)
			require.ErrorIs(t, err, agent.ErrExists)

			for _, match := range []map[string]string{{zfssnap.PropRun: "run-2"}, {zfssnap.PropRun: "run-1", zfssnap.PropVolume: "x"}} {
				_, err = w.far.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: vol, Match: match})
				require.ErrorIs(t, err, agent.ErrMismatch)
			}
			resp, err := w.far.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: vol, Match: map[string]string{zfssnap.PropRun: "run-1"}})
			require.NoError(t, err)
			assert.True(t, resp.GetExisted())
			resp, err = w.far.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: vol})
			require.NoError(t, err)
			assert.False(t, resp.GetExisted())
			w.requireSame(t, v)
		})
	}
}

func TestCreateVolume_aCopyThatWasCutOffIsFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	req := &agentpb.CreateVolumeRequest{Snapshot: source + "@dr-b1", Guid: v.GetGuid(), Dataset: "nas/copy", Mode: zfssnap.ModeCopy}
	w.hassio.pool.Cut("receive", 300<<10)
	_, err := w.client.CreateVolume(t.Context(), req)
	require.Error(t, err)
	assert.NotContains(t, w.hassio.pool.Names(), "nas/copy")

	failed := false
	w.hassio.pool.Before(func(args []string) error {
		if args[1] == "destroy" && !failed {
			failed = true
			return errors.New("killed")
		}
		return nil
	})
	_, err = w.client.CreateVolume(t.Context(), req)
	require.Error(t, err)
	_, err = w.client.CreateVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Contains(t, w.hassio.pool.Names(), "nas/copy")
	assert.NotContains(t, w.hassio.pool.Names(), "nas/copy@dr-b1")
}

func TestCreateVolume_aCopyThatRunsIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	req := &agentpb.CreateVolumeRequest{Snapshot: source + "@dr-b1", Guid: v.GetGuid(), Dataset: "nas/copy", Mode: zfssnap.ModeCopy}
	// Some of the copy has come when its sender stalls.
	stall := &stalledSend{Runner: w.hassio.pool, at: make(chan struct{}), release: make(chan struct{})}
	w.hassio.stop(t)
	w.hassio.zfs = &zfs.Client{Runner: stall}
	w.hassio.start(t)
	release := sync.OnceFunc(func() { close(stall.release) })
	t.Cleanup(release)
	first := w.dial(t, w.hassio, "velero")
	made := make(chan error, 1)
	go func() {
		_, err := first.CreateVolume(t.Context(), req)
		made <- err
	}()
	<-stall.at
	_, err := first.CreateVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrBusy, "the same request comes again")
	next := &host{node: "hassio", zfs: &zfs.Client{Runner: w.hassio.pool}, bundle: w.hassio.bundle, policy: w.hassio.policy, addr: "127.0.0.1:0", clock: &clock{}}
	next.start(t)
	t.Cleanup(func() { next.stop(t) })
	client := w.dial(t, next, "velero")
	_, err = client.CreateVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrBusy, "another agent finds what a killed one began")
	release()
	require.NoError(t, <-made)
	_, err = client.CreateVolume(t.Context(), req)
	require.NoError(t, err)
}

// stalledSend is a Runner whose zfs send stops after its first bytes.
type stalledSend struct {
	zfs.Runner
	at, release chan struct{}
}

func (s *stalledSend) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if c.Args[1] == "send" && c.Stdout != nil {
		c.Stdout = &stalledWriter{Writer: c.Stdout, stall: s}
	}
	return s.Runner.Run(ctx, c)
}

type stalledWriter struct {
	io.Writer
	stall   *stalledSend
	stalled bool
}

func (w *stalledWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if !w.stalled {
		w.stalled = true
		close(w.stall.at)
		<-w.stall.release
	}
	return n, err
}

func TestCreateVolume_ofAZvolGrows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "nas/vol", zfs.CreateOptions{VolumeSize: 1 << 20, Sparse: true}))
	require.NoError(t, w.hassio.zfs.Snapshot(t.Context(), []string{"nas/vol@a"}, nil))
	v, err := w.hassio.zfs.Lookup(t.Context(), "nas/vol@a")
	require.NoError(t, err)
	req := &agentpb.CreateVolumeRequest{
		Snapshot: "nas/vol@a", Guid: v.GUID, Dataset: "nas/new", Mode: zfssnap.ModeClone, Native: map[string]string{"volsize": "2097152"},
	}
	ds, err := w.client.CreateVolume(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, "2097152", ds.GetNative()["volsize"])
	req.Native["volsize"] = "4096"
	_, err = w.client.CreateVolume(t.Context(), req)
	require.ErrorIs(t, err, agent.ErrInvalid)
	assert.ErrorContains(t, err, "would cut off data")
}

// What a volume's source reserves is reserved for it too, whatever it is made by:
// the default of a volume, which is more than its size, and numbers.
func TestCreateVolume_reserves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "nas/thick", zfs.CreateOptions{VolumeSize: 1 << 20}))
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "nas/part", zfs.CreateOptions{VolumeSize: 1 << 20, Sparse: true, Properties: map[string]string{"refreservation": "4096"}}))
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "nas/fs", zfs.CreateOptions{Properties: map[string]string{"refreservation": "4096", "reservation": "8192"}}))
	for _, name := range []string{"thick", "part", "fs"} {
		for _, mode := range []string{zfssnap.ModeClone, zfssnap.ModeCopy} {
			t.Run(name+" by "+mode, func(t *testing.T) {
				source := "nas/" + name
				v := w.take(t, source, mode)
				d, err := w.client.ResolveDataset(t.Context(), &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: source}})
				require.NoError(t, err)
				req := &agentpb.CreateVolumeRequest{
					Snapshot: source + "@" + v.GetName(), Guid: v.GetGuid(), Dataset: source + "-" + mode, Mode: mode, Native: d.GetNative(),
				}
				require.Contains(t, req.GetNative(), "refreservation")
				delete(req.Native, "mountpoint")
				for range 2 {
					made, err := w.client.CreateVolume(t.Context(), req)
					require.NoError(t, err)
					for _, prop := range received.Reservations {
						assert.Equal(t, d.GetNative()[prop], made.GetNative()[prop], prop)
					}
				}
			})
		}
	}
}

func TestCreateVolume_noRoomToReserve(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.hassio.pool.SetFree("znvm", 1<<30)
	for _, mode := range []string{zfssnap.ModeClone, zfssnap.ModeCopy} {
		req := &agentpb.CreateVolumeRequest{
			Snapshot: source + "@dr-b1", Guid: v.GetGuid(), Dataset: "znvm/new", Mode: mode, Native: map[string]string{"reservation": "1099511627776"},
		}
		_, err := w.client.CreateVolume(t.Context(), req)
		require.ErrorIs(t, err, agent.ErrNoSpace)
		require.ErrorContains(t, err, "create volume znvm/new: reserve the space that its source does in pool znvm")
		assert.NotContains(t, w.hassio.pool.Names(), "znvm/new", "what failed leaves nothing")

		req.Native = nil
		_, err = w.client.CreateVolume(t.Context(), req)
		require.NoError(t, err)
		req.Native = map[string]string{"reservation": "1099511627776"}
		_, err = w.client.CreateVolume(t.Context(), req)
		require.ErrorIs(t, err, agent.ErrNoSpace)
		assert.Contains(t, w.hassio.pool.Names(), "znvm/new", "what was there before stays")
		_, err = w.client.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: "znvm/new"})
		require.NoError(t, err)
	}
}

func TestCreateVolume_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	require.NoError(t, w.hassio.zfs.Create(t.Context(), "znvm/foreign", zfs.CreateOptions{}))
	tests := []struct {
		name   string
		change func(*agentpb.CreateVolumeRequest)
		err    error
	}{
		{"another guid", func(r *agentpb.CreateVolumeRequest) { r.Guid++ }, agent.ErrMismatch},
		{"a missing snapshot", func(r *agentpb.CreateVolumeRequest) { r.Snapshot = source + "@none" }, agent.ErrNotFound},
		{"a native property off the list", func(r *agentpb.CreateVolumeRequest) { r.Native = map[string]string{"sharenfs": "on"} }, agent.ErrInvalid},
		{"a reservation that is no number", func(r *agentpb.CreateVolumeRequest) { r.Native = map[string]string{"reservation": "much"} }, agent.ErrInvalid},
		{"a relative mountpoint", func(r *agentpb.CreateVolumeRequest) { r.Native = map[string]string{"mountpoint": "etc"} }, agent.ErrInvalid},
		{"the root as mountpoint", func(r *agentpb.CreateVolumeRequest) { r.Native = map[string]string{"mountpoint": "/"} }, agent.ErrInvalid},
		{"an unknown mode", func(r *agentpb.CreateVolumeRequest) { r.Mode = "move" }, agent.ErrInvalid},
		{"a foreign property", func(r *agentpb.CreateVolumeRequest) { r.Properties = map[string]string{"a:b": "c"} }, agent.ErrInvalid},
		{"a foreign dataset of that name", func(r *agentpb.CreateVolumeRequest) { r.Dataset = "znvm/foreign" }, agent.ErrExists},
		{"the source itself", func(r *agentpb.CreateVolumeRequest) { r.Dataset = source }, agent.ErrExists},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := &agentpb.CreateVolumeRequest{Snapshot: source + "@dr-b1", Guid: v.GetGuid(), Dataset: "znvm/new", Mode: zfssnap.ModeClone}
			tt.change(req)
			_, err := w.client.CreateVolume(t.Context(), req)
			require.ErrorIs(t, err, tt.err)
			assert.NotContains(t, w.hassio.pool.Names(), "znvm/new")
		})
	}
}

func TestDestroyVolume_refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	w.done(t, v)
	const vol = "backup/vol"
	_, err := w.far.CreateVolume(t.Context(), &agentpb.CreateVolumeRequest{Snapshot: replica + "@dr-b1", Guid: v.GetGuid(), Dataset: vol, Mode: zfssnap.ModeClone})
	require.NoError(t, err)
	require.NoError(t, w.remote.zfs.Snapshot(t.Context(), []string{vol + "@mine"}, nil))
	before := w.remote.pool.Names()
	tests := []struct {
		name, dataset string
		err           error
		says          string
	}{
		{"what is not ours", "backup", agent.ErrForeign, zfssnap.PropManaged},
		{"a replica", replica, agent.ErrMismatch, "it is the replica of hassio:" + source},
		{"a parent of ours", "backup/replica", agent.ErrHasChildren, replica},
		{"a volume with snapshots", vol, agent.ErrHasChildren, vol + "@mine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.far.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: tt.dataset})
			require.ErrorIs(t, err, tt.err)
			assert.ErrorContains(t, err, tt.says)
		})
	}
	assert.Equal(t, before, w.remote.pool.Names())
}

func TestSetProperties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ds, err := w.client.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: source, Properties: map[string]string{zfssnap.PropRun: "r"}})
	require.NoError(t, err)
	assert.Equal(t, "r", ds.GetProperties()[zfssnap.PropRun])
	ds, err = w.client.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: source, Properties: map[string]string{zfssnap.PropRun: ""}})
	require.NoError(t, err)
	assert.Empty(t, ds.GetProperties())
	for _, prop := range []string{zfssnap.PropManaged, zfssnap.PropSource, "readonly"} {
		_, err = w.client.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: source, Properties: map[string]string{prop: "true"}})
		require.ErrorIs(t, err, agent.ErrInvalid, "%s is not for callers", prop)
	}
}

func TestPolicy_isEnforced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.stop(t)
	w.hassio.policy = agent.Policy{Identities: []agent.Grant{
		{Name: "reader", Verbs: []agent.Verb{agent.Read}, Prefixes: []string{"znvm/k3s"}},
		{Name: "taker", Verbs: []agent.Verb{agent.Snapshot}, Prefixes: []string{"*"}},
	}}
	w.hassio.start(t)
	reader, taker, stranger := w.dial(t, w.hassio, "reader"), w.dial(t, w.hassio, "taker"), w.dial(t, w.hassio, "stranger")

	_, err := reader.ResolveDataset(t.Context(), byName(source))
	require.NoError(t, err)
	_, err = reader.ResolveDataset(t.Context(), byName("znvm"))
	require.ErrorIs(t, err, agent.ErrDenied)
	require.EqualError(t, err, `node hassio: not allowed: identity "reader" has not the verb "read" on dataset "znvm"`)
	assert.Contains(t, hint(t, err), `an entry for name "reader"`)
	assert.Equal(t, codes.PermissionDenied, status.Code(err))

	calls := map[string]func(*agent.Client) error{
		"snapshot": func(c *agent.Client) error {
			_, err := c.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "x"})
			return err
		},
		"hold": func(c *agent.Client) error {
			_, err := c.Hold(t.Context(), &agentpb.HoldRequest{Snapshot: source + "@x", Tag: "kubectl-dr:x"})
			return err
		},
		"replicate": func(c *agent.Client) error {
			_, err := c.Replicate(t.Context(), w.request(&agentpb.Version{Dataset: source, Name: "x", Guid: 1}))
			return err
		},
		"cancel": func(c *agent.Client) error {
			_, err := c.CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: "x"})
			return err
		},
		"clone": func(c *agent.Client) error {
			_, err := c.CreateVolume(t.Context(), &agentpb.CreateVolumeRequest{Snapshot: source + "@x", Guid: 1, Dataset: source + "/y", Mode: "clone"})
			return err
		},
		"destroy a snapshot": func(c *agent.Client) error {
			_, err := c.DestroySnapshot(t.Context(), &agentpb.DestroySnapshotRequest{Dataset: source, Name: "x"})
			return err
		},
		"destroy a volume": func(c *agent.Client) error {
			_, err := c.DestroyVolume(t.Context(), &agentpb.DestroyVolumeRequest{Dataset: source})
			return err
		},
		"promote": func(c *agent.Client) error {
			_, err := c.PromoteVolume(t.Context(), &agentpb.PromoteVolumeRequest{Dataset: source})
			return err
		},
		"rename": func(c *agent.Client) error {
			_, err := c.RenameVolume(t.Context(), &agentpb.RenameVolumeRequest{Dataset: source, To: "znvm/x"})
			return err
		},
		"set properties": func(c *agent.Client) error {
			_, err := c.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: source, Properties: map[string]string{zfssnap.PropRun: "x"}})
			return err
		},
		"look at a replica": func(c *agent.Client) error {
			_, err := c.ReceiveState(t.Context(), &agentpb.ReceiveStateRequest{Dataset: source})
			return err
		},
	}
	before := w.hassio.pool.Commands()
	for name, call := range calls {
		require.ErrorIs(t, call(reader), agent.ErrDenied, name)
		require.ErrorIs(t, call(stranger), agent.ErrDenied, name)
		if name != "snapshot" {
			require.ErrorIs(t, call(taker), agent.ErrDenied, name)
		}
	}
	assert.Equal(t, before, w.hassio.pool.Commands(), "nothing was run")
	require.NoError(t, calls["snapshot"](taker))
	_, err = taker.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "y", Hold: "kubectl-dr:x"})
	require.ErrorIs(t, err, agent.ErrDenied, "a hold needs its own verb")
	_, err = stranger.Info(t.Context(), &agentpb.InfoRequest{})
	require.ErrorIs(t, err, agent.ErrDenied)
}

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	p, err := agent.ParsePolicy([]byte("identities:\n- {name: a, verbs: [read, receive], prefixes: [backup/replica]}\n"))
	require.NoError(t, err)
	assert.Equal(t, agent.Policy{Identities: []agent.Grant{{Name: "a", Verbs: []agent.Verb{agent.Read, agent.Receive}, Prefixes: []string{"backup/replica"}}}}, p)
	tests := []struct{ name, yaml, says string }{
		{"an unknown field", "identities: [{name: a, verb: read}]", `unknown field "verb"`},
		{"an unknown verb", "identities: [{name: a, verbs: [write], prefixes: [tank]}]", `unknown verb "write"`},
		{"no name", "identities: [{verbs: [read], prefixes: [tank]}]", "name is missing"},
		{"no prefixes", "identities: [{name: a, verbs: [read]}]", "both required"},
		{"a bad prefix", "identities: [{name: a, verbs: [read], prefixes: [/tank]}]", "identities[0] (a)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := agent.ParsePolicy([]byte(tt.yaml))
			require.ErrorContains(t, err, tt.says)
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bundle := func(ca *agent.Authority, name string, now time.Time) *agent.Bundle {
		pem, err := ca.Client(name, now)
		require.NoError(t, err)
		b, err := agent.ParseBundle(pem)
		require.NoError(t, err)
		return b
	}
	call := func(node, addr string, b *agent.Bundle) error {
		c, err := agent.Dial(node, addr, b)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Info(t.Context(), &agentpb.InfoRequest{})
		return err
	}
	other, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	good := bundle(w.ca, "velero", time.Now())

	tests := []struct {
		name, node, addr string
		bundle           *agent.Bundle
		cause            error
		code             codes.Code
		says, hint       string
	}{
		{"the agent of another node", "remote", w.hassio.addr, good, agent.ErrUntrusted, codes.Unauthenticated,
			"agent on node remote at " + w.hassio.addr + " cannot be verified", "is not the agent of node remote"},
		{"an agent of another CA", "hassio", w.hassio.addr, bundle(other, "velero", time.Now()), agent.ErrUntrusted, codes.Unauthenticated,
			"agent on node hassio", "another authority"},
		{"an expired certificate of its own", "hassio", w.hassio.addr, bundle(w.ca, "velero", time.Now().Add(-10*365*24*time.Hour)), agent.ErrUnreachable, codes.Unavailable,
			"agent on node hassio", "not expired"},
		{"nobody there", "hassio", "127.0.0.1:1", good, agent.ErrUnreachable, codes.Unavailable,
			"connection refused", "127.0.0.1:1 is reachable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := call(tt.node, tt.addr, tt.bundle)
			require.ErrorIs(t, err, tt.cause)
			assert.Equal(t, tt.code, status.Code(err))
			require.ErrorContains(t, err, tt.says)
			assert.Contains(t, hint(t, err), tt.hint)
		})
	}
	require.NoError(t, call("hassio", w.hassio.addr, good))

	t.Run("without a client certificate or below TLS 1.3 nothing is answered", func(t *testing.T) {
		t.Parallel()
		for _, config := range []*tls.Config{
			{InsecureSkipVerify: true, NextProtos: []string{"h2"}},
			{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12},
		} {
			conn, err := grpc.NewClient(w.hassio.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			require.NoError(t, err)
			_, err = agentpb.NewAgentClient(conn).Info(t.Context(), &agentpb.InfoRequest{})
			assert.Equal(t, codes.Unavailable, status.Code(err))
			_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
			assert.Equal(t, codes.Unavailable, status.Code(err))
			require.NoError(t, conn.Close())
		}
	})
	t.Run("a deadline is told from an unreachable agent", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := w.client.Info(ctx, &agentpb.InfoRequest{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, agent.ErrUnreachable)
	})
}

func TestBundle_isReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "tls.pem")
	put := func(name string) {
		pem, err := w.ca.Client(name, time.Now())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, pem, 0o600))
	}
	put("someone-else-with-a-long-name")
	dir, err := agent.NewDirectory(map[string]string{"hassio": w.hassio.addr}, file)
	require.NoError(t, err)
	defer dir.Close()
	c, err := dir.Client("hassio")
	require.NoError(t, err)
	_, err = c.Info(t.Context(), &agentpb.InfoRequest{})
	require.ErrorIs(t, err, agent.ErrDenied)

	put("velero")
	w.hassio.stop(t) // a certificate counts from the next connection on
	w.hassio.start(t)
	require.Eventually(t, func() bool {
		_, err = c.Info(t.Context(), &agentpb.InfoRequest{})
		return err == nil
	}, 2*time.Minute, 5*time.Millisecond)

	require.NoError(t, os.WriteFile(file, []byte("half a fi"), 0o600))
	b, err := agent.NewDirectory(nil, file)
	require.ErrorContains(t, err, file)
	assert.Nil(t, b)
	_, err = c.Info(t.Context(), &agentpb.InfoRequest{})
	require.NoError(t, err, "what was read before still serves")
}

func TestParseBundle_saysWhatIsMissing(t *testing.T) {
	t.Parallel()
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	pem, err := ca.Node("n", time.Now())
	require.NoError(t, err)
	parts := strings.SplitAfter(string(pem), "-----END CERTIFICATE-----\n")
	require.Len(t, parts, 3)
	for want, data := range map[string]string{
		"no CA certificate":         parts[1] + parts[2],
		"no certificate of its own": parts[0] + parts[2],
		"no private key":            parts[0] + parts[1],
	} {
		_, err := agent.ParseBundle([]byte(data))
		require.ErrorContains(t, err, want)
	}
	_, err = agent.ParseBundle([]byte(parts[2] + parts[1] + parts[0]))
	require.NoError(t, err, "in any order")
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pem, err := w.ca.Client("velero", time.Now())
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	dir := agent.NewDirectoryWith(map[string]string{"hassio": w.hassio.addr, "gone": "127.0.0.1:1"}, bundle)
	one, err := dir.Client("hassio")
	require.NoError(t, err)
	two, err := dir.Client("hassio")
	require.NoError(t, err)
	assert.Same(t, one, two)
	_, err = dir.Client("gone")
	require.NoError(t, err, "the network is not touched")
	_, err = dir.Client("none")
	require.ErrorIs(t, err, agent.ErrNotFound)
	require.NoError(t, dir.Close())
}

func TestOpenAuthority(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := agent.OpenAuthority(dir, time.Now())
	require.NoError(t, err)
	second, err := agent.OpenAuthority(dir, time.Now())
	require.NoError(t, err)
	one, err := first.Client("x", time.Now())
	require.NoError(t, err)
	two, err := second.Client("x", time.Now())
	require.NoError(t, err)
	assert.Equal(t, strings.SplitAfter(string(one), "END CERTIFICATE")[0], strings.SplitAfter(string(two), "END CERTIFICATE")[0])
	for _, f := range []string{"ca.crt", "ca.key"} {
		info, err := os.Stat(filepath.Join(dir, f))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.crt")))
	_, err = agent.OpenAuthority(dir, time.Now())
	require.Error(t, err, "half an authority is not replaced")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pem, err := w.ca.Client("nobody", time.Now())
	require.NoError(t, err)
	cert, err := tls.X509KeyPair(pem[strings.Index(string(pem), "-----END")+26:], pem)
	require.NoError(t, err)
	conn, err := grpc.NewClient(w.hassio.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
	})))
	require.NoError(t, err)
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	assert.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.GetStatus())
}

// What a snapshot tells of itself is told of its copy, and only where it is asked for.
func TestListVersions_newestProperties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const claim = zfssnap.PropClaimPrefix + "0a1b2c3d"
	for _, backup := range []string{"b1", "b2"} {
		resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{
			Datasets: []string{source}, Name: "dr-" + backup, Properties: map[string]string{zfssnap.PropBackup: backup, claim: `{"claim":"data"}`},
		})
		require.NoError(t, err)
		w.done(t, resp.GetSnapshots()[0])
	}
	_, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{source}, Name: "dr-kept-by-a-run"})
	require.NoError(t, err)
	resp, err := w.client.ListVersions(t.Context(), &agentpb.ListVersionsRequest{Dataset: source, NewestProperties: true})
	require.NoError(t, err)
	for _, v := range resp.GetVersions() {
		assert.Equal(t, v.GetName() == "dr-b2", len(v.GetProperties()) > 0, "what no backup has says nothing: %s", v.GetName())
	}
	told := func(req *agentpb.ListVersionsRequest) map[string]map[string]string {
		resp, err := w.far.ListVersions(t.Context(), req)
		require.NoError(t, err)
		all := map[string]map[string]string{}
		for _, v := range resp.GetVersions() {
			if !v.GetBookmark() {
				all[v.GetName()] = v.GetProperties()
			}
		}
		return all
	}
	assert.Equal(t, map[string]map[string]string{"dr-b1": nil, "dr-b2": nil}, told(&agentpb.ListVersionsRequest{Dataset: replica}))
	got := told(&agentpb.ListVersionsRequest{Dataset: replica, NewestProperties: true})
	assert.Nil(t, got["dr-b1"])
	assert.Equal(t, `{"claim":"data"}`, got["dr-b2"][claim])
	assert.Equal(t, "b2", got["dr-b2"][zfssnap.PropBackup])
}
