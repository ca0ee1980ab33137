package rules

// APIVersion and Kind head every document that holds profiles.
const (
	APIVersion = "rewrite.kubectl-dr.io/v1alpha1"
	Kind       = "RewriteProfiles"
)

const (
	// AnnotationOriginalState holds what a workload on standby goes back to; see
	// [OriginalState].
	AnnotationOriginalState = "kubectl-dr.io/original-state"
	// AnnotationPatched holds the marks of patches that must not be applied to the
	// object again.
	AnnotationPatched = "kubectl-dr.io/patched"
	// StandbyGate is the scheduling gate of a Pod on standby, and the node
	// selector's key, which no node carries, of a DaemonSet on standby.
	StandbyGate = "kubectl-dr.io/standby"
	// ConfigMapSelector selects the ConfigMap of profiles in Velero's namespace.
	ConfigMapSelector = "velero.io/plugin-config,kubectl-dr.io/rewrite=RestoreItemAction"
)
