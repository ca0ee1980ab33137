package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source, target := filepath.Join(dir, "plugin"), filepath.Join(dir, "target", "plugin")
	require.NoError(t, os.WriteFile(source, []byte("new"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Dir(target), 0o755))
	require.NoError(t, os.WriteFile(target, []byte("an older and longer one"), 0o755))

	require.NoError(t, install(source, target))

	got, err := os.ReadFile(target)
	require.NoError(t, err)
	assert.Equal(t, "new", string(got), "an older copy is replaced whole")
	info, err := os.Stat(target)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(target))
	require.NoError(t, err)
	assert.Len(t, left, 1, "no temporary file is left")

	require.Error(t, install(filepath.Join(dir, "missing"), target))
	got, err = os.ReadFile(target)
	require.NoError(t, err)
	assert.Equal(t, "new", string(got), "a copy that failed leaves the target as it was")
}
