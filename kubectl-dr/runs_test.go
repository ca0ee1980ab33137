package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// keepsReports gives the agents of hosts the archive "offsite", and the verb report
// unless they have others.
func (w *world) keepsReports(t *testing.T, hosts []*host, verbs ...agent.Verb) (dir string) {
	t.Helper()
	dir = t.TempDir()
	offsite, err := archive.ParseConfig(fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %q}}", dir))
	require.NoError(t, err)
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	if len(verbs) == 0 {
		verbs = []agent.Verb{agent.Report}
	}
	for _, h := range hosts {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := &agent.Server{
			Node: h.node, Bundle: bundleOf(t, ca.Node, h.node), ZFS: &zfs.Client{Runner: zfstest.NewPool("backup")}, Log: slog.New(slog.DiscardHandler),
			Policy:   agent.Policy{Identities: []agent.Grant{{Name: "velero", Verbs: verbs, Prefixes: []string{"*"}}}},
			Archives: map[string]*archive.Config{"offsite": offsite},
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		t.Cleanup(func() {
			server.Stop(context.WithoutCancel(t.Context()))
			require.NoError(t, <-served)
		})
		c, err := agent.Dial(h.node, l.Addr().String(), bundleOf(t, ca.Client, "velero"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		h.reports = c
	}
	return dir
}

// rebuilt makes the recovery cluster one that knows of no run.
func (w *world) rebuilt(t *testing.T) {
	t.Helper()
	require.NoError(t, w.recovery.Client.DeleteAllOf(t.Context(), &plan.RecoveryRun{}, client.InNamespace(veleroNS)))
}

// keptIn lists the files of reports in an archive.
func keptIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "reports/*/*/*.json"))
	require.NoError(t, err)
	return files
}

func TestReports_outliveTheCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := w.keepsReports(t, []*host{w.host})
	drill := w.do(t, "drill")
	assert.Contains(t, drill.err, "the report is kept in archive offsite of remote\n")
	w.do(t, doDisaster)
	there := map[string]string{}
	commands := []string{"history -o wide", "report", "report " + w.lastRun(t).Name + " -o junit", "report -o html"}
	for _, c := range commands {
		there[c] = w.do(t, c).out
	}
	require.Len(t, keptIn(t, dir), 2)
	w.rebuilt(t)
	for _, c := range commands {
		assert.Equal(t, there[c], w.do(t, c+" --archived").out, c)
	}
	golden(t, "look/history from archives", w.do(t, "history wordpress --archived").String())
	golden(t, "look/history from archives of another plan", w.do(t, "history other --archived").String())
	golden(t, "look/report of a run that no archive has", w.run(t.Context(), "report", "nope", "--archived").String())
	golden(t, "look/report of a run that the cluster has lost", w.run(t.Context(), "report", "wordpress-drill-20260102-030505").String())

	// The agents are all there is.
	recovery := w.recovery
	w.recovery = nil
	got := w.do(t, "history --archived --agents=remote=127.0.0.1:31002 --agent-credentials=kubectl-dr.pem")
	assert.Equal(t, 2, strings.Count(got.out, "Passed"), got)
	w.recovery = recovery
}

func TestReports_withoutAnArchiveNobodyIsToldOfOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	assert.NotContains(t, w.do(t, "drill").err, "archive")
	w.host.old = true
	assert.NotContains(t, w.do(t, "drill").err, "archive", "nor by an agent of an earlier version")
	w.host.old = false
	golden(t, "look/history from archives that are not there", w.run(t.Context(), "history", "--archived").String())
}

// TestReports_ofWhatBecomesOfARun: none is replaced, and the newest counts.
func TestReports_ofWhatBecomesOfARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := w.keepsReports(t, []*host{w.host, w.old})
	w.do(t, "drill --keep")
	w.do(t, "drill cleanup "+w.lastRun(t).Name)
	require.Len(t, keptIn(t, dir), 2)
	w.rebuilt(t)
	assert.Contains(t, w.do(t, "report --archived -o markdown").out, "| clean up | Passed |")

	w.neverReady = true
	p := testPlan()
	p.Spec.Start[0].Timeout.Duration = time.Millisecond
	w.plan(p)
	failed := w.run(t.Context(), "drill", "-f", "-")
	require.Equal(t, exitUnhealthy, failed.code)
	assert.Contains(t, w.do(t, "report --archived -o markdown").out, "Failed", "also of one that failed")
	require.NotZero(t, w.run(t.Context(), append(strings.Fields(doDisaster), "-f", "-")...).code)
	assert.Contains(t, w.do(t, "history --archived").out, "Running", "and of one that stopped")
	w.neverReady = false
	w.do(t, "failover wordpress --abandon")
	assert.Contains(t, w.do(t, "history --archived").out, "Aborted")
	assert.Len(t, keptIn(t, dir), 5)
}

// TestReports_atBothSites: the agents of the source keep reports too, while they are
// there and count for something.
func TestReports_atBothSites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.old.absent = false
	w.keepsReports(t, []*host{w.host, w.old})
	assert.Contains(t, w.do(t, "drill").err, "the report is kept in archive offsite of hassio, offsite of remote\n")
	w.old.down = true
	drill := w.do(t, "drill").err
	assert.Contains(t, drill, "the report is kept in archive offsite of remote\n")
	assert.NotContains(t, drill, "warning")
	history := w.do(t, "history --archived")
	assert.Equal(t, 2, strings.Count(history.out, "Passed"))
	assert.Contains(t, history.err, "warning: reports may be missing: agent on node hassio at 127.0.0.1:31002: agent is unreachable\n")
	w.old.down = false
	assert.Contains(t, w.do(t, doDisaster).err, "the report is kept in archive offsite of remote\n", "a disaster asks nothing of the source")
}

// TestReports_neverFailARun: what can't be kept is warned of.
func TestReports_neverFailARun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, warning string
		prepare       func(t *testing.T, w *world)
	}{
		{"the verb is missing", `identity "velero" has not the verb "report" on plan "wordpress"`, func(t *testing.T, w *world) {
			w.keepsReports(t, []*host{w.host}, agent.Read)
		}},
		{"the archive is away", "archive is unavailable: offsite", func(t *testing.T, w *world) {
			require.NoError(t, os.Remove(w.keepsReports(t, []*host{w.host})))
		}},
		{"the agents do not have the archive that the location names", "no such archive", func(_ *testing.T, w *world) {
			w.archive = "offsite"
		}},
	}
	for _, tt := range tests {
		w := newWorld(t)
		tt.prepare(t, w)
		got := w.do(t, "drill")
		assert.Contains(t, got.err, "warning: an archive does not keep the report of run wordpress-drill-", tt.name)
		assert.Contains(t, got.err, tt.warning, tt.name)
		assert.Contains(t, got.out, "Passed", tt.name)
	}
}

func TestReports_thatAreDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := w.keepsReports(t, []*host{w.host})
	w.do(t, "drill --keep", "drill cleanup "+"--expired")
	w.do(t, "drill cleanup "+w.lastRun(t).Name)
	files := keptIn(t, dir)
	require.Len(t, files, 2)
	require.NoError(t, os.WriteFile(files[1], []byte("{}"), 0o600))
	got := w.do(t, "report --archived -o markdown")
	assert.Contains(t, got.err, "warning: not all of run wordpress/wordpress-drill-20260102-030505 can be read: as it was at 2026-01-02T03:")
	assert.Contains(t, got.err, "damaged: its SHA-256 is not")
	assert.Contains(t, got.out, "| clean up | Skipped |", "what it was before can be read")
}

func TestCheck_whereReportsAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	assert.Contains(t, w.run(t.Context(), "check", "--offline").out, "kept: in this cluster alone: no agent here has an archive")
	w.keepsReports(t, []*host{w.host})
	w.do(t, "drill")
	assert.Contains(t, w.run(t.Context(), "check", "--offline").out, "kept: in this cluster, and 1 run in archive offsite of remote")
	w.keepsReports(t, []*host{w.host}, agent.Read)
	got := w.run(t.Context(), "check", "--offline").out
	assert.Contains(t, got, `it is not known whether archives keep them: node remote: not allowed: identity "velero" has not the verb "report" on plan "wordpress"`)
	assert.Contains(t, got, `{name: velero, verbs: [report], prefixes: ["*"]}`)
}

// TestCopies_atTheOtherSite: the source has the runs that it took part in, and takes
// none of them for its own.
func TestCopies_atTheOtherSite(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.do(t, doReprotect, doFailback)
	own, err := run.Runs(t.Context(), w.recovery.Client, veleroNS, "")
	require.NoError(t, err)
	require.Len(t, own, 3)
	copies, err := run.WithCopies(t.Context(), w.source.Client, veleroNS, "wordpress")
	require.NoError(t, err)
	require.Len(t, copies, 3)
	for i, c := range copies {
		assert.Equal(t, "true", c.Labels[zfssnap.LabelCopy])
		assert.Equal(t, own[i].Spec, c.Spec)
		assert.Equal(t, own[i].Status, c.Status)
	}
	none, err := run.Runs(t.Context(), w.source.Client, veleroNS, "")
	require.NoError(t, err)
	assert.Empty(t, none, "nothing there goes on with one, or reckons with its epoch")
	assert.Equal(t, w.do(t, "history -o wide").out, w.do(t, "history -o wide --context=primary").out)
	assert.Equal(t, w.do(t, "report -o html").out, w.do(t, "report -o html --context=primary").out)
}

// TestCopies_whenTheCommandDiesAtItsEnd: nobody goes on with a run that is over, so what
// is to be kept has been by then.
func TestCopies_whenTheCommandDiesAtItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dieAtEnd = true
	w.run(t.Context(), strings.Fields(doPlanned)...)
	require.True(t, w.dead)
	w.revive()
	own := w.lastRun(t)
	require.Equal(t, plan.PhasePassed, own.Status.Phase)
	copied := &plan.RecoveryRun{}
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKeyFromObject(&own), copied))
	assert.Equal(t, own.Status, copied.Status)
}

func TestCopies_neverFailARun(t *testing.T) {
	t.Parallel()
	for fault, said := range map[error]string{
		cluster.ErrNoDefinitions:   "         no copy of the report is at the other site: the custom resource definitions of kubectl dr are missing there\n",
		errors.New("no such host"): "warning: no copy of run wordpress-failover-20260102-030505 is at the other site: no such host\n",
	} {
		w := newWorld(t)
		w.before = func(what string) error {
			if what == "primary create recoveryrun" {
				return fault
			}
			return nil
		}
		assert.Contains(t, w.do(t, doPlanned).err, said)
	}

	w := newWorld(t)
	w.pass(time.Minute)
	theirs := &plan.RecoveryRun{}
	theirs.Namespace, theirs.Name = veleroNS, "wordpress-failover-20260102-030605"
	require.NoError(t, w.source.Client.Create(t.Context(), theirs))
	got := w.do(t, doPlanned)
	require.Equal(t, theirs.Name, w.lastRun(t).Name)
	assert.Contains(t, got.err, "is not a copy\n")
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs))
	assert.Empty(t, theirs.Status.Phase, "it is as it was")
}
