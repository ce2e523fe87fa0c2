package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate/report"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// simulation is what is run and on what.
type simulation struct {
	file, format, report string
	conf                 string
	nodes, perNode       int64
	jobs                 int
	load                 float64
	seed                 uint64
	queues, learnt       bool
}

// way is a rule to run a trace by.
type way struct {
	name           string
	inOrder, learn bool
}

func simulateCommand() *cobra.Command {
	var s simulation
	c := &cobra.Command{
		Use: "simulate", Args: cobra.NoArgs,
		Short: "Run the scheduler over a trace in virtual time: first come first served, and with backfill",
		Long: "Run the scheduler's own core over a trace in virtual time, once first come first served and once with\n" +
			"backfill, and print utilisation, waits, slowdown and fairness. A trace is in the Standard Workload Format\n" +
			"(.swf), what `sacct --parsable2 --allocations --allusers --format=JobIDRaw,User,Partition,Submit,Start,End,\n" +
			"TimelimitRaw,AllocCPUS,JobName` prints (.sacct), or a table with the header id,submit,run,estimate,size,user,\n" +
			"queue and perhaps kind (.csv); each may be compressed (.gz). Without one, a bursty, heavy-tailed trace is made up.",
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c.OutOrStdout()) },
	}
	f := c.Flags()
	f.StringVar(&s.file, "trace", "", "trace to run; one is made up when empty")
	f.StringVar(&s.format, "format", "", "format of the trace: swf, sacct or csv; by the ending of its name when empty")
	f.StringVar(&s.report, "report", "", "file to write with the figures, waits by size, queue and user, and pictures, as one HTML page")
	f.StringVar(&s.conf, "scheduler-conf", "", "configuration file of the scheduler, as in its ConfigMap; the default one when empty")
	f.Int64Var(&s.nodes, "nodes", 16, "nodes of the cluster")
	f.Int64Var(&s.perNode, "per-node", 4, "processors of a node")
	f.IntVar(&s.jobs, "jobs", 300, "jobs of a trace that is made up")
	f.Float64Var(&s.load, "load", 0.8, "part of the processors that a trace that is made up asks for")
	f.Uint64Var(&s.seed, "seed", 1, "seed of a trace that is made up")
	f.BoolVar(&s.queues, "queues", false, "give each queue of the trace one of its own, of equal weight; otherwise all jobs share one")
	f.BoolVar(&s.learnt, "learnt", false, "also run with backfill where nobody says how long jobs run and it is learnt from those of the same user, kind and size")
	return c
}

func (s *simulation) run(out io.Writer) error {
	if s.nodes < 1 || s.perNode < 1 || s.jobs < 1 || !(s.load > 0) || math.IsInf(s.load, 0) { // NaN is not above 0 either
		return errors.New("--nodes, --per-node, --jobs and --load must be positive numbers")
	}
	pipeline, err := pipelineOf(s.conf)
	if err != nil {
		return err
	}
	page := report.Page{Nodes: s.nodes, PerNode: s.perNode}
	var list []trace.Job
	if s.file == "" {
		list = simulate.Generate(s.seed, s.jobs, s.nodes*s.perNode, s.load)
		page.Title = fmt.Sprintf("A made-up trace: %d jobs, load %g, seed %d", s.jobs, s.load, s.seed)
	} else {
		var left int
		if list, left, err = readTrace(s.file, s.format); err != nil {
			return err
		}
		if left > 0 {
			fmt.Fprintf(out, "%d records are left out: they never ran, or are steps of others\n", left)
		}
		page.Title = "Trace " + filepath.Base(s.file)
	}
	fmt.Fprintf(out, "%-10s %6s %12s %12s %12s %12s %12s\n", "order", "jobs", "utilisation", "mean wait s", "mean slow", "p95 slow", "fairness")
	ways := []way{{"fifo", true, false}, {"backfill", false, false}}
	if s.learnt {
		ways = append(ways, way{"learnt", false, true})
	}
	for _, way := range ways {
		r, err := simulate.Run(simulate.Setting{Pipeline: pipeline, Nodes: s.nodes, PerNode: s.perNode, InOrder: way.inOrder, Queues: s.queues, Learn: way.learn}, list)
		if err != nil {
			return fmt.Errorf("simulate: %w", err)
		}
		fmt.Fprintf(out, "%-10s %6d %11.1f%% %12.0f %12.1f %12.1f %12.2f\n", way.name, len(r.Jobs), 100*r.Utilisation, r.MeanWait, r.MeanSlowdown, r.P95Slowdown, r.Fairness)
		if r.Refused > 0 {
			fmt.Fprintf(out, "%d jobs are larger than the cluster\n", r.Refused)
		}
		page.Ways = append(page.Ways, report.Way{Name: way.name, Result: r})
	}
	if s.report == "" {
		return nil
	}
	f, err := os.Create(s.report)
	if err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	if err := errors.Join(report.Write(f, page), f.Close()); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	fmt.Fprintf(out, "see %s\n", s.report)
	return nil
}

// readTrace reads a trace by its format, which the name's ending says when format
// is empty, and counts the records that are left out.
func readTrace(file, format string) ([]trace.Job, int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, fmt.Errorf("open trace: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	var in io.Reader = f
	name, packed := strings.CutSuffix(file, ".gz")
	if packed {
		unpacked, err := gzip.NewReader(f)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", file, err)
		}
		in = unpacked
	}
	if format == "" {
		format = strings.TrimPrefix(filepath.Ext(name), ".")
	}
	var jobs []trace.Job
	var left int
	switch format {
	case "swf":
		jobs, left, err = trace.SWF(in)
	case "sacct":
		jobs, left, err = trace.Sacct(in)
	case "csv":
		jobs, err = trace.CSV(in)
	default:
		return nil, 0, fmt.Errorf("%s: its name does not end in .swf, .sacct or .csv: say --format", file)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	return jobs, left, nil
}
