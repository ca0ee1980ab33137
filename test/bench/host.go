package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30
)

// The nodes that two agents of one host pass for.
const (
	sourceNode = "source"
	targetNode = "target"
)

// host is a host with two agents: one of the pool that volumes are in, one of
// the pool that replicas are in.
type host struct {
	options
	dir            string
	source, target string // what all datasets lie below
	addresses      map[string]string
	bundle         []byte
	agents         []*exec.Cmd
	directory      *agent.Directory
	site           *zfssnap.Site
	snapshotter    *zfssnap.Snapshotter
	groups         *zfssnap.Groups
}

// newHost starts from nothing: what an earlier run left is destroyed.
func newHost(ctx context.Context, o options) (_ *host, err error) {
	h := &host{options: o, source: o.sourcePool + "/bench", target: o.targetPool + "/bench", addresses: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := h.clear(ctx); err != nil {
		return nil, err
	}
	if h.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return nil, err
	}
	for _, dataset := range []string{h.source, h.target} {
		if _, err := command(ctx, "zfs", "create", "-o", "mountpoint="+filepath.Join(h.dir, dataset), dataset); err != nil {
			return nil, err
		}
	}
	return h, h.startAgents(ctx)
}

func (h *host) startAgents(ctx context.Context) error {
	ca, err := agent.NewAuthority(time.Now())
	if err != nil {
		return err
	}
	if h.bundle, err = ca.Client("velero", time.Now()); err != nil {
		return err
	}
	policy := fmt.Sprintf(`identities:
- {name: velero, verbs: ["*"], prefixes: [%q, %q]}
- {name: %s, verbs: [read, receive], prefixes: [%q]}
`, h.source, h.target, sourceNode, h.target)
	if err := os.WriteFile(filepath.Join(h.dir, "agent.yaml"), []byte(policy), 0o600); err != nil {
		return err
	}
	for _, node := range []string{sourceNode, targetNode} {
		bundle, err := ca.Node(node, time.Now())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(h.dir, node+".pem"), bundle, 0o600); err != nil {
			return err
		}
		if h.addresses[node], err = freeAddress(); err != nil {
			return err
		}
	}
	return h.restartAgents(ctx)
}

// restartAgents makes the agents forget what they know.
func (h *host) restartAgents(ctx context.Context) error {
	if err := h.stopAgents(); err != nil {
		return err
	}
	for _, node := range []string{sourceNode, targetNode} {
		log, err := os.Create(filepath.Join(h.dir, node+".log"))
		if err != nil {
			return err
		}
		cmd := exec.Command(h.agent, "serve", "--node="+node, "--listen="+h.addresses[node],
			"--tls="+filepath.Join(h.dir, node+".pem"), "--config="+filepath.Join(h.dir, "agent.yaml"))
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Start()
		log.Close()
		if err != nil {
			return err
		}
		h.agents = append(h.agents, cmd)
	}
	return h.connect(ctx)
}

// connect makes the connections before anything is measured: Velero keeps them
// from one volume to the next.
func (h *host) connect(ctx context.Context) error {
	bundle, err := agent.ParseBundle(h.bundle)
	if err != nil {
		return err
	}
	h.directory = agent.NewDirectoryWith(h.addresses, bundle)
	location, err := zfssnap.ParseLocation(map[string]string{
		zfssnap.KeyAgents: sourceNode + "=" + h.addresses[sourceNode] + "," + targetNode + "=" + h.addresses[targetNode],
		zfssnap.KeyTarget: targetNode, zfssnap.KeyTargetPrefix: path.Join(h.target, "replica"),
	})
	if err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	sites := &zfssnap.Sites{
		Connect: func(zfssnap.Location, []byte) (zfssnap.Agents, error) { return agents{h.directory}, nil },
		Kube:    func() (client.Client, error) { return backups{}, nil },
	}
	if h.site, err = sites.Open(location, nil); err != nil {
		return err
	}
	h.groups = &zfssnap.Groups{}
	h.snapshotter = &zfssnap.Snapshotter{Sites: sites, Log: log, Groups: h.groups}
	if err := h.snapshotter.Init(map[string]string{zfssnap.KeyAgents: sourceNode + "=" + h.addresses[sourceNode]}); err != nil {
		return err
	}
	for _, node := range []string{sourceNode, targetNode} {
		ready := func() bool {
			_, err = h.client(node).Info(ctx, &agentpb.InfoRequest{})
			return err == nil
		}
		if !poll(ctx, time.Minute, ready) {
			return fmt.Errorf("start agent of node %s: %w", node, err)
		}
	}
	return nil
}

func (h *host) client(node string) *agent.Client {
	c, err := h.directory.Client(node)
	if err != nil {
		panic(err) // of this program: both nodes are in the directory
	}
	return c
}

func (h *host) stopAgents() error {
	var errs []error
	if h.directory != nil {
		errs = append(errs, h.directory.Close())
	}
	for _, a := range h.agents {
		errs = append(errs, a.Process.Signal(syscall.SIGTERM), a.Wait())
	}
	h.agents, h.directory = nil, nil
	return errors.Join(errs...)
}

// clear destroys the datasets of a run.
func (h *host) clear(ctx context.Context) error {
	for _, dataset := range []string{h.source, h.target} {
		if _, err := command(ctx, "zfs", "list", dataset); err != nil {
			continue
		}
		// A clone lies beside its origin, so all are below one dataset.
		if err := destroy(ctx, dataset); err != nil {
			return err
		}
	}
	return nil
}

// destroy destroys a dataset and all below it, held or not.
func destroy(ctx context.Context, dataset string) error {
	out, err := command(ctx, "zfs", "list", "-Hrt", "snapshot", "-o", "userrefs,name", dataset)
	if err != nil {
		return err
	}
	holds := []string{"zfs", "holds", "-H"}
	for line := range strings.Lines(out) {
		if refs, name, _ := strings.Cut(strings.TrimSpace(line), "\t"); refs != "0" {
			holds = append(holds, name)
		}
	}
	if len(holds) > 3 {
		if out, err = command(ctx, holds...); err != nil {
			return err
		}
		held := map[string][]string{}
		for line := range strings.Lines(out) {
			if f := strings.Split(line, "\t"); len(f) == 3 {
				held[f[1]] = append(held[f[1]], f[0])
			}
		}
		for tag, snapshots := range held {
			if _, err := command(ctx, append([]string{"zfs", "release", tag}, snapshots...)...); err != nil {
				return err
			}
		}
	}
	_, err = command(ctx, "zfs", "destroy", "-R", dataset)
	return err
}

func (h *host) close(ctx context.Context) error {
	err := h.stopAgents()
	err = errors.Join(err, h.clear(ctx))
	if h.dir != "" {
		err = errors.Join(err, os.RemoveAll(h.dir))
	}
	return err
}

// volume makes a filesystem below the source with n bytes that do not compress.
func (h *host) volume(ctx context.Context, name string, n int64) (string, error) {
	dataset := path.Join(h.source, name)
	if _, err := command(ctx, "zfs", "create", dataset); err != nil {
		return "", err
	}
	return dataset, h.write(dataset, "data", n)
}

var random = rand.NewChaCha8([32]byte{})

// write writes n new bytes to a file of a dataset, in the place of earlier ones.
func (h *host) write(dataset, file string, n int64) error {
	f, err := os.Create(filepath.Join(h.dir, dataset, file))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, random, n)
	return errors.Join(err, f.Sync(), f.Close())
}

// snapshotted takes a snapshot as Velero's plugin does.
func (h *host) snapshotted(dataset, backup string) (zfssnap.SnapshotID, error) {
	volume := zfssnap.VolumeID{Node: sourceNode, Dataset: dataset}
	id, err := h.snapshotter.CreateSnapshot(volume.String(), "", map[string]string{"velero.io/backup": backup, "velero.io/pv": path.Base(dataset)})
	if err != nil {
		return zfssnap.SnapshotID{}, err
	}
	return zfssnap.ParseSnapshotID(id)
}

// replicated waits until a snapshot's copy is on the target, and returns what
// its transfer says at last.
func (h *host) replicated(ctx context.Context, id zfssnap.SnapshotID) (*agentpb.Transfer, error) {
	t, err := h.site.Replicate(ctx, id.Volume(), id.Snapshot)
	if err != nil {
		return nil, err
	}
	return h.done(ctx, t.GetId())
}

// done waits for the end of a transfer.
func (h *host) done(ctx context.Context, id string) (*agentpb.Transfer, error) {
	for {
		t, err := h.client(sourceNode).GetTransfer(ctx, &agentpb.GetTransferRequest{Id: id})
		switch {
		case err != nil:
			return nil, err
		case t.GetState() == agentpb.Transfer_DONE:
			return t, nil
		case t.GetState() != agentpb.Transfer_RUNNING:
			return nil, fmt.Errorf("transfer to %s: %s: %s", t.GetBase(), t.GetState(), t.GetError())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// agents is a directory of agents as zfssnap wants it.
type agents struct{ *agent.Directory }

func (a agents) Agent(node string) (zfssnap.Agent, error) { return a.Client(node) }

// backups is a cluster that has every backup it is asked for, and nothing else.
type backups struct{ client.Client }

func (backups) Get(_ context.Context, key client.ObjectKey, backup client.Object, _ ...client.GetOption) error {
	backup.SetName(key.Name)
	backup.SetUID(types.UID(key.Name))
	return nil
}

func (backups) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return nil
}

// command runs a command and returns what it prints.
func command(ctx context.Context, argv ...string) (string, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// poll asks until the answer is yes.
func poll(ctx context.Context, timeout time.Duration, ask func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for !ask() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}
