package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// leaves collects every value below one that holds no others, by its path.
func leaves(value any, at path, into map[string]any) map[string]any {
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			leaves(child, at.join(key), into)
		}
	case []any:
		for i, child := range v {
			leaves(child, at.join(i), into)
		}
	default:
		into[at.String()] = value
	}
	return into
}

// TestProfile_Apply_changesNothingElse compares every value of an object with
// what the changes say was changed.
func TestProfile_Apply_changesNothingElse(t *testing.T) {
	t.Parallel()
	for _, tt := range testCases(t) {
		for _, obj := range tt.objects {
			r, err := tt.profile.Apply(obj)
			require.NoError(t, err)
			before, after := leaves(obj.Object, nil, map[string]any{}), leaves(r.Object.Object, nil, map[string]any{})
			for at := range maps.Keys(mergedKeys(before, after)) {
				if assert.ObjectsAreEqual(before[at], after[at]) {
					continue
				}
				assert.True(t, slices.ContainsFunc(r.Changes, func(c Change) bool {
					return at == c.Path || strings.HasPrefix(at, c.Path+".") || strings.HasPrefix(at, c.Path+"[")
				}), "%s: %s changed and no change says so", tt.name, at)
			}
		}
	}
}

func mergedKeys(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// TestProfile_Apply_inAnyOrder rewrites the objects of a case in other orders.
func TestProfile_Apply_inAnyOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range testCases(t) {
		apply := func(order []int) (results map[int]Result, unused []string) {
			var usage Usage
			results = map[int]Result{}
			for _, i := range order {
				r, err := tt.profile.Apply(tt.objects[i])
				require.NoError(t, err)
				usage.Add(r)
				results[i] = r
			}
			return results, tt.profile.Unused(usage)
		}
		order := rand.New(rand.NewPCG(1, 1)).Perm(len(tt.objects))
		results, unused := apply(order)
		slices.Sort(order)
		wantResults, wantUnused := apply(order)
		assert.Equal(t, wantResults, results, tt.name)
		assert.Equal(t, wantUnused, unused, tt.name)
	}
}

// hostPool are hosts and what the profile of TestHosts_areMappedAsASet makes of
// them.
var hostPool = map[string]string{
	"a.example.org": "a.drill.example.org", "www.b.example.org": "www.b.dr.example.org", "x.y.b.example.org": "x.y.b.dr.example.org",
	"b.example.org": "b.example.org", "other.example.org": "other.example.org", "za.example.org": "za.example.org", "eu-prod.example.net": "eu-dr.example.net",
}

var hostInText = regexp.MustCompile(`[a-z0-9-]+(?:\.[a-z0-9-]+)*\.example\.(?:org|net)`)

// pathInText is a path of hostSamples that looks like a host.
var pathInText = regexp.MustCompile("(org|net|`)/a\\.example\\.org")

// hostsOf are all hosts that stand anywhere in an object.
func hostsOf(t *testing.T, obj *unstructured.Unstructured) map[string]bool {
	t.Helper()
	raw, err := json.Marshal(obj.Object["spec"])
	require.NoError(t, err)
	annotations, err := json.Marshal(obj.GetAnnotations())
	require.NoError(t, err)
	found := map[string]bool{}
	text := strings.ReplaceAll(string(raw)+string(annotations), `\\.`, ".")
	for _, host := range hostInText.FindAllString(pathInText.ReplaceAllString(text, "$1"), -1) {
		found[host] = true
	}
	return found
}

// TestHosts_areMappedAsASet fills random places of every kind with random hosts:
// the hosts of the result are the mapping of those before, or both with mode add
// wherever there is room for both.
func TestHosts_areMappedAsASet(t *testing.T) {
	t.Parallel()
	const mappings = `  hosts:
  - {from: a.example.org, to: a.drill.example.org%[1]s}
  - {from: "*.b.example.org", to: "*.b.dr.example.org"%[1]s}
  - {fromRegexp: '([a-z]+)-prod\.example\.net', to: '$1-dr.example.net'%[1]s}
`
	replace, add := profileOf(t, fmt.Sprintf(mappings, "")), profileOf(t, fmt.Sprintf(mappings, ", mode: add"))
	byKind := map[schema.GroupKind][]*place{}
	for i := range hostPlaces {
		p := &hostPlaces[i]
		for _, gk := range p.kinds {
			// A regular expression takes no expression's captures.
			if p.rule == "hosts" && p.form != formRegexp {
				byKind[gk] = append(byKind[gk], p)
			}
		}
	}
	hosts := slices.Sorted(maps.Keys(hostPool))
	for gk, places := range byKind {
		for seed := range uint64(50) {
			random := rand.New(rand.NewPCG(seed, 0))
			obj := &unstructured.Unstructured{Object: map[string]any{}}
			for _, p := range places {
				if random.IntN(2) == 0 {
					store(obj.Object, hostSamples[p.form](hosts[random.IntN(len(hosts))]), false, concretePath(p.at), nil)
				}
			}
			obj.SetGroupVersionKind(gk.WithVersion("v1"))
			obj.SetName("x")
			before := hostsOf(t, obj)
			mapped, known := map[string]bool{}, maps.Clone(before)
			for host := range before {
				to, ok := hostPool[host]
				if !ok {
					to = host
				}
				mapped[to], known[to] = true, true
			}
			r, err := replace.Apply(obj)
			require.NoError(t, err)
			assert.Equal(t, mapped, hostsOf(t, r.Object), "%s, seed %d", gk, seed)

			r, err = add.Apply(obj)
			require.NoError(t, err)
			after := hostsOf(t, r.Object)
			for host := range before {
				assert.True(t, after[host], "%s, seed %d: %s is kept", gk, seed, host)
			}
			for host := range after {
				assert.True(t, known[host], "%s, seed %d: %s comes from nowhere", gk, seed, host)
			}
		}
	}
}
