package probe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

func TestSQLCommand(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		probe plan.SQLProbe
		want  []string
	}{
		{"mariadb by its own defaults", plan.SQLProbe{Client: "mariadb", Query: "SELECT 1"},
			[]string{"mariadb", "--batch", "--skip-column-names", "--execute=SELECT 1"}},
		{"mysql with a password, which is no argument", plan.SQLProbe{Client: "mysql", User: "root", Database: "shop", PasswordEnv: "MYSQL_ROOT_PASSWORD", Query: "SELECT '; $(id)'"},
			[]string{"sh", "-c", `MYSQL_PWD="$MYSQL_ROOT_PASSWORD" exec "$@"`, "sh", "mysql", "--batch", "--skip-column-names", "--user=root", "--database=shop", "--execute=SELECT '; $(id)'"}},
		{"psql", plan.SQLProbe{Client: "psql", User: "app", Database: "app", PasswordEnv: "PW", Query: "SELECT 1"},
			[]string{"sh", "-c", `PGPASSWORD="$PW" exec "$@"`, "sh", "psql", "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--username=app", "--dbname=app", "--command=SELECT 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, sqlCommand(&tt.probe))
		})
	}
}

func TestProbe_sql(t *testing.T) {
	t.Parallel()
	atLeast := func(n int64) plan.SQLExpect { return plan.SQLExpect{AtLeast: &n} }
	equals := func(s string) plan.SQLExpect { return plan.SQLExpect{Equals: ptr.To(s)} }
	tests := []struct {
		name      string
		expect    plan.SQLExpect
		result    cluster.ExecResult
		want, err string
	}{
		{"as many rows as wanted", atLeast(40), cluster.ExecResult{Stdout: "42\n", Output: "warning: old client\n42\n"}, "answered 42", ""},
		{"fewer rows", atLeast(40), cluster.ExecResult{Stdout: "39\n"}, "", "mariadb in pod web-0: answered 39, want 40 at least"},
		{"no number", atLeast(1), cluster.ExecResult{Stdout: "a\tb\n"}, "", `"a b" is not one number`},
		{"the answer", equals("a\t1\nb\t2\n"), cluster.ExecResult{Stdout: "a\t1\r\nb\t2\r\n"}, "answered a 1 b 2", ""},
		{"another answer", equals("a"), cluster.ExecResult{Stdout: "b"}, "", "answered b, want a"},
		{"no answer", equals(""), cluster.ExecResult{}, "answered no output", ""},
		{"an error", atLeast(1), cluster.ExecResult{ExitCode: 1, Output: "ERROR 1146 (42S02): Table 'shop.posts' doesn't exist"}, "", "exit code 1: ERROR 1146"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &Prober{Client: fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(objects(true)...).Build(), Pods: &pods{result: tt.result}, Interval: time.Millisecond}
			probe := plan.Probe{SQL: &plan.SQLProbe{Workload: "deployment/web", Client: "mariadb", Query: "SELECT 1", Expect: tt.expect}}
			if tt.err != "" {
				probe.Timeout.Duration = 5 * time.Millisecond
			}
			got, err := p.Probe(t.Context(), probe, []string{"shop"}, func(ns string) string { return ns + "-drill" })
			assert.Equal(t, tt.want, got)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
		})
	}
}
