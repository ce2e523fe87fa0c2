// Command scheduler is the gang scheduler: it places whole PodGroups, each in one
// virtual node or on the real nodes, and shows what waits and why.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/cmd/internal/version"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	schedconfig "github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/extend"
	"github.com/isthmus-hpc/isthmus/scheduler/grants"
	"github.com/isthmus-hpc/isthmus/scheduler/measure"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c, o := command()
	// The client library logs through one logger of the whole process, and there is one
	// collector of garbage, so it is the process that sets them and not run.
	c.PreRun = func(*cobra.Command, []string) {
		klog.SetLogger(logger(*o).WithName("client"))
		collectSeldom(logger(*o))
	}
	if err := c.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1)
	}
}

func command() (*cobra.Command, *options) {
	o := &options{}
	c := &cobra.Command{
		Use:           "scheduler",
		Version:       version.String(),
		Short:         "Place gangs of pods whole, on one virtual node or on the real nodes",
		Args:          noArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			var bad []error
			c.Flags().Visit(func(f *pflag.Flag) {
				if err := refused(f); err != nil {
					bad = append(bad, err)
				} else if unused[f.Name] != "" {
					o.idle = append(o.idle, "--"+f.Name)
				}
			})
			if err := errors.Join(bad...); err != nil {
				return err
			}
			return run(c.Context(), *o)
		},
	}
	o.register(c.Flags())
	return c, o
}

// noArgs refuses arguments that are no flags, but for the one with which Volcano's
// own chart ends the list: it means nothing there either, since no shell reads it.
func noArgs(c *cobra.Command, args []string) error {
	return cobra.NoArgs(c, slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "2>&1" }))
}

func run(ctx context.Context, o options) error {
	o.resolve()
	if err := o.validate(); err != nil {
		return err
	}
	log := logger(o)
	for _, name := range o.idle {
		log.Info("flag is known and not used by this scheduler", "flag", name)
	}
	ctx = logr.NewContext(ctx, log)
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("load kubeconfig: %w", err)
	}
	config.QPS, config.Burst, config.UserAgent = o.qps, o.burst, "isthmus-scheduler"
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := driver.NewMetrics(registry)
	s, err := newScheduler(config, o, metrics)
	if err != nil {
		return err
	}
	if o.conf != "" {
		s.conf = &confFile{path: o.conf, use: s.pipelines.configure, loaded: metrics.Configured, also: s.configure, warned: map[string]bool{}}
		if err := s.conf.first(log); err != nil {
			return err
		}
		// Who waits for the lease follows it too, so that its last good one is not that
		// of its start.
		defer s.follow(ctx)()
	}
	closeServers, err := serve(ctx, o, registry, s.driver.Alive)
	if err != nil {
		return err
	}
	defer closeServers()
	if !o.leaderElect {
		return s.run(ctx)
	}
	return s.elect(ctx, config, o)
}

func logger(o options) logr.Logger {
	opts := &slog.HandlerOptions{Level: slog.Level(-o.verbosity)}
	if o.logFormat == "text" {
		return logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, opts))
	}
	return logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, opts))
}

// scheduler is the wired program.
type scheduler struct {
	client  kubernetes.Interface
	volcano versioned.Interface
	cache   *cache.Cache
	driver  *driver.Driver
	binder  *binder.Binder
	events  record.EventBroadcaster
	conf    *confFile // nil without a file
	fence   *fence
	grants  *grants.Ledger
	// rightsEvery is how often rights that are missing are asked for again.
	rightsEvery time.Duration
	dynamic     dynamic.Interface
	memory      *memory.Keeper // nil when what is learnt is not kept

	pipelines *pipelines
	measure   *measure.Keeper
	extend    *extend.Asker
}

// configure takes in what a configuration asks of the rest of the program.
func (s *scheduler) configure(c schedconfig.Config) {
	s.measure.Use(c.Measuring())
	s.extend.Use(c.Extender())
	s.binder.WaitForClaims(c.ClaimsWithin())
}

// follow reads the configuration again whenever it changes, until stop is called.
func (s *scheduler) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.conf.watch(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func newScheduler(config *rest.Config, o options, m *driver.Metrics) (*scheduler, error) {
	guard := &fence{}
	config = rest.CopyConfig(config)
	config.Wrap(guard.wrap)
	ledger := &grants.Ledger{Now: time.Now, Evicts: true}
	config.Wrap(ledger.Wrap) // what it does in place of something else passes the fence
	client, volcano, free, err := cache.Clients(config)
	if err != nil {
		return nil, err
	}
	types := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(types), hpcv1alpha1.AddToScheme(types)); err != nil {
		return nil, fmt.Errorf("make scheme: %w", err)
	}
	s := &scheduler{fence: guard, grants: ledger, rightsEvery: o.rights, client: client, volcano: volcano, dynamic: free, cache: cache.New(), events: record.NewBroadcaster()}
	s.cache.Created = m.Created
	s.cache.Rights = ledger
	ledger.Report = s.tellRights(logger(o), m)
	s.cache.Learn(estimate.New())
	if o.memory != "" {
		s.memory = &memory.Keeper{Client: client, Namespace: o.memory, Learner: s.cache, Every: 30 * time.Second}
	}
	if len(o.names) > 0 {
		s.cache.Serve(o.names...)
	}
	s.cache.Await(o.await)
	s.measure = &measure.Keeper{Nodes: s.cache.RealNodes, Set: s.cache.SetLoads, API: client.Discovery().RESTClient(), Now: time.Now, Count: m.Measured}
	s.extend = &extend.Asker{Objects: s.cache, Set: s.cache.SetOpinions, Now: time.Now, Count: m.Extended}
	s.binder = binder.New(binder.Config{
		Client: client, Volcano: volcano, Dynamic: free, Cache: s.cache, Workers: o.workers, Now: time.Now, NewID: uuid.NewString, Observe: m,
		Events: s.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "isthmus-scheduler"}),
	})
	timing := driver.DefaultTiming()
	if o.audit > 0 {
		timing.Audit = o.audit
	}
	s.driver = &driver.Driver{Cache: s.cache, Pipeline: schedconfig.Default(), Binder: s.binder, Metrics: m, Now: time.Now, Timing: timing, Looked: s.extend.Look}
	s.pipelines = &pipelines{
		use: s.driver.Use, base: schedconfig.Default(), told: map[string]string{}, denied: ledger.Denied,
		events: s.events.NewRecorder(types, corev1.EventSource{Component: "isthmus-scheduler"}),
	}
	return s, nil
}

// run schedules until ctx ends.
func (s *scheduler) run(ctx context.Context) error {
	log := logr.FromContextOrDiscard(ctx)
	if err := binder.EnsureQueues(ctx, s.volcano); err != nil {
		return err
	}
	s.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.client.CoreV1().Events("")})
	defer s.events.Shutdown()
	ctx, stop := context.WithCancel(ctx)
	listing, cancel := context.WithTimeout(ctx, cache.SyncTimeout)
	defer cancel()
	// The watches live as long as ctx; only the first listing is bounded.
	wait, err := s.cache.Watch(ctx, listing, s.client, s.volcano)
	defer wait()
	defer stop()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	reservations, err := s.cache.WatchOwn(ctx, listing, s.client.Discovery(), s.dynamic)
	defer reservations()
	defer stop()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	log.Info("scheduler runs")
	profiles, err := s.pipelines.watch(ctx, s.client.Discovery(), s.dynamic)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer profiles()
	defer stop()
	s.binder.Start(ctx)
	var watched sync.WaitGroup
	if s.memory != nil {
		s.memory.Load(ctx)
		watched.Go(func() { s.memory.Run(ctx) })
	}
	watched.Go(func() { s.refreshRights(ctx, s.rightsEvery) })
	watched.Go(func() { s.measure.Run(ctx) })
	watched.Go(func() { s.extend.Run(ctx) })
	if s.conf != nil {
		// A change of the last seconds counts before the first pod is placed or evicted.
		_ = s.conf.load(log) // it is logged, and there is a last good one
	}
	s.driver.Run(ctx)
	stop()
	watched.Wait()
	s.binder.Wait()
	log.Info("scheduler stopped")
	return nil
}

// elect runs while the lease is held. A lost lease ends the program: another
// instance decides from then on.
func (s *scheduler) elect(ctx context.Context, config *rest.Config, o options) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("get host name: %w", err)
	}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, o.leaseNS, "isthmus-scheduler",
		resourcelock.ResourceLockConfig{Identity: host + "_" + uuid.NewString()}, config, o.lease.deadline)
	if err != nil {
		return fmt.Errorf("make lease: %w", err)
	}
	result := errors.New("lost the lease")
	elected, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	var started atomic.Bool
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: o.lease.duration, RenewDeadline: o.lease.deadline, RetryPeriod: o.lease.retry,
		ReleaseOnCancel: true, Name: "isthmus-scheduler",
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				started.Store(true)
				defer close(done)
				defer cancel()
				if err := s.run(ctx); err != nil {
					result = err
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("make elector: %w", err)
	}
	s.fence.set(func() bool { return elector.IsLeader() && elector.Check(-o.lease.retry) == nil })
	elector.Run(elected)
	if started.Load() {
		<-done
	}
	if ctx.Err() != nil {
		return nil
	}
	return result
}
