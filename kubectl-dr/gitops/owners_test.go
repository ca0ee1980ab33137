package gitops

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

const (
	argoOfWordpress = `{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: wordpress},
		spec: {destination: {namespace: wordpress}, syncPolicy: {automated: {}}},
		status: {resources: [{kind: ConfigMap, namespace: wordpress, name: settings}, {group: apps, kind: Deployment, namespace: wordpress, name: web}]}}`
	fluxOfRoles = `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: roles, generation: 3}, spec: {},
		status: {inventory: {entries: [{id: wordpress_editors_rbac.authorization.k8s.io_RoleBinding, v: v1}, {id: _blog__admin_rbac.authorization.k8s.io_ClusterRole, v: v1},
		{id: wordpress_quota__ResourceQuota, v: v1}, {id: broken}]}}}`
	fluxOfChart = `{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {namespace: flux-system, name: redis}, spec: {targetNamespace: wordpress}}`
	elsewhere   = `{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: shop}, spec: {destination: {namespace: shop}}}`
)

func TestFind(t *testing.T) {
	t.Parallel()
	found, err := Find(t.Context(), site(t, false, argoOfWordpress, fluxOfRoles, fluxOfChart, elsewhere), []string{"wordpress"}, nil)
	require.NoError(t, err)
	var names []string
	for _, o := range found {
		names = append(names, o.String())
	}
	assert.Equal(t, []string{"Application argocd/wordpress", "HelmRelease flux-system/redis", "Kustomization flux-system/roles"}, names)
	assert.ElementsMatch(t, found, Objects(Plan(found)), "a plan can name them")
	assert.Nil(t, Plan(nil))

	found, err = Find(t.Context(), site(t, false), []string{"wordpress"}, nil)
	require.NoError(t, err)
	assert.Empty(t, found)
}

// What has not reconciled yet does not say where to.
func TestFind_byTheBackup(t *testing.T) {
	t.Parallel()
	c := site(t, false, "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: apps}, spec: {}}",
		"{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: others}, spec: {}}",
		"{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: gitops, name: blog}, spec: {}}")
	found, err := Find(t.Context(), c, []string{"wordpress"}, []*unstructured.Unstructured{
		object(t, "{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}}}"),
		object(t, `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: web, annotations: {argocd.argoproj.io/tracking-id: "blog:/Service:wordpress/web"}}}`),
		object(t, "{apiVersion: v1, kind: Secret, metadata: {namespace: wordpress, name: x}}"),
	})
	require.NoError(t, err)
	var names []string
	for _, o := range found {
		names = append(names, o.String())
	}
	assert.Equal(t, []string{"Application gitops/blog", "Kustomization flux-system/apps"}, names)
}

func TestOwners_Of(t *testing.T) {
	t.Parallel()
	c := site(t, false, argoOfWordpress, fluxOfRoles, fluxOfChart)
	known, err := Find(t.Context(), c, []string{"wordpress"}, nil)
	require.NoError(t, err)
	backup := []*unstructured.Unstructured{object(t, `{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {namespace: wordpress, name: mail}, spec: {}}`)}
	owners, err := NewOwners(t.Context(), c, known, backup)
	require.NoError(t, err)
	tests := []struct{ name, object, want string }{
		{"in an Application's list", `{apiVersion: apps/v1, kind: Deployment, metadata: {namespace: wordpress, name: web}}`, "Application argocd/wordpress"},
		{"of another kind", `{apiVersion: v1, kind: Secret, metadata: {namespace: wordpress, name: settings}}`, ""},
		{"in Flux's inventory", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {namespace: wordpress, name: editors}}`, "Kustomization flux-system/roles"},
		{"there without a namespace, and with a colon", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "blog:admin"}}`, "Kustomization flux-system/roles"},
		{"there without a group", `{apiVersion: v1, kind: ResourceQuota, metadata: {namespace: wordpress, name: quota}}`, "Kustomization flux-system/roles"},
		{"tracked by Argo CD", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: web, annotations: {argocd.argoproj.io/tracking-id: "blog:/Service:wordpress/web"}}}`, "Application blog"},
		{"tracked, without a namespace", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x, annotations: {argocd.argoproj.io/tracking-id: "blog:rbac.authorization.k8s.io/ClusterRole:wordpress/x"}}}`, "Application blog"},
		{"with the tracking of another, which a controller copied", `{apiVersion: v1, kind: Secret, metadata: {namespace: wordpress, name: web-tls, annotations: {argocd.argoproj.io/tracking-id: "blog:/Service:wordpress/web"}}}`, ""},
		{"with the tracking of another namespace's", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: web, annotations: {argocd.argoproj.io/tracking-id: "blog:/Service:shop/web"}}}`, ""},
		{"labelled by Argo CD", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {argocd.argoproj.io/instance: blog}}}`, "Application blog"},
		{"with the label of an Application that is known", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {app.kubernetes.io/instance: wordpress}}}`, "Application wordpress"},
		{"with a chart's label", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {app.kubernetes.io/instance: other}}}`, ""},
		{"labelled by Flux", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}}}`, "Kustomization flux-system/apps"},
		{"labelled by Flux's Helm", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {helm.toolkit.fluxcd.io/name: redis, helm.toolkit.fluxcd.io/namespace: flux-system}}}`, "HelmRelease flux-system/redis"},
		{"of a release that Flux has", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {app.kubernetes.io/managed-by: Helm}, annotations: {meta.helm.sh/release-name: wordpress-redis, meta.helm.sh/release-namespace: wordpress}}}`, "HelmRelease of Helm's wordpress/wordpress-redis"},
		{"the Secret of a release that the backup's Flux had", `{apiVersion: v1, kind: Secret, type: helm.sh/release.v1, metadata: {namespace: wordpress, name: sh.helm.release.v1.mail.v1, labels: {name: mail, owner: helm}}}`, "HelmRelease of Helm's wordpress/mail"},
		{"of a release that somebody has installed", `{apiVersion: v1, kind: Service, metadata: {namespace: wordpress, name: x, labels: {app.kubernetes.io/managed-by: Helm}, annotations: {meta.helm.sh/release-name: wiki, meta.helm.sh/release-namespace: wordpress}}}`, ""},
		{"made by hand", `{apiVersion: v1, kind: Secret, metadata: {namespace: wordpress, name: x}}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, owners.Of(object(t, tt.object)))
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	const (
		synced  = `, status: {sync: {status: Synced}, health: {status: Healthy}}`
		drifted = `, status: {sync: {status: OutOfSync}, health: {status: Healthy}}`
	)
	argo := func(more, status string) string {
		return "{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: a" + more + "}, spec: {syncPolicy: {automated: {}}}" + status + "}"
	}
	flux := func(observed, ready string) string {
		return "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: k, generation: 3, annotations: {reconcile.fluxcd.io/requestedAt: now}}, spec: {}, " +
			"status: {observedGeneration: " + observed + ", lastHandledReconcileAt: now, conditions: [{type: Ready, status: \"" + ready + "\", message: dependency is not ready}]}}"
	}
	a, k := named(plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "a"}}}), named(plan.GitOps{Flux: []plan.FluxObject{{Kind: "Kustomization", Name: "k"}}})
	tests := []struct {
		name, object string
		of           Object
		want         string
	}{
		{"in sync", argo("", synced), a, ""},
		{"not looked at again", argo(", annotations: {argocd.argoproj.io/refresh: normal}", synced), a, "Application argocd/a is Synced and Healthy"},
		{"out of sync", argo("", drifted), a, "Application argocd/a is OutOfSync and Healthy"},
		{"new", argo("", ""), a, "Application argocd/a is Unknown and Unknown"},
		{"synced by hand alone", "{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {namespace: argocd, name: a}, spec: {}" + drifted + "}", a, ""},
		{"ready", flux("3", "True"), k, ""},
		{"ready before it was resumed", flux("2", "True"), k, "Kustomization flux-system/k is not ready: dependency is not ready"},
		{"not ready", flux("3", "False"), k, "Kustomization flux-system/k is not ready: dependency is not ready"},
		{"absent", argo("", synced), k, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Health(t.Context(), site(t, false, tt.object), tt.of)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	c := site(t, false, argoOfWordpress, fluxOfRoles, "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: paused}, spec: {suspend: true}}")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := map[Object]string{
		named(plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "wordpress"}}}):                     "normal",
		named(plan.GitOps{Flux: []plan.FluxObject{{Kind: "Kustomization", Name: "roles"}}}):                "2026-01-02T03:04:05Z",
		named(plan.GitOps{Flux: []plan.FluxObject{{Kind: "Kustomization", Name: "paused"}}}):               "",
		named(plan.GitOps{Flux: []plan.FluxObject{{Kind: "Kustomization", Name: "none", Namespace: "x"}}}): "",
	}
	for o, value := range want {
		require.NoError(t, Refresh(t.Context(), c, o, at))
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(o.GroupVersionKind)
		if err := c.Get(t.Context(), client.ObjectKey(o.ObjectKey), u); Missing(err) {
			continue
		}
		assert.Equal(t, value, u.GetAnnotations()[argoRefresh]+u.GetAnnotations()[fluxRequested], o)
	}
}
