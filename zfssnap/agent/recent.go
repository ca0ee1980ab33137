package agent

import (
	"sync"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// For a small increment, starting processes is most of the work. So what this
// agent has just made or told is not asked for again.

const (
	// keepTaken is for how long a snapshot's properties are remembered.
	keepTaken = time.Hour
	// keepTold is for how long what a source was told of a replica counts.
	keepTold = 5 * time.Second
)

// taken are the snapshots that this agent took of late.
type taken struct {
	mu     sync.Mutex
	byName map[string]takenSnapshot
}

type takenSnapshot struct {
	guid       uint64
	properties map[string]string
	at         time.Time
}

func (t *taken) add(vs []zfs.Version, properties map[string]string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName == nil {
		t.byName = map[string]takenSnapshot{}
	}
	for name, s := range t.byName {
		if now.Sub(s.at) > keepTaken {
			delete(t.byName, name)
		}
	}
	for _, v := range vs {
		t.byName[v.FullName()] = takenSnapshot{guid: v.GUID, properties: properties, at: now}
	}
}

// properties of a snapshot, which must not be changed; false when it was not
// taken here of late, or another has its name.
func (t *taken) properties(name string, guid uint64) (map[string]string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byName[name]
	return s.properties, ok && s.guid == guid
}

func (t *taken) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byName, name)
}

// told is what sources were told of replicas, for the streams that follow. It is
// forgotten when something is changed through this agent: a fence counts from
// when it was set.
type told struct {
	mu        sync.Mutex
	byDataset map[string]toldReplica
	changes   uint64            // of anything but by a receive
	receives  map[string]uint64 // that have ended, by dataset
}

type toldReplica struct {
	replica
	to string // identity
	at time.Time
}

// state of a dataset's replica, which changes whenever what was told of it may no
// longer hold.
func (t *told) state(dataset string) [2]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return [2]uint64{t.changes, t.receives[dataset]}
}

// remember keeps what was read of a replica since the given state.
func (t *told) remember(dataset, to string, r replica, state [2]uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byDataset == nil {
		t.byDataset = map[string]toldReplica{}
	}
	for name, r := range t.byDataset {
		if now.Sub(r.at) > keepTold {
			delete(t.byDataset, name)
		}
	}
	if state == [2]uint64{t.changes, t.receives[dataset]} {
		t.byDataset[dataset] = toldReplica{r, to, now}
	}
}

// take returns what an identity was told, once.
func (t *told) take(dataset, to string, now time.Time) (replica, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.byDataset[dataset]
	delete(t.byDataset, dataset)
	return r.replica, ok && r.to == to && now.Sub(r.at) <= keepTold
}

// changed forgets everything.
func (t *told) changed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes++
	clear(t.byDataset)
}

// received forgets what was told of a replica.
func (t *told) received(dataset string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.receives == nil {
		t.receives = map[string]uint64{}
	}
	t.receives[dataset]++
	delete(t.byDataset, dataset)
}

// looks are the requests that change nothing a source is told of.
var looks = map[string]bool{
	agentpb.Agent_Info_FullMethodName:           true,
	agentpb.Agent_Doctor_FullMethodName:         true,
	agentpb.Agent_ResolveDataset_FullMethodName: true,
	agentpb.Agent_ListDatasets_FullMethodName:   true,
	agentpb.Agent_ListVersions_FullMethodName:   true,
	agentpb.Agent_GetPool_FullMethodName:        true,
	agentpb.Agent_FindSnapshot_FullMethodName:   true,
	agentpb.Agent_ListBackup_FullMethodName:     true,
	agentpb.Agent_ListHolds_FullMethodName:      true,
	agentpb.Agent_ListArchived_FullMethodName:   true,
	agentpb.Agent_KeepReport_FullMethodName:     true,
	agentpb.Agent_ListReports_FullMethodName:    true,
	agentpb.Agent_GetReport_FullMethodName:      true,
	agentpb.Agent_ReceiveState_FullMethodName:   true,
	agentpb.Agent_Replicate_FullMethodName:      true,
	agentpb.Agent_GetTransfer_FullMethodName:    true,
}
