package rules

import (
	"encoding/json"
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
	e.annotations(calicoPools, func(_ string, at path) {
		if err := formJSONList.rewrite(e, e.names("addressPools", p.AddressPools), at); err != nil {
			failed = err
		}
	})
	return failed
}

// jsonStrings reads a JSON list of strings.
func jsonStrings(text string) ([]string, error) {
	var values []string
	err := json.Unmarshal([]byte(text), &values)
	return values, err
}

func compactJSON(values []string) string {
	raw, err := json.Marshal(values)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(raw)
}
