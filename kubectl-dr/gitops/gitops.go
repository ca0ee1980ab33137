// Package gitops keeps Argo CD and Flux from undoing what a recovery does, and
// lets them go on afterwards exactly as they were. What somebody else has paused
// stays so.
package gitops

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// paused marks what was paused, with who did it and what was before.
const paused = zfssnap.Domain + "/gitops-paused"

// mark is the value of paused.
type mark struct {
	By string `json:"by"`
	// Automated is Argo CD's spec.syncPolicy.automated as it was.
	Automated json.RawMessage `json:"automated,omitempty"`
	// Reconcile says that Flux's annotation of that name was added.
	Reconcile bool `json:"reconcile,omitempty"`
	// Suspend says that Flux's spec.suspend was there, and false.
	Suspend bool `json:"suspend,omitempty"`
}

// Groups and kinds.
const (
	argoGroup = "argoproj.io"
	kindApp   = "Application"
)

// reconcileDisabled is what Flux's kustomize-controller leaves an object alone for.
const (
	reconcile         = "kustomize.toolkit.fluxcd.io/reconcile"
	reconcileDisabled = "disabled"
)

// Object is what an engine reconciles from Git.
type Object struct {
	schema.GroupVersionKind
	client.ObjectKey
}

func (o Object) String() string { return o.Kind + " " + o.ObjectKey.String() }

func (o Object) get(ctx context.Context, c client.Reader) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(o.GroupVersionKind)
	if err := c.Get(ctx, o.ObjectKey, u); err != nil {
		return nil, fmt.Errorf("get %s: %w", o, err)
	}
	return u, nil
}

var fluxKinds = map[string]schema.GroupVersionKind{
	plan.FluxKustomization: {Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"},
	plan.FluxHelmRelease:   {Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmRelease"},
}

// Objects are those that a plan names.
func Objects(g *plan.GitOps) []Object {
	if g == nil {
		return nil
	}
	var all []Object
	for _, a := range g.ArgoCD {
		all = append(all, Object{application, client.ObjectKey{Namespace: cmp.Or(a.Namespace, "argocd"), Name: a.Application}})
	}
	for _, f := range g.Flux {
		all = append(all, Object{fluxKinds[f.Kind], client.ObjectKey{Namespace: cmp.Or(f.Namespace, "flux-system"), Name: f.Name}})
	}
	return all
}

// Missing reports whether an error says that an object, or its kind, is not in
// the cluster.
func Missing(err error) bool { return apierrors.IsNotFound(err) || meta.IsNoMatchError(err) }

// State of an object.
type State string

// The states.
const (
	Reconciling State = "reconciling"
	Paused      State = "paused"        // by us
	NotOurs     State = "paused before" // by somebody else, or never automatic
	Absent      State = "absent"
)

// Look returns an object's state, and who paused it.
func Look(ctx context.Context, c client.Reader, o Object) (State, string, error) {
	u, err := o.get(ctx, c)
	if Missing(err) {
		return Absent, "", nil
	}
	if err != nil {
		return "", "", err
	}
	if m, ok := marked(u); ok {
		return Paused, m.By, nil
	}
	if reconciles(u) {
		return Reconciling, "", nil
	}
	return NotOurs, "", nil
}

func marked(u *unstructured.Unstructured) (mark, bool) {
	text, ok := u.GetAnnotations()[paused]
	var m mark
	if !ok || json.Unmarshal([]byte(text), &m) != nil {
		return mark{}, false
	}
	return m, true
}

func reconciles(u *unstructured.Unstructured) bool {
	if u.GroupVersionKind().Group == argoGroup {
		automated, ok, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated")
		return ok && automated != nil && automated["enabled"] != false
	}
	suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
	return !suspended
}

// Pause pauses an object for a run, and reports whether it had to. Pausing
// again changes nothing. An error wraps a *RevertedError where the pause would
// not last.
func Pause(ctx context.Context, c client.Client, o Object, by string) (bool, error) {
	u, err := o.get(ctx, c)
	if err != nil {
		return false, err
	}
	if _, ok := marked(u); ok || !reconciles(u) {
		return false, nil
	}
	if o.Group == argoGroup {
		err = pauseArgo(ctx, c, u, by)
	} else {
		err = pauseFlux(ctx, c, u, by)
	}
	if err != nil {
		return false, fmt.Errorf("pause %s: %w", o, err)
	}
	return true, nil
}

// pauseArgo switches automatic sync off and leaves its settings. An Argo CD that
// does not know the switch (before 3.0) has the settings taken out instead.
func pauseArgo(ctx context.Context, c client.Client, u *unstructured.Unstructured, by string) error {
	if err := appSetReverts(ctx, c, u); err != nil {
		return err
	}
	automated, _, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated")
	was, err := json.Marshal(automated)
	if err != nil {
		return err
	}
	change := func(set func(*unstructured.Unstructured) error) error {
		before := u.DeepCopy()
		if err := errors.Join(setMark(u, mark{By: by, Automated: was}), set(u)); err != nil {
			return err
		}
		return c.Patch(ctx, u, client.MergeFrom(before))
	}
	err = change(func(u *unstructured.Unstructured) error {
		return unstructured.SetNestedField(u.Object, false, "spec", "syncPolicy", "automated", "enabled")
	})
	// A field that the kind does not have is dropped without a word.
	if err != nil || !reconciles(u) {
		return err
	}
	if parent := argoParent(u); parent != "" {
		return errors.Join(&RevertedError{By: "Application " + parent, Git: "remove spec.syncPolicy.automated from the Application in Git"}, unmark(ctx, c, u))
	}
	return change(func(u *unstructured.Unstructured) error {
		unstructured.RemoveNestedField(u.Object, "spec", "syncPolicy", "automated")
		return nil
	})
}

// argoParent is the Application that an Application is itself made by.
func argoParent(u *unstructured.Unstructured) string {
	id, _, _ := strings.Cut(u.GetAnnotations()[argoTracking], ":")
	return cmp.Or(id, u.GetLabels()[argoInstance])
}

// appSetReverts returns an error when the ApplicationSet that made an
// Application would undo the change at once.
func appSetReverts(ctx context.Context, c client.Reader, u *unstructured.Unstructured) error {
	for _, owner := range u.GetOwnerReferences() {
		if owner.Kind != "ApplicationSet" {
			continue
		}
		set := &unstructured.Unstructured{}
		set.SetGroupVersionKind(schema.GroupVersionKind{Group: argoGroup, Version: "v1alpha1", Kind: "ApplicationSet"})
		key := client.ObjectKey{Namespace: u.GetNamespace(), Name: owner.Name}
		if err := c.Get(ctx, key, set); err != nil {
			return fmt.Errorf("get ApplicationSet %s: %w", key, err)
		}
		policy, _, _ := unstructured.NestedString(set.Object, "spec", "syncPolicy", "applicationsSync")
		if policy == "create-only" || policy == "create-delete" || ignores(set, "/spec/syncPolicy") {
			continue
		}
		return &RevertedError{By: "ApplicationSet " + key.String(),
			Git: "add to its spec in Git: ignoreApplicationDifferences: [{jsonPointers: [/spec/syncPolicy]}]"}
	}
	return nil
}

// ignores reports whether an ApplicationSet leaves a field, or what it is in, as
// it finds it.
func ignores(set *unstructured.Unstructured, field string) bool {
	differences, _, _ := unstructured.NestedSlice(set.Object, "spec", "ignoreApplicationDifferences")
	return slices.ContainsFunc(differences, func(d any) bool {
		m, _ := d.(map[string]any)
		if name, _ := m["name"].(string); name != "" {
			return false // of one Application only
		}
		pointers, _, _ := unstructured.NestedStringSlice(m, "jsonPointers")
		return slices.ContainsFunc(pointers, func(p string) bool { return p == field || strings.HasPrefix(field, p+"/") })
	})
}

// RevertedError says that what made an object would undo its pause.
type RevertedError struct {
	By string
	// Git says what to change there.
	Git string
}

func (e *RevertedError) Error() string { return e.By + " would undo it" }

// Hint says what Git needs.
func (e *RevertedError) Hint() string { return e.Git + ", then run this again" }

// pauseFlux suspends an object. Where Git may say suspend: false itself, Flux is
// told to leave the object alone.
func pauseFlux(ctx context.Context, c client.Client, u *unstructured.Unstructured, by string) error {
	before := u.DeepCopy()
	_, written, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
	m := mark{By: by, Suspend: written}
	annotations := u.GetAnnotations()
	if written && annotations[reconcile] == "" && u.GetLabels()[fluxKustomize+"name"] != "" {
		m.Reconcile = true
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[reconcile] = reconcileDisabled
		u.SetAnnotations(annotations)
	}
	if err := errors.Join(setMark(u, m), unstructured.SetNestedField(u.Object, true, "spec", "suspend")); err != nil {
		return err
	}
	return c.Patch(ctx, u, client.MergeFrom(before))
}

func setMark(u *unstructured.Unstructured, m mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[paused] = string(text)
	u.SetAnnotations(annotations)
	return nil
}

func unmark(ctx context.Context, c client.Client, u *unstructured.Unstructured) error {
	before := u.DeepCopy()
	m, _ := marked(u)
	annotations := u.GetAnnotations()
	delete(annotations, paused)
	if m.Reconcile && annotations[reconcile] == reconcileDisabled {
		delete(annotations, reconcile)
	}
	u.SetAnnotations(annotations)
	switch {
	case m.Automated != nil:
		var was map[string]any
		if err := json.Unmarshal(m.Automated, &was); err != nil {
			return fmt.Errorf("read annotation %s: %w", paused, err)
		}
		if err := unstructured.SetNestedMap(u.Object, was, "spec", "syncPolicy", "automated"); err != nil {
			return err
		}
	case m.Suspend:
		if err := unstructured.SetNestedField(u.Object, false, "spec", "suspend"); err != nil {
			return err
		}
	default:
		unstructured.RemoveNestedField(u.Object, "spec", "suspend")
	}
	return c.Patch(ctx, u, client.MergeFrom(before))
}

// Resume lets an object that we paused reconcile as before, and reports whether
// it had to. One that somebody else paused stays so. by, unless it is empty, is
// the only run whose pause is ended.
func Resume(ctx context.Context, c client.Client, o Object, by string) (bool, error) {
	u, err := o.get(ctx, c)
	if Missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m, ok := marked(u)
	if !ok || by != "" && m.By != by {
		return false, nil
	}
	if err := unmark(ctx, c, u); err != nil {
		return false, fmt.Errorf("resume %s: %w", o, err)
	}
	return true, nil
}

// InOrder returns objects so that each comes after those it depends on, as
// Flux's spec.dependsOn says; that is the order to resume them in. Those that are
// not there are left out.
func InOrder(ctx context.Context, c client.Reader, objects []Object) ([]Object, error) {
	needs := map[Object][]Object{}
	var there []Object
	for _, o := range objects {
		u, err := o.get(ctx, c)
		if Missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		there = append(there, o)
		dependencies, _, _ := unstructured.NestedSlice(u.Object, "spec", "dependsOn")
		for _, d := range dependencies {
			m, _ := d.(map[string]any)
			name, _ := m["name"].(string)
			namespace, _ := m["namespace"].(string)
			needs[o] = append(needs[o], Object{o.GroupVersionKind, client.ObjectKey{Namespace: cmp.Or(namespace, o.Namespace), Name: name}})
		}
	}
	var ordered []Object
	seen := map[Object]bool{}
	var visit func(Object)
	visit = func(o Object) {
		if seen[o] || !slices.Contains(there, o) {
			return
		}
		seen[o] = true
		for _, n := range needs[o] {
			visit(n)
		}
		ordered = append(ordered, o)
	}
	for _, o := range there {
		visit(o)
	}
	return ordered, nil
}
