// Package wordpress holds no code: its tests keep the manifests beside them right.
package wordpress

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

var update = flag.Bool("update", false, "write the wanted files anew")

func documents(t *testing.T, file string) [][]byte {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return bytes.Split(content, []byte("\n---\n"))
}

// application returns every object a backup of the namespace holds.
func application(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	return objects(t, slices.DeleteFunc(files, func(file string) bool {
		return slices.Contains([]string{"home.yaml", "plan.yaml", "profiles.yaml", "zfsvolumes.yaml"}, file)
	})...)
}

// real is application with the real programs.
func real(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	stands := slices.DeleteFunc(application(t), func(obj *unstructured.Unstructured) bool { return obj.GetKind() == "Deployment" })
	return append(stands, objects(t, filepath.Join("real", "db.yaml"), filepath.Join("real", "web.yaml"))...)
}

func objects(t *testing.T, files ...string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, file := range files {
		for _, doc := range documents(t, file) {
			raw, err := yaml.YAMLToJSON(doc)
			require.NoError(t, err)
			obj := &unstructured.Unstructured{}
			_, _, err = unstructured.UnstructuredJSONScheme.Decode(raw, nil, obj)
			require.NoError(t, err, "%s: %s", file, doc)
			objects = append(objects, obj)
		}
	}
	return objects
}

func loadProfiles(t *testing.T) *rules.Set { return loadFrom(t, "profiles.yaml") }

func loadFrom(t *testing.T, file string) *rules.Set {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	set, err := rules.Load(map[string][]byte{file: content}, expr.New())
	require.NoError(t, err)
	return set
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	set := loadProfiles(t)
	for _, name := range set.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := set.Profile(name)
			require.NoError(t, err)
			var got bytes.Buffer
			for i, obj := range application(t) {
				r, err := p.Apply(obj)
				require.NoError(t, err)
				require.False(t, r.Drop)
				if i > 0 {
					got.WriteString("---\n")
				}
				for _, change := range r.Changes {
					fmt.Fprintf(&got, "# %s\n", change)
				}
				raw, err := yaml.Marshal(r.Object.Object)
				require.NoError(t, err)
				got.Write(raw)
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), got.String())
		})
	}
}

// TestManifests_areWhatKubernetesAccepts decodes the kinds Kubernetes has, and
// refuses fields it hasn't, before and after rewriting.
func TestManifests_areWhatKubernetesAccepts(t *testing.T) {
	t.Parallel()
	set := loadProfiles(t)
	for _, obj := range append(application(t), real(t)...) {
		gvk := obj.GroupVersionKind()
		if !scheme.Scheme.Recognizes(gvk) {
			assert.Equal(t, "traefik.io", gvk.Group)
			continue
		}
		versions := []*unstructured.Unstructured{obj}
		for _, name := range set.Names() {
			p, err := set.Profile(name)
			require.NoError(t, err)
			r, err := p.Apply(obj)
			require.NoError(t, err)
			versions = append(versions, r.Object)
		}
		for _, version := range versions {
			typed, err := scheme.Scheme.New(gvk)
			require.NoError(t, err)
			raw, err := yaml.Marshal(version.Object)
			require.NoError(t, err)
			assert.NoError(t, yaml.UnmarshalStrict(raw, typed), "%s %s", gvk.Kind, obj.GetName())
		}
	}
}

func TestPlan_fitsTheManifests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file    string
		objects []*unstructured.Unstructured
	}{{"plan.yaml", application(t)}, {filepath.Join("real", "plan.yaml"), real(t)}} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(tt.file)
			require.NoError(t, err)
			var p plan.RecoveryPlan
			require.NoError(t, yaml.UnmarshalStrict(content, &p))
			assert.Empty(t, p.Lint())
			assert.Equal(t, []string{p.Spec.Profiles.Drill, p.Spec.Profiles.Failover, p.Spec.Profiles.Rebuild, p.Spec.Profiles.Standby}, loadProfiles(t).Names())
			names := map[string]bool{}
			for _, obj := range tt.objects {
				names[obj.GetKind()+"/"+obj.GetName()] = true
			}
			workload := func(name string) { assert.True(t, names["D"+name[1:]], name) }
			for _, wave := range p.Spec.Start {
				for _, name := range wave.Workloads {
					workload(name)
				}
			}
			for _, probe := range p.Spec.Probes {
				switch {
				case probe.HTTP != nil:
					assert.True(t, names["Service/"+probe.HTTP.Service], probe.Name)
				case probe.SQL != nil:
					workload(probe.SQL.Workload)
				case probe.Exec != nil:
					workload(probe.Exec.Workload)
				}
			}
		})
	}
}

// TestReal_itsImagesAreThoseThatTheDemoReplaces reads the kustomization beside the
// manifests, and the one that puts the rig's images in their place.
func TestReal_itsImagesAreThoseThatTheDemoReplaces(t *testing.T) {
	t.Parallel()
	read := func(file string) (k struct {
		Resources []string
		Images    []struct{ Name string }
	}) {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(content, &k))
		return k
	}
	var used, replaced []string
	for _, file := range read(filepath.Join("real", "kustomization.yaml")).Resources {
		for _, obj := range objects(t, filepath.Join("real", file)) {
			containers, _, err := unstructured.NestedSlice(obj.Object, "spec", "template", "spec", "containers")
			require.NoError(t, err)
			for _, c := range containers {
				name, _, _ := strings.Cut(c.(map[string]any)["image"].(string), ":")
				used = append(used, name)
			}
		}
	}
	for _, i := range read(filepath.Join("..", "..", "test", "lab", "demo", "wordpress", "kustomization.yaml")).Images {
		replaced = append(replaced, i.Name)
	}
	assert.Equal(t, []string{"docker.io/library/mariadb", "docker.io/library/wordpress"}, used)
	assert.Equal(t, used, replaced)
}

// TestHome_undoesTheFailover takes each object there and back. What is left of the
// failover is that the way home starts workloads in waves too.
func TestHome_undoesTheFailover(t *testing.T) {
	t.Parallel()
	there, err := loadProfiles(t).Profile("wordpress-failover")
	require.NoError(t, err)
	back, err := loadFrom(t, "home.yaml").Profile("wordpress-home")
	require.NoError(t, err)
	for _, obj := range append(application(t), real(t)...) {
		if obj.GetKind() == "PersistentVolume" {
			continue // a volume that was restored is another one
		}
		moved, err := there.Apply(obj)
		require.NoError(t, err)
		home, err := back.Apply(moved.Object)
		require.NoError(t, err)
		want, err := (&rules.Profile{Rewrites: rules.Rewrites{State: rules.StateStandby}}).Apply(obj)
		require.NoError(t, err)
		for _, o := range []*unstructured.Unstructured{want.Object, home.Object} {
			annotations := o.GetAnnotations()
			maps.DeleteFunc(annotations, func(key, _ string) bool { return strings.HasPrefix(key, "kubectl-dr.io/") })
			o.SetAnnotations(annotations)
		}
		assert.Equal(t, want.Object.Object, home.Object.Object, "%s %s", obj.GetKind(), obj.GetName())
	}
}

func TestZFSVolumes_matchTheVolumes(t *testing.T) {
	t.Parallel()
	type volume struct{ node, pool, handle string }
	var fromPVs, fromZFSVolumes []volume
	read := func(file string) []map[string]any {
		var all []map[string]any
		for _, doc := range documents(t, file) {
			var m map[string]any
			require.NoError(t, yaml.Unmarshal(doc, &m))
			all = append(all, m)
		}
		return all
	}
	str := func(m map[string]any, path ...string) string {
		s, _, err := unstructured.NestedString(m, path...)
		require.NoError(t, err)
		return s
	}
	for _, pv := range read("volumes.yaml") {
		fromPVs = append(fromPVs, volume{"hassio", str(pv, "spec", "csi", "volumeAttributes", "openebs.io/poolname"), str(pv, "spec", "csi", "volumeHandle")})
	}
	for _, zv := range read("zfsvolumes.yaml") {
		fromZFSVolumes = append(fromZFSVolumes, volume{str(zv, "spec", "ownerNodeID"), str(zv, "spec", "poolName"), str(zv, "metadata", "name")})
	}
	assert.Equal(t, fromPVs, fromZFSVolumes)
}
