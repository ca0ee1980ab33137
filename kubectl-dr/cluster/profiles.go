package cluster

import (
	"context"
	"fmt"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Profiles reads the rewrite profiles in Velero's namespace.
func (c *Cluster) Profiles(ctx context.Context) (*rules.Set, error) {
	selector, err := labels.Parse(rules.ConfigMapSelector)
	if err != nil {
		return nil, err
	}
	list := &corev1api.ConfigMapList{}
	if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("list ConfigMaps of profiles in namespace %s: %w", c.Namespace, err)
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("namespace %s has %d ConfigMaps with the labels of rewrite profiles (%s), want one", c.Namespace, len(list.Items), rules.ConfigMapSelector)
	}
	files := map[string][]byte{}
	for key, text := range list.Items[0].Data {
		files[key] = []byte(text)
	}
	set, err := rules.Load(files, expr.New())
	if err != nil {
		return nil, fmt.Errorf("load ConfigMap %s: %w", list.Items[0].Name, err)
	}
	return set, nil
}

// Profile returns the rewrite profile of a name, nil for "".
func (c *Cluster) Profile(ctx context.Context, name string) (*rules.Profile, error) {
	if name == "" {
		return nil, nil
	}
	set, err := c.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	return set.Profile(name)
}
