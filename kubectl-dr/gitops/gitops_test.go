package gitops

import (
	"context"
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

// site is a cluster with objects; one whose Argo CD is old does not know
// automated.enabled, and drops it as an API server does.
func site(t *testing.T, oldArgo bool, texts ...string) client.Client {
	t.Helper()
	repositories := schema.GroupVersion{Group: fluxSources, Version: "v1"}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{repositories})
	for _, kind := range []string{"GitRepository", "HelmRepository"} {
		mapper.Add(repositories.WithKind(kind), meta.RESTScopeNamespace)
	}
	b := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithRESTMapper(mapper)
	for _, text := range texts {
		b.WithObjects(object(t, text))
	}
	return b.WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if err := c.Patch(ctx, obj, patch, opts...); err != nil || !oldArgo {
				return err
			}
			u := obj.(*unstructured.Unstructured)
			if _, ok, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated"); ok {
				unstructured.RemoveNestedField(u.Object, "spec", "syncPolicy", "automated", "enabled")
				return c.Update(ctx, u)
			}
			return nil
		},
	}).Build()
}

func app(name, spec, more string) string {
	return "{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: " + name + more + "}, spec: {" + spec + "}}"
}

func kustomization(name, spec, more string) string {
	return "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: " + name + more + "}, spec: {" + spec + "}}"
}

func named(g plan.GitOps) Object { return Objects(&g)[0] }

var (
	web  = named(plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "web"}}})
	apps = named(plan.GitOps{Flux: []plan.FluxObject{{Kind: plan.FluxKustomization, Name: "apps"}}})
)

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	const automated = "syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}"
	tests := []struct {
		name   string
		old    bool
		object Object
		text   string
		want   string // spec while it is paused
	}{
		{"an Application keeps its settings", false, web, app("web", automated, ""),
			"{syncPolicy: {automated: {prune: true, selfHeal: true, enabled: false}, syncOptions: [CreateNamespace=true]}}"},
		{"an Application of an old Argo CD gets them back", true, web, app("web", automated, ""),
			"{syncPolicy: {syncOptions: [CreateNamespace=true]}}"},
		{"an Application that says enabled", false, web, app("web", "syncPolicy: {automated: {enabled: true}}", ""),
			"{syncPolicy: {automated: {enabled: false}}}"},
		{"a Kustomization", false, apps, kustomization("apps", "path: ./apps", ""), "{path: ./apps, suspend: true}"},
		{"a Kustomization that says that it is not suspended", false, apps, kustomization("apps", "suspend: false", ""), "{suspend: true}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := site(t, tt.old, tt.text)
			before, err := tt.object.get(t.Context(), c)
			require.NoError(t, err)

			did, err := Pause(t.Context(), c, tt.object, "run-1")
			require.NoError(t, err)
			assert.True(t, did)
			now, err := tt.object.get(t.Context(), c)
			require.NoError(t, err)
			assert.Equal(t, object(t, tt.want).Object, now.Object["spec"])
			state, by, err := Look(t.Context(), c, tt.object)
			require.NoError(t, err)
			assert.Equal(t, [2]string{string(Paused), "run-1"}, [2]string{string(state), by})

			did, err = Pause(t.Context(), c, tt.object, "run-2")
			require.NoError(t, err)
			assert.False(t, did, "again")
			did, err = Resume(t.Context(), c, tt.object, "run-2")
			require.NoError(t, err)
			assert.False(t, did, "by another run")

			did, err = Resume(t.Context(), c, tt.object, "run-1")
			require.NoError(t, err)
			assert.True(t, did)
			after, err := tt.object.get(t.Context(), c)
			require.NoError(t, err)
			assert.Equal(t, before.Object["spec"], after.Object["spec"], "exactly as it was")
			assert.Empty(t, after.GetAnnotations())
			did, err = Resume(t.Context(), c, tt.object, "")
			require.NoError(t, err)
			assert.False(t, did, "again")
		})
	}
}

// What somebody else has paused stays so, whatever a run does.
func TestPause_leavesWhatIsPaused(t *testing.T) {
	t.Parallel()
	for text, o := range map[string]Object{
		app("web", "syncPolicy: {automated: {enabled: false}}", ""): web,
		app("web", "project: default", ""):                          web,
		kustomization("apps", "suspend: true", ""):                  apps,
	} {
		c := site(t, false, text)
		before, err := o.get(t.Context(), c)
		require.NoError(t, err)
		for range 2 {
			did, err := Pause(t.Context(), c, o, "run-1")
			require.NoError(t, err)
			assert.False(t, did)
			_, err = Resume(t.Context(), c, o, "")
			require.NoError(t, err)
		}
		after, err := o.get(t.Context(), c)
		require.NoError(t, err)
		assert.Equal(t, before, after)
		state, _, err := Look(t.Context(), c, o)
		require.NoError(t, err)
		assert.Equal(t, NotOurs, state)
	}
}

func TestPause_ofAnApplicationSet(t *testing.T) {
	t.Parallel()
	owned := app("web", "syncPolicy: {automated: {}}", ", ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: all, uid: u}]")
	set := func(spec string) string {
		return "{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, metadata: {namespace: argocd, name: all}, spec: {" + spec + "}}"
	}
	for spec, lasts := range map[string]bool{
		"goTemplate: true": false,
		"syncPolicy: {applicationsSync: create-only}":                                          true,
		"syncPolicy: {applicationsSync: create-update}":                                        false,
		"ignoreApplicationDifferences: [{jsonPointers: [/spec/syncPolicy]}]":                   true,
		"ignoreApplicationDifferences: [{jsonPointers: [/spec/source]}]":                       false,
		"ignoreApplicationDifferences: [{name: other, jsonPointers: [/spec/syncPolicy]}]":      false,
		"ignoreApplicationDifferences: [{jsonPointers: [/metadata]}, {jsonPointers: [/spec]}]": true,
	} {
		c := site(t, false, owned, set(spec))
		did, err := Pause(t.Context(), c, web, "run-1")
		assert.Equal(t, lasts, did, spec)
		if !lasts {
			var reverted *RevertedError
			require.ErrorAs(t, err, &reverted, spec)
			assert.Equal(t, "pause Application argocd/web: ApplicationSet argocd/all would undo it", err.Error())
			assert.Contains(t, reverted.Hint(), "ignoreApplicationDifferences")
			state, _, err := Look(t.Context(), c, web)
			require.NoError(t, err)
			assert.Equal(t, Reconciling, state, "nothing was changed")
		}
	}
}

// An old Argo CD heals what is taken out of an Application that another one makes.
func TestPause_ofAnAppOfApps(t *testing.T) {
	t.Parallel()
	text := app("web", "syncPolicy: {automated: {prune: true}}", ", annotations: {argocd.argoproj.io/tracking-id: 'root:argoproj.io/Application:argocd/web'}")
	c := site(t, true, text)
	_, err := Pause(t.Context(), c, web, "run-1")
	require.ErrorContains(t, err, "Application root would undo it")
	state, _, err := Look(t.Context(), c, web)
	require.NoError(t, err)
	assert.Equal(t, Reconciling, state)

	did, err := Pause(t.Context(), site(t, false, text), web, "run-1")
	require.NoError(t, err)
	assert.True(t, did, "what is only added is left alone")
}

// Where Git says suspend: false, kustomize-controller would set it again, unless it
// is told to leave the object alone.
func TestPause_ofWhatGitDoesNotSuspend(t *testing.T) {
	t.Parallel()
	const made = ", labels: {kustomize.toolkit.fluxcd.io/name: cluster, kustomize.toolkit.fluxcd.io/namespace: flux-system}"
	for text, disabled := range map[string]string{
		kustomization("apps", "suspend: false", made): reconcileDisabled,
		kustomization("apps", "path: ./apps", made):   "",
		kustomization("apps", "suspend: false", ""):   "",
		kustomization("apps", "suspend: false", made+", annotations: {kustomize.toolkit.fluxcd.io/reconcile: enabled}"): "enabled",
	} {
		c := site(t, false, text)
		before, err := apps.get(t.Context(), c)
		require.NoError(t, err)
		_, err = Pause(t.Context(), c, apps, "run-1")
		require.NoError(t, err)
		now, err := apps.get(t.Context(), c)
		require.NoError(t, err)
		assert.Equal(t, disabled, now.GetAnnotations()[reconcile], text)
		_, err = Resume(t.Context(), c, apps, "")
		require.NoError(t, err)
		after, err := apps.get(t.Context(), c)
		require.NoError(t, err)
		assert.Equal(t, before.Object["spec"], after.Object["spec"], text)
		assert.True(t, maps.Equal(before.GetAnnotations(), after.GetAnnotations()), text)
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	c := site(t, false)
	_, err := Pause(t.Context(), c, web, "run-1")
	require.Error(t, err)
	assert.True(t, Missing(err))
	state, _, err := Look(t.Context(), c, web)
	require.NoError(t, err)
	assert.Equal(t, Absent, state)
	did, err := Resume(t.Context(), c, web, "")
	require.NoError(t, err)
	assert.False(t, did)
	assert.Empty(t, Objects(nil))
}

func TestInOrder(t *testing.T) {
	t.Parallel()
	g := &plan.GitOps{Flux: []plan.FluxObject{
		{Kind: plan.FluxKustomization, Name: "apps"}, {Kind: plan.FluxKustomization, Name: "gone"},
		{Kind: plan.FluxKustomization, Name: "infra"}, {Kind: plan.FluxKustomization, Name: "crds"},
	}}
	c := site(t, false,
		kustomization("apps", "dependsOn: [{name: infra}, {name: elsewhere, namespace: other}]", ""),
		kustomization("infra", "dependsOn: [{name: crds}, {name: apps}]", ""),
		kustomization("crds", "path: ./crds", ""))
	ordered, err := InOrder(t.Context(), c, Objects(g))
	require.NoError(t, err)
	var names []string
	for _, o := range ordered {
		names = append(names, o.Name)
	}
	assert.Equal(t, []string{"crds", "infra", "apps"}, names, "a circle is no reason to hang")
}

func TestSources(t *testing.T) {
	t.Parallel()
	repository := func(kind, name, spec, status string) string {
		return "{apiVersion: source.toolkit.fluxcd.io/v1, kind: " + kind + ", metadata: {namespace: flux-system, name: " + name + "}, spec: {" + spec + "}, status: {" + status + "}}"
	}
	ready := func(status string) string {
		return "conditions: [{type: Ready, status: \"" + status + "\", message: \"unable to clone: host not found\\n\"}]"
	}
	const git = "sourceRef: {kind: GitRepository, name: it}"
	argo := func(source, status string) string {
		return "{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: it}, spec: {" + source + "}, status: {" + status + "}}"
	}
	flux, release := plan.GitOps{Flux: []plan.FluxObject{{Kind: "Kustomization", Name: "it"}}}, plan.GitOps{Flux: []plan.FluxObject{{Kind: "HelmRelease", Name: "it"}}}
	tests := []struct {
		name  string
		of    plan.GitOps
		there []string
		want  []Source
	}{
		{"a Git that is read", flux, []string{kustomization("it", git, ""), repository("GitRepository", "it", "", ready("True"))},
			[]Source{{Name: "GitRepository flux-system/it"}}},
		{"a Git that can not be read", flux, []string{kustomization("it", git, ""), repository("GitRepository", "it", "", ready("False"))},
			[]Source{{Name: "GitRepository flux-system/it", Problem: "unable to clone: host not found"}}},
		{"a Git that was not read yet", flux, []string{kustomization("it", git, ""), repository("GitRepository", "it", "", "")},
			[]Source{{Name: "GitRepository flux-system/it", Unknown: "Flux has not read it yet"}}},
		{"a Git that nobody reads", flux, []string{kustomization("it", git, ""), repository("GitRepository", "it", "suspend: true", ready("True"))},
			[]Source{{Name: "GitRepository flux-system/it", Unknown: "it is suspended"}}},
		{"a Git that is not there", flux, []string{kustomization("it", git, "")},
			[]Source{{Name: "GitRepository flux-system/it", Problem: "it is not in the cluster"}}},
		{"a kind that is not known", flux, []string{kustomization("it", "sourceRef: {kind: Tape, name: it}", "")},
			[]Source{{Name: "Tape flux-system/it", Problem: "it is not in the cluster"}}},
		{"charts", release, []string{
			"{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {namespace: flux-system, name: it}, spec: {chart: {spec: {sourceRef: {kind: HelmRepository, name: charts}}}}}",
			repository("HelmRepository", "charts", "", ready("True"))},
			[]Source{{Name: "HelmRepository flux-system/charts"}}},
		{"a registry of charts", release, []string{
			"{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {namespace: flux-system, name: it}, spec: {chart: {spec: {sourceRef: {kind: HelmRepository, name: charts}}}}}",
			repository("HelmRepository", "charts", "type: oci", "")},
			[]Source{{Name: "HelmRepository flux-system/charts", Unknown: "Flux reads a registry of charts only when it needs one"}}},
		{"Argo CD, in sync", anApplication, []string{argo("source: {repoURL: 'https://git.example.org/it'}", "sync: {status: Synced}")},
			[]Source{{Name: "https://git.example.org/it"}}},
		{"Argo CD, with an error", anApplication, []string{argo("sources: [{repoURL: 'https://git.example.org/it'}, {repoURL: 'https://git.example.org/it'}]",
			"sync: {status: Unknown}, conditions: [{type: ComparisonError, message: repository not accessible}]")},
			[]Source{{Name: "https://git.example.org/it", Problem: "repository not accessible"}}},
		{"Argo CD, not compared", anApplication, []string{argo("source: {repoURL: 'https://git.example.org/it'}", "")},
			[]Source{{Name: "https://git.example.org/it", Unknown: "Argo CD has not compared the Application with it"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Sources(t.Context(), site(t, false, tt.there...), named(tt.of))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	_, err := Sources(t.Context(), site(t, false), named(flux))
	assert.True(t, Missing(err))
}

// anApplication is called "it".
var anApplication = plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "it"}}}

func TestWouldRevert(t *testing.T) {
	t.Parallel()
	made := ", ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: all, uid: u}]"
	set := func(spec string) string {
		return "{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, metadata: {namespace: argocd, name: all}, spec: {" + spec + "}}"
	}
	it := app("it", "syncPolicy: {automated: {}}", made)
	var reverted *RevertedError
	require.ErrorAs(t, WouldRevert(t.Context(), site(t, false, it, set("")), named(anApplication)), &reverted)
	assert.Contains(t, reverted.Hint(), "ignoreApplicationDifferences")
	for name, there := range map[string][]string{
		"the set leaves it alone": {it, set("syncPolicy: {applicationsSync: create-only}")},
		"nothing made it":         {app("it", "syncPolicy: {automated: {}}", "")},
		"it does not sync":        {app("it", "", made), set("")},
		"it is not there":         nil,
	} {
		assert.NoError(t, WouldRevert(t.Context(), site(t, false, there...), named(anApplication)), name)
	}
}
