package rebuild

import (
	"cmp"
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/compare"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

// What becomes of an object.
const (
	ObjectRestore = "restore" // from the backup
	ObjectWait    = "wait"    // Git brings it
	ObjectLeave   = "leave"   // as it is
)

// identity is an object's, whatever version it was read in.
type identity struct {
	schema.GroupKind
	client.ObjectKey
}

func identityOf(obj *unstructured.Unstructured) identity {
	return identity{obj.GroupVersionKind().GroupKind(), client.ObjectKeyFromObject(obj)}
}

// sides is one object in the backup and in the cluster; either may be nil.
type sides struct{ backup, live *unstructured.Unstructured }

// Own says of every object of a backup and of the cluster who can bring it back.
// What each cluster makes by itself is left out, and so are volumes and claims.
func Own(owners *gitops.Owners, backup, live []*unstructured.Unstructured) []report.OwnedObject {
	all := map[identity]sides{}
	for _, obj := range backup {
		if concerns(obj) {
			all[identityOf(obj)] = sides{backup: obj}
		}
	}
	for _, obj := range live {
		if concerns(obj) {
			s := all[identityOf(obj)]
			s.live = obj
			all[identityOf(obj)] = s
		}
	}
	objects := make([]report.OwnedObject, 0, len(all))
	for id, s := range all {
		objects = append(objects, own(owners, id, s))
	}
	slices.SortFunc(objects, func(a, b report.OwnedObject) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
	})
	return objects
}

func own(owners *gitops.Owners, id identity, s sides) report.OwnedObject {
	o := report.OwnedObject{Kind: id.Kind, Group: id.Group, Namespace: id.Namespace, Name: id.Name, InCluster: s.live != nil, Action: ObjectLeave}
	for _, obj := range []*unstructured.Unstructured{s.live, s.backup} {
		if obj != nil && o.By == "" {
			o.By = owners.Of(obj)
		}
	}
	switch {
	case o.By != "" && s.backup != nil:
		o.Owner = report.OwnedByBoth
	case o.By != "":
		o.Owner = report.OwnedByGit
	case s.backup != nil:
		o.Owner = report.OwnedByBackup
	default:
		o.Owner = report.OwnedByNeither
	}
	switch {
	case s.live != nil && s.backup != nil:
		o.Fields = compare.Differ(s.backup, s.live)
	case s.live == nil && o.By != "":
		o.Action = ObjectWait
	case s.live == nil:
		o.Action = ObjectRestore
	}
	return o
}

// concerns reports whether an object is the application's.
func concerns(obj *unstructured.Unstructured) bool {
	switch obj.GetKind() {
	case "PersistentVolumeClaim":
		return false
	case "Job":
		if failover.Finished(obj) {
			return false // Velero does not restore it either
		}
	case "Pod":
		if phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase == "Succeeded" || phase == "Failed" {
			return false
		}
	case "ServiceAccount":
		if obj.GetName() == "default" {
			return false
		}
	}
	return !compare.OwnAffair(obj)
}

// AlsoLive returns those objects of the cluster without a namespace that a backup
// has too.
func AlsoLive(ctx context.Context, c client.Reader, backup []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	var live []*unstructured.Unstructured
	for _, obj := range backup {
		if obj.GetNamespace() != "" || !concerns(obj) {
			continue
		}
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(obj.GroupVersionKind())
		err := c.Get(ctx, client.ObjectKeyFromObject(obj), have)
		switch {
		case gitops.Missing(err):
		case err != nil:
			return nil, err
		default:
			live = append(live, have)
		}
	}
	return live, nil
}
