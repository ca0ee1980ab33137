package rules

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	referenceFile  = "../../docs/rewriting.md"
	referenceBegin = "<!-- The tables below are written by go test ./restore/rules -update. -->\n"
)

// TestReference keeps the tables in the documentation what the code does.
func TestReference(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	prose, _, found := strings.Cut(string(content), referenceBegin)
	require.True(t, found)
	want := operatorRows(prose) + referenceBegin + reference()
	if *update {
		require.NoError(t, os.WriteFile(referenceFile, []byte(want), 0o644))
		return
	}
	assert.Equal(t, want, string(content), "run go test ./restore/rules -update")
}

const operatorsBegin = "| HorizontalPodAutoscaler | nothing: it does nothing while its target has no replicas |\n"

// operatorRows writes the rows of the registry of operators into the table of
// kinds.
func operatorRows(prose string) string {
	before, after, _ := strings.Cut(prose, operatorsBegin)
	end := strings.Index(after, "\n\n")
	var rows strings.Builder
	for _, gk := range StandbyKinds() {
		var settings string
		for i, s := range operators[gk] {
			raw, _ := json.Marshal(s.value)
			switch {
			case s.present:
				settings += " or "
			case i > 0:
				settings += " and "
			}
			settings += fmt.Sprintf("`%s: %s`", s.at, raw)
		}
		fmt.Fprintf(&rows, "| %s (%s) | %s |\n", gk.Kind, gk.Group, settings)
	}
	return before + operatorsBegin + rows.String() + after[end+1:]
}

// fieldsText lists the fields of a profile, by type, with what their comments say.
func fieldsText() string {
	file, err := parser.ParseFile(token.NewFileSet(), "profile.go", nil, parser.ParseComments)
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	ast.Inspect(file, func(n ast.Node) bool {
		t, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, ok := t.Type.(*ast.StructType)
		if heading := typeHeadings[t.Name.Name]; ok && heading != "" {
			fmt.Fprintf(&b, "\n### %s\n\n", heading)
			said := ""
			for _, f := range s.Fields.List {
				if f.Tag == nil {
					continue
				}
				name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
				if f.Doc != nil {
					said = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
				if rest, own := strings.CutPrefix(said, f.Names[0].Name+" "); own {
					fmt.Fprintf(&b, "- `%s` %s\n", name, rest)
				} else {
					fmt.Fprintf(&b, "- `%s`: %s\n", name, said)
				}
			}
		}
		return false
	})
	return b.String()
}

// typeHeadings are headings of the lists of fields, by type.
var typeHeadings = map[string]string{
	"Rewrites": "What a profile and its rules may say", "HostMapping": "Each of hosts", "HostsIn": "hostsIn", "LoadBalancer": "loadBalancer",
	"IPFamilies": "ipFamilies", "Affinity": "affinity", "Entries": "labels, annotations and nodeSelector", "Tolerations": "tolerations",
}

// reference lists the fields, and every place by rule.
func reference() string {
	var b strings.Builder
	b.WriteString(fieldsText())
	rule := ""
	for _, p := range places {
		if p.rule != rule {
			rule = p.rule
			fmt.Fprintf(&b, "\n### %s\n\n| kinds | field | form |\n|---|---|---|\n", rule)
		}
		at := strings.ReplaceAll(p.at, "external-dns/", "external-dns' ")
		at = strings.TrimPrefix(strings.TrimPrefix(at, "pod."), "template.")
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", kindsText(p), at, p.form.about)
	}
	return b.String()
}

func kindsText(p place) string {
	if p.kinds == nil {
		switch {
		case strings.HasPrefix(p.at, "pod."):
			return "Pod and every pod template"
		case strings.HasPrefix(p.at, "template."):
			return "every pod template"
		}
		return "every kind"
	}
	var kinds, groups []string
	for _, gk := range p.kinds {
		group := gk.Group
		if group == "" {
			group = "core"
		}
		kinds, groups = append(kinds, gk.Kind), append(groups, group)
	}
	slices.Sort(kinds)
	return strings.Join(slices.Compact(kinds), ", ") + " (" + strings.Join(slices.Compact(groups), ", ") + ")"
}
