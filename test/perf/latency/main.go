// Command latency measures how long single pods wait for the virtual kubelet on an
// idle Slurm: from the binding until the job is released, and from the end of a
// program until the pod says so. It prints both beside their goals and asserts
// nothing.
//
//	go run ./test/perf/latency -pods 20
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

type load struct {
	pods int
	tick time.Duration
}

func main() {
	var l load
	flag.IntVar(&l.pods, "pods", 200, "single pods, one after the other")
	flag.DurationVar(&l.tick, "tick", 5*time.Second, "time between two looks at the batch system")
	flag.Parse()
	if l.pods < 1 || l.pods > 5000 || l.tick < time.Second {
		fmt.Fprintln(os.Stderr, "latency: -pods must be 1 to 5000, -tick at least 1s")
		os.Exit(2)
	}
	measuring.Main("latency", func(ctx context.Context) error { return run(ctx, l) })
}

func run(ctx context.Context, l load) error {
	return measuring.On(ctx, slurm.Config{
		Name:       "latency",
		Hosts:      []slurm.Hosts{{Prefix: "n", Count: 1, CPUs: 64, MemoryMiB: 500000}},
		Partitions: []slurm.Partition{{Name: partition, Hosts: []string{"n1"}, Default: true}},
	}, func(site *measuring.Site) error { return on(ctx, l, site) })
}

func on(ctx context.Context, l load, site *measuring.Site) error {
	marks, err := os.MkdirTemp(site.Cluster.StagingDir, "marks-")
	if err != nil {
		return err
	}
	if err := os.Chmod(marks, 0o777); err != nil { //nolint:gosec // the mapped user writes the end of its programs here
		return err
	}
	lives, err := l.lead(ctx, site.Cluster, site.Podrun, marks)
	if err != nil {
		return err
	}
	l.print(lives)
	return nil
}

func (l load) print(lives []*life) {
	var all, own, batch, told []time.Duration
	for _, p := range lives {
		wait := p.released.Sub(p.bound)
		all, batch, own = append(all, wait), append(batch, p.batch), append(own, wait-p.batch)
		told = append(told, p.told.Sub(p.ended))
	}
	fmt.Printf("latency: %d pods, tick %s\n", l.pods, l.tick)
	row := func(what string, list []time.Duration, goal time.Duration) {
		slices.Sort(list)
		at := func(part int) time.Duration { return list[min(len(list)-1, len(list)*part/100)] }
		fmt.Printf("  %-42s median %6.0f ms, 99 of 100 within %6.0f ms, longest %6.0f ms", what, ms(at(50)), ms(at(99)), ms(at(100)))
		if goal > 0 {
			fmt.Printf("; 99 of 100 by the goal of %s: %.2f", goal, at(99).Seconds()/goal.Seconds())
		}
		fmt.Println()
	}
	row("bound -> released", all, 0)
	row("of that sbatch and scontrol", batch, 0)
	row("of that our own", own, time.Second)
	row("program ended -> pod says so", told, l.tick+time.Second)
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
