package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHoldings_waitForOthers(t *testing.T) {
	t.Parallel()
	var hs holdings
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	begin := func(after time.Duration, snapshots ...string) bool {
		return hs.begin(t.Context(), "tag", snapshots, start.Add(after))
	}
	due := func() time.Duration { return hs.due("tag", time.Second).Sub(start) }
	assert.False(t, begin(0), "nothing has nobody wait")
	assert.True(t, begin(0, "a@1"), "the first one has somebody see to it")
	assert.Equal(t, time.Second, due())
	assert.False(t, begin(900*time.Millisecond, "b@1", "c@1"))
	assert.Equal(t, 1900*time.Millisecond, due(), "another is waited for")
	assert.False(t, begin(9900*time.Millisecond, "d@1"))
	assert.Equal(t, 10*time.Second, due(), "but not for ever")

	require.NoError(t, hs.stop(t.Context(), "b@1"), "what is to be destroyed waits no more")
	var taken []string
	for _, h := range hs.take("tag") {
		taken = append(taken, h.snapshot)
		hs.end(h)
	}
	assert.Equal(t, []string{"a@1", "c@1", "d@1"}, taken)
	assert.Empty(t, hs.bySnapshot)
	assert.True(t, begin(0, "a@1"), "those that come later are seen to anew")
}
