package kubectldr

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

// withHooks has the plan ask in failovers after its first wave, and run a command
// before the second.
func (w *world) withHooks(t *testing.T) {
	t.Helper()
	w.change(t, func(p *plan.RecoveryPlan) {
		p.Spec.Start[0].After = []plan.Hook{{
			Probe: plan.Probe{Name: "router"}, Prompt: "Have the VPN lead to the recovery site.", In: []plan.HookCommand{"failover"},
		}}
		p.Spec.Start[1].Before = []plan.Hook{{Probe: plan.Probe{Name: "sessions", Exec: &plan.ExecProbe{
			Workload: "deployment/wordpress-db", Command: []string{"mariadb", "-e", "TRUNCATE sessions"},
		}}}}
	})
}

func TestHooks(t *testing.T) {
	t.Parallel()
	disaster := []string{"failover", "wordpress", "--disaster", "--accept-data-loss=15m"}
	steps := func(w *world) map[string]plan.Phase {
		phases := map[string]plan.Phase{}
		for _, s := range w.lastRun(t).Status.Steps {
			phases[s.Name] = s.Phase
		}
		return phases
	}

	t.Run("a drill has those that are not of failovers alone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.withHooks(t)
		golden(t, "act/plan show, hooks", w.run(t.Context(), "plan", "show", "wordpress").String())
		got := w.run(t.Context(), "drill", "wordpress")
		require.Zero(t, got.code, got)
		assert.Contains(t, got.err, "running  hook sessions\npassed   hook sessions (")
		assert.NotContains(t, steps(w), "hook router")
	})
	t.Run("somebody answers yes", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.withHooks(t)
		w.tty, w.stdin = true, "wordpress\nyes\n"
		golden(t, "act/failover --disaster, hooks", w.run(t.Context(), disaster...).String())
	})
	t.Run("somebody does not", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.withHooks(t)
		w.tty, w.stdin = true, "wordpress\nno\n"
		got := w.run(t.Context(), disaster...)
		assert.Equal(t, 1, got.code)
		assert.Contains(t, got.err, `hook router: it was answered with "no"`)
		assert.Contains(t, got.err, "run the same command again to go on from there")
		assert.Equal(t, plan.PhaseFailed, steps(w)["hook router"])
		assert.Equal(t, plan.PhasePending, steps(w)["hook sessions"])
	})
	t.Run("nobody is there, and answers later", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.withHooks(t)
		got := w.run(t.Context(), append(disaster, "--yes")...)
		assert.Equal(t, 1, got.code)
		assert.Contains(t, got.err, "Have the VPN lead to the recovery site.")
		assert.Contains(t, got.err, `answer with --answer="router"`)
		got = w.run(t.Context(), append(disaster, "--resume", "--yes", "--answer=router")...)
		require.Zero(t, got.code, got)
		assert.Contains(t, got.err, "done     start database (earlier)", "what was done is not done again")
		assert.Contains(t, got.err, "passed   hook router (0s): answered yes")
	})
}
