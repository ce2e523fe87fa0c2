package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// clients are what is measured: fresh, so that no way inherits the limiter's state.
func (c *cluster) clients() (kubernetes.Interface, versioned.Interface, error) {
	client, volcano, _, err := cache.Clients(c.config) // those of the program
	if err != nil {
		return nil, nil, fmt.Errorf("make clients: %w", err)
	}
	return client, volcano, nil
}

// roundRobin binds pod i to node i modulo the nodes, with the same Binding as the
// scheduler's, and takes the time of the writes alone.
func (c *cluster) roundRobin(ctx context.Context) (time.Duration, spent, error) {
	client, _, err := c.clients()
	if err != nil {
		return 0, spent{}, err
	}
	before, start := spentSoFar(), time.Now()
	if c.create {
		if err := c.fill(ctx); err != nil {
			return 0, spent{}, err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.workers)
	for i := range c.pods() {
		g.Go(func() error {
			return client.CoreV1().Pods(namespace).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: podName(i/c.size, i%c.size), Annotations: map[string]string{
					wellknown.GangAttempt: uuid.NewString(), wellknown.GangSize: fmt.Sprint(c.size), wellknown.GangRank: fmt.Sprint(i % c.size),
				}},
				Target: corev1.ObjectReference{Kind: "Node", Name: nodeName(i % c.nodes)},
			}, metav1.CreateOptions{})
		})
	}
	if err := g.Wait(); err != nil {
		return 0, spent{}, fmt.Errorf("bind: %w", err)
	}
	return time.Since(start), spentSoFar().since(before), nil
}

// bindings counts accepted bindings and tells when all are there.
type bindings struct {
	*driver.Metrics
	left chan struct{}
}

func (b bindings) Bound(result string, took time.Duration) {
	b.Metrics.Bound(result, took)
	if result == "bound" {
		b.left <- struct{}{}
	}
}

// scheduler runs the whole scheduler, PodGroup statuses and events included, and
// takes the time from its first look at the cluster to the last accepted binding.
// Listing the cluster is not part of it; making the load is, if it is asked for.
func (c *cluster) scheduler(ctx context.Context) (time.Duration, spent, error) {
	client, volcano, err := c.clients()
	if err != nil {
		return 0, spent{}, err
	}
	if err := binder.EnsureQueues(ctx, volcano); err != nil {
		return 0, spent{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	events := record.NewBroadcaster()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer events.Shutdown()
	state, metrics := cache.New(), driver.NewMetrics(prometheus.NewRegistry())
	observe := bindings{metrics, make(chan struct{}, c.pods())}
	b := binder.New(binder.Config{
		Client: client, Volcano: volcano, Cache: state, Workers: c.workers, Now: time.Now, NewID: uuid.NewString, Observe: observe,
		Events: events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "isthmus-scheduler"}),
	})
	d := &driver.Driver{Cache: state, Pipeline: schedtest.Pipeline(), Binder: b, Metrics: metrics, Now: time.Now, Timing: driver.DefaultTiming()}
	wait, err := state.Watch(ctx, ctx, client, volcano)
	defer func() {
		cancel()
		b.Wait()
		wait()
	}()
	if err != nil {
		return 0, spent{}, err
	}
	waiting := c.pods()
	if c.create {
		waiting = 0
	}
	if n := unbound(ctx, client); n != waiting {
		return 0, spent{}, fmt.Errorf("%d pods wait, want %d", n, waiting)
	}
	if c.profile != "" {
		f, err := os.Create(c.profile)
		if err != nil {
			return 0, spent{}, fmt.Errorf("make profile: %w", err)
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return 0, spent{}, fmt.Errorf("start profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	before, start := spentSoFar(), time.Now()
	b.Start(ctx)
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	if c.create {
		if err := c.fill(ctx); err != nil {
			return 0, spent{}, err
		}
	}
	deadline := time.After(most)
	for range c.pods() {
		select {
		case <-observe.left:
			if c.bound != nil {
				c.bound()
			}
		case <-ctx.Done():
			return 0, spent{}, context.Cause(ctx)
		case <-deadline:
			return 0, spent{}, errors.New("not all gangs were bound within ten minutes")
		}
	}
	took, used := time.Since(start), spentSoFar().since(before)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for told := 0; time.Since(start) < most && ctx.Err() == nil; <-look.C {
		if told = c.toldUpTo(state, told); told == c.gangs {
			break
		}
	}
	c.told = time.Since(start)
	cancel()
	<-done
	return took, used, nil
}

// most bounds one round.
const most = 10 * time.Minute

// toldUpTo returns the number of the first PodGroup, from one on, that does not say
// yet that its gang is placed; gangs if all do.
func (c *cluster) toldUpTo(state *cache.Cache, from int) int {
	for g := from; g < c.gangs; g++ {
		if st, ok := state.Status("podgroup/" + namespace + "/" + groupName(g)); !ok || st.Phase != string(volcanov1.PodGroupRunning) {
			return g
		}
	}
	return c.gangs
}

func unbound(ctx context.Context, client kubernetes.Interface) int {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "").String()})
	if err != nil {
		return -1
	}
	return len(pods.Items)
}
