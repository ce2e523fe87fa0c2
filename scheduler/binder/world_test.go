package binder_test

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// retry is work that waits to be done again.
type retry struct {
	at    time.Time
	again func()
}

// world is a cluster with one scheduler: its cache, its cycle and its binder are the
// real ones, driven one step at a time.
type world struct {
	now  time.Time
	api  *api
	jobs []*job
	uids int
	lost []*corev1.Node

	pipe framework.Pipeline
	// differs is what rethink said of the last cycle.
	differs error
	spoil   func(feed) feed // nil for none

	cache   *cache.Cache
	binder  *binder.Binder
	driver  *driver.Driver
	feed    feed
	seen    [kinds]int
	store   [kinds]map[string]metav1.Object
	retries []retry
	tries   map[any]int
	said    string // of the last binding
	ids     int
	assumed map[string]string // the nodes of bindings that the scheduler counts and its watch has not shown, by UID
	held    bool              // the watch of pods tells nothing
	doubted int               // bindings that the API server was asked about
	fresh   time.Time         // when everything had been told

	plans plan.Plan // the last
	// wanted is the cycle in which pods were sent away, by the gang that they went for.
	wanted map[string]int
	cycles int
	events int
	sent   int // pods that were sent away
	starts int
	calm   bool // nothing happens any more but what the scheduler does
	// closely compares the cache after every event, not after cycles alone.
	closely bool
}

func newWorld(pipe framework.Pipeline, spoil func(feed) feed) *world {
	w := &world{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), pipe: pipe, spoil: spoil, wanted: map[string]int{}}
	w.api = newAPI(w.clock)
	return w
}

func (w *world) clock() time.Time { return w.now }

func (w *world) uid() types.UID {
	w.uids++
	return types.UID(fmt.Sprintf("uid-%04d", w.uids))
}

// Bound and Wrote implement binder.Observer.
func (w *world) Bound(result string, _ time.Duration) { w.said = result }

// Wrote implements binder.Observer.
func (w *world) Wrote(string, string) {}

// start starts a scheduler in place of the one before, if any, which is gone without
// a word. It knows what a listing of everything tells.
func (w *world) start() {
	if w.binder != nil {
		w.binder.Close()
	}
	w.starts++
	w.cache = cache.New()
	w.feed = into{w.cache}
	if w.spoil != nil {
		w.feed = w.spoil(w.feed)
	}
	w.retries, w.tries, w.assumed, w.held = nil, map[any]int{}, map[string]string{}, false
	for k := range w.store {
		w.store[k] = map[string]metav1.Object{}
	}
	w.binder = binder.New(binder.Config{
		Client: clients{api: w.api}, Volcano: volcanoClients{api: w.api}, Cache: w.cache, Events: &record.FakeRecorder{},
		HoldFor: holdFor, Now: w.clock, Observe: w,
		NewID: func() string { w.ids++; return fmt.Sprintf("id-%d", w.ids) },
	})
	w.driver = &driver.Driver{
		Cache: w.cache, Pipeline: w.pipe, Binder: w.binder, Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: w.clock,
		Looked: func(s *snapshot.Snapshot, p plan.Plan) { w.plans, w.differs = p, w.rethink(s, p) },
	}
	for k := range kinds {
		w.relist((k + w.starts) % kinds)
	}
}

// rethink says what a cycle that remembers nothing of those before it plans, if that is
// anything else; it is asked of some cycles.
func (w *world) rethink(s *snapshot.Snapshot, p plan.Plan) error {
	if !w.closely && w.cycles%4 > 0 {
		return nil
	}
	if fresh := schedtest.FromNothing(w.pipe, s, w.now); !reflect.DeepEqual(fresh, p) {
		return fmt.Errorf("it is planned\n%s\nand by a cycle that remembers nothing\n%s", p, fresh)
	}
	return nil
}

const holdFor = 10 * time.Second

// cycle runs one.
func (w *world) cycle() error {
	w.cycles++
	if err := w.driver.Cycle(context.Background()); err != nil {
		return err
	}
	if w.differs != nil {
		return w.differs
	}
	w.sent += len(w.plans.Releases)
	for _, c := range w.plans.Claims {
		w.sent += len(c.Evictions)
	}
	for _, pl := range w.plans.Placements {
		for _, b := range pl.Binds {
			if p, ok := w.store[pods][b.Name].(*corev1.Pod); ok && string(p.UID) == b.UID && p.Spec.NodeName == "" {
				w.assumed[b.UID] = b.Node
			}
		}
	}
	if every := 2; w.calm && w.cycles%(3*every) > 0 || !w.closely && w.cycles%every > 0 {
		return nil // what the cache has forgotten stays forgotten until the next look
	}
	return w.agrees()
}

// work has the binder do up to n things of a kind.
func (w *world) work(kind string, n int) error {
	for ; n > 0; n-- {
		hit := w.api.hit
		did, ok := w.binder.Step(context.Background(), kind)
		if !ok {
			return nil
		}
		if !did.Settled {
			w.retries = append(w.retries, retry{w.now.Add(did.Pause(w.tries[did.Key])), did.Again})
			w.tries[did.Key]++
		} else {
			delete(w.tries, did.Key)
		}
		if did.Pod != "" && did.Settled && w.said != "bound" {
			delete(w.assumed, did.Pod)
		}
		if d, ok := did.Key.(cache.Doubt); ok && w.api.hit == hit {
			w.doubted++
			w.answered(d)
		}
		if err := w.sound(); err != nil {
			return err
		}
	}
	return nil
}

// busy has the binder do all that waits, what is due to be done again included.
func (w *world) busy() error {
	var left []retry
	for _, r := range w.retries {
		if r.at.After(w.now) {
			left = append(left, r)
		} else {
			r.again()
		}
	}
	w.retries = left
	for _, k := range binder.Kinds {
		if err := w.work(k, 1<<30); err != nil {
			return err
		}
	}
	return nil
}

// answered is what an answer of the API server about a binding means: it counts on only
// where it is there.
func (w *world) answered(d cache.Doubt) {
	if p := w.api.pod(d.Name); w.assumed[d.UID] == d.Node && (p == nil || string(p.UID) != d.UID || p.Spec.NodeName != d.Node) {
		delete(w.assumed, d.UID)
	}
}

// pass lets time go by; a watch is never two minutes behind unless it is held back.
func (w *world) pass(d time.Duration) error {
	if w.now.Add(d).Sub(w.fresh) > 100*time.Second {
		if err := w.all(); err != nil {
			return err
		}
	}
	w.now = w.now.Add(d)
	w.fresh = w.fresh.Add(max(0, w.now.Sub(w.fresh)-100*time.Second))
	return nil
}
