package binder_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

const gpu = "nvidia.com/gpu"

// feed is what watches tell of one kind.
type feed interface {
	set(kind int, o metav1.Object)
	del(kind int, o metav1.Object)
}

// into gives the cache what watches tell, as its informers do.
type into struct{ *cache.Cache }

func (c into) set(_ int, o metav1.Object) {
	switch o := o.(type) {
	case *corev1.Node:
		c.SetNode(o)
	case *corev1.Pod:
		c.SetPod(o)
	case *volcanov1.PodGroup:
		c.SetGroup(o)
	case *volcanov1.Queue:
		c.SetQueue(o)
	}
}

func (c into) del(_ int, o metav1.Object) {
	switch o := o.(type) {
	case *corev1.Node:
		c.DeleteNode(o.Name, string(o.UID))
	case *corev1.Pod:
		c.DeletePod(string(o.UID))
	case *volcanov1.PodGroup:
		c.DeleteGroup(o.Namespace, o.Name, string(o.UID))
	case *volcanov1.Queue:
		c.DeleteQueue(o.Name, string(o.UID))
	}
}

// assumption is a binding that the scheduler counts and its watch has not shown.
type assumption struct {
	node  string
	until time.Time // zero while the binding is under way
}

// retry is work that waits to be done again.
type retry struct {
	at    time.Time
	again func()
}

// job is a gang as its owner wants it.
type job struct {
	name  string
	size  int
	min   int
	gpus  int
	over  bool // it has ended, or was deleted
	queue string
	prio  int32
	made  int
	// hurt says that it lost members since the first of them was bound.
	hurt bool
}

// world is a cluster with one scheduler: its cache, its cycle and its binder are the
// real ones, driven one step at a time.
type world struct {
	now  time.Time
	api  *api
	jobs []*job
	uids int
	lost []*corev1.Node

	pipe  framework.Pipeline
	spoil func(feed) feed // nil for none

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
	assumed map[string]assumption
	fresh   time.Time // when everything had been told

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
	w.retries, w.tries, w.assumed = nil, map[any]int{}, map[string]assumption{}
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
		Looked: func(_ *snapshot.Snapshot, p plan.Plan) { w.plans = p },
	}
	for k := range kinds {
		w.relist((k + w.starts) % kinds)
	}
}

const holdFor = 10 * time.Second

// deliver tells the scheduler up to n events of a kind.
func (w *world) deliver(kind, n int) error {
	for ; n > 0 && w.seen[kind] < len(w.api.log[kind]); n-- {
		e := w.api.log[kind][w.seen[kind]]
		w.seen[kind]++
		if e.gone {
			w.gone(kind, e.object)
		} else {
			w.told(kind, e.object)
		}
		w.events++
		if w.closely {
			if err := w.agrees(); err != nil {
				return err
			}
		}
	}
	return nil
}

// told and gone keep an informer's store, and pass on what it does.
func (w *world) told(kind int, o metav1.Object) {
	if old := w.store[kind][o.GetName()]; old != nil && old.GetUID() != o.GetUID() {
		w.gone(kind, old)
	}
	w.store[kind][o.GetName()] = o
	w.feed.set(kind, o)
	if p, ok := o.(*corev1.Pod); ok && (p.Spec.NodeName != "" || p.Status.Phase == corev1.PodSucceeded) {
		delete(w.assumed, string(p.UID))
	}
}

func (w *world) gone(kind int, o metav1.Object) {
	delete(w.store[kind], o.GetName())
	w.feed.del(kind, o)
	if kind == pods {
		delete(w.assumed, string(o.GetUID()))
	}
}

// relist is what an informer does whose watch was cut for too long: it takes what is
// there now, and what it knew and does not find is gone.
func (w *world) relist(kind int) {
	w.seen[kind] = len(w.api.log[kind])
	for name, o := range w.store[kind] {
		if w.api.objects[kind][name] == nil {
			w.gone(kind, o)
		}
	}
	for _, name := range w.api.names(kind) {
		w.told(kind, w.api.objects[kind][name])
	}
}

// all tells everything that happened.
func (w *world) all() error {
	for k := range kinds {
		if err := w.deliver((k+w.cycles)%kinds, 1<<30); err != nil {
			return err
		}
	}
	w.fresh = w.now
	return nil
}

// cycle runs one.
func (w *world) cycle() error {
	w.cycles++
	for uid, a := range w.assumed {
		if !a.until.IsZero() && w.now.After(a.until) {
			delete(w.assumed, uid)
		}
	}
	if err := w.driver.Cycle(context.Background()); err != nil {
		return err
	}
	w.sent += len(w.plans.Releases)
	for _, c := range w.plans.Claims {
		w.sent += len(c.Evictions)
	}
	for _, pl := range w.plans.Placements {
		for _, b := range pl.Binds {
			if p, ok := w.store[pods][b.Name].(*corev1.Pod); ok && string(p.UID) == b.UID && p.Spec.NodeName == "" {
				w.assumed[b.UID] = assumption{node: b.Node}
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
		if a, ok := w.assumed[did.Pod]; ok && did.Settled {
			if a.until = w.now.Add(2 * time.Minute); w.said == "bound" {
				w.assumed[did.Pod] = a
			} else {
				delete(w.assumed, did.Pod)
			}
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

// pass lets time go by; a watch is never two minutes behind.
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

func (w *world) node(name string, gpus, hosts int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: w.uid()}}
	if hosts > 0 {
		n.Labels = map[string]string{wellknown.VirtualNode: "true"}
		n.Annotations = map[string]string{wellknown.HostShapes: fmt.Sprintf(`{"shapes":[{"count":%d,"resources":{"cpu":64000,"nvidia.com/gpu":%d}}]}`, hosts, gpus)}
	}
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{"cpu": kresource.MustParse("64"), "pods": kresource.MustParse("110"), gpu: *kresource.NewQuantity(int64(gpus*max(hosts, 1)), kresource.DecimalSI)},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	return n
}

func (w *world) queue(name string, weight int32) *volcanov1.Queue {
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}, Spec: volcanov1.QueueSpec{Weight: weight}}
	q.Status.State = volcanov1.QueueStateOpen
	return q
}

// submit makes a gang, whose pods make adds.
func (w *world) submit(j *job) {
	w.jobs = append(w.jobs, j)
	w.api.put(groups, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: j.name, UID: w.uid(), CreationTimestamp: metav1.NewTime(w.now)},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(j.min), Queue: j.queue},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupPending},
	})
}

// make has owners make the pods that their gangs lack.
func (w *world) make() {
	for _, j := range w.jobs {
		for i := 0; i < j.size && !j.over; i++ {
			name := fmt.Sprintf("%s-%d", j.name, i)
			if w.api.pod(name) != nil {
				continue
			}
			ask := corev1.ResourceList{"cpu": kresource.MustParse("1")}
			if j.gpus > 0 {
				ask[gpu] = *kresource.NewQuantity(int64(j.gpus), kresource.DecimalSI)
			}
			w.api.put(pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: w.uid(), CreationTimestamp: metav1.NewTime(w.now), Annotations: map[string]string{
					wellknown.PodGroupName: j.name, "volcano.sh/task-spec": "w", "volcano.sh/task-index": fmt.Sprint(i),
				}},
				Spec: corev1.PodSpec{
					SchedulerName: wellknown.SchedulerIsthmus, Priority: &j.prio,
					Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: ask}}},
				},
				Status: corev1.PodStatus{Phase: corev1.PodPending},
			})
		}
	}
}

// of lists the pods of a gang.
func (w *world) of(j *job) (out []*corev1.Pod) {
	for i := range j.size {
		if p := w.api.pod(fmt.Sprintf("%s-%d", j.name, i)); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// have counts the members that are placed or done.
func (w *world) have(j *job) (n int) {
	for _, p := range w.of(j) {
		if p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

// hurts notes that a gang is losing a member.
func (w *world) hurts(p *corev1.Pod) {
	for _, j := range w.jobs {
		j.hurt = j.hurt || j.name == p.Annotations[wellknown.PodGroupName]
	}
}

// run has kubelets start what is bound, and end what is to go or has no node.
func (w *world) run() {
	for _, j := range w.jobs {
		for _, p := range w.of(j) {
			switch {
			case p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded:
			case p.DeletionTimestamp != nil || w.api.objects[nodes][p.Spec.NodeName] == nil:
				w.hurts(p)
				w.api.drop(pods, p.Name)
			case p.Status.Phase == corev1.PodPending:
				p = p.DeepCopy()
				p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: w.now}
				w.api.put(pods, p)
			}
		}
		if w.have(j) == 0 {
			j.hurt = false
		}
	}
}

// finish ends a gang well that runs.
func (w *world) finish(j *job) {
	if w.have(j) < j.min {
		return
	}
	j.over = true
	for _, p := range w.of(j) {
		if p.Spec.NodeName == "" {
			w.api.drop(pods, p.Name)
			continue
		}
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodSucceeded
		w.api.put(pods, p)
	}
}

// cancel deletes a gang.
func (w *world) cancel(j *job) {
	j.over = true
	for _, p := range w.of(j) {
		w.api.remove(p)
	}
	w.api.drop(groups, j.name)
}

// sound looks at what the API server has: no node holds more than it offers, and no
// gang is in two domains or has two members of one rank.
func (w *world) sound() error {
	used := map[string]int64{}
	for _, j := range w.jobs {
		domains, ranks := map[string]bool{}, map[string]bool{}
		for _, p := range w.of(j) {
			if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded {
				continue
			}
			used[p.Spec.NodeName] += int64(j.gpus)
			if p.DeletionTimestamp != nil && j.hurt {
				continue // it goes, on a node that was lost maybe: the others have been placed without it
			}
			domain := "nodes"
			if strings.HasPrefix(p.Spec.NodeName, "v") {
				domain = p.Spec.NodeName
				rank := p.Annotations[wellknown.GangAttempt] + "/" + p.Annotations[wellknown.GangRank]
				if ranks[rank] && !j.hurt {
					return fmt.Errorf("gang %s has two members of rank %s", j.name, rank)
				}
				ranks[rank] = true
			}
			if domains[domain] = true; len(domains) > 1 {
				return fmt.Errorf("gang %s is in several domains", j.name)
			}
		}
	}
	for _, name := range w.api.names(nodes) {
		n, _ := w.api.objects[nodes][name].(*corev1.Node)
		if has := n.Status.Allocatable[gpu]; used[name] > has.Value() {
			return fmt.Errorf("node %s has %d GPUs, and %d are used", name, has.Value(), used[name])
		}
	}
	return nil
}

// partial lists gangs that are placed in part, though nothing happened to them since
// their first member was bound, or with always whatever happened.
func (w *world) partial(always bool) (out []string) {
	for _, j := range w.jobs {
		if n := w.have(j); n > 0 && n < j.min && !j.over && (always || !j.hurt) {
			out = append(out, fmt.Sprintf("%s (%d of %d)", j.name, n, j.min))
		}
	}
	return out
}

func (w *world) job(i int) *job {
	if open := slices.DeleteFunc(slices.Clone(w.jobs), func(j *job) bool { return j.over }); len(open) > 0 {
		return open[i%len(open)]
	}
	return nil
}
