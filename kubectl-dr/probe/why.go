package probe

import (
	"context"
	"fmt"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// WhyNotReady says in one line why the pods of a workload are not ready, from
// their conditions, their containers and the last warning about them.
func WhyNotReady(ctx context.Context, c client.Reader, workload *unstructured.Unstructured) string {
	labels, _, _ := unstructured.NestedStringMap(workload.Object, "spec", "selector", "matchLabels")
	if len(labels) == 0 {
		return ""
	}
	pods := &corev1api.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(workload.GetNamespace()), client.MatchingLabels(labels)); err != nil {
		return err.Error()
	}
	if len(pods.Items) == 0 {
		if last := lastWarning(ctx, c, workload.GetNamespace(), workload.GetName()); last != "" {
			return "no pods: " + last
		}
		return "no pods"
	}
	var lines []string
	for i := range pods.Items {
		if pod := &pods.Items[i]; !podReady(pod) {
			lines = append(lines, fmt.Sprintf("pod %s: %s", pod.Name, whyPod(ctx, c, pod)))
		}
	}
	return strings.Join(lines, ", ")
}

func whyPod(ctx context.Context, c client.Reader, pod *corev1api.Pod) string {
	var why []string
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			why = append(why, strings.TrimSuffix(s.Name+" "+s.State.Waiting.Reason+": "+s.State.Waiting.Message, ": "))
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			why = append(why, fmt.Sprintf("%s ended with exit code %d", s.Name, s.State.Terminated.ExitCode))
		}
	}
	if len(why) == 0 {
		for _, cond := range pod.Status.Conditions {
			if cond.Status != corev1api.ConditionTrue && cond.Message != "" {
				why = append(why, cond.Message)
				break
			}
		}
	}
	if last := lastWarning(ctx, c, pod.Namespace, pod.Name); last != "" {
		why = append(why, last)
	}
	if len(why) == 0 {
		return string(pod.Status.Phase)
	}
	return strings.Join(why, "; ")
}

// lastWarning returns the newest warning event about an object.
func lastWarning(ctx context.Context, c client.Reader, namespace, name string) string {
	events := &corev1api.EventList{}
	if c.List(ctx, events, client.InNamespace(namespace)) != nil {
		return ""
	}
	var last *corev1api.Event
	for i := range events.Items {
		e := &events.Items[i]
		if e.Type != corev1api.EventTypeWarning || e.InvolvedObject.Name != name {
			continue
		}
		if last == nil || e.LastTimestamp.After(last.LastTimestamp.Time) {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	return last.Reason + ": " + strings.TrimSpace(last.Message)
}
