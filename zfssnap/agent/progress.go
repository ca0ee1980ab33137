package agent

import (
	"math"
	"time"
)

// rateWindow is how far back a rate looks, roughly.
const rateWindow = 10 * time.Second

// meter measures a rate, as an average in which older samples weigh less and
// less. The zero value is not ready: set at to when measuring begins.
type meter struct {
	at   time.Time // of the last sample
	n    uint64    // bytes since then
	rate float64   // bytes per second
	any  bool      // there was a sample
}

func (m *meter) add(now time.Time, n int) {
	m.n += uint64(n)
	m.value(now)
}

// value is the rate in bytes per second. It falls while nothing is added.
func (m *meter) value(now time.Time) float64 {
	took := now.Sub(m.at)
	if took < time.Second {
		return m.rate
	}
	sample := float64(m.n) / took.Seconds()
	weight := 1 - math.Exp(-float64(took)/float64(rateWindow))
	if !m.any {
		m.any, weight = true, 1
	}
	m.rate += weight * (sample - m.rate)
	m.at, m.n = now, 0
	return m.rate
}

// left is how long n more bytes take at a rate, 0 when that cannot be told.
func left(n uint64, rate float64) time.Duration {
	if rate < 1 {
		return 0
	}
	return time.Duration(float64(n) / rate * float64(time.Second)).Round(time.Second)
}
