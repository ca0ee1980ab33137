package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// row is one line of the table: a figure of ours beside one of what would be
// used otherwise.
type row struct {
	what, ours      string
	against, theirs string
	// ratio is ours to theirs.
	ratio float64
	bar   bar
	// note says what the figures need to be understood.
	note string
}

// bar is what a ratio has to be: at least min, and below max.
type bar struct{ min, max float64 }

func below(max float64) bar    { return bar{max: max} }
func atLeast(min float64) bar  { return bar{min: min, max: math.Inf(1)} }
func around(share float64) bar { return bar{min: 1 - share, max: 1 + share} }

func (b bar) String() string {
	switch {
	case math.IsInf(b.max, 1):
		return fmt.Sprintf(">= %.2f", b.min)
	case b.min == 0:
		return fmt.Sprintf("< %.2f", b.max)
	default:
		return fmt.Sprintf("%.2f-%.2f", b.min, b.max)
	}
}

func (b bar) met(ratio float64) bool { return ratio >= b.min && ratio < b.max }

type table []row

func (t table) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tOURS\tAGAINST\tTHEIRS\tRATIO\tBAR\tVERDICT")
	var notes []string
	for _, r := range t {
		what, verdict := r.what, "met"
		if !r.bar.met(r.ratio) {
			verdict = "MISSED"
		}
		if r.note != "" {
			notes = append(notes, r.note)
			what += fmt.Sprintf(" [%d]", len(notes))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f\t%s\t%s\n", what, r.ours, r.against, r.theirs, r.ratio, r.bar, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, note := range notes {
		if _, err := fmt.Fprintf(out, "[%d] %s\n", i+1, note); err != nil {
			return err
		}
	}
	return nil
}

// times compares how long two things take.
func times(what string, ours time.Duration, against string, theirs time.Duration, b bar) row {
	return row{what: what, ours: seconds(ours), against: against, theirs: seconds(theirs), ratio: float64(ours) / float64(theirs), bar: b}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

func mebibytes(n uint64) string { return fmt.Sprintf("%.2f MiB", float64(n)/mebibyte) }

// median is the middle one of an odd number, and the mean of the middle two of
// an even one.
func median[T ~int64 | ~float64](all []T) T {
	s := slices.Sorted(slices.Values(all))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// alternate runs a and b n times in turns, each of them first every other time,
// so that what drifts or warms up touches both alike.
func alternate[T any](n int, a, b func(i int) (T, error)) (as, bs []T, err error) {
	for i := range n {
		first, second, to, then := a, b, &as, &bs
		if i%2 == 1 {
			first, second, to, then = b, a, &bs, &as
		}
		for _, turn := range []struct {
			run func(int) (T, error)
			to  *[]T
		}{{first, to}, {second, then}} {
			got, err := turn.run(i)
			if err != nil {
				return nil, nil, err
			}
			*turn.to = append(*turn.to, got)
		}
	}
	return as, bs, nil
}

// timed is how long something takes.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
