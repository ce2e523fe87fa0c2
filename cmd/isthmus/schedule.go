package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
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

var errNone = errors.New("there is none")

// ofJob reports whether a gang is the job's: its PodGroup has the job's name, or
// that with the job's UID after it; a pod without a PodGroup has its own name.
func ofJob(g *snapshot.Gang, namespace, job string) bool {
	return g.Namespace == namespace && (g.Name == job || strings.HasPrefix(g.Name, job+"-") && len(g.Name) == len(job)+37)
}

func explainJob(w io.Writer, s *snapshot.Snapshot, p plan.Plan, ses *framework.Session, namespace, name string) error {
	found := false
	for _, g := range s.Gangs {
		if !ofJob(g, namespace, name) {
			continue
		}
		found = true
		fmt.Fprintf(w, "%s/%s in queue %s, priority %d: %d of at least %d members placed, %d wait\n", g.Namespace, g.Name, g.Queue, g.Priority, g.Have(), g.Minimum(), g.Waiting)
		if g.Estimate > 0 {
			fmt.Fprintf(w, "  runs for about %s (%s)\n", time.Duration(g.Estimate), g.EstimateFrom)
		}
		explainOrder(w, s, g)
		explainData(w, s, g, ses.Now)
		for _, pl := range p.Placements {
			if pl.Gang == g.Key {
				fmt.Fprintf(w, "  %d members are placed on %s now\n", len(pl.Binds), pl.Domain)
			}
		}
		for _, u := range p.Unschedulable {
			if u.Gang != g.Key {
				continue
			}
			fmt.Fprintf(w, "  waits (%s): %s\n", u.Code, u.Message)
			for _, d := range u.Domains {
				fmt.Fprintf(w, "    %s\n", d.Words())
			}
		}
		for _, h := range p.Heads {
			if h.Gang != g.Key {
				continue
			}
			sure := "at the latest, should estimates hold"
			if h.Guessed {
				sure = "at a guess: the run time of some that have to end is not known"
			}
			fmt.Fprintf(w, "  starts %s on %s, %s\n", time.Unix(0, h.At).UTC().Format(time.RFC3339), h.Domain, sure)
			for _, other := range h.For {
				fmt.Fprintf(w, "    after %s\n", other)
			}
		}
		for _, cl := range p.Claims {
			if cl.Gang == g.Key {
				fmt.Fprintf(w, "  %d pods would be evicted for it by %s\n", len(cl.Evictions), cl.Action)
			}
		}
	}
	if !found {
		return fmt.Errorf("job %s/%s: %w", namespace, name, errNone)
	}
	return nil
}

// explainOrder tells which Jobs have to complete before the gang starts: where a flow
// queues its steps early, its pods name the attempts of these.
func explainOrder(w io.Writer, s *snapshot.Snapshot, g *snapshot.Gang) {
	var after []string
	for _, p := range g.Pods {
		for _, attempt := range p.After {
			if p.Phase == snapshot.PodPending && !slices.Contains(after, attempt) {
				after = append(after, attempt)
			}
		}
	}
	for _, attempt := range after {
		fmt.Fprintf(w, "  starts after %s\n", ofAttempt(s, g.Namespace, attempt))
	}
}

// ofAttempt says whose an attempt is, and how far it is. Whoever writes an annotation
// names pods of his own namespace only.
func ofAttempt(s *snapshot.Snapshot, namespace, attempt string) string {
	for _, g := range s.Gangs {
		if g.Namespace != namespace {
			continue
		}
		of, at, succeeded, failed, running := 0, "", 0, 0, 0
		for _, p := range g.Pods {
			if p.Attempt != attempt {
				continue
			}
			of, at = of+1, p.Node
			switch p.Phase {
			case snapshot.PodSucceeded:
				succeeded++
			case snapshot.PodFailed:
				failed++
			case snapshot.PodRunning:
				running++
			}
		}
		switch {
		case of == 0:
		case failed > 0:
			return fmt.Sprintf("%s has completed, of which %d of %d members failed on node %s: it is taken back", jobOf(g), failed, of, at)
		case succeeded == of:
			return fmt.Sprintf("%s, which has completed on node %s", jobOf(g), at)
		default:
			return fmt.Sprintf("%s has completed, of which %d of %d members run on node %s", jobOf(g), running, of, at)
		}
	}
	return fmt.Sprintf("gang attempt %.60q, which has no pods any more", attempt)
}

// jobOf is the name under which a gang is explained, see ofJob.
func jobOf(g *snapshot.Gang) string {
	name := g.Name
	if at := len(name) - 37; at > 0 && name[at] == '-' && strings.Count(name[at+1:], "-") == 4 {
		name = name[:at]
	}
	return g.Namespace + "/" + name
}

// explainData tells where what the gang reads is, and what it takes to have it elsewhere.
func explainData(w io.Writer, s *snapshot.Snapshot, g *snapshot.Gang, now time.Time) {
	for i := range g.Data {
		d := &g.Data[i]
		if d.Unknown {
			fmt.Fprintf(w, "  reads dataset %s, which does not exist\n", d.Name)
			continue
		}
		var on []string
		for _, n := range s.Nodes {
			if _, there := d.On(n.Labels); there && len(on) < 10 {
				on = append(on, n.Name)
			}
		}
		where := "on no node"
		if len(on) > 0 {
			where = "on " + strings.Join(on, ", ")
		}
		how := "it starts %s later, for the copy"
		if d.Staged {
			how = "a copy of about %s is made first"
		}
		fmt.Fprintf(w, "  reads dataset %s of %s: %s; elsewhere "+how+"\n",
			d.Name, plan.Amount("memory", d.Size), where, time.Duration(d.Transfer())*time.Second)
		for k := range d.Targets {
			t := &d.Targets[k]
			fmt.Fprintf(w, "    may be copied to cluster %s, %s\n", t.Cluster, plan.CopyWords(snapshot.Copy{Data: d, Target: t}, now))
		}
	}
}

func explainQueue(w io.Writer, s *snapshot.Snapshot, p plan.Plan, ses *framework.Session, _, name string) error {
	q := ses.Ledger.Queue(name)
	if q == nil {
		return fmt.Errorf("queue %s: %w", name, errNone)
	}
	fmt.Fprintf(w, "queue %s, weight %d, priority %d\n", q.Name, q.Weight, q.Priority)
	for d, name := range s.Dims.Names() {
		if q.Held[d] != 0 || q.Wanted[d] != 0 {
			fmt.Fprintf(w, "  %s: holds %s, deserves %s, may hold %s, waits for %s\n", name, plan.Amount(name, q.Held[d]),
				plan.Amount(name, q.Deserved[d]), plan.Amount(name, q.Capability[d]), plan.Amount(name, q.Wanted[d]))
		}
	}
	if u := s.Usage; u != nil {
		recent := framework.NewRecent(s, ses.Ledger, ses.Now)
		fmt.Fprintf(w, "  has held %s of the cluster on average of late (half-life %s)\n", plan.Percent(recent.Queue(q)), time.Duration(u.HalfLife)*time.Second)
		for _, ns := range recent.Namespaces(name) {
			fmt.Fprintf(w, "    namespace %s: %s\n", ns, plan.Percent(recent.Namespace(name, ns)))
		}
	}
	if f := ses.Ledger.Stopped(name); f != nil {
		fmt.Fprintf(w, "  nothing is placed: %s\n", f.Message)
	}
	for _, u := range p.Unschedulable {
		if g := gangOf(s, u.Gang); g != nil && g.Queue == name {
			fmt.Fprintf(w, "  %s/%s waits (%s): %s\n", u.Namespace, u.Name, u.Code, u.Message)
		}
	}
	return nil
}

func gangOf(s *snapshot.Snapshot, key string) *snapshot.Gang {
	for _, g := range s.Gangs {
		if g.Key == key {
			return g
		}
	}
	return nil
}

func explainNode(w io.Writer, s *snapshot.Snapshot, _ plan.Plan, ses *framework.Session, _, name string) error {
	i, ok := s.Node(name)
	if !ok {
		return fmt.Errorf("node %s: %w", name, errNone)
	}
	n := s.Nodes[i]
	state := "ready"
	switch {
	case n.Broken != "":
		state = n.Broken
	case !n.Ready:
		state = "not ready"
	case n.Unschedulable:
		state = "cordoned"
	}
	fmt.Fprintf(w, "node %s: %s\n", n.Name, state)
	if n.Wait > 0 {
		fmt.Fprintf(w, "  a job that is submitted now is expected to wait for %s\n", time.Duration(n.Wait)*time.Second)
	}
	free := ses.Txn.Free(i)
	for d, name := range s.Dims.Names() {
		if n.Total[d] != 0 {
			fmt.Fprintf(w, "  %s: %s of %s free\n", name, plan.Amount(name, free[d]), plan.Amount(name, n.Total[d]))
		}
	}
	for _, g := range s.Gangs {
		here := 0
		for _, p := range g.Pods {
			if p.Node == name && !p.Terminal() {
				here++
			}
		}
		if here > 0 {
			fmt.Fprintf(w, "  %d pods of %s/%s (queue %s, priority %d)\n", here, g.Namespace, g.Name, g.Queue, g.Priority)
		}
		if g.Nominated != nil && g.Nominated.Until > ses.Now.UnixNano() {
			for _, np := range g.Nominated.Pods {
				if np.Node == name {
					fmt.Fprintf(w, "  room is kept for %s/%s\n", g.Namespace, g.Name)
					break
				}
			}
		}
	}
	return nil
}
