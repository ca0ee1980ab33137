package rules

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// podTemplates says where kinds hold what a Pod is made from: something with
// metadata and spec. A Pod is its own template.
var podTemplates = map[schema.GroupKind]path{
	{Group: "", Kind: "Pod"}:                               {},
	{Group: "", Kind: "PodTemplate"}:                       {"template"},
	{Group: "", Kind: "ReplicationController"}:             {"spec", "template"},
	{Group: "apps", Kind: "Deployment"}:                    {"spec", "template"},
	{Group: "apps", Kind: "StatefulSet"}:                   {"spec", "template"},
	{Group: "apps", Kind: "DaemonSet"}:                     {"spec", "template"},
	{Group: "apps", Kind: "ReplicaSet"}:                    {"spec", "template"},
	{Group: "batch", Kind: "Job"}:                          {"spec", "template"},
	{Group: "batch", Kind: "CronJob"}:                      {"spec", "jobTemplate", "spec", "template"},
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}: {"spec", "template"},
	{Group: "argoproj.io", Kind: "Rollout"}:                {"spec", "template"},
}

// podSpecs returns the paths of pod specs in an object.
func podSpecs(obj *unstructured.Unstructured) []path {
	at, ok := podTemplates[obj.GroupVersionKind().GroupKind()]
	if !ok {
		return nil
	}
	spec := at.join("spec")
	// A Rollout may borrow a Deployment's template and have none of its own.
	if lookup(obj.Object, spec) == nil {
		return nil
	}
	return []path{spec}
}

// podMetadata returns the paths of the metadata of pod templates in an object.
func podMetadata(obj *unstructured.Unstructured) []path {
	at, ok := podTemplates[obj.GroupVersionKind().GroupKind()]
	if !ok || len(at) == 0 {
		return nil
	}
	return []path{at.join("metadata")}
}

// templates returns the paths of pod templates in the object.
func (e *edit) templates() []path {
	at, ok := podTemplates[e.kind]
	if !ok || len(at) > 0 && e.get(at...) == nil {
		return nil
	}
	return []path{at}
}
