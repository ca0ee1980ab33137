package crashtest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// story is what is broken at each of its steps.
type story struct {
	name string
	// fresh stories begin without a replica; others with a backup that both
	// sides have, and what prepare makes of that.
	fresh   bool
	prepare func(t *testing.T, c *chain)
	// run is what goes wrong, and then what comes about all the same.
	run, then func(t *testing.T, c *chain)
}

var stories = []story{
	{
		name: "the first copy", fresh: true,
		run: func(t *testing.T, c *chain) { c.backup(t) },
	},
	{
		name: "an increment",
		run:  func(t *testing.T, c *chain) { c.backup(t) },
	},
	{
		name:    "an increment from a bookmark",
		prepare: func(t *testing.T, c *chain) { c.drop(t) },
		run:     func(t *testing.T, c *chain) { c.backup(t) },
	},
	{
		name: "an interrupted increment goes on",
		prepare: func(t *testing.T, c *chain) {
			c.take(t)
			c.fail(t, fault{Step: streamOf(targetNode), What: process, When: midway, Bytes: int64(c.size)})
		},
		run: func(t *testing.T, c *chain) {
			c.send(t)
			c.expire(t)
		},
	},
	{
		name: "an interrupted increment is of no more use",
		prepare: func(t *testing.T, c *chain) {
			c.take(t)
			c.fail(t, fault{Step: streamOf(targetNode), What: process, When: midway, Bytes: int64(c.size)})
			c.drop(t)
		},
		run: func(t *testing.T, c *chain) { c.backup(t) },
	},
	{
		name: "an increment has arrived and nobody knows",
		prepare: func(t *testing.T, c *chain) {
			c.take(t)
			c.fail(t, fault{Step: streamOf(targetNode), What: both, When: after})
		},
		run: func(t *testing.T, c *chain) {
			c.send(t)
			c.expire(t)
		},
	},
	{
		name: "a backup that fails is given up",
		run: func(t *testing.T, c *chain) {
			before := c.newest
			c.giveUp = true
			c.take(t)
			if c.newest != before {
				c.send(t)
			}
			c.giveUp = false
		},
		then: func(t *testing.T, c *chain) { c.backup(t) },
	},
	{
		name: "volumes of a copy",
		run: func(t *testing.T, c *chain) {
			c.volume(t, agent.ModeClone)
			c.volume(t, agent.ModeCopy)
		},
	},
}

// streamOf is whatever a node sends or receives when it replicates.
func streamOf(node string) step { return step{Phase: phaseReplicate, Node: node, Command: anyStream} }

// fail has the newest snapshot replicated with a fault, and leaves it at that.
func (c *chain) fail(t *testing.T, f fault) {
	t.Helper()
	c.fault = &f
	c.phase(t, phaseReplicate)
	c.fault = nil
	var id string
	c.do(t, c.source, phaseReplicate, func(ctx context.Context, a *agent.Client) error {
		tr, err := a.Replicate(ctx, c.request())
		id = tr.GetId()
		return err
	})
	ended := func() bool {
		hit, deaths := c.wasHit()
		if !hit || f.What == both {
			return deaths == 2
		}
		tr, err := c.source.client.GetTransfer(t.Context(), &agentpb.GetTransferRequest{Id: id})
		return err == nil && tr.GetState() == agentpb.Transfer_FAILED
	}
	require.Eventually(t, ended, c.patience, c.pause)
	if f.What != both {
		// A failure is reported once.
		tr, err := c.source.client.Replicate(t.Context(), c.request())
		require.NoError(t, err)
		require.Equal(t, agentpb.Transfer_FAILED, tr.GetState())
	}
}

// drop has the newest snapshot destroyed at the source, but not on the target.
func (c *chain) drop(t *testing.T) {
	t.Helper()
	c.phase(t, phaseExpire)
	c.mu.Lock()
	delete(c.kept, c.newest.GetGuid())
	c.dropped = append(c.dropped, c.newest)
	c.mu.Unlock()
	c.destroy(t, c.source, c.dataset, c.newest)
}

// volume makes a volume of the newest copy, and destroys it.
func (c *chain) volume(t *testing.T, mode string) {
	t.Helper()
	parent := c.target.root + "/volumes-" + c.name
	dataset := parent + "/" + mode
	c.phase(t, mode)
	c.do(t, c.target, mode, func(ctx context.Context, a *agent.Client) error {
		_, err := a.CreateVolume(ctx, &agentpb.CreateVolumeRequest{
			Snapshot: c.replica + "@" + c.newest.GetName(), Guid: c.newest.GetGuid(), Dataset: dataset, Mode: mode,
			Native: map[string]string{"mountpoint": "/tmp/crashtest-" + c.name},
		})
		return err
	})
	require.NoError(t, c.target.zfs.Mount(t.Context(), dataset))
	for name, want := range c.holding[c.newest.GetGuid()] {
		assert.True(t, bytes.Equal(want, c.target.readFile(t, dataset, name)), "%s in %s differs", name, dataset)
	}
	c.phase(t, "destroy a "+mode)
	for _, name := range []string{dataset, parent} {
		c.do(t, c.target, "destroy", func(ctx context.Context, a *agent.Client) error {
			_, err := a.DestroyVolume(ctx, &agentpb.DestroyVolumeRequest{Dataset: name})
			return err
		})
	}
}

// begin returns a volume as the story finds it.
func (s story) begin(t *testing.T, w *world) *chain {
	t.Helper()
	c := newChain(t, w)
	if !s.fresh {
		c.backup(t)
		c.requireClean(t)
	}
	return c
}

// play runs a story, with a fault or without, and returns the steps it took. It
// leaves the volume as a story finds it; with further, after one more backup it
// looks for anything that was left behind.
func (s story) play(t *testing.T, c *chain, f *fault, further bool) []took {
	t.Helper()
	if s.prepare != nil {
		s.prepare(t, c)
	}
	require.NoError(t, c.restart())
	c.fault = f
	s.run(t, c)
	c.fault = nil
	trace := c.steps()
	if f != nil {
		hit, _ := c.wasHit()
		c.missed = !hit && f.byChance()
		assert.True(t, hit || c.missed, "the story did not come to %s", f.Step)
	}
	if s.then != nil {
		s.then(t, c)
	}
	require.NoError(t, c.damage(t.Context(), true))
	if further {
		c.backup(t)
		c.requireClean(t)
	}
	require.NoError(t, c.restart())
	return trace
}

// faults returns what can go wrong at a step. What changes nothing can only fail:
// an agent that dies there leaves what it left at the step before. And of what
// one agent is at alone, the other knows nothing.
func faults(s took) []fault {
	var fs []fault
	for _, what := range []string{process, agents, both, link} {
		for _, when := range []string{before, after, midway} {
			switch {
			case s.Step.reads() && (what != process || when == after),
				s.Step.Phase != phaseReplicate && (what == both || what == link),
				when == midway && !s.Step.streams():
				continue
			}
			fs = append(fs, fault{Step: s.Step, What: what, When: when, Bytes: s.Bytes / 2})
		}
	}
	return fs
}

// spread returns n of all faults, from one end to the other.
func spread(all []fault, n int) []fault {
	var some []fault
	for i := range min(n, len(all)) {
		some = append(some, all[i*len(all)/min(n, len(all))])
	}
	return some
}

// table is what came of each fault.
type table struct {
	steps  []step
	result map[step]map[string]string
}

func (tb *table) set(f fault, result string) { tb.result[f.Step][f.String()] = result }

func (tb *table) String() string {
	columns := []string{}
	for _, row := range tb.result {
		columns = slices.AppendSeq(columns, maps.Keys(row))
	}
	slices.Sort(columns)
	columns = slices.Compact(columns)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t")+"\tstep")
	for _, s := range tb.steps {
		if len(tb.result[s]) == 0 {
			continue
		}
		for _, col := range columns {
			fmt.Fprint(w, tb.result[s][col]+"\t")
		}
		fmt.Fprintln(w, s)
	}
	_ = w.Flush()
	return b.String()
}

// most is how many faults of a story have to do.
var most = flag.Int("faults", 8, "break each story in so many ways, spread over all its steps; 0 for every step in every way")

// TestMatrix breaks the steps of every story, and prints what came of it.
func TestMatrix(t *testing.T) {
	at := newPlace(t)
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			at.parallel(t)
			w := at.world(t)
			c := s.begin(t, w)
			tb := &table{result: map[step]map[string]string{}}
			var all []fault
			for _, taken := range s.play(t, c, nil, *most == 0) {
				if tb.result[taken.Step] == nil {
					tb.steps = append(tb.steps, taken.Step)
					tb.result[taken.Step] = map[string]string{}
					all = append(all, at.faults(taken)...)
				}
			}
			if *most > 0 {
				all = spread(all, *most)
			}
			for i, f := range all {
				passed := t.Run(f.Step.String()+"/"+f.String(), func(t *testing.T) {
					tb.set(f, "FAILED")
					if s.fresh {
						c = s.begin(t, w)
					}
					// The backup after a fault is also the further one of the fault before.
					s.play(t, c, &f, *most == 0 || i == len(all)-1)
					result := "ok"
					if c.missed {
						result = "-"
					}
					tb.set(f, result)
				})
				if !passed {
					tb.set(f, "FAILED")
					w = at.world(t)
					c = s.begin(t, w)
				}
			}
			t.Logf("%s: %d faults\n%s", s.name, len(all), tb)
		})
	}
}
