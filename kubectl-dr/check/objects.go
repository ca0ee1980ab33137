package check

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	networkingv1api "k8s.io/api/networking/v1"
	nodev1api "k8s.io/api/node/v1"
	schedulingv1api "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// recovered is what a failover would restore.
type recovered struct {
	// objects are those of the plan's namespaces and of none, as the profile for a
	// failover leaves them; nil when the backup could not be read.
	objects []*unstructured.Unstructured
	// claims are those of volumes, before a profile.
	claims []*unstructured.Unstructured
	pods   []podTemplate
}

// podTemplate is what pods are made of.
type podTemplate struct {
	// of is the object that makes them.
	of   *unstructured.Unstructured
	spec corev1api.PodSpec
	// count is how many run at once; 0 of a DaemonSet, whose nodes tell.
	count int64
}

func (t *podTemplate) String() string {
	return fmt.Sprintf("%s %s/%s", strings.ToLower(t.of.GetKind()), t.of.GetNamespace(), t.of.GetName())
}

// contained reads the newest backup's objects, and rewrites them as a failover
// does.
func (in *inspection) contained(ctx context.Context) {
	if len(in.backups) == 0 {
		in.skip("contents", "there is no backup to look into")
		return
	}
	name := in.backups[0].Name
	archive, err := in.Cluster.Files.File(ctx, velerov1api.DownloadTargetKindBackupContents, name)
	if err != nil {
		in.warn("contents", err.Error()+"; what its pods, routes and certificates need is not looked at",
			HintOr(err, "see whether Velero's object storage is whole"))
		return
	}
	backup := &rewrite.Input{}
	if err := backup.Backup(name, bytes.NewReader(archive)); err != nil {
		in.problem("contents", err.Error(), "take another backup: this one can't be restored whole")
		return
	}
	var profile *rules.Profile
	if in.rules != nil {
		profile, _ = in.rules.Profile(in.plan.Spec.Profile(plan.RunFailover)) // profiles says if there is none
	}
	for _, obj := range backup.Objects {
		if ns := obj.GetNamespace(); ns != "" && !slices.Contains(in.plan.Spec.Source.Namespaces, ns) {
			continue
		}
		if obj.GetKind() == "PersistentVolumeClaim" {
			in.recovered.claims = append(in.recovered.claims, obj)
		}
		after := obj
		if profile != nil {
			r, err := profile.Apply(obj)
			switch {
			case err != nil:
				in.problem(rewrite.Name(obj), err.Error(), "correct the profile: kubectl dr rewrite --explain shows what it does")
				continue
			case r.Drop:
				continue
			}
			after = r.Object
		}
		in.recovered.objects = append(in.recovered.objects, after)
		if t, ok := template(obj, after); ok {
			in.recovered.pods = append(in.recovered.pods, t)
		}
	}
	in.ok("contents", fmt.Sprintf("%s of backup %s would be restored", report.Count(len(in.recovered.objects), "object"), name))
}

// consumed looks for claims whose data Velero would bring back only to a pod that a
// profile holds back.
func (in *inspection) consumed(ctx context.Context) {
	moved := in.by(plan.MethodDataUpload)
	if len(moved) == 0 || in.rules == nil {
		return
	}
	claims := slices.DeleteFunc(slices.Clone(in.recovered.claims), func(obj *unstructured.Unstructured) bool {
		return !slices.Contains(moved, obj.GetNamespace()+"/"+obj.GetName())
	})
	for _, name := range in.usedProfiles() {
		p, err := in.rules.Profile(name)
		if err != nil {
			continue // profiles says so
		}
		unconsumed, err := run.Unconsumed(ctx, in.Cluster, p, claims)
		switch {
		case err != nil:
			in.failed("profile "+name+" data", err, "")
		case len(unconsumed) > 0:
			in.problem("profile "+name+" data", fmt.Sprintf("it holds the pods back that Velero waits for before it brings back the data of %s", strings.Join(unconsumed, ", ")), run.UnconsumedHint)
		}
	}
}

// templates are where kinds have the spec of their pods, and how many there are.
var templates = map[schema.GroupKind][]string{
	{Group: "apps", Kind: "Deployment"}:        {"spec", "template", "spec"},
	{Group: "apps", Kind: "StatefulSet"}:       {"spec", "template", "spec"},
	{Group: "apps", Kind: "DaemonSet"}:         {"spec", "template", "spec"},
	{Group: "apps", Kind: "ReplicaSet"}:        {"spec", "template", "spec"},
	{Group: "", Kind: "ReplicationController"}: {"spec", "template", "spec"},
	{Group: "argoproj.io", Kind: "Rollout"}:    {"spec", "template", "spec"},
	{Group: "batch", Kind: "CronJob"}:          {"spec", "jobTemplate", "spec", "template", "spec"},
	{Group: "", Kind: "Pod"}:                   {"spec"},
}

// template returns the pods of an object. How many there are is told by the object
// as it was: on standby it has none.
func template(before, after *unstructured.Unstructured) (podTemplate, bool) {
	gk := after.GroupVersionKind().GroupKind()
	at, ok := templates[gk]
	if !ok || metav1.GetControllerOf(before) != nil {
		return podTemplate{}, false
	}
	t := podTemplate{of: after, count: 1}
	fields, found, _ := unstructured.NestedMap(after.Object, at...)
	if !found || runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &t.spec) != nil {
		return t, false
	}
	if replicas, ok, _ := unstructured.NestedInt64(before.Object, "spec", "replicas"); ok {
		t.count = replicas
	}
	if gk.Kind == "DaemonSet" {
		t.count = 0
	}
	return t, true
}

// served looks whether the cluster knows every kind of the backup. Velero passes
// over what it does not know, and the backup is restored all the same.
func (in *inspection) served(context.Context) {
	if in.contents == nil {
		in.skip("kinds", "what the newest backup holds is not known")
		return
	}
	known, all := 0, 0
	for _, kind := range slices.Sorted(maps.Keys(in.contents)) {
		if !in.ours(in.contents[kind]) {
			continue
		}
		all++
		gvk := parseKind(kind)
		_, err := in.Cluster.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		switch {
		case err == nil:
			known++
			continue
		case !meta.IsNoMatchError(err):
			in.failed("kind "+kind, err, "")
			continue
		}
		others, _ := in.Cluster.Client.RESTMapper().RESTMappings(gvk.GroupKind())
		switch definition, ok := in.definition(gvk); {
		case len(others) > 0:
			var versions []string
			for _, m := range others {
				versions = append(versions, m.GroupVersionKind.Version)
			}
			in.problem("kind "+kind, fmt.Sprintf("the backup has it as %s, and this cluster serves %s", gvk.Version, strings.Join(versions, ", ")),
				"install a release here that serves "+gvk.Version+", or start Velero at the source with --features=EnableAPIGroupVersions")
		case ok:
			in.warn("kind "+kind, "it is not known here; the backup brings its definition "+definition+", and not what acts on it",
				"install here what it belongs to")
		default:
			in.problem("kind "+kind, "it is not known here, and would not be restored", "install what it belongs to, or leave it out of the backup")
		}
	}
	in.ok("kinds", fmt.Sprintf("%d of %d in the newest backup are served here", known, all))
}

// ours reports whether one of the names, with their namespaces, is the plan's or of
// the whole cluster.
func (in *inspection) ours(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		ns, _, namespaced := strings.Cut(name, "/")
		return !namespaced || slices.Contains(in.plan.Spec.Source.Namespaces, ns)
	})
}

// parseKind reads "apps/v1/Deployment" and "v1/Service".
func parseKind(s string) schema.GroupVersionKind {
	i := strings.LastIndex(s, "/")
	gv, _ := schema.ParseGroupVersion(s[:max(0, i)])
	return gv.WithKind(s[i+1:])
}

// definition returns the backup's definition of a kind's group that fits best.
func (in *inspection) definition(gvk schema.GroupVersionKind) (string, bool) {
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	for kind, names := range in.contents {
		if parseKind(kind).Kind == "CustomResourceDefinition" && slices.Contains(names, plural.GroupResource().String()) {
			return plural.GroupResource().String(), true
		}
	}
	return "", false
}

// classes looks for what objects name that is not of a namespace.
func (in *inspection) classes(ctx context.Context) {
	used := map[string]map[string]bool{} // kind to name
	use := func(kind, name string) {
		if name == "" {
			return
		}
		if used[kind] == nil {
			used[kind] = map[string]bool{}
		}
		used[kind][name] = true
	}
	brought := map[string]bool{} // kind/name in the backup
	for _, t := range in.recovered.pods {
		use("PriorityClass", t.spec.PriorityClassName)
		if c := t.spec.RuntimeClassName; c != nil {
			use("RuntimeClass", *c)
		}
	}
	for _, obj := range in.recovered.objects {
		brought[obj.GetKind()+"/"+obj.GetName()] = true
		switch obj.GetKind() {
		case "Ingress":
			class, _, _ := unstructured.NestedString(obj.Object, "spec", "ingressClassName")
			use("IngressClass", class)
		case "Gateway":
			class, _, _ := unstructured.NestedString(obj.Object, "spec", "gatewayClassName")
			use("GatewayClass", class)
		case "PersistentVolumeClaim":
			class, _, _ := unstructured.NestedString(obj.Object, "spec", "storageClassName")
			use("StorageClass", class)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(used)) {
		for _, name := range slices.Sorted(maps.Keys(used[kind])) {
			in.class(ctx, kind, name, brought[kind+"/"+name])
		}
	}
}

var classKinds = map[string]schema.GroupVersionKind{
	"PriorityClass": schedulingv1api.SchemeGroupVersion.WithKind("PriorityClass"),
	"RuntimeClass":  nodev1api.SchemeGroupVersion.WithKind("RuntimeClass"),
	"IngressClass":  networkingv1api.SchemeGroupVersion.WithKind("IngressClass"),
	"StorageClass":  {Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass"},
	"GatewayClass":  {Group: "gateway.networking.k8s.io", Version: "v1", Kind: "GatewayClass"},
}

func (in *inspection) class(ctx context.Context, kind, name string, brought bool) {
	what := strings.ToLower(strings.TrimSuffix(kind, "Class")) + " class " + name
	if in.has(what) {
		return // the profile maps to it, and that was looked at
	}
	if kind == "PriorityClass" && strings.HasPrefix(name, "system-") {
		return // every cluster has them
	}
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(classKinds[kind])
	err := in.Cluster.Client.Get(ctx, client.ObjectKey{Name: name}, obj)
	switch {
	case err == nil:
		in.ok(what, "")
	case !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err):
		in.failed(what, err, "")
	case brought:
		in.ok(what, "it comes with the backup")
	case kind == "IngressClass" || kind == "GatewayClass":
		in.problem(what, "it does not exist here, and something of the backup is served by it", "install its controller here, or map it with "+strings.ToLower(kind[:1])+kind[1:]+"es of the profile")
	default:
		in.problem(what, "it does not exist here, and something of the backup needs it: pods would not start", "create it")
	}
}

// has reports whether an item of a name was added already.
func (in *inspection) has(name string) bool {
	for _, g := range in.report.Groups {
		for _, item := range g.Items {
			if item.Name == name {
				return true
			}
		}
	}
	return false
}

// needed looks for the ConfigMaps, Secrets and accounts without which pods don't
// start.
func (in *inspection) needed(context.Context) {
	have := map[string]bool{}
	for _, obj := range in.recovered.objects {
		have[obj.GetKind()+" "+obj.GetNamespace()+"/"+obj.GetName()] = true
	}
	missing := map[string]string{}
	count := 0
	for _, t := range in.recovered.pods {
		ns := t.of.GetNamespace()
		need := func(kind, name string, optional *bool) {
			if name == "" || optional != nil && *optional {
				return
			}
			count++
			if id := kind + " " + ns + "/" + name; !have[id] {
				missing[id] = t.String()
			}
		}
		for _, r := range references(&t.spec) {
			need(r.kind, r.name, r.optional)
		}
		if a := t.spec.ServiceAccountName; a != "default" {
			need("ServiceAccount", a, nil)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		in.problem(id, fmt.Sprintf("it is not in the backup, and %s does not start without", missing[id]),
			"back it up, or have it made at the recovery site by what makes it at the source")
	}
	if len(missing) == 0 && count > 0 {
		in.ok("references", fmt.Sprintf("the backup has all %d ConfigMaps, Secrets and accounts that pods refer to", count))
	}
}

type reference struct {
	kind, name string
	optional   *bool
}

// references returns what the containers of a pod refer to.
func references(spec *corev1api.PodSpec) []reference {
	var all []reference
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, e := range c.EnvFrom {
			if r := e.ConfigMapRef; r != nil {
				all = append(all, reference{"ConfigMap", r.Name, r.Optional})
			}
			if r := e.SecretRef; r != nil {
				all = append(all, reference{"Secret", r.Name, r.Optional})
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom == nil {
				continue
			}
			if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
				all = append(all, reference{"ConfigMap", r.Name, r.Optional})
			}
			if r := e.ValueFrom.SecretKeyRef; r != nil {
				all = append(all, reference{"Secret", r.Name, r.Optional})
			}
		}
	}
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil {
			all = append(all, reference{"ConfigMap", v.ConfigMap.Name, v.ConfigMap.Optional})
		}
		if v.Secret != nil {
			all = append(all, reference{"Secret", v.Secret.SecretName, v.Secret.Optional})
		}
	}
	return all
}
