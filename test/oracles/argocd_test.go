package oracles

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

const (
	argoProject = `
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{namespace: "*", server: "*"}]
  syncWindows: [{kind: deny, schedule: "* * * * *", duration: 24h, namespaces: [web]}]
---
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: all, namespace: argocd}
spec:
  goTemplate: true
  generators: [{list: {elements: [{name: web}]}}]
  template:
    metadata: {name: "{{.name}}"}
    spec: ` + argoSpec

	argoSpec = `{project: default, source: {repoURL: "https://git.example.org/fleet.git", path: web, targetRevision: main}, destination: {server: "https://kubernetes.default.svc", namespace: web}, syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}}
`

	argoApplication = `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata:
  name: web
  namespace: argocd
  ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: all, uid: %s}]
spec: ` + argoSpec + `status:
  sync: {status: Synced}
  health: {status: Healthy}
  resources: [{kind: ConfigMap, version: v1, namespace: web, name: settings, status: Synced}]
`
)

// takesWhatPausesArgoCD pauses an Application of Argo CD's own definitions.
func takesWhatPausesArgoCD(t *testing.T, c *cluster) {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	require.NoError(t, err)
	writer, err := client.New(config, client.Options{})
	require.NoError(t, err)
	require.NoError(t, c.accepts(t.Context(), namespace("argocd")))
	create := func(text string) {
		for _, obj := range readText(t, text) {
			require.NoError(t, c.accepts(t.Context(), obj), obj.GetName())
		}
	}
	get := func(kind, name string) *unstructured.Unstructured {
		obj := &unstructured.Unstructured{}
		obj.SetAPIVersion("argoproj.io/v1alpha1")
		obj.SetKind(kind)
		require.NoError(t, writer.Get(t.Context(), client.ObjectKey{Namespace: "argocd", Name: name}, obj))
		return obj
	}
	// Every field is one that Argo CD has: as strictly as an API server looks.
	known := func(obj *unstructured.Unstructured) {
		t.Helper()
		resource, err := c.resource(obj)
		require.NoError(t, err)
		_, err = resource.Update(t.Context(), obj, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict})
		require.NoError(t, err)
	}
	create(argoProject)
	create(fmt.Sprintf(argoApplication, get("ApplicationSet", "all").GetUID()))
	web := gitops.Objects(&plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "web"}}})[0]
	was := get("Application", "web").Object["spec"]

	_, err = gitops.Pause(t.Context(), writer, web, "run-1")
	var reverted *gitops.RevertedError
	require.ErrorAs(t, err, &reverted)
	assert.Equal(t, "ApplicationSet argocd/all", reverted.By)
	_, needs, _ := strings.Cut(reverted.Git, "add to its spec in Git: ")
	var added map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(needs), &added))
	require.NotEmpty(t, added)
	set := get("ApplicationSet", "all")
	set.Object["spec"].(map[string]any)["ignoreApplicationDifferences"] = added["ignoreApplicationDifferences"]
	known(set)

	paused, err := gitops.Pause(t.Context(), writer, web, "run-1")
	require.NoError(t, err)
	assert.True(t, paused)
	now := get("Application", "web")
	automated, _, _ := unstructured.NestedMap(now.Object, "spec", "syncPolicy", "automated")
	assert.Equal(t, map[string]any{"prune": true, "selfHeal": true, "enabled": false}, automated, "Argo CD knows the switch")
	known(now)
	resumed, err := gitops.Resume(t.Context(), writer, web, "run-1")
	require.NoError(t, err)
	assert.True(t, resumed)
	assert.Equal(t, was, get("Application", "web").Object["spec"], "exactly as it was")

	waitsFor, err := gitops.Health(t.Context(), writer, web)
	require.NoError(t, err)
	assert.Empty(t, waitsFor)
	require.NoError(t, gitops.Refresh(t.Context(), writer, web, time.Now()))
	waitsFor, err = gitops.Health(t.Context(), writer, web)
	require.NoError(t, err)
	assert.NotEmpty(t, waitsFor, "nobody has looked since")
	found, err := gitops.Find(t.Context(), writer, []string{"web"}, nil)
	require.NoError(t, err)
	assert.Equal(t, []gitops.Object{web}, found)
	owners, err := gitops.NewOwners(t.Context(), writer, found, nil)
	require.NoError(t, err)
	assert.Equal(t, "Application argocd/web", owners.Of(readText(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: web}}")[0]))
}
