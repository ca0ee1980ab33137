// Package rewrite applies a rewrite profile to objects from files, a backup or a
// namespace, as a restore would, and changes nothing.
package rewrite

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Input is what was read.
type Input struct {
	// Profiles are files of profiles, by name.
	Profiles map[string][]byte
	// Plans are the plans among the files.
	Plans []plan.RecoveryPlan
	// Objects are all other objects, in order.
	Objects []*unstructured.Unstructured
}

// Outcome is what becomes of one object.
type Outcome struct {
	// Name is kind, namespace and name.
	Name string
	// Before is the object as Velero would restore it without a profile, and After
	// as it does with one; nil when it isn't restored.
	Before, After *unstructured.Unstructured
	Changes       []rules.Change
	// Warnings say what somebody should look at.
	Warnings []string
}

// Outcomes are those of all objects under one profile.
type Outcomes struct {
	Profile string
	Objects []Outcome
	// Unused are fields of the profile that matched nothing.
	Unused []string
}

// After returns the objects that are restored.
func (o *Outcomes) After() []*unstructured.Unstructured {
	var all []*unstructured.Unstructured
	for _, one := range o.Objects {
		if one.After != nil {
			all = append(all, one.After)
		}
	}
	return all
}

// Apply applies a profile to objects. Its error names the first object that
// would not be restored because of it.
func Apply(p *rules.Profile, objects []*unstructured.Unstructured) (*Outcomes, error) {
	out := &Outcomes{Profile: p.Name}
	var usage rules.Usage
	for _, obj := range objects {
		r, err := p.Apply(obj)
		if err != nil {
			return nil, err
		}
		usage.Add(r)
		o := Outcome{Name: Name(obj), Before: Restored(obj), Changes: r.Changes, Warnings: r.Warnings}
		if !r.Drop {
			o.After = Restored(r.Object)
		}
		out.Objects = append(out.Objects, o)
	}
	out.Unused = p.Unused(usage)
	return out, nil
}

// Name returns an object's kind, namespace and name.
func Name(obj *unstructured.Unstructured) string {
	name := obj.GetName()
	if ns := obj.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return obj.GetKind() + " " + name
}

// Restored returns a copy without what Velero takes out of every object.
func Restored(obj *unstructured.Unstructured) *unstructured.Unstructured {
	out := obj.DeepCopy()
	delete(out.Object, "status")
	for _, field := range []string{
		"generateName", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp",
		"deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "managedFields",
	} {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	return out
}

// Choose returns the profile of a name. The name may also be drill or failover,
// for the profile that the only plan names for it; an empty name is the only
// profile there is.
func Choose(set *rules.Set, plans []plan.RecoveryPlan, name string) (*rules.Profile, error) {
	if name == "" {
		if names := set.Names(); len(names) > 1 {
			return nil, fmt.Errorf("say which profile; there are: %s", strings.Join(names, ", "))
		} else if len(names) == 1 {
			name = names[0]
		}
	}
	p, err := set.Profile(name)
	if err == nil || len(plans) != 1 {
		return p, err
	}
	switch profiles := plans[0].Spec.Profiles; {
	case name == "drill" && profiles.Drill != "":
		return set.Profile(profiles.Drill)
	case name == "failover" && profiles.Failover != "":
		return set.Profile(profiles.Failover)
	}
	return p, err
}
