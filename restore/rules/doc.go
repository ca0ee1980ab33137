// Package rules is the rule engine behind rewriting on restore: it decodes
// profiles, and applies a profile to one Kubernetes object at a time. It is
// pure: it reads no cluster, no clock and no environment, so a preview on a
// laptop says exactly what a restore will do.
//
// What holds for every profile that [Load] accepts:
//
//   - values are matched as they were in the object that came in, so one
//     mapping never sees what another one wrote;
//   - the object that came in is never changed;
//   - applying a profile twice is the same as applying it once, unless the
//     condition of a match looks at what the profile itself rewrites;
//   - the same object and profile give the same result and the same changes in
//     the same order;
//   - metadata.namespace is never touched, and metadata.name only by names;
//   - an object of a kind that no rewriter knows passes untouched, except for
//     labels, annotations and the class, pool and DNS annotations that a
//     profile maps, which are rewritten on every kind.
//
// Rewrites know where things live in each kind. Rules narrow them to some
// objects, and patches, which come last, do what no rewrite can.
//
// A new rewriter is one file with one function of type rewriter.apply, one line
// in the table in registry.go, and a folder of examples in testdata.
package rules
