package plugin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1api "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// apiServer is as much of a cluster as the plugin's process looks at: discovery,
// and objects that are got, listed and created. It allows what the roles in
// examples/velero/rbac.yaml allow.
type apiServer struct {
	grants  []grant
	refused []string
	mu      sync.Mutex
	objects map[string]map[string]any // by path
	made    int
}

// served are the resources, by group and version.
var served = map[string]map[string]string{
	"velero.io/v1":      {"backups": "Backup", "restores": "Restore"},
	"storage.k8s.io/v1": {"storageclasses": "StorageClass"},
	"zfs.openebs.io/v1": {"zfsvolumes": "ZFSVolume"},
}

// newAPIServer returns a server and the path of a kubeconfig for it.
func newAPIServer(t *testing.T) (*apiServer, string) {
	t.Helper()
	s := &apiServer{objects: map[string]map[string]any{}, grants: pluginGrants(t)}
	t.Cleanup(func() { assert.Empty(t, s.refused, "the roles suffice") })
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test}}]
clusters: [{name: test, cluster: {server: %q}}]
`, web.URL), 0o600))
	return s, file
}

// grant is what a role allows: in one namespace, or anywhere when that is "".
type grant struct {
	namespace string
	rules     []rbacv1api.PolicyRule
}

// pluginGrants are those of the plugin's roles.
func pluginGrants(t *testing.T) (grants []grant) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "examples", "velero", "rbac.yaml"))
	require.NoError(t, err)
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1api.Role // of which a ClusterRole has no namespace
		require.NoError(t, yaml.Unmarshal([]byte(doc), &role))
		if len(role.Rules) > 0 {
			grants = append(grants, grant{namespace: role.Namespace, rules: role.Rules})
		}
	}
	require.Len(t, grants, 2)
	return grants
}

// allows reports whether the roles allow a request for an object or a list.
func (s *apiServer) allows(r *http.Request) bool {
	group, namespace, name := "", "", ""
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if parts[0] == "apis" {
		group, parts = parts[1], parts[1:]
	}
	parts = parts[2:]
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource, verb := parts[0], "list"
	if len(parts) > 1 {
		name, verb = parts[1], "get"
	}
	switch r.Method {
	case http.MethodPost:
		verb = "create"
	case http.MethodPatch, http.MethodDelete:
		verb = strings.ToLower(r.Method)
	case http.MethodPut:
		verb = "update"
	}
	return slices.ContainsFunc(s.grants, func(g grant) bool {
		return (g.namespace == "" || g.namespace == namespace) && slices.ContainsFunc(g.rules, func(rule rbacv1api.PolicyRule) bool {
			return slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, resource) && slices.Contains(rule.Verbs, verb) &&
				(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name))
		})
	})
}

const veleroObjects = "/apis/velero.io/v1/namespaces/velero/"

// put stores an object of velero.io, or changes the phase of the one there is.
func (s *apiServer) put(resource, name, phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := veleroObjects + resource + "/" + name
	if s.objects[at] == nil {
		s.made++
		s.objects[at] = map[string]any{
			"apiVersion": "velero.io/v1", "kind": served["velero.io/v1"][resource],
			"metadata": map[string]any{"namespace": "velero", "name": name, "uid": fmt.Sprintf("%08d-0000-4000-8000-000000000000", s.made)},
		}
	}
	s.objects[at]["status"] = map[string]any{"phase": phase}
}

// remove forgets an object of velero.io.
func (s *apiServer) remove(resource, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, veleroObjects+resource+"/"+name)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	switch at := r.URL.Path; {
	case at == "/api":
		answer(http.StatusOK, map[string]any{"kind": "APIVersions", "versions": []string{}})
		return
	case at == "/apis":
		var groups []any
		for gv := range served {
			version := map[string]any{"groupVersion": gv, "version": path.Base(gv)}
			groups = append(groups, map[string]any{"name": path.Dir(gv), "versions": []any{version}, "preferredVersion": version})
		}
		answer(http.StatusOK, map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
		return
	case served[strings.TrimPrefix(at, "/apis/")] != nil:
		gv := strings.TrimPrefix(at, "/apis/")
		var resources []any
		for name, kind := range served[gv] {
			resources = append(resources, map[string]any{"name": name, "kind": kind, "namespaced": kind != "StorageClass", "verbs": []string{"get", "list", "create"}})
		}
		answer(http.StatusOK, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources})
		return
	case !s.allows(r):
		s.refused = append(s.refused, r.Method+" "+at)
		answer(http.StatusForbidden, failure(http.StatusForbidden, "Forbidden"))
		return
	case r.Method == http.MethodPost:
		object := map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			answer(http.StatusBadRequest, failure(http.StatusBadRequest, "BadRequest"))
			return
		}
		name, _ := object["metadata"].(map[string]any)["name"].(string)
		s.objects[at+"/"+name] = object
		answer(http.StatusCreated, object)
		return
	case s.objects[at] != nil:
		answer(http.StatusOK, s.objects[at])
		return
	}
	for gv, resources := range served {
		if kind := resources[path.Base(r.URL.Path)]; kind != "" && strings.HasPrefix(r.URL.Path, "/apis/"+gv+"/") {
			items := []any{}
			for at, object := range s.objects {
				if path.Dir(at) == r.URL.Path {
					items = append(items, object)
				}
			}
			answer(http.StatusOK, map[string]any{"kind": kind + "List", "apiVersion": gv, "metadata": map[string]any{}, "items": items})
			return
		}
	}
	answer(http.StatusNotFound, failure(http.StatusNotFound, "NotFound"))
}

func failure(code int, reason string) map[string]any {
	return map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
}
