package oracles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

const ruleData = "../../restore/rules/testdata"

// target is where namespaces go. Names there are long, as those of drills are.
const target = "web-drill-7fbbd"

// profiles use every rewrite there is.
var profiles = map[string]string{
	"hosts replaced": `  hosts: [{from: "*.example.org", to: "*.dr.example.org"}]`,
	"hosts added":    `  hosts: [{from: "*.example.org", to: "*.dr.example.org", mode: add}]`,
	"values":         "  hosts: [{from: \"*.example.org\", to: \"*.dr.example.org\"}]\n  hostsIn: {env: [\"*\"], configMaps: [\"*\"], secrets: [\"*\"]}",
	"muted":          `  externalDNS: mute`,
	"claimed":        `  externalDNS: claim`,
	"passive":        "  traffic: passive\n" + `  hosts: [{from: "*.example.org", to: "*.dr.example.org", mode: add}]`,
	"kept":           `  certificates: keepSecret`,
	"reissued":       `  certificates: reissue`,
	"staged":         "  certificates: staging\n  issuers: {le: le-staging}",
	"standby":        `  state: standby`,
	"classes": `  storageClasses: {"*": zfs-dr}
  gatewayClasses: {"*": other}
  ingressClasses: {"*": other}
  priorityClasses: {"*": system-cluster-critical}
  runtimeClasses: {"*": sandbox}
  loadBalancerClasses: {"*": example.org/other}`,
	"addresses": `  addresses: {192.0.2.1: 198.51.100.1}
  addressPools: {lan: lan-dr}
  loadBalancer: {dropNodePorts: true, loadBalancerIP: "", externalIPs: []}
  ipFamilies: {policy: PreferDualStack, families: [IPv4, IPv6]}`,
	"cluster IPs": `  serviceTypes: {LoadBalancer: ClusterIP, NodePort: ClusterIP}`,
	"node ports":  `  serviceTypes: {LoadBalancer: NodePort}`,
	"placed": `  nodeSelector: {set: {kubernetes.io/hostname: remote}}
  tolerations: {add: [{key: dedicated, operator: Equal, value: remote, effect: NoSchedule}]}
  affinity: {remove: [nodeAffinity, podAntiAffinity, topologySpreadConstraints]}
  images: {registry.example.org: registry.dr.example.org}
  imagePullSecrets: {regcred: regcred-dr}`,
	"renamed":   `  names: {Secret: {"*": "*-dr"}, ConfigMap: {"*": "dr-*"}, PersistentVolumeClaim: {"*": "*-dr"}, Service: {"*": "*-dr"}, ServiceAccount: {"*": "*-dr"}}`,
	"zones":     `  nodeLabels: {topology.kubernetes.io/zone: {a: z}}`,
	"relabeled": "  labelValues: {app: {web: web-dr}}\n  gitOps: strip\n  labels: {set: {site: dr}}\n  annotations: {set: {example.org/site: dr}}",
}

// TestAPIServer has a real API server with the real definitions judge what becomes
// of objects. Those in namespace web are only tried there, so that tests can share it.
func TestAPIServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t, append(definitions, ofArgoCD)...)
	for _, obj := range readObjects(t, "testdata/around.yaml") {
		require.NoError(t, c.accepts(t.Context(), obj), obj.GetName())
	}
	for name, test := range map[string]func(*testing.T, *cluster){
		"accepts what is rewritten":     acceptsWhatIsRewritten,
		"has what a standby is kept of": keepsAStandby,
		"takes what pauses Argo CD":     takesWhatPausesArgoCD,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// acceptsWhatIsRewritten takes objects that the server accepts and rewrites them in
// every way: it still does.
func acceptsWhatIsRewritten(t *testing.T, c *cluster) {
	require.NoError(t, c.accepts(t.Context(), namespace(target)))

	objects := append(readObjects(t, "testdata/objects.yaml"), readObjects(t, filepath.Join(ruleData, "bench/in.yaml"))...)
	for _, obj := range objects {
		require.NoError(t, c.accepts(t.Context(), obj, metav1.DryRunAll), "before: %s %s", obj.GetKind(), obj.GetName())
	}
	for name, fields := range profiles {
		t.Run(name, func(t *testing.T) {
			p := profile(t, fields+"\n").InNamespaces(map[string]string{"web": target})
			changed := 0
			for _, obj := range objects {
				changed += c.acceptsRewritten(t, p, obj, target)
			}
			assert.NotZero(t, changed)
		})
	}
	t.Run("the engine's own cases", func(t *testing.T) { c.acceptsOwnCases(t) })

	t.Run("and refuses others", func(t *testing.T) {
		route := func(spec map[string]any) *unstructured.Unstructured {
			obj := namespace("x")
			obj.SetAPIVersion("gateway.networking.k8s.io/v1")
			obj.SetKind("HTTPRoute")
			obj.SetNamespace("web")
			obj.Object["spec"] = spec
			return obj
		}
		require.NoError(t, c.accepts(t.Context(), route(map[string]any{"hostnames": []any{"a.example.org"}}), metav1.DryRunAll))
		require.ErrorContains(t, c.accepts(t.Context(), route(map[string]any{"hostnames": []any{"https://a.example.org"}}), metav1.DryRunAll), "spec.hostnames[0]")
		require.ErrorContains(t, c.accepts(t.Context(), route(map[string]any{"hosts": []any{"a.example.org"}}), metav1.DryRunAll), `unknown field "spec.hosts"`)
	})
}

// acceptsOwnCases rewrites the objects of the engine's tests by their own
// profiles. They are abridged; those that a server takes as they are count.
func (c *cluster) acceptsOwnCases(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(ruleData, "*/rules.yaml"))
	require.NoError(t, err)
	judged := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		set, err := rules.Load(map[string][]byte{file: content}, expr.New())
		require.NoError(t, err)
		p, err := set.Profile("case")
		require.NoError(t, err)
		mapped := map[string]string{}
		if content, err := os.ReadFile(filepath.Join(filepath.Dir(file), "namespaces.yaml")); err == nil {
			require.NoError(t, yaml.Unmarshal(content, &mapped))
		}
		for _, obj := range readObjects(t, filepath.Join(filepath.Dir(file), "in.yaml")) {
			obj.SetOwnerReferences(nil) // as Velero takes them out
			if obj.GetKind() == "Namespace" || c.accepts(t.Context(), inNamespace(obj, target), metav1.DryRunAll) != nil {
				continue
			}
			judged++
			c.acceptsRewritten(t, p.InNamespaces(mapped), obj, target)
		}
	}
	assert.Greater(t, judged, 80)
}

// acceptsRewritten rewrites an object and creates it as Velero does, and returns
// the number of changes.
func (c *cluster) acceptsRewritten(t *testing.T, p *rules.Profile, obj *unstructured.Unstructured, to string) int {
	t.Helper()
	r, err := p.Apply(obj)
	require.NoError(t, err)
	if !r.Drop {
		assert.NoError(t, c.accepts(t.Context(), inNamespace(r.Object, to), metav1.DryRunAll), "after: %s %s: %s", obj.GetKind(), obj.GetName(), r.Changes)
	}
	return len(r.Changes)
}

// inNamespace is a copy in another namespace, if it is in one.
func inNamespace(obj *unstructured.Unstructured, to string) *unstructured.Unstructured {
	out := obj.DeepCopy()
	if out.GetNamespace() != "" {
		out.SetNamespace(to)
	}
	return out
}

func namespace(name string) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion("v1")
	obj.SetKind("Namespace")
	obj.SetName(name)
	return obj
}
