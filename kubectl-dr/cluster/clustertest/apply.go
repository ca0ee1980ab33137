// Package clustertest gives the in-memory client of tests what it lacks: server-side
// apply, by the code that an API server merges with.
package clustertest

import (
	"context"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Apply does what a server does for client.Apply, and reports whether the patch was
// one. Lists are taken as a whole, for there is no schema. Objects that it makes get
// the UID "<kind>/<namespace>/<name>".
func Apply(ctx context.Context, c client.Client, obj client.Object, patch client.Patch, opts ...client.PatchOption) (bool, error) {
	if patch.Type() != types.ApplyPatchType {
		return false, nil
	}
	options := client.PatchOptions{}
	options.ApplyOptions(opts)
	raw, err := patch.Data(obj)
	if err != nil {
		return true, err
	}
	applied := &unstructured.Unstructured{}
	if err := applied.UnmarshalJSON(raw); err != nil {
		return true, err
	}
	gvk := applied.GroupVersionKind()
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(gvk)
	err = c.Get(ctx, client.ObjectKeyFromObject(applied), live)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return true, err
	}
	manager, err := managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), unconverted{}, undefaulted{}, empty{}, gvk, gvk.GroupVersion(), "", nil)
	if err != nil {
		return true, err
	}
	before := live.DeepCopy()
	merged, err := manager.Apply(live, applied, options.FieldManager, ptr.Deref(options.Force, false))
	if err != nil {
		return true, err
	}
	after := &unstructured.Unstructured{Object: merged.(*unstructured.Unstructured).Object}
	result, _ := obj.(*unstructured.Unstructured)
	switch {
	case len(options.DryRun) > 0:
	case missing:
		after.SetUID(types.UID(gvk.Kind + "/" + after.GetNamespace() + "/" + after.GetName()))
		err = c.Create(ctx, after)
	case !same(before, after):
		err = c.Update(ctx, after)
	}
	if result != nil {
		result.Object = after.Object
	}
	return true, err
}

// same compares without the times of managed fields.
func same(a, b *unstructured.Unstructured) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	a.SetManagedFields(nil)
	b.SetManagedFields(nil)
	return reflect.DeepEqual(a.Object, b.Object)
}

type unconverted struct{}

func (unconverted) Convert(in, out, _ any) error {
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(in).Elem())
	return nil
}

func (unconverted) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}

func (unconverted) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

type undefaulted struct{}

func (undefaulted) Default(runtime.Object) {}

type empty struct{}

func (empty) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(gvk)
	return obj, nil
}
