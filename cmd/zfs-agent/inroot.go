package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// inRoot is the hidden command by which an agent in a container runs the host's
// zfs(8), which must fit the host's kernel module: it becomes the command it is
// given, with another root. The agent's own image needs no chroot(8) for that.
const inRoot = "in-root"

func newInRootCommand() *cobra.Command {
	return &cobra.Command{
		Use:                inRoot + " ROOT COMMAND [ARGUMENT...]",
		Hidden:             true,
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := syscall.Chroot(args[0]); err != nil {
				return fmt.Errorf("change root to %s: %w", args[0], err)
			}
			if err := os.Chdir("/"); err != nil {
				return err
			}
			if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
				return err
			}
			path, err := exec.LookPath(args[1])
			if err != nil {
				return err
			}
			return syscall.Exec(path, args[1:], os.Environ())
		},
	}
}

// hostZFS is the client of this host's ZFS, or of that whose file system is
// mounted at root.
func hostZFS(root string) (*zfs.Client, error) {
	if root == "" {
		return zfs.New(), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &zfs.Client{Runner: zfs.Exec{Prefix: []string{self, inRoot, root}}}, nil
}
