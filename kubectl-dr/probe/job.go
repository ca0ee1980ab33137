package probe

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	batchv1api "k8s.io/api/batch/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// removeTimeout bounds deleting a probe's Job, also after an interrupt.
const removeTimeout = time.Minute

// jobName is that of a probe's Job in the namespace of a run.
func jobName(probe string) string {
	return fmt.Sprintf("kubectl-dr-probe-%x", sha256.Sum256([]byte(probe)))[:len("kubectl-dr-probe-")+8]
}

// job runs a probe's Job to its end, and deletes it. One that an earlier command of
// the run began is waited for; one that has failed then is run again.
func (p *Prober) job(ctx context.Context, probe plan.Probe, namespace string, timeout time.Duration) (seen string, err error) {
	spec, err := probe.Job.JobSpec()
	if err != nil {
		return "", fmt.Errorf("job: %w", err)
	}
	if spec.ActiveDeadlineSeconds == nil {
		spec.ActiveDeadlineSeconds = ptr.To(max(1, int64(timeout.Seconds())))
	}
	labels := map[string]string{zfssnap.LabelRun: p.Run}
	job := &batchv1api.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: jobName(probe.Name), Labels: labels}, Spec: *spec}
	if err := p.begin(ctx, job); err != nil {
		return "", err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		err = errors.Join(err, p.remove(after, job))
	}()
	ended := batchv1api.JobConditionType("")
	why := ""
	err = cluster.Poll(ctx, p.Interval, timeout, func(ctx context.Context) (bool, error) {
		if err := p.Client.Get(ctx, client.ObjectKeyFromObject(job), job); err != nil {
			return false, fmt.Errorf("get job %s: %w", job.Name, err)
		}
		ended, why = end(job)
		return ended != "", nil
	})
	switch {
	case errors.Is(err, cluster.ErrTimedOut):
		return "", fmt.Errorf("job %s: not ended after %s%s", job.Name, timeout, p.said(ctx, job))
	case err != nil:
		return "", err
	case ended == batchv1api.JobFailed:
		return "", fmt.Errorf("job %s failed: %s%s", job.Name, why, p.said(ctx, job))
	}
	return "succeeded" + p.said(ctx, job), nil
}

// end returns how a Job ended, "" while it has not.
func end(job *batchv1api.Job) (batchv1api.JobConditionType, string) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1api.JobComplete || c.Type == batchv1api.JobFailed) && c.Status == corev1api.ConditionTrue {
			return c.Type, strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
		}
	}
	return "", ""
}

func (p *Prober) begin(ctx context.Context, job *batchv1api.Job) error {
	fresh := job.DeepCopy()
	err := p.Client.Create(ctx, job)
	if apierrors.IsAlreadyExists(err) {
		if err := p.Client.Get(ctx, client.ObjectKeyFromObject(job), job); err != nil {
			return fmt.Errorf("get job %s: %w", job.Name, err)
		}
		if job.Labels[zfssnap.LabelRun] != p.Run {
			return fmt.Errorf("create job %s/%s: one of that name exists and is not of this run", job.Namespace, job.Name)
		}
		if ended, _ := end(job); ended != batchv1api.JobFailed {
			return nil
		}
		if err := p.remove(ctx, job); err != nil {
			return err
		}
		fresh.DeepCopyInto(job)
		err = p.Client.Create(ctx, job)
	}
	if err != nil {
		return fmt.Errorf("create job %s/%s: %w", job.Namespace, job.Name, err)
	}
	return nil
}

// remove deletes a Job with its pods, and waits until it is gone.
func (p *Prober) remove(ctx context.Context, job *batchv1api.Job) error {
	err := p.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationForeground), client.Preconditions{UID: &job.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete job %s/%s: %w", job.Namespace, job.Name, err)
	}
	err = cluster.Poll(ctx, p.Interval, removeTimeout, func(ctx context.Context) (bool, error) {
		err := p.Client.Get(ctx, client.ObjectKeyFromObject(job), &batchv1api.Job{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("delete job %s/%s: %w", job.Namespace, job.Name, err)
	}
	return nil
}

// saidLines are how much of a Job's log is told.
const saidLines = 3

// said returns the end of the log of a Job's newest pod, "" when there is none.
func (p *Prober) said(ctx context.Context, job *batchv1api.Job) string {
	pods := &corev1api.PodList{}
	if err := p.Client.List(ctx, pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1api.JobNameLabel: job.Name}); err != nil || len(pods.Items) == 0 {
		return ""
	}
	pod := &pods.Items[0]
	for i := range pods.Items {
		if pods.Items[i].CreationTimestamp.After(pod.CreationTimestamp.Time) {
			pod = &pods.Items[i]
		}
	}
	log, err := p.Pods.Logs(ctx, job.Namespace, pod.Name, job.Spec.Template.Spec.Containers[0].Name, cluster.LogOptions{Lines: saidLines})
	if err != nil || len(strings.TrimSpace(string(log))) == 0 {
		return ""
	}
	return ": " + tail(string(log))
}
