package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/grants"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// source is where a scheduling state comes from: a file that `isthmus snapshot`
// wrote, or a cluster.
type source struct {
	file, kubeconfig, at, conf string
	memory                     string
}

func (s *source) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig file of the cluster to look at; KUBECONFIG or ~/.kube/config when empty")
	c.Flags().StringVar(&s.file, "snapshot", "", "file that `isthmus snapshot` wrote, in place of a cluster")
	c.Flags().StringVar(&s.memory, "memory-namespace", "", "namespace where the scheduler keeps what it has learnt, as its flag of this name says; without it run times that were learnt and what queues held of late are not known here")
	s.rules(c)
}

// rules are the flags of how to decide.
func (s *source) rules(c *cobra.Command) {
	c.Flags().StringVar(&s.at, "at", "", "time to decide for, like 2026-01-02T15:04:05Z; now when empty")
	c.Flags().StringVar(&s.conf, "scheduler-conf", "", "configuration file of the scheduler, as in its ConfigMap; the default one when empty")
}

func (s *source) now() (time.Time, error) {
	if s.at == "" {
		return time.Now(), nil // what is asked is what would happen now
	}
	t, err := time.Parse(time.RFC3339, s.at)
	if err != nil {
		return time.Time{}, fmt.Errorf("--at: %w", err)
	}
	return t, nil
}

// view is a state that can be looked at again and again.
type view struct {
	pipeline framework.Pipeline
	state    func(now time.Time) *snapshot.Snapshot
	close    func()
}

// decide returns the state as it is now and what the scheduler would do with it.
func (v *view) decide(now time.Time) (*snapshot.Snapshot, plan.Plan, *framework.Session) {
	state := v.state(now)
	return state, scheduler.Cycle(v.pipeline, state, now), framework.NewSession(v.pipeline, state, now)
}

// pipelineOf is what a configuration file says, or the default.
func pipelineOf(file string) (framework.Pipeline, error) {
	if file == "" {
		return config.Default(), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return framework.Pipeline{}, fmt.Errorf("--scheduler-conf: %w", err)
	}
	conf, _, err := config.Parse(text) // warnings are the scheduler's to give
	if err != nil {
		return framework.Pipeline{}, fmt.Errorf("%s: %w", file, err)
	}
	return conf.Pipeline(), nil
}

// open reads the state, and follows it where it is a cluster's. It changes
// nothing there.
func (s *source) open(ctx context.Context) (*view, error) {
	v := &view{close: func() {}}
	var err error
	if v.pipeline, err = pipelineOf(s.conf); err != nil {
		return nil, err
	}
	if s.file != "" {
		f, err := os.Open(s.file)
		if err != nil {
			return nil, fmt.Errorf("open snapshot: %w", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		state, err := snapshot.Read(f)
		if err != nil {
			return nil, err
		}
		v.state = func(time.Time) *snapshot.Snapshot { return state }
		return v, nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.kubeconfig
	rest, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load kubeconfig: %w", err)
	}
	// Who looks may read less than the scheduler does.
	ledger := &grants.Ledger{Now: time.Now, Report: func(r grants.Right, denied bool) {
		if denied {
			_, _ = fmt.Fprintf(os.Stderr, "isthmus: you have no right to %s: %s\n", r, r.Lost()) // it is only said
		}
	}}
	rest.Wrap(ledger.Wrap)
	// Answers are compressed, unlike the scheduler's: most of what comes are lists, often
	// from far away.
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	volcano, err := versioned.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("make Volcano client: %w", err)
	}
	free, err := dynamic.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
	state := cache.New()
	state.Rights = ledger
	if s.memory != "" {
		state.Learn(estimate.New())
	}
	ctx, stop := context.WithCancel(ctx)
	bounded, cancel := context.WithTimeout(ctx, cache.SyncTimeout)
	defer cancel()
	wait, err := state.Watch(ctx, bounded, client, volcano)
	waitReserved := func() {}
	if err == nil {
		waitReserved, err = state.WatchOwn(ctx, bounded, client.Discovery(), free)
	}
	v.close = func() {
		stop()
		wait()
		waitReserved()
	}
	if err != nil {
		v.close()
		return nil, err
	}
	v.state = state.Snapshot
	if s.memory != "" {
		keeper := memory.Keeper{Client: client, Namespace: s.memory, Learner: state}
		if err := keeper.Recall(ctx); err != nil {
			v.close()
			return nil, fmt.Errorf("--memory-namespace: %w", err)
		}
	}
	return v, nil
}

// decide returns a state and what the scheduler would do with it.
func (s *source) decide(ctx context.Context) (*snapshot.Snapshot, plan.Plan, *framework.Session, error) {
	now, err := s.now()
	if err != nil {
		return nil, plan.Plan{}, nil, err
	}
	v, err := s.open(ctx)
	if err != nil {
		return nil, plan.Plan{}, nil, err
	}
	defer v.close()
	state, p, ses := v.decide(now)
	return state, p, ses, nil
}

func snapshotCommand() *cobra.Command {
	var s source
	c := &cobra.Command{
		Use: "snapshot", Args: cobra.NoArgs,
		Short: "Write all that the scheduler decides by, as JSON, to look into or to replay",
		RunE: func(c *cobra.Command, _ []string) error {
			now, err := s.now()
			if err != nil {
				return err
			}
			v, err := s.open(c.Context())
			if err != nil {
				return err
			}
			defer v.close()
			return v.state(now).Write(c.OutOrStdout())
		},
	}
	s.flags(c)
	return c
}

func replayCommand() *cobra.Command {
	var s source
	c := &cobra.Command{
		Use: "replay FILE", Args: cobra.ExactArgs(1),
		Short: "Show what the scheduler decides for a snapshot; --at gives the time, to the same plan to the byte",
		RunE: func(c *cobra.Command, args []string) error {
			s.file = args[0]
			_, p, _, err := s.decide(c.Context())
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.OutOrStdout(), p.String())
			if err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return nil
		},
	}
	s.rules(c)
	return c
}

func explainCommand() *cobra.Command {
	var s source
	var namespace string
	c := &cobra.Command{
		Use: "explain {job|queue|node} NAME", Args: cobra.ExactArgs(2),
		Short:     "Say in words and numbers why a job waits, what a queue may have, or what holds a node",
		ValidArgs: []string{"job", "queue", "node"},
		RunE: func(c *cobra.Command, args []string) error {
			explain, known := map[string]func(io.Writer, *snapshot.Snapshot, plan.Plan, *framework.Session, string, string) error{
				"job": explainJob, "queue": explainQueue, "node": explainNode,
			}[args[0]]
			if !known {
				return fmt.Errorf("explain: %q is none of job, queue and node", args[0])
			}
			state, p, ses, err := s.decide(c.Context())
			if err != nil {
				return err
			}
			return explain(c.OutOrStdout(), state, p, ses, namespace, args[1])
		},
	}
	s.flags(c)
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the job")
	return c
}
