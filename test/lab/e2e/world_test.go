//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// world is everything that a drill could leave: every object of both clusters,
// and every dataset, snapshot, bookmark, property and hold of all pools. What
// other tests make beside has names of its own and is left out.
type world []string

// fleeting objects come and go by themselves, addresses with the Services that
// have them, and journals stay on purpose.
var fleeting = []string{
	"events", "events.events.k8s.io", "ipaddresses.networking.k8s.io", "recoveryruns.kubectl-dr.io", "podmetrics.metrics.k8s.io",
}

// others are parts of the names that tests running beside this one use.
var others = []string{"shop", "case-", "conformance-", "adoption-", "crashtest-", "snapshotter-", "scratch", "znvm/replica", "flux-system", "fluxcd.io"}

func look(t *testing.T) world {
	t.Helper()
	var w world
	add := func(where, listing string) {
		for line := range strings.Lines(listing) {
			if !slices.ContainsFunc(others, func(o string) bool { return strings.Contains(line, o) }) {
				w = append(w, where+" "+strings.Join(strings.Fields(line), " "))
			}
		}
	}
	for _, site := range []string{primary, dr} {
		add(site, objects(t, site))
	}
	for _, node := range []string{hassio, remote} {
		add(node, datasets(t, node))
	}
	slices.Sort(w)
	return w
}

func objects(t *testing.T, site string) string {
	t.Helper()
	kinds := slices.DeleteFunc(strings.Fields(kubectl(t, site, "api-resources", "--verbs=list", "-o", "name")),
		func(kind string) bool { return slices.Contains(fleeting, kind) })
	return kubectl(t, site, "get", strings.Join(kinds, ","), "--all-namespaces", "--ignore-not-found", "--no-headers",
		"-o", "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name")
}

func datasets(t *testing.T, node string) string {
	t.Helper()
	return on(t, node, "sh", "-ec", `zfs list -H -t all -o name
zfs get -H -t all -s local,received -o name,property,value all
zfs list -H -t snapshot -o name | xargs -r zfs holds -H | cut -f 1,2`)
}

// changes are the lines that are in only one of two listings: "+" in the later.
func changes(before, after world) []string {
	var diff []string
	for _, line := range before {
		if _, found := slices.BinarySearch(after, line); !found {
			diff = append(diff, "- "+line)
		}
	}
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			diff = append(diff, "+ "+line)
		}
	}
	return diff
}
