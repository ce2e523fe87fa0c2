package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

const batchHelp = `batch system: "slurm" or "local"; by default Slurm where it can run, else local`

// defaultDir is where `isthmus up` keeps its environment.
func defaultDir() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the state directory: %w (use --dir)", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "isthmus", "up"), nil
}

// dirFlag adds --dir; the function it returns gives its value or the default.
func dirFlag(cmd *cobra.Command) func() (string, error) {
	dir := cmd.Flags().String("dir", "", "state directory (default $XDG_STATE_HOME/isthmus/up)")
	return func() (string, error) {
		if *dir != "" {
			return filepath.Abs(*dir)
		}
		return defaultDir()
	}
}

func upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a control plane, a batch system and Isthmus on this machine and leave them running",
		Args:  cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	batch := cmd.Flags().String("batch", "", batchHelp)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		return up(cmd.Context(), cmd.OutOrStdout(), d, *batch)
	}
	return cmd
}

func up(ctx context.Context, out io.Writer, dir, batch string) error {
	if environment.Exists(dir) {
		return upAgain(ctx, out, dir, batch)
	}
	fmt.Fprintln(out, "Starting Isthmus on this machine.")
	e, err := environment.Start(ctx, environment.Config{Dir: dir, Batch: batch, Detached: true, Progress: out})
	if err != nil {
		// Nothing runs any more; the logs go where they do not stop the next try.
		kept := keepLogs(dir)
		return fmt.Errorf("%w\nkept: %s", err, kept)
	}
	explain(out, e)
	return nil
}

// keepLogs moves the directory of a failed start aside and returns its new place.
func keepLogs(dir string) string {
	kept := dir + ".failed"
	if err := errors.Join(os.RemoveAll(kept), os.Rename(dir, kept)); err != nil {
		return dir
	}
	return kept
}

// upAgain is the second `up`: it says so, and repairs what has died.
func upAgain(ctx context.Context, out io.Writer, dir, batch string) error {
	e, err := environment.Attach(dir, out)
	if err != nil {
		return err
	}
	if !e.Ready {
		return fmt.Errorf("%s is being started, or its start was cut short; `isthmus down --dir %s` clears it away", dir, dir)
	}
	if batch != "" && batch != e.Batch {
		return fmt.Errorf("it runs already, with batch system %s; `isthmus down` first to change to %s", e.Batch, batch)
	}
	dead := e.Dead()
	if len(dead) > 0 {
		fmt.Fprintf(out, "It was up, but these had ended: %v. Starting them again.\n", dead)
		if err := e.Repair(ctx); err != nil {
			return fmt.Errorf("%w\nif that lasts: isthmus down --dir %s, then isthmus up", err, dir)
		}
	} else {
		if err := e.CheckNodes(ctx); err != nil {
			return fmt.Errorf("it is up, but %w", err)
		}
		fmt.Fprintln(out, "It is up already, and healthy.")
	}
	explain(out, e)
	return nil
}

func explain(out io.Writer, e *environment.Environment) {
	fmt.Fprintf(out, `
Isthmus is up: batch system %s, virtual nodes %v.

  export KUBECONFIG=%s
  export PATH=%s:$PATH     # a matching kubectl
  kubectl get nodes
  kubectl apply -f test/examples/allreduce.yaml
  kubectl get vcjob,podgroup,pods

Logs: %s/*/logs. Jobs of namespace default run as user %s. End it with: isthmus down
`, e.Batch, e.Nodes, e.Kubeconfig, filepath.Dir(e.Kubectl), e.Dir, e.User)
}

func downCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End what `up` started and remove it",
		Args:  cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if !environment.Exists(d) {
			fmt.Fprintf(out, "Nothing is up in %s.\n", d)
			return nil
		}
		e, err := environment.Attach(d, out)
		if err != nil {
			return err
		}
		if err := e.Stop(); err != nil {
			return err
		}
		if err := e.Remove(); err != nil {
			return err
		}
		fmt.Fprintln(out, "Isthmus is down: all processes have ended and its files are removed.")
		return nil
	}
	return cmd
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether what `up` started is running",
		Long:  "Lists the processes and the virtual nodes. Exits 0 when all run, 1 otherwise.",
		Args:  cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		if !environment.Exists(d) {
			return fmt.Errorf("nothing is up in %s", d)
		}
		e, err := environment.Attach(d, io.Discard)
		if err != nil {
			return err
		}
		return status(cmd.Context(), cmd.OutOrStdout(), e)
	}
	return cmd
}

func status(ctx context.Context, out io.Writer, e *environment.Environment) error {
	fmt.Fprintf(out, "batch system %s, state in %s\n", e.Batch, e.Dir)
	for _, p := range e.Processes() {
		state := "runs"
		if !p.Alive() {
			state = "has ended"
		}
		fmt.Fprintf(out, "  %-24s process %-7d %s, log %s\n", p.Name, p.PID, state, p.Log)
	}
	if dead := e.Dead(); len(dead) > 0 {
		return fmt.Errorf("these have ended: %v; `isthmus up` starts them again", dead)
	}
	kubectl := e.KubectlCommand(ctx, "get", "nodes", "--request-timeout=10s")
	kubectl.Stdout, kubectl.Stderr = out, out
	return kubectl.Run()
}

func prepareCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Build the control plane and install what demo, up and the tests need",
		Args:  cobra.NoArgs,
	}
	assets := cmd.Flags().Bool("assets", false, "only print the directory of the control plane's programs (KUBEBUILDER_ASSETS)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !*assets {
			return environment.Prepare(cmd.Context(), cmd.OutOrStdout())
		}
		dir, err := controlplane.EnsureBuilt(cmd.Context(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), dir)
		return nil
	}
	return cmd
}

// tetherCommand is not for people: the environment starts it for itself.
func tetherCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tether", Hidden: true, Args: cobra.NoArgs}
	dir := cmd.Flags().String("dir", "", "directory of the environment")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return environment.Tether(cmd.Context(), *dir, cmd.InOrStdin(), cmd.OutOrStdout())
	}
	return cmd
}
