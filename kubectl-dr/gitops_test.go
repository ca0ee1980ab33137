package kubectldr

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

const argoApplication = `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {namespace: argocd, name: wordpress}
spec: {syncPolicy: {automated: {prune: true, selfHeal: true}}}
`

// fromGit is a world whose application comes from Git at the named sites.
func fromGit(t *testing.T, sites ...func(*world) *cluster.Cluster) *world {
	t.Helper()
	w := newWorld(t)
	w.update(&plan.RecoveryPlan{}, "wordpress", func(o client.Object) {
		o.(*plan.RecoveryPlan).Spec.GitOps = &plan.GitOps{ArgoCD: []plan.ArgoApplication{{Application: "wordpress"}}}
	})
	for _, site := range sites {
		u := &unstructured.Unstructured{}
		require.NoError(t, yaml.Unmarshal([]byte(argoApplication), &u.Object))
		require.NoError(t, site(w).Client.Create(t.Context(), u))
	}
	return w
}

func sourceSide(w *world) *cluster.Cluster   { return w.source }
func recoverySide(w *world) *cluster.Cluster { return w.recovery }

func (w *world) syncs(t *testing.T, c *cluster.Cluster) bool {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("argoproj.io/v1alpha1")
	u.SetKind("Application")
	require.NoError(t, c.Client.Get(t.Context(), client.ObjectKey{Namespace: "argocd", Name: "wordpress"}, u))
	enabled, found, err := unstructured.NestedBool(u.Object, "spec", "syncPolicy", "automated", "enabled")
	require.NoError(t, err)
	return enabled || !found
}

// Argo CD would start again what a failover stops, and undo what it restores.
func TestFailover_ofWhatComesFromGit(t *testing.T) {
	t.Parallel()
	w := fromGit(t, sourceSide, recoverySide)
	got := w.do(t, doPlanned)
	golden(t, "planned failover of what comes from Git", got.out+"--- stderr\n"+got.err)
	assert.False(t, w.syncs(t, w.source))
	assert.False(t, w.syncs(t, w.recovery), "until Git says what runs here now")

	got = w.run(t.Context(), strings.Fields("gitops status --source-context=primary")...)
	require.Zero(t, got.code, got.err)
	golden(t, "gitops status", got.out)
	got = w.run(t.Context(), "gitops", "resume", "-o", "yaml")
	require.Zero(t, got.code, got.err)
	golden(t, "gitops resume as yaml", got.out)
	assert.True(t, w.syncs(t, w.recovery))
	assert.False(t, w.syncs(t, w.source), "which was not named")

	w.old.absent = false
	w.do(t, doReprotect)
	w.do(t, doFailback)
	assert.True(t, w.syncs(t, w.source), "it runs there again")
	assert.False(t, w.syncs(t, w.recovery))
}

func TestFailover_ofWhatComesFromGit_rollsBack(t *testing.T) {
	t.Parallel()
	w := fromGit(t, sourceSide)
	w.before = func(what string) error {
		if what == "primary create backup" {
			return errors.New("the disk is full")
		}
		return nil
	}
	got := w.run(t.Context(), strings.Fields(doPlanned)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "the disk is full")
	assert.True(t, w.syncs(t, w.source))
}

func TestFailover_ofWhatComesFromGit_thatIsNotThere(t *testing.T) {
	t.Parallel()
	w := fromGit(t)
	got := w.run(t.Context(), strings.Fields(doPlanned)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "get Application argocd/wordpress")

	w = fromGit(t)
	w.do(t, doDisaster)
}

func TestGitOps_refuses(t *testing.T) {
	t.Parallel()
	got := newWorld(t).run(t.Context(), "gitops", "pause")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "plan wordpress names nothing of Argo CD or Flux")
}
