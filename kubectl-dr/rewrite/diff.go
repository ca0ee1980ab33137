package rewrite

import (
	"reflect"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Diff returns the difference that the profile makes to an object, in the
// unified format; empty when it makes none. Values in Secrets are hidden.
func (o *Outcome) Diff() (string, error) {
	before, after := o.Before.DeepCopy(), o.After.DeepCopy()
	hideSecrets(before, after)
	return Unified(o.Name+" (backup)", o.Name+" (restored)", before, after)
}

// Unified returns what differs between two objects, as YAML; "" for nothing. Either
// may be nil.
func Unified(fromName, toName string, before, after *unstructured.Unstructured) (string, error) {
	from, err := lines(before)
	if err != nil {
		return "", err
	}
	to, err := lines(after)
	if err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: from, B: to, FromFile: fromName, ToFile: toName, Context: 3,
	})
}

func lines(obj *unstructured.Unstructured) ([]string, error) {
	if obj == nil {
		return nil, nil
	}
	raw, err := yaml.Marshal(obj.Object)
	return slices.Collect(strings.Lines(string(raw))), err
}

// hideSecrets takes the values out of a Secret and leaves to be seen which
// differ.
func hideSecrets(before, after *unstructured.Unstructured) {
	if before.GetKind() != "Secret" {
		return
	}
	for _, field := range []string{"data", "stringData"} {
		was, _ := before.Object[field].(map[string]any)
		var is map[string]any
		if after != nil {
			is, _ = after.Object[field].(map[string]any)
		}
		for key := range was {
			if value, ok := is[key]; ok && !reflect.DeepEqual(value, was[key]) {
				is[key] = "(hidden, changed)"
			} else if ok {
				is[key] = "(hidden)"
			}
			was[key] = "(hidden)"
		}
		for key, value := range is {
			if s, _ := value.(string); !strings.HasPrefix(s, "(hidden") {
				is[key] = "(hidden)"
			}
		}
	}
}

// Colours of a diff on a terminal (ECMA-48).
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	bold  = "\x1b[1m"
	plain = "\x1b[0m"
)

// Colour colours a unified diff.
func Colour(diff string) string {
	var b strings.Builder
	for line := range strings.Lines(diff) {
		colour := ""
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"):
			colour = bold
		case strings.HasPrefix(line, "-"):
			colour = red
		case strings.HasPrefix(line, "+"):
			colour = green
		}
		if colour == "" {
			b.WriteString(line)
			continue
		}
		b.WriteString(colour + strings.TrimSuffix(line, "\n") + plain + "\n")
	}
	return b.String()
}
