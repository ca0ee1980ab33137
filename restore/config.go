package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Errors about the configuration of a restore that asks for a profile.
var (
	ErrNoConfig       = errors.New("no ConfigMap of profiles")
	ErrSeveralConfigs = errors.New("several ConfigMaps of profiles")
)

// ConfigLister lists the ConfigMaps in a namespace that a label selector
// selects.
type ConfigLister interface {
	ListConfigMaps(ctx context.Context, namespace, selector string) ([]corev1api.ConfigMap, error)
}

// Cluster is what the action looks at in the cluster that Velero works on.
type Cluster interface {
	ConfigLister
	// ListRestores lists the Restores in a namespace.
	ListRestores(ctx context.Context, namespace string) ([]velerov1api.Restore, error)
}

// LoadProfiles loads the profiles from the one ConfigMap in a namespace that
// carries Velero's plugin labels. It returns the ConfigMap's name too, for
// messages. Its error wraps [ErrNoConfig] or [ErrSeveralConfigs] when there
// isn't exactly one.
func LoadProfiles(ctx context.Context, lister ConfigLister, namespace string) (*rules.Set, string, error) {
	found, err := lister.ListConfigMaps(ctx, namespace, rules.ConfigMapSelector)
	if err != nil {
		return nil, "", fmt.Errorf("list ConfigMaps in namespace %s: %w", namespace, err)
	}
	switch len(found) {
	case 0:
		return nil, "", fmt.Errorf(`%w in namespace %s; create one with the labels velero.io/plugin-config: "" and %s: RestoreItemAction`,
			ErrNoConfig, namespace, PluginName)
	case 1:
	default:
		names := make([]string, 0, len(found))
		for _, cm := range found {
			names = append(names, cm.Name)
		}
		return nil, "", fmt.Errorf("%w in namespace %s: %s; keep one and move the profiles of the others into it, one key per file",
			ErrSeveralConfigs, namespace, strings.Join(names, ", "))
	}
	files := map[string][]byte{}
	for key, text := range found[0].Data {
		files[key] = []byte(text)
	}
	set, err := rules.Load(files, expr.New())
	if err != nil {
		return nil, "", fmt.Errorf("load ConfigMap %s/%s: %w", namespace, found[0].Name, err)
	}
	return set, found[0].Name, nil
}
