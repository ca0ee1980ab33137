package zfssnap

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// callTimeout bounds every call to an agent that does not move data: Velero
// sets no deadline of its own and would wait for ever. It is long, because a
// busy pool takes its time, and a snapshot given up is a backup lost.
const callTimeout = 2 * time.Minute

// Site is a location with its agents and the cluster whose volumes it keeps.
type Site struct {
	Location
	// Gone are nodes that are lost for good: nothing is there, and nothing will be
	// sent from there. They are not asked.
	Gone []string

	agents Agents
	kube   func() (client.Client, error)
}

// NewSite returns a location whose agents and cluster somebody else has opened.
func NewSite(loc Location, agents Agents, kube client.Client) *Site {
	return &Site{Location: loc, agents: agents, kube: func() (client.Client, error) { return kube, nil }}
}

// errNodeGone is the answer of a node that is one of Site.Gone.
var errNodeGone = errors.New("the node is gone for good")

// Agent returns the agent of a node, or a *NoAgentError.
func (s *Site) Agent(node string) (Agent, error) {
	if slices.Contains(s.Gone, node) {
		return nil, errNodeGone
	}
	if _, ok := s.Agents[node]; !ok {
		return nil, &NoAgentError{Node: node}
	}
	return s.agents.Agent(node)
}

// call runs one quick request against a node's agent and says in its error what
// was done where, and what can be done about it: Velero shows nothing else.
func call[T any](ctx context.Context, s *Site, node, deed string, do func(context.Context, Agent) (T, error)) (T, error) {
	return callFor(ctx, callTimeout, s, node, deed, do)
}

func callFor[T any](ctx context.Context, timeout time.Duration, s *Site, node, deed string, do func(context.Context, Agent) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var got T
	a, err := s.Agent(node)
	if err == nil {
		got, err = do(ctx, a)
	}
	if err == nil {
		return got, nil
	}
	err = fmt.Errorf("%s on node %s: %w", deed, node, err)
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) && hinter.Hint() != "" {
		err = fmt.Errorf("%w (%s)", err, hinter.Hint())
	}
	return got, err
}

// dataset finds one dataset; the error has code NotFound when there is none.
func (s *Site) dataset(ctx context.Context, node, deed string, req *agentpb.ResolveDatasetRequest) (*agentpb.Dataset, error) {
	return call(ctx, s, node, deed, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.ResolveDataset(ctx, req)
	})
}

// versions lists a dataset's snapshots and bookmarks; none when it is missing.
func (s *Site) versions(ctx context.Context, node, dataset string) ([]*agentpb.Version, error) {
	resp, err := call(ctx, s, node, "list snapshots of "+dataset, func(ctx context.Context, a Agent) (*agentpb.ListVersionsResponse, error) {
		return a.ListVersions(ctx, &agentpb.ListVersionsRequest{Dataset: dataset})
	})
	if isNotFound(err) {
		return nil, nil
	}
	return resp.GetVersions(), err
}

// snapshot returns a volume's snapshot by its name, nil when there is none.
func (s *Site) snapshot(ctx context.Context, vol VolumeID, name string) (*agentpb.Version, error) {
	versions, err := s.versions(ctx, vol.Node, vol.Dataset)
	for _, v := range versions {
		if v.GetName() == name && !v.GetBookmark() {
			return v, nil
		}
	}
	return nil, err
}

func byName(dataset string) *agentpb.ResolveDatasetRequest {
	return &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: dataset}}
}

func byMountpoint(dir string) *agentpb.ResolveDatasetRequest {
	return &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Mountpoint{Mountpoint: dir}}
}

// Sites opens locations and keeps them open: one process serves several
// locations, each initialised many times over, and an identifier may have to be
// followed after another location was initialised.
type Sites struct {
	// Connect makes the agents of a location from its credential, a PEM bundle.
	Connect func(Location, []byte) (Agents, error)
	// Kube returns a client of the cluster whose volumes are kept.
	Kube func() (client.Client, error)

	mu   sync.Mutex
	open map[[sha256.Size]byte]*Site
}

// Open returns the site for a location and its credential: the same one for the
// same pair.
func (s *Sites) Open(loc Location, pem []byte) (*Site, error) {
	key, err := siteKey(loc, pem)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if site, ok := s.open[key]; ok {
		return site, nil
	}
	agents, err := s.Connect(loc, pem)
	if err != nil {
		return nil, fmt.Errorf("prepare connections to the agents: %w", err)
	}
	site := &Site{Location: loc, agents: agents, kube: s.Kube}
	if s.open == nil {
		s.open = map[[sha256.Size]byte]*Site{}
	}
	s.open[key] = site
	return site, nil
}

// OpenLocation returns the site for a VolumeSnapshotLocation object, reading its
// credential from the cluster.
func (s *Sites) OpenLocation(ctx context.Context, vsl *velerov1api.VolumeSnapshotLocation) (*Site, error) {
	loc, err := ParseLocation(vsl.Spec.Config)
	if err != nil {
		return nil, err
	}
	var pem []byte
	if ref := vsl.Spec.Credential; ref != nil {
		kube, err := s.Kube()
		if err != nil {
			return nil, err
		}
		secret := &corev1api.Secret{}
		if err := kube.Get(ctx, client.ObjectKey{Namespace: vsl.Namespace, Name: ref.Name}, secret); err != nil {
			return nil, fmt.Errorf("get credential of snapshot location %s: %w", vsl.Name, err)
		}
		if pem = secret.Data[ref.Key]; len(pem) == 0 {
			return nil, fmt.Errorf("get credential of snapshot location %s: secret %s has no key %q", vsl.Name, ref.Name, ref.Key)
		}
	}
	return s.Open(loc, pem)
}

// withAgentOn returns a site that knows an agent on node: the preferred one if
// it does, else any other.
func (s *Sites) withAgentOn(node string, preferred *Site) (*Site, error) {
	if _, ok := preferred.Agents[node]; ok {
		return preferred, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, site := range s.open {
		if _, ok := site.Agents[node]; ok {
			return site, nil
		}
	}
	return nil, &NoAgentError{Node: node}
}

// keepingElsewhere returns the sites that know the node of a snapshot and have its
// copies in another place than one does. What another tool copies is its own.
func (s *Sites) keepingElsewhere(id SnapshotID, than *Site) []*Site {
	type place struct {
		at      Destination
		archive string
	}
	placeOf := func(site *Site) place {
		p := place{archive: site.Archive}
		if !site.External() {
			p.at, _ = site.Destination(id.Node, id.Dataset)
		}
		return p
	}
	seen := map[place]bool{{}: true, placeOf(than): true}
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []*Site
	for _, site := range s.open {
		if _, ok := site.Agents[id.Node]; !ok || seen[placeOf(site)] || site.External() {
			continue
		}
		seen[placeOf(site)] = true
		others = append(others, site)
	}
	return others
}

func siteKey(loc Location, pem []byte) (key [sha256.Size]byte, err error) {
	loc.CredentialsFile = "" // its content counts, not where Velero put it
	b, err := json.Marshal(struct {
		Location Location
		PEM      []byte
	}{loc, pem})
	return sha256.Sum256(b), err
}
