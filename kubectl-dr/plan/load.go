package plan

import (
	"errors"
	"fmt"
	"io"
	"os"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Read reads one plan from a file, or from stdin when the path is "-". It is
// strict: an unknown field is an error.
func Read(path string, stdin io.Reader) (*RecoveryPlan, error) {
	var content []byte
	var err error
	if path == "-" {
		content, err = io.ReadAll(stdin)
	} else {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	p, err := Decode(content)
	if err != nil {
		return nil, fmt.Errorf("read plan %s: %w", path, err)
	}
	return p, nil
}

// Decode decodes and validates one plan.
func Decode(content []byte) (*RecoveryPlan, error) {
	raw, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, err
	}
	p := &RecoveryPlan{}
	// It says where in the plan an unknown field is.
	faults, err := json.UnmarshalStrict(raw, p)
	if err = errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	if p.APIVersion != GroupVersion.String() || p.Kind != "RecoveryPlan" {
		return nil, fmt.Errorf("it is %q of %q, not RecoveryPlan of %q", p.Kind, p.APIVersion, GroupVersion)
	}
	return p, p.Validate()
}
