package crashtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agenttest"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const (
	sourceNode = "hassio"
	targetNode = "remote"
)

// Phases of a backup's life.
const (
	phaseSnapshot  = "snapshot"
	phaseReplicate = "replicate"
	phaseExpire    = "expire"
)

var (
	backupHold      = names.HoldTag("backup")
	replicationHold = names.HoldTag("replication")
	replicaHold     = names.HoldTag("replica")
)

// side is one node as the test sees it: through its agent, and past it.
type side struct {
	node   string
	root   string // below which the test makes datasets
	zfs    *zfs.Client
	host   host
	client *agent.Client
	bundle *agent.Bundle // of who calls agents

	write func(t *testing.T, dataset, name string, data []byte)
	// read returns what is in a snapshot, nil where that takes a clone and none
	// may be made.
	read func(ctx context.Context, snapshot string, clone bool) (map[string][]byte, error)
	// readFile returns a file of a mounted dataset.
	readFile func(t *testing.T, dataset, name string) []byte
}

// redial connects to the agent anew.
func (s *side) redial(t *testing.T) {
	if s.client != nil {
		_ = s.client.Close()
	}
	c, err := agent.Dial(s.node, s.host.address(), s.bundle)
	require.NoError(t, err)
	s.client = c
}

// world is two nodes with agents, and a link between them.
type world struct {
	source, target *side
	link           *agenttest.Link
	patience       time.Duration // for what must come about
	pause          time.Duration // between two looks at it
	size           int           // of a file

	mu       sync.Mutex
	trace    []took
	hit      bool
	deaths   int     // of agents that others have taken the place of
	problems []error // seen at the moment of the fault
	check    func() error
	onStrike func() // does what weather does, nil for nothing
}

func (w *world) done(s took) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, s)
}

// struck implements watcher: it looks at both sides at the moment of a fault.
func (w *world) struck(f fault) {
	w.mu.Lock()
	check, onStrike := w.check, w.onStrike
	w.hit = true
	w.mu.Unlock()
	if f.What == pool {
		onStrike()
		return
	}
	if f.What == both && f.Step.Node == sourceNode {
		w.target.host.kill()
	} else if f.What == both {
		w.source.host.kill()
	}
	if check == nil || f.When == anytime {
		return
	}
	if err := check(); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.problems = append(w.problems, fmt.Errorf("at the fault: %w", err))
	}
}

func (w *world) cutLink() { w.link.Cut() }

func (w *world) revived() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaths++
}

// restart forgets what happened so far, and returns what was wrong in it.
func (w *world) restart() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := errors.Join(w.problems...)
	w.trace, w.hit, w.deaths, w.problems = nil, false, 0, nil
	return err
}

func (w *world) steps() []took {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trace
}

// wasHit returns whether the fault came to be, and how many agents died of it.
func (w *world) wasHit() (hit bool, deaths int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hit, w.deaths
}

// chain is a volume, its replica, and the backups of it so far.
type chain struct {
	*world
	name    string
	dataset string
	replica string
	fault   *fault
	missed  bool                         // the fault did not come to be
	giveUp  bool                         // nothing that fails is repeated
	n       int                          // number of the newest backup
	newest  *agentpb.Version             // its snapshot
	files   map[string][]byte            // in the volume now
	kept    map[uint64]*agentpb.Version  // snapshots of backups that have not expired
	dropped []*agentpb.Version           // snapshots that are gone at the source
	unknown []string                     // names of snapshots that nobody was told of
	arrived map[uint64]bool              // the target is said to have them
	holding map[uint64]map[string][]byte // what is in a snapshot
	foreign map[string]uint64            // what is not ours, on either side, and its guid
}

// newChain makes a volume with a neighbourhood of things that are not ours.
func newChain(t *testing.T, w *world) *chain {
	t.Helper()
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	name := "c" + hex.EncodeToString(id)
	c := &chain{
		world: w, name: name, dataset: w.source.root + "/" + name, replica: w.target.root + "/replica/" + name + "/k3s/vol",
		files: map[string][]byte{}, kept: map[uint64]*agentpb.Version{}, arrived: map[uint64]bool{}, holding: map[uint64]map[string][]byte{},
	}
	ctx := t.Context()
	require.NoError(t, w.source.zfs.Create(ctx, c.dataset, zfs.CreateOptions{}))
	theirs := w.target.root + "/theirs-" + name
	require.NoError(t, w.target.zfs.Create(ctx, theirs, zfs.CreateOptions{}))
	snapshot, clone := c.dataset+"@foreign", w.source.root+"/clone-"+name
	require.NoError(t, w.source.zfs.Snapshot(ctx, []string{snapshot}, nil))
	require.NoError(t, w.source.zfs.Hold(ctx, "theirs", snapshot))
	require.NoError(t, w.source.zfs.Bookmark(ctx, snapshot, c.dataset+"#foreign"))
	require.NoError(t, w.source.zfs.Clone(ctx, snapshot, clone, nil))
	require.NoError(t, w.target.zfs.Snapshot(ctx, []string{theirs + "@foreign"}, nil))
	var err error
	c.foreign, err = c.others(ctx)
	require.NoError(t, err)
	require.Len(t, c.foreign, 5)
	w.check = func() error { return c.damage(context.WithoutCancel(ctx), false) }
	return c
}

// others returns what there is on both sides that is not ours, with its guid.
func (c *chain) others(ctx context.Context) (map[string]uint64, error) {
	found := map[string]uint64{}
	for s, datasets := range map[*side][]string{
		c.source: {c.dataset, c.source.root + "/clone-" + c.name},
		c.target: {c.target.root + "/theirs-" + c.name},
	} {
		for _, dataset := range datasets {
			ds, err := s.zfs.Dataset(ctx, dataset)
			if err != nil {
				return nil, err
			}
			vs, err := s.zfs.Versions(ctx, dataset)
			if err != nil {
				return nil, err
			}
			if dataset != c.dataset {
				found[dataset] = ds.GUID
			}
			for _, v := range vs {
				if v.Name == "foreign" {
					found[v.FullName()] = v.GUID
				}
			}
		}
	}
	return found, nil
}

// phase tells both agents what comes next, and the one concerned of the fault.
func (c *chain) phase(t *testing.T, name string) {
	t.Helper()
	pairs := []string{
		c.dataset, "SRC", c.replica, "DST", zfs.Parent(c.replica), "PARENT", c.target.root, "TARGET", c.source.root, "SOURCE", c.name, "NAME",
		snapshotName(c.n), "new", snapshotName(c.n - 1), "old", snapshotName(c.n - 2), "older", backupName(c.n), "new",
	}
	for _, s := range []*side{c.source, c.target} {
		o := order{Node: s.node, Phase: name, Names: pairs}
		if c.fault != nil && c.fault.Step.Phase == name && c.fault.Step.Node == s.node {
			o.Fault = c.fault
		}
		s.host.begin(t, o)
	}
}

func backupName(n int) string { return fmt.Sprintf("backup-%03d", n) }

func snapshotName(n int) string { return "dr-" + backupName(n) }

// do repeats a call until it succeeds, as Velero and the plugin do, and reports
// whether it did. An agent that is away or busy is waited for; of other failures
// there may be one, the fault's.
func (c *chain) do(t *testing.T, s *side, what string, call func(ctx context.Context, a *agent.Client) error) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.patience)
	defer cancel()
	tick := time.NewTicker(c.pause)
	defer tick.Stop()
	failures := 0
	for {
		err := call(ctx, s.client)
		switch {
		case err == nil:
			return true
		case errors.Is(err, errRunning):
		case errors.Is(err, agent.ErrUnreachable):
			s.redial(t)
		case !errors.Is(err, agent.ErrBusy):
			failures++
			require.LessOrEqual(t, failures, 1, "%s: it failed for more than the fault: %v", what, err)
			t.Logf("%s: %v", what, err)
		}
		if c.giveUp && !errors.Is(err, errRunning) {
			return false
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.NoError(t, err, "%s: it did not come about within %s", what, c.patience)
		}
	}
}

var errRunning = errors.New("the transfer runs")

// write changes the volume.
func (c *chain) write(t *testing.T) {
	t.Helper()
	files := maps.Clone(c.files)
	for _, name := range []string{"data", fmt.Sprint("data-", c.n%3)} {
		files[name] = make([]byte, c.size)
		_, _ = rand.Read(files[name])
		c.source.write(t, c.dataset, name, files[name])
	}
	c.files = files
}

// take begins a backup with its snapshot.
func (c *chain) take(t *testing.T) {
	t.Helper()
	c.n++
	c.write(t)
	c.phase(t, phaseSnapshot)
	var v *agentpb.Version
	if !c.do(t, c.source, "snapshot", func(ctx context.Context, a *agent.Client) error {
		resp, err := a.CreateSnapshots(ctx, &agentpb.CreateSnapshotsRequest{
			Datasets: []string{c.dataset}, Name: snapshotName(c.n), Hold: backupHold,
			Properties: map[string]string{names.PropBackup: backupName(c.n)},
		})
		if err == nil {
			v = resp.GetSnapshots()[0]
		}
		return err
	}) {
		c.unknown = append(c.unknown, snapshotName(c.n))
		return
	}
	c.untilHeld(t, v)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest, c.kept[v.GetGuid()], c.holding[v.GetGuid()] = v, v, c.files
}

// untilHeld waits for a hold that is placed after the answer, whatever happens to
// the agent meanwhile. The hold is there before its command has ended, and with
// that a fault may still be to come.
func (c *chain) untilHeld(t *testing.T, v *agentpb.Version) {
	t.Helper()
	due := c.fault != nil && c.fault.Step.Phase == phaseSnapshot && !c.fault.byChance()
	require.Eventually(t, func() bool {
		hs, err := c.source.zfs.Holds(t.Context(), v.GetDataset()+"@"+v.GetName())
		hit, _ := c.wasHit()
		return err == nil && (hit || !due) && slices.ContainsFunc(hs, func(h zfs.Hold) bool { return h.Tag == backupHold })
	}, c.patience, c.pause, "%s is not held, or not broken", v.GetName())
}

func (c *chain) request() *agentpb.ReplicateRequest {
	return &agentpb.ReplicateRequest{
		Dataset: c.dataset, Snapshot: c.newest.GetName(), Guid: c.newest.GetGuid(),
		TargetNode: targetNode, TargetAddress: c.link.Addr(), TargetDataset: c.replica,
	}
}

// send has the newest snapshot brought to the target.
func (c *chain) send(t *testing.T) {
	t.Helper()
	c.phase(t, phaseReplicate)
	if c.do(t, c.source, "replicate", func(ctx context.Context, a *agent.Client) error {
		tr, err := a.Replicate(ctx, c.request())
		switch {
		case err != nil:
			return err
		case tr.GetState() == agentpb.Transfer_RUNNING:
			return errRunning
		}
		return agent.TransferError(tr)
	}) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.arrived[c.newest.GetGuid()] = true
	}
}

// expire has the snapshots of all backups but the newest destroyed, at the
// source and then on the target.
func (c *chain) expire(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	ended := c.dropped
	for guid, v := range c.kept {
		if v != c.newest {
			ended = append(ended, v)
			delete(c.kept, guid)
		}
	}
	for _, v := range ended {
		delete(c.arrived, v.GetGuid())
	}
	for _, name := range c.unknown {
		ended = append(ended, &agentpb.Version{Name: name})
	}
	c.dropped, c.unknown = nil, nil
	c.mu.Unlock()
	slices.SortFunc(ended, func(a, b *agentpb.Version) int { return strings.Compare(a.GetName(), b.GetName()) })
	c.phase(t, phaseExpire)
	for _, v := range ended {
		c.destroy(t, c.source, c.dataset, v)
		c.destroy(t, c.target, c.replica, v)
	}
}

func (c *chain) destroy(t *testing.T, s *side, dataset string, v *agentpb.Version) {
	t.Helper()
	c.do(t, s, "expire", func(ctx context.Context, a *agent.Client) error {
		_, err := a.DestroySnapshot(ctx, &agentpb.DestroySnapshotRequest{Dataset: dataset, Name: v.GetName(), Guid: v.GetGuid()})
		return err
	})
}

// backup is the life of one backup: it is taken, sent, and ends the one before.
func (c *chain) backup(t *testing.T) {
	t.Helper()
	c.take(t)
	c.send(t)
	c.expire(t)
}

// damage says what is wrong with the two sides. It holds at every instant: what
// was taken is there, what is not ours is untouched, what the target has is what
// the source had, and the next increment has a base. With look it may make
// clones to see what is in snapshots.
func (c *chain) damage(ctx context.Context, look bool) error {
	c.mu.Lock()
	kept, arrived, holding := maps.Clone(c.kept), maps.Clone(c.arrived), maps.Clone(c.holding)
	c.mu.Unlock()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	others, err := c.others(ctx)
	if err != nil {
		return err
	}
	if !maps.Equal(c.foreign, others) {
		wrong("what is not ours is %v, and was %v", others, c.foreign)
	}
	source, err := c.source.zfs.Versions(ctx, c.dataset)
	if err != nil {
		return err
	}
	bases := map[uint64]bool{}
	for _, v := range source {
		bases[v.GUID] = true
		if _, ok := kept[v.GUID]; ok && !v.Bookmark {
			if v.UserRefs == 0 {
				wrong("%s is not held", v.FullName())
			}
			delete(kept, v.GUID)
		}
	}
	for _, v := range kept {
		wrong("%s@%s is gone", v.GetDataset(), v.GetName())
	}

	ds, err := c.target.zfs.Dataset(ctx, c.replica)
	if errors.Is(err, zfs.ErrNotFound) && len(arrived) == 0 {
		return errors.Join(errs...)
	}
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	target, err := c.target.zfs.Versions(ctx, c.replica)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if len(target) > 0 && (!ds.ReadOnly || ds.Mounted) {
		wrong("%s has readonly=%t, mounted=%t", c.replica, ds.ReadOnly, ds.Mounted)
	}
	for i, v := range target {
		delete(arrived, v.GUID)
		if i == len(target)-1 && !bases[v.GUID] {
			wrong("the source can continue nothing from %s", v.FullName())
		}
		got, err := c.target.read(ctx, v.FullName(), look && i == len(target)-1)
		if err != nil {
			wrong("%w", err)
		}
		if got != nil && !maps.EqualFunc(got, holding[v.GUID], bytes.Equal) {
			wrong("%s has not what its source had", v.FullName())
		}
	}
	for guid := range arrived {
		wrong("the target has no snapshot with guid %d, which had arrived", guid)
	}
	return errors.Join(errs...)
}

// requireClean checks that there is what the newest backup needs, and no more.
func (c *chain) requireClean(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	at := "@" + c.newest.GetName()
	assert.ElementsMatch(t, []string{"@foreign", "#foreign", at, fmt.Sprintf("#cursor %d", c.newest.GetGuid())}, versions(t, c.source, c.dataset))
	assert.Equal(t, []string{at}, versions(t, c.target, c.replica))
	assert.ElementsMatch(t, []string{"@foreign theirs", at + " " + backupHold, at + " " + replicationHold}, holds(t, c.source, c.dataset))
	assert.Equal(t, []string{at + " " + replicaHold}, holds(t, c.target, c.replica))
	ds, err := c.target.zfs.Dataset(ctx, c.replica)
	require.NoError(t, err)
	assert.Empty(t, ds.ReceiveResumeToken)
	props, err := c.target.zfs.UserProperties(ctx, c.replica+at, zfs.SourceLocal)
	require.NoError(t, err)
	assert.Subset(t, props, map[string]string{
		names.PropManaged: "true", names.PropSource: sourceNode + ":" + c.dataset, names.PropBackup: backupName(c.n),
	})
	for s, want := range map[*side][]string{
		c.source: {c.dataset, c.source.root + "/clone-" + c.name},
		c.target: {c.replica, zfs.Parent(c.replica), zfs.Parent(zfs.Parent(c.replica)), c.target.root + "/theirs-" + c.name},
	} {
		all, err := s.zfs.Datasets(ctx, s.root, true)
		require.NoError(t, err)
		var found []string
		for _, d := range all {
			if strings.Contains(d.Name, c.name) {
				found = append(found, d.Name)
			}
		}
		assert.ElementsMatch(t, want, found)
	}
}

// versions lists snapshots and bookmarks of a dataset, a cursor by its guid.
func versions(t *testing.T, s *side, dataset string) []string {
	t.Helper()
	vs, err := s.zfs.Versions(t.Context(), dataset)
	require.NoError(t, err)
	var found []string
	for _, v := range vs {
		name := strings.TrimPrefix(v.FullName(), dataset)
		if v.Bookmark && strings.HasPrefix(v.Name, replicate.CursorPrefix) {
			name = fmt.Sprintf("#cursor %d", v.GUID)
		}
		found = append(found, name)
	}
	return found
}

// holds lists the holds on a dataset's snapshots, "@snapshot tag".
func holds(t *testing.T, s *side, dataset string) []string {
	t.Helper()
	vs, err := s.zfs.Versions(t.Context(), dataset)
	require.NoError(t, err)
	var full, found []string
	for _, v := range vs {
		if !v.Bookmark {
			full = append(full, v.FullName())
		}
	}
	hs, err := s.zfs.Holds(t.Context(), full...)
	require.NoError(t, err)
	for _, h := range hs {
		found = append(found, strings.TrimPrefix(h.Snapshot, dataset)+" "+h.Tag)
	}
	return found
}
