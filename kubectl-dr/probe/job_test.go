package probe

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1api "k8s.io/api/batch/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// ended plays the controller of Jobs: each ends as given, or does not.
func ended(made *[]batchv1api.Job, how batchv1api.JobConditionType, have ...client.Object) client.Client {
	base := fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(have...).Build()
	return interceptor.NewClient(base, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			job, ok := obj.(*batchv1api.Job)
			if ok && how != "" {
				job.Status.Conditions = []batchv1api.JobCondition{{Type: how, Status: corev1api.ConditionTrue, Reason: "BackoffLimitExceeded"}}
			}
			if err := c.Create(ctx, obj, opts...); err != nil || !ok {
				return err
			}
			*made = append(*made, *job)
			return c.Create(ctx, &corev1api.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: job.Namespace, GenerateName: job.Name + "-", Labels: map[string]string{batchv1api.JobNameLabel: job.Name}}})
		},
	})
}

func TestProbe_job(t *testing.T) {
	t.Parallel()
	name := jobName("orders add up")
	had := func(run string, how batchv1api.JobConditionType) client.Object {
		job := &batchv1api.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop-drill", Name: name, Labels: map[string]string{"kubectl-dr.io/run": run}},
			Spec: batchv1api.JobSpec{Template: corev1api.PodTemplateSpec{Spec: corev1api.PodSpec{Containers: []corev1api.Container{{Name: "c"}}}}}}
		if how != "" {
			job.Status.Conditions = []batchv1api.JobCondition{{Type: how, Status: corev1api.ConditionTrue}}
		}
		return job
	}
	tests := []struct {
		name      string
		how       batchv1api.JobConditionType
		have      []client.Object
		made      int
		left      int
		want, err string
	}{
		{"that succeeds", batchv1api.JobComplete, nil, 1, 0, "succeeded: 1204 orders", ""},
		{"that fails", batchv1api.JobFailed, nil, 1, 0, "", "job " + name + " failed: BackoffLimitExceeded: 1204 orders"},
		{"that does not end", "", nil, 1, 0, "", "not ended after 20ms: 1204 orders"},
		{"that an earlier command of the run began", batchv1api.JobComplete, []client.Object{had("shop-drill-1", batchv1api.JobComplete)}, 0, 0, "succeeded", ""},
		{"that failed when an earlier command ran it", batchv1api.JobComplete, []client.Object{had("shop-drill-1", batchv1api.JobFailed)}, 1, 0, "succeeded: 1204 orders", ""},
		{"of a name that somebody else has", batchv1api.JobComplete, []client.Object{had("", "")}, 0, 1, "", "one of that name exists and is not of this run"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var made []batchv1api.Job
			p := &Prober{Client: ended(&made, tt.how, tt.have...), Pods: &pods{log: "1204 orders\n"}, Interval: time.Millisecond, Run: "shop-drill-1"}
			probe := plan.Probe{Name: "orders add up", Job: &plan.JobProbe{Spec: runtime.RawExtension{Raw: []byte(`{"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}`)}}}
			probe.Timeout.Duration = 20 * time.Millisecond
			got, err := p.Probe(t.Context(), probe, []string{"shop"}, func(ns string) string { return ns + "-drill" })
			assert.Equal(t, tt.want, got)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			require.Len(t, made, tt.made)
			if tt.made > 0 {
				assert.Equal(t, corev1api.RestartPolicyNever, made[0].Spec.Template.Spec.RestartPolicy)
				assert.Equal(t, int32(0), *made[0].Spec.BackoffLimit)
				assert.Equal(t, int64(1), *made[0].Spec.ActiveDeadlineSeconds)
			}
			var jobs batchv1api.JobList
			require.NoError(t, p.Client.List(t.Context(), &jobs))
			assert.Len(t, jobs.Items, tt.left, "it is deleted, however it ended")
		})
	}
}

func TestProbe_job_isDeletedWhenInterrupted(t *testing.T) {
	t.Parallel()
	var made []batchv1api.Job
	ctx, cancel := context.WithCancel(t.Context())
	p := &Prober{Client: ended(&made, ""), Pods: &pods{}, Interval: time.Millisecond, Run: "shop-drill-1"}
	probe := plan.Probe{Name: "x", Job: &plan.JobProbe{Spec: runtime.RawExtension{Raw: []byte(`{"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}`)}}}
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := p.Probe(ctx, probe, []string{"shop"}, func(ns string) string { return ns })
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, made, 1)
	var jobs batchv1api.JobList
	require.NoError(t, p.Client.List(t.Context(), &jobs))
	assert.Empty(t, jobs.Items)
}
