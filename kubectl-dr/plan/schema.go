package plan

import (
	"encoding/json"
	"errors"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/examples/crds"
)

// Schema returns the JSON schema of a plan, for editors and validators. It is that
// of the installed definition, and as strict as Decode: fields that are not in it
// are refused.
func Schema() ([]byte, error) {
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPI map[string]any `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(crds.RecoveryPlans, &crd); err != nil {
		return nil, err
	}
	for _, v := range crd.Spec.Versions {
		if v.Name != GroupVersion.Version {
			continue
		}
		schema := v.Schema.OpenAPI
		closeObjects(schema)
		properties, _ := schema["properties"].(map[string]any)
		properties["apiVersion"] = map[string]any{"const": GroupVersion.String()}
		properties["kind"] = map[string]any{"const": "RecoveryPlan"}
		schema["required"] = []string{"apiVersion", "kind", "metadata", "spec"}
		schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		schema["title"] = "RecoveryPlan " + GroupVersion.String()
		return json.MarshalIndent(schema, "", "  ")
	}
	return nil, errors.New("the definition of RecoveryPlan has no version " + GroupVersion.Version)
}

// closeObjects lets objects have no other fields than those they list.
func closeObjects(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			closeObjects(item)
		}
	case map[string]any:
		if properties, ok := v["properties"].(map[string]any); ok {
			v["additionalProperties"] = false
			for _, p := range properties {
				closeObjects(p)
			}
		}
		closeObjects(v["items"])
	}
}
