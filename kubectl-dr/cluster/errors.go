package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// ErrNoDefinitions says that a cluster does not know the kinds of kubectl dr.
var ErrNoDefinitions = errors.New("the custom resource definitions of kubectl dr are missing")

// explain adds a hint to errors of a cluster.
func explain(err error, cluster string) error {
	var network *net.OpError
	switch group := missingGroup(err); {
	case err == nil:
		return nil
	case group == zfssnap.Domain:
		return hint.Add(ErrNoDefinitions, fmt.Sprintf("install them in context %q: kubectl apply -f examples/crds", cluster))
	case group == velerov1api.SchemeGroupVersion.Group:
		return hint.Add(errors.New("the custom resource definitions of Velero are missing"),
			fmt.Sprintf("kubectl dr works in the recovery cluster, where Velero is installed: is context %q that one?", cluster))
	case apierrors.IsForbidden(err):
		return hint.Add(err, fmt.Sprintf("your user in context %q lacks that permission", cluster))
	case apierrors.IsUnauthorized(err):
		return hint.Add(err, fmt.Sprintf("context %q does not know your credentials: log in again", cluster))
	case errors.As(err, &network):
		return hint.Add(err, fmt.Sprintf("context %q can't be reached from here; choose another with --context or --kubeconfig", cluster))
	}
	return err
}

// missingGroup returns the API group whose kinds a server doesn't have, "" when
// that isn't what an error says.
func missingGroup(err error) string {
	var kind *meta.NoKindMatchError
	var resource *meta.NoResourceMatchError
	switch {
	case errors.As(err, &kind):
		return kind.GroupKind.Group
	case errors.As(err, &resource):
		return resource.PartialResource.Group
	}
	return ""
}

// Explained returns a client whose errors have hints.
func Explained(c client.Client, cluster string) client.Client {
	return &explained{Client: c, cluster: cluster}
}

type explained struct {
	client.Client
	cluster string
}

func (e *explained) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return explain(e.Client.Get(ctx, key, obj, opts...), e.cluster)
}

func (e *explained) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return explain(e.Client.List(ctx, list, opts...), e.cluster)
}

func (e *explained) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return explain(e.Client.Create(ctx, obj, opts...), e.cluster)
}

func (e *explained) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	return explain(e.Client.Patch(ctx, obj, patch, opts...), e.cluster)
}

func (e *explained) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return explain(e.Client.Delete(ctx, obj, opts...), e.cluster)
}
