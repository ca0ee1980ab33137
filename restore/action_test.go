package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

const profiles = `
apiVersion: rewrite.kubectl-dr.io/v1alpha1
kind: RewriteProfiles
profiles:
- name: drill
  state: standby
  labels: {set: {site: dr}}
  drop: [{kinds: [Event]}]
- name: production
`

// configMaps is a Cluster that counts how often it is asked for ConfigMaps.
type configMaps struct {
	items    []corev1api.ConfigMap
	restores []velerov1api.Restore
	err      error
	calls    int
}

func (c *configMaps) ListRestores(_ context.Context, namespace string) ([]velerov1api.Restore, error) {
	if namespace != "velero" {
		return nil, nil
	}
	return c.restores, c.err
}

func (c *configMaps) ListConfigMaps(_ context.Context, namespace, selector string) ([]corev1api.ConfigMap, error) {
	c.calls++
	if c.err != nil {
		return nil, c.err
	}
	s, err := labels.Parse(selector)
	if err != nil {
		return nil, err
	}
	var found []corev1api.ConfigMap
	for _, cm := range c.items {
		if cm.Namespace == namespace && s.Matches(labels.Set(cm.Labels)) {
			found = append(found, cm)
		}
	}
	return found, nil
}

func configMap(name, content string) corev1api.ConfigMap {
	return corev1api.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name, Labels: map[string]string{
			"velero.io/plugin-config": "", "kubectl-dr.io/rewrite": "RestoreItemAction",
		}},
		Data: map[string]string{"profiles.yaml": content},
	}
}

func restoreOf(profile string) *velerov1api.Restore {
	r := &velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "r", UID: "1"}}
	if profile != "" {
		r.Annotations = map[string]string{ProfileKey: profile}
	}
	return r
}

func item(kind, apiVersion string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind,
		"metadata": map[string]any{"namespace": "wordpress", "name": "x"},
		"spec":     spec,
	}}
}

func TestAction_Execute(t *testing.T) {
	t.Parallel()
	deployment := item("Deployment", "apps/v1", map[string]any{"replicas": int64(1)})
	held := item("Deployment", "apps/v1", map[string]any{"replicas": int64(0)})
	held.SetAnnotations(map[string]string{rules.AnnotationOriginalState: `{"replicas":1}`})
	held.SetLabels(map[string]string{"site": "dr"})
	labelled := restoreOf("")
	labelled.Labels = map[string]string{ProfileKey: "drill"}
	both := restoreOf("drill")
	both.Labels = map[string]string{ProfileKey: "production"}

	tests := []struct {
		name    string
		configs []corev1api.ConfigMap
		restore *velerov1api.Restore
		item    *unstructured.Unstructured
		want    *unstructured.Unstructured // nil: not restored
		wantErr string
	}{
		{
			name:    "a restore that names no profile is left alone, whatever the configuration",
			configs: []corev1api.ConfigMap{configMap("a", "broken"), configMap("b", "broken")},
			restore: restoreOf(""), item: deployment, want: deployment,
		},
		{
			name:    "the profile of the annotation applies",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: restoreOf("drill"), item: deployment, want: held,
		},
		{
			name:    "the profile of the label applies",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: labelled, item: deployment, want: held,
		},
		{
			name:    "the annotation goes before the label",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: both, item: deployment, want: held,
		},
		{
			name:    "a profile without rules changes nothing",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: restoreOf("production"), item: deployment, want: deployment,
		},
		{
			name:    "what the profile drops isn't restored",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: restoreOf("drill"), item: item("Event", "v1", nil),
		},
		{
			name:    "without a ConfigMap the error says which to create",
			restore: restoreOf("drill"), item: deployment,
			wantErr: `find profile "drill" of restore r: no ConfigMap of profiles in namespace velero; create one with the labels velero.io/plugin-config: "" and kubectl-dr.io/rewrite: RestoreItemAction`,
		},
		{
			name:    "with several ConfigMaps the error names them",
			configs: []corev1api.ConfigMap{configMap("a", profiles), configMap("b", profiles)},
			restore: restoreOf("drill"), item: deployment,
			wantErr: `find profile "drill" of restore r: several ConfigMaps of profiles in namespace velero: a, b; keep one and move the profiles of the others into it, one key per file`,
		},
		{
			name:    "an unknown profile's error lists the known ones",
			configs: []corev1api.ConfigMap{configMap("a", profiles)},
			restore: restoreOf("dril"), item: deployment,
			wantErr: `find profile of restore r in ConfigMap velero/a: unknown profile "dril"; there are: drill, production`,
		},
		{
			name:    "a fault in the ConfigMap is located",
			configs: []corev1api.ConfigMap{configMap("a", "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles: [{nam: x}]")},
			restore: restoreOf("drill"), item: deployment,
			wantErr: `find profile "drill" of restore r: load ConfigMap velero/a: profiles.yaml:3: profiles[0].nam: unknown field; did you mean "name"?`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log, _ := logrustest.NewNullLogger()
			before := tt.item.DeepCopy()
			out, err := NewAction(log, &configMaps{items: tt.configs}, "velero").Execute(&velero.RestoreItemActionExecuteInput{
				Item: tt.item, ItemFromBackup: tt.item.DeepCopy(), Restore: tt.restore,
			})
			assert.Equal(t, before, tt.item, "the item is as it was")
			if tt.wantErr != "" {
				require.EqualError(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want == nil, out.SkipRestore)
			if tt.want != nil {
				assert.Equal(t, tt.want, out.UpdatedItem)
			}
		})
	}
}

func TestAction_Execute_dropsPodsTheirControllerMakesAgain(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	pod := item("Pod", "v1", map[string]any{})
	fromBackup := pod.DeepCopy()
	yes := true
	fromBackup.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "x", UID: "1", Controller: &yes}})

	out, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: pod, ItemFromBackup: fromBackup, Restore: restoreOf("drill")})
	require.NoError(t, err)
	assert.True(t, out.SkipRestore)

	out, err = a.Execute(&velero.RestoreItemActionExecuteInput{Item: pod, ItemFromBackup: fromBackup, Restore: restoreOf("production")})
	require.NoError(t, err)
	assert.False(t, out.SkipRestore)
	assert.Equal(t, pod, out.UpdatedItem, "the owners don't come back")
}

func TestAction_Execute_dropsJobsThatHaveFinished(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	job := item("Job", "batch/v1", map[string]any{})
	running, failed := job.DeepCopy(), job.DeepCopy()
	running.Object["status"] = map[string]any{"active": int64(1)}
	failed.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Failed", "status": "True"}}}

	out, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: job, ItemFromBackup: failed, Restore: restoreOf("drill")})
	require.NoError(t, err)
	assert.True(t, out.SkipRestore)

	out, err = a.Execute(&velero.RestoreItemActionExecuteInput{Item: job, ItemFromBackup: running, Restore: restoreOf("drill")})
	require.NoError(t, err)
	assert.False(t, out.SkipRestore)
	assert.NotContains(t, out.UpdatedItem.UnstructuredContent(), "status", "the status doesn't come back")
}

func TestAction_Execute_followsTheMappingOfNamespaces(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	restore := restoreOf("production")
	restore.Spec.NamespaceMapping = map[string]string{"wordpress": "wordpress-drill"}
	service := item("Service", "v1", map[string]any{"type": "ExternalName", "externalName": "db.wordpress.svc.cluster.local"})
	out, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: service, Restore: restore})
	require.NoError(t, err)
	want := service.DeepCopy()
	want.Object["spec"].(map[string]any)["externalName"] = "db.wordpress-drill.svc.cluster.local"
	assert.Equal(t, want, out.UpdatedItem, "the object's own namespace is left to Velero")
}

func TestAction_Execute_matchesVolumesByTheirClaimsOwnNamespace(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", `
apiVersion: rewrite.kubectl-dr.io/v1alpha1
kind: RewriteProfiles
profiles: [{name: drill, match: {namespaces: [wordpress]}, storageClasses: {fast: fast-dr}}]
`)}}, "velero")
	fromBackup := item("PersistentVolume", "v1", map[string]any{
		"storageClassName": "fast", "claimRef": map[string]any{"namespace": "wordpress", "name": "db"},
	})
	fromBackup.SetNamespace("")
	mapped := fromBackup.DeepCopy()
	setClaimNamespace(mapped, "wordpress-drill")
	before := mapped.DeepCopy()
	restore := restoreOf("drill")
	restore.Spec.NamespaceMapping = map[string]string{"wordpress": "wordpress-drill"}

	out, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: mapped, ItemFromBackup: fromBackup, Restore: restore})
	require.NoError(t, err)
	want := before.DeepCopy()
	want.Object["spec"].(map[string]any)["storageClassName"] = "fast-dr"
	assert.Equal(t, want, out.UpdatedItem, "Velero has mapped the claim's namespace already, and so it stays")
	assert.Equal(t, before, mapped, "the item is as it was")
}

func TestAction_Execute_logsEveryChange(t *testing.T) {
	t.Parallel()
	log, hook := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	_, err := a.Execute(&velero.RestoreItemActionExecuteInput{
		Item: item("Deployment", "apps/v1", map[string]any{"replicas": int64(1)}), Restore: restoreOf("drill"),
	})
	require.NoError(t, err)
	var messages []string
	for _, entry := range hook.AllEntries() {
		assert.Equal(t, logrus.InfoLevel, entry.Level)
		messages = append(messages, entry.Message)
	}
	assert.Equal(t, []string{
		"rewriting by profile",
		`state: spec.replicas: 1 → 0`,
		`state: metadata.annotations[kubectl-dr.io/original-state]: (none) → "{\"replicas\":1}"`,
		`labels: metadata.labels.site: (none) → "dr"`,
		"so far 1 of 1 objects changed, 0 not restored: labels 1, state 1; nothing yet for drop[0]",
	}, messages)
}

func TestAction_readsItsConfigurationOncePerRestore(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	config := &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}
	a := NewAction(log, config, "velero")
	execute := func(uid string) error {
		r := restoreOf("drill")
		r.UID = types.UID(uid)
		_, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: item("Service", "v1", nil), Restore: r})
		return err
	}
	for range 3 {
		require.NoError(t, execute("1"))
	}
	assert.Equal(t, 1, config.calls)

	config.err = errors.New("gone")
	require.EqualError(t, execute("2"), `find profile "drill" of restore r: list ConfigMaps in namespace velero: gone`)
	require.NoError(t, execute("1"), "a restore under way keeps what it read")

	config.err = nil
	require.NoError(t, execute("2"), "an error isn't kept")
	for i := range keptProfiles {
		require.NoError(t, execute(fmt.Sprint("other", i)))
	}
	calls := config.calls
	require.NoError(t, execute("1"))
	assert.Equal(t, calls+1, config.calls, "the oldest restore is forgotten")
}

func TestAction_Admit(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	require.NoError(t, a.Admit(restoreOf("drill")))
	require.NoError(t, a.Admit(restoreOf("")), "it asks for no profile")
	require.ErrorIs(t, a.Admit(restoreOf("nope")), rules.ErrUnknownProfile)
}

func TestAction_startsNoOperations(t *testing.T) {
	t.Parallel()
	log, _ := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{}, "velero")
	assert.Equal(t, "kubectl-dr.io/rewrite", a.Name())
	_, err := a.Progress("x", nil)
	require.Error(t, err)
	require.NoError(t, a.Cancel("x", nil))
	ready, err := a.AreAdditionalItemsReady(nil, nil)
	require.NoError(t, err)
	assert.True(t, ready)
}

// running is a restore in progress that asks for a profile.
func running(profile string) velerov1api.Restore {
	r := *restoreOf(profile)
	r.Status.Phase = velerov1api.RestorePhaseInProgress
	return r
}

func TestAction_AppliesTo(t *testing.T) {
	t.Parallel()
	done := running("nope")
	done.Status.Phase = velerov1api.RestorePhaseCompleted
	tests := []struct {
		name     string
		restores []velerov1api.Restore
		config   string
		listErr  error
		selected bool
		wantErr  string
	}{
		{name: "every object of a restore that names a profile", restores: []velerov1api.Restore{done, running("drill")}, config: profiles, selected: true},
		{name: "no object of a restore that names none", restores: []velerov1api.Restore{running("")}, config: "broken"},
		{name: "every object when another restore's profile may be meant", restores: []velerov1api.Restore{running(""), running("drill")}, config: profiles, selected: true},
		{name: "every object when no restore is found", restores: []velerov1api.Restore{done}, config: profiles, selected: true},
		{name: "every object when restores can't be listed", listErr: errors.New("forbidden"), config: profiles, selected: true},
		{
			name: "a file with a fault ends the restore, and the fault is located", restores: []velerov1api.Restore{running("drill")},
			config:  "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n- name: drill\n  host: []\n",
			wantErr: `find profile "drill" of restore r: load ConfigMap velero/a: profiles.yaml:5: profiles[0].host: unknown field; did you mean "hosts"?`,
		},
		{
			name: "so does a profile that isn't there", restores: []velerov1api.Restore{running("dril")}, config: profiles,
			wantErr: `find profile of restore r in ConfigMap velero/a: unknown profile "dril"; there are: drill, production`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log, _ := logrustest.NewNullLogger()
			c := &configMaps{items: []corev1api.ConfigMap{configMap("a", tt.config)}, restores: tt.restores, err: tt.listErr}
			got, err := NewAction(log, c, "velero").AppliesTo()
			if tt.wantErr != "" {
				require.EqualError(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			selector, err := labels.Parse(got.LabelSelector)
			require.NoError(t, err)
			for _, set := range []labels.Set{nil, {ProfileKey: "drill"}} {
				assert.Equal(t, tt.selected, selector.Matches(set))
			}
			assert.Equal(t, velero.ResourceSelector{LabelSelector: got.LabelSelector}, got, "whatever its kind and namespace")
		})
	}
}

func TestAction_Execute_sumsUp(t *testing.T) {
	t.Parallel()
	log, hook := logrustest.NewNullLogger()
	a := NewAction(log, &configMaps{items: []corev1api.ConfigMap{configMap("a", profiles)}}, "velero")
	for _, kind := range []string{"Service", "Service", "Event", "ReplicationController"} {
		_, err := a.Execute(&velero.RestoreItemActionExecuteInput{Item: item(kind, "v1", nil), Restore: restoreOf("drill")})
		require.NoError(t, err)
	}
	var summaries []string
	for _, entry := range hook.AllEntries() {
		if strings.HasPrefix(entry.Message, "so far ") {
			summaries = append(summaries, entry.Message)
		}
	}
	assert.Equal(t, []string{
		"so far 1 of 1 objects changed, 0 not restored: labels 1; nothing yet for drop[0], state",
		"so far 2 of 2 objects changed, 0 not restored: labels 2; nothing yet for drop[0], state",
		"so far 2 of 3 objects changed, 1 not restored: drop[0] 1, labels 2; nothing yet for state",
		"so far 2 of 3 objects changed, 1 not restored: drop[0] 1, labels 2; nothing yet for state",
		"so far 3 of 4 objects changed, 1 not restored: drop[0] 1, labels 3, state 1",
	}, summaries)
}

func limited(r *velerov1api.Restore, to string) *velerov1api.Restore {
	if r.Annotations == nil {
		r.Annotations = map[string]string{}
	}
	r.Annotations[OnlyKey] = to
	return r
}

func TestAction_Execute_ofASelection(t *testing.T) {
	t.Parallel()
	selection := corev1api.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "r", Labels: map[string]string{OnlyKey: "r"}},
		Data:       map[string]string{"0": "Secret wordpress/x\n", "1": "Deployment.apps wordpress/x\n"},
	}
	cluster := &configMaps{items: []corev1api.ConfigMap{configMap("profiles", profiles), selection}}
	action := NewAction(logrus.New(), cluster, "velero")
	tests := []struct {
		name    string
		restore *velerov1api.Restore
		item    *unstructured.Unstructured
		skipped bool
		label   string
	}{
		{"what is selected is restored", limited(restoreOf(""), "r"), item("Secret", "v1", nil), false, ""},
		{"what is not is left out", limited(restoreOf(""), "r"), item("ConfigMap", "v1", nil), true, ""},
		{"a profile applies to what is selected", limited(restoreOf("drill"), "r"), item("Deployment", "apps/v1", map[string]any{}), false, "dr"},
		{"and to nothing else", limited(restoreOf("drill"), "r"), item("Service", "v1", map[string]any{}), true, ""},
		{"a restore without a selection is not limited", restoreOf("drill"), item("Service", "v1", map[string]any{}), false, "dr"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.restore.UID = types.UID(fmt.Sprint(i))
			out, err := action.Execute(&velero.RestoreItemActionExecuteInput{Item: tt.item, ItemFromBackup: tt.item, Restore: tt.restore})
			require.NoError(t, err)
			assert.Equal(t, tt.skipped, out.SkipRestore)
			if !tt.skipped {
				assert.Equal(t, tt.label, (&unstructured.Unstructured{Object: out.UpdatedItem.UnstructuredContent()}).GetLabels()["site"])
			}
		})
	}
}

// A restore that is to be limited and can't be must not restore everything.
func TestAction_AppliesTo_aSelectionThatIsMissing(t *testing.T) {
	t.Parallel()
	running := *limited(restoreOf(""), "gone")
	running.Status.Phase = velerov1api.RestorePhaseInProgress
	action := NewAction(logrus.New(), &configMaps{restores: []velerov1api.Restore{running}}, "velero")
	_, err := action.AppliesTo()
	assert.EqualError(t, err, "find the ConfigMap of the objects that restore r is limited to: namespace velero has 0 with the label kubectl-dr.io/only=gone, not one")
	_, err = action.Execute(&velero.RestoreItemActionExecuteInput{Item: item("Secret", "v1", nil), Restore: &running})
	assert.Error(t, err)
}
