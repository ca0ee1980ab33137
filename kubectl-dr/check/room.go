package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	admissionv1api "k8s.io/api/admissionregistration/v1"
	corev1api "k8s.io/api/core/v1"
	discoveryv1api "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// counted are the resources that are added up.
var counted = []corev1api.ResourceName{corev1api.ResourceCPU, corev1api.ResourceMemory}

// requests adds up what the containers of a pod ask for. Those that run before the
// others count where they ask for more.
func requests(spec *corev1api.PodSpec) corev1api.ResourceList {
	sum := corev1api.ResourceList{}
	for _, name := range counted {
		var total resource.Quantity
		for _, c := range spec.Containers {
			total.Add(c.Resources.Requests[name])
		}
		for _, c := range spec.InitContainers {
			if q := c.Resources.Requests[name]; q.Cmp(total) > 0 {
				total = q
			}
		}
		sum[name] = total
	}
	return sum
}

// capacity compares what the pods of the backup ask for with what the nodes that
// they may run on have left.
func (in *inspection) capacity(ctx context.Context) {
	if len(in.recovered.pods) == 0 {
		return
	}
	nodes, pods := &corev1api.NodeList{}, &corev1api.PodList{}
	if err := in.Cluster.Client.List(ctx, nodes); err != nil {
		in.failed("capacity", err, "")
		return
	}
	if err := in.Cluster.Client.List(ctx, pods); err != nil {
		in.failed("capacity", err, "")
		return
	}
	free := in.free(nodes, pods)
	for _, name := range counted {
		var needed, left, most, roomiest resource.Quantity
		var biggest string
		for _, t := range in.recovered.pods {
			asked := requests(&t.spec)[name]
			if asked.Cmp(most) > 0 {
				most, biggest = asked, t.String()
			}
			for range t.count {
				needed.Add(asked)
			}
		}
		for _, f := range free {
			q := f[name]
			if q.Sign() > 0 {
				left.Add(q)
			}
			if q.Cmp(roomiest) > 0 {
				roomiest = q
			}
		}
		what := string(name) + " for pods"
		switch {
		case needed.IsZero():
			in.skip(what, "no pod of the backup asks for any")
		case len(free) == 0:
			in.skip(what, "no node says how much it has")
		case needed.Cmp(left) > 0:
			in.problem(what, fmt.Sprintf("the backup's pods ask for %s, and nodes that may run them have %s left", &needed, &left),
				"add nodes, stop something, or ask for less by a patch of the profile")
		case most.Cmp(roomiest) > 0:
			in.problem(what, fmt.Sprintf("a pod of %s asks for %s, and no node that may run it has more than %s left", biggest, &most, &roomiest),
				"add a node that is large enough")
		default:
			in.ok(what, fmt.Sprintf("%s needed, %s left", &needed, &left))
		}
	}
}

// free returns what Ready nodes have left that pods of the failover's profile may
// run on. What runs in the plan's namespaces doesn't count: a failover has room for
// itself.
func (in *inspection) free(nodes *corev1api.NodeList, pods *corev1api.PodList) map[string]corev1api.ResourceList {
	profile := in.profile(plan.RunFailover)
	free := map[string]corev1api.ResourceList{}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if nodeReady(n) && len(n.Status.Allocatable) > 0 && (profile == nil || selected(n, profile) && tolerated(n, profile)) {
			free[n.Name] = n.Status.Allocatable.DeepCopy()
		}
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		left, ok := free[p.Spec.NodeName]
		if !ok || p.Status.Phase == corev1api.PodSucceeded || p.Status.Phase == corev1api.PodFailed || slices.Contains(in.plan.Spec.Source.Namespaces, p.Namespace) {
			continue
		}
		for name, asked := range requests(&p.Spec) {
			q := left[name]
			q.Sub(asked)
			left[name] = q
		}
	}
	return free
}

// quotas compares with the limits of the namespaces that are there, and of those
// that the backup brings.
func (in *inspection) quotas(ctx context.Context) {
	quotas := &corev1api.ResourceQuotaList{}
	for _, ns := range in.plan.Spec.Source.Namespaces {
		list := &corev1api.ResourceQuotaList{}
		if err := in.Cluster.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
			in.failed("quotas of namespace "+ns, err, "")
			continue
		}
		quotas.Items = append(quotas.Items, list.Items...)
	}
	for _, obj := range in.recovered.objects {
		q := corev1api.ResourceQuota{}
		known := func(have corev1api.ResourceQuota) bool {
			return have.Namespace == obj.GetNamespace() && have.Name == obj.GetName()
		}
		if obj.GetKind() != "ResourceQuota" || slices.ContainsFunc(quotas.Items, known) ||
			runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &q) != nil {
			continue
		}
		quotas.Items = append(quotas.Items, q)
	}
	for i := range quotas.Items {
		in.quota(&quotas.Items[i])
	}
}

func (in *inspection) quota(q *corev1api.ResourceQuota) {
	if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
		return // it is for some pods alone
	}
	needs := in.needs(q.Namespace)
	what := fmt.Sprintf("quota %s/%s", q.Namespace, q.Name)
	fits := true
	for _, name := range slices.Sorted(maps.Keys(q.Spec.Hard)) {
		hard := q.Spec.Hard[name]
		if need, ok := needs[name]; ok && need.Cmp(hard) > 0 {
			fits = false
			in.problem(what, fmt.Sprintf("the backup needs %s of %s, and it allows %s", &need, name, &hard), "raise it")
		}
	}
	if fits {
		in.ok(what, "")
	}
}

// needs adds up what a namespace of the backup uses, by the names that quotas have.
func (in *inspection) needs(ns string) corev1api.ResourceList {
	sums := map[corev1api.ResourceName]*resource.Quantity{}
	add := func(name corev1api.ResourceName, q resource.Quantity) {
		if sums[name] == nil {
			sums[name] = &resource.Quantity{}
		}
		sums[name].Add(q)
	}
	for _, t := range in.recovered.pods {
		if t.of.GetNamespace() != ns {
			continue
		}
		for range t.count {
			add(corev1api.ResourcePods, resource.MustParse("1"))
			for name, q := range requests(&t.spec) {
				add(name, q)
				add("requests."+name, q)
			}
		}
	}
	for _, obj := range in.recovered.objects {
		if obj.GetNamespace() != ns || obj.GetKind() != "PersistentVolumeClaim" {
			continue
		}
		add(corev1api.ResourcePersistentVolumeClaims, resource.MustParse("1"))
		claim := corev1api.PersistentVolumeClaim{}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &claim) == nil {
			add(corev1api.ResourceRequestsStorage, claim.Spec.Resources.Requests[corev1api.ResourceStorage])
		}
	}
	all := corev1api.ResourceList{}
	for name, q := range sums {
		all[name] = *q
	}
	return all
}

// hook is one admission webhook.
type hook struct {
	of       string // kind and name of its configuration
	name     string
	policy   *admissionv1api.FailurePolicyType
	service  *admissionv1api.ServiceReference
	rules    []admissionv1api.RuleWithOperations
	selector *metav1.LabelSelector
}

// webhooks looks for those that refuse what is restored because nobody answers for
// them.
func (in *inspection) webhooks(ctx context.Context) {
	if in.contents == nil {
		return
	}
	validating, mutating := &admissionv1api.ValidatingWebhookConfigurationList{}, &admissionv1api.MutatingWebhookConfigurationList{}
	if err := in.Cluster.Client.List(ctx, validating); err != nil {
		in.failed("webhooks", err, "")
		return
	}
	if err := in.Cluster.Client.List(ctx, mutating); err != nil {
		in.failed("webhooks", err, "")
		return
	}
	var hooks []hook
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			hooks = append(hooks, hook{"ValidatingWebhookConfiguration " + c.Name, w.Name, w.FailurePolicy, w.ClientConfig.Service, w.Rules, w.NamespaceSelector})
		}
	}
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			hooks = append(hooks, hook{"MutatingWebhookConfiguration " + c.Name, w.Name, w.FailurePolicy, w.ClientConfig.Service, w.Rules, w.NamespaceSelector})
		}
	}
	asked := 0
	for _, h := range hooks {
		if !in.concerns(h) {
			continue
		}
		asked++
		if h.service == nil || h.policy != nil && *h.policy == admissionv1api.Ignore {
			continue // it is elsewhere, or stops nothing
		}
		answers, err := in.answered(ctx, h.service)
		service := h.service.Namespace + "/" + h.service.Name
		switch {
		case err != nil:
			in.failed("webhook "+h.name, err, "")
		case !answers:
			in.problem("webhook "+h.name, fmt.Sprintf("no pod answers for its service %s: everything it is asked about is refused", service),
				"start what it belongs to, or delete "+h.of+" if nothing does any more")
		}
	}
	if asked > 0 {
		in.ok("webhooks", fmt.Sprintf("asked about what is restored: %d", asked))
	}
}

// concerns reports whether a webhook is asked about an object of the backup.
func (in *inspection) concerns(h hook) bool {
	if selector, err := metav1.LabelSelectorAsSelector(h.selector); err == nil && h.selector != nil && !selector.Empty() {
		if !slices.ContainsFunc(in.plan.Spec.Source.Namespaces, func(ns string) bool { return selector.Matches(in.labels(ns)) }) {
			return false
		}
	}
	for kind, names := range in.contents {
		if !in.ours(names) {
			continue
		}
		gvk := parseKind(kind)
		mapping, err := in.Cluster.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(h.rules, func(r admissionv1api.RuleWithOperations) bool {
			created := slices.Contains(r.Operations, admissionv1api.Create) || slices.Contains(r.Operations, admissionv1api.OperationAll)
			return created && matches(r.APIGroups, gvk.Group) && matches(r.APIVersions, gvk.Version) && matches(r.Resources, mapping.Resource.Resource)
		}) {
			return true
		}
	}
	return false
}

func matches(all []string, one string) bool {
	return slices.Contains(all, one) || slices.ContainsFunc(all, func(s string) bool { return s == "*" || s == "*/*" })
}

// labels returns those that a namespace is restored with.
func (in *inspection) labels(ns string) labels.Set {
	set := labels.Set{corev1api.LabelMetadataName: ns}
	for _, obj := range in.recovered.objects {
		if obj.GetKind() == "Namespace" && obj.GetName() == ns {
			maps.Copy(set, obj.GetLabels())
		}
	}
	return set
}

// answered reports whether a Service has a pod that is ready.
func (in *inspection) answered(ctx context.Context, s *admissionv1api.ServiceReference) (bool, error) {
	slicesOf := &discoveryv1api.EndpointSliceList{}
	err := in.Cluster.Client.List(ctx, slicesOf, client.InNamespace(s.Namespace), client.MatchingLabels{discoveryv1api.LabelServiceName: s.Name})
	if err != nil {
		return false, fmt.Errorf("list endpoints of service %s/%s: %w", s.Namespace, s.Name, err)
	}
	return slices.ContainsFunc(slicesOf.Items, func(e discoveryv1api.EndpointSlice) bool {
		return slices.ContainsFunc(e.Endpoints, func(p discoveryv1api.Endpoint) bool {
			return len(p.Addresses) > 0 && (p.Conditions.Ready == nil || *p.Conditions.Ready)
		})
	}), nil
}
