package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/certs"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/check"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/forget"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rpo"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func newCmdAgent(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "agent",
		Short:   "Look after the agents on the ZFS hosts",
		GroupID: groupOther,
		Long: `Look after the agents on the ZFS hosts that the VolumeSnapshotLocations of the
recovery cluster name, those of the source too.` + exitStatus,
	}
	c.AddCommand(newCmdAgentDoctor(e, g), newCmdAgentHolds(e, g), newCmdAgentForget(e, g), newCmdAgentCerts(e, g))
	return c
}

// nodeFlags choose agents.
type nodeFlags struct{ nodes []string }

func addNodeFlags(c *cobra.Command) *nodeFlags {
	f := &nodeFlags{}
	c.Flags().StringSliceVar(&f.nodes, "node", nil, "ask the agent on this node alone (repeatable); all nodes when not given")
	return f
}

func newCmdAgentDoctor(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the ZFS hosts, and say what to do about what is wrong",
		Long: `Have the agents examine their hosts: the release of OpenZFS against known defects,
pools, their space and features, replicas that could be written to, interrupted
receives that nobody goes on with, leaked holds, clocks and certificates. Each
finding is ok, a warning or a problem with what to do about it. Nothing is
changed.` + exitStatus,
		Example: `  # All hosts
  kubectl dr agent doctor

  # One host, in a monitoring script
  kubectl dr agent doctor --node=remote --strict -o json`,
		Args: cobra.NoArgs,
	}
	nodes := addNodeFlags(c)
	out := addOutputFlags(c)
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		s, err := g.openSite(ctx, e)
		if err != nil {
			return err
		}
		replies, err := cluster.Examine(ctx, s.storage, nodes.nodes, e.now)
		if err != nil {
			return err
		}
		r := e.examined(replies)
		return e.judged(out.result(e, r), r.State, *strict)
	})
	return c
}

// examined makes a report of what doctors say, a group for each node's subjects.
func (e *env) examined(replies []cluster.Reply[*agentpb.DoctorResponse]) *report.Check {
	r := &report.Check{TypeMeta: report.TypeMeta("DoctorReport"), ObjectMeta: metav1.ObjectMeta{Name: "agents"}, At: metav1.NewTime(e.now()), State: report.OK}
	for _, reply := range replies {
		if reply.Err != nil {
			item := report.Item{Name: "agent", State: report.Problem, Message: reply.Err.Error(),
				Remedy: check.HintOr(reply.Err, "start zfs-agent there and make it reachable from here, or say where it is with --agents")}
			if status.Code(reply.Err) == codes.Unimplemented {
				item.State, item.Message, item.Remedy = report.Warning, "it is of an earlier version and knows no doctor", "upgrade zfs-agent there"
			}
			r.Add(reply.Node, item)
			continue
		}
		for _, f := range reply.Said.GetFindings() {
			r.Add(reply.Node+": "+f.GetGroup(), report.Item{Name: f.GetName(), State: report.State(f.GetState()), Message: f.GetMessage(), Remedy: f.GetRemedy()})
		}
		skew, uncertain := cluster.Skew(reply.Asked, reply.Answered, reply.Said.GetUnixTimeMs())
		if skew.Abs() > rpo.Noticeable+uncertain {
			r.Add(reply.Node+": host", report.Item{Name: "clock beside this machine's", State: report.Warning, Message: rpo.Skewed(skew),
				Remedy: "let both follow the same time servers: ages are told by clocks"})
		}
	}
	return r
}

// holdsTimeout bounds looking at all holds of a host; replicas are asked.
const holdsTimeout = 2 * time.Minute

type holdsFlags struct {
	*nodeFlags
	out    *outputFlags
	reap   bool
	dryRun bool
}

func newCmdAgentHolds(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "holds [DATASET]",
		Short: "List who keeps snapshots from being destroyed, and release what is dead",
		Long: `List the holds on the snapshots of all ZFS hosts, or on those of one dataset and
what lies below it: who placed each, for what, and whether it is

  live     needed, or its lease is not over
  expired  its lease is over
  orphan   ours, and what it was for is over or not known
  foreign  not ours

--reap releases the dead ones: those whose lease is over, those of a run that is
over, and those of replication when every replica has a newer snapshot. What the
next increment may start from is never released, nor is a hold of somebody else.
A backup that Velero does not know is shown; its hold is not released:
kubectl dr agent forget destroys the snapshots of one.` + exitStatus,
		Example: `  # Who holds snapshots, everywhere?
  kubectl dr agent holds

  # What would be released on one host, and release it
  kubectl dr agent holds --node=hassio --reap --dry-run
  kubectl dr agent holds --node=hassio --reap`,
		Args: cobra.MaximumNArgs(1),
	}
	f := &holdsFlags{nodeFlags: addNodeFlags(c), out: addOutputFlags(c)}
	c.Flags().BoolVar(&f.reap, "reap", false, "release the dead holds, and print those alone")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "with --reap: print what would be released, and release nothing")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		dataset := strings.Join(args, "")
		if f.dryRun && !f.reap {
			return errors.New("--dry-run goes with --reap: without it nothing is released anyway")
		}
		if dataset != "" {
			if err := zfs.ValidateDataset(dataset); err != nil {
				return err
			}
		}
		s, err := g.openSite(ctx, e)
		if err != nil {
			return err
		}
		return f.holds(ctx, e, s, dataset)
	})
	return c
}

func (f *holdsFlags) holds(ctx context.Context, e *env, s *site, dataset string) error {
	runs, err := run.Runs(ctx, s.cluster.Client, s.cluster.Namespace, "")
	if err != nil {
		return err
	}
	req := &agentpb.ListHoldsRequest{Dataset: dataset}
	for _, r := range runs {
		if !r.InProgress() {
			req.Over = append(req.Over, holds.OwnerRun+r.Name)
		}
	}
	replies, err := cluster.AskAgents(ctx, s.storage, f.nodes, holdsTimeout, e.now, func(ctx context.Context, a cluster.Agent) (*agentpb.ListHoldsResponse, error) {
		if f.reap && !f.dryRun {
			return a.ReapHolds(ctx, req)
		}
		return a.ListHolds(ctx, req)
	})
	if err != nil {
		return err
	}
	backups, err := backupNames(ctx, s.cluster)
	if err != nil {
		return err
	}
	r := &report.Holds{TypeMeta: report.TypeMeta("HoldReport"), ObjectMeta: metav1.ObjectMeta{Name: "agents"}, At: metav1.NewTime(e.now()), Holds: []report.Hold{}}
	var errs []error
	for _, reply := range replies {
		// A dataset lies on some of the hosts.
		if errors.Is(reply.Err, agent.ErrNotFound) && slices.ContainsFunc(replies, func(o cluster.Reply[*agentpb.ListHoldsResponse]) bool { return o.Err == nil }) {
			continue
		}
		if reply.Err != nil {
			r.Missing = append(r.Missing, report.AgentInfo{Node: reply.Node, Error: reply.Err.Error()})
			errs = append(errs, fmt.Errorf("holds on node %s: %w", reply.Node, reply.Err))
			continue
		}
		for _, h := range reply.Said.GetHolds() {
			item := hold(reply.Node, h)
			name, ofBackup := strings.CutPrefix(item.Owner, holds.OwnerBackup)
			if ofBackup && !slices.Contains(backups, name) && e.now().Sub(item.Placed.Time) > forget.MinAge {
				item.State, item.Reason = string(holds.Orphan), "Velero here has no backup of that name"
			}
			if f.reap && !item.Dead {
				continue
			}
			if item.Error != "" {
				errs = append(errs, fmt.Errorf("release hold %s of %s on node %s: %s", item.Tag, item.Snapshot, item.Node, item.Error))
			}
			r.Holds = append(r.Holds, item)
		}
	}
	if len(r.Holds) == 0 && *f.out.print.OutputFormat == "" {
		what := "holds"
		if f.reap {
			what = "dead holds"
		}
		fmt.Fprintf(e.ErrOut, "there are no %s\n", what)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, f.out.result(e, r))...)
}

func hold(node string, h *agentpb.SnapshotHold) report.Hold {
	item := report.Hold{
		Node: node, Snapshot: h.GetSnapshot(), GUID: strconv.FormatUint(h.GetGuid(), 10), Tag: h.GetTag(),
		By: h.GetBy(), Owner: h.GetOwner(), Why: h.GetWhy(), Placed: metav1.Unix(h.GetCreatedUnix(), 0),
		State: h.GetState(), Reason: h.GetReason(), Dead: h.GetDead(), Released: h.GetReleased(), Error: h.GetError(),
	}
	if h.GetUntilUnix() != 0 {
		until := metav1.Unix(h.GetUntilUnix(), 0)
		item.Until = &until
	}
	return item
}

func backupNames(ctx context.Context, cl *cluster.Cluster) ([]string, error) {
	list := &velerov1api.BackupList{}
	if err := cl.Client.List(ctx, list, client.InNamespace(cl.Namespace)); err != nil {
		return nil, fmt.Errorf("list backups in namespace %s: %w", cl.Namespace, err)
	}
	var all []string
	for _, b := range list.Items {
		all = append(all, b.Name)
	}
	return all, nil
}

type certsFlags struct {
	out           *outputFlags
	issuer        certs.Issuer
	trust         string
	apply, dryRun bool
}

func newCmdAgentCerts(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "certs",
		Short: "Issue the TLS bundles of agents and their clients",
		Long: `Issue the TLS bundles of the agents on all nodes that the VolumeSnapshotLocations
name, of Velero's plugin and of kubectl dr. They are written to --ca-dir, readable
by their owner only, beside the CA, which is made on first use. Keep ca.key there.

--apply writes those that this cluster needs to its Secrets too: the plugin's to
the one that a VolumeSnapshotLocation names as its credential, and those of nodes
of this cluster to that of the agents' DaemonSet. Run it once in each cluster with
the same --ca-dir; copy the files of hosts without Kubernetes there yourself. What
a Secret holds is replaced if it is of the same CA. Agents and the plugin read new
bundles without a restart.

Keys are never printed, unless -o yaml or -o json asks for the Secrets themselves.

To replace the CA, issue all bundles by the old one with --trust=NEW/ca.crt, then
all by the new one with --trust=OLD/ca.crt, then all without.` + exitStatus,
		Example: `  # What would be issued?
  kubectl dr agent certs --dry-run

  # Issue all, or renew, and put them in both clusters
  kubectl dr agent certs --ca-dir=ca --apply
  kubectl dr agent certs --ca-dir=ca --apply --context=primary

  # Secrets for a GitOps repository that encrypts them
  kubectl dr agent certs --ca-dir=ca -o yaml | sops --encrypt /dev/stdin`,
		Args: cobra.NoArgs,
	}
	f := &certsFlags{out: addOutputFlags(c), issuer: certs.Issuer{Now: e.now}}
	fl := c.Flags()
	fl.StringVar(&f.issuer.Dir, "ca-dir", "kubectl-dr-ca", "directory of the CA, and of the bundles")
	fl.StringVar(&f.trust, "trust", "", "PEM file with CA certificates that bundles trust as well, to replace a CA")
	fl.StringSliceVar(&f.issuer.Clients, "client", nil, "issue a bundle for a client of this name too (repeatable)")
	fl.StringVar(&f.issuer.AgentNamespace, "agent-namespace", "kubectl-dr", "namespace of the agents' DaemonSet")
	fl.StringVar(&f.issuer.AgentSecret, "agent-secret", "zfs-agent-tls", "Secret of the agents' DaemonSet, with a key NODE.pem for each node")
	fl.BoolVar(&f.apply, "apply", false, "write the Secrets of this cluster")
	fl.BoolVar(&f.issuer.Replace, "replace", false, "with --apply: replace bundles of another CA too")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print what would be issued, and issue nothing")
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		cl, err := e.open(g.recovery, g.namespace(nil))
		if err != nil {
			return err
		}
		return f.certs(ctx, e, cl)
	})
	return c
}

// manifests reports whether Secrets were asked for by name.
func (f *certsFlags) manifests() bool {
	return *f.out.print.OutputFormat == "yaml" || *f.out.print.OutputFormat == "json"
}

func (f *certsFlags) validate() error {
	switch format := *f.out.print.OutputFormat; {
	case f.issuer.Replace && !f.apply:
		return errors.New("--replace goes with --apply")
	case f.dryRun && f.apply:
		return errors.New("--dry-run and --apply exclude each other")
	case f.manifests() && (f.apply || f.dryRun):
		return fmt.Errorf("-o %s prints the Secrets with their keys: it goes with neither --apply nor --dry-run", format)
	}
	if f.trust == "" {
		return nil
	}
	var err error
	f.issuer.Trust, err = certs.ReadTrust(f.trust)
	return err
}

func (f *certsFlags) certs(ctx context.Context, e *env, cl *cluster.Cluster) error {
	f.issuer.Client = cl.Client
	locations, err := cl.SnapshotLocations(ctx)
	if err != nil {
		return err
	}
	bundles, err := f.issuer.Plan(ctx, locations)
	if err != nil {
		return err
	}
	r := &report.Certificates{TypeMeta: report.TypeMeta("CertificateReport"), ObjectMeta: metav1.ObjectMeta{Name: "agents"}}
	for _, b := range bundles {
		item := report.Certificate{Identity: b.Identity, Role: "client", File: b.File, State: "planned"}
		if b.Node {
			item.Role = "agent"
		}
		for _, p := range b.Secrets {
			item.Secrets = append(item.Secrets, p.String())
		}
		r.Certificates = append(r.Certificates, item)
	}
	if f.dryRun {
		return f.out.result(e, r)
	}
	if f.apply {
		if err := f.issuer.CheckSecrets(ctx, bundles); err != nil {
			return err
		}
	}
	issued, err := f.issuer.Issue(bundles)
	if err != nil {
		return err
	}
	for i := range r.Certificates {
		expires := metav1.NewTime(issued.Expires[r.Certificates[i].Identity])
		r.Certificates[i].State, r.Certificates[i].Expires = "issued", &expires
	}
	if f.manifests() {
		return f.out.result(e, &corev1api.SecretList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: certs.Secrets(bundles, issued),
		})
	}
	if f.apply {
		if err := f.issuer.Apply(ctx, bundles, issued); err != nil {
			return err
		}
		for i := range r.Certificates {
			if len(r.Certificates[i].Secrets) > 0 {
				r.Certificates[i].State = "applied"
			}
		}
	}
	return f.out.result(e, r)
}
