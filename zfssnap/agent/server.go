package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Server is the agent of one node. Set the fields before Serve; Bundle, Node
// and Policy are needed, the others have defaults.
type Server struct {
	agentpb.UnimplementedAgentServer

	Node   string
	Bundle *Bundle
	Policy Policy
	ZFS    *zfs.Client
	Log    *slog.Logger
	Clock  func() time.Time

	// MountTable is the host's table of mounts, by which the dataset at a
	// legacy mountpoint is found; "/proc/self/mounts" by default.
	MountTable string
	// PoolTransfers bounds how many transfers read from one pool at a time; 2
	// by default. Others wait.
	PoolTransfers int
	// RetryDelay is how long a transfer waits after a failure that may pass,
	// before attempt n (1, 2, ...); by default 1 s, doubling up to a minute.
	RetryDelay func(n int) time.Duration
	// RetryFor is how long it goes on without moving data; 4 hours by default.
	RetryFor time.Duration
	// StallTimeout is how long a transfer may move no data while it should,
	// before it fails; after half of it the transfer is marked as stalled. 30
	// minutes by default.
	StallTimeout time.Duration
	// CommandTimeout is for commands that move no data; 10 minutes by default. A
	// pool on which one takes longer is left alone until it answers.
	CommandTimeout time.Duration
	// Archives are those that snapshots are kept in and restored from, by name.
	Archives map[string]*archive.Config
	// Bandwidth limits what this node sends.
	Bandwidth Bandwidth
	// OnTransfer, when set, is told of every stream sent and received.
	OnTransfer func(TransferEvent)
	// OnHang, when set, is told of every command that did not end in time; the
	// pool is "" for one that is about none in particular.
	OnHang func(pool string)
	// TransferLease is how long a transfer counts as alive when its agent no
	// longer says so; an hour by default.
	TransferLease time.Duration
	// ReapEvery is how often dead holds are looked for and released; 0 for
	// never.
	ReapEvery time.Duration
	// HoldAfter is for how long a snapshot that was taken waits for others, to be held
	// with them by one command: a backup takes them one after the other. It waits ten
	// times as long at most. 0 holds each at once.
	HoldAfter time.Duration
	// ConnectionAge is after how long a connection is made anew, so that
	// certificates are looked at again; an hour by default. A call under way is
	// not cut off.
	ConnectionAge time.Duration
	// ClockSynchronized reports whether a time server disciplines the host's
	// clock. Nil where that can't be told.
	ClockSynchronized func() (bool, error)
	// Delegated says that ZFS is used with delegated permissions, not as root.
	Delegated bool

	once       sync.Once
	guard      *zfs.Guard
	transfers  *transfers
	receiving  sync.Map // dataset → true while a receive runs
	making     sync.Map // dataset → true while a volume is made
	replicas   replicas
	background background
	holdings   holdings
	taken      taken
	told       told
	grpc       *grpc.Server
	health     *health.Server

	judging  sync.Mutex
	readyMu  sync.Mutex
	notReady error // nil while the agent is ready
}

// maxProcesses bounds how many zfs(8) processes one request runs at a time.
const maxProcesses = 8

// TransferEvent is the end of a transfer, or of a receive.
type TransferEvent struct {
	Received bool   // by this node; else sent by it
	Dataset  string // of this node
	Peer     string // node, or archive
	Bytes    uint64
	Duration time.Duration
	Err      error
	Reason   string // of Err, a word as in agentpb.Transfer
}

// Activity is what an agent does at the moment.
type Activity struct {
	Sending   int    // transfers that have their turn
	Waiting   int    // that wait for it, or to be tried again
	Stalled   int    // of those sending, that move no data
	Rate      uint64 // of those sending, bytes per second
	Receiving int
}

// Activity tells what the agent does. It does not touch any pool.
func (s *Server) Activity() Activity {
	s.init()
	a := s.transfers.activity()
	s.receiving.Range(func(any, any) bool {
		a.Receiving++
		return true
	})
	return a
}

func (s *Server) init() {
	s.once.Do(func() {
		if s.ZFS == nil {
			s.ZFS = zfs.New()
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		if s.Clock == nil {
			s.Clock = time.Now
		}
		if s.MountTable == "" {
			s.MountTable = "/proc/self/mounts"
		}
		if s.PoolTransfers == 0 {
			s.PoolTransfers = 2
		}
		if s.RetryDelay == nil {
			s.RetryDelay = func(n int) time.Duration { return min(time.Second<<min(n-1, 6), time.Minute) }
		}
		if s.RetryFor == 0 {
			s.RetryFor = 4 * time.Hour
		}
		if s.StallTimeout == 0 {
			s.StallTimeout = 30 * time.Minute
		}
		if s.OnTransfer == nil {
			s.OnTransfer = func(TransferEvent) {}
		}
		if s.OnHang == nil {
			s.OnHang = func(string) {}
		}
		s.guard = &zfs.Guard{Runner: s.ZFS.Runner, Timeout: s.CommandTimeout, OnHang: s.OnHang, OnChange: s.poolChanged}
		s.ZFS = &zfs.Client{Runner: s.guard, Devices: s.ZFS.Devices}
		if s.TransferLease == 0 {
			s.TransferLease = transferLease
		}
		if s.ConnectionAge == 0 {
			s.ConnectionAge = time.Hour
		}
		s.transfers = newTransfers(s)
		s.health = health.NewServer()
		s.grpc = grpc.NewServer(
			grpc.Creds(s.Bundle.serverCredentials()),
			grpc.ForceServerCodecV2(agentpb.NewCodec()),
			// A receive that is cut off by Stop still saves what it has.
			grpc.WaitForHandlers(true),
			grpc.InitialWindowSize(window),
			grpc.InitialConnWindowSize(window),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, MaxConnectionAge: s.ConnectionAge}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
			grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				resp, err := next(ctx, req)
				if !looks[info.FullMethod] {
					s.told.changed()
				}
				return resp, s.answer(ctx, info.FullMethod, err)
			}),
			grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				return s.answer(stream.Context(), info.FullMethod, next(srv, stream))
			}),
		)
		agentpb.RegisterAgentServer(s.grpc, s)
		healthpb.RegisterHealthServer(s.grpc, s.health)
	})
}

// Serve answers calls until Stop. Every connection must be mutual TLS 1.3.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	if s.ReapEvery > 0 {
		s.background.Go(func() { s.reap(s.transfers.ctx) })
	}
	s.background.Go(s.keepUnheld)
	if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Stop ends transfers, lets other calls finish until ctx ends, and then cuts
// them off. What was under way continues from where it was, when asked again.
func (s *Server) Stop(ctx context.Context) {
	s.init()
	s.health.Shutdown()
	s.transfers.stop()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
	s.background.Wait()
}

// answer makes what a handler returned complete: node, and a code that travels.
func (s *Server) answer(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	id, _ := identity(ctx)
	log := s.Log.With("method", path.Base(method), "identity", id, "error", err)
	if code, _ := classify(err); code == codes.NotFound {
		log.Debug("answered")
	} else {
		log.Warn("refused")
	}
	return toStatus(fmt.Errorf("node %s: %w", s.Node, err))
}

// identity is the common name of the peer's certificate.
func identity(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", fmt.Errorf("%w: no peer", ErrDenied)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return "", fmt.Errorf("%w: the peer has no verified certificate", ErrDenied)
	}
	return info.State.VerifiedChains[0][0].Subject.CommonName, nil
}

// allow lets the peer use a verb on a dataset, whose name it checks.
func (s *Server) allow(ctx context.Context, verb Verb, dataset string) error {
	if err := zfs.ValidateDataset(dataset); err != nil {
		return err
	}
	id, err := identity(ctx)
	if err != nil {
		return err
	}
	return s.Policy.allow(id, verb, dataset)
}

// roots returns what covers all the peer may use a verb on.
func (s *Server) roots(ctx context.Context, verb Verb) ([]string, error) {
	id, err := identity(ctx)
	if err != nil {
		return nil, err
	}
	roots := s.Policy.roots(id, verb)
	if len(roots) == 0 {
		return nil, &DeniedError{Identity: id, Verb: verb}
	}
	return roots, nil
}

// Info implements agentpb.AgentServer.
func (s *Server) Info(ctx context.Context, _ *agentpb.InfoRequest) (*agentpb.InfoResponse, error) {
	roots, err := s.roots(ctx, Read)
	if err != nil {
		return nil, err
	}
	release, err := s.ZFS.Version(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := s.ZFS.Pools(ctx)
	if err != nil {
		return nil, err
	}
	resp := &agentpb.InfoResponse{
		Node: s.Node, AgentVersion: names.Version, ZfsVersion: release.Userland, UnixTimeMs: s.Clock().UnixMilli(),
	}
	for _, p := range pools {
		for _, root := range roots {
			if root == "" || zfs.Pool(root) == p.Name {
				resp.Pools = append(resp.Pools, &agentpb.Pool{Name: p.Name, Health: p.Health, Size: p.Size, Free: p.Free})
				break
			}
		}
	}
	return resp, nil
}

// ResolveDataset implements agentpb.AgentServer.
func (s *Server) ResolveDataset(ctx context.Context, req *agentpb.ResolveDatasetRequest) (*agentpb.Dataset, error) {
	if dir := req.GetMountpoint(); dir != "" {
		if _, err := s.roots(ctx, Read); err != nil {
			return nil, err
		}
		name, err := s.mountedAt(ctx, path.Clean(dir))
		if err != nil {
			return nil, err
		}
		req = &agentpb.ResolveDatasetRequest{By: &agentpb.ResolveDatasetRequest_Name{Name: name}}
	}
	if err := s.allow(ctx, Read, req.GetName()); err != nil {
		return nil, err
	}
	d, err := s.ZFS.Dataset(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, d)
}

// mountedAt finds the dataset of a mountpoint: one that is mounted there, or
// the only one whose property says so.
func (s *Server) mountedAt(ctx context.Context, dir string) (string, error) {
	table, err := os.Open(s.MountTable)
	if err != nil {
		return "", fmt.Errorf("find the dataset at %s: %w", dir, err)
	}
	defer table.Close()
	found := ""
	// Octal escapes are how the table writes white space.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) >= 3 && unescape.Replace(f[1]) == dir {
			// A later mount hides an earlier one, of whatever type.
			found = ""
			if f[2] == "zfs" {
				found = unescape.Replace(f[0])
			}
		}
	}
	if found != "" && !strings.Contains(found, "@") {
		return found, nil
	}
	all, err := s.ZFS.Datasets(ctx, "", true)
	if err != nil {
		return "", err
	}
	var candidates []string
	for _, d := range all {
		if d.Mountpoint == dir {
			if d.Mounted {
				return d.Name, nil
			}
			candidates = append(candidates, d.Name)
		}
	}
	switch len(candidates) {
	case 0:
		return "", fmt.Errorf("dataset at mountpoint %s: %w", dir, ErrNotFound)
	case 1:
		return candidates[0], nil
	default:
		return "", fmt.Errorf("dataset at mountpoint %s: %w: none of %s is mounted", dir, ErrMismatch, strings.Join(candidates, ", "))
	}
}

// ListDatasets implements agentpb.AgentServer.
func (s *Server) ListDatasets(ctx context.Context, req *agentpb.ListDatasetsRequest) (*agentpb.ListDatasetsResponse, error) {
	roots := []string{req.GetRoot()}
	var err error
	if req.GetRoot() == "" {
		roots, err = s.roots(ctx, Read)
	} else {
		err = s.allow(ctx, Read, req.GetRoot())
	}
	if err != nil {
		return nil, err
	}
	resp := &agentpb.ListDatasetsResponse{}
	for _, root := range roots {
		datasets, err := s.ZFS.Datasets(ctx, root, true)
		if errors.Is(err, ErrNotFound) && req.GetRoot() == "" {
			continue // a prefix may be granted before there is anything
		}
		if err != nil {
			return nil, err
		}
		candidates, err := s.tagged(ctx, root, req.GetMatch())
		if err != nil {
			return nil, err
		}
		datasets = slices.DeleteFunc(datasets, func(d zfs.Dataset) bool { return !candidates(d.Name) })
		described := make([]*agentpb.Dataset, len(datasets))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(maxProcesses)
		for i, d := range datasets {
			g.Go(func() error {
				props, err := s.ZFS.UserProperties(gctx, d.Name, zfs.SourceLocal)
				if errors.Is(err, ErrNotFound) {
					return nil // gone meanwhile
				}
				if includes(props, req.GetMatch()) {
					described[i] = datasetPB(d, props)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for _, d := range described {
			if d != nil {
				resp.Datasets = append(resp.Datasets, d)
			}
		}
	}
	return resp, nil
}

// tagged narrows a listing to the datasets that have all the properties, so
// that not every dataset of a host has to be asked for its own.
func (s *Server) tagged(ctx context.Context, root string, match map[string]string) (func(string) bool, error) {
	count := map[string]int{}
	for prop := range match {
		tagged, err := s.ZFS.Tagged(ctx, root, prop)
		if err != nil {
			return nil, err
		}
		for _, n := range tagged {
			count[n]++
		}
	}
	return func(name string) bool { return count[name] == len(match) }, nil
}

// includes reports whether have has all of want.
func includes(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// ListVersions implements agentpb.AgentServer.
func (s *Server) ListVersions(ctx context.Context, req *agentpb.ListVersionsRequest) (*agentpb.ListVersionsResponse, error) {
	if err := s.allow(ctx, Read, req.GetDataset()); err != nil {
		return nil, err
	}
	vs, err := s.ZFS.Versions(ctx, req.GetDataset())
	if err != nil {
		return nil, err
	}
	resp := &agentpb.ListVersionsResponse{Versions: versions(vs)}
	if req.GetNewestProperties() {
		err = s.tellNewest(ctx, resp.GetVersions())
	}
	return resp, err
}

// tellNewest gives the newest snapshot of a backup its properties, also those that
// another tool has sent with it. What is not named like one is not asked.
func (s *Server) tellNewest(ctx context.Context, all []*agentpb.Version) error {
	for _, v := range slices.Backward(all) {
		if v.GetBookmark() || !strings.HasPrefix(v.GetName(), names.SnapshotPrefix) {
			continue
		}
		props := map[string]string{}
		for _, source := range []zfs.Source{zfs.SourceReceived, zfs.SourceLocal} {
			set, err := s.ZFS.UserProperties(ctx, v.GetDataset()+"@"+v.GetName(), source)
			if err != nil {
				return err
			}
			maps.Copy(props, set)
		}
		if props[names.PropManaged] == "true" && props[names.PropBackup] != "" {
			v.Properties = props
			return nil
		}
	}
	return nil
}

// FindSnapshot implements agentpb.AgentServer. Only what the peer may read is
// searched.
func (s *Server) FindSnapshot(ctx context.Context, req *agentpb.FindSnapshotRequest) (*agentpb.Version, error) {
	roots, err := s.roots(ctx, Read)
	if err != nil {
		return nil, err
	}
	var hints []string
	for _, h := range req.GetHints() {
		if s.allow(ctx, Read, h) == nil {
			hints = append(hints, h)
		}
	}
	if req.GetGuid() == 0 {
		return nil, fmt.Errorf("find snapshot: %w: no guid given", ErrInvalid)
	}
	v, err := s.ZFS.FindFirst(ctx, append([]uint64{req.GetGuid()}, req.GetOrGuids()...), append(hints, roots...)...)
	if err != nil {
		return nil, err
	}
	// What an archive gave so far is nothing to build on.
	props, err := s.ZFS.UserProperties(ctx, v.Dataset, zfs.SourceLocal)
	if err != nil {
		return nil, err
	}
	if isRestoring(props) {
		return nil, fmt.Errorf("snapshot with guid %d: %w", req.GetGuid(), ErrNotFound)
	}
	return versionPB(v), nil
}

func datasetPB(d zfs.Dataset, props map[string]string) *agentpb.Dataset {
	return &agentpb.Dataset{
		Name: d.Name, Type: string(d.Type), Guid: d.GUID, Used: d.Used, Referenced: d.Referenced, Origin: d.Origin,
		Mountpoint: d.Mountpoint, Mounted: d.Mounted, Readonly: d.ReadOnly, ReceiveResumeToken: d.ReceiveResumeToken,
		Properties: props,
	}
}

// describe adds to a dataset the properties set on itself.
func (s *Server) describe(ctx context.Context, d zfs.Dataset) (*agentpb.Dataset, error) {
	props, err := s.ZFS.UserProperties(ctx, d.Name, zfs.SourceLocal)
	if err != nil {
		return nil, err
	}
	pb := datasetPB(d, props)
	pb.Native = map[string]string{}
	native, err := s.ZFS.Get(ctx, d.Name, append([]string{"written"}, received.NativeProperties[d.Type]...)...)
	if err != nil {
		return nil, err
	}
	if pb.Written, err = strconv.ParseUint(native["written"].Value, 10, 64); err != nil {
		return nil, fmt.Errorf("read property written of %s: %w", d.Name, err)
	}
	for name, p := range native {
		if p.Source == zfs.SourceLocal || p.Source == zfs.SourceReceived {
			pb.Native[name] = p.Value
		}
	}
	if d.VolSize > 0 {
		// Its source reads "-" or "local" depending on the release.
		pb.Native["volsize"] = fmt.Sprint(d.VolSize)
	}
	return pb, nil
}

// SetProperties implements agentpb.AgentServer.
func (s *Server) SetProperties(ctx context.Context, req *agentpb.SetPropertiesRequest) (*agentpb.Dataset, error) {
	if err := s.allow(ctx, Properties, req.GetDataset()); err != nil {
		return nil, err
	}
	if err := checkOurs(req.GetProperties()); err != nil {
		return nil, err
	}
	set := map[string]string{}
	for name, value := range req.GetProperties() {
		// They decide what may be destroyed and what may be written to.
		if name == names.PropManaged || name == names.PropSource || name == names.PropStream {
			return nil, fmt.Errorf("set properties of %s: %w: %s is set by the agent alone", req.GetDataset(), ErrInvalid, name)
		}
		if value != "" {
			set[name] = value
			continue
		}
		if err := s.ZFS.Inherit(ctx, req.GetDataset(), name); err != nil {
			return nil, err
		}
	}
	if len(set) > 0 {
		if err := s.ZFS.Set(ctx, req.GetDataset(), set); err != nil {
			return nil, err
		}
	}
	d, err := s.ZFS.Dataset(ctx, req.GetDataset())
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, d)
}

// checkOurs refuses properties other than this project's own.
func checkOurs(props map[string]string) error {
	for name, value := range props {
		if !strings.HasPrefix(name, zfs.UserNamespace) {
			return fmt.Errorf("property %q: %w: it does not begin with %s", name, ErrInvalid, zfs.UserNamespace)
		}
		if strings.HasPrefix(name, names.PropHold) || strings.HasPrefix(name, names.PropTarget) {
			return fmt.Errorf("property %q: %w: it is set by the agent alone", name, ErrInvalid)
		}
		if err := errors.Join(zfs.ValidateUserProperty(name), zfs.ValidateValue(value)); err != nil {
			return err
		}
	}
	return nil
}

func versionPB(v zfs.Version) *agentpb.Version {
	return &agentpb.Version{
		Dataset: v.Dataset, Name: v.Name, Bookmark: v.Bookmark, Guid: v.GUID, Createtxg: v.CreateTXG,
		CreatedUnix: v.Created.Unix(), Used: v.Used, Referenced: v.Referenced, Written: v.Written,
		Userrefs: v.UserRefs,
	}
}

func versions(vs []zfs.Version) []*agentpb.Version {
	pbs := make([]*agentpb.Version, 0, len(vs))
	for _, v := range vs {
		pbs = append(pbs, versionPB(v))
	}
	return pbs
}
