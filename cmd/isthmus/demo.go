package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// What test/examples/allreduce.yaml holds.
const (
	demoNamespace = "default"
	demoJob       = "allreduce"
	demoMembers   = 4
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a distributed job going from Kubernetes to one Slurm job and back",
		Long: "Starts a real Kubernetes control plane, a real Slurm and Isthmus on this machine, submits a\n" +
			"Volcano Job with four members, follows it to its end, checks the outcome and clears all away.\n" +
			"Exits 0 only when every check holds.",
		Args: cobra.NoArgs,
	}
	batch := cmd.Flags().String("batch", "", batchHelp)
	most := cmd.Flags().Duration("timeout", 3*time.Minute, "how long the job may take once all is started")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &demo{out: &lines{to: cmd.OutOrStdout()}, began: time.Now(), timeout: *most}
		return d.run(cmd.Context(), *batch)
	}
	return cmd
}

// demo is one showing.
type demo struct {
	out     *lines
	env     *environment.Environment
	began   time.Time
	timeout time.Duration
	example string // path of the job's YAML
}

func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.out, "\n[%5.1fs] %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context, batch string) (err error) {
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	d.example = filepath.Join(root, "test", "examples", "allreduce.yaml")
	dir, err := os.MkdirTemp("", "isthmus-demo-")
	if err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	d.step("Starting a Kubernetes control plane, a batch system and Isthmus")
	d.env, err = environment.Start(ctx, environment.Config{Dir: dir, Batch: batch, Progress: d.out})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, os.RemoveAll(dir)) // nobody wants to know why
		}
		return interrupted(ctx, err)
	}
	defer func() { err = d.end(ctx, err) }()

	nodes, err := d.showNodes(ctx)
	if err != nil {
		return err
	}
	d.step("Submitting a Volcano Job with %d members: kubectl apply -f test/examples/allreduce.yaml", demoMembers)
	if _, err := d.kubectl(ctx, "apply", "-f", d.example); err != nil {
		return err
	}
	d.step("Following it (every line is a change)")
	w := newWatch(d)
	followCtx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	followErr := w.follow(followCtx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if followErr != nil {
		// The checks below say what does not hold; the reason why comes with them.
		followErr = fmt.Errorf("follow the job: %w", followErr)
	}
	return errors.Join(followErr, d.check(ctx, nodes, w))
}

// end clears everything away; after a failure the logs stay.
func (d *demo) end(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil {
		d.howToLookFurther()
	}
	d.step("Ending everything")
	if stopErr := d.env.Stop(); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("clear away: %w", stopErr))
	}
	left, leftErr := d.env.Left()
	if leftErr != nil || len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("after the end %d processes still run: %v", len(left), left), leftErr)
	}
	if err == nil || ctx.Err() != nil {
		if removeErr := d.env.Remove(); removeErr != nil {
			return errors.Join(err, removeErr)
		}
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	d.step("Done: nothing is left running")
	return nil
}

// interrupted says shortly that the person ended the demo, if so.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("interrupted; nothing is left running: %w", context.Canceled)
	}
	return err
}

// showNodes shows `kubectl get nodes` and returns its output.
func (d *demo) showNodes(ctx context.Context) (string, error) {
	d.step("Each partition of the batch system is a Kubernetes node: kubectl get nodes")
	out, err := d.kubectl(ctx, "get", "nodes", "-L", "isthmus.sh/partition")
	if err != nil {
		return "", err
	}
	fmt.Fprintln(d.out)
	_, err = d.kubectl(ctx, "get", "nodes", "-o",
		`custom-columns=NODE:.metadata.name,CPU:.status.allocatable.cpu,MEMORY:.status.allocatable.memory,GPU:.status.allocatable.nvidia\.com/gpu,PODS:.status.allocatable.pods`)
	return out, err
}

// kubectl runs it, shows its output indented and returns it.
func (d *demo) kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := d.env.KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	for line := range strings.Lines(stdout.String()) {
		fmt.Fprint(d.out, "    ", line)
	}
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// howToLookFurther shows what a person would look at next.
func (d *demo) howToLookFurther() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d.step("Something is wrong. What there is to see:")
	for _, args := range [][]string{
		{"get", "vcjob,podgroup,pods,nodes,batchclusters", "-A"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"describe", "podgroup"},
	} {
		fmt.Fprintf(d.out, "  $ kubectl %s\n", strings.Join(args, " "))
		if _, err := d.kubectl(ctx, args...); err != nil {
			fmt.Fprintln(d.out, "   ", err)
		}
	}
	for _, p := range d.env.Processes() {
		switch p.Name {
		case "vnode", "scheduler", "controllers":
			fmt.Fprintf(d.out, "  end of %s:\n", p.Log)
			for line := range strings.Lines(process.Tail(p.Log, 12)) {
				fmt.Fprint(d.out, "    ", line)
			}
			fmt.Fprintln(d.out)
		}
	}
	fmt.Fprintf(d.out, "  The logs stay in %s\n  To look around in a running one: isthmus up\n", d.env.Dir)
}

// lines passes whole writes on, one after another: several logs are followed at once.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}
