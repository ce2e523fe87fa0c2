package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

const (
	partition = "idle"
	node      = "perf-idle"
	// patience is how long one way may take for all its jobs.
	patience = 10 * time.Minute
)

// bench is the cluster with what both ways need. The ways run one at a time.
type bench struct {
	load
	cluster  *testbed.Cluster
	podrun   string
	commands commands // run by the provider in all rounds
	writes   int64    // of the provider to the API server in all rounds
}

// commands says how often each kind of command was run and how long all runs
// of it took together.
type commands struct {
	mu    sync.Mutex
	count map[string]int
	took  map[string]time.Duration
}

func (c *commands) add(argv []string, took time.Duration) {
	name := path.Base(argv[0])
	if name == "podrun" && len(argv) > 2 {
		name += " " + argv[2] // podrun agent VERB
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == nil {
		c.count, c.took = map[string]int{}, map[string]time.Duration{}
	}
	c.count[name]++
	c.took[name] += took
}

// timing notes every command.
type timing struct {
	transport.Runner
	commands *commands
}

// Run implements transport.Runner.
func (t timing) Run(ctx context.Context, cmd transport.Command) (transport.Result, error) {
	start := time.Now()
	defer func() { t.commands.add(cmd.Argv, time.Since(start)) }()
	return t.Runner.Run(ctx, cmd)
}

// releases counts jobs that were released, and writes to the API server.
type releases struct{ n, writes atomic.Int64 }

// Do implements effect.Gate.
func (r *releases) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	err := fn(ctx)
	switch {
	case err == nil && name == "release":
		r.n.Add(1)
	case name == "write-intent" || name == "record" || name == "patch-status":
		r.writes.Add(1)
	}
	return err
}

// provider measures from the first pass until every job is released.
func (b *bench) provider(ctx context.Context, round int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	runner := timing{Runner: local.New(), commands: &b.commands}
	system, err := slurm.New(slurm.Config{Runner: runner, Env: b.cluster.Env()})
	if err != nil {
		return 0, err
	}
	digest, err := staging.DigestOf(b.podrun)
	if err != nil {
		return 0, err
	}
	api, released := providertest.NewAPI(), &releases{}
	owner := fmt.Sprintf("perf-%d", round)
	bridge := provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "perf"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: account.Alice}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: b.cluster.StagingDir},
			},
		},
		Owner: owner, Launcher: "slurm", Backend: system, Pods: api, Objects: providertest.Objects{},
		Stager: &staging.Client{Runner: runner, Podrun: b.podrun, Digest: digest, Directory: b.cluster.StagingDir},
		Gate:   released, Log: logr.Discard(),
	})
	bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: partition, MaxPodsPending: 10_000}})
	for i := range b.jobs {
		name := fmt.Sprintf("r%d-p%d", round, i)
		api.Create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
			Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "main", Image: "none", Command: []string{"/bin/true"},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		})
	}
	start := time.Now()
	for released.n.Load() < int64(b.jobs) {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("%d of %d jobs released: %w; events: %v", released.n.Load(), b.jobs, err, api.Events())
		}
		bridge.Pass(ctx, true)
		bridge.Wait()
	}
	took := time.Since(start)
	b.writes += released.writes.Load()
	return took, b.check(ctx, system, owner)
}

// check asks Slurm itself whether every job is there and released.
func (b *bench) check(ctx context.Context, system *slurm.Backend, owner string) error {
	got, err := system.Observe(ctx, owner, []string{account.Alice})
	if err != nil {
		return err
	}
	released := 0
	for _, j := range got.Jobs {
		if j.State == backends.StatePending && !j.Held {
			released++
		}
	}
	if len(got.Jobs) != b.jobs || released != b.jobs {
		return fmt.Errorf("slurm has %d jobs, %d of them released, want %d", len(got.Jobs), released, b.jobs)
	}
	return nil
}

// ourOptions are what makes the provider's jobs safe: the second lock, the tag.
func ourOptions(n int) []string {
	key := fmt.Sprintf("bare%d", n)
	return []string{"--job-name=" + key, "--comment=isthmus/bare/" + key, "--dependency=singleton", "--kill-on-invalid-dep=yes",
		"--requeue", "--open-mode=append", "--export=ALL", "--input=none"}
}

// bare measures sbatch alone: held jobs with a constant script, by so many
// workers at a time. options, unless nil, gives further ones for each job.
func (b *bench) bare(ctx context.Context, workers int, options func(int) []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	runner := local.New()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	start := time.Now()
	for i := range b.jobs {
		group.Go(func() error {
			argv := []string{"sbatch", "--hold", "--parsable", "--partition=" + partition, "--output=/dev/null"}
			if options != nil {
				argv = append(argv, options(i)...)
			}
			res, err := runner.Run(gctx, transport.Command{
				User: account.Alice, Env: b.cluster.Env(), Dir: "/tmp",
				Argv:  argv,
				Stdin: strings.NewReader(backends.LaunchScript),
			})
			if err == nil && res.Exit != 0 {
				err = fmt.Errorf("sbatch exited with %d: %s", res.Exit, res.Stderr)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	took := time.Since(start)
	held, err := b.queued(ctx)
	if err == nil && held != b.jobs {
		err = fmt.Errorf("slurm has %d jobs, want %d", held, b.jobs)
	}
	return took, err
}

// queued counts the jobs that wait or run.
func (b *bench) queued(ctx context.Context) (int, error) {
	out, err := b.cluster.Run(ctx, "squeue", "--noheader", "--format=%i")
	return len(strings.Fields(out)), err
}

// clear cancels all jobs and waits until none is left, so that each way meets
// an empty queue.
func (b *bench) clear(ctx context.Context) error {
	if _, err := b.cluster.Run(ctx, "scancel", "--user="+account.Alice); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; {
		left, err := b.queued(ctx)
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, b.cluster.LogTails(5))
			return fmt.Errorf("jobs stay after they were cancelled: %d", left)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
