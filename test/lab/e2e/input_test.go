//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testWrongInput gives kubectl dr plans and credentials that are wrong. Each is
// answered with what is wrong, where, and what to do. Whoever calls this checks
// that nothing is changed.
func testWrongInput(t *testing.T, a app) {
	plan := a.plan(t, "wrong")
	elsewhere := strings.Replace(plan, "namespaces: [blog]", "namespaces: [blog, nowhere]", 1)
	elsewhere = strings.ReplaceAll(elsewhere, "deployment/web", "blog/deployment/web")
	elsewhere = strings.Replace(elsewhere, "- name: it answers", "- name: it answers\n    namespace: blog", 1)
	never := strings.Replace(plan, "schedule: blog", "schedule: never", 1)
	unknown := strings.Replace(plan, "rto: 15m", "rto: 15m, rta: 15m", 1)
	foreign := "--agent-credentials=" + lab.PKI().Bundle("foreign")
	apply(t, dr, "{apiVersion: v1, kind: Namespace, metadata: {name: case-profiles}}")
	apply(t, dr, rewriteConfig(t, "case-profiles", "- name: recovery\n  storageClass: {a: b}\n"))
	tests := []struct {
		name string
		plan string // on standard input
		args []string
		code int
		says []string
	}{
		{"a namespace that no backup has", elsewhere, []string{"check", "-f", "-"}, 2,
			[]string{"namespace nowhere", "blog-2 holds nothing of it", "spec.source.namespaces"}},
		{"a namespace that no backup has, rehearsed", elsewhere, []string{"drill", "-f", "-"}, 1,
			[]string{"backup blog-2 cannot be recovered here", "does not include namespace nowhere", "correct spec.source.namespaces of the plan"}},
		{"a schedule without backups", never, []string{"rpo", "-f", "-"}, 1,
			[]string{`schedule "never" has no completed backup`, "check spec.source.schedule of the plan"}},
		{"a schedule without backups, rehearsed", never, []string{"drill", "-f", "-"}, 1,
			[]string{`schedule "never" has no completed backup`, "check spec.source.schedule of the plan"}},
		{"a field that there is not", unknown, []string{"drill", "-f", "-"}, 1,
			[]string{`unknown field "spec.objectives.rta"`}},
		{"a plan that there is not", "", []string{"drill", "nothing"}, 1,
			[]string{`get plan "nothing" in namespace velero`, "not found"}},
		{"a profile with a field that there is not", plan, []string{"check", "-f", "-", "--velero-namespace=case-profiles"}, 2,
			[]string{"load ConfigMap case-rewrite: case.yaml:5: profiles[0].storageClass: unknown field", "storageClasses"}},
		{"an agent that does not answer", "", []string{"rpo", a.Name, "--agents=remote=127.0.0.1:1"}, 1,
			[]string{"agent on node remote at 127.0.0.1:1 is unreachable", "check that zfs-agent runs on node remote"}},
		{"a certificate of another authority", "", []string{"rpo", a.Name, foreign}, 1,
			[]string{"agent on node remote", "certificate signed by unknown authority", "zfs-agent certs"}},
		{"a certificate of another authority, checked", "", []string{"check", a.Name, foreign}, 2,
			[]string{"agent on remote", "certificate signed by unknown authority", "zfs-agent certs"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := kubectlDRWith(t, tt.plan, tt.args...)
			assert.Equal(t, tt.code, r.code)
			for _, says := range tt.says {
				assert.Contains(t, r.all(), says)
			}
		})
	}
}

// TestBackupThatCannotBeGood makes backups of what can't be backed up. None is
// Completed, each says why, and no snapshot is taken.
func TestBackupThatCannotBeGood(t *testing.T) {
	t.Parallel()
	bundle, err := os.ReadFile(lab.PKI().Bundle("foreign"))
	require.NoError(t, err)
	tests := []struct {
		name     string // also of the application
		location string
		given    func(t *testing.T, a app)
		says     []string
	}{
		{
			name: "case-foreign", location: "case-foreign",
			given: func(t *testing.T, _ app) {
				apply(t, primary, fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: case-foreign, namespace: velero}, data: {tls.pem: %s}}",
					base64.StdEncoding.EncodeToString(bundle)))
				copyLocation(t, "case-foreign", []string{"spec", "credential", "name"}, "case-foreign")
			},
			says: []string{"node hassio", "certificate signed by unknown authority", "zfs-agent certs"},
		},
		{
			name: "case-down", location: "case-down",
			given: func(t *testing.T, _ app) {
				copyLocation(t, "case-down", []string{"spec", "config", "agents"}, "hassio=127.0.0.1:1,remote=127.0.0.1:1")
			},
			says: []string{"pvc-case-down", "agent on node hassio at 127.0.0.1:1 is unreachable", "check that zfs-agent runs on node hassio"},
		},
		{
			name: "case-gone", location: "zfs",
			given: func(t *testing.T, a app) {
				on(t, hassio, "zfs", "rename", a.dataset(), parent+"/case-renamed")
			},
			says: []string{"node hassio", "cannot open 'znvm/k3s/pvc-case-gone': dataset does not exist"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newVolume(t, tt.name)
			tt.given(t, a)
			a.backUpTo(t, tt.location, tt.name)
			assert.Equal(t, "PartiallyFailed", phase(t, primary, "backup", tt.name))
			said := details(t, tt.name)
			for line := range strings.Lines(velero(t, primary, "backup", "logs", tt.name)) {
				if strings.Contains(line, "level=error") {
					said += line
				}
			}
			for _, says := range tt.says {
				assert.Contains(t, said, says)
			}
			assert.NotContains(t, on(t, hassio, "zfs", "list", "-H", "-t", "snapshot", "-o", "name"), "@dr-"+tt.name)
		})
	}
}

// copyLocation makes a snapshot location at the primary site that differs in
// one field from the one there is.
func copyLocation(t *testing.T, name string, field []string, value string) {
	t.Helper()
	otherLocation(t, primary, name, func(location map[string]any) {
		at := location
		for _, f := range field[:len(field)-1] {
			at = at[f].(map[string]any)
		}
		at[field[len(field)-1]] = value
	})
}

// otherLocation makes a snapshot location at a site that differs from the one
// there is.
func otherLocation(t *testing.T, site, name string, change func(location map[string]any)) {
	t.Helper()
	location := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(kubectl(t, site, "-n", "velero", "get", "volumesnapshotlocation.velero.io/zfs", "-o", "json")), &location))
	location["metadata"] = map[string]any{"name": name, "namespace": "velero"}
	change(location)
	object, err := json.Marshal(location)
	require.NoError(t, err)
	apply(t, site, string(object))
}

// TestRestoreThatCannotBeGood restores with what a restore can't use. It fails
// loudly, and leaves no part of the application and no volume.
//
// A cluster has one set of profiles, so no other restore may run meanwhile.
func TestRestoreThatCannotBeGood(t *testing.T) {
	kubectl(t, primary, "-n", "velero", "delete", "configmap", "e2e-rewrite")
	t.Cleanup(func() {
		_, err := prepared("kubectl", "--context", primary, "-n", "velero", "delete", "configmap", "case-rewrite")
		assert.NoError(t, errors.Join(err, applyHomeProfile()))
	})
	a := newVolume(t, "case-restore")
	a.backUpTo(t, "zfs", a.Name)
	completed(t, a.Name)
	profiles := func(text string) func(t *testing.T) {
		return func(t *testing.T) { apply(t, primary, rewriteConfig(t, "velero", text)) }
	}
	for _, tt := range []struct {
		name  string
		given func(t *testing.T)
		says  []string
	}{
		{"case-twice", profiles("- name: case\n- name: other\n- name: case\n"),
			[]string{"case-rewrite", "case.yaml:6: profiles[2]", `a profile named "case" is at case.yaml:4 already`}},
		{"case-unknown", profiles("- name: case\n  storageClass: {a: b}\n"),
			[]string{"case-rewrite", "case.yaml:5: profiles[0].storageClass: unknown field", "storageClasses"}},
		{"case-version", func(t *testing.T) {
			profiles("- name: case\n")(t)
			editIdentifiers(t, a.Name, "zfs1:", "zfs9:")
		}, []string{`version "zfs9" is not known here (this build knows zfs1)`, "use the plugin version that made it, or a newer one"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.given(t)
			before := versions(t, hassio, a.dataset())
			velero(t, primary, "restore", "create", tt.name, "--from-backup", a.Name,
				"--namespace-mappings", a.Name+":"+tt.name, "--labels", "kubectl-dr.io/profile=case")
			assert.Equal(t, "PartiallyFailed", phase(t, primary, "restore", tt.name))
			said := velero(t, primary, "restore", "describe", tt.name)
			for _, says := range tt.says {
				assert.Contains(t, said, says)
			}
			assert.NotContains(t, on(t, hassio, "zfs", "get", "-H", "-r", "-s", "local", "-o", "value,name", "io.kubectl-dr:restore", parent), tt.name, "no volume is left")
			assert.Empty(t, kubectl(t, primary, "-n", tt.name, "get", "pods", "-o", "name"))
			assert.Equal(t, before, versions(t, hassio, a.dataset()))
		})
	}
	t.Run("deletion of a snapshot of another version", func(t *testing.T) { testForeignDeletion(t, a) })
}

// testForeignDeletion deletes a backup whose snapshot another version made. It
// is refused, and nothing is destroyed; with its own identifier it goes.
func testForeignDeletion(t *testing.T, a app) {
	taken := a.dataset() + snapshot(t, a.Name)
	velero(t, primary, "backup", "delete", a.Name, "--confirm")
	eventually(t, "the deletion is refused", func() (bool, string) {
		seen := kubectl(t, primary, "-n", "velero", "get", "deletebackuprequests.velero.io", "-l", "velero.io/backup-name="+a.Name,
			"-o", "jsonpath={.items[*].status}")
		return strings.Contains(seen, `version \"zfs9\" is not known here`), seen
	})
	assert.Equal(t, guid(t, hassio, taken), guid(t, remote, a.replica()+snapshot(t, a.Name)), "nothing is destroyed")

	editIdentifiers(t, a.Name, "zfs9:", "zfs1:")
	velero(t, primary, "backup", "delete", a.Name, "--confirm")
	kubectl(t, primary, "-n", "velero", "wait", "backup.velero.io/"+a.Name, "--for=delete", "--timeout="+patience.String())
	for _, left := range versions(t, hassio, a.dataset()) {
		assert.NotContains(t, left, taken)
	}
}

// rewriteConfig is a ConfigMap of profiles.
func rewriteConfig(t *testing.T, namespace, profiles string) string {
	t.Helper()
	object, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "case-rewrite", "namespace": namespace,
			"labels": map[string]string{"velero.io/plugin-config": "", "kubectl-dr.io/rewrite": "RestoreItemAction"}},
		"data": map[string]string{"case.yaml": "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n" + profiles},
	})
	require.NoError(t, err)
	return string(object)
}

// editIdentifiers changes the snapshots' identifiers that a backup has in
// object storage.
func editIdentifiers(t *testing.T, backup, from, to string) {
	t.Helper()
	name := filepath.Join(lab.S3(), "velero", "backups", backup, backup+"-volumesnapshots.json.gz")
	packed, err := os.Open(name)
	require.NoError(t, err)
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	require.NoError(t, err)
	content, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Contains(t, string(content), from)
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err = w.Write(bytes.ReplaceAll(content, []byte(from), []byte(to)))
	require.NoError(t, errors.Join(err, w.Close()))
	require.NoError(t, os.WriteFile(name, out.Bytes(), 0o600))
}
