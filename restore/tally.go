package restore

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// tally is what a profile has done in a restore so far.
type tally struct {
	kind                      string // the last object's
	objects, changed, dropped int
	warned                    int
	byRule                    map[string]int // objects that a rule changed
	usage                     rules.Usage
}

// count adds what became of an object. It logs what was done so far after one that is
// the first to use something of the profile: Velero doesn't tell an action that a
// restore ends, and so the last that is logged says what nothing used.
func (a *Action) count(log logrus.FieldLogger, of *loaded, r rules.Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &of.tally
	t.objects++
	if t.usage.Add(r) {
		defer func() { log.Info(t.summary(of.profile)) }()
	}
	switch {
	case r.Drop:
		t.dropped++
	case len(r.Changes) > 0:
		t.changed++
	}
	if len(r.Warnings) > 0 {
		t.warned++
	}
	changedBy := map[string]bool{}
	for _, change := range r.Changes {
		changedBy[change.Rule] = true
	}
	if t.byRule == nil {
		t.byRule = map[string]int{}
	}
	for rule := range changedBy {
		t.byRule[rule]++
	}
}

// sumUp logs what was done so far when Velero goes on to another kind.
func (a *Action) sumUp(log logrus.FieldLogger, of *loaded, kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &of.tally
	if t.kind != kind && t.objects > 0 {
		log.Info(t.summary(of.profile))
	}
	t.kind = kind
}

// summary says how many objects were changed, by which rules, and what in the
// profile found nothing to do.
func (t *tally) summary(profile *rules.Profile) string {
	var by []string
	for _, rule := range slices.Sorted(maps.Keys(t.byRule)) {
		by = append(by, fmt.Sprintf("%s %d", rule, t.byRule[rule]))
	}
	text := fmt.Sprintf("so far %d of %d objects changed, %d not restored", t.changed, t.objects, t.dropped)
	if len(by) > 0 {
		text += ": " + strings.Join(by, ", ")
	}
	if t.warned > 0 {
		text += fmt.Sprintf("; %d with warnings", t.warned)
	}
	if unused := profile.Unused(t.usage); len(unused) > 0 {
		text += "; nothing yet for " + strings.Join(unused, ", ")
	}
	return text
}
