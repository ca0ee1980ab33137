package check

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// poolAnnotations are how Services and pods ask for an address of a pool: by its name,
// or by a list of names in JSON.
var poolAnnotations = []struct {
	annotations []string
	// kinds are what a pool may be; a cluster has one of them.
	kinds []schema.GroupKind
}{
	{[]string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}, []schema.GroupKind{{Group: "metallb.io", Kind: "IPAddressPool"}}},
	{
		[]string{"projectcalico.org/ipv4pools", "projectcalico.org/ipv6pools", "cni.projectcalico.org/ipv4pools", "cni.projectcalico.org/ipv6pools"},
		[]schema.GroupKind{{Group: "projectcalico.org", Kind: "IPPool"}, {Group: "crd.projectcalico.org", Kind: "IPPool"}},
	},
	{[]string{"ipam.cilium.io/ip-pool", "ipam.cilium.io/ipv4-pool", "ipam.cilium.io/ipv6-pool"}, []schema.GroupKind{{Group: "cilium.io", Kind: "CiliumPodIPPool"}}},
}

// addressPools looks for the pools of addresses that what is restored names.
func (in *inspection) addressPools(ctx context.Context) {
	for _, p := range poolAnnotations {
		wanted := map[string]string{} // pool to who wants it
		for _, obj := range in.recovered.objects {
			for _, annotations := range []map[string]string{obj.GetAnnotations(), templateAnnotations(obj)} {
				for _, key := range p.annotations {
					for _, name := range poolNames(annotations[key]) {
						wanted[name] = strings.ToLower(obj.GetKind()) + " " + obj.GetNamespace() + "/" + obj.GetName()
					}
				}
			}
		}
		if len(wanted) == 0 {
			continue
		}
		have, err := in.names(ctx, p.kinds)
		if err != nil {
			in.failed("address pools", err, "")
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(wanted)) {
			switch what := "address pool " + name; {
			case have[name]:
				in.ok(what, "")
			case have == nil: // another network may give addresses without being asked for a pool
				in.warn(what, fmt.Sprintf("%s asks for an address of it, and nothing here knows %s of %s", wanted[name], p.kinds[0].Kind, p.kinds[0].Group),
					"see that whatever gives addresses here gives one without it")
			default:
				in.problem(what, "it does not exist here, and "+wanted[name]+" asks for an address of it", "make it, or map it with addressPools of the profile")
			}
		}
	}
}

func templateAnnotations(obj *unstructured.Unstructured) map[string]string {
	at := templates[obj.GroupVersionKind().GroupKind()]
	if len(at) < 2 {
		return nil
	}
	annotations, _, _ := unstructured.NestedStringMap(obj.Object, append(slices.Clone(at[:len(at)-1]), "metadata", "annotations")...)
	return annotations
}

// poolNames reads an annotation. Calico takes blocks of addresses, too.
func poolNames(s string) []string {
	if s == "" {
		return nil
	}
	all := []string{s}
	if strings.HasPrefix(s, "[") {
		_ = json.Unmarshal([]byte(s), &all) // what is no list is no pool's name either
	}
	return slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, "/") })
}

// names returns those of all objects of the kinds, nil if the cluster knows none of
// these.
func (in *inspection) names(ctx context.Context, kinds []schema.GroupKind) (map[string]bool, error) {
	var have map[string]bool
	for _, kind := range kinds {
		mapping, err := in.Cluster.Client.RESTMapper().RESTMapping(kind)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if have == nil {
			have = map[string]bool{}
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(mapping.GroupVersionKind)
		if err := in.Cluster.Client.List(ctx, list); err != nil {
			return nil, err
		}
		for _, item := range list.Items {
			have[item.GetName()] = true
		}
	}
	return have, nil
}
