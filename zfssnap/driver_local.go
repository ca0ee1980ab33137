package zfssnap

import (
	"context"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sources are the volume sources that are replaced by a local one.
var sources = []string{"csi", "nfs", "hostPath", "local"}

// ProvisionedBy is the annotation by which provisioners know their volumes.
const ProvisionedBy = "pv.kubernetes.io/provisioned-by"

// toLocal makes a volume of any kind a local one, on the node that it was
// restored on. No driver and no provisioner knows of it afterwards, so nobody
// deletes its dataset: it is kept when the claim goes.
func toLocal(_ context.Context, _ *Site, pv *unstructured.Unstructured, vol restored) error {
	p, err := devicePath(vol.dataset)
	if err != nil {
		return err
	}
	local := map[string]any{"path": p}
	if fsType, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", "fsType"); fsType != "" && vol.dataset.GetType() == typeVolume {
		local["fsType"] = fsType
	}
	for _, source := range sources {
		unstructured.RemoveNestedField(pv.Object, "spec", source)
	}
	// Options of NFS would keep kubelet from mounting it.
	unstructured.RemoveNestedField(pv.Object, "spec", "mountOptions")
	unstructured.RemoveNestedField(pv.Object, "spec", "nodeAffinity")
	// No driver would take its finalizer away again.
	pv.SetFinalizers(nil)
	annotations := pv.GetAnnotations()
	for _, name := range []string{ProvisionedBy, provisionerDataset, provisionerHost} {
		delete(annotations, name)
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	pv.SetAnnotations(annotations)
	if err := unstructured.SetNestedField(pv.Object, local, "spec", "local"); err != nil {
		return err
	}
	if err := setStrings(pv, []string{"spec"}, map[string]string{"persistentVolumeReclaimPolicy": string(corev1api.PersistentVolumeReclaimRetain)}); err != nil {
		return err
	}
	return pin(pv, vol.Node, corev1api.LabelHostname)
}
