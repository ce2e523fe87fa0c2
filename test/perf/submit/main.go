// Command submit measures how fast single-pod jobs reach a real Slurm: through
// the whole provider, and by bare sbatch commands over the same transport as the
// same user in the same run. It prints rates and their ratio and asserts nothing.
//
//	go run ./test/perf/submit -jobs 60 -rounds 3
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/measuring"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

type load struct{ jobs, rounds, workers int }

func main() {
	var l load
	flag.IntVar(&l.jobs, "jobs", 1000, "single-pod jobs")
	flag.IntVar(&l.rounds, "rounds", 3, "times each way is measured, in turn")
	flag.IntVar(&l.workers, "workers", 8, "jobs under way at a time in the second bare way")
	flag.Parse()
	if l.jobs < 1 || l.jobs > 5000 || l.rounds < 1 || l.workers < 1 {
		fmt.Fprintln(os.Stderr, "submit: -jobs must be 1 to 5000, -rounds and -workers at least 1")
		os.Exit(2)
	}
	measuring.Main("submit", func(ctx context.Context) error { return run(ctx, l) })
}

// way is one way of submitting all jobs, and how long it took each time.
type way struct {
	name string
	do   func(context.Context, int) (time.Duration, error)
	took []time.Duration
	// own and commands are the processor time of all rounds: of this process,
	// and of the commands it ran.
	own, commands time.Duration
}

// spent is the processor time so far of this process and of its children.
func spent() (own, commands time.Duration) {
	read := func(who int) time.Duration {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return read(syscall.RUSAGE_SELF), read(syscall.RUSAGE_CHILDREN)
}

func run(ctx context.Context, l load) error {
	return measuring.On(ctx, slurm.Config{
		Name:  "perf",
		Hosts: []slurm.Hosts{{Prefix: "n", Count: 2, CPUs: 64, MemoryMiB: 500000}},
		// Jobs wait in a partition that is down: they take no time from what is measured.
		Partitions: []slurm.Partition{{Name: partition, Hosts: []string{"n[1-2]"}, Default: true, Extra: "State=DOWN"}},
		// Cancelled jobs of earlier rounds count for five minutes.
		Extra: []string{fmt.Sprintf("MaxJobCount=%d", 10_000+4*l.jobs*l.rounds)},
	}, func(site *measuring.Site) error { return on(ctx, l, site) })
}

func on(ctx context.Context, l load, site *measuring.Site) error {
	b := &bench{load: l, cluster: site.Cluster, podrun: site.Podrun}
	ways := []*way{
		{name: "provider", do: b.provider},
		{name: "bare, one at a time", do: func(ctx context.Context, _ int) (time.Duration, error) { return b.bare(ctx, 1, nil) }},
		{name: "bare, one at a time, with our options", do: func(ctx context.Context, _ int) (time.Duration, error) { return b.bare(ctx, 1, ourOptions) }},
		{name: fmt.Sprintf("bare, %d at a time", l.workers), do: func(ctx context.Context, _ int) (time.Duration, error) { return b.bare(ctx, l.workers, nil) }},
	}
	for round := range l.rounds {
		// In turn and in both orders, so that a machine that slows down favours none.
		order := slices.Clone(ways)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, w := range order {
			own, commands := spent()
			took, err := w.do(ctx, round)
			ownAfter, commandsAfter := spent()
			w.own, w.commands = w.own+ownAfter-own, w.commands+commandsAfter-commands
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, w.name, err)
			}
			w.took = append(w.took, took)
			if err := b.clear(ctx); err != nil {
				return err
			}
		}
	}
	l.print(ways, b)
	return nil
}

func (l load) print(ways []*way, b *bench) {
	fmt.Printf("submit: %d single-pod jobs, %d rounds\n", l.jobs, l.rounds)
	for _, w := range ways {
		slices.Sort(w.took)
		fmt.Printf("  %-38s %6.1f jobs/s median (%.1f to %.1f); processor time a job: %.1f ms of our own, %.1f ms of commands\n", w.name,
			l.rate(w.took[len(w.took)/2]), l.rate(w.took[len(w.took)-1]), l.rate(w.took[0]),
			l.each(w.own), l.each(w.commands))
	}
	ours := ways[0].took
	for _, w := range ways[1:] {
		fmt.Printf("  provider takes %.2f times as long as %s (%.2f to %.2f)\n",
			ratio(ours[len(ours)/2], w.took[len(w.took)/2]), w.name, ratio(ours[0], w.took[len(w.took)-1]), ratio(ours[len(ours)-1], w.took[0]))
	}
	fmt.Printf("  writes of the provider to the API server: %.1f a job\n", float64(b.writes)/float64(l.rounds*l.jobs))
	fmt.Println("  commands of the provider, with the time each takes while others run beside it:")
	c := &b.commands
	for _, name := range slices.Sorted(maps.Keys(c.count)) {
		fmt.Printf("    %-16s %.2f a job, %.1f ms each\n", name, float64(c.count[name])/float64(l.rounds*l.jobs),
			c.took[name].Seconds()*1000/float64(c.count[name]))
	}
}

func (l load) rate(d time.Duration) float64 { return float64(l.jobs) / d.Seconds() }

// each is the milliseconds for one job, of a sum over all rounds.
func (l load) each(d time.Duration) float64 { return d.Seconds() * 1000 / float64(l.rounds*l.jobs) }

func ratio(a, b time.Duration) float64 { return a.Seconds() / b.Seconds() }
