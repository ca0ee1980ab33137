//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// world is everything that a drill could leave: every object of both clusters,
// and every dataset, snapshot, bookmark, property and hold of all pools. What
// other tests make beside has names of its own and is left out.
type world []string

// fleeting objects come and go by themselves, addresses with the Services that
// have them, and journals stay on purpose. A command that was killed leaves its requests
// to Velero, which deletes them, and they do not say whose they are.
var fleeting = append([]string{"recoveryruns.kubectl-dr.io"}, passing...)

// passing are those that also come and go in the world of one application.
var passing = []string{
	"events", "events.events.k8s.io", "ipaddresses.networking.k8s.io", "podmetrics.metrics.k8s.io",
	"downloadrequests.velero.io", "serverstatusrequests.velero.io",
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
	return kubectl(t, site, "get", kinds(t, site, fleeting...), "--all-namespaces", "--ignore-not-found", "--no-headers",
		"-o", "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name")
}

// kinds are all that a site can list, without some.
func kinds(t *testing.T, site string, without ...string) string {
	t.Helper()
	all := strings.Fields(kubectl(t, site, "api-resources", "--verbs=list", "-o", "name"))
	return strings.Join(slices.DeleteFunc(all, func(kind string) bool { return slices.Contains(without, kind) }), ",")
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

// world is everything that bears the application's name, in the words of any
// application: what its objects of both clusters ask for and how far they are, its
// datasets with all that look lists of them, and its files in object storage.
func (a app) world(t *testing.T) world {
	t.Helper()
	counted := map[string]int{}
	add := func(where string, lines ...string) {
		for _, line := range lines {
			if strings.Contains(line, a.Name) {
				counted[where+" "+own.ReplaceAllString(strings.ReplaceAll(line, a.Name, "APP"), "…")]++
			}
		}
	}
	for _, site := range []string{primary, dr} {
		add(site, described(t, site)...)
	}
	for _, node := range []string{hassio, remote} {
		add(node, strings.Split(datasets(t, node), "\n")...)
	}
	require.NoError(t, filepath.WalkDir(lab.S3(), func(file string, _ fs.DirEntry, err error) error {
		add("object storage", strings.TrimPrefix(file, lab.S3()))
		return err
	}))
	w := world{}
	for line, n := range counted {
		if strings.Contains(line, "/archive/reports/") {
			n = 1 // whoever goes on with a run keeps it as it is then
		}
		w = append(w, fmt.Sprintf("%s (%d)", line, n))
	}
	slices.Sort(w)
	return w
}

// own is what each application has of its own in names and values: times, numbers,
// addresses, and what is made of an identifier.
var own = regexp.MustCompile(`\d{8}-\d{6}(\.\d{3})?|\d{4}-\d\d-\d\dT[\d:.]+Z|\d+\.\d+\.\d+\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8,}\b|_[0-9a-f]{8,}|\d{5,}|drill-[0-9a-f]{5}\b`)

// described is a line for each object of a site: what it asks for, and how far it is.
// What a controller makes of another object is only told apart by that.
func described(t *testing.T, site string) []string {
	t.Helper()
	var list struct{ Items []map[string]any }
	// Endpoints follow from pods.
	without := append(slices.Clone(passing), "endpoints", "endpointslices.discovery.k8s.io")
	listed := kubectl(t, site, "get", kinds(t, site, without...), "--all-namespaces", "--ignore-not-found", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(listed), &list))
	var lines []string
	for _, o := range list.Items {
		meta := o["metadata"].(map[string]any)
		line := fmt.Sprintf("%v %v", o["kind"], meta["namespace"])
		if owners, owned := meta["ownerReferences"].([]any); owned {
			lines = append(lines, fmt.Sprintf("%s of %v", line, owners[0].(map[string]any)["kind"]))
			continue
		}
		status, _ := o["status"].(map[string]any)
		o["status"] = map[string]any{"phase": status["phase"], "steps": status["steps"]}
		drop(o, "uid", "resourceVersion", "managedFields", "generation", "startedAt", "endedAt", "message")
		content, err := json.Marshal(o)
		require.NoError(t, err)
		lines = append(lines, fmt.Sprintf("%s/%v %s", line, meta["name"], content))
	}
	return lines
}

// drop removes fields wherever they are.
func drop(value any, fields ...string) {
	switch v := value.(type) {
	case map[string]any:
		for _, f := range fields {
			delete(v, f)
		}
		for _, inner := range v {
			drop(inner, fields...)
		}
	case []any:
		for _, inner := range v {
			drop(inner, fields...)
		}
	}
}
