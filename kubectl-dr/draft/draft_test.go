package draft

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// drafter sees a cluster with the objects of files.
func drafter(t *testing.T, files []string, more ...client.Object) *Drafter {
	t.Helper()
	in, err := rewrite.Read(files, false, nil)
	require.NoError(t, err)
	namespaces := map[string]bool{}
	for _, obj := range in.Objects {
		namespaces[obj.GetNamespace()] = true
		if obj.GetKind() != "Namespace" {
			more = append(more, obj)
		}
	}
	for ns := range namespaces {
		if ns != "" {
			more = append(more, &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		}
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "networking.k8s.io", Version: "v1"}, {Group: "traefik.io", Version: "v1alpha1"}})
	mapper.Add(schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "traefik.io", Version: "v1alpha1", Kind: "IngressRoute"}, meta.RESTScopeNamespace)
	c := fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithRESTMapper(mapper).WithObjects(more...).Build()
	return &Drafter{Client: c, VeleroNamespace: "velero", Now: func() time.Time { return now }}
}

// written is the plan's file, which reads as the same plan.
func written(t *testing.T, d *Draft) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, d.WriteYAML(&b))
	p, err := plan.Decode([]byte(b.String()))
	require.NoError(t, err, b.String())
	assert.Equal(t, d.Plan, p)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestDraft(t *testing.T) {
	t.Parallel()
	schedule := func(name, when string, namespaces ...string) *velerov1api.Schedule {
		return &velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name},
			Spec: velerov1api.ScheduleSpec{Schedule: when, Template: velerov1api.BackupSpec{IncludedNamespaces: namespaces}}}
	}
	tests := []struct {
		name       string
		files      []string
		more       []client.Object
		namespaces []string
	}{
		{"the example", []string{"../../examples/wordpress"}, nil, []string{"wordpress"}},
		{"an application of two namespaces", []string{"testdata/shop.yaml"}, []client.Object{
			schedule("nightly", "0 2 * * *"), schedule("shop", "*/15 * * * *", "shop", "shop-db"), schedule("half", "* * * * *", "shop"),
		}, []string{"shop", "shop-db"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, err := drafter(t, tt.files, tt.more...).Draft(t.Context(), tt.namespaces[0], tt.namespaces)
			require.NoError(t, err)
			golden(t, tt.name, written(t, d))
		})
	}
}

func TestDraft_neverHoldsASecret(t *testing.T) {
	t.Parallel()
	d, err := drafter(t, []string{"testdata/shop.yaml"}).Draft(t.Context(), "shop", []string{"shop", "shop-db"})
	require.NoError(t, err)
	assert.NotContains(t, written(t, d), "hunter2")
}

func TestDraft_saysWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	d := drafter(t, []string{"testdata/shop.yaml"})
	d.Client = interceptor.NewClient(d.Client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if _, secret := obj.(*corev1api.Secret); secret {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, key.Name, nil)
			}
			return c.Get(ctx, key, obj, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if u, ok := list.(*unstructured.UnstructuredList); ok && u.GetKind() == "IngressRouteList" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "ingressroutes"}, "", nil)
			}
			return c.List(ctx, list, opts...)
		},
	})
	out, err := d.Draft(t.Context(), "shop", []string{"shop", "shop-db"})
	require.NoError(t, err)
	assert.Contains(t, out.Unread, "Secret shop/shop-db")
	assert.Contains(t, out.Unread, "IngressRoutes in namespace shop")
	assert.Contains(t, written(t, out), "# Not looked at, for lack of permission: Secret shop/shop-db.\n")
}

func TestDraft_namesThatAreOtherThings(t *testing.T) {
	t.Parallel()
	service := &corev1api.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	tests := []struct {
		name    string
		setting setting
		want    bool
	}{
		{"a database of that name", setting{key: "MYSQL_DATABASE", value: "shop"}, false},
		{"a user of that name", setting{key: "MYSQL_USER", value: "shop"}, false},
		{"a host", setting{key: "MYSQL_HOST", value: "shop"}, true},
		{"a host with its port", setting{key: "X", value: "shop:3306"}, true},
		{"a URL", setting{key: "X", value: "http://shop/path"}, true},
		{"a URL with a user", setting{key: "X", value: "mysql://root:pw@shop/shop"}, true},
		{"a path", setting{key: "X", value: "/var/lib/shop"}, false},
		{"a whole name", setting{key: "X", value: "shop.shop.svc.cluster.local"}, true},
		{"a name with its namespace", setting{key: "X", value: "tcp://shop.shop"}, true},
		{"a StatefulSet's pod", setting{key: "X", value: "shop-0.shop.shop.svc"}, true},
		{"a Service of that name in another namespace", setting{key: "URL", value: "shop.other.svc"}, false},
		{"a longer name", setting{key: "URL", value: "http://shop-admin:80"}, false},
		{"a domain", setting{key: "URL", value: "https://shop.example.org"}, false},
		{"a script that waits", setting{value: "until nc -z shop 80; do sleep 1; done", loose: true}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, names(tt.setting, "shop", service))
		})
	}
}

func TestDraft_databases(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]bool{
		"mariadb:11": true, "docker.io/bitnami/postgresql:16": true, "redis": true, "registry.example.org:5000/mongo@sha256:00": true,
		"nginx": false, "prom/mysqld-exporter": false, "oliver006/redis_exporter": false, "docker.io/library/wordpress:6": false, "postgres-operator": false,
	} {
		w := &workload{}
		w.pod.Spec.Containers = []corev1api.Container{{Image: image}}
		assert.Equal(t, want, isDatabase(w), image)
	}
	assert.True(t, isDatabase(&workload{Workload: plan.Workload{Name: "wordpress-db"}}))
	assert.False(t, isDatabase(&workload{Workload: plan.Workload{Name: "db-backup"}}))
}
