// Package house checks the rules of the house that no linter knows.
package house

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/kubectl-dr/kubectl-dr/"

// TestLayers keeps the arrows pointing one way:
// cmd → plugin, kubectl-dr → restore, zfssnap → their pure cores.
func TestLayers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		pkg     string
		forbids []string // prefixes of import paths
		allows  []string // when set, nothing else outside the standard library
	}{
		{
			name:   "the zfs client needs only the standard library and apimachinery",
			pkg:    "zfssnap/zfs",
			allows: []string{module + "zfssnap/zfs", "k8s.io/apimachinery"},
		},
		{
			name:   "the rule engine needs only the standard library and apimachinery",
			pkg:    "restore/rules",
			allows: []string{module + "restore/rules", "k8s.io/apimachinery", "sigs.k8s.io/yaml"},
		},
		{
			name: "the command does not drag the plugin framework along",
			pkg:  "kubectl-dr/...",
			forbids: []string{
				module + "plugin", module + "cmd",
				"github.com/hashicorp/go-plugin", "github.com/vmware-tanzu/velero/pkg/plugin",
			},
		},
		{
			name:    "snapshots do not know the command or the plugin",
			pkg:     "zfssnap/...",
			forbids: []string{module + "plugin", module + "kubectl-dr", module + "restore", module + "cmd"},
		},
		{
			name:    "rewriting does not know snapshots' life, the command or the plugin",
			pkg:     "restore/...",
			forbids: []string{module + "plugin", module + "kubectl-dr", module + "zfssnap/", module + "cmd"},
		},
		{
			name:    "an archive needs no agent, no command line and no cluster",
			pkg:     "zfssnap/archive",
			forbids: []string{module + "zfssnap/agent", module + "zfssnap/replicate", "google.golang.org/grpc", "github.com/spf13/cobra", "k8s.io/"},
		},
		{
			name:    "the agent links no Kubernetes",
			pkg:     "cmd/zfs-agent",
			forbids: []string{"k8s.io/", "github.com/vmware-tanzu/velero"},
		},
		{
			name:    "the plugin does not know the command",
			pkg:     "plugin/...",
			forbids: []string{module + "kubectl-dr", module + "cmd"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, dep := range list(t, "{{.ImportPath}}", module+tt.pkg) {
				assert.False(t, hasPrefix(dep, tt.forbids), "%s depends on %s", tt.pkg, dep)
			}
			if len(tt.allows) == 0 {
				return
			}
			for _, imported := range list(t, `{{if and .Module .Module.Main}}{{join .Imports "\n"}}{{end}}`, module+tt.pkg) {
				if !standard(imported) {
					assert.True(t, hasPrefix(imported, tt.allows), "%s imports %s", tt.pkg, imported)
				}
			}
		})
	}
}

// list runs "go list -deps" with a template and returns its lines.
func list(t *testing.T, format, pattern string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, pattern).Output()
	require.NoError(t, err)
	lines := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
	require.NotEmpty(t, lines, "nothing matches %s", pattern)
	return lines
}

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
