package rewrite

import (
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// ApplyTo applies a profile, if there is one, to an object that it must not drop.
func ApplyTo(p *rules.Profile, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if p == nil {
		return obj, nil
	}
	result, err := p.Apply(obj)
	if err != nil {
		return nil, err
	}
	if result.Drop {
		return nil, fmt.Errorf("profile %s drops %s", p.Name, Name(obj))
	}
	return result.Object, nil
}

// given are the annotations that Kubernetes keeps on claims and volumes that are bound.
var given = []string{"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/selected-node",
	"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner", "kubectl.kubernetes.io/last-applied-configuration"}

// WithoutGiven removes what Kubernetes put on a claim or volume when it was bound.
func WithoutGiven(obj *unstructured.Unstructured) {
	annotations := maps.Clone(obj.GetAnnotations())
	for _, name := range given {
		delete(annotations, name)
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	obj.SetAnnotations(annotations)
}

// Unbound returns a claim as it was, to be bound anew.
func Unbound(claim *unstructured.Unstructured) *unstructured.Unstructured {
	claim = Restored(claim)
	claim.SetFinalizers(nil)
	WithoutGiven(claim)
	Unbind(claim)
	return claim
}

// Unbind removes what a claim is bound to and made of.
func Unbind(claim *unstructured.Unstructured) {
	for _, field := range []string{"volumeName", "dataSource", "dataSourceRef"} {
		unstructured.RemoveNestedField(claim.Object, "spec", field)
	}
}

// VolumeFor returns the PersistentVolume to create for a claim, under a profile. Its
// class is the claim's, or they would not be bound.
func VolumeFor(claim, made *unstructured.Unstructured, p *rules.Profile) (*unstructured.Unstructured, error) {
	pv, err := ApplyTo(p, made)
	if err != nil {
		return nil, err
	}
	pv = Restored(pv)
	WithoutGiven(pv)
	class, _, _ := unstructured.NestedString(claim.Object, "spec", "storageClassName")
	if err := unstructured.SetNestedField(pv.Object, class, "spec", "storageClassName"); err != nil {
		return nil, err
	}
	return pv, unstructured.SetNestedMap(pv.Object, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.GetNamespace(), "name": claim.GetName(),
	}, "spec", "claimRef")
}
