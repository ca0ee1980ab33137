package cluster

import (
	"context"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// VolumeInfo is what Velero's file of volumes says of one: BackupVolumeInfo in
// Velero's internal/volume.
type VolumeInfo struct {
	PVCName           string      `json:"pvcName"`
	PVCNamespace      string      `json:"pvcNamespace"`
	PVName            string      `json:"pvName"`
	BackupMethod      plan.Method `json:"backupMethod"`
	SnapshotDataMoved bool        `json:"snapshotDataMoved"`
	Skipped           bool        `json:"skipped"`
	SkippedReason     string      `json:"skippedReason"`
	Result            string      `json:"result"`
	// StartTimestamp is when a CSI snapshot was taken, or when data began to be
	// read or moved.
	StartTimestamp *metav1.Time `json:"startTimestamp"`
	NativeSnapshot *struct {
		SnapshotHandle string `json:"snapshotHandle"`
		VolumeType     string `json:"volumeType"`
	} `json:"nativeSnapshotInfo"`
}

// VolumeInfos reads Velero's file of a backup's volumes. ErrNoFile where there is none.
func VolumeInfos(ctx context.Context, files Files, backup string) ([]VolumeInfo, error) {
	return ReadJSON[[]VolumeInfo](ctx, files, velerov1api.DownloadTargetKindBackupVolumeInfos, backup)
}
