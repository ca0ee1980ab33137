package standby

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster/clustertest"
	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// site is a recovery cluster in memory.
type site struct {
	*Standby
	t *testing.T
	// writes are what was asked of the server: verb and object.
	writes []string
	// refuse are objects that can't be changed in place.
	refuse map[string]bool
}

func newSite(t *testing.T, objects ...string) *site {
	t.Helper()
	s := &site{t: t, refuse: map[string]bool{}}
	var have []client.Object
	for _, text := range objects {
		have = append(have, object(t, text))
	}
	scheme := cluster.Scheme()
	mapper := meta.NewDefaultRESTMapper(append(scheme.PrioritizedVersionsAllGroups(), schema.GroupVersion{Group: "example.org", Version: "v1"}, schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}))
	for gvk := range scheme.AllKnownTypes() {
		if gvk.Version != "v1" || gvk.Group == "extensions" {
			continue
		}
		scope := meta.RESTScopeNamespace
		if slices.Contains([]string{"Namespace", "ClusterRole", "ClusterRoleBinding"}, gvk.Kind) {
			scope = meta.RESTScopeRoot
		}
		mapper.Add(gvk, scope)
	}
	widgets := schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "Widget"}
	definitions := schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
	mapper.Add(definitions, meta.RESTScopeRoot)
	for _, gvk := range []schema.GroupVersionKind{widgets, definitions} {
		scheme.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(gvk.Kind+"List"), &unstructured.UnstructuredList{})
	}
	base := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithObjects(have...).Build()
	wrote := func(verb string, obj client.Object) {
		s.writes = append(s.writes, verb+" "+keyOfAny(obj).Kind+"/"+obj.GetName())
	}
	c := interceptor.NewClient(base, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			options := client.PatchOptions{}
			options.ApplyOptions(opts)
			if len(options.DryRun) == 0 {
				wrote("patch", obj)
			}
			k := keyOfAny(obj)
			if s.refuse[k.Kind+"/"+k.name] && c.Get(ctx, client.ObjectKeyFromObject(obj), obj.DeepCopyObject().(client.Object)) == nil {
				return apierrors.NewInvalid(k.GroupKind, k.name, nil)
			}
			if k.Kind == definitions.Kind {
				mapper.Add(widgets, meta.RESTScopeNamespace) // as a server does soon after
			}
			if done, err := clustertest.Apply(ctx, c, obj, patch, opts...); done {
				return err
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			wrote("create", obj)
			return c.Create(ctx, obj, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			wrote("delete", obj)
			return c.Delete(ctx, obj, opts...)
		},
	})
	s.Standby = &Standby{Client: c, Namespace: "velero", Plan: "web", Namespaces: []string{"web"}, Interval: time.Millisecond}
	return s
}

func keyOfAny(obj client.Object) key {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return keyOf(u)
	}
	return key{schema.GroupKind{Kind: obj.GetObjectKind().GroupVersionKind().Kind}, obj.GetNamespace(), obj.GetName()}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	u := &unstructured.Unstructured{}
	require.NoError(t, u.UnmarshalJSON(raw))
	return u
}

func profile(t *testing.T) *rules.Profile {
	t.Helper()
	set, err := rules.Load(map[string][]byte{"p.yaml": []byte("apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n- {name: standby, state: standby, externalDNS: mute}\n")}, expr.New())
	require.NoError(t, err)
	p, err := set.Profile("standby")
	require.NoError(t, err)
	return p
}

// sync brings the standby to a backup and returns what was done, each as
// "difference kind/name done", without what did not differ.
func (s *site) sync(backup ...string) []string {
	s.t.Helper()
	s.writes = nil
	var objects []*unstructured.Unstructured
	for _, text := range backup {
		objects = append(objects, object(s.t, text))
	}
	p := profile(s.t)
	if s.Hold {
		p = nil
	}
	r, err := s.Sync(s.t.Context(), objects, p)
	require.NoError(s.t, err)
	done := []string{}
	for _, o := range r.Objects {
		line := string(o.Difference) + " " + o.Kind + "/" + o.Name
		if o.Done != "" {
			line += " " + o.Done
		}
		if len(o.Fields) > 0 {
			line += " " + o.Fields[0]
		}
		if o.Message != "" {
			line += ": " + o.Message
		}
		done = append(done, line)
	}
	return done
}

func (s *site) get(kind, name string) *unstructured.Unstructured {
	s.t.Helper()
	mapping, err := s.Client.RESTMapper().RESTMapping(schema.ParseGroupKind(kind))
	require.NoError(s.t, err)
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(mapping.GroupVersionKind)
	k := client.ObjectKey{Name: name}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		k.Namespace = "web"
	}
	require.NoError(s.t, s.Client.Get(s.t.Context(), k, obj))
	return obj
}

const (
	namespaceWeb = "{apiVersion: v1, kind: Namespace, metadata: {name: web, uid: u, labels: {team: a}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}"
	settings     = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: web, resourceVersion: '7'}, data: {a: '1', b: '1'}}"
	deployment   = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: app, namespace: web, annotations: {deployment.kubernetes.io/revision: '3'}},
		spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: 'app:1', resources: {}}]}}}, status: {replicas: 3}}`
	service = "{apiVersion: v1, kind: Service, metadata: {name: app, namespace: web}, spec: {clusterIP: 10.0.0.7, clusterIPs: [10.0.0.7], selector: {app: web}, ports: [{port: 80, targetPort: 80, nodePort: 30080}]}}"
)

var backup = []string{service, deployment, settings, namespaceWeb,
	"{apiVersion: v1, kind: Service, metadata: {name: peers, namespace: web}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 80}]}}",
	"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: web}, spec: {volumeName: pv}}",
	"{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}}",
	"{apiVersion: v1, kind: Pod, metadata: {name: app-1, namespace: web, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: app, uid: u, controller: true}]}}",
	"{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: shop}}",
	"{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, namespace: web}, imagePullSecrets: [{name: mine}, {name: app-dockercfg-x}], secrets: [{name: app-token-x}]}",
	"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: web}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}, subjects: [{kind: ServiceAccount, name: app, namespace: web}]}",
	"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reader}}",
	"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: unrelated}}",
	"{apiVersion: example.org/v1, kind: Widget, metadata: {name: w, namespace: web}, spec: {size: 1}}",
	"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.org}, spec: {group: example.org, names: {kind: Widget}}}",
	"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: others.example.org}, spec: {group: example.org, names: {kind: Other}}}",
}

func TestSync_makesWhatTheBackupHas(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	assert.Equal(t, []string{
		"missing CustomResourceDefinition/widgets.example.org created",
		"missing Namespace/web created",
		"missing ClusterRole/reader created",
		"missing ServiceAccount/app created",
		"missing ClusterRoleBinding/web created",
		"missing ConfigMap/settings created",
		"missing Service/app created",
		"missing Service/peers created",
		"missing Deployment/app created",
		"missing Widget/w created",
	}, s.sync(backup...), "in the order in which they need each other; volumes, what controllers own and what is of others is left out")

	d := s.get("Deployment.apps", "app")
	replicas, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas")
	assert.Zero(t, replicas)
	assert.True(t, rules.OnStandby(d))
	assert.NotContains(t, d.GetAnnotations(), "deployment.kubernetes.io/revision")
	assert.Equal(t, "web", d.GetLabels()["kubectl-dr.io/standby-of"])

	ip := func(name string) string {
		ip, _, _ := unstructured.NestedString(s.get("Service", name).Object, "spec", "clusterIP")
		return ip
	}
	assert.Empty(t, ip("app"), "a cluster gives its own")
	assert.Equal(t, "None", ip("peers"), "a service without an address stays one")
	assert.Equal(t, []any{map[string]any{"name": "mine"}}, s.get("ServiceAccount", "app").Object["imagePullSecrets"])

	assert.Empty(t, s.sync(backup...))
	assert.Equal(t, []string{"Deployment/app", "Service/app"}, slices.Sorted(maps.Keys(changed(s, "Deployment.apps", "app", "Service", "app"))))
}

// changed returns the objects that a second Sync gives another version; each is asked
// for as kind and name.
func changed(s *site, kindsAndNames ...string) map[string]bool {
	before := map[string]string{}
	for i := 0; i < len(kindsAndNames); i += 2 {
		obj := s.get(kindsAndNames[i], kindsAndNames[i+1])
		before[obj.GetKind()+"/"+obj.GetName()] = obj.GetResourceVersion()
	}
	s.sync(backup...)
	same := map[string]bool{}
	for i := 0; i < len(kindsAndNames); i += 2 {
		obj := s.get(kindsAndNames[i], kindsAndNames[i+1])
		if name := obj.GetKind() + "/" + obj.GetName(); before[name] == obj.GetResourceVersion() {
			same[name] = true
		}
	}
	return same
}

func TestSync_changesWhatDiffers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.sync(namespaceWeb, settings, deployment)

	cm := s.get("ConfigMap", "settings")
	require.NoError(t, unstructured.SetNestedField(cm.Object, "2", "data", "a"))
	require.NoError(t, s.Client.Update(t.Context(), cm))
	d := s.get("Deployment.apps", "app")
	require.NoError(t, unstructured.SetNestedField(d.Object, int64(2), "spec", "replicas"))
	require.NoError(t, s.Client.Update(t.Context(), d))

	withoutB := "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: web}, data: {a: '1'}}"
	s.DryRun = true
	assert.Equal(t, []string{"drifted ConfigMap/settings data.a", "drifted Deployment/app spec.replicas"}, s.sync(namespaceWeb, withoutB, deployment))
	assert.Empty(t, s.writes)
	s.DryRun = false
	assert.Equal(t, []string{"drifted ConfigMap/settings changed data.a", "drifted Deployment/app changed spec.replicas"}, s.sync(namespaceWeb, withoutB, deployment))
	assert.Equal(t, map[string]any{"a": "1"}, s.get("ConfigMap", "settings").Object["data"], "what the backup has no more goes")
	assert.True(t, rules.OnStandby(s.get("Deployment.apps", "app")))
	assert.Empty(t, s.sync(namespaceWeb, withoutB, deployment))
}

func TestSync_leavesWhatOthersMade(t *testing.T) {
	t.Parallel()
	theirs := "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: web, uid: theirs}, data: {a: mine}}"
	otherPlans := "{apiVersion: v1, kind: Service, metadata: {name: app, namespace: web, labels: {kubectl-dr.io/standby-of: shop}}, spec: {ports: [{port: 81}]}}"
	role := "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reader, labels: {theirs: 'yes'}}}"
	account := "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: web, uid: d}}"
	s := newSite(t, theirs, otherPlans, role, account,
		"{apiVersion: v1, kind: Namespace, metadata: {name: web, uid: there, labels: {team: b}}}",
		"{apiVersion: v1, kind: Secret, metadata: {name: same, namespace: web, uid: s}, data: {a: YQ==}}")
	backup := append(slices.Clone(backup),
		"{apiVersion: v1, kind: Secret, metadata: {name: same, namespace: web}, data: {a: YQ==}}",
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: web}, imagePullSecrets: [{name: mine}]}")
	got := s.sync(backup...)
	assert.Contains(t, got, "conflict ConfigMap/settings data.a: somebody else made it; --adopt=web/configmap/settings takes it over")
	assert.Contains(t, got, `conflict Service/app spec.ports[0].port: it is of the standby of plan "shop"`)
	assert.Contains(t, got, "drifted ServiceAccount/default changed imagePullSecrets", "every namespace has one")
	assert.Equal(t, map[string]any{"a": "mine"}, s.get("ConfigMap", "settings").Object["data"])
	assert.Equal(t, map[string]string{"theirs": "yes"}, s.get("ClusterRole.rbac.authorization.k8s.io", "reader").GetLabels())
	for _, line := range got {
		assert.NotContains(t, line, "Secret/same", "what is the same does no harm")
		assert.NotContains(t, line, "ClusterRole/reader", "what is in no namespace is the cluster's")
		assert.NotContains(t, line, "Namespace/web")
	}

	s.Adopt = []Name{{Kind: "configmap", Name: "settings"}}
	assert.Contains(t, s.sync(backup...), "drifted ConfigMap/settings changed data.a")
	assert.Equal(t, "web", s.get("ConfigMap", "settings").GetLabels()["kubectl-dr.io/standby-of"])
}

func TestSync_leavesWhatWasStarted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.sync(namespaceWeb, deployment)
	d := s.get("Deployment.apps", "app")
	started, err := rules.Activate(d)
	require.NoError(t, err)
	require.NoError(t, s.Client.Update(t.Context(), started))

	assert.Equal(t, []string{"conflict Deployment/app: it was started, and is no standby any more"}, s.sync(namespaceWeb, deployment))
	s.Prune = true
	assert.Equal(t, []string{"surplus Deployment/app: it runs; delete it yourself"}, s.sync(namespaceWeb))
	s.Hold = true
	assert.Equal(t, []string{"drifted Deployment/app changed metadata.annotations"}, s.sync(namespaceWeb, deployment), "a failover starts it itself")
	assert.True(t, rules.OnStandby(s.get("Deployment.apps", "app")))
}

func TestSync_prunesWhatIsOfTheStandbyAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: web}}")
	s.sync(backup...)
	left := []string{namespaceWeb, settings}

	surplus := []string{"surplus Widget/w", "surplus Deployment/app", "surplus Service/peers", "surplus Service/app", "surplus ClusterRoleBinding/web", "surplus ServiceAccount/app", "surplus ClusterRole/reader"}
	assert.Equal(t, surplus, s.sync(left...), "it is shown, in the reverse of the order; definitions stay")
	assert.Empty(t, s.writes[len(left):], "and nothing is deleted")
	s.Prune, s.DryRun = true, true
	assert.Equal(t, surplus, s.sync(left...))
	s.DryRun = false
	for i := range surplus {
		surplus[i] += " deleted"
	}
	assert.Equal(t, surplus, s.sync(left...))
	assert.Empty(t, s.sync(left...))
	s.get("ConfigMap", "theirs")
	s.get("CustomResourceDefinition.apiextensions.k8s.io", "widgets.example.org")
}

func TestSync_makesAnewWhatCanNotBeChanged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.sync(namespaceWeb, settings, deployment)
	s.refuse["ConfigMap/settings"], s.refuse["Namespace/web"] = true, true

	other := "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: web}, immutable: true, data: {a: '2'}}"
	s.DryRun = true
	assert.Equal(t, []string{
		`drifted Namespace/web: Namespace "web" is invalid`,
		`drifted ConfigMap/settings data.a: would be made anew: ConfigMap "settings" is invalid`}, s.sync(namespaceWeb, other, deployment))
	s.DryRun = false
	assert.Equal(t, []string{`drifted Namespace/web: Namespace "web" is invalid`, "drifted ConfigMap/settings replaced data.a"}, s.sync(namespaceWeb, other, deployment))
	assert.Equal(t, map[string]any{"a": "2"}, s.get("ConfigMap", "settings").Object["data"])
}

func TestSync_saysWhatIsNotServed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	assert.Equal(t, []string{"missing Namespace/web created", "missing Widget/w: Widget of example.org/v1 is not served here"},
		s.sync(namespaceWeb, "{apiVersion: example.org/v1, kind: Widget, metadata: {name: w, namespace: web}}"))
}

func TestRemove_leavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := newSite(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: web}}")
	s.sync(backup...)
	exists, err := s.Exists(t.Context())
	require.NoError(t, err)
	assert.True(t, exists)
	n, err := s.Remove(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 8, n)
	exists, err = s.Exists(t.Context())
	require.NoError(t, err)
	assert.False(t, exists)
	s.get("ConfigMap", "theirs")
	s.get("Namespace", "web")
}

func TestExists_withoutARecord(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.sync(backup...)
	require.NoError(t, s.Client.Delete(t.Context(), &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "web-standby"}}))
	exists, err := s.Exists(t.Context())
	require.NoError(t, err)
	assert.True(t, exists)
}

func TestRecord_ofSomebodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: web-standby, namespace: velero}}")
	_, err := s.Record(t.Context())
	require.ErrorContains(t, err, "ConfigMap velero/web-standby is there already, and is no record of a standby")
}

func TestParseName(t *testing.T) {
	t.Parallel()
	tests := []struct {
		given string
		want  Name
		err   string
	}{
		{"configmap/a", Name{Kind: "configmap", Name: "a"}, ""},
		{"web/Deployment.apps/a", Name{"deployment.apps", "web", "a"}, ""},
		{"a", Name{}, `"a" names no object`},
		{"a//b", Name{}, `"a//b" names no object`},
		{"a/b/c/d", Name{}, `"a/b/c/d" names no object`},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			t.Parallel()
			got, err := ParseName(tt.given)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}
