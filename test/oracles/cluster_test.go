package oracles

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/beside"
)

// definition is where a module keeps its custom resource definitions.
type definition struct{ module, files string }

var (
	ofVelero      = definition{"github.com/vmware-tanzu/velero@v1.18.3", "config/crd/v*/bases/*.yaml"}
	ofCertManager = definition{"github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds/*.yaml"}
	ofArgoCD      = definition{"github.com/argoproj/argo-cd/v3@v3.5.7", "manifests/crds/*-crd.yaml"}
)

// definitions are all of those, and those of what is rewritten besides.
var definitions = []definition{
	{"github.com/traefik/traefik/v3@v3.7.13", "docs/content/reference/dynamic-configuration/traefik.io_*.yaml"},
	{"sigs.k8s.io/gateway-api@v1.6.3", "config/crd/standard/*.yaml"},
	ofCertManager,
	{"istio.io/api@v1.31.1", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"sigs.k8s.io/external-dns@v0.22.0", "config/crd/standard/*.yaml"},
	ofVelero,
	{"github.com/openshift/api@v0.0.0-20251015095338-264e80a2b6e7", "route/v1/zz_generated.crd-manifests/routes.crd.yaml"},
}

// startTimeout is for a busy machine, which has tests on the rig to run first; a
// server is ready within seconds.
const startTimeout = 5 * time.Minute

// cluster is a real kube-apiserver with a real etcd and some definitions. Nothing
// runs in it.
type cluster struct {
	kubeconfig string
	etcd       string // where its etcd is
	objects    dynamic.Interface
	discovery  *discovery.DiscoveryClient
	mapper     meta.RESTMapper
}

// startCluster starts one of processes of its own.
func startCluster(t *testing.T, defined ...definition) *cluster {
	t.Helper()
	c := startControlPlane(t, filepath.Join(t.TempDir(), "etcd"))
	c.define(t, defined...)
	return c
}

// startControlPlane starts one over data of etcd, which are made when there are
// none.
func startControlPlane(t *testing.T, data string) *cluster {
	t.Helper()
	programs := build(t, "etcd", "kube-apiserver")
	dir := t.TempDir()
	etcd, peers, port := "http://"+beside.Address(t), "http://"+beside.Address(t), beside.Address(t)
	key, token := filepath.Join(dir, "key.pem"), rand.Text()
	writeKey(t, key)
	tokens := filepath.Join(dir, "tokens.csv")
	require.NoError(t, os.WriteFile(tokens, fmt.Appendf(nil, "%s,admin,1,system:masters\n", token), 0o600))
	beside.Start(t, nil, programs[0], "--data-dir="+data, "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers)
	_, number, err := net.SplitHostPort(port)
	require.NoError(t, err)
	beside.Start(t, nil, programs[1], "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+number, "--cert-dir="+dir,
		"--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=10.0.0.0/24,fd00:10::/112", "--endpoint-reconciler-type=none",
		// Nobody here makes the accounts that it would ask for.
		"--disable-admission-plugins=ServiceAccount")

	config := &rest.Config{
		Host: "https://" + port, BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "apiserver.crt"), ServerName: "kubernetes"},
	}
	c := &cluster{kubeconfig: filepath.Join(dir, "kubeconfig"), etcd: etcd}
	require.NoError(t, os.WriteFile(c.kubeconfig, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q, tls-server-name: kubernetes}}]
users: [{name: admin, user: {token: %q}}]
`, config.Host, config.CAFile, token), 0o600))
	beside.Eventually(t, startTimeout, "the server is ready", func(ctx context.Context) error {
		if c.discovery, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
			return err
		}
		return c.discovery.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	c.objects, err = dynamic.NewForConfig(config)
	require.NoError(t, err)
	return c
}

// build returns where programs of the rig are. Those that were never built are
// built first.
func build(t *testing.T, names ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", ".", "build"}, names...)...)
	cmd.Dir, cmd.Stderr = filepath.Join("..", "lab"), os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "build %s", names)
	programs := strings.Fields(string(out))
	require.Len(t, programs, len(names))
	return programs
}

// ownPrograms is where the product's programs are. Tests run them, since this module
// has other versions of what they are built from.
var ownPrograms string

var buildOwnPrograms = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", ownPrograms, "./cmd/...", "./test/memoryagent")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w: %s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	var err error
	if ownPrograms, err = os.MkdirTemp("", "oracles"); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := os.RemoveAll(ownPrograms); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// program returns where one of the product's programs is.
func program(t *testing.T, name string) string {
	t.Helper()
	require.NoError(t, buildOwnPrograms())
	return filepath.Join(ownPrograms, name)
}

// writeKey writes a key for tokens of service accounts.
func writeKey(t *testing.T, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
}

// define creates definitions and waits until their kinds are served.
func (c *cluster) define(t *testing.T, definitions ...definition) {
	t.Helper()
	crds := c.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var kinds []schema.GroupVersionKind
	for _, d := range definitions {
		files, err := filepath.Glob(filepath.Join(beside.Module(t, d.module), d.files))
		require.NoError(t, err)
		require.NotEmpty(t, files, "%s has no %s", d.module, d.files)
		for _, file := range files {
			for _, crd := range readObjects(t, file) {
				if crd.GetKind() != "CustomResourceDefinition" {
					continue
				}
				_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
				require.NoError(t, err, file)
				kinds = append(kinds, servedKinds(t, crd)...)
			}
		}
	}
	c.serves(t, kinds)
}

// serves waits until kinds are served.
func (c *cluster) serves(t *testing.T, kinds []schema.GroupVersionKind) {
	t.Helper()
	beside.Eventually(t, startTimeout, "the definitions are served", func(context.Context) error {
		resources, err := restmapper.GetAPIGroupResources(c.discovery)
		if err != nil {
			return err
		}
		c.mapper = restmapper.NewDiscoveryRESTMapper(resources)
		for _, kind := range kinds {
			if _, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version); err != nil {
				return err
			}
		}
		return nil
	})
}

// knowsPlans gives the cluster the definitions of plans and runs.
func (c *cluster) knowsPlans(t *testing.T) {
	t.Helper()
	var kinds []schema.GroupVersionKind
	for _, file := range []string{"recoveryplans", "recoveryruns"} {
		for _, crd := range readObjects(t, filepath.Join("..", "..", "examples", "crds", "kubectl-dr.io_"+file+".yaml")) {
			require.NoError(t, c.accepts(t.Context(), crd))
			kinds = append(kinds, servedKinds(t, crd)...)
		}
	}
	c.serves(t, kinds)
}

// bindVolumes starts Kubernetes' own controllers of volumes, and further ones.
func (c *cluster) bindVolumes(t *testing.T, more ...string) {
	t.Helper()
	controllers := append([]string{"persistentvolume-binder-controller", "persistentvolumeclaim-protection-controller", "persistentvolume-protection-controller"}, more...)
	beside.Start(t, nil, build(t, "kube-controller-manager")[0], "--kubeconfig="+c.kubeconfig, "--leader-elect=false", "--cert-dir="+t.TempDir(), "--secure-port=0",
		"--kube-api-qps=1000", "--kube-api-burst=2000", "--controllers="+strings.Join(controllers, ","))
}

// servedKinds are those that a definition defines.
func servedKinds(t *testing.T, crd *unstructured.Unstructured) (kinds []schema.GroupVersionKind) {
	t.Helper()
	group, _, err := unstructured.NestedString(crd.Object, "spec", "group")
	require.NoError(t, err)
	kind, _, err := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	require.NoError(t, err)
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	require.NoError(t, err)
	for _, v := range versions {
		if version := v.(map[string]any); version["served"] == true {
			kinds = append(kinds, schema.GroupVersionKind{Group: group, Version: version["name"].(string), Kind: kind})
		}
	}
	return kinds
}

// readObjects reads the objects in a file.
func readObjects(t *testing.T, file string) (objects []*unstructured.Unstructured) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	for doc := range bytes.SplitSeq(content, []byte("\n---")) {
		raw, err := yaml.YAMLToJSON(doc)
		require.NoError(t, err, file)
		if slices.Equal(raw, []byte("null")) {
			continue
		}
		obj := &unstructured.Unstructured{}
		require.NoError(t, obj.UnmarshalJSON(raw), file)
		objects = append(objects, obj)
	}
	return objects
}

// accepts errs when the server refuses to create an object, or knows one of its
// fields not.
func (c *cluster) accepts(ctx context.Context, obj *unstructured.Unstructured, options ...string) error {
	resource, err := c.resource(obj)
	if err != nil {
		return err
	}
	_, err = resource.Create(ctx, obj, metav1.CreateOptions{DryRun: options, FieldValidation: metav1.FieldValidationStrict})
	return err
}

// resource is where objects like one are.
func (c *cluster) resource(obj *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := obj.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.objects.Resource(mapping.Resource).Namespace(obj.GetNamespace()), nil
	}
	return c.objects.Resource(mapping.Resource), nil
}

// setStatus gives an object a status, as a controller does.
func (c *cluster) setStatus(t *testing.T, obj *unstructured.Unstructured, status any) {
	t.Helper()
	resource, err := c.resource(obj)
	require.NoError(t, err)
	now, err := resource.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	now.Object["status"] = status
	_, err = resource.UpdateStatus(t.Context(), now, metav1.UpdateOptions{})
	require.NoError(t, err)
}
