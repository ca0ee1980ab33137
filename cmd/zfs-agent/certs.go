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
	var dir string
	var nodes, clients []string
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Issue TLS bundles for agents and their clients",
		Long: `Issue TLS bundles for agents and their clients, and print the files written.

The CA lies in --ca-dir (ca.crt and ca.key) and is made on first use. A bundle is
written beside it as NAME.pem, in the place of an earlier one; it holds CA
certificate, own certificate and key. All files are readable by their owner only.
Keep ca.key off the nodes.`,
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
			for _, names := range []struct {
				names []string
				issue func(string, time.Time) ([]byte, error)
			}{{nodes, ca.Node}, {clients, ca.Client}} {
				for _, name := range names.names {
					if name == "" || name != filepath.Base(name) {
						return fmt.Errorf("issue certificate: %q is not a name", name)
					}
					bundle, err := names.issue(name, now)
					if err != nil {
						return err
					}
					file := filepath.Join(dir, name+".pem")
					if err := write(file, bundle); err != nil {
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
	f.StringArrayVar(&nodes, "node", nil, "issue the bundle of this node's agent (repeatable)")
	f.StringArrayVar(&clients, "client", nil, "issue the bundle of a client of this name (repeatable)")
	return cmd
}

// write replaces a file at once, so that an agent reading it sees one bundle or
// the other.
func write(file string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}
