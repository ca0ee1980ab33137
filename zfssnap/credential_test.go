package zfssnap

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadCredential(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "credential")
	_, err := readCredential(file)
	require.ErrorContains(t, err, "read the location's credential")
	pem, err := readCredential("")
	require.NoError(t, err)
	assert.Empty(t, pem)

	// Velero empties the file before it writes it.
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	writes := time.AfterFunc(10*credentialInterval, func() { assert.NoError(t, os.WriteFile(file, []byte("PEM"), 0o600)) })
	t.Cleanup(func() { writes.Stop() })
	pem, err = readCredential(file)
	require.NoError(t, err)
	assert.Equal(t, "PEM", string(pem))
}
