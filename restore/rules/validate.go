package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// validate reports what a document's types can't express.
func validate(c *checker, doc *document) {
	if doc.APIVersion != APIVersion {
		c.fault("apiVersion", "want %q, got %q", APIVersion, doc.APIVersion)
	}
	if doc.Kind != Kind {
		c.fault("kind", "want %q, got %q", Kind, doc.Kind)
	}
	if len(doc.Profiles) == 0 {
		c.fault("profiles", "want at least one profile")
	}
	for i := range doc.Profiles {
		v := validator{c, fmt.Sprintf("profiles[%d]", i)}
		v.profile(&doc.Profiles[i])
	}
}

type validator struct {
	c    *checker
	base string
}

func (v validator) at(format string, args ...any) validator {
	return validator{v.c, v.base + fmt.Sprintf(format, args...)}
}

func (v validator) fault(format string, args ...any) { v.c.fault(v.base, format, args...) }

func (v validator) profile(p *Profile) {
	switch {
	case p.Name == "":
		v.fault("it has no name")
	case len(validation.IsValidLabelValue(p.Name)) > 0:
		v.at(".name").fault("%q can't be a label's value: %s", p.Name, validation.IsValidLabelValue(p.Name)[0])
	}
	if p.Match != nil {
		v.at(".match").match(p.Match)
	}
	for i := range p.Drop {
		v.at(".drop[%d]", i).matchSome(&p.Drop[i])
	}
	v.rewrites(&p.Rewrites)
	for i := range p.Rules {
		v.at(".rules[%d].match", i).matchSome(&p.Rules[i].Match)
		v.at(".rules[%d]", i).rewrites(&p.Rules[i].Rewrites)
		if p.Rules[i].Names != nil {
			v.at(".rules[%d].names", i).fault("references to an object are in others, which the rule may not select; write names on the profile")
		}
	}
	v.names(p)
	v.across(p)
	for i := range p.Patches {
		v.at(".patches[%d]", i).patch(&p.Patches[i])
	}
}

// across refuses rules that carry further what others write: each is sound by
// itself, and they may meet on one object.
func (v validator) across(p *Profile) {
	type scope struct {
		validator
		*Rewrites
	}
	scopes := []scope{{v, &p.Rewrites}}
	for i := range p.Rules {
		scopes = append(scopes, scope{v.at(".rules[%d]", i), &p.Rules[i].Rewrites})
	}
	for i := range p.Rules {
		selector := p.Rules[i].Match.selector
		if selector == nil {
			continue
		}
		requirements, _ := selector.Requirements()
		for _, r := range requirements {
			for _, s := range scopes {
				if _, set := s.labelSet()[r.Key()]; set || s.Labels != nil && s.Labels.removes(r.Key()) {
					v.at(".rules[%d].match.labelSelector", i).fault("%s.labels changes %q, so a second restore would select others", s.base, r.Key())
				}
			}
		}
	}
	for i, s := range scopes {
		for j, other := range scopes {
			if i == j {
				continue
			}
			for field, mapping := range s.mappings() {
				for _, to := range sortedKeys(mapping) {
					if slices.Contains(slices.Collect(maps.Values(other.mappings()[field])), to) {
						s.at(".%s[%s]", field, to).fault("%s maps to %q, so a second restore would carry a value further; use two profiles", other.base, to)
					}
				}
			}
			for k, h := range s.Hosts {
				for l, o := range other.Hosts {
					if h.expression == nil && o.produces(h.From) {
						s.at(".hosts[%d].from", k).fault("%s.hosts[%d] maps to %q, which is left alone from then on, so this can never apply; map to the final name, or use two profiles", other.base, l, o.To)
					}
				}
			}
		}
	}
}

func (r *Rewrites) labelSet() map[string]string {
	if r.Labels == nil {
		return nil
	}
	return r.Labels.Set
}

// mappings returns the mappings from one string to another, by field.
func (r *Rewrites) mappings() map[string]map[string]string {
	found := map[string]map[string]string{}
	v := reflect.ValueOf(*r)
	for i := range v.NumField() {
		if m, ok := v.Field(i).Interface().(map[string]string); ok && len(m) > 0 {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			found[name] = m
		}
	}
	return found
}

// matchSome is match for what would be too much for every object.
func (v validator) matchSome(m *Match) {
	if reflect.ValueOf(*m).IsZero() {
		v.fault("it selects everything; say what to select")
	}
	v.match(m)
}

// match checks and compiles.
func (v validator) match(m *Match) {
	for i, kind := range m.Kinds {
		v.at(".kinds[%d]", i).kind(kind)
	}
	for i, kind := range m.ExcludeKinds {
		v.at(".excludeKinds[%d]", i).kind(kind)
	}
	for i, ns := range m.Namespaces {
		if problems := validation.IsDNS1123Label(strings.ReplaceAll(ns, "*", "a")); len(problems) > 0 {
			v.at(".namespaces[%d]", i).fault("%q is no namespace: %s", ns, problems[0])
		}
	}
	for i, name := range m.Names {
		if name == "" {
			v.at(".names[%d]", i).fault("it is empty")
		}
	}
	if m.LabelSelector != "" {
		var err error
		if m.selector, err = labels.Parse(m.LabelSelector); err != nil {
			v.at(".labelSelector").fault("%s", err)
		}
	}
	if m.Condition != "" {
		var err error
		if m.condition, err = v.c.languages.Condition(m.Condition); err != nil {
			v.at(".condition").fault("%s", err)
		}
	}
}

func (v validator) rewrites(p *Rewrites) {
	v.at(".state").oneOf(string(p.State), "", string(StateKeep), string(StateStandby))
	v.at(".finishedJobs").oneOf(string(p.FinishedJobs), "", string(FinishedJobsKeep), string(FinishedJobsDrop))
	v.at(".operators").operators(p.Operators)
	v.at(".replicas").replicas(p.Replicas)
	v.at(".hosts").hosts(p.Hosts)
	v.at(".externalDNS").oneOf(string(p.ExternalDNS), "", string(ExternalDNSKeep), string(ExternalDNSMute), string(ExternalDNSClaim))
	v.at(".traffic").oneOf(string(p.Traffic), "", string(TrafficActive), string(TrafficPassive))
	if p.Traffic != "" && p.ExternalDNS != "" {
		v.at(".traffic").fault("it says what external-dns publishes; leave out externalDNS")
	}
	if p.Traffic == TrafficPassive && len(p.Hosts) == 0 {
		v.at(".traffic").fault("passive publishes the hosts that are mapped to; map some with hosts")
	}
	v.at(".certificates").oneOf(string(p.Certificates), "", string(CertificatesKeep), string(CertificatesKeepSecret), string(CertificatesReissue), string(CertificatesStaging))
	v.at(".issuers").mapping(p.Issuers)
	for i, prefix := range p.ExternalDNSPrefixes {
		if name, ok := strings.CutSuffix(prefix, "/"); !ok || len(validation.IsDNS1123Subdomain(name)) > 0 {
			v.at(".externalDNSPrefixes[%d]", i).fault("want a domain and a slash, got %q", prefix)
		}
	}
	mappings := map[string]map[string]string{
		"storageClasses": p.StorageClasses, "ingressClasses": p.IngressClasses, "gatewayClasses": p.GatewayClasses,
		"priorityClasses": p.PriorityClasses, "runtimeClasses": p.RuntimeClasses, "loadBalancerClasses": p.LoadBalancerClasses,
		"addressPools": p.AddressPools, "nodeLabelKeys": p.NodeLabelKeys, "images": p.Images, "imagePullSecrets": p.ImagePullSecrets,
	}
	for _, field := range sortedKeys(mappings) {
		v.at(".%s", field).mapping(mappings[field])
	}
	for _, label := range sortedKeys(p.NodeLabels) {
		v.at(".nodeLabels[%s]", label).mapping(p.NodeLabels[label])
	}
	for _, from := range sortedKeys(p.NodeLabelKeys) {
		if to := p.NodeLabelKeys[from]; p.NodeLabels[to] != nil {
			v.at(".nodeLabelKeys[%s]", from).fault("nodeLabels maps values of %q, so a second restore would carry them further; use two profiles", to)
		}
	}
	if p.Affinity != nil {
		for i, name := range p.Affinity.Remove {
			v.at(".affinity.remove[%d]", i).oneOf(name, append([]string{""}, sortedKeys(affinities)...)...)
		}
	}
	for _, kind := range sortedKeys(p.PodTemplates) {
		at := v.at(".podTemplates[%s]", kind)
		at.kind(kind)
		if !placePath.MatchString(p.PodTemplates[kind]) {
			at.fault("want a path such as spec.template, got %q", p.PodTemplates[kind])
		}
	}
	v.at(".ipFamilies").ipFamilies(p.IPFamilies)
	v.at(".addresses").mapping(p.Addresses)
	for _, from := range slices.Sorted(maps.Keys(p.Addresses)) {
		at, to := v.at(".addresses[%s]", from), p.Addresses[from]
		if _, err := netip.ParsePrefix(from); err == nil {
			if _, err := netip.ParsePrefix(to); err != nil {
				at.fault("%q is no range of IP addresses", to)
			}
			continue
		}
		at.address(from)
		at.address(to)
	}
	if lb := p.LoadBalancer; lb != nil {
		if lb.LoadBalancerIP != nil && *lb.LoadBalancerIP != "" {
			v.at(".loadBalancer.loadBalancerIP").address(*lb.LoadBalancerIP)
		}
		if lb.ExternalIPs != nil {
			for i, ip := range *lb.ExternalIPs {
				v.at(".loadBalancer.externalIPs[%d]", i).address(ip)
			}
		}
	}
	for _, from := range slices.Sorted(maps.Keys(p.ServiceTypes)) {
		to := p.ServiceTypes[from]
		if !slices.Contains([]string{"LoadBalancer>NodePort", "LoadBalancer>ClusterIP", "NodePort>ClusterIP"}, from+">"+to) {
			v.at(".serviceTypes[%s]", from).fault("a Service of type %q can't become one of type %q", from, to)
		}
	}
	if _, chained := p.ServiceTypes[p.ServiceTypes["LoadBalancer"]]; chained {
		v.at(".serviceTypes").fault("NodePort is both mapped and mapped to; map both types to ClusterIP")
	}
	for _, label := range sortedKeys(p.LabelValues) {
		at := v.at(".labelValues[%s]", label)
		at.mapping(p.LabelValues[label])
		for _, from := range sortedKeys(p.LabelValues[label]) {
			to, every := p.LabelValues[label][from], p.LabelValues[label]["*"]
			if problems := validation.IsValidLabelValue(strings.Replace(to, "*", "a", 1)); len(problems) > 0 || to == "*" || from != "*" && strings.Contains(to, "*") {
				at.at("[%s]", from).fault("%q is no value: %s", to, append(problems, `an asterisk is for what "*" maps to, with something before or after it`)[0])
			}
			if from != "*" && every != "" && wildcard(every, from) {
				at.at("[%s]", from).fault("%q looks like what \"*\" maps to; a second restore would carry it further", from)
			}
		}
		if p.Labels != nil && (p.Labels.removes(label) || p.Labels.Set[label] != "") {
			at.fault("labels changes it too; selectors would miss it")
		}
	}
	v.at(".gitOps").oneOf(string(p.GitOps), "", string(GitOpsKeep), string(GitOpsStrip))
	v.at(".labels").entries(p.Labels, qualifiedName, validation.IsValidLabelValue)
	v.at(".nodeSelector").entries(p.NodeSelector, qualifiedName, validation.IsValidLabelValue)
	v.at(".annotations").entries(p.Annotations, qualifiedName, nil)
	if t := p.Tolerations; t != nil {
		for i, one := range t.Add {
			v.at(".tolerations.add[%d]", i).toleration(one)
		}
		for i, one := range t.Remove {
			v.at(".tolerations.remove[%d]", i).tolerationPattern(one)
			for j, add := range t.Add {
				if one != (Toleration{}) && one.matches(add.object()) {
					v.at(".tolerations.remove[%d]", i).fault("it removes tolerations.add[%d] again", j)
				}
			}
		}
	}
}

// ownAnnotations are those that a later rewrite or an activation needs.
var ownAnnotations = []string{AnnotationOriginalState, AnnotationPatched}

func qualifiedName(key string) []string { return validation.IsQualifiedName(strings.ToLower(key)) }

func (v validator) kind(kind string) {
	if name, _, _ := strings.Cut(kind, "."); name == "" {
		v.fault("want a kind, or a kind, a dot and a group")
	}
}

func (v validator) oneOf(value string, known ...string) {
	if !slices.Contains(known, value) {
		v.fault("unknown value %q; %s", value, suggest(value, known[1:]))
	}
}

func (v validator) address(ip string) {
	if _, err := netip.ParseAddr(ip); err != nil {
		v.fault("%q is no IP address", ip)
	}
}

func (v validator) replicas(replicas map[string]int64) {
	for _, key := range slices.Sorted(maps.Keys(replicas)) {
		at := v.at("[%s]", key)
		kind, name, ok := strings.Cut(key, "/")
		switch known := scalableKinds(); {
		case !ok || name == "":
			at.fault("want <kind>/<name>, for example deployment/wordpress")
		case !slices.Contains(known, strings.ToLower(kind)):
			at.fault("kind %q has no replicas; %s", kind, suggest(kind, known))
		case replicas[key] < 0:
			at.fault("%d is less than nothing", replicas[key])
		}
	}
}

// mapping refuses what can't be applied twice with the same result.
func (v validator) mapping(m map[string]string) {
	for _, from := range slices.Sorted(maps.Keys(m)) {
		at, to := v.at("[%s]", from), m[from]
		_, again := m[to]
		switch {
		case from == "" || to == "":
			at.fault("neither side may be empty")
		case from == to:
			at.fault("it maps %q to itself", from)
		case again:
			at.fault("%q is both mapped to and mapped from, so a second restore would carry %q further; use two profiles", to, from)
		}
	}
}

// names checks the mappings of names, which follow references and so must not
// leave out what is referred to.
func (v validator) names(p *Profile) {
	if len(p.Names) == 0 {
		return
	}
	if m := p.Match; m != nil {
		if len(m.Kinds)+len(m.Names) > 0 || m.LabelSelector != "" || m.Condition != "" {
			v.at(".match").fault("names follow references, so this may only say which namespaces and kinds to leave out")
		}
		for i, kind := range m.ExcludeKinds {
			if name, _, _ := strings.Cut(kind, "."); slices.ContainsFunc(namedKinds, func(named string) bool {
				return p.Names[named] != nil && strings.EqualFold(name, named)
			}) {
				v.at(".match.excludeKinds[%d]", i).fault("names renames objects of this kind")
			}
		}
	}
	for _, kind := range sortedKeys(p.Names) {
		at, names := v.at(".names[%s]", kind), p.Names[kind]
		at.oneOf(kind, append([]string{""}, namedKinds...)...)
		at.mapping(names)
		for _, from := range sortedKeys(names) {
			to := names[from]
			switch {
			case from == "*" && (strings.Count(to, "*") != 1 || to == "*"):
				at.at("[*]").fault("want an asterisk for the name with something before or after it, such as *-dr; got %q", to)
			case from != "*" && strings.Contains(from+to, "*"):
				at.at("[%s]", from).fault("an asterisk stands for every name alone, and in what it maps to")
			default:
				if problems := validation.IsDNS1123Subdomain(strings.Replace(to, "*", "a", 1)); len(problems) > 0 {
					at.at("[%s]", from).fault("%q is no name: %s", to, problems[0])
				}
				if from != "*" && names["*"] != "" && wildcard(names["*"], from) {
					at.at("[%s]", from).fault("%q looks like what \"*\" maps to; a second restore would carry it further", from)
				}
			}
		}
	}
}

func (v validator) hosts(hosts []HostMapping) {
	valid := true
	for i := range hosts {
		before := len(v.c.faults)
		v.at("[%d]", i).host(&hosts[i])
		valid = valid && len(v.c.faults) == before
	}
	if !valid {
		return
	}
	for i, h := range hosts {
		if h.expression != nil {
			continue
		}
		at := v.at("[%d].from", i)
		if strings.EqualFold(h.From, h.To) {
			at.fault("it maps %q to itself", h.From)
			continue
		}
		for j, other := range hosts {
			switch {
			case j < i && strings.EqualFold(h.From, other.From):
				at.fault("hosts[%d] maps %q already", j, h.From)
			case j != i && other.produces(h.From):
				at.fault("hosts[%d] maps to %q, which is left alone from then on, so this can never apply; map to the final name, or use two profiles", j, other.To)
			}
		}
	}
}

// host checks and compiles one mapping.
func (v validator) host(h *HostMapping) {
	v.at(".mode").oneOf(string(h.Mode), "", string(HostReplace), string(HostAdd))
	if h.FromRegexp != "" {
		if h.From != "" {
			v.fault("want from or fromRegexp, not both")
		}
		v.expression(h)
		return
	}
	before := len(v.c.faults)
	v.at(".from").pattern(h.From)
	v.at(".to").pattern(h.To)
	if len(v.c.faults) == before && strings.HasPrefix(h.From, "*.") != strings.HasPrefix(h.To, "*.") {
		v.fault("either both or neither of from and to begin with \"*.\"")
	}
}

// placePath is what parseSteps reads.
var placePath = regexp.MustCompile(`^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+|\[[^\[\]]+\])*$`)

func (v validator) ipFamilies(f *IPFamilies) {
	if f == nil {
		return
	}
	v.at(".policy").oneOf(f.Policy, "", "SingleStack", "PreferDualStack", "RequireDualStack")
	for i, family := range f.Families {
		v.at(".families[%d]", i).oneOf(family, "", "IPv4", "IPv6")
		if slices.Index(f.Families, family) != i {
			v.at(".families[%d]", i).fault("%s is there already", family)
		}
	}
	if f.Policy == "SingleStack" && len(f.Families) > 1 {
		v.at(".families").fault("SingleStack has one family")
	}
}

var capture = regexp.MustCompile(`\$(?:([0-9]+)|\{(\w+)\})`)

func (v validator) expression(h *HostMapping) {
	expression, err := regexp.Compile(`(?i)^(?:` + h.FromRegexp + `)$`)
	if err != nil {
		v.at(".fromRegexp").fault("%q is no expression: %s", h.FromRegexp, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	v.at(".to").pattern(capture.ReplaceAllString(h.To, "a"))
	shape, at, to := `(?i)^`, 0, ""
	for _, found := range capture.FindAllStringSubmatchIndex(h.To, -1) {
		name := h.To[max(found[2], found[4]):max(found[3], found[5])]
		if n, err := strconv.Atoi(name); err == nil && n > expression.NumSubexp() || err != nil && !slices.Contains(expression.SubexpNames(), name) {
			v.at(".to").fault("fromRegexp has no capture %q", name)
		}
		shape += regexp.QuoteMeta(h.To[at:found[0]]) + `.*`
		to += h.To[at:found[0]] + "${" + name + "}" // a letter may follow $1
		at = found[1]
	}
	h.expression = expression
	h.shape = regexp.MustCompile(shape + regexp.QuoteMeta(h.To[at:]) + `$`)
	h.To = to + h.To[at:]
}

func (v validator) pattern(host string) {
	name := strings.TrimPrefix(host, "*.")
	switch {
	case host == "":
		v.fault("it is empty")
	case strings.Contains(name, "*"):
		v.fault("%q: an asterisk may only stand for the first label, as in *.example.org", host)
	case strings.Contains(host, "://") || strings.ContainsAny(host, "/:"):
		v.fault("%q: want a host alone, without scheme, port or path", host)
	default:
		if problems := validation.IsDNS1123Subdomain(strings.ToLower(name)); len(problems) > 0 {
			v.fault("%q is no host: %s", host, problems[0])
		}
	}
}

func (v validator) entries(e *Entries, key, value func(string) []string) {
	if e == nil {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(e.Set)) {
		at := v.at(".set[%s]", k)
		if problems := key(k); len(problems) > 0 {
			at.fault("%q is no key: %s", k, problems[0])
		}
		if value != nil {
			if problems := value(e.Set[k]); len(problems) > 0 {
				at.fault("%q is no value: %s", e.Set[k], problems[0])
			}
		}
		if e.removes(k) {
			at.fault("it is set and removed")
		}
		if slices.Contains(ownAnnotations, k) {
			at.fault("it is one that rewriting itself keeps")
		}
	}
	for i, k := range e.Remove {
		switch {
		case strings.TrimSuffix(k, "*") == "":
			v.at(".remove[%d]", i).fault("want a key, or the beginning of a key and an asterisk")
		default:
			for _, own := range ownAnnotations {
				if e.removesKey(k, own) {
					v.at(".remove[%d]", i).fault("it would remove %s, which rewriting itself keeps", own)
					break
				}
			}
		}
	}
}

func (v validator) toleration(t Toleration) {
	v.tolerationPattern(t)
	switch {
	case t.Key == "" && t.Operator != "Exists":
		v.fault("a toleration without a key needs operator Exists")
	case t.Operator == "Exists" && t.Value != "":
		v.fault("operator Exists takes no value")
	case t.TolerationSeconds != nil && t.Effect != "NoExecute":
		v.fault("tolerationSeconds needs effect NoExecute")
	}
}

func (v validator) tolerationPattern(t Toleration) {
	if t == (Toleration{}) {
		v.fault("it is empty")
	}
	v.at(".operator").oneOf(t.Operator, "", "Equal", "Exists")
	v.at(".effect").oneOf(t.Effect, "", "NoSchedule", "PreferNoSchedule", "NoExecute")
}
