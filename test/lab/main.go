// Command lab brings up, shows and takes down rigs: two sites with OpenZFS,
// Kubernetes and Velero on one machine, for tests and for the demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	var exit exitError
	switch {
	case errors.As(err, &exit):
		os.Exit(int(exit))
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// exitError ends the command with a status and no further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "Run the test rig: two sites with OpenZFS, Kubernetes and Velero",
		Long: `Run the test rig: two sites with OpenZFS, Kubernetes and Velero.

A rig lives in a folder, ~/.local/state/kubectl-dr/lab/NAME unless --dir or
$KUBECTL_DR_LAB says otherwise, and keeps running after the command has ended.
Any number of rigs may run at once under different names.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var which selection
	root.PersistentFlags().StringVar(&which.name, "name", "default", "name of the rig")
	root.PersistentFlags().StringVar(&which.dir, "dir", "", "folder of the rig")
	root.AddCommand(newUp(&which), newDown(&which), newStatus(&which), newEnv(&which),
		newExec(&which), newStop(&which), newStart(&which), newBuild())
	return root
}
