package draft

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

//go:embed plan.yaml.tmpl
var text string

var page = template.Must(template.New("plan").Funcs(template.FuncMap{
	"join":   func(s []string) string { return strings.Join(s, ", ") },
	"span":   words,
	"scalar": scalar,
	"list": func(all []string) (string, error) {
		quoted := make([]string, len(all))
		for i, s := range all {
			q, err := scalar(s)
			if err != nil {
				return "", err
			}
			quoted[i] = q
		}
		return "[" + strings.Join(quoted, ", ") + "]", nil
	},
}).Parse(text))

// scalar writes a string as YAML does, in quotes where it needs them.
func scalar(s string) (string, error) {
	raw, err := yaml.Marshal(s)
	return strings.TrimSpace(string(raw)), err
}

// words writes a duration as people do: 15m, not 15m0s.
func words(d any) (string, error) {
	var s string
	switch d := d.(type) {
	case metav1.Duration:
		s = d.Duration.String()
	case *metav1.Duration:
		s = d.Duration.String()
	default:
		return "", fmt.Errorf("no duration: %T", d)
	}
	for _, zero := range []struct{ unit, rest string }{{"m", "0s"}, {"h", "0m"}} {
		if short, ok := strings.CutSuffix(s, zero.unit+zero.rest); ok {
			s = short + zero.unit
		}
	}
	return s, nil
}

// WriteYAML writes the plan with a comment for each field. What is read back is
// the same plan.
func (d *Draft) WriteYAML(w io.Writer) error {
	example := "deployment/name"
	if len(d.Plan.Spec.Start) > 0 {
		example = d.Plan.Spec.Start[0].Workloads[0]
	}
	return page.Execute(w, struct {
		*Draft
		Example string
	}{d, example})
}
