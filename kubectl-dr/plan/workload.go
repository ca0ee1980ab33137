package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Workload is what an entry of Wave.Workloads names.
type Workload struct {
	Namespace string // the source's
	Kind      string // lower case
	Name      string
}

// String returns "<namespace>/<kind>/<name>".
func (w Workload) String() string { return w.Namespace + "/" + w.Kind + "/" + w.Name }

// WorkloadKinds are the kinds a wave may start.
var WorkloadKinds = []string{"deployment", "statefulset", "daemonset"}

// ParseWorkload reads "<kind>/<name>" or "<namespace>/<kind>/<name>". The
// namespace may be left out when there is one.
func ParseWorkload(s string, namespaces []string) (Workload, error) {
	var w Workload
	switch f := strings.Split(s, "/"); len(f) {
	case 2:
		ns, err := ParseNamespace("", namespaces)
		if err != nil {
			return w, fmt.Errorf("workload %q: %w", s, err)
		}
		w = Workload{Namespace: ns, Kind: f[0], Name: f[1]}
	case 3:
		w = Workload{Namespace: f[0], Kind: f[1], Name: f[2]}
		if _, err := ParseNamespace(w.Namespace, namespaces); err != nil {
			return w, fmt.Errorf("workload %q: %w", s, err)
		}
	default:
		return w, fmt.Errorf("workload %q: want <kind>/<name> or <namespace>/<kind>/<name>", s)
	}
	if !slices.Contains(WorkloadKinds, w.Kind) {
		return w, fmt.Errorf("workload %q: kind %q is not one of %s", s, w.Kind, strings.Join(WorkloadKinds, ", "))
	}
	if faults := validation.IsDNS1123Subdomain(w.Name); len(faults) > 0 {
		return w, fmt.Errorf("workload %q: %q is not a name", s, w.Name)
	}
	return w, nil
}

// ParseNamespace returns a source namespace of the plan: the given one, or the
// only one when none is given.
func ParseNamespace(given string, namespaces []string) (string, error) {
	switch {
	case given == "" && len(namespaces) == 1:
		return namespaces[0], nil
	case len(namespaces) == 0:
		return "", errors.New("the plan has no namespace")
	case given == "":
		return "", fmt.Errorf("the plan has several namespaces; say which of %s", strings.Join(namespaces, ", "))
	case !slices.Contains(namespaces, given):
		return "", fmt.Errorf("namespace %q is not one of the plan's: %s", given, strings.Join(namespaces, ", "))
	}
	return given, nil
}

// IgnoresClaim reports whether a claim may come back empty.
func (s Source) IgnoresClaim(namespace, claim string) bool {
	return slices.Contains(s.IgnoreClaims, namespace+"/"+claim) ||
		len(s.Namespaces) == 1 && slices.Contains(s.IgnoreClaims, claim)
}

// Profile returns the rewrite profile for a kind of run; "" for one that restores
// nothing.
func (s RecoveryPlanSpec) Profile(kind RunKind) string {
	switch kind {
	case RunDrill:
		return s.Profiles.Drill
	case RunFailback:
		return s.Profiles.Failback
	case RunRebuild:
		return s.Profiles.Rebuild
	case RunRollback:
		return ""
	}
	return s.Profiles.Failover
}

// For returns the targets at a site, none when they are what load balancers give.
func (t *Traffic) For(recovery bool) []string {
	switch {
	case t.Targets == nil:
		return nil
	case recovery:
		return t.Targets.Recovery
	}
	return t.Targets.Source
}

// Words names a kind of run for people.
func (k RunKind) Words() string {
	switch k {
	case RunDrill:
		return "drill"
	case RunPlannedFailover:
		return "planned failover"
	}
	return k.Verb()
}

// Verb is the command that begins runs of a kind and goes on with them.
func (k RunKind) Verb() string {
	switch k {
	case RunDrill:
		return "drill"
	case RunReprotect:
		return "reprotect"
	case RunFailback:
		return "failback"
	case RunRebuild:
		return "rebuild"
	case RunRollback:
		return "rollback"
	}
	return "failover"
}

// Moves reports whether runs of a kind move the application to the other site.
func (k RunKind) Moves() bool {
	return k == RunFailover || k == RunPlannedFailover || k.Returns()
}

// Returns reports whether runs of a kind bring the application back to the source.
func (k RunKind) Returns() bool { return k == RunFailback || k == RunRollback }

// Measured reports whether runs of a kind have an RPO and an RTO.
func (k RunKind) Measured() bool { return k != RunReprotect && k != RunRollback }

// InProgress reports whether a run goes on when its command is run again.
func (r *RecoveryRun) InProgress() bool {
	switch r.Status.Phase {
	case PhasePassed, PhaseFailed, PhaseAborted:
		return false
	}
	return true
}

// Warm reports whether a run starts from a warm standby.
func (s RecoveryRunSpec) Warm() bool { return s.Standby == StandbyActivate }
