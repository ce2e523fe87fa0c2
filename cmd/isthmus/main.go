// Command isthmus is the program for people: it runs the whole system on this
// machine to try it (up, down, status) and shows what it does (demo).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-hpc/isthmus/cmd/internal/version"
)

func main() {
	// The client library would complain that nobody listens to it.
	ctrllog.SetLogger(logr.Discard())
	// One Ctrl-C asks for an orderly end; with the second the default holds again
	// and this program dies. What it started then ends through its tether.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			os.Exit(130) // as after SIGINT, by the shells' custom
		}
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "isthmus",
		Version: version.String(),
		Short:   "Slurm clusters as Kubernetes nodes, and a gang scheduler for them",
		Long: "Isthmus shows Slurm clusters to Kubernetes as nodes and runs Volcano Jobs on them.\n" +
			"With this program you try the whole of it on one machine.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(demoCommand(), upCommand(), downCommand(), statusCommand(), prepareCommand(), tetherCommand(),
		snapshotCommand(), replayCommand(), explainCommand(), topCommand(), simulateCommand(), imagesCommand())
	return root
}
