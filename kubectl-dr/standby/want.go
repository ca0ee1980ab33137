package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/compare"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// left are the groups and kinds that activation restores: the volumes and what
// Velero keeps about them.
func left(gk schema.GroupKind) bool {
	switch gk.Group {
	case velerov1api.SchemeGroupVersion.Group, zfssnap.Domain, "snapshot.storage.k8s.io":
		return true
	}
	return gk.Group == "" && (gk.Kind == "PersistentVolumeClaim" || gk.Kind == "PersistentVolume")
}

// VolumeResources are what a Velero restore has to include to restore the volumes
// that a standby leaves to it.
var VolumeResources = []string{
	"persistentvolumes", "persistentvolumeclaims",
	"volumesnapshots.snapshot.storage.k8s.io", "volumesnapshotcontents.snapshot.storage.k8s.io", "volumesnapshotclasses.snapshot.storage.k8s.io",
	"datauploads.velero.io",
}

// The kinds that are of more than their own names.
var (
	crds            = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	namespaces      = schema.GroupKind{Kind: "Namespace"}
	serviceAccounts = schema.GroupKind{Kind: "ServiceAccount"}
	clusterRoles    = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}
	clusterBindings = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}
)

// order is how kinds are made, as Velero restores them: what others need comes
// first. Kinds that are not named come last, for their definitions may be new.
var order = []schema.GroupKind{
	crds, namespaces, clusterRoles, {Group: "rbac.authorization.k8s.io", Kind: "Role"}, serviceAccounts, clusterBindings,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}, {Kind: "Secret"}, {Kind: "ConfigMap"}, {Kind: "LimitRange"}, {Kind: "Pod"},
	{Group: "apps", Kind: "ReplicaSet"}, {Kind: "Service"},
}

func rank(gk schema.GroupKind) int {
	if i := slices.Index(order, gk); i >= 0 {
		return i
	}
	return len(order)
}

// Objects reads those of a backup.
func Objects(ctx context.Context, files cluster.Files, backup string) ([]*unstructured.Unstructured, error) {
	in := &rewrite.Input{}
	err := in.Download(ctx, files, backup)
	return in.Objects, err
}

// wanted returns what a standby has of a backup's objects, in the order in which it
// is made.
func (s *Standby) wanted(objects []*unstructured.Unstructured, p *rules.Profile) ([]*unstructured.Unstructured, error) {
	var own []*unstructured.Unstructured
	for _, obj := range objects {
		gk := obj.GroupVersionKind().GroupKind()
		if obj.GetNamespace() != "" && slices.Contains(s.Namespaces, obj.GetNamespace()) && !left(gk) && !compare.OwnAffair(obj) ||
			gk == namespaces && slices.Contains(s.Namespaces, obj.GetName()) {
			own = append(own, obj)
		}
	}
	own = append(own, s.around(objects, own)...)
	if p != nil {
		rewritten, err := rewrite.Apply(p, own)
		if err != nil {
			return nil, err
		}
		own = rewritten.After()
	}
	seen := map[key]bool{}
	var want []*unstructured.Unstructured
	for _, obj := range own {
		if seen[keyOf(obj)] {
			continue
		}
		seen[keyOf(obj)] = true
		made, err := s.made(obj)
		if err != nil {
			return nil, err
		}
		want = append(want, made)
	}
	slices.SortStableFunc(want, func(a, b *unstructured.Unstructured) int { return keyOf(a).compare(keyOf(b)) })
	return want, nil
}

// around returns the objects without a namespace that others need: the definitions
// of their kinds, and what their ServiceAccounts may do.
func (s *Standby) around(objects, own []*unstructured.Unstructured) []*unstructured.Unstructured {
	kinds, roles := map[schema.GroupKind]bool{}, map[string]bool{}
	for _, obj := range own {
		kinds[obj.GroupVersionKind().GroupKind()] = true
		if obj.GetKind() == "RoleBinding" {
			if kind, _, _ := unstructured.NestedString(obj.Object, "roleRef", "kind"); kind == clusterRoles.Kind {
				name, _, _ := unstructured.NestedString(obj.Object, "roleRef", "name")
				roles[name] = true
			}
		}
	}
	var found []*unstructured.Unstructured
	for _, obj := range objects {
		switch obj.GroupVersionKind().GroupKind() {
		case crds:
			group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "kind")
			if kinds[schema.GroupKind{Group: group, Kind: kind}] {
				found = append(found, obj)
			}
		case clusterBindings:
			if s.binds(obj) {
				name, _, _ := unstructured.NestedString(obj.Object, "roleRef", "name")
				roles[name] = true
				found = append(found, obj)
			}
		}
	}
	for _, obj := range objects {
		if obj.GroupVersionKind().GroupKind() == clusterRoles && roles[obj.GetName()] && !compare.OwnAffair(obj) {
			found = append(found, obj)
		}
	}
	return found
}

// binds reports whether a ClusterRoleBinding is for a ServiceAccount of the plan's
// namespaces.
func (s *Standby) binds(obj *unstructured.Unstructured) bool {
	if compare.OwnAffair(obj) {
		return false
	}
	subjects, _, _ := unstructured.NestedSlice(obj.Object, "subjects")
	return slices.ContainsFunc(subjects, func(subject any) bool {
		m, _ := subject.(map[string]any)
		ns, _ := m["namespace"].(string)
		return m["kind"] == serviceAccounts.Kind && slices.Contains(s.Namespaces, ns)
	})
}

// made returns an object as a standby has it.
func (s *Standby) made(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out := compare.Wanted(obj)
	switch gk := obj.GroupVersionKind().GroupKind(); {
	case gk == schema.GroupKind{Kind: "Service"}:
		if ip, _, _ := unstructured.NestedString(obj.Object, "spec", "clusterIP"); ip == "None" {
			set(out, ip, "spec", "clusterIP")
		}
	case gk == serviceAccounts:
		keepPullSecrets(obj, out)
	case gk == schema.GroupKind{Group: "batch", Kind: "Job"}:
		keepJobLabels(obj, out)
	case gk == schema.GroupKind{Kind: "Pod"}:
		unplace(out)
	case gk == crds:
		// Its server's conversion is told by whoever runs one here.
		unstructured.RemoveNestedField(out.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	}
	if s.Hold {
		held, err := rules.Standby(out)
		switch {
		case err == nil:
			out = held
		case !errors.Is(err, rules.ErrNoStandby):
			return nil, err
		}
	}
	labels := out.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[zfssnap.LabelStandby] = s.Plan
	out.SetLabels(labels)
	return out, nil
}

// set writes a field of an object that has the maps above it.
func set(obj *unstructured.Unstructured, value any, at ...string) {
	if err := unstructured.SetNestedField(obj.Object, value, at...); err != nil {
		panic(fmt.Sprintf("%s of %s: %s", strings.Join(at, "."), rewrite.Name(obj), err)) // it was read there
	}
}

// keepPullSecrets keeps those that people gave a ServiceAccount, not those that
// OpenShift makes.
func keepPullSecrets(from, to *unstructured.Unstructured) {
	all, _, _ := unstructured.NestedSlice(from.Object, "imagePullSecrets")
	kept := slices.DeleteFunc(all, func(secret any) bool {
		m, _ := secret.(map[string]any)
		name, _ := m["name"].(string)
		return strings.HasPrefix(name, from.GetName()+"-dockercfg-")
	})
	if len(kept) > 0 {
		to.Object["imagePullSecrets"] = kept
	}
}

// jobLabels are those with which a Job finds its own pods.
var jobLabels = []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"}

func keepJobLabels(from, to *unstructured.Unstructured) {
	labels, _, _ := unstructured.NestedStringMap(from.Object, "spec", "template", "metadata", "labels")
	kept := map[string]any{}
	for name, value := range labels {
		if !slices.Contains(jobLabels, name) {
			kept[name] = value
		}
	}
	if len(kept) > 0 {
		set(to, kept, "spec", "template", "metadata", "labels")
	}
}

// unplace takes out of a Pod what its cluster put into it.
func unplace(pod *unstructured.Unstructured) {
	for _, field := range []string{"nodeName", "priority", "preemptionPolicy"} {
		unstructured.RemoveNestedField(pod.Object, "spec", field)
	}
	token := func(item any) bool {
		m, _ := item.(map[string]any)
		name, _ := m["name"].(string)
		return strings.HasPrefix(name, "kube-api-access-")
	}
	without := func(holder map[string]any, field string) {
		if items, ok := holder[field].([]any); ok {
			holder[field] = slices.DeleteFunc(items, token)
		}
	}
	spec, _ := pod.Object["spec"].(map[string]any)
	without(spec, "volumes")
	for _, field := range []string{"containers", "initContainers"} {
		containers, _ := spec[field].([]any)
		for _, c := range containers {
			if container, ok := c.(map[string]any); ok {
				without(container, "volumeMounts")
			}
		}
	}
}
