package house

import (
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stage is one of the Dockerfile's: what it begins with, and the arguments of its
// instructions by their words.
type stage struct {
	from string
	does map[string][]string
}

func stages(t *testing.T) map[string]stage {
	t.Helper()
	content, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	all := map[string]stage{}
	var in stage
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		switch word, args, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "", "#":
		case "FROM":
			from, name, named := strings.Cut(args, " AS ")
			require.True(t, named, line)
			in = stage{from: from, does: map[string][]string{}}
			all[name] = in
		default:
			in.does[word] = append(in.does[word], args)
		}
	}
	return all
}

func TestDockerfile_copiesWhatTheProgramsAreBuiltFrom(t *testing.T) {
	t.Parallel()
	build := stages(t)["build"]
	version, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.GoVersion}}").Output()
	require.NoError(t, err)
	assert.Contains(t, build.from, "golang:"+regexp.MustCompile(`^\d+\.\d+`).FindString(string(version))+"-")

	var copied []string
	for _, args := range build.does["COPY"] {
		fields := strings.Fields(args)
		copied = append(copied, fields[:len(fields)-1]...)
	}
	for _, pkg := range list(t, "{{.ImportPath}}", module+"cmd/...") {
		dir, ours := strings.CutPrefix(pkg, module)
		for ours && !slices.Contains(copied, dir) {
			require.Contains(t, dir, "/", "no COPY has package %s", pkg)
			dir = path.Dir(dir)
		}
	}
}

// TestDockerfile_hasTheImages reads which of its stages make images, and that each
// starts a program that it has, as a user that may not do everything but where the
// host's pools ask for that.
func TestDockerfile_hasTheImages(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	all := stages(t)
	targets := regexp.MustCompile(`for target in (.*); do \\\n\s+docker`).FindStringSubmatch(string(makefile))
	require.NotNil(t, targets)
	programs := map[string]string{"plugin": "cp-plugin", "agent": "zfs-agent", "cli": "kubectl-dr"}
	assert.Len(t, all, 1+len(programs))
	for _, target := range strings.Fields(targets[1]) {
		require.Contains(t, all, target)
		image := all[target]
		there := map[string]bool{}
		for _, args := range image.does["COPY"] {
			built, ok := strings.CutPrefix(args, "--from=build /out/")
			require.True(t, ok, args)
			program, to, _ := strings.Cut(built, " ")
			assert.DirExists(t, "../../cmd/"+program)
			there[to] = true
		}
		require.Len(t, image.does["ENTRYPOINT"], 1)
		started := strings.Split(strings.Trim(image.does["ENTRYPOINT"][0], `[]"`), `", "`)
		assert.Equal(t, programs[target], path.Base(started[0]))
		assert.True(t, there[started[0]], "%s has %s", target, started[0])
		if target == "plugin" {
			assert.True(t, there[started[1]], "%s has %s", target, started[1])
			assert.Equal(t, "/target", path.Dir(started[2]), "where Velero mounts its plugins")
		}
		if target != "agent" {
			assert.Equal(t, []string{"65532:65532"}, image.does["USER"], target)
		}
	}
}
