package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTable_MarksWhatMissesItsBar(t *testing.T) {
	t.Parallel()
	noted := times("slow thing", 3*time.Second, "bare thing", time.Second, below(2))
	noted.note = "median of 3 each"
	var out strings.Builder
	require.NoError(t, table{
		times("quick thing", 1500*time.Millisecond, "bare thing", time.Second, below(2)),
		noted,
		{what: "throughput", ours: "98 MiB/s", against: "a pipe", theirs: "100 MiB/s", ratio: 0.98, bar: atLeast(0.95)},
		{what: "bytes", ours: "8.00 MiB", against: "an estimate", theirs: "10.00 MiB", ratio: 0.8, bar: around(0.1)},
	}.print(&out))
	assert.Equal(t, strings.Join([]string{
		"WHAT            OURS      AGAINST      THEIRS     RATIO  BAR        VERDICT",
		"quick thing     1.500 s   bare thing   1.000 s    1.50   < 2.00     met",
		"slow thing [1]  3.000 s   bare thing   1.000 s    3.00   < 2.00     MISSED",
		"throughput      98 MiB/s  a pipe       100 MiB/s  0.98   >= 0.95    met",
		"bytes           8.00 MiB  an estimate  10.00 MiB  0.80   0.90-1.10  MISSED",
		"[1] median of 3 each",
		"",
	}, "\n"), out.String())
}

func TestMedian_IsTheMiddle(t *testing.T) {
	t.Parallel()
	assert.Equal(t, time.Duration(3), median([]time.Duration{9, 1, 3}))
	assert.Equal(t, time.Duration(4), median([]time.Duration{9, 1, 3, 5}))
}

func TestAlternate_LetsEachGoFirst(t *testing.T) {
	t.Parallel()
	var order []string
	turn := func(name string) func(int) (string, error) {
		return func(int) (string, error) {
			order = append(order, name)
			return name, nil
		}
	}
	as, bs, err := alternate(3, turn("a"), turn("b"))
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b", "b", "a", "a", "b"}, order)
	assert.Equal(t, []string{"a", "a", "a"}, as)
	assert.Equal(t, []string{"b", "b", "b"}, bs)
}
