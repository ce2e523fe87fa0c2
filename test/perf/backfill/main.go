// Command backfill runs the scheduler's own core over made-up traces in virtual
// time, at three loads: in strict order, with EASY backfill by the run times that
// users declare, and with the same by run times that are learnt from the jobs before.
// Nothing is timed: the figures are the same on every machine.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
)

// A cluster of so many nodes and processors a node.
const nodes, perNode = 16, 4

func main() {
	jobs := flag.Int("jobs", 600, "jobs of a trace")
	seeds := flag.Uint64("seeds", 3, "traces of each load")
	flag.Parse()
	pass, _, err := config.Parse([]byte(config.Standard + "configurations: [{name: backfill, arguments: {unknownRunTimes: pass}}]\n"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "backfill:", err)
		os.Exit(1)
	}
	ways := []struct {
		name           string
		inOrder, learn bool
		rules          framework.Pipeline
	}{
		{"strict order", true, false, config.Default()}, {"EASY, declared", false, false, config.Default()},
		{"EASY, learnt", false, true, config.Default()}, {"EASY, learnt, unknownRunTimes: pass", false, true, pass.Pipeline()},
	}
	for _, load := range []float64{0.5, 0.7, 0.9} {
		for _, way := range ways {
			var used, mean, p95 []float64
			for seed := range *seeds {
				r, err := simulate.Run(simulate.Setting{
					Pipeline: way.rules, Nodes: nodes, PerNode: perNode, InOrder: way.inOrder, Learn: way.learn,
				}, simulate.Generate(seed+1, *jobs, nodes*perNode, load))
				if err != nil {
					fmt.Fprintln(os.Stderr, "backfill:", err)
					os.Exit(1)
				}
				used, mean, p95 = append(used, 100*r.Utilisation), append(mean, r.MeanSlowdown), append(p95, r.P95Slowdown)
			}
			fmt.Printf("backfill: load %.1f, %s: utilisation %s %%; mean bounded slowdown %s; 95th percentile %s\n",
				load, way.name, spread(used, 1), spread(mean, 1), spread(p95, 0))
		}
	}
}

// spread tells the median and the extremes.
func spread(v []float64, digits int) string {
	slices.Sort(v)
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, v[len(v)/2], digits, v[0], digits, v[len(v)-1])
}
