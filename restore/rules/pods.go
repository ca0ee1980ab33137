package rules

import (
	"slices"

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
	{Group: "keda.sh", Kind: "ScaledJob"}:                  {"spec", "jobTargetRef", "template"},
	{Group: "serving.knative.dev", Kind: "Service"}:        {"spec", "template"},
	{Group: "serving.knative.dev", Kind: "Configuration"}:  {"spec", "template"},
	{Group: "serving.knative.dev", Kind: "Revision"}:       {},
	{Group: "apps.kruise.io", Kind: "CloneSet"}:            {"spec", "template"},
	{Group: "apps.kruise.io", Kind: "StatefulSet"}:         {"spec", "template"},
	{Group: "apps.kruise.io", Kind: "DaemonSet"}:           {"spec", "template"},
}

// templates returns the paths of the pod templates that are in the object.
func (e *edit) templates() []path {
	if e.pods == nil {
		e.pods = e.findTemplates()
	}
	return e.pods
}

func (e *edit) findTemplates() []path {
	found := []path{}
	if at, ok := podTemplates[e.kind]; ok {
		// A Rollout may borrow a Deployment's template and have none of its own.
		if len(at) == 0 || e.get(at...) != nil {
			found = append(found, at)
		}
		return found
	}
	collect := &form{rewrite: func(_ *edit, _ mapper, at path) error {
		found = append(found, slices.Clone(at))
		return nil
	}}
	for _, kind := range sortedKeys(e.p.PodTemplates) {
		if isKind(e.orig, kind) {
			_ = e.walk(parseSteps(e.p.PodTemplates[kind]), nil, e.obj.Object, collect, nil)
		}
	}
	return found
}

// podSpecs returns the paths of the pod specs in the object.
func (e *edit) podSpecs() []path {
	var specs []path
	for _, template := range e.templates() {
		if spec := template.join("spec"); e.get(spec...) != nil {
			specs = append(specs, spec)
		}
	}
	return specs
}
