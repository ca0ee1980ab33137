package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

func newCertsCommand() *cobra.Command {
	var dir, trust string
	var nodes, clients []string
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Issue TLS bundles for agents and their clients",
		Long: `Issue TLS bundles for agents and their clients, and print the files written.

The CA lies in --ca-dir (ca.crt and ca.key) and is made on first use. A bundle is
written beside it as NAME.pem, in the place of an earlier one; it holds CA
certificate, own certificate and key. All files are readable by their owner only.
Keep ca.key off the nodes. Agents read a bundle again when it changes.

To replace the CA, issue all bundles by the old one with --trust=NEW/ca.crt, then
all by the new one with --trust=OLD/ca.crt, then all without: at no time does a
bundle meet one it does not trust.`,
		Example: `  # The bundles of two nodes, and of Velero's plugin
  zfs-agent certs --ca-dir=./tls --node=hassio --node=remote --client=velero`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(nodes)+len(clients) == 0 {
				return errors.New("issue certificates: name a --node or a --client")
			}
			now := time.Now()
			ca, err := agent.OpenAuthority(dir, now)
			if err != nil {
				return err
			}
			if trust != "" {
				data, err := os.ReadFile(trust)
				if err != nil {
					return fmt.Errorf("read authority to trust: %w", err)
				}
				if err := ca.Trust(data); err != nil {
					return fmt.Errorf("read authority to trust from %s: %w", trust, err)
				}
			}
			for _, names := range []struct {
				names []string
				issue func(string, time.Time) ([]byte, error)
			}{{nodes, ca.Node}, {clients, ca.Client}} {
				for _, name := range names.names {
					bundle, err := names.issue(name, now)
					if err != nil {
						return err
					}
					file := filepath.Join(dir, name+".pem")
					if err := agent.WriteBundle(file, bundle); err != nil {
						return err
					}
					if _, err := fmt.Fprintln(cmd.OutOrStdout(), file); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "ca-dir", ".", "directory of the CA, and of what it issues")
	f.StringVar(&trust, "trust", "", "PEM file with CA certificates that bundles trust as well, to replace a CA")
	f.StringArrayVar(&nodes, "node", nil, "issue the bundle of this node's agent (repeatable)")
	f.StringArrayVar(&clients, "client", nil, "issue the bundle of a client of this name (repeatable)")
	return cmd
}
