package kubectldr

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// protection is what a plan asks for in these tests.
func protection() *plan.Protect {
	return &plan.Protect{
		StorageLocation: "default", SnapshotLocations: []string{"zfs"},
		Interval: &plan.IntervalClass{Every: metav1.Duration{Duration: 5 * time.Minute}, Keep: 288},
		Daily:    &plan.DailyClass{At: "02:10", Keep: 10},
		Weekly:   &plan.WeeklyClass{Day: "sunday", At: "03:10", Keep: 8},
		Monthly:  &plan.MonthlyClass{Day: 1, At: "04:10", Keep: 12},
	}
}

func protectedPlan() *plan.RecoveryPlan {
	p := testPlan()
	p.Spec.Protect = protection()
	return p
}

func TestPlan(t *testing.T) {
	t.Parallel()
	poor := testPlan()
	poor.Spec.Objectives.DrillEvery, poor.Spec.Protect = nil, protection()
	poor.Spec.Probes = []plan.Probe{{Name: "port", TCP: &plan.TCPProbe{Service: "wordpress"}}}
	poor.Spec.Protect.Interval.Every.Duration = 10 * time.Minute
	broken := testPlan()
	broken.Spec.Source.Namespaces, broken.Spec.Start[0].Name = nil, ""
	changed := testPlan()
	changed.Spec.Objectives.RTO.Duration = time.Hour
	changed.Labels = map[string]string{"team": "web"}
	tests := []struct {
		name string
		args string
		plan *plan.RecoveryPlan
	}{
		{"init", "plan init wordpress --source-context=primary", nil},
		{"init as json", "plan init wordpress --source-context=primary --name=blog -o json", nil},
		{"lint", "plan lint -f -", testPlan()},
		{"lint of a plan in the cluster, as json", "plan lint wordpress -o json", nil},
		{"lint with advice", "plan lint -f -", poor},
		{"lint with advice, strict", "plan lint -f - --strict", poor},
		{"lint of a plan that is not sound", "plan lint -f -", broken},
		{"show", "plan show", nil},
		{"show of a plan with classes of backups", "plan show -f -", protectedPlan()},
		{"show as yaml", "plan show wordpress -o yaml", nil},
		{"diff of the same", "plan diff -f -", testPlan()},
		{"diff", "plan diff -f -", changed},
		{"apply of the same", "plan apply -f -", testPlan()},
		{"apply", "plan apply -f -", changed},
		{"apply, dry", "plan apply -f - --dry-run", changed},
		{"apply, printing names", "plan apply -f - -o name", changed},
		{"schema", "plan schema", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.plan != nil {
				w.plan(tt.plan)
			}
			golden(t, filepath.Join("plan", tt.name), w.run(t.Context(), strings.Fields(tt.args)...).String())
		})
	}
}

func TestPlan_apply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := testPlan()
	p.Name = "shop"
	p.Namespace = ""
	w.plan(p)
	diff := w.run(t.Context(), "plan", "diff", "-f", "-")
	assert.Equal(t, 2, diff.code)
	assert.Contains(t, diff.out, "+++ plan shop (file)\n")
	dry := w.run(t.Context(), "plan", "apply", "-f", "-", "--dry-run")
	assert.Equal(t, "recoveryplan.kubectl-dr.io/shop created (dry run)\n", dry.out)
	assert.Equal(t, 1, w.run(t.Context(), "plan", "show", "shop").code, "a dry run makes nothing")
	for _, want := range []string{"created", "unchanged"} {
		got := w.run(t.Context(), "plan", "apply", "-f", "-")
		assert.Zero(t, got.code, got.err)
		assert.Equal(t, "recoveryplan.kubectl-dr.io/shop "+want+"\n", got.out)
	}
	assert.Zero(t, w.run(t.Context(), "plan", "diff", "-f", "-").code)
	p.Spec.Objectives.RPO.Duration = time.Hour
	w.plan(p)
	assert.Equal(t, "recoveryplan.kubectl-dr.io/shop configured\n", w.run(t.Context(), "plan", "apply", "-f", "-").out)
	have, err := w.recovery.Plan(t.Context(), "shop")
	require.NoError(t, err)
	assert.Equal(t, time.Hour, have.Spec.Objectives.RPO.Duration)
}

func TestPlan_initWhatItWritesIsAPlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.run(t.Context(), "plan", "init", "wordpress", "--source-context=primary", "--name=blog")
	require.Zero(t, got.code, got.err)
	p, err := plan.Decode([]byte(got.out))
	require.NoError(t, err)
	printed := w.run(t.Context(), "plan", "init", "wordpress", "--source-context=primary", "--name=blog", "-o", "json")
	var same plan.RecoveryPlan
	require.NoError(t, json.Unmarshal([]byte(printed.out), &same))
	assert.Equal(t, same.Spec, p.Spec)
}

func TestProtect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plan(protectedPlan())
	protect := func(args ...string) outcome {
		return w.run(t.Context(), append([]string{"protect", "-f", "-", "--source-context=primary"}, args...)...)
	}
	got := protect()
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "schedule wordpress is there already, and was not made for plan \"wordpress\"")
	assert.Contains(t, got.err, "hint: to let the plan have it: kubectl -n velero label schedules.velero.io wordpress kubectl-dr.io/plan=wordpress")
	assert.Len(t, w.schedules(t), 1, "nothing is made when a name is taken")

	s := w.schedules(t)["wordpress"]
	s.Labels = map[string]string{zfssnap.LabelPlan: "wordpress"}
	s.Spec.Paused = true
	s.Spec.Template.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"kept": "yes"}}
	require.NoError(t, w.source.Client.Update(t.Context(), &s))
	foreign := velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "nightly"}}
	require.NoError(t, w.source.Client.Create(t.Context(), &foreign))

	golden(t, "protect/dry run", protect("--dry-run").String())
	assert.Len(t, w.schedules(t), 2, "a dry run makes nothing")
	golden(t, "protect/first time", protect().String())
	golden(t, "protect/second time, wide", protect("-o", "wide").String())
	all := w.schedules(t)
	require.Len(t, all, 5)
	first := all["wordpress"]
	assert.True(t, first.Spec.Paused, "whether it is paused is not the plan's to say")
	assert.NotNil(t, first.Spec.Template.LabelSelector, "what the plan says nothing of stays")
	assert.Equal(t, "@every 5m0s", first.Spec.Schedule)
	daily := all["wordpress-daily"]
	assert.Equal(t, "10 2 * * *", daily.Spec.Schedule)
	assert.Equal(t, 240*time.Hour, daily.Spec.Template.TTL.Duration)
	assert.Equal(t, []string{"wordpress"}, daily.Spec.Template.IncludedNamespaces)
	assert.Equal(t, []string{"zfs"}, daily.Spec.Template.VolumeSnapshotLocations)
	assert.Zero(t, daily.Spec.Template.ItemOperationTimeout.Duration, "the plan says nothing of it")

	slow := protectedPlan()
	slow.Spec.Protect.OperationTimeout = &metav1.Duration{Duration: 36 * time.Hour}
	w.plan(slow)
	require.Zero(t, protect().code)
	for _, name := range []string{"wordpress", "wordpress-daily"} {
		assert.Equal(t, 36*time.Hour, w.schedules(t)[name].Spec.Template.ItemOperationTimeout.Duration)
	}
	slow.Spec.Protect.OperationTimeout.Duration = time.Second
	w.plan(slow)
	assert.Contains(t, protect().err, "spec.protect.operationTimeout")

	fewer := protectedPlan()
	fewer.Spec.Protect.Weekly, fewer.Spec.Protect.Daily.Keep = nil, 5
	w.plan(fewer)
	golden(t, "protect/of fewer classes", protect().String())
	assert.Len(t, w.schedules(t), 5, "nothing is deleted unasked")
	golden(t, "protect/of fewer classes, pruned", protect("--prune", "-o", "json").String())
	all = w.schedules(t)
	assert.NotContains(t, all, "wordpress-weekly")
	assert.Contains(t, all, "nightly", "a Schedule of somebody else")
	assert.Empty(t, all["nightly"].Labels)
}

func (w *world) schedules(t *testing.T) map[string]velerov1api.Schedule {
	t.Helper()
	list := &velerov1api.ScheduleList{}
	require.NoError(t, w.source.Client.List(t.Context(), list))
	all := map[string]velerov1api.Schedule{}
	for _, s := range list.Items {
		all[s.Name] = s
	}
	return all
}

// TestProtect_failoverPausesEveryClass: a backup of any class that was taken after
// the application has moved would hold nothing that counts.
func TestProtect_failoverPausesEveryClass(t *testing.T) {
	t.Parallel()
	failover := []string{"failover", "--planned", "--source-context=primary", "--yes"}
	w := newWorld(t)
	daily := &velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "wordpress-daily", Labels: map[string]string{zfssnap.LabelPlan: "wordpress"}}}
	other := &velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "other", Labels: map[string]string{zfssnap.LabelPlan: "shop"}}}
	require.NoError(t, w.source.Client.Create(t.Context(), daily))
	require.NoError(t, w.source.Client.Create(t.Context(), other))
	paused := func() map[string]bool {
		all := map[string]bool{}
		for name, s := range w.schedules(t) {
			all[name] = s.Spec.Paused
		}
		return all
	}
	w.backupPhase = velerov1api.BackupPhasePartiallyFailed
	require.NotZero(t, w.run(t.Context(), failover...).code)
	assert.Equal(t, map[string]bool{"wordpress": false, "wordpress-daily": false, "other": false}, paused(), "given back")
	w.pass(time.Minute)
	w.backupPhase = velerov1api.BackupPhaseCompleted
	got := w.run(t.Context(), failover...)
	require.Zero(t, got.code, got.err)
	assert.Equal(t, map[string]bool{"wordpress": true, "wordpress-daily": true, "other": false}, paused())
}

func TestPlan_wrongInput(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*world)
		err     string
		hint    string
	}{
		{"init of nothing", "plan init", nil, "name the namespaces of the application", "kubectl dr plan init NAMESPACE"},
		{"init of a namespace that is not there", "plan init nope --source-context=primary", nil, `get namespace "nope"`, ""},
		{"init of an empty namespace", "plan init empty", func(w *world) {
			require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "empty"}}))
		}, "there is no workload and no volume in empty", "--source-context"},
		{"apply without a file", "plan apply", nil, "give the file of the plan with -f", "kubectl dr plan init"},
		{"apply of a plan for another namespace", "plan apply -f -", func(w *world) {
			p := testPlan()
			p.Namespace = "backups"
			w.plan(p)
		}, "the plan belongs to namespace backups, and Velero is in velero", "--velero-namespace=backups"},
		{"apply of a plan that is not sound", "plan apply -f -", func(w *world) {
			p := testPlan()
			p.Spec.Objectives.RTO.Duration = 0
			w.plan(p)
		}, "spec.objectives.rto: must be a duration above zero", ""},
		{"lint of what is no plan", "plan lint -f -", func(w *world) { w.stdin = "kind: Pod\n" }, `it is "Pod" of "", not RecoveryPlan`, ""},
		{"protect without a source", "protect", nil, "protect needs --source-context", "the cluster that the application runs in"},
		{"protect of a plan without classes", "protect --source-context=primary", nil, `plan "wordpress" does not say which backups to take`, "add spec.protect to the plan"},
		{"protect with a time that is none", "protect -f - --source-context=primary", func(w *world) {
			p := protectedPlan()
			p.Spec.Protect.Daily.At = "2 am"
			w.plan(p)
		}, `spec.protect.daily.at: "2 am" is not a time, as 02:30`, ""},
		{"watching too often", "rpo --watch --interval=0s", nil, "--interval=0s: want a time above zero", ""},
		{"an exporter that never looks", "exporter --interval=-1s", nil, "--interval=-1s: want a time above zero", ""},
		{"an exporter on an address that is none", "exporter --listen=nowhere:http:1", nil, "serve metrics: listen tcp", ""},
		{"a bundle over another", "support-bundle --file=testdata/plan.yaml", nil, "write the bundle: open testdata/plan.yaml: file exists", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, 1, got.code)
			assert.Empty(t, got.out)
			said, hint, _ := strings.Cut(got.err, "hint: ")
			assert.Contains(t, said, "error: ")
			assert.Contains(t, said, tt.err)
			assert.Contains(t, hint, tt.hint)
		})
	}
}

// TestSchema: what the schema says of the examples is what decoding says.
func TestSchema_knowsEveryFieldOfTheExamples(t *testing.T) {
	t.Parallel()
	raw, err := plan.Schema()
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(raw, &schema))
	full := protectedPlan()
	full.Spec.Source.IgnoreClaims = []string{"cache"}
	content, err := json.Marshal(full)
	require.NoError(t, err)
	var value map[string]any
	require.NoError(t, json.Unmarshal(content, &value))
	assert.Empty(t, unknownTo(schema, value, "plan"))
	value["spec"].(map[string]any)["protect"].(map[string]any)["hourly"] = map[string]any{}
	assert.Equal(t, []string{"plan.spec.protect.hourly"}, unknownTo(schema, value, "plan"))
	_, err = os.Stat("../examples/crds/kubectl-dr.io_recoveryplans.yaml")
	require.NoError(t, err)
}

// unknownTo returns the fields of a value that a schema without additional
// properties refuses.
func unknownTo(schema map[string]any, value any, at string) []string {
	var unknown []string
	switch v := value.(type) {
	case []any:
		items, _ := schema["items"].(map[string]any)
		for _, item := range v {
			unknown = append(unknown, unknownTo(items, item, at+"[]")...)
		}
	case map[string]any:
		properties, ok := schema["properties"].(map[string]any)
		if !ok {
			return nil
		}
		for key, field := range v {
			of, ok := properties[key].(map[string]any)
			if !ok {
				unknown = append(unknown, at+"."+key)
				continue
			}
			unknown = append(unknown, unknownTo(of, field, at+"."+key)...)
		}
	}
	return unknown
}
