// Package crds holds the definitions of kubectl dr's own resources, as they are
// installed.
package crds

import _ "embed"

// RecoveryPlans is the definition of RecoveryPlan, in YAML.
//
//go:embed kubectl-dr.io_recoveryplans.yaml
var RecoveryPlans []byte
