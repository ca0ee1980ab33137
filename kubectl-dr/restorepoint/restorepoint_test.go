package restorepoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

var source = plan.Source{Namespaces: []string{"web"}, Schedule: "web"}

// replicas have a copy of every snapshot.
type replicas struct {
	find  func(id zfssnap.SnapshotID) error
	newer func(than cluster.Copy) ([]string, error)
}

func (r replicas) Find(_ context.Context, id zfssnap.SnapshotID) (cluster.Copy, error) {
	return cluster.Copy{Node: "remote", Dataset: "backup/replica/" + id.Dataset, Snapshot: id.Snapshot}, r.find(id)
}

func (r replicas) Newer(_ context.Context, than cluster.Copy) ([]string, error) { return r.newer(than) }

type file []byte

func (f file) File(_ context.Context, kind velerov1api.DownloadTargetKind, _ string) ([]byte, error) {
	if kind != velerov1api.DownloadTargetKindBackupVolumeInfos {
		return nil, cluster.ErrNoFile
	}
	return f, nil
}

// finderOf finds in one backup with so many volumes, v0 and so on.
func finderOf(t *testing.T, volumes int, r replicas) *Finder {
	t.Helper()
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	backup := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "web-20260102030405", Labels: map[string]string{velerov1api.ScheduleNameLabel: "web"}},
		Status:     velerov1api.BackupStatus{Phase: velerov1api.BackupPhaseCompleted, StartTimestamp: &at, CompletionTimestamp: &at},
	}
	var infos []map[string]any
	for i := range volumes {
		id := zfssnap.SnapshotID{Node: "hassio", Dataset: fmt.Sprintf("znvm/v%d", i), Snapshot: zfssnap.SnapshotName(backup.Name, ""), GUID: uint64(i + 1), Created: at.Time}
		infos = append(infos, map[string]any{
			"pvcNamespace": "web", "pvcName": fmt.Sprintf("v%d", i), "backupMethod": "NativeSnapshot",
			"nativeSnapshotInfo": map[string]string{"snapshotHandle": id.String()},
		})
	}
	content, err := json.Marshal(infos)
	require.NoError(t, err)
	return &Finder{
		Client:    fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(backup).Build(),
		Namespace: "velero", Files: file(content), Replicas: r,
	}
}

// together waits until so many ask at the same time, and fails when they don't.
func together(t *testing.T, n int32) func() {
	t.Helper()
	var asking atomic.Int32
	all := make(chan struct{})
	return func() {
		if asking.Add(1) == n {
			close(all)
		}
		select {
		case <-all:
		case <-time.After(10 * time.Second):
			t.Errorf("%d ask at the same time, want %d", asking.Load(), n)
		}
	}
}

func TestPoints_looksForVolumesSideBySide(t *testing.T) {
	t.Parallel()
	meet := together(t, atOnce)
	f := finderOf(t, atOnce, replicas{find: func(zfssnap.SnapshotID) error { meet(); return nil }})
	points, err := f.Points(t.Context(), source)
	require.NoError(t, err)
	require.Len(t, points, 1)
	require.Len(t, points[0].Volumes, atOnce)
	assert.True(t, points[0].Recoverable())
}

func TestPoints_endsWithTheFirstVolumeThatIsNotKnown(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	f := finderOf(t, 3*atOnce, replicas{find: func(id zfssnap.SnapshotID) error {
		asked.Add(1)
		if id.GUID > 2 {
			return errors.New("no answer")
		}
		return nil
	}})
	_, err := f.Points(t.Context(), source)
	var unknown *UnknownError
	require.ErrorAs(t, err, &unknown)
	assert.EqualError(t, err, "backup web-20260102030405: volume web/v2: no answer")
	assert.LessOrEqual(t, asked.Load(), int32(2+atOnce), "the rest is not asked for")
}

func TestArrived(t *testing.T) {
	t.Parallel()
	const newest, other = "web-20260102030905", "web-20260102031405"
	arrived := func(backups ...string) (snapshots []string) {
		for _, b := range backups {
			snapshots = append(snapshots, zfssnap.SnapshotName(b, ""))
		}
		return snapshots
	}
	tests := []struct {
		name  string
		newer func(dataset string) []string
		want  string
		asked int32
	}{
		{"nothing: one volume tells", func(string) []string { return nil }, "", 1},
		{"only what is not of the schedule", func(string) []string { return append(arrived("by-hand"), "autosnap_2026-01-02") }, "", 1},
		{"a backup of which all copies are here", func(string) []string { return arrived(newest) }, newest, 100},
		{"the newest of those", func(dataset string) []string {
			if dataset == "backup/replica/znvm/v7" {
				return arrived(newest)
			}
			return arrived(newest, other)
		}, newest, 100},
		{"one of which a copy is missing", func(dataset string) []string {
			if dataset == "backup/replica/znvm/v7" {
				return nil
			}
			return arrived(newest)
		}, "", 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			f := finderOf(t, 100, replicas{
				find: func(zfssnap.SnapshotID) error { return nil },
				newer: func(than cluster.Copy) ([]string, error) {
					asked.Add(1)
					return tt.newer(than.Dataset), nil
				},
			})
			point, err := f.Newest(t.Context(), source)
			require.NoError(t, err)
			got, err := f.Arrived(t.Context(), source, point)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.asked, asked.Load())
		})
	}
}
