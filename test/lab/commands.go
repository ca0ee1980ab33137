package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/rig"
)

// selection says which rig is meant.
type selection struct{ name, dir string }

func (s *selection) open() (*rig.Rig, error) { return rig.Open(s.name, s.dir) }

// beside is a path relative to this program's folder.
func beside(elem ...string) string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Join(append([]string{filepath.Dir(self)}, elem...)...)
}

func newUp(which *selection) *cobra.Command {
	var o rig.Options
	var nodes int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the rig up: start what is not running and wait until all is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes != 0 && nodes != 2 {
				return fmt.Errorf("--nodes=%d: a rig has 2 Kubernetes nodes or none", nodes)
			}
			switch {
			case nodes == 0 && o.WordPress:
				return errors.New("--wordpress: hosts without Kubernetes run no pods; leave out --nodes=0")
			case nodes == 0 && o.OneCluster:
				return errors.New("--one-cluster: hosts without Kubernetes are in none; leave out --nodes=0")
			}
			o.Name, o.Dir, o.Light, o.Progress = which.name, which.dir, nodes == 0, cmd.ErrOrStderr()
			_, err := rig.Up(cmd.Context(), o)
			return err
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 2, "number of Kubernetes nodes: 2, or 0 for the two ZFS hosts alone")
	cmd.Flags().BoolVar(&o.WordPress, "wordpress", false, "nodes can run a WordPress: with its images, and kube-proxy")
	cmd.Flags().BoolVar(&o.Stretched, "stretched", false, "both hosts have the same two disks, site-a and site-b, for a pool mirrored over them")
	cmd.Flags().BoolVar(&o.OneCluster, "one-cluster", false, "both nodes are in the cluster primary; control plane dr is started by lab start alone, once etcd/dr of the rig's folder has data")
	cmd.Flags().StringVar(&o.Plugin, "plugin", beside("velero-plugin-zfs-dr"), "the Velero plugin under test")
	cmd.Flags().StringVar(&o.Agent, "agent", beside("zfs-agent"), "the agent under test")
	cmd.Flags().StringVar(&o.CRDs, "crds", beside("..", "examples", "crds"), "folder with the product's CRDs")
	return cmd
}

func newDown(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the rig and remove everything it made",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := which.open()
			if errors.Is(err, rig.ErrNoRig) {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return nil
			}
			if err != nil {
				return err
			}
			return r.Down(cmd.Context(), cmd.ErrOrStderr())
		},
	}
}

func newStatus(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show every part of the rig",
		Long: `Show every part of the rig with its process, port, memory and log.

Exit status: 0 when everything runs, 1 otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := which.open()
			if errors.Is(err, rig.ErrNoRig) {
				fmt.Fprintln(cmd.OutOrStdout(), err)
				return exitError(1)
			}
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), r.Status(cmd.Context()))
		},
	}
}

func printStatus(out io.Writer, rows []rig.Row) error {
	const mebibyte = 1 << 20
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tPID\tPORT\tMEMORY\tLOG")
	running, resident := 0, int64(0)
	for _, row := range rows {
		pid, memory := "-", "-"
		if row.PID != 0 {
			pid, memory = fmt.Sprint(row.PID), fmt.Sprintf("%dMi", row.Resident/mebibyte)
		}
		if row.State == rig.Running {
			running++
		}
		resident += row.Resident
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", row.Name, row.State, pid, row.Port, memory, row.Log)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d of %d running, %dMi resident\n", running, len(rows), resident/mebibyte)
	if running < len(rows) {
		return exitError(1)
	}
	return nil
}

func newEnv(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		Short:   "Print the environment for working with the rig, for eval in a shell",
		Example: `  eval "$(lab env)"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := which.open()
			if err != nil {
				return err
			}
			for _, v := range r.Environment() {
				fmt.Fprintf(cmd.OutOrStdout(), "export %s=%s\n", v.Name, quote(v.Value))
			}
			// The product's own programs lie beside this one: kubectl finds its plugin there.
			fmt.Fprintf(cmd.OutOrStdout(), "export PATH=%s:%s:\"$PATH\"\n", quote(r.Bin()), quote(beside()))
			return nil
		},
	}
}

// quote makes one word of a text for a shell.
func quote(s string) string {
	plain := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("/._-:=,", c)
	}
	if strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func newExec(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:     "exec NODE -- COMMAND [ARGUMENT...]",
		Short:   "Run a command on a node; its exit status is this command's",
		Example: `  lab exec remote -- zfs list -t snapshot`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := which.open()
			if err != nil {
				return err
			}
			code, err := r.Exec(cmd.Context(), args[0], args[1:], rig.Streams{
				In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), ErrOut: cmd.ErrOrStderr()})
			if err == nil && code != 0 {
				return exitError(code)
			}
			return err
		},
	}
}

const targets = `
"primary" and "dr" are a site's control plane with its Velero server, "hassio"
and "remote" the machines, "s3" the object store; any name that "lab status"
shows is one part alone.`

func newStop(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:   "stop PART...",
		Short: "Stop parts of the rig, as a disaster would; a machine loses its power",
		Long:  "Stop parts of the rig, as a disaster would; a machine loses its power.\n" + targets,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := which.open()
			if err != nil {
				return err
			}
			return r.Stop(cmd.Context(), cmd.ErrOrStderr(), args...)
		},
	}
}

func newStart(which *selection) *cobra.Command {
	return &cobra.Command{
		Use:   "start PART...",
		Short: "Start parts of the rig that were stopped, and wait until they are ready",
		Long:  "Start parts of the rig that were stopped, and wait until they are ready.\n" + targets,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := which.open()
			if err != nil {
				return err
			}
			return r.Start(cmd.Context(), cmd.ErrOrStderr(), args...)
		},
	}
}

func newBuild() *cobra.Command {
	return &cobra.Command{
		Use:     "build PROGRAM...",
		Short:   "Build programs that rigs are made of, and print where each is",
		Example: `  lab build etcd kube-apiserver`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := build.Programs(cmd.Context(), build.Options{
				Tell: func(step, what string) { fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", step, what) },
			}, args...)
			if err != nil {
				return err
			}
			for _, name := range args {
				fmt.Fprintln(cmd.OutOrStdout(), files[name])
			}
			return nil
		},
	}
}
