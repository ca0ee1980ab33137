package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// errForeign is returned by a driver for a PersistentVolume that looked like
// its own and turns out to lie elsewhere than on ZFS.
var errForeign = errors.New("not a ZFS volume of this location")

// driver knows how one kind of PersistentVolume names its dataset.
type driver interface {
	// claims reports, from the object alone, whether the volume is of this kind.
	claims(*corev1api.PersistentVolume) bool
	// locate returns the volume behind the object, or errForeign.
	locate(context.Context, *Site, *corev1api.PersistentVolume) (VolumeID, error)
	// rewrite changes the object so that it is the given volume, and makes what
	// the driver needs beside it. The caller changes name and labels.
	rewrite(context.Context, *Site, *unstructured.Unstructured, restored) error
}

// restored is a dataset made for a restore.
type restored struct {
	VolumeID
	name    string // of the PersistentVolume
	labels  map[string]string
	dataset *agentpb.Dataset
}

// drivers are asked in order; the first that claims a volume decides.
var drivers = []driver{openEBS{}, democraticCSI{}, trueNAS{}, zfsProvisioner{}, onNFS{}, onPath{}}

func driverOf(pv *corev1api.PersistentVolume) driver {
	for _, d := range drivers {
		if d.claims(pv) {
			return d
		}
	}
	return nil
}

// Locate returns the volume behind a PersistentVolume. It reports false for a
// volume that is none of this location's, and an error for one that is but
// whose dataset can not be told.
func (s *Site) Locate(ctx context.Context, obj runtime.Unstructured) (VolumeID, bool, error) {
	pv, err := toPV(obj)
	if err != nil {
		return VolumeID{}, false, err
	}
	d := driverOf(pv)
	if d == nil {
		return VolumeID{}, false, nil
	}
	id, err := d.locate(ctx, s, pv)
	if err == nil {
		_, err = s.Agent(id.Node)
	}
	switch {
	case errors.Is(err, errForeign):
		return VolumeID{}, false, nil
	case err != nil:
		return VolumeID{}, false, fmt.Errorf("find the dataset of PersistentVolume %s: %w", pv.Name, err)
	}
	return id, true, nil
}

func toPV(obj runtime.Unstructured) (*corev1api.PersistentVolume, error) {
	pv := &corev1api.PersistentVolume{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.UnstructuredContent(), pv); err != nil {
		return nil, fmt.Errorf("read PersistentVolume: %w", err)
	}
	return pv, nil
}

const (
	topologyOpenEBSNodeID   = "openebs.io/nodeid"
	topologyOpenEBSNodeName = "openebs.io/nodename"
)

// nodeKeys are the node labels by which volumes are pinned to their node, the
// most telling first.
var nodeKeys = []string{topologyOpenEBSNodeID, topologyOpenEBSNodeName, topologyDemocraticNode, corev1api.LabelHostname}

// pinnedTo returns the one node a volume's affinity allows, or "".
func pinnedTo(pv *corev1api.PersistentVolume) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return ""
	}
	for _, key := range nodeKeys {
		var nodes []string
		for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
			for _, expr := range term.MatchExpressions {
				if expr.Key == key && expr.Operator == corev1api.NodeSelectorOpIn {
					nodes = append(nodes, expr.Values...)
				}
			}
		}
		slices.Sort(nodes)
		if nodes = slices.Compact(nodes); len(nodes) == 1 {
			return nodes[0]
		}
	}
	return ""
}

// pin makes node the only one a volume's affinity allows. Expressions that name
// nodes get the new value and everything else stays; an affinity that names no
// node, or has a term that does not, is replaced by one on key.
func pin(pv *unstructured.Unstructured, node, key string) error {
	at := []string{"spec", "nodeAffinity", "required", "nodeSelectorTerms"}
	terms, _, err := unstructured.NestedSlice(pv.Object, at...)
	if err != nil {
		return fmt.Errorf("read node affinity: %w", err)
	}
	pinned := len(terms) > 0
	for _, t := range terms {
		term, _ := t.(map[string]any)
		pinned = pinTerm(term, node) && pinned
	}
	if !pinned {
		terms = []any{map[string]any{"matchExpressions": []any{
			map[string]any{"key": key, "operator": string(corev1api.NodeSelectorOpIn), "values": []any{node}},
		}}}
	}
	return unstructured.SetNestedSlice(pv.Object, terms, at...)
}

func pinTerm(term map[string]any, node string) (pinned bool) {
	exprs, _ := term["matchExpressions"].([]any)
	for _, e := range exprs {
		expr, _ := e.(map[string]any)
		key, _ := expr["key"].(string)
		if slices.Contains(nodeKeys, key) && expr["operator"] == string(corev1api.NodeSelectorOpIn) {
			expr["values"] = []any{node}
			pinned = true
		}
	}
	return pinned
}
