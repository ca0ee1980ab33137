package restorepoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

// files has a file of volumes for each backup.
type files map[string][]byte

func (f files) File(_ context.Context, kind velerov1api.DownloadTargetKind, backup string) ([]byte, error) {
	if content, ok := f[backup]; ok && kind == velerov1api.DownloadTargetKindBackupVolumeInfos {
		return content, nil
	}
	return nil, cluster.ErrNoFile
}

func TestBefore(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	// Of each backup the volume was snapshotted a minute after it began.
	backups := []struct {
		name, schedule string
		began          time.Time
	}{
		{"web-1200", "web", noon},
		{"web-1100", "web", noon.Add(-time.Hour)},
		{"web-1000", "web", noon.Add(-2 * time.Hour)},
		{"web-daily-0200", "web-daily", noon.Add(-10 * time.Hour)},
		{"other-0100", "other", noon.Add(-11 * time.Hour)},
	}
	tests := []struct {
		name string
		at   time.Time
		// lost are backups whose copies are gone.
		lost []string
		want string
		err  string
	}{
		{"later than all", noon.Add(time.Hour), nil, "web-1200", ""},
		{"while it was taken", noon.Add(30 * time.Second), nil, "web-1100", ""},
		{"when a volume was snapshotted", noon.Add(-time.Hour + time.Minute), nil, "web-1000", ""},
		{"just after", noon.Add(-time.Hour + time.Minute + time.Second), nil, "web-1100", ""},
		{"one that can not be recovered", noon, []string{"web-1100"}, "web-1000", ""},
		{"of another class", noon.Add(-5 * time.Hour), nil, "web-daily-0200", ""},
		{"none that can be recovered", noon.Add(-5 * time.Hour), []string{"web-daily-0200"}, "", "backup web-daily-0200 cannot be recovered here"},
		{"before all", noon.Add(-10 * time.Hour), nil, "", "no completed backup has only data from before 2026-03-04T02:00:00Z; the oldest, web-daily-0200, began at 2026-03-04T02:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := files{}
			var objects []client.Object
			for i, b := range backups {
				began := metav1.NewTime(b.began)
				objects = append(objects, &velerov1api.Backup{
					ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: b.name, Labels: map[string]string{velerov1api.ScheduleNameLabel: b.schedule}},
					Status:     velerov1api.BackupStatus{Phase: velerov1api.BackupPhaseCompleted, StartTimestamp: &began, CompletionTimestamp: &began},
				})
				id := zfssnap.SnapshotID{Node: "hassio", Dataset: "znvm/web", Snapshot: zfssnap.SnapshotName(b.name, ""), GUID: uint64(i + 1), Created: b.began.Add(time.Minute)}
				in[b.name] = fmt.Appendf(nil, `[{"pvcNamespace": "web", "pvcName": "data", "backupMethod": "NativeSnapshot", "nativeSnapshotInfo": {"snapshotHandle": %q}}]`, id)
			}
			f := &Finder{
				Client:    fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects...).Build(),
				Namespace: "velero", Files: in, Replicas: replicas{find: func(id zfssnap.SnapshotID) error {
					if backup, _ := zfssnap.BackupOf(id.Snapshot); slices.Contains(tt.lost, backup) {
						return cluster.ErrNoCopy
					}
					return nil
				}},
			}
			got, err := f.Before(t.Context(), source, tt.at)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.Backup)
		})
	}
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
