package plugin

import (
	"fmt"
	"io"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// BenchmarkCreateSnapshot backs up volumes through a real agent over a pool in
// memory. What counts is how many commands of zfs(8) a volume costs, and how
// many of those are zfs snapshot: on a real host a command is milliseconds.
func BenchmarkCreateSnapshot(b *testing.B) {
	for _, grouped := range []bool{false, true} {
		for _, volumes := range []int{1, 10, 100} {
			name := fmt.Sprintf("each for itself/%d volumes", volumes)
			if grouped {
				name = fmt.Sprintf("in one group/%d volumes", volumes)
			}
			b.Run(name, func(b *testing.B) { benchmarkCreateSnapshot(b, volumes, grouped) })
		}
	}
}

func benchmarkCreateSnapshot(b *testing.B, volumes int, grouped bool) {
	pool := zfstest.NewPool("znvm")
	s := newSite(b, pool.Target("znvm"))
	scheme, err := newScheme()
	require.NoError(b, err)
	kube := fake.NewClientBuilder().WithScheme(scheme).Build()
	log := logrus.New()
	log.SetOutput(io.Discard)
	groups := &zfssnap.Groups{}
	snapshotter := &zfssnap.Snapshotter{
		Sites:     &zfssnap.Sites{Connect: connect, Kube: func() (client.Client, error) { return kube, nil }},
		Namespace: "velero", Log: log, Groups: groups,
	}
	require.NoError(b, snapshotter.Init(s.config()))
	var ids []string
	for range volumes {
		id, err := snapshotter.GetVolumeID(s.newVolume(b))
		require.NoError(b, err)
		ids = append(ids, id)
	}
	var commands, snapshots, backups int
	for b.Loop() {
		b.StopTimer()
		backup := fmt.Sprint("b", backups)
		uid := types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", backups))
		backups++
		require.NoError(b, kube.Create(b.Context(), &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: backup, UID: uid}}))
		for _, id := range ids {
			if grouped {
				vol, err := zfssnap.ParseVolumeID(id)
				require.NoError(b, err)
				groups.Join(backup, uid, "wordpress", vol, "")
			}
		}
		before := len(pool.Commands())
		b.StartTimer()
		for _, id := range ids {
			_, err := snapshotter.CreateSnapshot(id, "", map[string]string{"velero.io/backup": backup})
			require.NoError(b, err)
		}
		b.StopTimer()
		for _, args := range pool.Commands()[before:] {
			commands++
			if args[1] == "snapshot" {
				snapshots++
			}
		}
		b.StartTimer()
	}
	total := float64(backups * volumes)
	b.ReportMetric(float64(commands)/total, "commands/volume")
	b.ReportMetric(float64(snapshots)/total, "snapshots/volume")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/total, "µs/volume")
}
