package plugin

import (
	"context"
	"os"
	"sync"

	"github.com/spf13/pflag"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	veleroclient "github.com/vmware-tanzu/velero/pkg/client"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/restore"
)

// cluster is the cluster the Velero server works on, reached as the server
// itself does: Velero starts a plugin with the server's own arguments and
// environment.
type cluster struct {
	kubeconfig  string
	kubecontext string
	namespace   string

	mu     sync.Mutex
	client client.Client
}

// bindFlags defines those of the server's flags that say where its cluster is.
func (c *cluster) bindFlags(flags *pflag.FlagSet) {
	namespace := os.Getenv("VELERO_NAMESPACE")
	if namespace == "" {
		namespace = velerov1api.DefaultNamespace
	}
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "Path to the kubeconfig file; default $KUBECONFIG, then in-cluster configuration.")
	flags.StringVar(&c.kubecontext, "kubecontext", "", "The context to use in the kubeconfig file.")
	flags.StringVarP(&c.namespace, "namespace", "n", namespace, "The namespace Velero runs in.")
}

func (c *cluster) restConfig() (*rest.Config, error) {
	return veleroclient.Config(c.kubeconfig, c.kubecontext, "velero-plugin-zfs-dr", 0, 0)
}

// kube returns a client of the cluster. It is made on first use, since most
// calls to a plugin need none, and kept once it was made.
func (c *cluster) kube() (client.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	config, err := c.restConfig()
	if err != nil {
		return nil, err
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	c.client, err = client.New(config, client.Options{Scheme: scheme})
	return c.client, err
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, velerov1api.AddToScheme(scheme)
}

// rewriting is what the restore action looks at in the cluster, which may be
// nothing at all.
type rewriting struct {
	kube func() (client.Client, error)
}

var _ restore.Cluster = rewriting{}

// ListConfigMaps implements restore.Cluster.
func (r rewriting) ListConfigMaps(ctx context.Context, namespace, selector string) ([]corev1api.ConfigMap, error) {
	parsed, err := labels.Parse(selector)
	if err != nil {
		return nil, err
	}
	kube, err := r.kube()
	if err != nil {
		return nil, err
	}
	list := &corev1api.ConfigMapList{}
	err = kube.List(ctx, list, client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: parsed})
	return list.Items, err
}

// ListRestores implements restore.Cluster.
func (r rewriting) ListRestores(ctx context.Context, namespace string) ([]velerov1api.Restore, error) {
	kube, err := r.kube()
	if err != nil {
		return nil, err
	}
	list := &velerov1api.RestoreList{}
	err = kube.List(ctx, list, client.InNamespace(namespace))
	return list.Items, err
}
