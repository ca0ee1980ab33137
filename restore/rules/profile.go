package rules

import (
	"encoding/json"
	"regexp"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
)

// document is one YAML document of profiles.
type document struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Profiles   []Profile `json:"profiles"`
}

// Profile is a named set of rewrites. A restore uses one profile.
type Profile struct {
	// Name is what a restore's kubectl-dr.io/profile says. It must be usable as
	// a label value.
	Name string `json:"name"`
	// Description is for people.
	Description string `json:"description,omitempty"`
	// Match narrows the whole profile; objects outside it pass untouched. Objects
	// of no namespace are inside every namespace here, unlike in other matches.
	Match *Match `json:"match,omitempty"`
	// Drop lists objects that are not restored.
	Drop []Match `json:"drop,omitempty"`

	// Rewrites are for every object.
	Rewrites

	// Rules are further rewrites for some objects. Where several say something
	// about the same thing, a rule goes before the profile and a later rule
	// before an earlier one; mappings and lists add up.
	Rules []Rule `json:"rules,omitempty"`
	// Patches say what no rewrite can. They come last, in order, on the rewritten
	// object.
	Patches []Patch `json:"patches,omitempty"`

	// source is "file:line" of the profile.
	source string
	// effective keeps the rewrites of each combination of rules.
	effective *sync.Map
	// namespaces are those that a restore maps; see [Profile.InNamespaces].
	namespaces map[string]string
}

// Rule is a set of rewrites for some objects.
type Rule struct {
	// Match selects the objects.
	Match Match `json:"match"`
	Rewrites
}

// Match selects objects as they were in the backup, by everything it says; a
// list selects what any of its members does.
type Match struct {
	// Kinds and ExcludeKinds are "<Kind>", "<Kind>.<group>" or "*.<group>".
	Kinds        []string `json:"kinds,omitempty"`
	ExcludeKinds []string `json:"excludeKinds,omitempty"`
	// Namespaces are source namespaces. A PersistentVolume is in its claim's. An
	// asterisk stands for anything.
	Namespaces []string `json:"namespaces,omitempty"`
	// Names are objects' names. An asterisk stands for anything.
	Names []string `json:"names,omitempty"`
	// LabelSelector is written as for kubectl -l.
	LabelSelector string `json:"labelSelector,omitempty"`
	// Condition is a CEL expression over object that is true or false. An object
	// without a field that it names isn't selected.
	Condition string `json:"condition,omitempty"`

	selector  labels.Selector
	condition Expression
}

// Patch changes what it selects in a way of its own: exactly one of JSONPatch,
// MergePatch and CEL. Metadata.name and metadata.namespace stay as the rewrites
// leave them.
type Patch struct {
	// Match selects the objects as they were in the backup.
	Match Match `json:"match"`
	// JSONPatch is a list of operations of RFC 6902.
	JSONPatch json.RawMessage `json:"jsonPatch,omitempty"`
	// MergePatch is a patch of RFC 7386.
	MergePatch json.RawMessage `json:"mergePatch,omitempty"`
	// CEL maps JSON pointers, as in a JSON patch, to CEL expressions over object,
	// which is the object as it was in the backup.
	CEL map[string]string `json:"cel,omitempty"`

	change change
}

// Rewrites says what to rewrite. Every field is optional, and an absent field
// changes nothing.
type Rewrites struct {
	// State is "keep" (the default) or "standby": workloads come up with nothing
	// running and remember what they had.
	State State `json:"state,omitempty"`
	// FinishedJobs is "drop" (the default) or "keep", which restores finished Jobs
	// and so runs them again.
	FinishedJobs FinishedJobs `json:"finishedJobs,omitempty"`
	// Operators says how to hold back further kinds, "<Kind>" or "<Kind>.<group>":
	// the values of fields that make their operator stop them.
	Operators map[string]map[string]json.RawMessage `json:"operators,omitempty"`
	// Replicas maps "<kind>/<name>", for example deployment/wordpress, to a
	// number of replicas. With state standby it is the number remembered. An
	// autoscaler's minimum comes down to it.
	Replicas map[string]int64 `json:"replicas,omitempty"`

	// Hosts maps host names wherever a kind is known to hold them.
	Hosts []HostMapping `json:"hosts,omitempty"`
	// HostsIn opts free text into host mapping.
	HostsIn *HostsIn `json:"hostsIn,omitempty"`
	// ExternalDNS is "keep" (the default), "mute" (external-dns publishes nothing
	// for the restored objects) or "claim" (it publishes them even if they were
	// muted).
	ExternalDNS ExternalDNS `json:"externalDNS,omitempty"`
	// Traffic is for applications with a shared host and a host for each site, and
	// in the place of ExternalDNS: "passive" publishes only hosts that the mapping
	// produces, "active" publishes all.
	Traffic Traffic `json:"traffic,omitempty"`
	// Certificates is "keep" (the default) or one of these, which all leave out
	// requests that cert-manager has under way: "keepSecret" uses the certificates
	// of the backup as they are and has none issued; "reissue" has all issued
	// anew, for the mapped hosts; "staging" does so at Let's Encrypt's staging
	// server.
	Certificates Certificates `json:"certificates,omitempty"`
	// Issuers maps names of cert-manager's Issuers and ClusterIssuers.
	Issuers map[string]string `json:"issuers,omitempty"`
	// ExternalDNSPrefixes are annotation prefixes in use besides
	// external-dns.alpha.kubernetes.io/ and external-dns.kubernetes.io/; each
	// ends with a slash.
	ExternalDNSPrefixes []string `json:"externalDNSPrefixes,omitempty"`

	// The classes map names in every kind that names one; see the tables in
	// docs/rewriting.md. The name "*" stands for any that the mapping neither names
	// nor produces.
	StorageClasses      map[string]string `json:"storageClasses,omitempty"`
	IngressClasses      map[string]string `json:"ingressClasses,omitempty"`
	GatewayClasses      map[string]string `json:"gatewayClasses,omitempty"`
	PriorityClasses     map[string]string `json:"priorityClasses,omitempty"`
	RuntimeClasses      map[string]string `json:"runtimeClasses,omitempty"`
	LoadBalancerClasses map[string]string `json:"loadBalancerClasses,omitempty"`

	// AddressPools maps names of Calico's and MetalLB's address pools.
	AddressPools map[string]string `json:"addressPools,omitempty"`
	// Addresses maps IP addresses that Services, Gateways, Pods, Certificates and DNS
	// records ask for, and ranges, such as 192.0.2.0/24, that are let in or out.
	Addresses map[string]string `json:"addresses,omitempty"`
	// LoadBalancer changes what Services ask of their load balancer.
	LoadBalancer *LoadBalancer `json:"loadBalancer,omitempty"`
	// IPFamilies sets the IP families of Services.
	IPFamilies *IPFamilies `json:"ipFamilies,omitempty"`
	// ServiceTypes maps LoadBalancer or NodePort to NodePort or ClusterIP.
	ServiceTypes map[string]string `json:"serviceTypes,omitempty"`

	// Images maps registries, or registries and the beginning of a repository. The
	// longest wins. Credentials in pull secrets are there for the new registry too.
	Images map[string]string `json:"images,omitempty"`
	// ImagePullSecrets maps names of pull secrets in pods and ServiceAccounts.
	ImagePullSecrets map[string]string `json:"imagePullSecrets,omitempty"`
	// PodTemplates says where further kinds, "<Kind>" or "<Kind>.<group>", hold
	// pod templates, for example spec.template or spec.groups[*].template.
	PodTemplates map[string]string `json:"podTemplates,omitempty"`

	// NodeLabels maps values of node labels, by label, in node selectors, node
	// affinity and the topology of volumes.
	NodeLabels map[string]map[string]string `json:"nodeLabels,omitempty"`
	// NodeLabelKeys maps the labels themselves, there and as topology keys of pod
	// affinity and of topology spread constraints, after their values.
	NodeLabelKeys map[string]string `json:"nodeLabelKeys,omitempty"`
	// Affinity takes away what ties pods to nodes or to each other.
	Affinity *Affinity `json:"affinity,omitempty"`
	// NodeSelector changes the node selector of Pods and pod templates.
	NodeSelector *Entries `json:"nodeSelector,omitempty"`
	// Tolerations changes the tolerations of Pods and pod templates.
	Tolerations *Tolerations `json:"tolerations,omitempty"`
	// LabelValues maps values of labels, by label, on objects and pod templates and
	// in the selectors that look for them. The value "*" stands for all others, and an
	// asterisk in what it maps to for the value: "*-drill".
	LabelValues map[string]map[string]string `json:"labelValues,omitempty"`
	// Names maps names of objects, by kind: ConfigMap, PersistentVolumeClaim, Secret,
	// Service and ServiceAccount, and follows references to them. The name "*" stands
	// for all others, and an asterisk in what it maps to for the name: "*-dr". Only
	// the profile as a whole may have it, since references are anywhere.
	Names map[string]map[string]string `json:"names,omitempty"`
	// GitOps is "keep" (the default) or "strip": takes away the labels and
	// annotations by which Argo CD, Flux and Fleet know what is theirs to prune, but
	// not app.kubernetes.io/instance, which selectors look for too: map that by
	// LabelValues where Argo CD tracks by label.
	GitOps GitOps `json:"gitOps,omitempty"`
	// Labels and Annotations change the metadata of every object. They come
	// last, so what they set wins over every other rule.
	Labels      *Entries `json:"labels,omitempty"`
	Annotations *Entries `json:"annotations,omitempty"`
}

// State says how workloads come up.
type State string

// The states.
const (
	StateKeep    State = "keep"
	StateStandby State = "standby"
)

// FinishedJobs says what becomes of Jobs that have finished.
type FinishedJobs string

// The settings.
const (
	FinishedJobsKeep FinishedJobs = "keep"
	FinishedJobsDrop FinishedJobs = "drop"
)

// GitOps says whether restored objects stay a GitOps controller's.
type GitOps string

// The settings.
const (
	GitOpsKeep  GitOps = "keep"
	GitOpsStrip GitOps = "strip"
)

// HostMapping maps one host, every host below a domain, or every host that an
// expression matches.
type HostMapping struct {
	// From is a host name, or "*." and a domain: every name below the domain, at
	// any depth. The most specific mapping wins. A host that some mapping of the
	// profile produces is left alone.
	From string `json:"from,omitempty"`
	// FromRegexp is an expression (RE2) that matches whole hosts, in the place of
	// From. It comes after every other mapping.
	FromRegexp string `json:"fromRegexp,omitempty"`
	// To is a host name; when From begins with "*.", "*." and a domain that takes
	// the place of From's; with FromRegexp it may hold captures such as $1.
	To string `json:"to"`
	// Mode is "replace" (the default) or "add".
	Mode HostMode `json:"mode,omitempty"`

	expression *regexp.Regexp
	shape      *regexp.Regexp // of what To makes
}

// HostMode says what becomes of the old host.
type HostMode string

// The modes.
const (
	// HostReplace puts the new host in the place of the old one.
	HostReplace HostMode = "replace"
	// HostAdd puts the new host beside the old one. Where only one host fits
	// (commonName, externalName, a variable's value) the old one stays.
	HostAdd HostMode = "add"
)

// HostsIn names free text in which hosts are mapped too, and namespaces in the
// names that cluster DNS gives Services. A host is recognised
// alone and as the host of a URL; scheme, user, port, path and the text around
// stay, so JSON, YAML, ini files and properties stay what they are. Mail
// addresses and paths are left alone.
type HostsIn struct {
	// ConfigMaps are names of ConfigMaps, whose binaryData is looked at where it is text. An asterisk stands for anything.
	ConfigMaps []string `json:"configMaps,omitempty"`
	// Secrets are names of Secrets. An asterisk stands for anything; a name with one
	// leaves out Secrets of types that Kubernetes keeps, such as TLS keys.
	Secrets []string `json:"secrets,omitempty"`
	// Env are names of environment variables of containers. An asterisk stands
	// for anything.
	Env []string `json:"env,omitempty"`
	// Args are names of containers, of whose commands and arguments hosts are
	// mapped. An asterisk stands for anything.
	Args []string `json:"args,omitempty"`
}

// ExternalDNS says whether external-dns may publish restored objects.
type ExternalDNS string

// The settings.
const (
	ExternalDNSKeep  ExternalDNS = "keep"
	ExternalDNSMute  ExternalDNS = "mute"
	ExternalDNSClaim ExternalDNS = "claim"
)

// Traffic says whether the shared hosts lead to the restored objects.
type Traffic string

// The roles.
const (
	TrafficActive  Traffic = "active"
	TrafficPassive Traffic = "passive"
)

// Certificates says where restored objects get their certificates from.
type Certificates string

// The settings.
const (
	CertificatesKeep       Certificates = "keep"
	CertificatesKeepSecret Certificates = "keepSecret"
	CertificatesReissue    Certificates = "reissue"
	CertificatesStaging    Certificates = "staging"
)

// LoadBalancer changes what Services ask of their load balancer.
type LoadBalancer struct {
	// DropNodePorts lets the cluster choose node ports anew.
	DropNodePorts bool `json:"dropNodePorts,omitempty"`
	// LoadBalancerIP replaces the address of Services that ask for one; "" asks
	// for none.
	LoadBalancerIP *string `json:"loadBalancerIP,omitempty"`
	// ExternalIPs replaces the addresses of Services that have some; [] removes
	// them.
	ExternalIPs *[]string `json:"externalIPs,omitempty"`
}

// IPFamilies says which IP families Services have.
type IPFamilies struct {
	// Policy is SingleStack, PreferDualStack or RequireDualStack.
	Policy string `json:"policy,omitempty"`
	// Families are IPv4, IPv6 or both; the first is the cluster IP's.
	Families []string `json:"families,omitempty"`
}

// Affinity changes what ties pods.
type Affinity struct {
	// Remove lists nodeAffinity, podAffinity, podAntiAffinity and
	// topologySpreadConstraints.
	Remove []string `json:"remove,omitempty"`
}

// Entries changes a map of strings.
type Entries struct {
	// Set adds or replaces entries.
	Set map[string]string `json:"set,omitempty"`
	// Remove lists keys; one that ends with "*" removes every key it begins.
	Remove []string `json:"remove,omitempty"`
}

// Tolerations changes a list of tolerations.
type Tolerations struct {
	// Add lists tolerations to have; one that is there isn't added again.
	Add []Toleration `json:"add,omitempty"`
	// Remove removes every toleration that has all the fields given.
	Remove []Toleration `json:"remove,omitempty"`
}

// Toleration is a toleration as Kubernetes has it.
type Toleration struct {
	Key               string `json:"key,omitempty"`
	Operator          string `json:"operator,omitempty"`
	Value             string `json:"value,omitempty"`
	Effect            string `json:"effect,omitempty"`
	TolerationSeconds *int64 `json:"tolerationSeconds,omitempty"`
}
