package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// packagesOf is a tree of files, of which those that begin with "->" are links.
func packagesOf(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, link := strings.CutPrefix(content, "->"); link {
			require.NoError(t, os.Symlink(target, path))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, root.Close()) })
	return root
}

func TestLayer_Files_FollowsLinksWithinThePackages(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("of the host"), 0o600))
	l := newLayer(packagesOf(t, map[string]string{
		"usr/share/blog/index.php":           "php",
		"usr/share/blog/js/underscore.js":    "->../../javascript/underscore.js",
		"usr/share/javascript/underscore.js": "js",
		"usr/share/blog/certificates":        "->" + outside,
		"usr/share/blog/made-later":          "->../../../etc/made-later",
		"usr/share/other/index.php":          "other",
	}))
	l.files("usr/share/blog", "usr/src/blog", func(string) bool { return true })
	require.NoError(t, l.err)
	assert.Equal(t, map[string]bool{"usr/src/blog/index.php": true, "usr/src/blog/js/underscore.js": true}, l.have)
}

func TestNeededOfWordPress_LeavesOutWhatIsThereInAShortForm(t *testing.T) {
	t.Parallel()
	want := neededOfWordPress(packagesOf(t, map[string]string{
		"usr/share/wordpress/a.js": "long", "usr/share/wordpress/a.min.js": "short", "usr/share/wordpress/b.js": "alone",
		"usr/share/wordpress/wp-config.php": "Debian's", "usr/share/wordpress/c.php": "php",
	}))
	for name, needed := range map[string]bool{"a.js": false, "a.min.js": true, "b.js": true, "wp-config.php": false, "c.php": true} {
		assert.Equal(t, needed, want(name), name)
	}
}

func TestLayer_Programs_NamesTheLibraryThatNoPackageHas(t *testing.T) {
	t.Parallel()
	self, err := os.ReadFile("/bin/sh")
	require.NoError(t, err)
	l := newLayer(packagesOf(t, map[string]string{"lib/x86_64-linux-gnu/" + loader: "loader", "usr/bin/sh": string(self)}))
	l.programs("usr/bin/sh")
	require.ErrorContains(t, l.err, "find library libc.so.6 of usr/bin/sh: no package has it")
}
