package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// NodeAgent is the name of Velero's DaemonSet, which writes the data of volumes on
// their nodes.
const NodeAgent = "node-agent"

// IgnoresDelayBinding reports whether Velero brings data back to a claim that no pod
// waits for, also where its storage class is for claims of pods: restorePVC in the
// ConfigMap of its node-agent.
func (c *Cluster) IgnoresDelayBinding(ctx context.Context) (bool, error) {
	agent := &appsv1api.DaemonSet{}
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: NodeAgent}, agent); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	name, _ := Flag("node-agent-configmap", agent.Spec.Template.Spec.Containers...)
	if name == "" {
		return false, nil
	}
	settings := &corev1api.ConfigMap{}
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, settings); err != nil {
		return false, fmt.Errorf("get the settings of %s: %w", NodeAgent, err)
	}
	// Velero reads the only key, whatever it is called.
	for key, text := range settings.Data {
		var parsed struct {
			RestorePVC struct {
				IgnoreDelayBinding bool `json:"ignoreDelayBinding"`
			} `json:"restorePVC"`
		}
		if err := json.Unmarshal([]byte(text), &parsed); err != nil {
			return false, fmt.Errorf("read %s of ConfigMap %s: %w", key, name, err)
		}
		return parsed.RestorePVC.IgnoreDelayBinding, nil
	}
	return false, nil
}
