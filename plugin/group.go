package plugin

import (
	"context"
	"fmt"

	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/kuberesource"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	ibav1 "github.com/vmware-tanzu/velero/pkg/plugin/velero/itemblockaction/v1"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// GroupAction makes the snapshots of a group's volumes one point in time. It
// has Velero put the claims of a group into one item block, so that the hooks
// of all their pods run before the first snapshot is taken; and since Velero
// shows it every volume of the block before that, it can tell the snapshotter
// which to take together.
type GroupAction struct {
	Sites  *zfssnap.Sites
	Groups *zfssnap.Groups
	Log    logrus.FieldLogger

	policy *snapshotPolicy
}

// NewGroupAction returns the action; the snapshotter has the same groups.
func NewGroupAction(sites *zfssnap.Sites, groups *zfssnap.Groups, log logrus.FieldLogger) *GroupAction {
	return &GroupAction{Sites: sites, Groups: groups, Log: log, policy: &snapshotPolicy{kube: sites.Kube, log: log}}
}

var _ ibav1.ItemBlockAction = (*GroupAction)(nil)

// Name is required by the interface; Velero uses the registered name.
func (a *GroupAction) Name() string { return GroupName }

// AppliesTo selects claims and their volumes.
func (a *GroupAction) AppliesTo() (velero.ResourceSelector, error) {
	return velero.ResourceSelector{IncludedResources: []string{
		kuberesource.PersistentVolumeClaims.Resource, kuberesource.PersistentVolumes.Resource,
	}}, nil
}

// GetRelatedItems returns, for a claim, the other claims of its group. Velero
// logs an error of this method, which makes the backup PartiallyFailed.
func (a *GroupAction) GetRelatedItems(item runtime.Unstructured, backup *velerov1api.Backup) ([]velero.ResourceIdentifier, error) {
	ctx := context.Background()
	site, _, err := siteOf(ctx, a.Sites, backup)
	if err != nil || site == nil || site.GroupBy == zfssnap.GroupByVolume {
		return nil, err
	}
	if item.GetObjectKind().GroupVersionKind().Kind == "PersistentVolume" {
		return nil, a.join(ctx, site, item, backup)
	}
	return a.peers(ctx, site, item, backup)
}

// peers returns the claims that are in a group with one of ours.
func (a *GroupAction) peers(ctx context.Context, site *zfssnap.Site, item runtime.Unstructured, backup *velerov1api.Backup) ([]velero.ResourceIdentifier, error) {
	claim := &corev1api.PersistentVolumeClaim{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.UnstructuredContent(), claim); err != nil {
		return nil, fmt.Errorf("read PersistentVolumeClaim: %w", err)
	}
	group := groupOf(site, claim, backup)
	if group == "" || claim.Spec.VolumeName == "" {
		return nil, nil
	}
	kube, err := a.Sites.Kube()
	if err != nil {
		return nil, err
	}
	claims := &corev1api.PersistentVolumeClaimList{}
	if err := kube.List(ctx, claims, client.InNamespace(claim.Namespace)); err != nil {
		return nil, fmt.Errorf("list claims in namespace %s: %w", claim.Namespace, err)
	}
	var peers []velero.ResourceIdentifier
	for i := range claims.Items {
		peer := &claims.Items[i]
		if peer.Name != claim.Name && peer.Spec.VolumeName != "" && groupOf(site, peer, backup) == group {
			peers = append(peers, velero.ResourceIdentifier{
				GroupResource: kuberesource.PersistentVolumeClaims, Namespace: peer.Namespace, Name: peer.Name,
			})
		}
	}
	return peers, nil
}

// join tells the snapshotter of a volume that it will be asked to snapshot.
func (a *GroupAction) join(ctx context.Context, site *zfssnap.Site, item runtime.Unstructured, backup *velerov1api.Backup) error {
	pv := &corev1api.PersistentVolume{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.UnstructuredContent(), pv); err != nil {
		return fmt.Errorf("read PersistentVolume: %w", err)
	}
	if pv.Spec.ClaimRef == nil {
		return nil
	}
	vol, ours, err := site.Locate(ctx, item)
	if err != nil || !ours {
		return nil // the snapshot fails with the same reason
	}
	claim := &corev1api.PersistentVolumeClaim{}
	claim.Namespace, claim.Name = pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name
	if site.GroupBy == zfssnap.GroupByLabel {
		kube, err := a.Sites.Kube()
		if err != nil {
			return err
		}
		if err := kube.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
			return fmt.Errorf("get claim of PersistentVolume %s: %w", pv.Name, err)
		}
	}
	group := groupOf(site, claim, backup)
	if group == "" {
		return nil
	}
	taken, err := a.policy.takes(ctx, item, backup)
	if err != nil || !taken {
		return err
	}
	a.Groups.Join(backup.Name, backup.UID, group, vol, zfssnap.RecordClaim(item, vol))
	return nil
}

// groupOf returns the name of a claim's group, "" for none.
func groupOf(site *zfssnap.Site, claim *corev1api.PersistentVolumeClaim, backup *velerov1api.Backup) string {
	if site.GroupBy == zfssnap.GroupByNamespace {
		return claim.Namespace
	}
	value := claim.Labels[backup.Spec.VolumeGroupSnapshotLabelKey]
	if value == "" {
		return ""
	}
	return claim.Namespace + "/" + value
}
