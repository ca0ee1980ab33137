// Command kubectl-dr is the kubectl plugin kubectl dr.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	kubectldr "github.com/kubectl-dr/kubectl-dr/kubectl-dr"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// What is under way is cleaned up after the first signal; a second one ends
	// the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(kubectldr.Main(ctx, os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
}
