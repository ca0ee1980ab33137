package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// stopTimeout is how long calls may take to finish when the agent is stopped.
// A stream that is cut off continues later from where it was.
const stopTimeout = 10 * time.Second

type serveOptions struct {
	node          string
	listen        string
	tls           string
	config        string
	metricsListen string
	hostRoot      string
	poolDevices   string
	poolTransfers int
	archives      []string
	bandwidth     []string
	stallTimeout  time.Duration
	reapEvery     time.Duration
	logFormat     string
}

func newServeCommand() *cobra.Command {
	o := &serveOptions{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the datasets of this host",
		Long: `Serve the datasets of this host over gRPC with mutual TLS 1.3.

The identity of a caller is the common name of its certificate; the policy says
what each identity may do with which datasets, and denies everything else. The
TLS bundle is one PEM file with CA certificates, own certificate and key; it is
read again when it changes.

The agent destroys only what was made by kubectl-dr, and never rolls a dataset
back. It keeps no state of its own: it may be stopped or killed at any time.`,
		Example: `  # Serve this host
  zfs-agent serve --node=$(hostname) --tls=/etc/zfs-agent/tls.pem --config=/etc/zfs-agent/agent.yaml

  # and let backups go to an archive that locations call offsite
  zfs-agent serve --node=$(hostname) --tls=/etc/zfs-agent/tls.pem --config=/etc/zfs-agent/agent.yaml \
    --archive=offsite=/etc/zfs-agent/archive.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), o.logFormat)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.node, "node", "", "name of this node; its certificate must be issued to it (default: the host's name)")
	f.StringVar(&o.listen, "listen", ":7443", "address to serve on")
	f.StringVar(&o.tls, "tls", "", "TLS bundle: CA certificates, own certificate and key in one PEM file")
	f.StringVar(&o.config, "config", "", "policy: who may do what, in YAML")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "address to serve Prometheus metrics (/metrics) and health (/healthz, /readyz) on, without TLS (default: none)")
	f.StringVar(&o.hostRoot, "host-root", "", "run the zfs and zpool of the file system mounted there, for an agent in a container")
	f.StringVar(&o.poolDevices, "pool-devices", "", "directory in which the disks of pools to import are looked for (default: where zpool looks)")
	f.IntVar(&o.poolTransfers, "pool-transfers", 2, "how many transfers read from one pool at a time")
	f.StringArrayVar(&o.archives, "archive", nil, "archive that snapshots may be kept in and restored from, as NAME=FILE; the file is that of zfs-agent archive (repeatable)")
	f.StringArrayVar(&o.bandwidth, "bandwidth-limit", nil, "how many bytes a second to send at most: 50MiB for all transfers together, NODE=10MiB for those to one node or archive (repeatable)")
	f.DurationVar(&o.stallTimeout, "stall-timeout", 30*time.Minute, "how long a transfer may move no data before it fails")
	f.DurationVar(&o.reapEvery, "reap-every", time.Hour, "how often holds are looked at and dead ones released, see zfs-agent holds; 0 for never")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	for _, name := range []string{"tls", "config"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func (o *serveOptions) run(ctx context.Context, log *slog.Logger) error {
	if o.node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name this node: %w", err)
		}
		o.node = host
	}
	bundle, err := agent.LoadBundle(o.tls)
	if err != nil {
		return err
	}
	if id := bundle.Identity(); id != o.node {
		return fmt.Errorf("the certificate in %s is issued to %q, and --node is %q: other agents would not accept it", o.tls, id, o.node)
	}
	policy, err := agent.LoadPolicy(o.config)
	if err != nil {
		return err
	}
	archives, err := agent.LoadArchives(o.archives)
	if err != nil {
		return err
	}
	bandwidth, err := agent.ParseBandwidth(o.bandwidth)
	if err != nil {
		return err
	}
	metrics := newMetrics(o.node, bundle)
	server := &agent.Server{
		Node: o.node, Bundle: bundle, Policy: policy, Log: log, PoolTransfers: o.poolTransfers, OnTransfer: metrics.transfer,
		OnHang: metrics.hang, Archives: archives, Bandwidth: bandwidth, StallTimeout: o.stallTimeout,
		ReapEvery: o.reapEvery, HoldAfter: time.Second, ClockSynchronized: clockSynchronized, Delegated: os.Geteuid() != 0,
	}
	if server.ZFS, err = hostZFS(o.hostRoot); err != nil {
		return err
	}
	server.ZFS.Devices = o.poolDevices
	if o.hostRoot != "" {
		server.MountTable = filepath.Join(o.hostRoot, "proc/1/mounts")
	}
	metrics.observe(server)
	// Each Listen may fail for a reason of its own, so both come first.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	if o.metricsListen != "" {
		l, err := net.Listen("tcp", o.metricsListen)
		if err != nil {
			return err
		}
		web := &http.Server{Handler: metrics.handler(server), ReadHeaderTimeout: 10 * time.Second}
		defer web.Close()
		go func() {
			if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				log.Error("metrics are not served", "error", err)
			}
		}()
	}
	log.Info("serving", "version", names.Version, "node", o.node, "address", listener.Addr().String(),
		"identities", len(policy.Identities), "certificate_expires", bundle.Expires().Format(time.RFC3339))

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("stopping")
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	server.Stop(stopCtx)
	return <-served
}

// newLogger writes records with fields, one a line.
func newLogger(w io.Writer, format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	default:
		return nil, fmt.Errorf("log format %q is neither text nor json", format)
	}
}
