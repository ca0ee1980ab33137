package driver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMounted(t *testing.T) {
	t.Parallel()
	there, err := Mounted("/proc")
	require.NoError(t, err)
	assert.True(t, there)
	there, err = Mounted(t.TempDir())
	require.NoError(t, err)
	assert.False(t, there)
}
