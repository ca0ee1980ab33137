package rules

import (
	"encoding/json"
	"fmt"
)

var (
	calicoPools = []string{
		"projectcalico.org/ipv4pools", "projectcalico.org/ipv6pools", // on Services
		"cni.projectcalico.org/ipv4pools", "cni.projectcalico.org/ipv6pools", // on Pods and Namespaces
	}
	metalLBPools = []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}
)

func rewriteAddressPools(e *edit, p *Rewrites) error {
	if len(p.AddressPools) == 0 {
		return nil
	}
	e.annotations(metalLBPools, func(_ string, at path) { e.mapped(p.AddressPools, at...) })
	var failed error
	e.annotations(calicoPools, func(value string, at path) {
		var pools []string
		if err := json.Unmarshal([]byte(value), &pools); err != nil {
			failed = fmt.Errorf("read %s: %w", at, err)
			return
		}
		changed := false
		for i, pool := range pools {
			if to, ok := p.AddressPools[pool]; ok {
				pools[i], changed = to, true
			}
		}
		if changed {
			raw, err := json.Marshal(pools)
			if err != nil {
				failed = err
				return
			}
			e.set(string(raw), at...)
		}
	})
	return failed
}
