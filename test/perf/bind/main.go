// Command bind measures how fast gangs are bound: the whole scheduler against the
// same client binding round-robin without any scheduler, in the same run on the
// same API server and etcd. It prints times and their ratio and asserts nothing.
//
//	go run ./test/perf/bind -nodes 1000 -shapes 100x20 -rounds 10
//	go run ./test/perf/bind -nodes 5000 -shapes 10000x1,500x20,20x500,1x10000 -rounds 3
//	go run ./test/perf/bind -nodes 5000 -shapes 500x20 -create -rounds 3
//	go run ./test/perf/bind -nodes 5000 -restart 100000 -rounds 3
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
)

type load struct {
	nodes, rounds, workers int
	shapes                 []shape
	qps                    float64
	burst                  int
	profile                string
	resident               int
	create                 bool // making the load is part of what is measured
}

// shape is gangs of one size.
type shape struct{ gangs, size int }

func (s shape) String() string { return fmt.Sprintf("%dx%d", s.gangs, s.size) }

// parse reads shapes like 500x20,1x10000.
func parse(text string) ([]shape, error) {
	var out []shape
	for _, word := range strings.Split(text, ",") {
		gangs, size, ok := strings.Cut(word, "x")
		g, err := strconv.Atoi(gangs)
		n, err2 := strconv.Atoi(size)
		if !ok || err != nil || err2 != nil || g < 1 || n < 1 {
			return nil, fmt.Errorf("-shapes has %q, must be GANGSxPODS like 500x20", word)
		}
		out = append(out, shape{g, n})
	}
	return out, nil
}

func main() {
	var l load
	flag.IntVar(&l.nodes, "nodes", 1000, "fake nodes of 64 CPUs and 8 GPUs")
	shapes := flag.String("shapes", "100x20", "GANGSxPODS with commas: how many gangs, and pods of each, one GPU a pod")
	flag.IntVar(&l.rounds, "rounds", 10, "times each way is measured, in turn")
	flag.IntVar(&l.workers, "workers", 32, "bindings under way at a time, for both")
	flag.Float64Var(&l.qps, "qps", 10000, "requests a second that the client allows itself, for both")
	flag.IntVar(&l.burst, "burst", 20000, "requests in a burst, for both")
	flag.IntVar(&l.resident, "restart", 0, "pods that run already: instead of the rate, how long a scheduler takes from its start to its first binding is measured")
	flag.BoolVar(&l.create, "create", false, "measure from the first PodGroup's creation on: the scheduler binds while pods are made, without it each pod is bound when all are there")
	flag.StringVar(&l.profile, "cpuprofile", "", "file for a profile of the scheduler's processor time, setting up left out")
	flag.Parse()
	var err error
	if l.shapes, err = parse(*shapes); err != nil {
		fmt.Fprintln(os.Stderr, "bind:", err)
		os.Exit(2)
	}
	measuring.Main("bind", func(ctx context.Context) error { return run(ctx, l) })
}

func run(ctx context.Context, l load) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(driver.GCPercent) // as the program does; for both ways
	}
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
	if l.resident > 0 {
		return c.restart(ctx)
	}
	for _, sh := range l.shapes {
		c.shape = sh
		if err := c.compare(ctx); err != nil {
			return fmt.Errorf("%s: %w", sh, err)
		}
	}
	return nil
}

// compare measures both ways of binding one shape, in turn.
func (c *cluster) compare(ctx context.Context) error {
	fmt.Printf("%d nodes, %d gangs of %d pods, %d workers, client limit %.0f/s\n", c.nodes, c.gangs, c.size, c.workers, c.qps)
	var without, with []result
	for round := range c.rounds {
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
	base, least, most := span(without, func(r result) time.Duration { return r.took })
	ours, least2, most2 := span(with, func(r result) time.Duration { return r.took })
	fmt.Printf("%s: pods bound a second, median: %.0f without a scheduler, %.0f with; ratio %.0f %% (extremes %.0f to %.0f %%); of all rounds' time %.0f %%, of processor time %.0f %%\n",
		c.shape, float64(c.pods())/base.Seconds(), float64(c.pods())/ours.Seconds(), 100*base.Seconds()/ours.Seconds(),
		100*least.Seconds()/most2.Seconds(), 100*most.Seconds()/least2.Seconds(),
		share(without, with, func(r result) time.Duration { return r.took }), share(without, with, func(r result) time.Duration { return r.used }))
	return nil
}

// span is the median, the least and the most of one time of all rounds.
func span(of []result, which func(result) time.Duration) (median, least, most time.Duration) {
	var all []time.Duration
	for _, r := range of {
		all = append(all, which(r))
	}
	slices.Sort(all)
	return all[len(all)/2], all[0], all[len(all)-1]
}

// share is the sum of one time of all rounds of base, in percent of that of ours.
// Single rounds differ by a fifth on a small machine, sums of ten by a few percent.
func share(base, ours []result, which func(result) time.Duration) float64 {
	var a, b time.Duration
	for _, r := range base {
		a += which(r)
	}
	for _, r := range ours {
		b += which(r)
	}
	return 100 * a.Seconds() / b.Seconds()
}
