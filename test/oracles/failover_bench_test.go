//go:build bench

package oracles

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

const failoverPlan = `
apiVersion: kubectl-dr.io/v1alpha1
kind: RecoveryPlan
metadata: {name: web}
spec:
  objectives: {rpo: 24h, rto: 1h}
  source: {namespaces: [web], schedule: web}
  profiles: {failover: drill}
  start:
  - {name: first, workloads: [%s]}
`

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: web}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers: [{name: web, image: example.org/web}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: %[1]s}}]
`

var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	pods        = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	volumes     = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	restores    = schema.GroupVersionResource{Group: "velero.io", Version: "v1", Resource: "restores"}
)

// TestFailover_takesHardlyLonger fails over with the command, and tells how much of
// the time was neither Velero's restore nor Kubernetes' bringing up workloads. The
// API server, its controllers and Velero are real; pools are in memory, and pods are
// ready as soon as they are there.
func TestFailover_takesHardlyLonger(t *testing.T) {
	for _, size := range []struct {
		volumes, objects int
		bar              time.Duration
	}{
		{volumes: 10, objects: 40, bar: 5 * time.Second},
		{volumes: 50, objects: 500, bar: 30 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d volumes and %d objects", size.volumes, size.objects), func(t *testing.T) {
			v := startProtected(t, size.volumes, size.objects)
			v.lose(t)
			took, status := v.failOver(t)

			list, err := v.objects.Resource(restores).Namespace("velero").List(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			require.Len(t, list.Items, 1)
			restoring := between(t, list.Items[0].Object, "startTimestamp", "completionTimestamp")
			var starting time.Duration
			for _, s := range status.Steps {
				if strings.HasPrefix(s.Name, "start ") {
					starting += s.EndedAt.Sub(s.StartedAt.Time)
				}
			}
			rest := took - restoring - starting
			t.Logf("%.1f s: %.1f s Velero's restore, %.1f s until workloads are ready, %.1f s the rest; the bar is %.0f s",
				took.Seconds(), restoring.Seconds(), starting.Seconds(), rest.Seconds(), size.bar.Seconds())
			assert.Less(t, rest, size.bar)
		})
	}
}

// protected is an application that Velero has backed up, with pools in memory.
type protected struct {
	*velero
	dr func(args ...string) (string, error)
}

func startProtected(t *testing.T, volumes, objects int) *protected {
	t.Helper()
	c := startCluster(t, definitions...)
	v := startVelero(t, c, "--client-qps=1000", "--client-burst=1000")
	c.bindVolumes(t, "deployment-controller", "replicaset-controller", "namespace-controller", "garbage-collector-controller")
	var datasets, workloads []string
	for i := range volumes {
		datasets = append(datasets, fmt.Sprintf("znvm/k3s/v%d=65536", i))
		workloads = append(workloads, fmt.Sprintf("deployment/v%d", i))
	}
	v.create(t, startMemoryAgent(t, datasets...))
	c.keepPodsReady(t)

	var creating errgroup.Group
	creating.SetLimit(16)
	add := func(text string) {
		for _, obj := range readText(t, text) {
			creating.Go(func() error { return c.accepts(t.Context(), obj) })
		}
	}
	for i := range volumes {
		name := fmt.Sprintf("v%d", i)
		add(fmt.Sprintf(volume, name, name) + "---" + fmt.Sprintf(claim, name, ", volumeName: "+name))
		add(fmt.Sprintf(workload, name))
	}
	for i := 3 * volumes; i < objects; i++ {
		add(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d, namespace: web}\ndata: {url: www.example.org}\n", i))
	}
	require.NoError(t, creating.Wait())
	beside.Eventually(t, veleroTimeout, "all claims are bound", func(ctx context.Context) error {
		list, err := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}).Namespace("web").List(ctx, metav1.ListOptions{})
		for _, one := range list.Items {
			if phase, _, _ := unstructured.NestedString(one.Object, "status", "phase"); phase != "Bound" {
				return fmt.Errorf("%s is %s", one.GetName(), phase)
			}
		}
		return err
	})
	_, err := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("velero").
		Create(t.Context(), configMapOfProfiles(t, profileHeading+"  state: standby\n  hosts: [{from: www.example.org, to: www.dr.example.org}]\n  hostsIn: {configMaps: [\"*\"]}\n"), metav1.CreateOptions{})
	require.NoError(t, err)
	v.create(t, claimsBackup)
	v.until(t, "backups", "web-1", "Completed")

	return &protected{velero: v, dr: drFor(t, c, fmt.Sprintf(failoverPlan, strings.Join(workloads[:min(len(workloads), 5)], ", ")))}
}

// keepPodsReady stands for the nodes.
func (c *cluster) keepPodsReady(t *testing.T) {
	t.Helper()
	const ready = `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`
	w, err := c.objects.Resource(pods).Namespace("web").Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	go func() {
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*unstructured.Unstructured)
			if phase := ""; ok && event.Type == "ADDED" {
				if phase, _, _ = unstructured.NestedString(pod.Object, "status", "phase"); phase == "Running" {
					continue
				}
				_, err := c.objects.Resource(pods).Namespace("web").Patch(t.Context(), pod.GetName(), types.MergePatchType, []byte(ready), metav1.PatchOptions{}, "status")
				if err != nil && !apierrors.IsNotFound(err) && t.Context().Err() == nil {
					t.Errorf("pod %s: %v", pod.GetName(), err)
				}
			}
		}
	}()
}

// lose deletes the application, as if its cluster were another.
func (p *protected) lose(t *testing.T) {
	t.Helper()
	namespaces := p.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	all := p.objects.Resource(volumes)
	require.NoError(t, namespaces.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	gone := func(what string, of dynamic.ResourceInterface, o metav1.ListOptions) {
		beside.Eventually(t, veleroTimeout, what+" are gone", func(ctx context.Context) error {
			list, err := of.List(ctx, o)
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("%d are there", len(list.Items))
			}
			return err
		})
	}
	gone("namespaces", namespaces, metav1.ListOptions{FieldSelector: "metadata.name=web"})
	require.NoError(t, all.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	gone("volumes", all, metav1.ListOptions{})
}

// outcome is what is looked at of a run.
type outcome struct {
	Steps []struct {
		Name      string      `json:"name"`
		StartedAt metav1.Time `json:"startedAt"`
		EndedAt   metav1.Time `json:"endedAt"`
	} `json:"steps"`
}

func (p *protected) failOver(t *testing.T) (time.Duration, outcome) {
	t.Helper()
	began := time.Now()
	said, err := p.dr("failover", "--disaster", "--accept-data-loss=24h", "--sync-timeout=0", "--yes", "-o", "json")
	took := time.Since(began)
	require.NoError(t, err)
	var r struct{ Status outcome }
	require.NoError(t, json.Unmarshal([]byte(said), &r), said)
	list, err := p.objects.Resource(deployments).Namespace("web").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, d := range list.Items {
		ready, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas")
		assert.EqualValues(t, 1, ready, d.GetName())
	}
	return took, r.Status
}

// between is the time from one timestamp of an object's status to another.
func between(t *testing.T, obj map[string]any, from, to string) time.Duration {
	t.Helper()
	var at [2]time.Time
	for i, name := range []string{from, to} {
		text, _, err := unstructured.NestedString(obj, "status", name)
		require.NoError(t, err)
		at[i], err = time.Parse(time.RFC3339, text)
		require.NoError(t, err)
	}
	return at[1].Sub(at[0])
}
