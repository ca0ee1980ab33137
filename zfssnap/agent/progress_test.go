package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := meter{at: now}
	step := func(d time.Duration, n int) float64 {
		now = now.Add(d)
		m.add(now, n)
		return m.value(now)
	}
	assert.Zero(t, step(100*time.Millisecond, 500), "too early to tell")
	assert.InDelta(t, 1000, step(900*time.Millisecond, 500), 0.1, "the first sample counts alone")
	for range 100 {
		step(time.Second, 4000)
	}
	assert.InDelta(t, 4000, m.value(now), 1, "it comes to what is steady")
	assert.InDelta(t, 4000, step(time.Nanosecond, 1<<20), 1, "a burst is averaged")
	for range 200 {
		step(time.Second, 0)
	}
	assert.Less(t, m.value(now), 1.0, "and to nothing when nothing moves")
	assert.Less(t, m.value(now.Add(time.Hour)), 1.0)
}

func TestLeft(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 20*time.Second, left(2000, 100))
	assert.Zero(t, left(2000, 0), "it cannot be told")
	assert.Zero(t, left(0, 100))
}
