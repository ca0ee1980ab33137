// Package compare finds what a standby cluster lacks, has beyond its source, or
// has otherwise. It compares what people and controllers want of a cluster, not
// what each cluster makes of that by itself.
package compare

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
)

// SystemNamespaces are each cluster's own.
var SystemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease"}

// Scope says what of two clusters is compared.
type Scope struct {
	// Namespaces are the only ones; none stands for all.
	Namespaces []string
	// Exclude are namespaces that are left out.
	Exclude []string
	// ClusterScoped has objects without a namespace compared too.
	ClusterScoped bool
}

// Covers reports whether objects of a namespace are compared; "" stands for
// those without one.
func (s Scope) Covers(namespace string) bool {
	switch {
	case namespace == "":
		return s.ClusterScoped
	case slices.Contains(s.Exclude, namespace):
		return false
	default:
		return len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, namespace)
	}
}

// key is an object's identity, whatever version it was read in.
type key struct {
	schema.GroupKind
	namespace, name string
}

// Objects compares those of a source with those of a standby.
func Objects(source, standby []*unstructured.Unstructured, scope Scope) *report.Comparison {
	want, have := byKey(source, scope), byKey(standby, scope)
	r := &report.Comparison{Compared: len(want), State: report.OK}
	differs := func(k key, how report.Difference, fields []string) {
		r.Add(report.ObjectDifference{Kind: k.Kind, Group: k.Group, Namespace: k.namespace, Name: k.name, Difference: how, Fields: fields})
	}
	for k, obj := range want {
		other, ok := have[k]
		if !ok {
			differs(k, report.Missing, nil)
			continue
		}
		if fields := Fields(obj, other); len(fields) > 0 {
			differs(k, report.Drifted, fields)
		}
	}
	for k := range have {
		if _, ok := want[k]; !ok {
			differs(k, report.Surplus, nil)
		}
	}
	slices.SortFunc(r.Objects, func(a, b report.ObjectDifference) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
	})
	return r
}

func byKey(objects []*unstructured.Unstructured, scope Scope) map[key]*unstructured.Unstructured {
	by := map[key]*unstructured.Unstructured{}
	for _, obj := range objects {
		if scope.Covers(obj.GetNamespace()) && !OwnAffair(obj) {
			by[key{obj.GroupVersionKind().GroupKind(), obj.GetNamespace(), obj.GetName()}] = obj
		}
	}
	return by
}

// perCluster are kinds whose objects each cluster has its own of.
var perCluster = map[schema.GroupKind]bool{
	{Kind: "Event"}:                                                             true,
	{Group: "events.k8s.io", Kind: "Event"}:                                     true,
	{Kind: "Endpoints"}:                                                         true,
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:                          true,
	{Group: "coordination.k8s.io", Kind: "Lease"}:                               true,
	{Group: "coordination.k8s.io", Kind: "LeaseCandidate"}:                      true,
	{Kind: "Node"}:                                                              true,
	{Kind: "ComponentStatus"}:                                                   true,
	{Kind: "PersistentVolume"}:                                                  true,
	{Group: "storage.k8s.io", Kind: "CSINode"}:                                  true,
	{Group: "storage.k8s.io", Kind: "CSIStorageCapacity"}:                       true,
	{Group: "storage.k8s.io", Kind: "VolumeAttachment"}:                         true,
	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}:           true,
	{Group: "networking.k8s.io", Kind: "IPAddress"}:                             true,
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}:                           true,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:                       true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"}:                 true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"}: true,
	{Group: "apps", Kind: "ControllerRevision"}:                                 true,
	{Group: "metrics.k8s.io", Kind: "PodMetrics"}:                               true,
	{Group: "metrics.k8s.io", Kind: "NodeMetrics"}:                              true,
	{Group: "velero.io", Kind: "Backup"}:                                        true,
	{Group: "velero.io", Kind: "Restore"}:                                       true,
	{Group: "kubectl-dr.io", Kind: "RecoveryRun"}:                               true,
}

// OwnAffair reports whether a cluster makes an object by itself: what a
// controller owns, what the control plane keeps, and tokens.
func OwnAffair(obj *unstructured.Unstructured) bool {
	if perCluster[obj.GroupVersionKind().GroupKind()] || metav1.GetControllerOfNoCopy(obj) != nil {
		return true
	}
	if obj.GetLabels()["kubernetes.io/bootstrapping"] != "" {
		return true
	}
	switch name := obj.GetName(); obj.GetKind() {
	case "ConfigMap":
		return name == "kube-root-ca.crt" || name == "openshift-service-ca.crt"
	case "Secret":
		kind, _, _ := unstructured.NestedString(obj.Object, "type")
		return kind == "kubernetes.io/service-account-token" || kind == "bootstrap.kubernetes.io/token"
	case "Service":
		return obj.GetNamespace() == "default" && name == "kubernetes"
	case "Namespace":
		return slices.Contains(SystemNamespaces, name) || name == "default"
	case "PriorityClass", "ClusterRole", "ClusterRoleBinding":
		return strings.HasPrefix(name, "system-") || strings.HasPrefix(name, "system:")
	}
	return false
}

// given are fields that a cluster fills in by itself.
var given = map[schema.GroupKind][][]string{
	{Kind: "Service"}: {
		{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"spec", "healthCheckNodePort"}, {"spec", "ipFamilies"}, {"spec", "ipFamilyPolicy"},
	},
	{Kind: "PersistentVolumeClaim"}: {{"spec", "volumeName"}},
	{Kind: "ServiceAccount"}:        {{"secrets"}, {"imagePullSecrets"}},
	{Kind: "Namespace"}:             {{"spec", "finalizers"}},
	{Group: "batch", Kind: "Job"}:   {{"spec", "selector"}, {"spec", "template", "metadata", "labels"}},
}

// givenAnnotations begin those that controllers keep.
var givenAnnotations = []string{
	"kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/", "pv.kubernetes.io/", "volume.kubernetes.io/",
	"volume.beta.kubernetes.io/", "control-plane.alpha.kubernetes.io/", "batch.kubernetes.io/",
}

// givenLabels begin those that a restore puts on what it restores.
var givenLabels = []string{"velero.io/", "kubectl-dr.io/"}

// normal returns a copy of what is wanted of an object.
func normal(obj *unstructured.Unstructured) map[string]any {
	out := rewrite.Restored(obj)
	out.SetFinalizers(nil)
	out.SetAnnotations(without(out.GetAnnotations(), append(givenAnnotations, givenLabels...)))
	out.SetLabels(without(out.GetLabels(), givenLabels))
	if meta, ok := out.Object["metadata"].(map[string]any); ok {
		for _, field := range []string{"annotations", "labels"} {
			if m, _ := meta[field].(map[string]any); len(m) == 0 {
				delete(meta, field)
			}
		}
	}
	for _, field := range given[obj.GroupVersionKind().GroupKind()] {
		unstructured.RemoveNestedField(out.Object, field...)
	}
	if obj.GetKind() == "Service" {
		ports, _, _ := unstructured.NestedSlice(out.Object, "spec", "ports")
		for _, p := range ports {
			if port, ok := p.(map[string]any); ok {
				delete(port, "nodePort")
			}
		}
		if len(ports) > 0 {
			_ = unstructured.SetNestedSlice(out.Object, ports, "spec", "ports")
		}
	}
	return out.Object
}

// without leaves out what begins with one of the prefixes.
func without(all map[string]string, prefixes []string) map[string]string {
	kept := maps.Clone(all)
	maps.DeleteFunc(kept, func(name, _ string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
	return kept
}

// Fields returns the paths at which what is wanted of two objects differs.
func Fields(a, b *unstructured.Unstructured) []string { return fields(normal(a), normal(b)) }

// maxFields bounds the fields that are named of one object.
const maxFields = 20

// fields are the paths at which two objects differ. Values are not told: they
// may be secret.
func fields(a, b any) []string {
	var paths []string
	walk("", a, b, &paths)
	slices.Sort(paths)
	if more := len(paths) - maxFields; more > 0 {
		paths = append(paths[:maxFields], fmt.Sprintf("and %d more", more))
	}
	return paths
}

func walk(path string, a, b any, paths *[]string) {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		for name := range x {
			walk(join(path, name), x[name], y[name], paths)
		}
		for name := range y {
			if _, ok := x[name]; !ok {
				walk(join(path, name), nil, y[name], paths)
			}
		}
		return
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			break
		}
		for i := range x {
			walk(path+"["+strconv.Itoa(i)+"]", x[i], y[i], paths)
		}
		return
	}
	if !reflect.DeepEqual(a, b) {
		*paths = append(*paths, path)
	}
}

// join writes a name with dots in brackets, as jsonpath wants it.
func join(path, name string) string {
	switch {
	case strings.ContainsAny(name, "./ "):
		return path + "['" + name + "']"
	case path == "":
		return name
	}
	return path + "." + name
}
