package gitops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// application is the kind of Argo CD.
var application = schema.GroupVersionKind{Group: argoGroup, Version: "v1alpha1", Kind: kindApp}

// Labels and annotations by which an engine knows what is its own.
const (
	argoTracking  = "argocd.argoproj.io/tracking-id"
	argoInstance  = "argocd.argoproj.io/instance"
	appInstance   = "app.kubernetes.io/instance"
	fluxKustomize = "kustomize.toolkit.fluxcd.io/"
	fluxHelm      = "helm.toolkit.fluxcd.io/"
	helmManaged   = "app.kubernetes.io/managed-by"
	helmName      = "meta.helm.sh/release-name"
	helmNamespace = "meta.helm.sh/release-namespace"
	helmSecret    = "helm.sh/release.v1" // the type of Helm's own Secrets
)

// Find returns what a cluster reconciles into namespaces: Applications,
// Kustomizations and HelmReleases that say so, and those that the objects of a backup
// name, for a fresh one has not listed yet what it will make. An engine that is not
// installed has none.
func Find(ctx context.Context, c client.Reader, namespaces []string, backup []*unstructured.Unstructured) ([]Object, error) {
	recorded := map[string]bool{}
	nobody := &Owners{}
	for _, obj := range backup {
		if obj.GetNamespace() != "" {
			recorded[nobody.Of(obj)] = true
		}
	}
	var all []Object
	for _, gvk := range []schema.GroupVersionKind{application, fluxKinds[plan.FluxKustomization], fluxKinds[plan.FluxHelmRelease]} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := c.List(ctx, list); err != nil {
			if Missing(err) {
				continue
			}
			return nil, fmt.Errorf("list %ss: %w", gvk.Kind, err)
		}
		for i := range list.Items {
			u := &list.Items[i]
			o := Object{gvk, client.ObjectKeyFromObject(u)}
			// Argo CD's tracking does not tell the Application's namespace.
			if recorded[o.String()] || o.Kind == kindApp && recorded[kindApp+" "+o.Name] ||
				slices.ContainsFunc(into(u), func(ns string) bool { return slices.Contains(namespaces, ns) }) {
				all = append(all, o)
			}
		}
	}
	slices.SortFunc(all, func(a, b Object) int { return strings.Compare(a.String(), b.String()) })
	return all, nil
}

// into returns the namespaces that an object puts things into, as far as it says.
func into(u *unstructured.Unstructured) []string {
	var found []string
	for _, at := range [][]string{{"spec", "destination", "namespace"}, {"spec", "targetNamespace"}} {
		if ns, _, _ := unstructured.NestedString(u.Object, at...); ns != "" {
			found = append(found, ns)
		}
	}
	if u.GetKind() == plan.FluxHelmRelease && len(found) == 0 {
		found = append(found, u.GetNamespace())
	}
	for _, r := range inventory(u) {
		found = append(found, r.Namespace)
	}
	return found
}

// Plan returns objects as a plan names them.
func Plan(objects []Object) *plan.GitOps {
	if len(objects) == 0 {
		return nil
	}
	g := &plan.GitOps{}
	for _, o := range objects {
		if o.Kind == kindApp {
			g.ArgoCD = append(g.ArgoCD, plan.ArgoApplication{Application: o.Name, Namespace: o.Namespace})
			continue
		}
		g.Flux = append(g.Flux, plan.FluxObject{Kind: o.Kind, Name: o.Name, Namespace: o.Namespace})
	}
	return g
}

// ref names an object, whatever its version.
type ref struct {
	schema.GroupKind
	client.ObjectKey
}

func refOf(u *unstructured.Unstructured) ref {
	return ref{u.GroupVersionKind().GroupKind(), client.ObjectKeyFromObject(u)}
}

// inventory is what an object says that it has made.
func inventory(u *unstructured.Unstructured) []ref {
	var all []ref
	resources, _, _ := unstructured.NestedSlice(u.Object, "status", "resources")
	for _, r := range resources {
		m, _ := r.(map[string]any)
		text := func(field string) string { s, _ := m[field].(string); return s }
		all = append(all, ref{schema.GroupKind{Group: text("group"), Kind: text("kind")}, client.ObjectKey{Namespace: text("namespace"), Name: text("name")}})
	}
	entries, _, _ := unstructured.NestedSlice(u.Object, "status", "inventory", "entries")
	for _, e := range entries {
		m, _ := e.(map[string]any)
		id, _ := m["id"].(string)
		if r, ok := parseEntry(id); ok {
			all = append(all, r)
		}
	}
	return all
}

// parseEntry reads an entry of Flux's inventory, "<namespace>_<name>_<group>_<kind>",
// in which a colon of a name is two underscores (object.ObjMetadata of
// cli-utils).
func parseEntry(id string) (ref, bool) {
	namespace, rest, ok := strings.Cut(id, "_")
	kind := strings.LastIndex(rest, "_")
	if !ok || kind < 0 {
		return ref{}, false
	}
	group := strings.LastIndex(rest[:kind], "_")
	if group < 0 {
		return ref{}, false
	}
	name := strings.ReplaceAll(rest[:group], "__", ":")
	return ref{schema.GroupKind{Group: rest[group+1 : kind], Kind: rest[kind+1:]}, client.ObjectKey{Namespace: namespace, Name: name}}, true
}

// Owners tells which objects come from Git.
type Owners struct {
	made map[ref]string
	// applications by name, and releases of Helm by namespace/name, that Git is
	// known to have.
	applications map[string]bool
	releases     map[string]bool
}

// NewOwners learns from what reconciles in a cluster, from what a plan names, and
// from the objects of a backup: a fresh cluster may not have what reconciles yet.
func NewOwners(ctx context.Context, c client.Reader, known []Object, backup []*unstructured.Unstructured) (*Owners, error) {
	o := &Owners{made: map[ref]string{}, applications: map[string]bool{}, releases: map[string]bool{}}
	for _, k := range known {
		o.add(k.Kind, k.Namespace, k.Name)
		u, err := k.get(ctx, c)
		if Missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		o.learn(u, k)
	}
	for _, u := range backup {
		if gvk := u.GroupVersionKind(); gvk.Group == argoGroup && gvk.Kind == kindApp || gvk.Kind == plan.FluxHelmRelease && gvk.Group+"/" == fluxHelm {
			o.add(gvk.Kind, u.GetNamespace(), u.GetName())
			o.learn(u, Object{gvk, client.ObjectKeyFromObject(u)})
		}
	}
	return o, nil
}

func (o *Owners) add(kind, namespace, name string) {
	switch kind {
	case kindApp:
		o.applications[name] = true
	case plan.FluxHelmRelease:
		o.releases[namespace+"/"+name] = true
	}
}

func (o *Owners) learn(u *unstructured.Unstructured, by Object) {
	for _, r := range inventory(u) {
		o.made[r] = by.String()
	}
	if by.Kind == plan.FluxHelmRelease {
		name, _, _ := unstructured.NestedString(u.Object, "spec", "releaseName")
		target, _, _ := unstructured.NestedString(u.Object, "spec", "targetNamespace")
		storage, _, _ := unstructured.NestedString(u.Object, "spec", "storageNamespace")
		if name == "" {
			name = by.Name
			if target != "" {
				name = target + "-" + by.Name // as helm-controller names it
			}
		}
		o.releases[cmp.Or(target, by.Namespace)+"/"+name] = true
		o.releases[cmp.Or(storage, by.Namespace)+"/"+name] = true
	}
}

// Of says by what an object comes from Git, "" when nothing says that it does.
func (o *Owners) Of(u *unstructured.Unstructured) string {
	if by, ok := o.made[refOf(u)]; ok {
		return by
	}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if by := tracked(u, annotations[argoTracking]); by != "" {
		return by
	}
	for _, flux := range []struct{ prefix, kind string }{{fluxKustomize, plan.FluxKustomization}, {fluxHelm, plan.FluxHelmRelease}} {
		if name := labels[flux.prefix+"name"]; name != "" {
			return flux.kind + " " + labels[flux.prefix+"namespace"] + "/" + name
		}
	}
	if name := labels[argoInstance]; name != "" {
		return kindApp + " " + name
	}
	// Charts set this label too, so it says something only of what is known.
	if name := labels[appInstance]; o.applications[name] {
		return kindApp + " " + name
	}
	return o.release(u, labels, annotations)
}

// tracked reads Argo CD's annotation, "<application>:<group>/<kind>:<namespace>/<name>".
// One that names another object was copied with what it was on, and Argo CD pays
// no heed to it.
func tracked(u *unstructured.Unstructured, id string) string {
	app, rest, ok := strings.Cut(id, ":")
	kind, name, named := strings.Cut(rest, ":")
	if !ok || !named {
		return ""
	}
	gk := u.GroupVersionKind().GroupKind()
	if kind != gk.Group+"/"+gk.Kind || !strings.HasSuffix(name, "/"+u.GetName()) {
		return ""
	}
	if ns := strings.TrimSuffix(name, "/"+u.GetName()); u.GetNamespace() != "" && ns != u.GetNamespace() {
		return ""
	}
	return kindApp + " " + app
}

// release says which release of Helm an object is of, when Git has that. One that
// somebody has installed by hand comes from nowhere else.
func (o *Owners) release(u *unstructured.Unstructured, labels, annotations map[string]string) string {
	name, namespace := annotations[helmName], annotations[helmNamespace]
	if kind, _, _ := unstructured.NestedString(u.Object, "type"); u.GetKind() == "Secret" && kind == helmSecret {
		name, namespace = labels["name"], u.GetNamespace()
	} else if labels[helmManaged] != "Helm" {
		return ""
	}
	if key := namespace + "/" + name; name != "" && o.releases[key] {
		return plan.FluxHelmRelease + " of Helm's " + key
	}
	return ""
}
