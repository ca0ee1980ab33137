// Package draft drafts a recovery plan of what runs in namespaces: what is backed
// up, in which order it starts, and how it proves that it works. It reads, and
// guesses only what it says in a comment of the plan.
package draft

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Objectives of a plan that nobody has thought about yet.
const (
	defaultRPO        = 15 * time.Minute
	defaultRTO        = 10 * time.Minute
	defaultDrillEvery = 30 * 24 * time.Hour
)

// Drafter drafts plans.
type Drafter struct {
	Client client.Client
	// VeleroNamespace is where Velero and its Schedules are.
	VeleroNamespace string
	Now             func() time.Time
}

// Draft is a plan and what was seen on the way.
type Draft struct {
	Plan *plan.RecoveryPlan
	// Claims are the volumes, in words.
	Claims []string
	// Why says of each wave, by its name, why it comes when it does.
	Why map[string][]string
	// Others are workloads that no wave can start; they start after the last one.
	Others []string
	// Scheduled: a Schedule of Velero backs the namespaces up already. Until there
	// is one the plan has classes of backups to make it of.
	Scheduled bool
	// Unread says what could not be looked at.
	Unread []string
}

// EmptyError says that there is nothing to recover.
type EmptyError struct{ Namespaces []string }

func (e *EmptyError) Error() string {
	return fmt.Sprintf("there is no workload and no volume in %s", strings.Join(e.Namespaces, ", "))
}

// Hint says where to look.
func (e *EmptyError) Hint() string {
	return "is it the cluster that the application runs in? --source-context or --context names another"
}

// workload is one that a wave can start, or an operator's.
type workload struct {
	plan.Workload
	pod      corev1api.PodTemplateSpec
	database bool
	// hosts lead to it from outside.
	hosts []string
	// needs are other workloads, and why.
	needs map[*workload]string
}

// Draft reads the namespaces.
func (d *Drafter) Draft(ctx context.Context, name string, namespaces []string) (*Draft, error) {
	out := &Draft{Why: map[string][]string{}}
	s := &survey{Drafter: d, draft: out, namespaces: namespaces}
	for _, ns := range namespaces {
		if err := d.Client.Get(ctx, client.ObjectKey{Name: ns}, &corev1api.Namespace{}); err != nil {
			return nil, fmt.Errorf("get namespace %q: %w", ns, err)
		}
		if err := s.read(ctx, ns); err != nil {
			return nil, err
		}
	}
	if len(s.workloads)+len(out.Others)+len(out.Claims) == 0 {
		return nil, &EmptyError{Namespaces: namespaces}
	}
	for _, w := range s.workloads {
		s.connect(ctx, w)
	}
	out.Plan = &plan.RecoveryPlan{
		TypeMeta:   metav1.TypeMeta{APIVersion: plan.GroupVersion.String(), Kind: "RecoveryPlan"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: d.VeleroNamespace},
	}
	spec := &out.Plan.Spec
	spec.Objectives = plan.Objectives{RPO: span(defaultRPO), RTO: span(defaultRTO), DrillEvery: &metav1.Duration{Duration: defaultDrillEvery}}
	spec.Source = plan.Source{Namespaces: namespaces, Schedule: name}
	if d.VeleroNamespace != "velero" {
		spec.Source.VeleroNamespace = d.VeleroNamespace
	}
	if err := s.schedule(ctx, spec); err != nil {
		return nil, err
	}
	spec.Start = s.waves()
	spec.Probes = s.probes()
	if len(s.hosts) > 0 {
		spec.Traffic = &plan.Traffic{Hosts: s.hosts, Method: plan.TrafficManual}
		if s.externalDNS(ctx) {
			spec.Traffic.Method = plan.TrafficExternalDNS
		}
	}
	return out, out.Plan.Validate()
}

func span(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }

// schedule finds the Schedule that backs the namespaces up most often, and takes
// the objective from it.
func (s *survey) schedule(ctx context.Context, spec *plan.RecoveryPlanSpec) error {
	list := &velerov1api.ScheduleList{}
	if err := s.Client.List(ctx, list, client.InNamespace(s.VeleroNamespace)); err != nil {
		return fmt.Errorf("list schedules in namespace %s: %w", s.VeleroNamespace, err)
	}
	var best time.Duration
	for _, have := range list.Items {
		covers := !slices.ContainsFunc(s.namespaces, func(ns string) bool {
			included := have.Spec.Template.IncludedNamespaces
			return len(included) > 0 && !slices.Contains(included, ns) && !slices.Contains(included, "*") ||
				slices.Contains(have.Spec.Template.ExcludedNamespaces, ns)
		})
		every, err := period(have.Spec.Schedule, s.Now())
		if !covers || err != nil || s.draft.Scheduled && every >= best {
			continue
		}
		best, s.draft.Scheduled = every, true
		spec.Source.Schedule = have.Name
		spec.Objectives.RPO = span(2 * every) // room for one that fails
	}
	if s.draft.Scheduled {
		return nil
	}
	spec.Protect = &plan.Protect{
		Interval: &plan.IntervalClass{Every: span(defaultRPO / 3), Keep: 288},
		Daily:    &plan.DailyClass{At: "02:10", Keep: 10},
		Weekly:   &plan.WeeklyClass{Day: "sunday", At: "03:10", Keep: 8},
		Monthly:  &plan.MonthlyClass{Day: 1, At: "04:10", Keep: 12},
	}
	return nil
}

// period is the time between the next two runs of a schedule.
func period(expression string, now time.Time) (time.Duration, error) {
	when, err := cron.ParseStandard(expression)
	if err != nil {
		return 0, err
	}
	next := when.Next(now)
	return when.Next(next).Sub(next), nil
}

// survey is what is read of the namespaces.
type survey struct {
	*Drafter
	draft      *Draft
	namespaces []string
	workloads  []*workload
	services   []corev1api.Service
	hosts      []string
	// front is the hosts that lead to a service, by namespace/name.
	front map[string][]string
	// configs are texts that pods are configured with: "configmap/ns/name" or
	// "secret/ns/name" to key to value.
	configs map[string]map[string]string
}

func (s *survey) read(ctx context.Context, ns string) error {
	objects, err := run.Workloads(ctx, s.Client, ns)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		kind := strings.ToLower(obj.GetKind())
		if !slices.Contains(plan.WorkloadKinds, kind) {
			s.draft.Others = append(s.draft.Others, s.words(ns, kind+"/"+obj.GetName()))
			continue
		}
		w := &workload{Workload: plan.Workload{Namespace: ns, Kind: kind, Name: obj.GetName()}, needs: map[*workload]string{}}
		if template, ok, _ := unstructured.NestedMap(obj.Object, "spec", "template"); ok {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, &w.pod); err != nil {
				return fmt.Errorf("read %s: %w", w, err)
			}
		}
		w.database = isDatabase(w)
		s.workloads = append(s.workloads, w)
	}
	services := &corev1api.ServiceList{}
	if err := s.Client.List(ctx, services, client.InNamespace(ns)); err != nil {
		return fmt.Errorf("list services in namespace %s: %w", ns, err)
	}
	s.services = append(s.services, services.Items...)
	if err := s.claims(ctx, ns); err != nil {
		return err
	}
	return s.routes(ctx, ns)
}

// words names something of a namespace, without it where there is one only.
func (s *survey) words(ns, name string) string {
	if len(s.namespaces) == 1 {
		return name
	}
	return ns + "/" + name
}

func (s *survey) claims(ctx context.Context, ns string) error {
	claims := &corev1api.PersistentVolumeClaimList{}
	if err := s.Client.List(ctx, claims, client.InNamespace(ns)); err != nil {
		return fmt.Errorf("list claims in namespace %s: %w", ns, err)
	}
	for _, c := range claims.Items {
		line := s.words(ns, c.Name)
		if size, ok := c.Spec.Resources.Requests[corev1api.ResourceStorage]; ok {
			line += ", " + size.String()
		}
		if c.Spec.StorageClassName != nil && *c.Spec.StorageClassName != "" {
			line += ", class " + *c.Spec.StorageClassName
		}
		if c.Spec.VolumeName == "" {
			line += ", not bound: list it in ignoreClaims unless it will be"
		}
		s.draft.Claims = append(s.draft.Claims, line)
	}
	return nil
}

// routeKinds lead from a host to a Service.
var routeKinds = []schema.GroupKind{
	{Group: "networking.k8s.io", Kind: "Ingress"},
	{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"},
	{Group: "gateway.networking.k8s.io", Kind: "GRPCRoute"},
	{Group: "gateway.networking.k8s.io", Kind: "TLSRoute"},
	{Group: "traefik.io", Kind: "IngressRoute"},
	{Group: "traefik.io", Kind: "IngressRouteTCP"},
	{Group: "traefik.containo.us", Kind: "IngressRoute"},
	{Group: "networking.istio.io", Kind: "VirtualService"},
	{Group: "route.openshift.io", Kind: "Route"},
	{Group: "projectcontour.io", Kind: "HTTPProxy"},
}

func (s *survey) routes(ctx context.Context, ns string) error {
	for _, gk := range routeKinds {
		mapping, err := s.Client.RESTMapper().RESTMapping(gk)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", gk, err)
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(gk.Kind + "List"))
		if err := s.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
			if !apierrors.IsForbidden(err) {
				return fmt.Errorf("list %ss in namespace %s: %w", gk.Kind, ns, err)
			}
			s.unread(fmt.Sprintf("%ss in namespace %s", gk.Kind, ns))
			continue
		}
		for i := range list.Items {
			if err := s.route(&list.Items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *survey) unread(what string) {
	if !slices.Contains(s.draft.Unread, what) {
		s.draft.Unread = append(s.draft.Unread, what)
	}
}

func (s *survey) route(obj *unstructured.Unstructured) error {
	all, err := rules.Hosts(obj)
	if err != nil {
		return err
	}
	hosts := slices.DeleteFunc(all, func(host string) bool { return !public(host) })
	for _, host := range hosts {
		if !slices.Contains(s.hosts, host) {
			s.hosts = append(s.hosts, host)
		}
	}
	if s.front == nil {
		s.front = map[string][]string{}
	}
	for _, service := range backends(obj.Object["spec"], "") {
		service, _, _ = strings.Cut(service, ".") // Istio's may be a whole name
		key := obj.GetNamespace() + "/" + service
		for _, host := range hosts {
			if !slices.Contains(s.front[key], host) {
				s.front[key] = append(s.front[key], host)
			}
		}
	}
	return nil
}

// backends returns the names of the Services that a route's spec leads to,
// wherever its kind has them.
func backends(value any, key string) []string {
	var found []string
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			found = append(found, backends(item, key)...)
		}
	case map[string]any:
		field := map[string]string{"service": "name", "services": "name", "backendRefs": "name", "destination": "host", "to": "name"}[key]
		if name, ok := v[field].(string); ok {
			return []string{name}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			found = append(found, backends(v[k], k)...)
		}
	}
	return found
}

// behind returns the workloads whose pods a Service selects.
func (s *survey) behind(service *corev1api.Service) []*workload {
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var found []*workload
	for _, w := range s.workloads {
		if w.Namespace == service.Namespace && selector.Matches(labels.Set(w.pod.Labels)) {
			found = append(found, w)
		}
	}
	return found
}

// externalDNS reports whether one runs in the cluster.
func (s *survey) externalDNS(ctx context.Context) bool {
	list := &appsv1api.DeploymentList{}
	if err := s.Client.List(ctx, list); err != nil {
		s.unread("Deployments of other namespaces: whether external-dns runs")
		return false
	}
	return slices.ContainsFunc(list.Items, func(d appsv1api.Deployment) bool {
		return slices.ContainsFunc(d.Spec.Template.Spec.Containers, func(c corev1api.Container) bool { return strings.Contains(c.Image, "external-dns") })
	})
}
