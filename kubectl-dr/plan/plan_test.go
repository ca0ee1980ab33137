package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func valid() *RecoveryPlan {
	p := &RecoveryPlan{}
	p.Name = "shop"
	p.Spec = RecoveryPlanSpec{
		Objectives: Objectives{RPO: metav1.Duration{Duration: time.Minute}, RTO: metav1.Duration{Duration: time.Minute}},
		Source:     Source{Namespaces: []string{"shop", "shop-db"}, Schedule: "shop"},
		Start:      []Wave{{Name: "db", Workloads: []string{"shop-db/statefulset/db"}}},
		Probes:     []Probe{{Name: "page", Namespace: "shop", HTTP: &HTTPProbe{Service: "web"}}},
		Traffic:    &Traffic{Hosts: []string{"shop.example.org"}, Method: TrafficManual},
		Protect: &Protect{
			Interval: &IntervalClass{Every: metav1.Duration{Duration: 15 * time.Minute}, Keep: 96},
			Daily:    &DailyClass{At: "02:10", Keep: 10},
			Weekly:   &WeeklyClass{Day: "monday", At: "23:59", Keep: 8},
			Monthly:  &MonthlyClass{Day: 28, At: "00:00", Keep: 12},
		},
	}
	return p
}

func TestLint(t *testing.T) {
	t.Parallel()
	require.Empty(t, valid().Lint())
	tests := []struct {
		name  string
		spoil func(*RecoveryPlan)
		want  string
	}{
		{"no name", func(p *RecoveryPlan) { p.Name = "" }, "metadata.name"},
		{"a name too long for its runs", func(p *RecoveryPlan) { p.Name = strings.Repeat("a", MaxName+1) }, "so it may have 37"},
		{"no RPO", func(p *RecoveryPlan) { p.Spec.Objectives.RPO.Duration = 0 }, "spec.objectives.rpo"},
		{"a drill interval of nothing", func(p *RecoveryPlan) { p.Spec.Objectives.DrillEvery = &metav1.Duration{} }, "spec.objectives.drillEvery"},
		{"no namespaces", func(p *RecoveryPlan) { *p = *valid(); p.Spec.Source.Namespaces = nil }, "lists no namespace"},
		{"a namespace twice", func(p *RecoveryPlan) { p.Spec.Source.Namespaces = []string{"shop", "shop-db", "shop"} }, `"shop" is there twice`},
		{"a namespace that is none", func(p *RecoveryPlan) { p.Spec.Source.Namespaces[0] = "Shop!" }, `"Shop!" is not a namespace`},
		{"no schedule", func(p *RecoveryPlan) { p.Spec.Source.Schedule = "" }, "names no Velero Schedule"},
		{"a wave without name", func(p *RecoveryPlan) { p.Spec.Start[0].Name = "" }, "spec.start[0]: has no name"},
		{"a wave of nothing", func(p *RecoveryPlan) { p.Spec.Start[0].Workloads = nil }, "lists no workload"},
		{"a workload whose namespace is not clear", func(p *RecoveryPlan) { p.Spec.Start[0].Workloads = []string{"deployment/x"} }, "say which of shop, shop-db"},
		{"a workload of another namespace", func(p *RecoveryPlan) { p.Spec.Start[0].Workloads = []string{"other/deployment/x"} }, `"other" is not one of the plan's`},
		{"a workload of a kind that can not be waited for", func(p *RecoveryPlan) { p.Spec.Start[0].Workloads = []string{"shop/job/x"} }, `kind "job" is not one of`},
		{"a workload started twice", func(p *RecoveryPlan) {
			p.Spec.Start = append(p.Spec.Start, Wave{Name: "again", Workloads: p.Spec.Start[0].Workloads})
		}, "is started by spec.start[0].workloads[0] already"},
		{"a probe of nothing", func(p *RecoveryPlan) { p.Spec.Probes[0].HTTP = nil }, "has 0 of http, tcp, exec, sql and job"},
		{"a probe of two things", func(p *RecoveryPlan) { p.Spec.Probes[0].TCP = &TCPProbe{Service: "web"} }, "has 2 of http, tcp, exec, sql and job"},
		{"a probe without service", func(p *RecoveryPlan) { p.Spec.Probes[0].HTTP.Service = "" }, "names no Service"},
		{"a path that is not one", func(p *RecoveryPlan) { p.Spec.Probes[0].HTTP.Path = "index" }, "does not begin with a slash"},
		{"a status that is not one", func(p *RecoveryPlan) { p.Spec.Probes[0].HTTP.Expect.Status = 20 }, "20 is not an HTTP status"},
		{"a port that is not one", func(p *RecoveryPlan) { p.Spec.Probes[0].HTTP.Port = 70000 }, "70000 is not a port"},
		{"an empty command", func(p *RecoveryPlan) {
			p.Spec.Probes[0] = Probe{Name: "x", Exec: &ExecProbe{Workload: "shop/deployment/web"}}
		}, "spec.probes[0].exec.command: is empty"},
		{"a client that is none", func(p *RecoveryPlan) { p.Spec.Probes[0] = sqlProbe(func(q *SQLProbe) { q.Client = "sh" }) }, `spec.probes[0].sql.client: "sh" is none of mariadb, mysql, psql`},
		{"a query of nothing", func(p *RecoveryPlan) { p.Spec.Probes[0] = sqlProbe(func(q *SQLProbe) { q.Query = " " }) }, "spec.probes[0].sql.query: is empty"},
		{"a variable that is none", func(p *RecoveryPlan) { p.Spec.Probes[0] = sqlProbe(func(q *SQLProbe) { q.PasswordEnv = "$(id)" }) }, `spec.probes[0].sql.passwordEnv: "$(id)" is no environment variable`},
		{"an answer that may be anything", func(p *RecoveryPlan) {
			p.Spec.Probes[0] = sqlProbe(func(q *SQLProbe) { q.Expect.AtLeast = nil })
		}, "spec.probes[0].sql.expect: wants either equals or atLeast"},
		{"a database that is nowhere", func(p *RecoveryPlan) { p.Spec.Probes[0] = sqlProbe(func(q *SQLProbe) { q.Workload = "db" }) }, "spec.probes[0].sql.workload: "},
		{"a Job that is none", func(p *RecoveryPlan) { p.Spec.Probes[0] = jobProbe(`{"tries": 3}`) }, `spec.probes[0].job.spec: is not that of a Job: json: unknown field "tries"`},
		{"a Job of nothing", func(p *RecoveryPlan) { p.Spec.Probes[0] = jobProbe(`{}`) }, "spec.probes[0].job.spec: has no container at template.spec.containers"},
		{"a hook of nothing", hooked(Hook{Probe: Probe{Name: "x", Namespace: "shop"}}), "spec.start[0].after[0]: has 0 of prompt, http, tcp, exec, sql and job"},
		{"a hook of two things", hooked(Hook{Probe: Probe{Name: "x", Exec: &ExecProbe{Workload: "shop/deployment/web", Command: []string{"true"}}}, Prompt: "?"}),
			"spec.start[0].after[0]: has 2 of prompt, http, tcp, exec, sql and job"},
		{"a hook without a name", hooked(Hook{Prompt: "?"}), "spec.start[0].after[0]: has no name"},
		{"hooks of one name", func(p *RecoveryPlan) {
			hooked(Hook{Probe: Probe{Name: "x"}, Prompt: "?"})(p)
			p.Spec.Start[0].Before = p.Spec.Start[0].After
		}, `spec.start[0].after[0]: "x" is there twice, also as spec.start[0].before[0]`},
		{"a hook of another command", hooked(Hook{Probe: Probe{Name: "x"}, Prompt: "?", In: []HookCommand{"status"}}),
			`spec.start[0].after[0].in: "status" is none of drill, failover, failback, rollback, rebuild`},
		{"a hook that runs nothing", hooked(Hook{Probe: Probe{Name: "x", Exec: &ExecProbe{Workload: "shop/deployment/web"}}}),
			"spec.start[0].after[0].exec.command: is empty"},
		{"a resolver without a port", func(p *RecoveryPlan) { p.Spec.Traffic.Resolver = "192.0.2.53" }, `spec.traffic.resolver: "192.0.2.53" is not host:port`},
		{"updates without a key", func(p *RecoveryPlan) { p.Spec.Traffic.Method = TrafficUpdate }, "spec.traffic.update: is missing"},
		{"a key that is nowhere", func(p *RecoveryPlan) { p.Spec.Traffic.Update = &DNSUpdate{KeyName: "dr"} }, "spec.traffic.update.secret: wants name and key"},
		{"a key without a name", func(p *RecoveryPlan) { p.Spec.Traffic.Update = &DNSUpdate{Secret: SecretKey{"a", "b"}} }, "spec.traffic.update.keyName: is empty"},
		{"a target that is none", func(p *RecoveryPlan) { p.Spec.Traffic.Targets = &TrafficTargets{Recovery: []string{"!"}} }, `spec.traffic.targets.recovery[0]: "!" is neither an address nor a name`},
		{"a name beside an address", func(p *RecoveryPlan) {
			p.Spec.Traffic.Targets = &TrafficTargets{Source: []string{"192.0.2.1", "lb.example.net"}}
		}, `spec.traffic.targets.source[1]: "lb.example.net" is a name, and has to be the only target`},
		{"a page that is none", func(p *RecoveryPlan) { p.Spec.Traffic.Verify = &TrafficVerify{URL: "www.example.org"} }, `spec.traffic.verify.url: "www.example.org" is not the URL of a page`},
		{"a TTL of nothing", func(p *RecoveryPlan) { p.Spec.Traffic.TTL = &metav1.Duration{} }, "spec.traffic.ttl: must be a duration above zero"},
		{"a negative timeout", func(p *RecoveryPlan) { p.Spec.Probes[0].Timeout.Duration = -1 }, "timeout: is negative"},
		{"backups without restore points", func(p *RecoveryPlan) { p.Spec.Protect.Interval = nil }, "spec.protect.interval: is missing"},
		{"backups all the time", func(p *RecoveryPlan) { p.Spec.Protect.Interval.Every.Duration = time.Second }, "spec.protect.interval.every: must be a minute at least"},
		{"one backup that is kept", func(p *RecoveryPlan) { p.Spec.Protect.Weekly.Keep = 1 }, "spec.protect.weekly.keep: must be 2 at least"},
		{"a time that is none", func(p *RecoveryPlan) { p.Spec.Protect.Daily.At = "24:00" }, `spec.protect.daily.at: "24:00" is not a time`},
		{"a time that cron would read otherwise", func(p *RecoveryPlan) { p.Spec.Protect.Daily.At = "2:10" }, `"2:10" is not a time`},
		{"a day that is none", func(p *RecoveryPlan) { p.Spec.Protect.Weekly.Day = "Monday" }, `spec.protect.weekly.day: "Monday" is not a day`},
		{"a day that February has not", func(p *RecoveryPlan) { p.Spec.Protect.Monthly.Day = 30 }, "spec.protect.monthly.day: 30 is not a day that every month has"},
		{"a schedule too long for its classes", func(p *RecoveryPlan) { p.Spec.Source.Schedule = strings.Repeat("a", 50) }, "so it may have 40"},
		{"a Flux object of another kind", func(p *RecoveryPlan) {
			p.Spec.GitOps = &GitOps{Flux: []FluxObject{{Kind: "GitRepository", Name: "x"}}}
		}, `spec.gitops.flux[0].kind: "GitRepository" is neither "Kustomization" nor "HelmRelease"`},
		{"an Application without a name", func(p *RecoveryPlan) {
			p.Spec.GitOps = &GitOps{ArgoCD: []ArgoApplication{{}}}
		}, "spec.gitops.argocd[0].application: is empty"},
		{"a requirement without a name", requiring("", "https://login.example.org"), "spec.requires[0]: has no name"},
		{"a requirement that is no URL", requiring("mail", "mail.example.org:25"), "spec.requires[0].url: is no URL of http, https or tcp"},
		{"a requirement without a port", requiring("mail", "tcp://mail.example.org"), `spec.requires[0].url: "tcp://mail.example.org" has no port`},
		{"a requirement with a password", requiring("mail", "https://me:secret@mail.example.org"), "spec.requires[0].url: has a user"},
		{"traffic by an unknown way", func(p *RecoveryPlan) { p.Spec.Traffic.Method = "pigeon" }, `"pigeon" is none of external-dns, manual, update`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := valid()
			tt.spoil(p)
			var invalid *InvalidError
			require.ErrorAs(t, p.Validate(), &invalid)
			assert.Contains(t, invalid.Error(), tt.want)
		})
	}
}

func requiring(name, url string) func(*RecoveryPlan) {
	return func(p *RecoveryPlan) { p.Spec.Requires = []Requirement{{Name: name, URL: url}} }
}

func TestParseWorkload(t *testing.T) {
	t.Parallel()
	w, err := ParseWorkload("deployment/web", []string{"shop"})
	require.NoError(t, err)
	assert.Equal(t, Workload{Namespace: "shop", Kind: "deployment", Name: "web"}, w)
	assert.Equal(t, "shop/deployment/web", w.String())
	again, err := ParseWorkload(w.String(), []string{"shop", "other"})
	require.NoError(t, err)
	assert.Equal(t, w, again)
}

func TestIgnoresClaim(t *testing.T) {
	t.Parallel()
	one := Source{Namespaces: []string{"shop"}, IgnoreClaims: []string{"cache"}}
	assert.True(t, one.IgnoresClaim("shop", "cache"))
	assert.False(t, one.IgnoresClaim("shop", "data"))
	two := Source{Namespaces: []string{"a", "b"}, IgnoreClaims: []string{"cache", "b/tmp"}}
	assert.False(t, two.IgnoresClaim("a", "cache"), "of which namespace is not clear")
	assert.True(t, two.IgnoresClaim("b", "tmp"))
}

func TestDecode_isStrict(t *testing.T) {
	t.Parallel()
	_, err := Decode([]byte("apiVersion: v1\nkind: Pod\n"))
	require.ErrorContains(t, err, `it is "Pod" of "v1", not RecoveryPlan`)
	_, err = Decode([]byte("apiVersion: kubectl-dr.io/v1alpha1\nkind: RecoveryPlan\nspec: {objectives: {rpo: soon}}\n"))
	require.Error(t, err)
}

func FuzzParseWorkload(f *testing.F) {
	f.Add("deployment/web")
	f.Add("shop/statefulset/db")
	f.Add("//")
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWorkload(s, []string{"shop"})
		if err != nil {
			return
		}
		again, err := ParseWorkload(w.String(), []string{"shop"})
		require.NoError(t, err)
		assert.Equal(t, w, again)
	})
}

func TestBackupClasses(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	assert.Equal(t, []BackupClass{
		{Name: "interval", Schedule: "shop", Cron: "@every 15m0s", Keep: 96, TTL: 24 * hour},
		{Name: "daily", Schedule: "shop-daily", Cron: "10 2 * * *", Keep: 10, TTL: 240 * hour},
		{Name: "weekly", Schedule: "shop-weekly", Cron: "59 23 * * 1", Keep: 8, TTL: 8 * 168 * hour},
		{Name: "monthly", Schedule: "shop-monthly", Cron: "0 0 28 * *", Keep: 12, TTL: 12 * 31 * 24 * hour},
	}, valid().Spec.BackupClasses())
	p := valid()
	p.Spec.Protect = nil
	assert.Empty(t, p.Spec.BackupClasses())
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	p := valid()
	p.Spec.Objectives.DrillEvery = &metav1.Duration{Duration: time.Hour}
	p.Spec.Objectives.RPO.Duration = 30 * time.Minute
	p.Spec.Probes[0].HTTP.Expect.Contains = "<title>"
	assert.Empty(t, p.Advice())
	p.Spec.Objectives.RPO.Duration = 29 * time.Minute
	assert.Equal(t, []Fault{{"spec.protect.interval.every", "is 15m0s: one backup that fails misses the RPO of 29m0s"}}, p.Advice())
	p.Spec.Probes = nil
	assert.Len(t, p.Advice(), 2)
}

// hooked adds a hook to the first wave.
func hooked(h Hook) func(*RecoveryPlan) {
	return func(p *RecoveryPlan) { p.Spec.Start[0].After = []Hook{h} }
}

// sqlProbe is a sound one, as a test spoils it.
func sqlProbe(spoil func(*SQLProbe)) Probe {
	q := &SQLProbe{Workload: "shop/deployment/web", Client: SQLMariaDB, Query: "SELECT 1", Expect: SQLExpect{AtLeast: ptr.To(int64(1))}}
	spoil(q)
	return Probe{Name: "rows", SQL: q}
}

func jobProbe(spec string) Probe {
	return Probe{Name: "job", Namespace: "shop", Job: &JobProbe{Spec: runtime.RawExtension{Raw: []byte(spec)}}}
}
