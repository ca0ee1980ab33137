package zfssnap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// ClaimRecord is what a snapshot keeps of the claim that its volume is bound to,
// and of the PersistentVolume: enough to make both again when neither cluster nor
// object storage is left. There is nothing secret in it; credentials are named.
type ClaimRecord struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	Volume    string `json:"volume"` // the PersistentVolume
	Dataset   string `json:"dataset"`
	// Annotations of the PersistentVolume are those that its driver goes by.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Spec is the PersistentVolume's, without claim and node: class, capacity,
	// access modes, mode, reclaim policy, mount options, and the driver with its
	// attributes and type of filesystem.
	Spec corev1api.PersistentVolumeSpec `json:"spec"`
}

// keptAnnotations are those of a PersistentVolume that its driver goes by.
var keptAnnotations = []string{
	ProvisionedBy, provisionerDataset, provisionerHost,
	"volume.kubernetes.io/provisioner-deletion-secret-name", "volume.kubernetes.io/provisioner-deletion-secret-namespace",
}

// RecordClaim returns the record of a volume's PersistentVolume as a snapshot keeps
// it; "" for one that no claim is bound to, and for one that no property has room
// for.
func RecordClaim(obj runtime.Unstructured, vol VolumeID) string {
	pv, err := toPV(obj)
	if err != nil || pv.Spec.ClaimRef == nil {
		return ""
	}
	r := ClaimRecord{Namespace: pv.Spec.ClaimRef.Namespace, Claim: pv.Spec.ClaimRef.Name, Volume: pv.Name, Dataset: vol.Dataset, Spec: pv.Spec}
	r.Spec.ClaimRef, r.Spec.NodeAffinity = nil, nil
	r.Annotations = maps.Clone(pv.Annotations)
	maps.DeleteFunc(r.Annotations, func(name, _ string) bool { return !slices.Contains(keptAnnotations, name) })
	text, err := json.Marshal(r)
	if err != nil || zfs.ValidateValue(string(text)) != nil {
		return ""
	}
	return string(text)
}

// ErrNoClaim is returned for a snapshot that does not say whose claim it is of: it
// was taken by an older version, or not for a backup.
var ErrNoClaim = errors.New("its snapshots do not say which claim it belongs to")

// ParseClaim finds the record of a volume in the properties of a snapshot of it.
// dataset is where the snapshot was taken, "" where nobody knows; then a record
// is taken that is the only one.
func ParseClaim(properties map[string]string, dataset string) (*ClaimRecord, error) {
	text := properties[names.ClaimProperty(dataset)]
	if dataset == "" {
		var all []string
		for name, value := range properties {
			if strings.HasPrefix(name, PropClaimPrefix) {
				all = append(all, value)
			}
		}
		if len(all) == 1 {
			text = all[0]
		}
	}
	if text == "" {
		return nil, ErrNoClaim
	}
	r := &ClaimRecord{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, fmt.Errorf("read the record of the claim: %w", err)
	}
	if r.Namespace == "" || r.Claim == "" || r.Volume == "" {
		return nil, fmt.Errorf("read the record of the claim: %q names no claim or volume", text)
	}
	return r, nil
}

// PersistentVolume returns the volume as it was, for SetVolume.
func (r *ClaimRecord) PersistentVolume() (*unstructured.Unstructured, error) {
	pv := &corev1api.PersistentVolume{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
		ObjectMeta: metav1.ObjectMeta{Name: r.Volume, Annotations: r.Annotations},
		Spec:       r.Spec,
	}
	return toUnstructured(pv)
}

// PersistentVolumeClaim returns the claim as far as the volume tells.
func (r *ClaimRecord) PersistentVolumeClaim() (*unstructured.Unstructured, error) {
	claim := &corev1api.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Claim},
		Spec: corev1api.PersistentVolumeClaimSpec{
			AccessModes: r.Spec.AccessModes, StorageClassName: &r.Spec.StorageClassName, VolumeMode: r.Spec.VolumeMode,
			Resources: corev1api.VolumeResourceRequirements{Requests: corev1api.ResourceList{
				corev1api.ResourceStorage: r.Spec.Capacity[corev1api.ResourceStorage],
			}},
		},
	}
	return toUnstructured(claim)
}

// VolumeType is what MakeVolume needs to know of the source: a volume that a path
// leads to gets one again.
func (r *ClaimRecord) VolumeType() string {
	var dir string
	switch s := r.Spec; {
	case s.Local != nil:
		dir = s.Local.Path
	case s.HostPath != nil:
		dir = s.HostPath.Path
	case s.NFS != nil:
		dir = s.NFS.Path
	}
	if dir == "" || strings.HasPrefix(dir, zvolDir) {
		return ""
	}
	return volumeType{Kind: typeFilesystem, Native: map[string]string{propMountpoint: dir}}.String()
}

func toUnstructured(obj any) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	return u, nil
}
