package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Verb is what an identity may be allowed to do.
type Verb string

// The verbs of a policy.
const (
	Read       Verb = "read"       // look at datasets, snapshots and holds
	Snapshot   Verb = "snapshot"   // take snapshots
	Hold       Verb = "hold"       // place and release our holds
	Replicate  Verb = "replicate"  // send snapshots to another agent
	Archive    Verb = "archive"    // keep snapshots in archives, restore from there
	Receive    Verb = "receive"    // append to replicas, from the identity's own node
	Clone      Verb = "clone"      // make volumes from snapshots
	Destroy    Verb = "destroy"    // destroy what is ours
	Properties Verb = "properties" // set our properties
	Move       Verb = "move"       // import and export pools that several hosts reach
	Report     Verb = "report"     // keep reports of plans in archives, and read them
	AnyVerb    Verb = "*"
)

var verbs = []Verb{Read, Snapshot, Hold, Replicate, Archive, Receive, Clone, Destroy, Properties, Move, Report, AnyVerb}

// anyPrefix stands for every dataset.
const anyPrefix = "*"

// Policy says who may do what. What it does not name is denied.
type Policy struct {
	Identities []Grant `json:"identities"`
}

// Grant allows an identity verbs on the datasets at and below prefixes. Of Report the
// prefixes are names of plans. An identity may have several.
type Grant struct {
	Name     string   `json:"name"`
	Verbs    []Verb   `json:"verbs"`
	Prefixes []string `json:"prefixes"`
}

// LoadPolicy reads a policy from a YAML file.
func LoadPolicy(path string) (Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Policy{}, fmt.Errorf("read policy: %w", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return Policy{}, fmt.Errorf("read policy %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads a policy. It is strict: an unknown field or verb is an
// error.
func ParsePolicy(data []byte) (Policy, error) {
	var p Policy
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		return Policy{}, err
	}
	var errs []error
	for i, g := range p.Identities {
		if g.Name == "" {
			errs = append(errs, fmt.Errorf("identities[%d]: name is missing", i))
		}
		if len(g.Verbs) == 0 || len(g.Prefixes) == 0 {
			errs = append(errs, fmt.Errorf("identities[%d] (%s): verbs and prefixes are both required", i, g.Name))
		}
		for _, v := range g.Verbs {
			if !slices.Contains(verbs, v) {
				errs = append(errs, fmt.Errorf("identities[%d] (%s): unknown verb %q (known: %v)", i, g.Name, v, verbs))
			}
		}
		for _, prefix := range g.Prefixes {
			if prefix == anyPrefix {
				continue
			}
			if err := zfs.ValidateDataset(prefix); err != nil {
				errs = append(errs, fmt.Errorf("identities[%d] (%s): %w", i, g.Name, err))
			}
		}
	}
	return p, errors.Join(errs...)
}

// DeniedError says what was not allowed.
type DeniedError struct {
	Identity string
	Verb     Verb
	Dataset  string
}

func (e *DeniedError) Error() string {
	switch {
	case e.Dataset == "":
		return fmt.Sprintf("%v: identity %q has not the verb %q", ErrDenied, e.Identity, e.Verb)
	case e.Verb == Report:
		return fmt.Sprintf("%v: identity %q has not the verb %q on plan %q", ErrDenied, e.Identity, e.Verb, e.Dataset)
	}
	return fmt.Sprintf("%v: identity %q has not the verb %q on dataset %q", ErrDenied, e.Identity, e.Verb, e.Dataset)
}

// Unwrap returns ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Hint says where it is allowed.
func (e *DeniedError) Hint() string {
	if e.Verb == Report {
		return fmt.Sprintf(`allow it in the agent's policy (zfs-agent --config): {name: %s, verbs: [%s], prefixes: ["*"]}, or the plan's name as prefix`, e.Identity, e.Verb)
	}
	return fmt.Sprintf("allow it in the agent's policy (zfs-agent --config): an entry for name %q with this verb and a prefix that covers the dataset", e.Identity)
}

// roots returns what covers all an identity may use a verb on: a list of
// datasets of which none is below another, or "" alone for every dataset.
func (p Policy) roots(identity string, verb Verb) []string {
	var prefixes []string
	for _, g := range p.Identities {
		if g.Name == identity && (slices.Contains(g.Verbs, verb) || slices.Contains(g.Verbs, AnyVerb)) {
			prefixes = append(prefixes, g.Prefixes...)
		}
	}
	if slices.Contains(prefixes, anyPrefix) {
		return []string{""}
	}
	slices.Sort(prefixes)
	var roots []string
	for _, prefix := range prefixes {
		if !slices.ContainsFunc(roots, func(r string) bool { return within(prefix, r) }) {
			roots = append(roots, prefix)
		}
	}
	return roots
}

// allow returns a *DeniedError unless the identity has the verb on the dataset.
func (p Policy) allow(identity string, verb Verb, dataset string) error {
	for _, root := range p.roots(identity, verb) {
		if within(dataset, root) {
			return nil
		}
	}
	return &DeniedError{Identity: identity, Verb: verb, Dataset: dataset}
}

// within reports whether a dataset is root or lies below it; "" is above all.
func within(dataset, root string) bool {
	return root == "" || dataset == root || strings.HasPrefix(dataset, root+"/")
}
