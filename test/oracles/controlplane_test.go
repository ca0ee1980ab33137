package oracles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// TestControlPlane_isRestoredAndCompared restores a snapshot of etcd to a new
// control plane, which a real kube-apiserver then serves as it was.
func TestControlPlane_isRestoredAndCompared(t *testing.T) {
	t.Parallel()
	const objects, atOnce = 10_000, 8
	source := startControlPlane(t, filepath.Join(t.TempDir(), "etcd"))
	in := source.objects.Resource(configMaps).Namespace("default")
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(atOnce)
	for i := range objects {
		g.Go(func() error {
			obj := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": fmt.Sprintf("object-%05d", i)},
				"data": map[string]any{"number": fmt.Sprint(i)},
			}}
			// A busy machine's etcd may take longer than its server waits.
			return retry.OnError(wait.Backoff{Duration: time.Second, Factor: 2, Steps: 6}, func(err error) bool {
				return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err)
			}, func() error {
				_, err := in.Create(ctx, obj, metav1.CreateOptions{})
				if apierrors.IsAlreadyExists(err) {
					return nil
				}
				return err
			})
		})
	}
	require.NoError(t, g.Wait())

	dir := t.TempDir()
	snapshot, data := filepath.Join(dir, "source.db"), filepath.Join(dir, "etcd")
	kubectlDR := commandOf(t)
	out, code := kubectlDR("etcd", "snapshot", snapshot, "--endpoint="+source.etcd)
	require.Zero(t, code, out)
	out, code = kubectlDR("etcd", "restore", snapshot, "--data-dir="+data)
	require.Zero(t, code, out)

	standby := startControlPlane(t, data)
	same := compared(t, kubectlDR, source, standby, 0)
	assert.GreaterOrEqual(t, same.Compared, objects)
	assert.Empty(t, same.Objects)

	there := standby.objects.Resource(configMaps).Namespace("default")
	require.NoError(t, there.Delete(t.Context(), "object-00042", metav1.DeleteOptions{}))
	changed, err := there.Get(t.Context(), "object-00043", metav1.GetOptions{})
	require.NoError(t, err)
	changed.Object["data"] = map[string]any{"number": "other"}
	_, err = there.Update(t.Context(), changed, metav1.UpdateOptions{})
	require.NoError(t, err)
	changed.SetName("by-hand")
	changed.SetResourceVersion("")
	_, err = there.Create(t.Context(), changed, metav1.CreateOptions{})
	require.NoError(t, err)
	assert.Equal(t, []difference{
		{Kind: "ConfigMap", Namespace: "default", Name: "by-hand", Difference: "surplus"},
		{Kind: "ConfigMap", Namespace: "default", Name: "object-00042", Difference: "missing"},
		{Kind: "ConfigMap", Namespace: "default", Name: "object-00043", Difference: "drifted", Fields: []string{"data.number"}},
	}, compared(t, kubectlDR, source, standby, 2).Objects)
}

// comparison is the part of kubectl dr compare's answer that counts here.
type comparison struct {
	Compared int
	Objects  []difference
}

type difference struct {
	Kind, Namespace, Name, Difference string
	Fields                            []string
}

// compared is what kubectl dr compare says of two clusters.
func compared(t *testing.T, kubectlDR command, source, standby *cluster, want int) comparison {
	t.Helper()
	out, code := kubectlDR("compare", "--source-kubeconfig="+source.kubeconfig, "--kubeconfig="+standby.kubeconfig, "--cluster-scoped", "-o", "json")
	require.Equal(t, want, code, out)
	var c comparison
	require.NoError(t, json.Unmarshal([]byte(out), &c))
	return c
}

// command runs a program and returns what it prints, or what it says when it
// prints nothing, and its exit status.
type command func(args ...string) (string, int)

// commandOf returns the product's.
func commandOf(t *testing.T) command {
	t.Helper()
	program := program(t, "kubectl-dr")
	return func(args ...string) (string, int) {
		var out, said bytes.Buffer
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			require.NoError(t, err)
		}
		if out.Len() == 0 {
			return said.String(), cmd.ProcessState.ExitCode()
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
}
