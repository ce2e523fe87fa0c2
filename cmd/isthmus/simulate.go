package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

func simulateCommand() *cobra.Command {
	var file string
	var nodes, perNode int64
	var jobs int
	var load float64
	var seed uint64
	c := &cobra.Command{
		Use: "simulate", Args: cobra.NoArgs,
		Short: "Run the scheduler over a trace (.swf or .csv, or one made up) in virtual time: first come first served, and with backfill",
		RunE: func(c *cobra.Command, _ []string) error {
			if nodes < 1 || perNode < 1 || jobs < 1 || load <= 0 {
				return errors.New("--nodes, --per-node, --jobs and --load must be positive")
			}
			list, err := traceOf(file)
			if err != nil {
				return err
			}
			if file == "" {
				list = simulate.Generate(seed, jobs, nodes*perNode, load)
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%-10s %6s %12s %12s %12s %12s\n", "order", "jobs", "utilisation", "mean wait s", "mean slow", "p95 slow")
			for _, way := range []struct {
				name    string
				inOrder bool
			}{{"fifo", true}, {"backfill", false}} {
				r, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: nodes, PerNode: perNode, InOrder: way.inOrder}, list)
				if err != nil {
					return fmt.Errorf("simulate: %w", err)
				}
				fmt.Fprintf(out, "%-10s %6d %11.1f%% %12.0f %12.1f %12.1f\n", way.name, len(r.Jobs), 100*r.Utilisation, r.MeanWait, r.MeanSlowdown, r.P95Slowdown)
				if r.Refused > 0 {
					fmt.Fprintf(out, "%d jobs are larger than the cluster\n", r.Refused)
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&file, "trace", "", "trace to run, .swf or .csv; one is made up when empty")
	f.Int64Var(&nodes, "nodes", 16, "nodes of the cluster")
	f.Int64Var(&perNode, "per-node", 4, "processors of a node")
	f.IntVar(&jobs, "jobs", 300, "jobs of a trace that is made up")
	f.Float64Var(&load, "load", 0.8, "part of the processors that a trace that is made up asks for")
	f.Uint64Var(&seed, "seed", 1, "seed of a trace that is made up")
	return c
}

func traceOf(file string) ([]trace.Job, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open trace: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if strings.HasSuffix(file, ".csv") {
		jobs, err := trace.CSV(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return jobs, nil
	}
	jobs, _, err := trace.SWF(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return jobs, nil
}
