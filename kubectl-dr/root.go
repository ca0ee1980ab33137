// Package kubectldr is the command kubectl dr: flags, output and exit status.
// What the verbs do is in the packages below, which print nothing.
package kubectldr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/check"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/registry"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Exit statuses.
const (
	exitOK          = 0
	exitError       = 1
	exitUnhealthy   = 2
	exitTimeout     = 124
	exitInterrupted = 130
)

const exitStatus = `

Exit status: 0 ok; 1 error or wrong usage; 2 checked and not healthy (RPO
exceeded, problems found, drill failed or objective missed); 124 timeout;
130 interrupted.`

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("the time given with --timeout is up")

// unhealthyError ends a command that worked and found something wrong. What it
// found was printed already unless there is an error too.
type unhealthyError struct{ err error }

func (e *unhealthyError) Error() string {
	if e.err == nil {
		return "not healthy"
	}
	return e.err.Error()
}
func (e *unhealthyError) Unwrap() error { return e.err }

// env is what commands need of the world; tests replace it.
type env struct {
	genericiooptions.IOStreams
	now         func() time.Time
	interval    time.Duration
	interactive func() bool
	terminal    func() bool // standard output is one
	typed       func() *bufio.Reader
	readSecret  func(ctx context.Context) ([]byte, error)
	sshAgent    string // its socket
	holder      string
	open        func(getter cluster.RESTClientGetter, veleroNamespace string) (*cluster.Cluster, error)
	storage     func(ctx context.Context, c *cluster.Cluster, opts cluster.AgentOptions) (*cluster.Storage, error)
	objects     func(ctx context.Context, getter genericclioptions.RESTClientGetter, namespaces []string) ([]*unstructured.Unstructured, error)
	images      func() check.Images
	services    func() check.Services
	names       func(server string) traffic.Names
}

func newEnv(streams genericiooptions.IOStreams) *env {
	host, _ := os.Hostname()
	return &env{
		IOStreams: streams,
		now:       time.Now,
		interval:  time.Second,
		interactive: func() bool {
			f, ok := streams.In.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		},
		terminal: func() bool {
			f, ok := streams.Out.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		},
		typed:      sync.OnceValue(func() *bufio.Reader { return bufio.NewReader(streams.In) }),
		readSecret: func(ctx context.Context) ([]byte, error) { return readSecret(ctx, streams.In.(*os.File)) },
		sshAgent:   os.Getenv("SSH_AUTH_SOCK"),
		holder:     fmt.Sprintf("%s:%d", host, os.Getpid()),
		open:       cluster.Open,
		objects: func(ctx context.Context, getter genericclioptions.RESTClientGetter, namespaces []string) ([]*unstructured.Unstructured, error) {
			in := &rewrite.Input{}
			for _, namespace := range namespaces {
				if err := readCluster(ctx, in, getter, namespace); err != nil {
					return nil, err
				}
			}
			return in.Objects, nil
		},
		images:   func() check.Images { return &registry.Client{} },
		services: func() check.Services { return &check.ServiceClient{} },
		names:    func(server string) traffic.Names { return &dns.Client{Server: server} },
		storage: func(ctx context.Context, c *cluster.Cluster, opts cluster.AgentOptions) (*cluster.Storage, error) {
			s, err := c.OpenStorage(ctx, opts)
			if err == nil {
				for _, name := range slices.Sorted(maps.Keys(s.Broken)) {
					fmt.Fprintf(streams.ErrOut, "warning: %v; going on without it\n", s.Broken[name])
				}
			}
			return s, err
		},
	}
}

func (e *env) colour() bool { return e.terminal() && os.Getenv("NO_COLOR") == "" }

// Main runs kubectl dr and returns its exit status.
func Main(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	return execute(ctx, args, newEnv(streams))
}

func execute(ctx context.Context, args []string, e *env) int {
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	printError(e.ErrOut, err)
	var unhealthy *unhealthyError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, errTimeout):
		return exitTimeout
	case errors.As(err, &unhealthy):
		return exitUnhealthy
	}
	return exitError
}

// NewCommand returns the root command.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command { return newRoot(newEnv(streams)) }

// printError prints an error and what can be done about it.
func printError(w io.Writer, err error) {
	var unhealthy *unhealthyError
	if err == nil || errors.As(err, &unhealthy) && unhealthy.err == nil {
		return
	}
	fmt.Fprintf(w, "error: %s\n", strings.TrimSpace(err.Error()))
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		fmt.Fprintf(w, "hint: %s\n", hint.Hint())
	}
}

// globalFlags are those of every command.
type globalFlags struct {
	recovery         *genericclioptions.ConfigFlags
	source           *genericclioptions.ConfigFlags
	veleroNamespace  string
	agents           map[string]string
	agentCredentials string
	timeout          time.Duration
}

func newRoot(e *env) *cobra.Command {
	flags := &globalFlags{recovery: genericclioptions.NewConfigFlags(true), source: &genericclioptions.ConfigFlags{}}
	flags.recovery.Namespace, flags.recovery.CacheDir, flags.recovery.DisableCompression = nil, nil, nil
	flags.source.Context, flags.source.KubeConfig = new(string), new(string)
	root := &cobra.Command{
		Use:   "kubectl-dr",
		Short: "Rehearse, measure and run disaster recovery",
		Long: `Rehearse, measure and run the recovery of applications that Velero backs up and
zfs-agent replicates.

kubectl dr works in the recovery cluster, which is the current context: that one
is left after a disaster. Plans and the journal of runs are kept there. Nothing
but a planned failover needs the source.` + exitStatus,
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl dr"},
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
	}
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.ErrOut)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hint.Add(err, fmt.Sprintf("%s --help lists the flags", c.CommandPath()))
	})
	f := root.PersistentFlags()
	flags.recovery.AddFlags(f)
	f.StringVar(flags.source.Context, "source-context", "", "context of the source cluster; a planned failover needs it")
	f.StringVar(flags.source.KubeConfig, "source-kubeconfig", "", "kubeconfig of the source cluster, if it is another file")
	f.StringVar(&flags.veleroNamespace, "velero-namespace", "", "namespace of Velero, of plans and of runs (default: the plan's, or velero)")
	f.StringToStringVar(&flags.agents, "agents", nil, "node=host:port,… where agents are reached from here, if not as in the VolumeSnapshotLocation")
	f.StringVar(&flags.agentCredentials, "agent-credentials", "", "PEM bundle for the agents, if not the VolumeSnapshotLocation's credential")
	f.DurationVar(&flags.timeout, "timeout", 0, "give up after this time; 0 never does")

	root.AddGroup(
		&cobra.Group{ID: groupCheck, Title: "Look:"},
		&cobra.Group{ID: groupAct, Title: "Act:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	for _, add := range []func(*env, *globalFlags) *cobra.Command{
		newCmdCheck, newCmdStatus, newCmdRPO, newCmdExporter, newCmdHistory, newCmdReport, newCmdRewrite, newCmdCompare,
		newCmdProtect, newCmdSync, newCmdDrill, newCmdFailover, newCmdRollback, newCmdReprotect, newCmdFailback, newCmdRebuild,
		newCmdPlan, newCmdAgent, newCmdEtcd, newCmdGitOps, newCmdSupportBundle, newCmdVersion,
	} {
		root.AddCommand(add(e, flags))
	}
	return root
}

const (
	groupCheck = "check"
	groupAct   = "act"
	groupOther = "other"
)

// bounded applies --timeout.
func (g *globalFlags) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if g.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, g.timeout, errTimeout)
}

// run makes a command's function of one that takes a bounded context, and says
// why the context ended where the error only says that it did.
func (g *globalFlags) run(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		ctx, cancel := g.bounded(c.Context())
		defer cancel()
		err := do(ctx, args)
		if err != nil && ctx.Err() != nil && !errors.Is(err, errTimeout) && errors.Is(context.Cause(ctx), errTimeout) {
			return fmt.Errorf("%w: %w", errTimeout, err)
		}
		return err
	}
}
