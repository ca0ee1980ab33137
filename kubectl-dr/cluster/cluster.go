// Package cluster is one side of a recovery: the clients of a Kubernetes
// cluster, the files its Velero keeps in object storage, the pods in it, and
// the ZFS hosts whose agents its snapshot locations name. It knows nothing of
// plans and runs.
package cluster

import (
	"context"
	"fmt"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// DefaultVeleroNamespace is where Velero is unless something else is said.
const DefaultVeleroNamespace = "velero"

// FieldManager is what managedFields calls whatever is written here. Flux takes over
// what managers have written whose names begin with kubectl, and then takes away what
// Git does not say: a pause, or the volume of a claim.
const FieldManager = "dr.kubectl-dr.io"

// Cluster is one side of a recovery.
type Cluster struct {
	// Client reads and writes objects. Its errors say what to install when a
	// kind is missing.
	Client client.Client
	// Namespace is Velero's.
	Namespace string
	// Context is the kubeconfig context, for messages.
	Context string
	// Pods reaches into pods.
	Pods Pods
	// Files reads what Velero keeps in object storage.
	Files Files
}

// Scheme knows every type that kubectl dr handles.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, velerov1api.AddToScheme, plan.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // types that exclude each other are a mistake in this program
		}
	}
	return s
}

// RESTClientGetter is the part of genericclioptions.RESTClientGetter that is
// needed here.
type RESTClientGetter interface {
	ToRESTConfig() (*rest.Config, error)
	ToRawKubeConfigLoader() clientcmd.ClientConfig
}

// Open returns the cluster that a kubeconfig points to. It does not touch the
// network.
func Open(getter RESTClientGetter, veleroNamespace string) (*Cluster, error) {
	config, err := getter.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	name := "the cluster"
	if raw, err := getter.ToRawKubeConfigLoader().RawConfig(); err == nil && raw.CurrentContext != "" {
		name = raw.CurrentContext
	}
	c, err := client.New(config, client.Options{Scheme: Scheme()})
	if err != nil {
		return nil, fmt.Errorf("connect to context %q: %w", name, err)
	}
	explained := Explained(client.WithFieldOwner(c, FieldManager), name)
	return &Cluster{
		Client:    explained,
		Namespace: veleroNamespace,
		Context:   name,
		Pods:      &podAccess{config: config},
		Files:     &Downloads{Client: explained, Namespace: veleroNamespace},
	}, nil
}

// Plan returns a plan by name.
func (c *Cluster) Plan(ctx context.Context, name string) (*plan.RecoveryPlan, error) {
	p := &plan.RecoveryPlan{}
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, p); err != nil {
		return nil, fmt.Errorf("get plan %q in namespace %s: %w", name, c.Namespace, err)
	}
	return p, p.Validate()
}

// Plans returns all plans.
func (c *Cluster) Plans(ctx context.Context) ([]plan.RecoveryPlan, error) {
	list := &plan.RecoveryPlanList{}
	if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list plans in namespace %s: %w", c.Namespace, err)
	}
	return list.Items, nil
}

// FindPlan returns a plan as it is, sound or not; nil when there is none.
func (c *Cluster) FindPlan(ctx context.Context, name string) (*plan.RecoveryPlan, error) {
	p := &plan.RecoveryPlan{}
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, p)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get plan %q in namespace %s: %w", name, c.Namespace, err)
	}
	return p, nil
}

// ApplyPlan makes a plan what the cluster has, and returns what that was: created,
// configured or unchanged. Labels and annotations are added to those there are. A
// dry run changes nothing.
func (c *Cluster) ApplyPlan(ctx context.Context, p *plan.RecoveryPlan, dryRun bool) (string, error) {
	have, err := c.FindPlan(ctx, p.Name)
	if err != nil {
		return "", err
	}
	if have == nil {
		if !dryRun {
			if err := c.Client.Create(ctx, p.DeepCopy()); err != nil {
				return "", fmt.Errorf("create plan %q: %w", p.Name, err)
			}
		}
		return "created", nil
	}
	want := have.DeepCopy()
	want.Spec = p.Spec
	for k, v := range p.Labels {
		metav1.SetMetaDataLabel(&want.ObjectMeta, k, v)
	}
	for k, v := range p.Annotations {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, k, v)
	}
	if equality.Semantic.DeepEqual(have, want) {
		return "unchanged", nil
	}
	if !dryRun {
		if err := c.Client.Patch(ctx, want, client.MergeFrom(have)); err != nil {
			return "", fmt.Errorf("change plan %q: %w", p.Name, err)
		}
	}
	return "configured", nil
}
