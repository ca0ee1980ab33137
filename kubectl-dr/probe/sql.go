package probe

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

func answer(e plan.SQLExpect) string {
	if e.AtLeast != nil {
		return fmt.Sprintf("%d at least", *e.AtLeast)
	}
	return fmt.Sprintf("%q", *e.Equals)
}

// sqlCommand returns the client's command line, that prints values alone. A password
// stays where it is, in the container's environment: a shell there hands it on in the
// variable that the client reads, and is given everything else as arguments.
func sqlCommand(q *plan.SQLProbe) []string {
	password := "MYSQL_PWD"
	command := []string{q.Client, "--batch", "--skip-column-names"}
	names := map[string]string{"--user=": q.User, "--database=": q.Database}
	query := "--execute=" + q.Query
	if q.Client == plan.SQLPostgres {
		password = "PGPASSWORD"
		command = []string{q.Client, "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"}
		names = map[string]string{"--username=": q.User, "--dbname=": q.Database}
		query = "--command=" + q.Query
	}
	for _, flag := range []string{"--user=", "--username=", "--database=", "--dbname="} {
		if value := names[flag]; value != "" {
			command = append(command, flag+value)
		}
	}
	command = append(command, query)
	if q.PasswordEnv == "" {
		return command
	}
	return append([]string{"sh", "-c", password + `="$` + q.PasswordEnv + `" exec "$@"`, "sh"}, command...)
}

func (p *Prober) sql(ctx context.Context, probe *plan.SQLProbe, w plan.Workload, namespace string) (string, error) {
	result, pod, err := p.in(ctx, w, namespace, probe.Container, sqlCommand(probe))
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("%s in pod %s: exit code %d: %s", probe.Client, pod, result.ExitCode, tail(result.Output))
	}
	got := strings.TrimSpace(strings.ReplaceAll(result.Stdout, "\r\n", "\n"))
	if least := probe.Expect.AtLeast; least != nil {
		n, err := strconv.ParseFloat(got, 64)
		switch {
		case err != nil:
			return "", fmt.Errorf("%s in pod %s: %q is not one number", probe.Client, pod, tail(got))
		case n < float64(*least):
			return "", fmt.Errorf("%s in pod %s: answered %s, want %d at least", probe.Client, pod, got, *least)
		}
		return "answered " + got, nil
	}
	if want := strings.TrimSpace(*probe.Expect.Equals); got != want {
		return "", fmt.Errorf("%s in pod %s: answered %s, want %s", probe.Client, pod, tail(got), tail(want))
	}
	return "answered " + tail(got), nil
}
