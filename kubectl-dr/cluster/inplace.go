package cluster

import (
	"context"
	"fmt"
	"slices"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// InPlace is a PersistentVolume that has the name of one in a backup. Restored to
// the namespace it came from, that one does not take its place: shouldRestore in
// Velero's pkg/restore/restore.go.
type InPlace struct {
	Name string
	// Going: Velero waits for it to go, as it does for one that is Released or being
	// deleted, and fails when it does not. It leaves any other as it is, with the
	// data it has.
	Going bool
	State string
	// Claim, as "<namespace>/<name>", is what it was bound to in the backup; "" where
	// that is not known.
	Claim string
}

func (v InPlace) Error() string {
	if v.Going {
		return fmt.Sprintf("PersistentVolume %s, which the backup has too, is %s: Velero waits for it to go, 10 minutes unless its server says otherwise, and then fails", v.Name, v.State)
	}
	return fmt.Sprintf("PersistentVolume %s, which the backup has too, is %s: Velero leaves it as it is, and restores no data", v.Name, v.State)
}

// Hint says what to do about it.
func (v InPlace) Hint() string {
	return "if nothing needs it: kubectl delete persistentvolume " + v.Name + "; with the reclaim policy Retain its dataset stays"
}

// InPlace returns the PersistentVolumes of the cluster that have the name of one in
// a backup, but for those that Velero provisions anew, under another name. Which
// names those are is not known where Velero can not tell what the backup holds, and
// then there is none.
func (c *Cluster) InPlace(ctx context.Context, backup string) ([]InPlace, error) {
	contents, err := ReadJSON[map[string][]string](ctx, c.Files, velerov1api.DownloadTargetKindBackupResourceList, backup)
	if err != nil {
		return nil, ctx.Err()
	}
	var all []InPlace
	for _, name := range contents["v1/PersistentVolume"] {
		pv := &corev1api.PersistentVolume{}
		err := c.Client.Get(ctx, client.ObjectKey{Name: name}, pv)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("get PersistentVolume %s: %w", name, err)
		}
		if err != nil {
			continue
		}
		v := InPlace{Name: name, State: string(pv.Status.Phase)}
		switch {
		case pv.DeletionTimestamp != nil:
			v.Going, v.State = true, "being deleted"
		case pv.Status.Phase == corev1api.VolumeReleased:
			v.Going = true
		case v.State == "":
			v.State = string(corev1api.VolumePending)
		}
		all = append(all, v)
	}
	if len(all) == 0 {
		return nil, nil
	}
	infos, err := VolumeInfos(ctx, c.Files, backup)
	if err != nil {
		return all, ctx.Err()
	}
	for _, info := range infos {
		if info.BackupMethod == plan.MethodPodVolumeBackup || info.BackupMethod == plan.MethodCSISnapshot {
			all = slices.DeleteFunc(all, func(v InPlace) bool { return v.Name == info.PVName })
		}
		if i := slices.IndexFunc(all, func(v InPlace) bool { return v.Name == info.PVName }); i >= 0 {
			all[i].Claim = info.PVCNamespace + "/" + info.PVCName
		}
	}
	return all, nil
}
