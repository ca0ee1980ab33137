package rules

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// setting is a field that keeps what an operator runs from running.
type setting struct {
	at    string
	value any
	// unless names a field in whose presence this one may not be.
	unless string
	// present says that the field is only set where there is one.
	present bool
}

// operators are the settings of kinds whose workloads an operator makes. Each is
// the operator's own way to stop, hibernate or pause, from its reference. A
// HorizontalPodAutoscaler has none and needs none: it does nothing while its
// target has no replicas.
var operators = map[schema.GroupKind][]setting{
	{Group: "keda.sh", Kind: "ScaledObject"}: {{at: "metadata.annotations[autoscaling.keda.sh/paused-replicas]", value: "0"}},
	{Group: "keda.sh", Kind: "ScaledJob"}:    {{at: "metadata.annotations[autoscaling.keda.sh/paused]", value: "true"}},

	{Group: cnpg, Kind: "Cluster"}:         {{at: "metadata.annotations[cnpg.io/hibernation]", value: "on"}},
	{Group: cnpg, Kind: "ScheduledBackup"}: {{at: "spec.suspend", value: true}},
	{Group: cnpg, Kind: "Pooler"}:          {{at: "spec.instances", value: int64(0)}},
	{Group: zalando, Kind: "postgresql"}:   {{at: "spec.numberOfInstances", value: int64(0)}},
	{Group: crunchy, Kind: "PostgresCluster"}: {
		{at: "spec.shutdown", value: true},
	},
	{Group: perconaPG, Kind: "PerconaPGCluster"}:        {{at: "spec.pause", value: true}},
	{Group: perconaPXC, Kind: "PerconaXtraDBCluster"}:   {{at: "spec.pause", value: true}},
	{Group: perconaMongo, Kind: "PerconaServerMongoDB"}: {{at: "spec.pause", value: true}},
	{Group: perconaMySQL, Kind: "PerconaServerMySQL"}:   {{at: "spec.pause", value: true}},
	{Group: mariadb, Kind: "MariaDB"}:                   {{at: "spec.suspend", value: true}},
	{Group: mariadb, Kind: "MaxScale"}:                  {{at: "spec.suspend", value: true}},

	// Paused, Strimzi makes nothing of a Kafka. What it has made, StrimziPodSets, it
	// does not let be paused (strimzi-kafka-operator#10042); they are remade.
	{Group: strimzi, Kind: "Kafka"}:             {{at: "metadata.annotations[strimzi.io/pause-reconciliation]", value: "true"}},
	{Group: strimzi, Kind: "KafkaConnector"}:    {{at: "spec.state", value: "stopped"}},
	{Group: strimzi, Kind: "KafkaConnect"}:      {{at: "spec.replicas", value: int64(0)}},
	{Group: strimzi, Kind: "KafkaMirrorMaker2"}: {{at: "spec.replicas", value: int64(0)}},
	{Group: strimzi, Kind: "KafkaBridge"}:       {{at: "spec.replicas", value: int64(0)}},

	{Group: elastic, Kind: "Elasticsearch"}:    {{at: "metadata.annotations[eck.k8s.elastic.co/managed]", value: "false"}},
	{Group: kibana, Kind: "Kibana"}:            {{at: "spec.count", value: int64(0)}},
	{Group: rabbitmq, Kind: "RabbitmqCluster"}: {{at: "metadata.labels[rabbitmq.com/pauseReconciliation]", value: "true"}},

	{Group: kubevirt, Kind: "VirtualMachine"}: {
		{at: "spec.runStrategy", value: "Halted", unless: "spec.running"},
		{at: "spec.running", value: false, present: true},
	},
	{Group: kubevirt, Kind: "VirtualMachineInstanceReplicaSet"}: {{at: "spec.replicas", value: int64(0)}},

	// updateStrategy.paused of OpenKruise's kinds holds back updates alone. A
	// BroadcastJob that is paused makes no further Pods (broadcastjob_controller.go).
	{Group: kruise, Kind: "CloneSet"}:     {{at: "spec.replicas", value: int64(0)}},
	{Group: kruise, Kind: "StatefulSet"}:  {{at: "spec.replicas", value: int64(0)}},
	{Group: kruise, Kind: "BroadcastJob"}: {{at: "spec.paused", value: true}},

	// A Job that a JobSet makes is suspended as the JobSet is (jobset_types.go).
	{Group: jobset, Kind: "JobSet"}: {{at: "spec.suspend", value: true}},

	// Paused, the operator leaves a StatefulSet as it is, running or not, so it is
	// brought to none. An agent on every node has no replicas, and may not say any.
	{Group: prometheus, Kind: "Alertmanager"}:    {{at: "spec.replicas", value: int64(0)}},
	{Group: prometheus, Kind: "Prometheus"}:      {{at: "spec.replicas", value: int64(0)}},
	{Group: prometheus, Kind: "ThanosRuler"}:     {{at: "spec.replicas", value: int64(0)}},
	{Group: prometheus, Kind: "PrometheusAgent"}: {{at: "spec.paused", value: true}, {at: "spec.replicas", value: int64(0), unless: "spec.mode"}},

	// The second is what the first was called.
	{Group: knative, Kind: "Service"}:       scaledToZero,
	{Group: knative, Kind: "Configuration"}: scaledToZero,

	{Group: "argoproj.io", Kind: "CronWorkflow"}: {{at: "spec.suspend", value: true}},
	{Group: "argoproj.io", Kind: "Workflow"}:     {{at: "spec.suspend", value: true}},

	{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}: {{at: "spec.suspend", value: true}},
	{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}:        {{at: "spec.suspend", value: true}},
	{Group: "volsync.backube", Kind: "ReplicationSource"}:         {{at: "spec.paused", value: true}},
}

const templateAnnotations = "spec.template.metadata.annotations"

var scaledToZero = []setting{
	{at: templateAnnotations + "[autoscaling.knative.dev/min-scale]", value: "0", unless: templateAnnotations + "[autoscaling.knative.dev/minScale]"},
	{at: templateAnnotations + "[autoscaling.knative.dev/minScale]", value: "0", present: true},
}

// startsAnyway says what kinds start that are held back as well as they can be.
var startsAnyway = map[schema.GroupKind]string{}

func init() {
	// A Revision's Deployment begins with initial-scale replicas, and most clusters
	// refuse none (MakeDeployment of Knative's deploy.go, validateInitialScale).
	for _, gk := range kindsIn("Service Configuration", knative) {
		startsAnyway[gk] = "Knative starts a Pod of it, which ends when nobody asks for it"
	}
}

// remade are kinds with Pods that their controller makes again when it is
// started, and that nothing holds back.
var remade = slices.Concat(kindsIn("Pod", core...), kindsIn("StrimziPodSet", "core.strimzi.io"), kindsIn("Configuration Revision", knative))

// StandbyKinds returns the kinds, besides Kubernetes' own workloads, that
// [Standby] knows how to hold back, in order.
func StandbyKinds() []schema.GroupKind {
	return slices.SortedFunc(maps.Keys(operators), func(a, b schema.GroupKind) int {
		return strings.Compare(a.String(), b.String())
	})
}

// Operated returns the kinds, "<Kind>" or "<Kind>.<group>", that the profile says how
// to hold back, in order. A nil profile says of none.
func (p *Profile) Operated() []string {
	if p == nil {
		return nil
	}
	kinds := sortedKeys(p.Operators)
	for i := range p.Rules {
		kinds = append(kinds, sortedKeys(p.Rules[i].Operators)...)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// FieldState is a field that standby set.
type FieldState struct {
	// Path leads to the field, for example spec.replicas.
	Path string `json:"path"`
	// Was is its value before; nil when there was none.
	Was any `json:"was,omitempty"`
	// Held is its value on standby.
	Held any `json:"held"`
}

func (f FieldState) at() path {
	var at path
	for _, s := range parseSteps(f.Path) {
		at = append(at, s.key)
	}
	return at
}

// settings returns how the object's workloads are held back by an operator,
// what the profile says before what is known.
func (e *edit) settings() []setting {
	if kind := e.operator(); kind != "" {
		var own []setting
		for _, at := range sortedKeys(e.p.Operators[kind]) {
			own = append(own, setting{at: at, value: scalar(e.p.Operators[kind][at])})
		}
		return own
	}
	return operators[e.kind]
}

// operator returns the profile's word for how to hold back objects of this kind,
// "" when it has none.
func (e *edit) operator() string {
	for _, kind := range sortedKeys(e.p.Operators) {
		if isKind(e.orig, kind) {
			return kind
		}
	}
	return ""
}

// scalar reads a number, a string or a boolean; nil when it is none.
func scalar(raw json.RawMessage) any {
	var value any
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		return nil
	}
	switch value.(type) {
	case string, bool, int64, float64:
		return value
	}
	return nil
}

// holdFields applies settings and remembers what was there.
func (e *edit) holdFields(settings []setting) {
	var fields []FieldState
	for _, s := range settings {
		f := FieldState{Path: s.at, Held: s.value}
		f.Was = e.get(f.at()...)
		if s.present && f.Was == nil || s.unless != "" && e.get(FieldState{Path: s.unless}.at()...) != nil {
			continue
		}
		e.set(s.value, f.at()...)
		fields = append(fields, f)
	}
	e.set(OriginalState{Fields: fields}.Encode(), "metadata", "annotations", AnnotationOriginalState)
}

// fieldsHeld reports whether every field is still as standby left it.
func fieldsHeld(obj *unstructured.Unstructured, fields []FieldState) bool {
	for _, f := range fields {
		if !reflect.DeepEqual(lookup(obj.Object, f.at()), f.Held) {
			return false
		}
	}
	return len(fields) > 0
}

func (v validator) operators(operators map[string]map[string]json.RawMessage) {
	for _, kind := range sortedKeys(operators) {
		at := v.at("[%s]", kind)
		at.kind(kind)
		if strings.HasPrefix(kind, "*") {
			at.fault("want one kind, so that its objects are found again to be started")
		}
		if len(operators[kind]) == 0 {
			at.fault("want fields and the values that hold it back, such as spec.replicas: 0")
		}
		for _, field := range sortedKeys(operators[kind]) {
			at := at.at("[%s]", field)
			switch {
			case !placePath.MatchString(field) || strings.Contains(field, "[*]"):
				at.fault("want the path of one field, such as spec.replicas")
			case scalar(operators[kind][field]) == nil:
				at.fault("want a string, a number, true or false")
			}
		}
	}
}
