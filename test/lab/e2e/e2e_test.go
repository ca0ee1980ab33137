//go:build e2e

// Package e2e tests the product from end to end on a rig: two sites with real
// OpenZFS, Kubernetes and Velero. test/e2e/run brings one up and runs it.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
	"github.com/kubectl-dr/kubectl-dr/test/lab/rig"
)

// The sites' contexts and the nodes they have.
const (
	primary, dr    = "primary", "dr"
	hassio, remote = "hassio", "remote"
)

// patience is how long anything may take that is waited for: machines under
// emulation on a busy host are slow.
const patience = 8 * time.Minute

// recovery is the cluster that kubectl dr works in: the recovery site's, or the one that
// both nodes are in.
var recovery = dr

var rigName = flag.String("rig", "default", "name of the rig to test on")

// lab is the rig. operator and source are the kubeconfigs of whoever runs
// kubectl dr, in the recovery cluster and in the one that a failover leaves.
var (
	lab              *rig.Rig
	operator, source string
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := tested(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

func tested(m *testing.M) (int, error) {
	var err error
	if lab, err = rig.Open(*rigName, ""); err != nil {
		return 1, fmt.Errorf("%w (test/e2e/run brings one up)", err)
	}
	for _, v := range lab.Environment() {
		if err := os.Setenv(v.Name, v.Value); err != nil {
			return 1, err
		}
	}
	if err := os.Setenv("PATH", lab.Bin()+":"+os.Getenv("PATH")); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if lab.OneCluster() {
		recovery = primary
	}
	for _, argv := range [][]string{
		{recovery, "-f", "testdata/profiles.yaml"},
		{recovery, "-f", repository("examples/rbac/operator.yaml")},
		{recovery, "-f", repository("examples/rbac/rebuild.yaml")},
		{primary, "-f", repository("examples/rbac/source.yaml")},
	} {
		if _, err := prepared(append([]string{"kubectl", "apply", "--context"}, argv...)...); err != nil {
			return 1, err
		}
	}
	if !lab.OneCluster() {
		if err := prepareWayBack(dir); err != nil {
			return 1, err
		}
	}
	operator, source = filepath.Join(dir, "operator.yaml"), filepath.Join(dir, "source.yaml")
	if err := errors.Join(writeAccess(operator, recovery, "kubectl-dr-operator"), writeAccess(source, primary, "kubectl-dr-source")); err != nil {
		return 1, err
	}
	// Whoever runs kubectl dr there may rebuild too.
	for _, kind := range []string{"clusterrole", "role"} {
		if _, err := prepared("kubectl", "--context", recovery, "-n", "velero", "create", kind+"binding", "kubectl-dr-rebuild",
			"--"+kind+"=kubectl-dr-rebuild", "--serviceaccount=default:kubectl-dr-operator"); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// prepareWayBack makes the storage location that the recovery site writes to, and
// the profile that the source restores with.
func prepareWayBack(dir string) error {
	parsed, err := template.ParseFiles("testdata/back.yaml.tmpl")
	if err != nil {
		return err
	}
	url, err := prepared("kubectl", "get", "--context", primary, "-n", "velero", "backupstoragelocation.velero.io/default", "-o", "jsonpath={.spec.config.s3Url}")
	if err != nil {
		return err
	}
	values := map[string]string{"S3URL": url}
	for site, mode := range map[string]string{primary: "ReadOnly", dr: "ReadWrite"} {
		values["AccessMode"] = mode
		var out bytes.Buffer
		if err := parsed.Execute(&out, values); err != nil {
			return err
		}
		file := filepath.Join(dir, "back-"+site+".yaml")
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			return err
		}
		if _, err := prepared("kubectl", "apply", "--context", site, "-f", file); err != nil {
			return err
		}
	}
	return applyHomeProfile()
}

func applyHomeProfile() error {
	_, err := prepared("kubectl", "apply", "--context", primary, "-f", "testdata/home.yaml")
	return err
}

// prepared runs a command that has to succeed before any test.
func prepared(argv ...string) (string, error) {
	r := run(context.Background(), "", argv...)
	if r.code != 0 {
		return "", fmt.Errorf("%s: exit status %d: %s", strings.Join(argv, " "), r.code, r.err)
	}
	return strings.TrimSpace(r.out), nil
}

// writeAccess writes the kubeconfig of an account that has one role in a site's
// cluster and nothing else.
func writeAccess(file, site, role string) error {
	if _, err := prepared("kubectl", "--context", site, "-n", "default", "create", "serviceaccount", role); err != nil {
		return err
	}
	if _, err := prepared("kubectl", "--context", site, "create", "clusterrolebinding", role,
		"--clusterrole="+role, "--serviceaccount=default:"+role); err != nil {
		return err
	}
	token, err := prepared("kubectl", "--context", site, "-n", "default", "create", "token", role, "--duration=4h")
	if err != nil {
		return err
	}
	content, err := os.ReadFile(lab.Kubeconfig(site))
	if err != nil {
		return err
	}
	config := map[string]any{}
	if err := yaml.Unmarshal(content, &config); err != nil {
		return err
	}
	config["users"] = []any{map[string]any{"name": site, "user": map[string]any{"token": token}}}
	if content, err = yaml.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}

// repository is a file of this repository.
func repository(name string) string { return filepath.Join("..", "..", "..", name) }

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

// all is everything that a command said.
func (r result) all() string { return r.out + r.err }

func run(ctx context.Context, stdin string, argv ...string) result {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	// A child that keeps the output open does not keep the test.
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result{out.String(), stderr.String() + ctx.Err().Error(), -1}
	case errors.As(err, &exit):
		return result{out.String(), stderr.String(), exit.ExitCode()}
	case err != nil:
		return result{out.String(), stderr.String() + err.Error(), -1}
	}
	return result{out.String(), stderr.String(), 0}
}

// must runs a command that has to succeed and returns its output.
func must(t *testing.T, stdin string, argv ...string) string {
	t.Helper()
	r := run(t.Context(), stdin, argv...)
	require.Zero(t, r.code, "%s: exit status %d: %s%s", strings.Join(argv, " "), r.code, r.out, r.err)
	return strings.TrimSpace(r.out)
}

func kubectl(t *testing.T, site string, args ...string) string {
	t.Helper()
	return must(t, "", append([]string{"kubectl", "--context", site}, args...)...)
}

func apply(t *testing.T, site, objects string) {
	t.Helper()
	must(t, objects, "kubectl", "--context", site, "apply", "-f", "-")
}

func velero(t *testing.T, site string, args ...string) string {
	t.Helper()
	return must(t, "", append([]string{"velero", "--kubecontext", site}, args...)...)
}

// kubectlDR runs kubectl dr as the operator, in the recovery cluster.
func kubectlDR(t *testing.T, args ...string) result {
	t.Helper()
	return kubectlDRWith(t, "", args...)
}

// kubectlDRWith gives it something on standard input.
func kubectlDRWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	start := time.Now()
	r := run(t.Context(), stdin, drCommand(args...)...)
	t.Logf("kubectl dr %s: exit status %d after %s\n%s%s", strings.Join(args, " "), r.code, time.Since(start).Round(time.Second), r.err, r.out)
	require.NotContains(t, r.all(), "forbidden", "the roles in examples/rbac allow all that is needed")
	return r
}

func drCommand(args ...string) []string {
	return append(append([]string{"kubectl", "dr"}, args...), "--kubeconfig", operator)
}

// doors bounds how many commands enter each node at a time: its server refuses
// many that come at once.
var doors = map[string]chan struct{}{hassio: make(chan struct{}, 3), remote: make(chan struct{}, 3)}

// on runs a command on a node that has to succeed, and returns its output.
func on(t *testing.T, node string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	doors[node] <- struct{}{}
	defer func() { <-doors[node] }()
	var out, stderr bytes.Buffer
	code, err := lab.Exec(ctx, node, argv, rig.Streams{Out: &out, ErrOut: &stderr})
	require.NoError(t, err)
	require.Zero(t, code, "%s on %s: exit status %d: %s", strings.Join(argv, " "), node, code, stderr.String())
	return strings.TrimSpace(out.String())
}

// eventually waits until a condition holds, which says what it saw.
func eventually(t *testing.T, what string, condition func() (holds bool, seen string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := ""
	require.True(t, proc.Poll(ctx, time.Second, func() (holds bool) {
		holds, seen = condition()
		return holds
	}), "%s; seen last: %s", what, seen)
}
