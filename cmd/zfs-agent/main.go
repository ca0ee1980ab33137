// Command zfs-agent is the agent of a ZFS host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand(hostEnv()).ExecuteContext(ctx); err != nil {
		printError(os.Stderr, err)
		os.Exit(exitStatus(ctx, err))
	}
}

// printError prints an error and what can be done about it.
func printError(w io.Writer, err error) {
	fmt.Fprintln(w, "error:", err)
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) && hinter.Hint() != "" {
		fmt.Fprintln(w, "hint:", hinter.Hint())
	}
}

// errUnhealthy: what was checked is not as it should be.
var errUnhealthy = errors.New("not healthy")

func exitStatus(ctx context.Context, err error) int {
	switch {
	case errors.Is(err, errUnhealthy):
		return 2
	case ctx.Err() != nil:
		return 130
	default:
		return 1
	}
}

func newCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "zfs-agent",
		Short:         "Snapshot, replicate, archive and clone ZFS datasets on behalf of Velero and kubectl dr",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(newServeCommand(), newHoldsCommand(e), newDoctorCommand(e), newArchiveCommand(e), newCertsCommand(), newInRootCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), names.Version)
			return err
		},
	})
	return cmd
}
