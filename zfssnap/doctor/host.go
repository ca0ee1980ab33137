package doctor

import (
	"context"
	"fmt"
	"time"
)

func (e *examination) lookAtHost(context.Context) {
	if e.Synchronized != nil {
		switch synchronized, err := e.Synchronized(); {
		case err != nil:
			e.warn("clock", err.Error(), "look whether the host follows a time server")
		case !synchronized:
			e.warn("clock", "no time server disciplines it", "run a time service such as chrony: ages, leases and certificates are told by clocks")
		default:
			e.ok("clock", "follows a time server")
		}
	}
	now := e.Now()
	for _, c := range e.Certificates {
		name, remedy := "certificate of "+c.Subject.CommonName, "issue another: kubectl dr agent certs, or zfs-agent certs; the agent need not be restarted"
		if c.IsCA {
			name, remedy = "authority "+c.Subject.CommonName, "make another authority, and trust both until every bundle is issued anew: see docs/security.md"
		}
		left := c.NotAfter.Sub(now)
		message := "valid until " + c.NotAfter.UTC().Format(time.DateOnly)
		switch {
		case now.Before(c.NotBefore):
			e.problem(name, "not valid before "+c.NotBefore.UTC().Format(time.RFC3339), "set the clock")
		case left <= 0:
			e.problem(name, "expired "+c.NotAfter.UTC().Format(time.DateOnly), remedy)
		case left < certVerySoon:
			e.problem(name, fmt.Sprintf("%s, %d days left", message, int(left.Hours()/24)), remedy)
		case left < certSoon:
			e.warn(name, fmt.Sprintf("%s, %d days left", message, int(left.Hours()/24)), remedy)
		default:
			e.ok(name, message)
		}
	}
}
