package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Selection is the objects that a restore is limited to, whatever else its backup
// holds. Its text is one object a line, "<kind>.<group> <namespace>/<name>", as
// backed up.
type Selection map[string]bool

// Add adds an object.
func (s Selection) Add(obj *unstructured.Unstructured) { s[selectionLine(obj)] = true }

// Has reports whether an object is among them.
func (s Selection) Has(obj *unstructured.Unstructured) bool { return s[selectionLine(obj)] }

// String is what ParseSelection reads.
func (s Selection) String() string {
	return strings.Join(slices.Sorted(maps.Keys(s)), "\n") + "\n"
}

// ParseSelection reads the text of a selection.
func ParseSelection(text string) (Selection, error) {
	s := Selection{}
	for i, line := range strings.Split(text, "\n") {
		if line == "" {
			continue
		}
		kind, name, ok := strings.Cut(line, " ")
		if _, base, slash := strings.Cut(name, "/"); !ok || kind == "" || !slash || base == "" {
			return nil, fmt.Errorf("line %d: %q is not of the form <kind>.<group> <namespace>/<name>", i+1, line)
		}
		s[line] = true
	}
	return s, nil
}

func selectionLine(obj *unstructured.Unstructured) string {
	gk := obj.GroupVersionKind().GroupKind()
	return gk.String() + " " + obj.GetNamespace() + "/" + obj.GetName()
}
