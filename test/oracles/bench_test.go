//go:build bench

package oracles

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	restoredObjects = 5000
	rounds          = 2
	// bar is how much longer a restore by a profile may take.
	bar = 1.15
)

// TestVelero_restoreTakesHardlyLonger restores the same backup in turn with and
// without a profile, which is without our action.
func TestVelero_restoreTakesHardlyLonger(t *testing.T) {
	c := startCluster(t, definitions...)
	v := startVelero(t, c, "--client-qps=1000", "--client-burst=1000") // the server's brake hides what anything costs
	require.NoError(t, c.accepts(t.Context(), namespace("web")))
	var typical []*unstructured.Unstructured
	for _, obj := range readObjects(t, filepath.Join(ruleData, "bench/in.yaml")) {
		switch obj.GetKind() {
		case "Deployment", "Ingress", "ConfigMap", "Secret":
			typical = append(typical, obj)
		}
	}
	var creating errgroup.Group
	creating.SetLimit(16)
	for i := range restoredObjects {
		obj := typical[i%len(typical)].DeepCopy()
		obj.SetName(fmt.Sprintf("%s-%d", obj.GetName(), i))
		creating.Go(func() error { return c.accepts(t.Context(), obj) })
	}
	require.NoError(t, creating.Wait())
	v.create(t, "apiVersion: velero.io/v1\nkind: Backup\nmetadata: {name: web, namespace: velero}\nspec: {includedNamespaces: [web]}\n")
	v.until(t, "backups", "web", "Completed")
	profiles := configMapOfProfiles(t, profileHeading+`  state: standby
  hosts: [{from: www.example.org, to: www.drill.example.org}, {from: "*.shop.example.org", to: "*.shop.drill.example.org"}]
  hostsIn: {configMaps: ["app-*"], env: ["*_URL"]}
  externalDNS: mute
  ingressClasses: {traefik: traefik-dr}
  images: {registry.example.org: registry.dr.example.org}
  tolerations: {add: [{key: site, operator: Exists}]}
  gitOps: strip
`)
	_, err := c.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("velero").
		Create(t.Context(), profiles, metav1.CreateOptions{})
	require.NoError(t, err)

	took := map[string]time.Duration{}
	for round := range rounds {
		for _, profile := range []string{"", "drill"} {
			name := fmt.Sprintf("web-%s%d", profile, round)
			started := time.Now()
			status := v.restore(t, name, profile, name)
			took[profile] += time.Since(started)
			assert.Equal(t, "Completed", status["phase"], name)
			t.Logf("%s: %.1fs", name, time.Since(started).Seconds())
		}
	}
	ratio := float64(took["drill"]) / float64(took[""])
	t.Logf("a restore of %d objects takes %.3f times as long by a profile; the bar is %.2f", restoredObjects, ratio, bar)
	assert.LessOrEqual(t, ratio, bar)
}
