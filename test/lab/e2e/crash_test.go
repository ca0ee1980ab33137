//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCrashMatrix takes an application through all that moves it, and kills the
// command at everything that it says: that a step begins, what it waits for, that the
// step is done and not yet recorded. The same command goes on then, up to the next.
// After each verb everything has to be as it is with a twin that nobody disturbs.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	began := time.Now()
	k := &killer{again: map[point]string{}}
	worlds := map[string]map[string]world{}
	for _, name := range []string{"case-killed", "case-twin"} {
		worlds[name] = map[string]world{}
	}
	t.Run("runs", func(t *testing.T) {
		for name, after := range worlds {
			do := undisturbed
			if name == "case-killed" {
				do = k.do
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				journey(t, name, do, after)
			})
		}
	})
	ends := map[string]string{}
	for _, verb := range verbs {
		if worlds["case-killed"][verb] == nil || worlds["case-twin"][verb] == nil {
			continue
		}
		different := changes(worlds["case-twin"][verb], worlds["case-killed"][verb])
		assert.Empty(t, different, "%s leaves what it leaves when nobody disturbs it", verb)
		ends[verb] = fmt.Sprintf("%d objects, datasets and files as with the twin", len(worlds["case-killed"][verb]))
		if len(different) > 0 {
			ends[verb] = fmt.Sprintf("%d DIFFERENCES", len(different))
		}
	}
	t.Logf("crash matrix, %d kills in %s:\n%s", len(k.points), time.Since(began).Round(time.Second), k.table(ends))
}

// verbs are those of the journey, in turn.
var verbs = []string{"drill", "planned failover", "reprotect", "failback", "disaster failover"}

// journey has an application rehearsed, moved away, protected there, moved home, and
// recovered from a disaster. It checks after each verb that all data is there, and
// looks at what the verb left.
func journey(t *testing.T, name string, do func(t *testing.T, verb string, args ...string), after map[string]world) {
	a := newApp(t, name)
	// A killed run takes as long as all who went on with it.
	apply(t, dr, strings.Replace(a.plan(t, name), "rpo: 30m, rto: 15m", "rpo: 4h, rto: 4h", 1))
	protect := func(backup string) {
		t.Helper()
		a.backUp(t, backup)
		completed(t, backup)
		known(t, backup)
	}
	here := func() string {
		return kubectl(t, primary, "-n", name, "exec", "deployment/web", "--", "ls", "/data/posts")
	}
	there := func() string { return recoveredPosts(t, name) }
	both := []string{"--yes", "--source-kubeconfig", lab.Kubeconfig(primary)}
	move := func(want string, got func() string, args ...string) {
		t.Helper()
		verb := verbs[len(after)]
		do(t, verb, append([]string{args[0], name, "-o", "json"}, args[1:]...)...)
		require.Equal(t, want, got(), "%s: all data is there", verb)
		runs := kubectl(t, dr, "-n", "velero", "get", "recoveryruns.kubectl-dr.io", "-l", "kubectl-dr.io/plan="+name, "-o", "jsonpath={.items[*].status.phase}")
		after[verb] = a.world(t)
		require.Equal(t, slices.Repeat([]string{"Passed"}, len(after)), strings.Fields(runs), "%s: one run for each verb", verb)
	}

	protect(name + "-1")
	move(here(), here, "drill")

	a.post(t, 1)
	move(here(), there, append([]string{"failover", "--planned"}, both...)...)

	a.post(t, 1)
	diverged := a.posts(t, "")
	a.write(t, dr)
	move(there(), there, append([]string{"reprotect"}, both...)...)
	require.Equal(t, diverged, a.posts(t, ""), "what diverged is kept")

	a.write(t, dr)
	move(there(), here, append([]string{"failback"}, both...)...)

	a.write(t, primary)
	arrived := here()
	protect(name + "-2")
	a.write(t, primary) // is lost
	// Nothing of the source can be reached.
	move(arrived, there, "failover", "--disaster", "--accept-data-loss=2h", "--yes", "--agents="+hassio+"=127.0.0.1:1")
}

// write has the application itself write a post, at a site.
func (a app) write(t *testing.T, site string) {
	t.Helper()
	kubectl(t, site, "-n", a.Name, "exec", "deployment/web", "--", "sh", "-ec",
		`cd /data/posts; dd if=/dev/urandom of=.new bs=1M count=1; mv .new "$(sha256sum .new | cut -d' ' -f1)"; sync`)
}

func undisturbed(t *testing.T, _ string, args ...string) {
	t.Helper()
	require.Zero(t, kubectlDR(t, args...).code)
}

// killer runs commands that it kills at everything they say.
type killer struct {
	points []point
	// again says what the next command did with the step.
	again map[point]string
}

// point is a moment in a run: what was said in which step.
type point struct{ verb, step, said string }

// announced is the step of what is said before the first one.
const announced = "(before the first)"

var (
	begins  = regexp.MustCompile(`(?m)^[a-z ]+ (\S+-\d{8}-\d{6}) (begins|goes on)\b`)
	running = regexp.MustCompile(`^running  (.+)$`)
	ended   = regexp.MustCompile(`^passed   .+ \(\w+\)(: .*)?$`)
	waits   = regexp.MustCompile(`^         (.+)$`)
)

// do runs a command, again and again, until it ends by itself.
func (k *killer) do(t *testing.T, verb string, args ...string) {
	t.Helper()
	plan := args[1]
	for {
		at := point{verb: verb, step: announced}
		next := func(line string) bool {
			switch {
			case begins.MatchString(line):
				at.said = "begins"
			case running.MatchString(line):
				at.step, at.said = running.FindStringSubmatch(line)[1], "running"
			case ended.MatchString(line):
				at.said = "passed"
			case waits.MatchString(line):
				at.said = own.ReplaceAllString(waits.FindStringSubmatch(line)[1], "…")
			default:
				return false
			}
			return !slices.Contains(k.points, at)
		}
		r, killed := killWhen(t, next, args...)
		k.wentOn(r.err)
		if !killed {
			require.Zero(t, r.code, "%s: %s", verb, r.all())
			return
		}
		k.points = append(k.points, at)
		if k.over(t, at, args[0], plan, r.err) {
			k.again[at] = "it was over"
			return
		}
		if at.said != "begins" {
			// The first of each verb waits until the lock of the one that was killed ends.
			kubectl(t, dr, "-n", "velero", "delete", "lease/kubectl-dr-"+plan)
		}
	}
}

// over reports whether the run of a command that was killed has ended. Until then
// status has to say what goes on, and how to go on with it.
func (k *killer) over(t *testing.T, at point, verb, plan, said string) bool {
	t.Helper()
	var status struct {
		Running *struct{ Name string }
		Next    []string
	}
	require.NoError(t, json.Unmarshal([]byte(kubectlDR(t, "status", plan, "-o", "json").out), &status))
	if status.Running == nil {
		return at.step != announced // there was no run yet
	}
	assert.Contains(t, said, " "+status.Running.Name+" ")
	assert.Contains(t, status.Next[0], "kubectl dr "+verb+" "+plan+" --resume")
	return false
}

// wentOn notes what a command did with the steps at which others were killed.
func (k *killer) wentOn(said string) {
	for _, p := range k.points {
		switch {
		case k.again[p] != "":
		case p.step == announced && strings.Contains(said, " begins"):
			k.again[p] = "began"
		case p.step == announced:
			k.again[p] = "went on"
		case strings.Contains(said, "\ndone     "+p.step+" (earlier)\n"):
			k.again[p] = "was recorded"
		case strings.Contains(said, "\nrunning  "+p.step+"\n"):
			k.again[p] = "did it again"
		}
	}
}

func (k *killer) table(ends map[string]string) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "VERB\tSTEP\tKILLED AT\tRUN AGAIN\tEND STATE")
	for _, p := range k.points {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.verb, p.step, p.said, k.again[p], ends[p.verb])
	}
	_ = w.Flush()
	return out.String()
}
