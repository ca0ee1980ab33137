package kubectldr

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

var documentFormats = []string{"html", "markdown", "junit"}

func TestReport_documents(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.do(t, doReprotect, doFailback)
	for _, format := range documentFormats {
		golden(t, "look/report -o "+format, w.do(t, "report -o "+format).out)
	}
}

func TestReport_ofADrillThatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Drills before it, of which one misses an objective and one fails.
	for i, took := range []time.Duration{4 * time.Minute, 5 * time.Minute, 11 * time.Minute, 0, 6 * time.Minute, 0} {
		w.pass(30 * 24 * time.Hour)
		w.addBackup(fmt.Sprintf("wordpress-%d", 3+i), time.Duration(3+i)*time.Minute)
		w.restorePhase = velerov1api.RestorePhaseCompleted
		if took == 0 {
			w.restorePhase = velerov1api.RestorePhasePartiallyFailed
		}
		w.answer = func(rw http.ResponseWriter, _ *http.Request) {
			w.pass(took)
			fmt.Fprint(rw, "<title>Vegard's blog</title>")
		}
		w.run(t.Context(), "drill")
	}
	require.Equal(t, plan.PhaseFailed, w.lastRun(t).Status.Phase)
	for _, format := range documentFormats {
		golden(t, "look/report of a drill that failed, -o "+format, w.do(t, "report -o "+format).out)
	}
}

func TestReport_whatAnApplicationSaysIsText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "<b>|no</b>", http.StatusBadGateway) }
	p := testPlan()
	p.Spec.Probes[0].Timeout.Duration = 100 * time.Millisecond
	w.plan(p)
	require.Equal(t, 2, w.run(t.Context(), "drill", "-f", "-").code)
	junit := w.do(t, "report -o junit").out
	assert.Contains(t, junit, `failures="1"`)
	assert.Contains(t, junit, "<failure message=")
	for _, format := range documentFormats {
		assert.NotContains(t, w.do(t, "report -o "+format).out, "<b>|no")
	}
}

func TestRun_saysWhoExecutedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dieAfter = "restore"
	require.NotZero(t, w.run(t.Context(), strings.Fields(doDisaster)...).code)
	w.revive()
	w.dieAfter = "start web"
	require.NotZero(t, w.run(t.Context(), strings.Fields(doDisaster)...).code)
	w.revive()
	w.user = "frida@example.org"
	w.do(t, doDisaster)
	by := w.lastRun(t).Status.ExecutedBy
	require.Len(t, by, 2, "one who goes on with the own run is there once")
	golden(t, "look/report of a run that another ended", w.do(t, "report").String())
	golden(t, "look/history wide", w.do(t, "history -o wide").String())

	w = newWorld(t)
	w.user = ""
	w.do(t, "drill")
	by = w.lastRun(t).Status.ExecutedBy
	require.Len(t, by, 1)
	assert.Empty(t, by[0].User, "nobody guesses")
	assert.Equal(t, "dev", by[0].Version)
	golden(t, "look/history of an API server that says nobody's name", w.do(t, "history -o wide").String())
	assert.Contains(t, w.do(t, "report").out, "By        somebody whom the API server did not name, kubectl dr dev\n")
	w.user = "frida@example.org"
	w.do(t, "drill cleanup "+w.lastRun(t).Name)
	assert.Contains(t, w.do(t, "report").out, "dev; from 2026-01-02T03:08:38Z frida@example.org, kubectl dr dev\n", "who cleans up writes to the journal too")
}
