package kubectldr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	admissionv1api "k8s.io/api/admissionregistration/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	discoveryv1api "k8s.io/api/discovery/v1"
	networkingv1api "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/registry"
)

// shop is an application that needs something of every kind.
func shop() []client.Object {
	at := metav1.ObjectMeta{Namespace: "wordpress", Name: "shop"}
	d := &appsv1api.Deployment{ObjectMeta: at, Spec: appsv1api.DeploymentSpec{Replicas: ptr.To(int32(3))}}
	d.Spec.Template.Spec = corev1api.PodSpec{
		PriorityClassName: "important", RuntimeClassName: ptr.To("gvisor"), ServiceAccountName: "shop",
		ImagePullSecrets: []corev1api.LocalObjectReference{{Name: "pull"}},
		InitContainers:   []corev1api.Container{{Name: "wait", Image: "busybox", ImagePullPolicy: corev1api.PullNever}},
		Containers: []corev1api.Container{{
			Name: "web", Image: "registry.example.org:5000/shop:1.2",
			Env: []corev1api.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1api.EnvVarSource{SecretKeyRef: &corev1api.SecretKeySelector{
				LocalObjectReference: corev1api.LocalObjectReference{Name: "shop-db"}, Key: "password"}}}},
			EnvFrom: []corev1api.EnvFromSource{{ConfigMapRef: &corev1api.ConfigMapEnvSource{
				LocalObjectReference: corev1api.LocalObjectReference{Name: "shop"}, Optional: ptr.To(true)}}},
			Resources: corev1api.ResourceRequirements{Requests: corev1api.ResourceList{
				corev1api.ResourceCPU: resource.MustParse("500m"), corev1api.ResourceMemory: resource.MustParse("1Gi")}},
		}},
	}
	return []client.Object{
		d,
		&networkingv1api.Ingress{ObjectMeta: at, Spec: networkingv1api.IngressSpec{
			IngressClassName: ptr.To("traefik"), TLS: []networkingv1api.IngressTLS{{Hosts: []string{"shop.example.org"}, SecretName: "shop-tls"}},
		}},
	}
}

// pooled ask for addresses of pools.
func pooled() []client.Object {
	d := &appsv1api.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "shop"}}
	d.Spec.Template.Annotations = map[string]string{"cni.projectcalico.org/ipv4pools": `["pods", "10.1.0.0/16"]`}
	service := func(name, pool string) *corev1api.Service {
		return &corev1api.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: name, Annotations: map[string]string{"metallb.io/address-pool": pool}}}
	}
	return []client.Object{d, service("shop", "public"), service("admin", "private")}
}

// services play what a plan requires.
type services struct{}

func (services) Ask(_ context.Context, url string) (string, error) {
	if strings.Contains(url, "gone") {
		return "", errors.New("connection refused")
	}
	return "answered 200 ok", nil
}

// certificate is a Secret with one that expires at a time.
func certificate(t *testing.T, name string, until time.Time) *corev1api.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example.org"}, NotAfter: until}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	return &corev1api.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: name}, Type: corev1api.SecretTypeTLS,
		Data: map[string][]byte{corev1api.TLSCertKey: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})},
	}
}

func webhook(service string) *admissionv1api.ValidatingWebhookConfiguration {
	return &admissionv1api.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "policy"},
		Webhooks: []admissionv1api.ValidatingWebhook{{
			Name:         "validate.policy.example.org",
			ClientConfig: admissionv1api.WebhookClientConfig{Service: &admissionv1api.ServiceReference{Namespace: "policy", Name: service}},
			Rules: []admissionv1api.RuleWithOperations{{
				Operations: []admissionv1api.OperationType{admissionv1api.Create},
				Rule:       admissionv1api.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"*"}, Resources: []string{"deployments"}},
			}},
		}},
	}
}

func TestCheck_whatTheBackupNeeds(t *testing.T) {
	t.Parallel()
	add := func(w *world, objects ...client.Object) {
		for _, obj := range objects {
			require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), obj))
		}
	}
	node := func(w *world, change func(*corev1api.Node)) {
		n := &corev1api.Node{}
		require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Name: "remote"}, n))
		change(n)
		require.NoError(w.t, w.recovery.Client.Status().Update(w.t.Context(), n))
	}
	tests := []struct {
		name    string
		args    string
		arrange func(*world)
	}{
		{"nothing of it is here", "check", func(w *world) {
			w.backedUp(append(shop(), certificate(t, "old", begin.Add(-time.Hour)), certificate(t, "soon", begin.Add(100*time.Hour)))...)
			w.images = map[string]error{"registry.example.org:5000/shop:1.2": registry.ErrDenied}
			add(w, webhook("gone"))
			node(w, func(n *corev1api.Node) {
				n.Status.Allocatable = corev1api.ResourceList{corev1api.ResourceCPU: resource.MustParse("1"), corev1api.ResourceMemory: resource.MustParse("8Gi")}
			})
		}},
		{"everything of it is here", "check", func(w *world) {
			login := `{"auths": {"registry.example.org:5000": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("user:password")) + `"}}}`
			at := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "wordpress", Name: name} }
			w.backedUp(append(shop(),
				certificate(t, "shop-tls", begin.Add(2000*time.Hour)),
				&corev1api.ServiceAccount{ObjectMeta: at("shop")},
				&corev1api.Secret{ObjectMeta: at("shop-db")},
				&corev1api.Secret{ObjectMeta: at("pull"), Data: map[string][]byte{corev1api.DockerConfigJsonKey: []byte(login)}},
			)...)
			w.images = map[string]error{"registry.example.org:5000/shop:1.2": registry.ErrDenied}
			for kind, name := range map[string]string{"scheduling.k8s.io/v1/PriorityClass": "important", "node.k8s.io/v1/RuntimeClass": "gvisor", "networking.k8s.io/v1/IngressClass": "traefik"} {
				obj := &unstructured.Unstructured{}
				i := strings.LastIndex(kind, "/")
				obj.SetAPIVersion(kind[:i])
				obj.SetKind(kind[i+1:])
				obj.SetName(name)
				add(w, obj)
			}
			add(w, webhook("policy"), &discoveryv1api.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: "policy", Name: "policy-1", Labels: map[string]string{discoveryv1api.LabelServiceName: "policy"}},
				Endpoints:  []discoveryv1api.Endpoint{{Addresses: []string{"10.0.0.1"}}},
			})
			add(w, &corev1api.ResourceQuota{ObjectMeta: at("all"), Spec: corev1api.ResourceQuotaSpec{Hard: corev1api.ResourceList{corev1api.ResourcePods: resource.MustParse("10")}}})
			node(w, func(n *corev1api.Node) {
				n.Status.Allocatable = corev1api.ResourceList{corev1api.ResourceCPU: resource.MustParse("2"), corev1api.ResourceMemory: resource.MustParse("8Gi")}
				n.Status.Images = []corev1api.ContainerImage{{Names: []string{"docker.io/library/busybox:latest"}}}
			})
		}},
		{"other pods leave no room, and a quota is too small", "check", func(w *world) {
			w.backedUp(shop()[:1]...)
			node(w, func(n *corev1api.Node) {
				n.Status.Allocatable = corev1api.ResourceList{corev1api.ResourceCPU: resource.MustParse("2"), corev1api.ResourceMemory: resource.MustParse("8Gi")}
			})
			other := &corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "other"}, Spec: corev1api.PodSpec{NodeName: "remote",
				Containers: []corev1api.Container{{Name: "c", Resources: corev1api.ResourceRequirements{Requests: corev1api.ResourceList{corev1api.ResourceCPU: resource.MustParse("1800m")}}}}}}
			add(w, other, &corev1api.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "small"},
				Spec: corev1api.ResourceQuotaSpec{Hard: corev1api.ResourceList{corev1api.ResourceRequestsMemory: resource.MustParse("2Gi")}}})
		}},
		{"kinds that are not served", "check", func(w *world) {
			contents := strings.Replace(w.files["BackupResourceList/wordpress-2"], "{", `{"networking.k8s.io/v1beta1/Ingress": ["wordpress/shop"],
				"traefik.io/v1alpha1/IngressRoute": ["wordpress/shop"], "monitoring.coreos.com/v1/ServiceMonitor": ["wordpress/shop"], "example.org/v1/Other": ["elsewhere/it"],
				"apiextensions.k8s.io/v1/CustomResourceDefinition": ["ingressroutes.traefik.io"],`, 1)
			w.files["BackupResourceList/wordpress-2"] = contents
		}},
		{"names that can not be moved", "check -f -", func(w *world) {
			w.records = map[string][]dns.Record{"slow.example.org": {{Type: "A", Value: "192.0.2.1", TTL: time.Minute}, {Type: "AAAA", Value: "2001:db8::1", TTL: 24 * time.Hour}}}
			p := testPlan()
			p.Spec.Traffic.Hosts = []string{"slow.example.org", "unknown.example.org", "blog.example.net"}
			w.plan(p)
			require.NoError(w.t, w.recovery.Client.Delete(w.t.Context(), &appsv1api.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "external-dns", Name: "external-dns"}}))
		}},
		{"what is outside", "check -f -", func(w *world) {
			w.backedUp(pooled()...)
			p := testPlan()
			p.Spec.Requires = []plan.Requirement{{Name: "login", URL: "https://login.example.org"}, {Name: "mail", URL: "tcp://gone.example.org:25"}}
			p.Spec.GitOps = &plan.GitOps{Flux: []plan.FluxObject{{Kind: plan.FluxKustomization, Name: "blog"}}, ArgoCD: []plan.ArgoApplication{{Application: "elsewhere"}}}
			w.plan(p)
			for _, text := range []string{
				"{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {namespace: flux-system, name: blog}, spec: {sourceRef: {kind: GitRepository, name: blog}}}",
				"{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {namespace: flux-system, name: blog}, status: {conditions: [{type: Ready, status: \"False\", message: 'dial tcp: no such host'}]}}",
				"{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {namespace: metallb-system, name: public}}",
			} {
				obj := &unstructured.Unstructured{}
				require.NoError(w.t, yaml.Unmarshal([]byte(text), &obj.Object))
				add(w, obj)
			}
		}},
		{"nobody outside is asked", "check --offline", func(w *world) { w.backedUp(shop()[:1]...) }},
		{"a backup that can not be read", "check", func(w *world) {
			w.files[string(velerov1api.DownloadTargetKindBackupContents)+"/wordpress-2"] = "no archive at all"
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tt.arrange(w)
			got := w.run(t.Context(), strings.Fields(tt.args)...).String()
			// What was looked at before the backup is not what this is about.
			_, got, _ = strings.Cut(got, "\nbackup\n")
			golden(t, filepath.Join("check", tt.name), got)
		})
	}
}

func TestCheck_whoTookTheSnapshots(t *testing.T) {
	t.Parallel()
	const agent = "v0.1.0" // of all agents here
	tests := []struct{ name, there, plugin, want string }{
		{"older versions do not say", "", "v0.2.0", ""},
		{"the same release", "v0.2.0", "v0.2.0", "ok       taken by: version v0.2.0"},
		{"a patch apart", "v0.2.0", "v0.2.7", "ok       taken by: version v0.2.0"},
		{"on the way to the next one", "v0.2.0-5-g0a1b2c3-dirty", "v0.2.0", "ok       taken by: version v0.2.0-5-g0a1b2c3-dirty"},
		{"another minor release", "v0.10.0", "v0.1.0", "warning  taken by: the plugin of version v0.10.0; here it is v0.1.0"},
		{"another major release", "v1.2.0", "v0.2.0", "warning  taken by: the plugin of version v1.2.0; here it is v0.2.0"},
		{"a build beside a release", "dev", "v0.2.0", "warning  taken by: the plugin of version dev; here it is v0.2.0"},
		{"a plugin whose tag tells nothing is of its agents' release", "v0.2.0", "latest", "warning  taken by: the plugin of version v0.2.0; here it is " + agent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deploy("velero", tt.plugin)
			w.takenBy(tt.there)
			got := w.run(t.Context(), "check").out
			if tt.want == "" {
				require.NotContains(t, got, "taken by")
				return
			}
			require.Contains(t, got, tt.want+"\n")
		})
	}
}
