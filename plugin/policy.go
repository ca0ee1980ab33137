package plugin

import (
	"context"
	"sync"

	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/kuberesource"
	"github.com/vmware-tanzu/velero/pkg/plugin/utils/volumehelper"
	"github.com/vmware-tanzu/velero/pkg/util/podvolume"
	vhutil "github.com/vmware-tanzu/velero/pkg/util/volumehelper"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// snapshotPolicy asks Velero's own code whether it takes a native snapshot of a
// volume: not of one that a volume policy skips or that is backed up from its
// pod's file system. Policies and pods are read once for a backup.
type snapshotPolicy struct {
	kube func() (client.Client, error)
	log  logrus.FieldLogger

	mu     sync.Mutex
	backup types.UID
	helper vhutil.VolumeHelper
	pods   *podvolume.PVCPodCache
}

// takes reports whether Velero will ask for a snapshot of a PersistentVolume.
func (p *snapshotPolicy) takes(ctx context.Context, pv runtime.Unstructured, backup *velerov1api.Backup) (bool, error) {
	if backup.Spec.SnapshotVolumes != nil && !*backup.Spec.SnapshotVolumes {
		return false, nil
	}
	kube, err := p.kube()
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.helper == nil || p.backup != backup.UID {
		p.pods = podvolume.NewPVCPodCache()
		if p.helper, err = volumehelper.NewVolumeHelperWithCache(*backup, kube, p.log, p.pods); err != nil {
			return false, err
		}
		p.backup = backup.UID
	}
	if ns, _, _ := unstructured.NestedString(pv.UnstructuredContent(), "spec", "claimRef", "namespace"); ns != "" {
		if err := p.pods.BuildCacheForNamespace(ctx, ns, kube); err != nil {
			return false, err
		}
	}
	return p.helper.ShouldPerformSnapshot(pv, kuberesource.PersistentVolumes)
}
