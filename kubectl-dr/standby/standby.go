// Package standby keeps the objects of an application at the recovery site as its
// newest backup has them, with nothing running: a warm standby. It touches nothing
// but what carries the plan's name in a label, and what it was told to take over.
package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/compare"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// FieldManager owns, in server-side apply, the fields of a standby's objects. Like
// cluster.FieldManager it does not begin with kubectl.
const FieldManager = "standby.kubectl-dr.io"

// settle bounds waiting for what a cluster does by itself: serving a new kind, or
// deleting an object that has finalizers.
const settle = 30 * time.Second

// Standby is the warm standby of one plan.
type Standby struct {
	Client client.Client
	// Namespace is Velero's, where the record is kept.
	Namespace string
	Plan      string
	// Namespaces are the plan's.
	Namespaces []string
	// Interval is how often something that is waited for is looked at.
	Interval time.Duration
	// DryRun changes nothing, Prune deletes what the backup does not have any more,
	// and Adopt takes over objects that somebody else made.
	DryRun, Prune bool
	Adopt         []Name
	// Hold puts every workload on standby, whatever the profile says and whoever has
	// started it.
	Hold bool
}

// Name is an object that is asked for by name.
type Name struct{ Kind, Namespace, Name string }

// String is as ParseName reads it.
func (n Name) String() string {
	return strings.TrimPrefix(n.Namespace+"/"+n.Kind+"/"+n.Name, "/")
}

// ParseName reads "<kind>/<name>" or "<namespace>/<kind>/<name>". The namespace may
// be left out when the plan has one, and of objects that are in none. The kind may
// have its group, as deployment.apps.
func ParseName(s string) (Name, error) {
	parts := strings.Split(s, "/")
	if slices.Contains(parts, "") || len(parts) < 2 || len(parts) > 3 {
		return Name{}, fmt.Errorf("%q names no object: want <kind>/<name> or <namespace>/<kind>/<name>", s)
	}
	n := Name{Kind: strings.ToLower(parts[len(parts)-2]), Name: parts[len(parts)-1]}
	if len(parts) == 3 {
		n.Namespace = parts[0]
	}
	return n, nil
}

// names reports whether it stands for an object.
func (n Name) names(k key) bool {
	kind := strings.ToLower(k.Kind)
	return n.Name == k.name && (n.Kind == kind || n.Kind == kind+"."+k.Group) && (n.Namespace == "" || n.Namespace == k.namespace)
}

// key is an object's identity, whatever version it was read in.
type key struct {
	schema.GroupKind
	namespace, name string
}

func keyOf(obj *unstructured.Unstructured) key {
	return key{obj.GroupVersionKind().GroupKind(), obj.GetNamespace(), obj.GetName()}
}

// compare orders objects as they are made.
func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(rank(k.GroupKind), rank(o.GroupKind)), cmp.Compare(k.namespace, o.namespace),
		cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Group, o.Group), cmp.Compare(k.name, o.name))
}

func (k key) difference(how report.Difference, fields []string) report.ObjectDifference {
	return report.ObjectDifference{Kind: k.Kind, Group: k.Group, Namespace: k.namespace, Name: k.name, Difference: how, Fields: fields}
}

// Sync makes the standby what a profile makes of a backup's objects, and says how it
// differed. What becomes of one object does not keep the others from it: the report
// says so, and its state is problem. A second Sync changes nothing.
func (s *Standby) Sync(ctx context.Context, objects []*unstructured.Unstructured, p *rules.Profile) (*report.Sync, error) {
	want, err := s.wanted(objects, p)
	if err != nil {
		return nil, err
	}
	record, err := s.Record(ctx)
	if err != nil {
		return nil, err
	}
	kinds := record.kinds()
	for _, obj := range want {
		if gk := obj.GroupVersionKind().GroupKind(); !slices.Contains(kinds, gk) {
			kinds = append(kinds, gk)
		}
	}
	if !s.DryRun {
		// Before the first object of a kind is made: it is found again by this alone.
		if err := s.remember(ctx, kinds); err != nil {
			return nil, err
		}
	}
	r := &report.Sync{TypeMeta: report.TypeMeta("SyncReport"), ObjectMeta: metav1.ObjectMeta{Name: s.Plan}, DryRun: s.DryRun, State: report.OK, Wanted: len(want)}
	wanted := map[key]bool{}
	defined := map[schema.GroupKind]bool{}
	for _, obj := range want {
		wanted[keyOf(obj)] = true
		done, err := s.one(ctx, obj, defined)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			done = &report.SyncObject{ObjectDifference: keyOf(obj).difference(report.Missing, nil), Message: err.Error()}
		}
		if done != nil {
			r.Add(*done)
		}
	}
	return r, s.surplus(ctx, kinds, wanted, r)
}

// one makes one object what is wanted, and says how it differed; nil when it did not.
// defined are the kinds whose definitions were made in this run.
func (s *Standby) one(ctx context.Context, want *unstructured.Unstructured, defined map[schema.GroupKind]bool) (*report.SyncObject, error) {
	k := keyOf(want)
	if err := s.served(ctx, want.GroupVersionKind(), defined); err != nil {
		return nil, err
	}
	have := &unstructured.Unstructured{}
	have.SetGroupVersionKind(want.GroupVersionKind())
	err := s.Client.Get(ctx, client.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		done := &report.SyncObject{ObjectDifference: k.difference(report.Missing, nil)}
		if s.DryRun {
			return done, nil
		}
		if _, err := s.apply(ctx, want); err != nil {
			return nil, fmt.Errorf("create: %w", err)
		}
		if k.GroupKind == crds {
			group, _, _ := unstructured.NestedString(want.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(want.Object, "spec", "names", "kind")
			defined[schema.GroupKind{Group: group, Kind: kind}] = true
		}
		done.Done = "created"
		return done, nil
	case err != nil:
		return nil, err
	}
	if !s.ours(have) && !s.adopts(k) && !ofEach(k) {
		return s.foreign(want, have), nil
	}
	if started(want, have) && !s.Hold && !s.adopts(k) {
		return &report.SyncObject{ObjectDifference: k.difference(report.Conflict, nil), Message: "it was started, and is no standby any more"}, nil
	}
	return s.change(ctx, want, have)
}

// ours reports whether an object is part of the plan's standby.
func (s *Standby) ours(obj client.Object) bool {
	return obj.GetLabels()[zfssnap.LabelStandby] == s.Plan
}

func (s *Standby) adopts(k key) bool {
	return slices.ContainsFunc(s.Adopt, func(n Name) bool { return n.names(k) })
}

// ofEach reports whether every namespace gets an object by itself, which people then
// add to.
func ofEach(k key) bool { return k.GroupKind == serviceAccounts && k.name == "default" }

// foreign judges an object that somebody else made: it does no harm as long as it is
// what the standby would have. What is in no namespace is for the whole cluster, and
// its own affair.
func (s *Standby) foreign(want, have *unstructured.Unstructured) *report.SyncObject {
	k := keyOf(want)
	fields := compare.Differ(want, have)
	if len(fields) == 0 || k.namespace == "" {
		return nil
	}
	message := "somebody else made it; --adopt=" + Name{strings.ToLower(k.Kind), k.namespace, k.name}.String() + " takes it over"
	if other := have.GetLabels()[zfssnap.LabelStandby]; other != "" {
		message = fmt.Sprintf("it is of the standby of plan %q", other)
	}
	return &report.SyncObject{ObjectDifference: k.difference(report.Conflict, fields), Message: message}
}

// started reports whether a workload was put on standby and is active since.
func started(want, have *unstructured.Unstructured) bool {
	_, holds := want.GetAnnotations()[rules.AnnotationOriginalState]
	_, held := have.GetAnnotations()[rules.AnnotationOriginalState]
	return holds && !held
}

// change makes an object of the standby what is wanted.
func (s *Standby) change(ctx context.Context, want, have *unstructured.Unstructured) (*report.SyncObject, error) {
	k := keyOf(want)
	after, err := s.apply(ctx, want)
	if apierrors.IsInvalid(err) && k.GroupKind != crds && k.GroupKind != namespaces {
		return s.replace(ctx, want, have, err)
	}
	if err != nil {
		return &report.SyncObject{ObjectDifference: k.difference(report.Drifted, nil), Message: err.Error()}, nil
	}
	fields := compare.Changed(have, after)
	if len(fields) == 0 {
		return nil, nil
	}
	done := &report.SyncObject{ObjectDifference: k.difference(report.Drifted, fields)}
	if !s.DryRun {
		done.Done = "changed"
	}
	return done, nil
}

// apply has the server merge what is wanted, and returns what it made of it. In a
// dry run the server only says what it would make.
func (s *Standby) apply(ctx context.Context, want *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	obj := want.DeepCopy()
	opts := []client.PatchOption{client.FieldOwner(FieldManager), client.ForceOwnership}
	if s.DryRun {
		opts = append(opts, client.DryRunAll)
	}
	return obj, s.Client.Patch(ctx, obj, client.Apply, opts...)
}

// replace makes an object anew that can't be changed in place. It holds nothing: it
// is of a standby, and volumes are not part of that.
func (s *Standby) replace(ctx context.Context, want, have *unstructured.Unstructured, cause error) (*report.SyncObject, error) {
	done := &report.SyncObject{ObjectDifference: keyOf(want).difference(report.Drifted, compare.Differ(want, have))}
	if s.DryRun {
		done.Message = "would be made anew: " + cause.Error()
		return done, nil
	}
	if err := s.delete(ctx, have); err != nil {
		return nil, err
	}
	if _, err := s.apply(ctx, want); err != nil {
		return nil, fmt.Errorf("make anew: %w", err)
	}
	done.Done = "replaced"
	return done, nil
}

// delete deletes the object that was looked at, and waits until it is gone.
func (s *Standby) delete(ctx context.Context, obj *unstructured.Unstructured) error {
	err := s.Client.Delete(ctx, obj, client.Preconditions{UID: ptr.To(obj.GetUID())}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete: %w", err)
	}
	err = cluster.Poll(ctx, s.Interval, settle, func(ctx context.Context) (bool, error) {
		now := obj.DeepCopy()
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(obj), now)
		return apierrors.IsNotFound(err) || err == nil && now.GetUID() != obj.GetUID(), client.IgnoreNotFound(err)
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return fmt.Errorf("delete: it is still there after %s: %s", settle, strings.Join(obj.GetFinalizers(), ", "))
	}
	return err
}

// served returns why a kind is not served. One whose definition is new is waited for.
func (s *Standby) served(ctx context.Context, gvk schema.GroupVersionKind, defined map[schema.GroupKind]bool) error {
	look := func() error {
		_, err := s.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		return err
	}
	err := look()
	if !meta.IsNoMatchError(err) || !defined[gvk.GroupKind()] {
		return notServed(gvk, err)
	}
	polled := cluster.Poll(ctx, s.Interval, settle, func(context.Context) (bool, error) {
		err = look()
		return err == nil, nil
	})
	if errors.Is(polled, cluster.ErrTimedOut) {
		return notServed(gvk, err)
	}
	return polled
}

func notServed(gvk schema.GroupVersionKind, err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("%s of %s is not served here", gvk.Kind, gvk.GroupVersion())
	}
	return err
}

// surplus finds what is of the standby and not of the backup, and deletes it when
// that was asked for, in the reverse of the order in which it was made.
func (s *Standby) surplus(ctx context.Context, kinds []schema.GroupKind, wanted map[key]bool, r *report.Sync) error {
	all, err := s.find(ctx, kinds)
	if err != nil {
		return err
	}
	for _, obj := range all {
		k := keyOf(obj)
		if wanted[k] {
			continue
		}
		done := report.SyncObject{ObjectDifference: k.difference(report.Surplus, nil)}
		switch {
		case active(obj) && !s.Hold:
			done.Message = "it runs; delete it yourself"
		case s.Prune && !s.DryRun:
			done.Done = "deleted"
			if err := s.delete(ctx, obj); err != nil {
				done.Done, done.Message = "", err.Error()
			}
		}
		r.Add(done)
	}
	return nil
}

// active reports whether an object is a workload that is not held back.
func active(obj *unstructured.Unstructured) bool {
	_, err := rules.Standby(obj)
	return err == nil && !rules.OnStandby(obj)
}

// base are kinds that are looked for even when nobody remembers them. Whoever fails
// over may list them: a plan without a standby asks for no further permission.
var base = []schema.GroupKind{
	{Group: "apps", Kind: "Deployment"}, {Group: "apps", Kind: "StatefulSet"}, {Group: "apps", Kind: "DaemonSet"},
	{Group: "batch", Kind: "CronJob"}, {Kind: "Service"}, {Kind: "ConfigMap"}, {Kind: "Secret"},
}

// find returns the objects of the standby, those that were made last first. It leaves
// out namespaces and definitions of kinds, for others may be in them, and what every
// namespace has.
func (s *Standby) find(ctx context.Context, kinds []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	var found []*unstructured.Unstructured
	for _, gk := range kinds {
		if gk == crds || gk == namespaces {
			continue
		}
		mapping, err := s.Client.RESTMapper().RESTMapping(gk)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", gk, err)
		}
		where := []string{""}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			where = s.Namespaces
		}
		for _, ns := range where {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(gk.Kind + "List"))
			err := s.Client.List(ctx, list, client.InNamespace(ns), client.MatchingLabels{zfssnap.LabelStandby: s.Plan})
			if runtime.IsNotRegisteredError(err) || meta.IsNoMatchError(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", gk, err)
			}
			for i := range list.Items {
				obj := &list.Items[i]
				if metav1.GetControllerOf(obj) == nil && !ofEach(keyOf(obj)) {
					found = append(found, obj)
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b *unstructured.Unstructured) int { return keyOf(b).compare(keyOf(a)) })
	return found, nil
}

// Exists reports whether there is anything of the standby.
func (s *Standby) Exists(ctx context.Context) (bool, error) {
	found, err := s.all(ctx)
	return len(found) > 0, err
}

func (s *Standby) all(ctx context.Context) ([]*unstructured.Unstructured, error) {
	record, err := s.Record(ctx)
	if err != nil {
		return nil, err
	}
	kinds := record.kinds()
	for _, gk := range base {
		if !slices.Contains(kinds, gk) {
			kinds = append(kinds, gk)
		}
	}
	return s.find(ctx, kinds)
}

// Remove deletes the standby but for its namespaces and definitions of kinds, and
// returns how many objects it was.
func (s *Standby) Remove(ctx context.Context) (int, error) {
	found, err := s.all(ctx)
	if err != nil {
		return 0, err
	}
	for _, obj := range found {
		if err := s.delete(ctx, obj); err != nil {
			return 0, fmt.Errorf("%s %s: %w", strings.ToLower(obj.GetKind()), client.ObjectKeyFromObject(obj), err)
		}
	}
	return len(found), nil
}
