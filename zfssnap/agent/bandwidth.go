package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/time/rate"
)

// minBandwidth is the lowest limit: below it, progress could not be told from
// its absence.
const minBandwidth = 16 << 10

// Bandwidth limits what this node sends, in bytes per second.
type Bandwidth struct {
	Total   uint64            // of all transfers together; 0 for no limit
	Targets map[string]uint64 // of those to one node, within Total
}

// ParseBandwidth reads limits: "50MiB" for all transfers together, and
// "remote=10MiB" for those to one node. An error says which one is wrong.
func ParseBandwidth(limits []string) (Bandwidth, error) {
	b := Bandwidth{Targets: map[string]uint64{}}
	for _, limit := range limits {
		node, size, targeted := strings.Cut(limit, "=")
		if !targeted {
			node, size = "", limit
		}
		n, err := humanize.ParseBytes(strings.TrimSuffix(size, "/s"))
		_, again := b.Targets[node]
		switch {
		case err != nil:
			return Bandwidth{}, fmt.Errorf("bandwidth limit %q: %w: %q is no size; write it as 50MiB, or as NODE=50MiB for one target", limit, ErrInvalid, size)
		case n < minBandwidth:
			return Bandwidth{}, fmt.Errorf("bandwidth limit %q: %w: the least is %s a second", limit, ErrInvalid, humanize.IBytes(minBandwidth))
		case targeted && node == "":
			return Bandwidth{}, fmt.Errorf("bandwidth limit %q: %w: it names no node", limit, ErrInvalid)
		case again || node == "" && b.Total != 0:
			return Bandwidth{}, fmt.Errorf("bandwidth limit %q: %w: there is one already", limit, ErrInvalid)
		case targeted:
			b.Targets[node] = n
		default:
			b.Total = n
		}
	}
	return b, nil
}

// limiters keep to a Bandwidth.
type limiters struct {
	total   *rate.Limiter // nil for no limit, as in targets
	targets map[string]*rate.Limiter
}

func newLimiters(b Bandwidth) limiters {
	l := limiters{targets: map[string]*rate.Limiter{}}
	if b.Total > 0 {
		l.total = newLimiter(b.Total)
	}
	for node, n := range b.Targets {
		l.targets[node] = newLimiter(n)
	}
	return l
}

// newLimiter lets a tenth of a second's worth pass at once.
func newLimiter(perSecond uint64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(perSecond/10))
}

// wait returns what waits until n bytes may be sent to a node, nil when there
// is no limit.
func (l limiters) wait(node string) func(ctx context.Context, n int) error {
	var all []*rate.Limiter
	for _, limiter := range []*rate.Limiter{l.targets[node], l.total} {
		if limiter != nil {
			all = append(all, limiter)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return func(ctx context.Context, n int) error {
		for _, limiter := range all {
			for left := n; left > 0; {
				part := min(left, limiter.Burst())
				if err := limiter.WaitN(ctx, part); err != nil {
					return err
				}
				left -= part
			}
		}
		return nil
	}
}
