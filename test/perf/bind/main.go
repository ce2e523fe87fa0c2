// Command bind measures how fast gangs are bound: the whole scheduler against the
// same client binding round-robin without any scheduler, in the same run on the
// same API server and etcd. It prints times and their ratio and asserts nothing.
//
//	go run ./test/perf/bind -nodes 1000 -gangs 100 -size 20 -rounds 3
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
)

type load struct {
	nodes, gangs, size, rounds, workers int
	qps                                 float64
	burst                               int
}

func main() {
	var l load
	flag.IntVar(&l.nodes, "nodes", 1000, "fake nodes of 64 CPUs and 8 GPUs")
	flag.IntVar(&l.gangs, "gangs", 100, "gangs")
	flag.IntVar(&l.size, "size", 20, "pods of a gang, one GPU each")
	flag.IntVar(&l.rounds, "rounds", 3, "times each way is measured, in turn")
	flag.IntVar(&l.workers, "workers", 32, "bindings under way at a time, for both")
	flag.Float64Var(&l.qps, "qps", 10000, "requests a second that the client allows itself, for both")
	flag.IntVar(&l.burst, "burst", 20000, "requests in a burst, for both")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, "bind:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, l load) (err error) {
	dir, err := os.MkdirTemp("", "isthmus-perf-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	plane, err := controlplane.Start(ctx, controlplane.Config{
		Dir: filepath.Join(dir, "plane"), WithoutControllerManager: true, Progress: os.Stderr,
		// There is no service account controller, and no controller manager that would take taints off.
		APIServerArgs: []string{"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"},
	})
	if err != nil {
		return fmt.Errorf("start control plane: %w", err)
	}
	defer func() {
		if stopErr := plane.Stop(); err == nil && stopErr != nil {
			err = stopErr
		}
	}()
	c, err := newCluster(ctx, plane.RESTConfig(), l)
	if err != nil {
		return err
	}
	fmt.Printf("%d nodes, %d gangs of %d pods, %d workers, client limit %.0f/s\n", l.nodes, l.gangs, l.size, l.workers, l.qps)
	var without, with []time.Duration
	for round := range l.rounds {
		// In turn and in both orders, so that a machine that slows down favours neither.
		ways := []func(context.Context) error{
			func(ctx context.Context) error { return c.measure(ctx, "round-robin", c.roundRobin, &without) },
			func(ctx context.Context) error { return c.measure(ctx, "scheduler", c.scheduler, &with) },
		}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			if err := way(ctx); err != nil {
				return err
			}
		}
	}
	slices.Sort(without)
	slices.Sort(with)
	base, ours := without[len(without)/2], with[len(with)/2]
	fmt.Printf("gangs bound a second, median: %.1f without a scheduler, %.1f with; ratio %.0f %% (range %.0f to %.0f %%)\n",
		float64(l.gangs)/base.Seconds(), float64(l.gangs)/ours.Seconds(), 100*base.Seconds()/ours.Seconds(),
		100*without[0].Seconds()/with[len(with)-1].Seconds(), 100*without[len(without)-1].Seconds()/with[0].Seconds())
	return nil
}
