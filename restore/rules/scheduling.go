package rules

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// scheduling is where an operator's kind says where its pods may run, apart from
// a pod template: at a path from each part that is there.
type scheduling struct {
	part, at string
	// nodeSelector says that it has one; tolerations all have.
	nodeSelector bool
}

// schedulings come from the operators' references.
var schedulings = map[schema.GroupKind][]scheduling{
	{Group: cnpg, Kind: "Cluster"}:               {{"spec", "affinity", true}},
	{Group: zalando, Kind: "postgresql"}:         {{"spec", "", false}},
	{Group: crunchy, Kind: "PostgresCluster"}:    {{"spec.instances[*]", "", false}, {"spec.proxy.pgBouncer", "", false}},
	{Group: perconaPG, Kind: "PerconaPGCluster"}: {{"spec.instances[*]", "", false}, {"spec.proxy.pgBouncer", "", false}},
	{Group: perconaPXC, Kind: "PerconaXtraDBCluster"}: {
		{"spec.pxc", "", true}, {"spec.haproxy", "", true}, {"spec.proxysql", "", true},
	},
	{Group: perconaMongo, Kind: "PerconaServerMongoDB"}: {
		{"spec.replsets[*]", "", true}, {"spec.sharding.configsvrReplSet", "", true}, {"spec.sharding.mongos", "", true},
	},
	{Group: perconaMySQL, Kind: "PerconaServerMySQL"}: {
		{"spec.mysql", "", true}, {"spec.orchestrator", "", true}, {"spec.proxy.haproxy", "", true}, {"spec.proxy.router", "", true},
	},
	{Group: strimzi, Kind: "Kafka"}: {
		{"spec.kafka", "template.pod", false}, {"spec.zookeeper", "template.pod", false}, {"spec.entityOperator", "template.pod", false},
	},
	{Group: strimzi, Kind: "KafkaNodePool"}:     {{"spec", "template.pod", false}},
	{Group: strimzi, Kind: "KafkaConnect"}:      {{"spec", "template.pod", false}},
	{Group: strimzi, Kind: "KafkaMirrorMaker2"}: {{"spec", "template.pod", false}},
	{Group: strimzi, Kind: "KafkaBridge"}:       {{"spec", "template.pod", false}},
	{Group: rabbitmq, Kind: "RabbitmqCluster"}:  {{"spec", "", false}},
}

// scheduled returns the paths at which the object has tolerations, or a node
// selector, or would have.
func (e *edit) scheduled(nodeSelector bool) []path {
	found := e.podSpecs()
	for _, s := range schedulings[e.kind] {
		if nodeSelector && !s.nodeSelector {
			continue
		}
		rest := FieldState{Path: s.at}.at()
		_ = e.walk(parseSteps(s.part), nil, e.obj.Object, &form{rewrite: func(_ *edit, _ mapper, at path) error {
			found = append(found, at.join(rest...))
			return nil
		}}, nil)
	}
	return found
}

func rewriteNodeSelector(e *edit, p *Rewrites) error {
	if p.NodeSelector == nil {
		return nil
	}
	for _, at := range e.scheduled(true) {
		p.NodeSelector.apply(e, at.join("nodeSelector"))
	}
	return nil
}

func rewriteTolerations(e *edit, p *Rewrites) error {
	if p.Tolerations == nil {
		return nil
	}
	for _, part := range e.scheduled(false) {
		at := part.join("tolerations")
		before := e.list(at...)
		after := slices.DeleteFunc(slices.Clone(before), func(have any) bool {
			return slices.ContainsFunc(p.Tolerations.Remove, func(t Toleration) bool { return t.matches(have) })
		})
		for _, t := range p.Tolerations.Add {
			if !slices.ContainsFunc(after, func(have any) bool { return sameToleration(have, t.object()) }) {
				after = append(after, t.object())
			}
		}
		switch {
		case len(after) > 0:
			e.set(after, at...)
		case len(before) > 0:
			e.remove(at...)
		}
	}
	return nil
}

func rewriteNodeLabels(e *edit, p *Rewrites) error {
	if len(p.NodeLabels) == 0 {
		return nil
	}
	return e.places("nodeLabels", nil)
}

// affinities are what affinity can remove, by its name.
var affinities = map[string]path{
	"nodeAffinity":              {"affinity", "nodeAffinity"},
	"podAffinity":               {"affinity", "podAffinity"},
	"podAntiAffinity":           {"affinity", "podAntiAffinity"},
	"topologySpreadConstraints": {"topologySpreadConstraints"},
}

func rewriteAffinity(e *edit, p *Rewrites) error {
	if p.Affinity == nil {
		return nil
	}
	for _, spec := range e.podSpecs() {
		for _, name := range p.Affinity.Remove {
			e.remove(spec.join(affinities[name]...)...)
		}
	}
	return nil
}

// formPriorityClass and formRuntimeClass take away what admission has worked
// out from the class in a Pod, for it works it out again.
var (
	formPriorityClass = &form{formOne.about, func(e *edit, m mapper, at path) error {
		return e.class(m, at, "priority", "preemptionPolicy")
	}}
	formRuntimeClass = &form{formOne.about, func(e *edit, m mapper, at path) error {
		return e.class(m, at, "overhead")
	}}
)

const quotaOfClass = ".storageclass.storage.k8s.io/"

// Forms of a ResourceQuota's.
var (
	// formQuota is a map whose keys begin with a class.
	formQuota = &form{"class before " + quotaOfClass + "…", func(e *edit, m mapper, at path) error {
		for _, key := range e.keys(at...) {
			class, resource, ok := strings.Cut(key, quotaOfClass)
			if !ok {
				continue
			}
			if to, ok := one(m, class); ok {
				e.moveKey(at, key, to+quotaOfClass+resource)
			}
		}
		return nil
	}}
	formPriorityScope = &form{"values of scope PriorityClass", func(e *edit, m mapper, at path) error {
		if e.str(at.join("scopeName")...) != "PriorityClass" {
			return nil
		}
		return formList.rewrite(e, m, at.join("values"))
	}}
	// formKeys is a map whose keys are mapped.
	formKeys = &form{"keys", func(e *edit, m mapper, at path) error {
		for _, key := range e.keys(at...) {
			if to, ok := one(m, key); ok {
				e.moveKey(at, key, to)
			}
		}
		return nil
	}}
)

// moveKey gives what a map has under one key another. What is there already stays.
func (e *edit) moveKey(at path, from, to string) {
	value := e.get(at.join(from)...)
	if e.get(at.join(to)...) == nil {
		e.set(value, at.join(to)...)
	}
	e.remove(at.join(from)...)
}

func (e *edit) class(m mapper, at path, derived ...string) error {
	to, ok := one(m, e.str(at...))
	if !ok {
		return nil
	}
	e.set(to, at...)
	if e.in(core, "Pod") {
		for _, field := range derived {
			e.remove("spec", field)
		}
	}
	return nil
}

// object returns the toleration as it stands in a pod.
func (t Toleration) object() map[string]any {
	out := map[string]any{}
	for field, value := range map[string]string{"key": t.Key, "operator": t.Operator, "value": t.Value, "effect": t.Effect} {
		if value != "" {
			out[field] = value
		}
	}
	if t.TolerationSeconds != nil {
		out["tolerationSeconds"] = *t.TolerationSeconds
	}
	return out
}

// matches reports whether a toleration in a pod has all the fields t has.
func (t Toleration) matches(have any) bool {
	h, ok := have.(map[string]any)
	if !ok {
		return false
	}
	h = defaulted(h)
	for field, want := range t.object() {
		if !reflect.DeepEqual(h[field], want) {
			return false
		}
	}
	return true
}

func sameToleration(a any, b map[string]any) bool {
	m, ok := a.(map[string]any)
	return ok && reflect.DeepEqual(defaulted(m), defaulted(b))
}

// defaulted leaves out what is empty and says the operator, as Kubernetes reads
// a toleration.
func defaulted(t map[string]any) map[string]any {
	out := map[string]any{"operator": "Equal"}
	for field, value := range t {
		if value != nil && value != "" {
			out[field] = value
		}
	}
	return out
}
