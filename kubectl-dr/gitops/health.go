package gitops

import (
	"cmp"
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Annotations that ask an engine to look at once.
const (
	argoRefresh   = "argocd.argoproj.io/refresh"
	fluxRequested = "reconcile.fluxcd.io/requestedAt"
)

// Refresh asks the engine to reconcile an object now. One that is not there, or is
// paused, is left alone.
func Refresh(ctx context.Context, c client.Client, o Object, now time.Time) error {
	u, err := o.get(ctx, c)
	if Missing(err) {
		return nil
	}
	if err != nil || !reconciles(u) {
		return err
	}
	before := u.DeepCopy()
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	if o.Group == argoGroup {
		annotations[argoRefresh] = "normal"
	} else {
		annotations[fluxRequested] = now.UTC().Format(time.RFC3339Nano)
	}
	u.SetAnnotations(annotations)
	if err := c.Patch(ctx, u, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("refresh %s: %w", o, err)
	}
	return nil
}

// Health says whether an object has made the cluster what Git says since it was
// last refreshed, and that works; else what it is waiting for. What does not
// reconcile by itself is not waited for.
func Health(ctx context.Context, c client.Reader, o Object) (waitsFor string, err error) {
	u, err := o.get(ctx, c)
	if Missing(err) {
		return "", nil
	}
	if err != nil || !reconciles(u) {
		return "", err
	}
	text := func(at ...string) string { s, _, _ := unstructured.NestedString(u.Object, at...); return s }
	if o.Group == argoGroup {
		// Argo CD takes the annotation away when it has looked.
		sync, health := text("status", "sync", "status"), text("status", "health", "status")
		if u.GetAnnotations()[argoRefresh] == "" && sync == "Synced" && health == "Healthy" {
			return "", nil
		}
		return fmt.Sprintf("%s is %s and %s", o, cmp.Or(sync, "Unknown"), cmp.Or(health, "Unknown")), nil
	}
	observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	requested := u.GetAnnotations()[fluxRequested]
	handled := requested == "" || requested == text("status", "lastHandledReconcileAt")
	ready, message := readiness(u)
	if ready == metav1.ConditionTrue && observed >= u.GetGeneration() && handled {
		return "", nil
	}
	return fmt.Sprintf("%s is not ready: %s", o, cmp.Or(message, "it was not looked at yet")), nil
}

// readiness returns the status of an object's condition Ready, "" where it has none,
// and its message.
func readiness(u *unstructured.Unstructured) (status metav1.ConditionStatus, message string) {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, condition := range conditions {
		if m, _ := condition.(map[string]any); m["type"] == "Ready" {
			text, _ := m["status"].(string)
			message, _ = m["message"].(string)
			return metav1.ConditionStatus(text), message
		}
	}
	return "", ""
}
