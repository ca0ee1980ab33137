package flux

import (
	"maps"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Git is a repository that Git itself serves over HTTP.
type Git struct {
	URL  string
	work string
}

// newGit makes an empty one that is served until the test ends.
func newGit(t *testing.T) *Git {
	t.Helper()
	program, err := exec.LookPath("git")
	require.NoError(t, err)
	dir := t.TempDir()
	g := &Git{work: filepath.Join(dir, "work")}
	g.git(t, dir, "init", "--quiet", "--bare", "--initial-branch=main", "fleet.git")
	g.git(t, dir, "clone", "--quiet", "fleet.git", g.work)
	g.git(t, g.work, "switch", "--quiet", "--orphan", "main")
	server := httptest.NewServer(&cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Root: "/",
		Env: append(plain, "GIT_PROJECT_ROOT="+dir, "GIT_HTTP_EXPORT_ALL=1"),
	})
	t.Cleanup(server.Close)
	g.URL = server.URL + "/fleet.git"
	return g
}

// Commit writes files, by path; an empty one is removed. It returns the revision as
// Flux writes it.
func (g *Git) Commit(t *testing.T, files map[string]string) string {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := filepath.Join(g.work, filepath.FromSlash(name))
		if files[name] == "" {
			require.NoError(t, os.Remove(file))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(files[name]), 0o600))
	}
	g.git(t, g.work, "add", "--all")
	g.git(t, g.work, "-c", "user.name=dev", "-c", "user.email=dev@example.org", "commit", "--quiet", "--message=change")
	g.git(t, g.work, "push", "--quiet", "origin", "main")
	return "main@sha1:" + g.git(t, g.work, "rev-parse", "HEAD")
}

// plain is what keeps the settings of whoever runs the tests out of it.
var plain = []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"}

func (g *Git) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), plain...)
	return output(t, cmd)
}
