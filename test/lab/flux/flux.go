// Package flux runs Flux itself beside a cluster: its source and kustomize
// controllers, and a Git that they read over HTTP.
package flux

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

// Namespace is where Flux has its own objects.
const Namespace = "flux-system"

// Programs are those of the rig that are needed.
var Programs = []string{"kubectl", "source-controller", "kustomize-controller"}

// definitions are the modules with those of Flux. Those of source-controller v1.7.0
// serve both the versions that its v1.3.0 has and those that kustomize-controller has.
var definitions = []string{"github.com/fluxcd/source-controller@v1.7.0", "github.com/fluxcd/kustomize-controller@v1.9.5"}

// patience is how long anything may take that is waited for.
const patience = 8 * time.Minute

// Flux is one that has a cluster, and its Git.
type Flux struct {
	*Git
	kubectl []string
}

// Start starts one that ends with the test. programs are where Programs are.
func Start(t *testing.T, kubeconfig string, programs map[string]string) *Flux {
	t.Helper()
	f := &Flux{Git: newGit(t), kubectl: []string{programs["kubectl"], "--kubeconfig", kubeconfig}}
	for _, module := range definitions {
		folder := filepath.Join(beside.Module(t, module), "config", "crd", "bases")
		f.Kubectl(t, "create", "-f", folder)
		f.Kubectl(t, "wait", "-f", folder, "--for=condition=Established", "--timeout="+patience.String())
	}
	f.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, namespace: %[1]s}
spec: {url: %q, ref: {branch: main}, interval: 1h, timeout: 1m}
`, Namespace, f.URL))

	storage, files := beside.Address(t), t.TempDir()
	for name, args := range map[string][]string{
		"source-controller":    {"--storage-path=" + files, "--storage-addr=" + storage, "--storage-adv-addr=" + storage},
		"kustomize-controller": {"--requeue-dependency=1s"},
	} {
		health := beside.Address(t)
		beside.Start(t, []string{"KUBECONFIG=" + kubeconfig, "RUNTIME_NAMESPACE=" + Namespace, "TMPDIR=" + t.TempDir()},
			programs[name], append(args, "--metrics-addr=0", "--health-addr="+health)...)
		beside.Answers(t, patience, name+" is ready", "http://"+health+"/readyz")
	}
	return f
}

// Kustomization is one that has a folder of the Git applied, and takes away what is
// not there any more. more is the rest of its spec.
func Kustomization(name, folder, more string) string {
	return fmt.Sprintf(`
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s, namespace: %s}
spec: {sourceRef: {kind: GitRepository, name: fleet}, path: ./%s, prune: true, interval: 1h, retryInterval: 5s, timeout: 5m%s}
`, name, Namespace, folder, more)
}

// Kubectl runs kubectl, which has to succeed, and returns what it said.
func (f *Flux) Kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return f.kubectlWith(t, "", args...)
}

// Apply applies objects as a person does.
func (f *Flux) Apply(t *testing.T, objects string) {
	t.Helper()
	f.kubectlWith(t, objects, "apply", "-f", "-")
}

func (f *Flux) kubectlWith(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), f.kubectl[0], append(f.kubectl[1:], args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return output(t, cmd)
}

// Request asks Flux to look at an object of its own, and returns the request's name.
func (f *Flux) Request(t *testing.T, object string) string {
	t.Helper()
	at := strconv.FormatInt(time.Now().UnixNano(), 10)
	f.Kubectl(t, "-n", Namespace, "annotate", "--overwrite", "--field-manager=flux", object, "reconcile.fluxcd.io/requestedAt="+at)
	return at
}

// Reconcile waits until Flux has looked at objects of its own, one after the other,
// and each is Ready.
func (f *Flux) Reconcile(t *testing.T, objects ...string) {
	t.Helper()
	for _, object := range objects {
		at := f.Request(t, object)
		f.Kubectl(t, "-n", Namespace, "wait", object, "--for=jsonpath={.status.lastHandledReconcileAt}="+at, "--timeout="+patience.String())
		f.Ready(t, object)
	}
}

// Ready waits until objects of Flux are Ready.
func (f *Flux) Ready(t *testing.T, objects ...string) {
	t.Helper()
	for _, object := range objects {
		f.Kubectl(t, "-n", Namespace, "wait", object, "--for=create", "--timeout="+patience.String())
		f.Kubectl(t, "-n", Namespace, "wait", object, "--for=condition=Ready", "--timeout="+patience.String())
	}
}

// Revision is the one that a Kustomization has applied, as Flux writes it.
func (f *Flux) Revision(t *testing.T, kustomization string) string {
	t.Helper()
	return f.Kubectl(t, "-n", Namespace, "get", kustomization, "-o", "jsonpath={.status.lastAppliedRevision}")
}

// Owned is what Flux says that Kustomizations have made, each as "<namespace> <kind>
// <name>", with its version.
func (f *Flux) Owned(t *testing.T, kustomizations ...string) map[string]string {
	t.Helper()
	owned := map[string]string{}
	for _, k := range kustomizations {
		ids := f.Kubectl(t, "-n", Namespace, "get", k, "-o", `jsonpath={range .status.inventory.entries[*]}{.id}{"\n"}{end}`)
		require.NotEmpty(t, ids, k)
		for id := range strings.FieldsSeq(ids) {
			parts := strings.Split(id, "_")
			require.Len(t, parts, 4, id)
			namespace, name, kind := parts[0], parts[1], parts[3]
			resource := kind
			if parts[2] != "" {
				resource += "." + parts[2]
			}
			args := []string{"get", resource, name, "-o", "jsonpath={.metadata.uid}@{.metadata.resourceVersion}"}
			if namespace != "" {
				args = append(args, "-n", namespace)
			}
			owned[strings.TrimSpace(namespace+" "+kind+" "+name)] = f.Kubectl(t, args...)
		}
	}
	return owned
}

// output runs a command that has to succeed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", slices.Concat([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]), stderr.String())
	return strings.TrimSpace(string(out))
}
