package cluster

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Agent is what recovery asks of the agent on a node; agentpb.AgentClient is
// one.
type Agent interface {
	zfssnap.Agent // makes volumes, and destroys them

	GetPool(context.Context, *agentpb.GetPoolRequest, ...grpc.CallOption) (*agentpb.PoolState, error)
	ImportPool(context.Context, *agentpb.ImportPoolRequest, ...grpc.CallOption) (*agentpb.PoolState, error)
	ExportPool(context.Context, *agentpb.GetPoolRequest, ...grpc.CallOption) (*agentpb.PoolState, error)
	Info(context.Context, *agentpb.InfoRequest, ...grpc.CallOption) (*agentpb.InfoResponse, error)
	ListArchived(context.Context, *agentpb.ListArchivedRequest, ...grpc.CallOption) (*agentpb.ListArchivedResponse, error)
	ListDatasets(context.Context, *agentpb.ListDatasetsRequest, ...grpc.CallOption) (*agentpb.ListDatasetsResponse, error)
	ListBackup(context.Context, *agentpb.ListBackupRequest, ...grpc.CallOption) (*agentpb.ListBackupResponse, error)
	ListHolds(context.Context, *agentpb.ListHoldsRequest, ...grpc.CallOption) (*agentpb.ListHoldsResponse, error)
	ReapHolds(context.Context, *agentpb.ListHoldsRequest, ...grpc.CallOption) (*agentpb.ListHoldsResponse, error)
	Doctor(context.Context, *agentpb.DoctorRequest, ...grpc.CallOption) (*agentpb.DoctorResponse, error)
	KeepReport(context.Context, *agentpb.KeepReportRequest, ...grpc.CallOption) (*agentpb.KeepReportResponse, error)
	ListReports(context.Context, *agentpb.ListReportsRequest, ...grpc.CallOption) (*agentpb.ListReportsResponse, error)
	GetReport(context.Context, *agentpb.GetReportRequest, ...grpc.CallOption) (*agentpb.GetReportResponse, error)
}

// Agents finds the agent of a node without touching the network.
type Agents interface {
	Agent(node string) (Agent, error)
}

// directory adapts the agents' own client to Agents. This is the one place
// where connections to agents are made.
type directory struct{ *agent.Directory }

func (d directory) Agent(node string) (Agent, error) {
	c, err := d.Client(node)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AgentOptions change how agents are reached from here.
type AgentOptions struct {
	// Addresses take the place of those in the snapshot location, node by node.
	Addresses map[string]string
	// Credentials is the path of a PEM bundle used instead of the snapshot
	// location's credential.
	Credentials string
	// Config takes the place of the snapshot locations, which may not be there: a
	// location's spec.config. It needs Credentials.
	Config map[string]string
}

// agentTimeout bounds calls that look at things, changeTimeout those that change
// one. A host that is busy recovering takes its time; one that is away is known
// sooner.
const (
	agentTimeout  = time.Minute
	changeTimeout = 2 * time.Minute
)

// Location is one snapshot location and the agents it names.
type Location struct {
	Name string
	zfssnap.Location
	Agents Agents
}

// Storage is where the recovery site keeps copies and makes volumes.
type Storage struct {
	Locations []Location
	// Broken says by name which locations can't be used, and why. What only they
	// lead to is not found; nothing else depends on them.
	Broken map[string]error
	// none says why there is no location at all.
	none error
	// back: what is looked for was taken at the recovery site, and its copies are
	// at the source.
	back bool
}

// Back returns the storage as the source sees it when an application comes back:
// copies of what was taken at the recovery site.
func (s *Storage) Back() *Storage {
	return &Storage{Locations: s.Locations, Broken: s.Broken, none: s.none, back: true}
}

// ErrNoLocation is returned when Velero has no snapshot location of ours.
var ErrNoLocation = errors.New("no VolumeSnapshotLocation of provider " + zfssnap.Provider)

// ErrNoCopy is returned for a snapshot that the recovery site does not have.
var ErrNoCopy = errors.New("there is no copy at the recovery site")

// ErrTakenHere is an ErrNoCopy for a snapshot that was taken where it is to be
// recovered: its copies are at the other site.
var ErrTakenHere = fmt.Errorf("%w", ErrNoCopy)

// OpenStorage reads the snapshot locations of the cluster. It does not touch
// the agents. A location that can't be used is an error only when there is no
// other: a recovery must not stop at one that is none of its business. That there
// is none at all is an error only for what needs one.
func (c *Cluster) OpenStorage(ctx context.Context, opts AgentOptions) (*Storage, error) {
	if opts.Config != nil {
		given := &velerov1api.VolumeSnapshotLocation{Spec: velerov1api.VolumeSnapshotLocationSpec{Config: opts.Config}}
		l, err := c.openLocation(ctx, given, opts)
		return &Storage{Locations: []Location{l}}, err
	}
	locations, err := c.SnapshotLocations(ctx)
	if errors.Is(err, ErrNoLocation) {
		return &Storage{none: err}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &Storage{Broken: map[string]error{}}
	for i := range locations {
		l, err := c.openLocation(ctx, &locations[i], opts)
		if err != nil {
			s.Broken[locations[i].Name] = fmt.Errorf("open VolumeSnapshotLocation %s: %w", locations[i].Name, err)
			continue
		}
		s.Locations = append(s.Locations, l)
	}
	if len(s.Locations) == 0 {
		return nil, s.Broken[slices.Min(slices.Collect(maps.Keys(s.Broken)))]
	}
	return s, nil
}

// SnapshotLocations returns the snapshot locations of ours, an error when there
// is none.
func (c *Cluster) SnapshotLocations(ctx context.Context) ([]velerov1api.VolumeSnapshotLocation, error) {
	list := &velerov1api.VolumeSnapshotLocationList{}
	if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list VolumeSnapshotLocations in namespace %s: %w", c.Namespace, err)
	}
	ours := slices.DeleteFunc(list.Items, func(l velerov1api.VolumeSnapshotLocation) bool { return l.Spec.Provider != zfssnap.Provider })
	if len(ours) == 0 {
		return nil, hint.Add(fmt.Errorf("%w in namespace %s of context %q", ErrNoLocation, c.Namespace, c.Context),
			"Velero at the recovery site needs one with the name it has at the source: see examples/velero/volumesnapshotlocation.yaml")
	}
	return ours, nil
}

func (c *Cluster) openLocation(ctx context.Context, vsl *velerov1api.VolumeSnapshotLocation, opts AgentOptions) (Location, error) {
	loc, err := zfssnap.ParseLocation(vsl.Spec.Config)
	if err != nil {
		return Location{}, err
	}
	for node, address := range opts.Addresses {
		loc.Agents[node] = address
	}
	bundle, err := c.agentCredentials(ctx, vsl, opts)
	if err != nil {
		return Location{}, err
	}
	return Location{Name: vsl.Name, Location: loc, Agents: directory{agent.NewDirectoryWith(loc.Agents, bundle)}}, nil
}

func (c *Cluster) agentCredentials(ctx context.Context, vsl *velerov1api.VolumeSnapshotLocation, opts AgentOptions) (*agent.Bundle, error) {
	if opts.Credentials != "" {
		return agent.LoadBundle(opts.Credentials)
	}
	ref := vsl.Spec.Credential
	if ref == nil {
		return nil, hint.Add(errors.New("it has no credential"), "set spec.credential to a secret key with CA certificate, client certificate and key, or use --agent-credentials")
	}
	secret := &corev1api.Secret{}
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: vsl.Namespace, Name: ref.Name}, secret); err != nil {
		return nil, fmt.Errorf("get its credential: %w", err)
	}
	if len(secret.Data[ref.Key]) == 0 {
		return nil, fmt.Errorf("get its credential: secret %s has no key %q", ref.Name, ref.Key)
	}
	return agent.ParseBundle(secret.Data[ref.Key])
}

// Used reports whether Velero has a snapshot location of ours, be it one that
// can't be used.
func (s *Storage) Used() bool { return len(s.Locations)+len(s.Broken) > 0 }

// needed returns an error where there is no location to reach an agent by.
func (s *Storage) needed() error {
	switch {
	case len(s.Locations) > 0:
		return nil
	case s.none != nil:
		return s.none
	}
	return ErrNoLocation
}

// RecoveryNodes returns the nodes on which volumes are recovered: restoreNode,
// or else the target of replication. A location with neither recovers on the
// node a snapshot was taken on.
func (l Location) RecoveryNodes() []string {
	switch {
	case l.RestoreNode != "":
		return []string{l.RestoreNode}
	case l.Target != "":
		return []string{l.Target}
	}
	return nil
}

// restoreNodes is RecoveryNodes, and every node where volumes are recovered where
// they were snapshotted.
func (l Location) restoreNodes() []string {
	if nodes := l.RecoveryNodes(); len(nodes) > 0 {
		return nodes
	}
	return slices.Sorted(maps.Keys(l.Location.Agents))
}

// restoreNodes are the nodes that volumes are recovered on, each with the first
// location that says so.
func (s *Storage) restoreNodes() iter.Seq2[string, Location] {
	return func(yield func(string, Location) bool) {
		seen := map[string]bool{}
		for _, l := range s.Locations {
			for _, node := range l.restoreNodes() {
				if seen[node] {
					continue
				}
				if seen[node] = true; !yield(node, l) {
					return
				}
			}
		}
	}
}

// nodesFor returns the nodes that a snapshot is recovered on. One that was taken
// where a failover went is recovered where that came from.
func (l Location) nodesFor(id zfssnap.SnapshotID) []string {
	if l.Returns(id.Node) {
		return []string{l.FailbackTarget}
	}
	if nodes := l.RecoveryNodes(); len(nodes) > 0 {
		return nodes
	}
	return []string{id.Node}
}

// Copy is where a snapshot lies at the recovery site.
type Copy struct {
	Node     string
	Dataset  string
	Snapshot string // the part after '@'
	// Archive has the snapshot, and the node restores from there; Dataset and
	// Snapshot are "" then.
	Archive string
}

// Find returns where the copy of a snapshot lies: on a node, or else in the
// location's archive. The error wraps ErrNoCopy when every host was asked and none
// has it.
func (s *Storage) Find(ctx context.Context, id zfssnap.SnapshotID) (Copy, error) {
	if err := s.needed(); err != nil {
		return Copy{}, fmt.Errorf("look for a copy of %s: %w", id.Name(), err)
	}
	if s.Returns(id.Node) != s.back {
		return Copy{}, fmt.Errorf("%w of %s: that was taken on node %s itself", ErrTakenHere, id.Name(), id.Node)
	}
	var errs []error
	var asked []string
	locations := s.leading(id)
	// What is on its own node is no copy where there is another place for one, nor where
	// copies would be sent to that node.
	elsewhere := slices.ContainsFunc(locations, func(l Location) bool {
		return l.Target == id.Node || slices.ContainsFunc(l.nodesFor(id), func(node string) bool { return node != id.Node })
	})
	for _, l := range locations {
		for _, node := range l.nodesFor(id) {
			if slices.Contains(asked, node) || elsewhere && node == id.Node {
				continue
			}
			asked = append(asked, node)
			v, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.Version, error) {
				return a.FindSnapshot(ctx, &agentpb.FindSnapshotRequest{Guid: id.GUID, Hints: l.Hints(id.Node, id.Dataset)})
			})
			if err == nil {
				return Copy{Node: node, Dataset: v.GetDataset(), Snapshot: v.GetName()}, nil
			}
			if !errors.Is(err, agent.ErrNotFound) {
				errs = append(errs, err)
			}
		}
	}
	for _, l := range locations {
		if l.Archive == "" {
			continue
		}
		for _, node := range l.nodesFor(id) {
			looked := "archive " + l.Archive + " by node " + node
			if slices.Contains(asked, looked) {
				continue
			}
			asked = append(asked, looked)
			resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListArchivedResponse, error) {
				return a.ListArchived(ctx, &agentpb.ListArchivedRequest{Archive: l.Archive, Node: id.Node, Dataset: id.Dataset, Guid: id.GUID})
			})
			switch {
			case err == nil && len(resp.GetSnapshots()) > 0 && resp.GetSnapshots()[0].GetProblem() == "":
				return Copy{Node: node, Archive: l.Archive}, nil
			case err != nil && !errors.Is(err, agent.ErrNoArchive):
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return Copy{}, fmt.Errorf("look for a copy of %s: %w", id.Name(), errors.Join(errs...))
	}
	if len(asked) == 0 {
		return Copy{}, fmt.Errorf("%w of %s: it was taken on node %s, where copies go", ErrNoCopy, id.Name(), id.Node)
	}
	return Copy{}, fmt.Errorf("%w of %s (guid %d, looked on node %s)", ErrNoCopy, id.Name(), id.GUID, strings.Join(asked, ", "))
}

// Archived lists the restore points that an archive has of a node's dataset, as the
// agent there reaches it.
func (s *Storage) Archived(ctx context.Context, node, archive, dataset string) ([]*agentpb.ArchivedSnapshot, error) {
	l, err := s.location(node)
	if err != nil {
		return nil, err
	}
	resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListArchivedResponse, error) {
		return a.ListArchived(ctx, &agentpb.ListArchivedRequest{Archive: archive, Node: node, Dataset: dataset})
	})
	return resp.GetSnapshots(), err
}

// leading are the locations that lead to copies of a snapshot. On the way back it
// is those that say where that goes.
func (s *Storage) leading(id zfssnap.SnapshotID) []Location {
	if !s.back {
		return s.Locations
	}
	return slices.DeleteFunc(slices.Clone(s.Locations), func(l Location) bool { return !l.Returns(id.Node) })
}

// Newer returns the names of the snapshots of a dataset that are newer than one
// of them, oldest first.
func (s *Storage) Newer(ctx context.Context, than Copy) ([]string, error) {
	l, err := s.location(than.Node)
	if err != nil {
		return nil, err
	}
	resp, err := call(ctx, l, than.Node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListVersionsResponse, error) {
		return a.ListVersions(ctx, &agentpb.ListVersionsRequest{Dataset: than.Dataset})
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots of %s on node %s: %w", than.Dataset, than.Node, err)
	}
	var names []string
	for _, v := range resp.GetVersions() {
		switch {
		case v.GetBookmark():
		case v.GetName() == than.Snapshot:
			names = []string{}
		case names != nil:
			names = append(names, v.GetName())
		}
	}
	return names, nil
}

// TakenBy returns the version of the plugin that took the newest snapshot of a
// copy's dataset; "" where that does not say so.
func (s *Storage) TakenBy(ctx context.Context, c Copy) (string, error) {
	l, err := s.location(c.Node)
	if err != nil {
		return "", err
	}
	resp, err := call(ctx, l, c.Node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListVersionsResponse, error) {
		return a.ListVersions(ctx, &agentpb.ListVersionsRequest{Dataset: c.Dataset, NewestProperties: true})
	})
	if err != nil {
		return "", fmt.Errorf("list snapshots of %s on node %s: %w", c.Dataset, c.Node, err)
	}
	for _, v := range resp.GetVersions() {
		if version := v.GetProperties()[zfssnap.PropVersion]; version != "" {
			return version, nil
		}
	}
	return "", nil
}

// location returns the first location that knows a node.
func (s *Storage) location(node string) (Location, error) {
	for _, l := range s.Locations {
		if _, known := l.Location.Agents[node]; known {
			return l, nil
		}
	}
	return Location{}, &zfssnap.NoAgentError{Node: node}
}

func call[T any](ctx context.Context, l Location, node string, timeout time.Duration, do func(context.Context, Agent) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a, err := l.Agents.Agent(node)
	if err != nil {
		var none T
		return none, err
	}
	return do(ctx, a)
}

// Host is what an agent says of its host.
type Host struct {
	Location string
	Node     string
	Info     *agentpb.InfoResponse
	// Err is why the agent gave no answer.
	Err error
	// Asked and Answered are this machine's clock around the call.
	Asked, Answered time.Time
}

// Skew returns how far the host's clock is ahead of this machine's, and by how
// much that may be off.
func (h Host) Skew() (skew, uncertainty time.Duration) {
	return Skew(h.Asked, h.Answered, h.Info.GetUnixTimeMs())
}

// Skew returns how far a clock is ahead of this machine's, and by how much that
// may be off, when it was read between two times of this one.
func Skew(asked, answered time.Time, unixMs int64) (skew, uncertainty time.Duration) {
	half := answered.Sub(asked) / 2
	return time.UnixMilli(unixMs).Sub(asked.Add(half)), half
}

// Hosts asks the agents on every node that volumes are recovered on, side by side.
func (s *Storage) Hosts(ctx context.Context, now func() time.Time) []Host {
	var nodes []string
	locations := map[string]Location{}
	for node, l := range s.restoreNodes() {
		nodes = append(nodes, node)
		locations[node] = l
	}
	replies := askEach(ctx, nodes, locations, agentTimeout, now, func(ctx context.Context, _ Location, a Agent) (*agentpb.InfoResponse, error) {
		return a.Info(ctx, &agentpb.InfoRequest{})
	})
	hosts := make([]Host, len(replies))
	for i, r := range replies {
		hosts[i] = Host{Location: locations[r.Node].Name, Node: r.Node, Info: r.Said, Err: r.Err, Asked: r.Asked, Answered: r.Answered}
	}
	return hosts
}

// ErrExternal is returned where another tool replicates, which knows nothing of
// what we put on its copies.
var ErrExternal = errors.New("another tool replicates it")

// Fence makes a replica refuse everything that is sent to it, or with by ""
// lets it receive again. What another tool replicates is left as it is:
// ErrExternal.
func (s *Storage) Fence(ctx context.Context, node, dataset, by string) error {
	l, err := s.location(node)
	if err != nil {
		return err
	}
	if l.External() {
		return fmt.Errorf("fence %s on node %s: %w", dataset, node, ErrExternal)
	}
	_, err = call(ctx, l, node, changeTimeout, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.SetProperties(ctx, &agentpb.SetPropertiesRequest{
			Dataset: dataset, Properties: map[string]string{zfssnap.PropFenced: by},
		})
	})
	if err != nil {
		return fmt.Errorf("fence %s on node %s: %w", dataset, node, err)
	}
	return nil
}

// DestroyRun destroys the volumes that were made for a run and nothing else,
// and returns their names as node:dataset. A volume that is busy, because its
// last pod is just ending, is tried again until the context ends.
func (s *Storage) DestroyRun(ctx context.Context, run string, interval time.Duration) ([]string, error) {
	var destroyed []string
	var errs []error
	for node, l := range s.restoreNodes() {
		names, err := destroyOn(ctx, l, node, run, interval)
		destroyed = append(destroyed, names...)
		errs = append(errs, err)
	}
	return destroyed, errors.Join(errs...)
}

func destroyOn(ctx context.Context, l Location, node, run string, interval time.Duration) ([]string, error) {
	// By the run, and by the Restore of the same name for volumes whose Restore
	// lost its label.
	byName := map[string]map[string]string{}
	for _, prop := range []string{zfssnap.PropRun, zfssnap.PropRestore} {
		match := map[string]string{zfssnap.PropManaged: "true", prop: run}
		resp, err := call(ctx, l, node, agentTimeout, func(ctx context.Context, a Agent) (*agentpb.ListDatasetsResponse, error) {
			return a.ListDatasets(ctx, &agentpb.ListDatasetsRequest{Match: match})
		})
		if err != nil {
			return nil, fmt.Errorf("list volumes of run %s on node %s: %w", run, node, err)
		}
		for _, d := range resp.GetDatasets() {
			byName[d.GetName()] = match
		}
	}
	return destroyEach(ctx, l, node, byName, interval)
}

// destroyEach destroys volumes of a node, each with the properties that it must
// have. One that is busy is tried again until the context ends.
func destroyEach(ctx context.Context, l Location, node string, byName map[string]map[string]string, interval time.Duration) ([]string, error) {
	var destroyed []string
	var errs []error
	names := slices.Sorted(maps.Keys(byName))
	slices.Reverse(names) // children first
	for _, name := range names {
		var busy error
		err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
			_, busy = call(ctx, l, node, changeTimeout, func(ctx context.Context, a Agent) (*agentpb.DestroyVolumeResponse, error) {
				return a.DestroyVolume(ctx, &agentpb.DestroyVolumeRequest{Dataset: name, Match: byName[name]})
			})
			if errors.Is(busy, agent.ErrBusy) {
				return false, nil
			}
			return true, busy
		})
		if err != nil {
			if busy != nil {
				err = busy
			}
			errs = append(errs, fmt.Errorf("destroy %s on node %s: %w", name, node, err))
			continue
		}
		destroyed = append(destroyed, node+":"+name)
	}
	return destroyed, errors.Join(errs...)
}
