package rules

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// podTemplates says where kinds hold what a Pod is made from: something with
// metadata and spec. An empty path is the object itself: a Pod is its own
// template, and the spec of some kinds of operators is made like a Pod's.
var podTemplates = map[schema.GroupKind][]step{}

func init() {
	for at, kinds := range map[string][]schema.GroupKind{
		"": slices.Concat(kindsIn("Pod", core...), kindsIn("Revision", knative),
			kindsIn("Alertmanager Prometheus PrometheusAgent ThanosRuler", prometheus), kindsIn("MariaDB MaxScale", mariadb)),
		"template": kindsIn("PodTemplate", core...),
		"spec.template": slices.Concat(kindsIn("ReplicationController", core...), kindsIn("DaemonSet Deployment ReplicaSet StatefulSet", "apps"),
			kindsIn("Job", "batch"), kindsIn("DeploymentConfig", "apps.openshift.io"), kindsIn("Rollout", "argoproj.io"),
			kindsIn("Configuration Service", knative), kindsIn("BroadcastJob CloneSet DaemonSet StatefulSet", kruise),
			kindsIn("Pooler", cnpg), kindsIn("VirtualMachine VirtualMachineInstanceReplicaSet", kubevirt)),
		"spec.jobTemplate.spec.template":                kindsIn("CronJob", "batch"),
		"spec.jobTargetRef.template":                    kindsIn("ScaledJob", "keda.sh"),
		"spec.podTemplate":                              kindsIn("Kibana", kibana),
		"spec.nodeSets[*].podTemplate":                  kindsIn("Elasticsearch", elastic),
		"spec.tasks[*].template":                        kindsIn("Job", "batch.volcano.sh"),
		"spec.replicatedJobs[*].template.spec.template": kindsIn("JobSet", jobset),
	} {
		for _, gk := range kinds {
			podTemplates[gk] = parseSteps(at)
		}
	}
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
	collect := &form{rewrite: func(_ *edit, _ mapper, at path) error {
		found = append(found, slices.Clone(at))
		return nil
	}}
	if steps, ok := podTemplates[e.kind]; ok {
		// A Rollout may borrow a Deployment's template and have none of its own.
		_ = e.walk(steps, nil, e.obj.Object, collect, nil)
		return found
	}
	for _, kind := range sortedKeys(e.p.PodTemplates) {
		if isKind(e.orig, kind) {
			_ = e.walk(parseSteps(e.p.PodTemplates[kind]), nil, e.obj.Object, collect, nil)
		}
	}
	return found
}

// podSpecs returns the paths of the pod specs in the object.
func (e *edit) podSpecs() []path {
	templates := e.templates()
	specs := make([]path, 0, len(templates))
	for _, template := range templates {
		if spec := template.join("spec"); e.get(spec...) != nil {
			specs = append(specs, spec)
		}
	}
	return specs
}
