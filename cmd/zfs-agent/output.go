package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// checkOutput refuses formats that are none.
func checkOutput(format string) error {
	if !slices.Contains([]string{"", "json", "yaml", "wide", "name"}, format) {
		return fmt.Errorf("--output %q is not json, yaml, wide or name", format)
	}
	return nil
}

// printResult prints a result: as a document of a kind, its names, or a table.
func printResult(out io.Writer, format, kind string, v any, names []string, fill func(t *table)) error {
	switch format {
	case "json", "yaml":
		data, err := document(kind, v)
		if err == nil && format == "yaml" {
			data, err = yaml.JSONToYAML(data)
		}
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	case "name":
		for _, n := range names {
			if _, err := fmt.Fprintln(out, n); err != nil {
				return err
			}
		}
		return nil
	default:
		t := &table{w: tabwriter.NewWriter(out, 0, 0, 3, ' ', 0), wide: format == "wide"}
		fill(t)
		return errors.Join(t.err, t.w.Flush())
	}
}

// document puts what a document is before its fields.
func document(kind string, v any) ([]byte, error) {
	fields, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(map[string]string{"apiVersion": names.Domain + "/v1alpha1", "kind": kind})
	if err != nil {
		return nil, err
	}
	merged := append(append(head[:len(head)-1], ','), fields[1:]...)
	var all json.RawMessage = merged
	data, err := json.MarshalIndent(all, "", "  ")
	return append(data, '\n'), err
}

// table is a table under way; cells that are for -o wide alone come last.
type table struct {
	w    *tabwriter.Writer
	wide bool
	err  error
}

func (t *table) row(cells []string, wide ...string) {
	if t.wide {
		cells = append(cells, wide...)
	}
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil && t.err == nil {
		t.err = err
	}
}

// howOld words a duration for people.
func howOld(d time.Duration) string {
	switch d = max(0, d); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
