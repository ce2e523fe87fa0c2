// Package simulate runs the scheduler's own core over a trace in virtual time: a
// cycle whenever a job comes or ends, and nothing else. It is pure: equal input
// gives equal results.
package simulate

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// Setting is what the jobs run on and by which rules.
type Setting struct {
	Pipeline framework.Pipeline
	// Nodes have PerNode processors each.
	Nodes, PerNode int64
	// InOrder lets nobody pass: a job that does not fit stops those after it.
	InOrder bool
	// Queues gives every queue of the trace one of its own, all of equal weight;
	// without it all jobs share one.
	Queues bool
	// Learn lets nobody say how long jobs run: it is learnt from those of the same
	// user, kind and size that have ended, as the scheduler does.
	Learn bool
}

// Outcome is what became of one job.
type Outcome struct {
	trace.Job
	Start int64 // seconds from the start of the trace
	// Nodes has the number of the node of each processor, in ascending order.
	Nodes []int32
}

// Wait is how long the job waited, in seconds.
func (o Outcome) Wait() int64 { return o.Start - o.Submit }

// Slowdown is the bounded slowdown: wait and run by run, with runs below ten
// seconds counted as ten.
func (o Outcome) Slowdown() float64 {
	return max(1, float64(o.Wait()+o.Run)/float64(max(o.Run, 10)))
}

// epoch is when a trace starts, in virtual time.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type running struct {
	end int64
	job *job
}

type byEnd []running

func (h byEnd) Len() int { return len(h) }
func (h byEnd) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].end, h[j].end), cmp.Compare(h[i].job.index, h[j].job.index)) < 0
}
func (h byEnd) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byEnd) Push(x any)   { *h = append(*h, x.(running)) }
func (h *byEnd) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

type job struct {
	index int
	spec  snapshot.GangSpec
	pods  []snapshot.Pod
	like  string         // its key in the book
	gang  *snapshot.Gang // compiled, nil when out of date
}

const attempt = "1"

// Run runs the trace.
func Run(set Setting, jobs []trace.Job) (Result, error) {
	if set.Nodes < 1 || set.PerNode < 1 {
		return Result{}, fmt.Errorf("simulate: want at least one node with one processor, got %d with %d", set.Nodes, set.PerNode)
	}
	w := newWorld(set, jobs)
	out := Result{}
	started := make([]*Outcome, len(jobs))
	var ends byEnd
	var alive []*job
	next := 0
	for next < len(jobs) || len(ends) > 0 {
		var now int64
		switch {
		case len(ends) == 0 || next < len(jobs) && jobs[next].Submit < ends[0].end:
			now = jobs[next].Submit
		default:
			now = ends[0].end
		}
		w.record(epoch.Add(time.Duration(now)*time.Second), alive)
		for len(ends) > 0 && ends[0].end <= now {
			done := heap.Pop(&ends).(running).job //nolint:forcetypeassert // the heap's own type
			alive = slices.DeleteFunc(alive, func(j *job) bool { return j == done })
			w.leave(done)
			w.learn(now, jobs[done.index])
		}
		for ; next < len(jobs) && jobs[next].Submit <= now; next++ {
			if jobs[next].Size > set.Nodes*set.PerNode {
				out.Refused++
				continue
			}
			alive = append(alive, w.job(next, jobs[next]))
		}
		at := epoch.Add(time.Duration(now) * time.Second)
		for _, j := range w.cycle(at, alive) {
			started[j.index] = &Outcome{Job: jobs[j.index], Start: now, Nodes: w.nodesOf(j)}
			heap.Push(&ends, running{now + jobs[j.index].Run, j})
		}
	}
	for _, o := range started {
		if o != nil {
			out.Jobs = append(out.Jobs, *o)
		}
	}
	out.sum(set)
	return out, nil
}

// world is the cluster; nodes are compiled again only when they change.
type world struct {
	set   Setting
	dims  *resource.Dims
	class *snapshot.Class
	specs []snapshot.NodeSpec
	nodes []*snapshot.Node
	on    []map[string]snapshot.Resident
	jobs  map[string]*job // those that are there, by the key of their gang
	// lineage hands on what stays from one snapshot to the next.
	lineage snapshot.Lineage
	// queues are in the order of their names.
	queues []*snapshot.Queue
	// held is what they have held of late, where the pipeline asks for it.
	held *fairshare.Book
	// book is what was learnt, and told what it tells, by key; nil without Learn.
	book *estimate.Book
	told map[string]time.Duration
}

const cpu = 1000

// oneQueue is where all jobs are when the trace's queues do not count.
const oneQueue = "default"

func (set Setting) queueOf(j trace.Job) string {
	if !set.Queues || j.Queue == "" {
		return oneQueue
	}
	return "queue-" + j.Queue // SWF has numbers, and one may be named like a queue that means something here
}

func newWorld(set Setting, jobs []trace.Job) *world {
	w := &world{set: set, jobs: map[string]*job{}}
	names := map[string]bool{oneQueue: true}
	for _, j := range jobs {
		names[set.queueOf(j)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		q := &snapshot.Queue{Name: name, Weight: 1, State: "Open"}
		if set.InOrder {
			q.Dequeue = snapshot.DequeueFIFO
		}
		w.queues = append(w.queues, q)
	}
	if set.Learn {
		w.book, w.told = estimate.New(), map[string]time.Duration{}
	}
	for i := range set.Nodes {
		w.specs = append(w.specs, snapshot.NodeSpec{Name: fmt.Sprintf("n%06d", i), UID: fmt.Sprint(i), Ready: true, Allocatable: resource.MakeList(
			resource.Quantity{Name: "cpu", Amount: set.PerNode * cpu}, resource.Quantity{Name: "pods", Amount: 1 << 20})})
		w.on = append(w.on, map[string]snapshot.Resident{})
	}
	w.dims = snapshot.DimsOf(w.specs)
	spec := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: cpu}, resource.Quantity{Name: "pods", Amount: 1})}
	w.class = snapshot.NewClass(spec, spec.Key(), w.dims)
	w.nodes = make([]*snapshot.Node, set.Nodes)
	if d := set.Pipeline.HalfLife(); d > 0 {
		w.held = fairshare.New()
		w.held.SetHalfLife(d)
	}
	return w
}

func (w *world) job(i int, j trace.Job) *job {
	name := fmt.Sprintf("j%08d", i)
	out := &job{index: i, spec: snapshot.GangSpec{
		Key: "podgroup/t/" + name, UID: name, Namespace: cmp.Or(j.User, "t"), Name: name, Queue: w.set.queueOf(j), MinMember: j.Size,
		CreatedAt: epoch.Add(time.Duration(j.Submit) * time.Second).UnixNano(),
		Estimate:  j.Estimate * int64(time.Second), EstimateFrom: snapshot.EstimateDeclared,
		Status: snapshot.GroupStatus{Phase: snapshot.GroupInqueue},
	}}
	if w.set.Learn {
		out.like = likeness(j)
		out.spec.Estimate, out.spec.EstimateFrom = 0, ""
	}
	for k := range j.Size {
		out.pods = append(out.pods, snapshot.Pod{UID: fmt.Sprintf("%s/%d", name, k), Namespace: "t", Name: fmt.Sprint(k), Index: k, Phase: snapshot.PodPending, Class: w.class})
	}
	w.jobs[out.spec.Key] = out
	return out
}

// record adds up what is held until now, where the pipeline asks for it.
func (w *world) record(now time.Time, alive []*job) {
	if w.held != nil {
		w.held.Record(w.snapshot(alive), now)
	}
}

// cycle decides once and starts what was placed.
func (w *world) cycle(now time.Time, alive []*job) []*job {
	s := w.snapshot(alive)
	var started []*job
	for _, p := range scheduler.Decide(w.set.Pipeline, s, now).Placements {
		started = append(started, w.start(s, p, w.jobs[p.Gang], now))
	}
	return started
}

func (w *world) start(s *snapshot.Snapshot, p plan.Placement, j *job, now time.Time) *job {
	byUID := make(map[string]*snapshot.Pod, len(j.pods))
	for i := range j.pods {
		byUID[j.pods[i].UID] = &j.pods[i]
	}
	for _, b := range p.Binds {
		pod := byUID[b.UID]
		pod.Node, pod.Attempt, pod.Size, pod.Rank = b.Node, j.spec.Key+attempt, p.Size, b.Rank
		pod.Phase, pod.StartedAt = snapshot.PodRunning, now.UnixNano()
		n, _ := s.Node(b.Node)
		w.on[n][pod.UID] = snapshot.Resident{UID: pod.UID, Class: w.class, Job: pod.Attempt}
		w.nodes[n] = nil
	}
	j.spec.Status.Phase, j.gang = snapshot.GroupRunning, nil
	return j
}

// snapshot is the cluster with the jobs that are there.
func (w *world) snapshot(alive []*job) *snapshot.Snapshot {
	gangs := make([]*snapshot.Gang, 0, len(alive))
	for _, j := range alive {
		if d := int64(w.told[j.like]); d > 0 && d != j.spec.Estimate {
			j.spec.Estimate, j.spec.EstimateFrom, j.gang = d, snapshot.EstimateLearnt, nil
		}
		if j.gang == nil {
			pods := make([]*snapshot.Pod, len(j.pods))
			for i := range j.pods {
				pods[i] = &j.pods[i]
			}
			j.gang = snapshot.NewGang(j.spec, pods, w.dims)
		}
		gangs = append(gangs, j.gang)
	}
	for i := range w.nodes {
		if w.nodes[i] == nil {
			var residents []snapshot.Resident
			for _, r := range w.on[i] {
				residents = append(residents, r)
			}
			w.nodes[i] = snapshot.NewNode(w.specs[i], residents, w.dims)
		}
	}
	s := w.lineage.Assemble(w.dims, slices.Clone(w.nodes), gangs, slices.Clone(w.queues))
	if w.held != nil {
		s.Usage = w.held.Usage()
	}
	return s
}

// nodeOf is the number of the pod's node; it has one.
func (w *world) nodeOf(p *snapshot.Pod) int {
	i, _ := slices.BinarySearchFunc(w.specs, p.Node, func(n snapshot.NodeSpec, name string) int { return cmp.Compare(n.Name, name) })
	return i
}

// nodesOf are the nodes of the job's processors.
func (w *world) nodesOf(j *job) []int32 {
	out := make([]int32, len(j.pods))
	for i := range j.pods {
		out[i] = int32(w.nodeOf(&j.pods[i])) //nolint:gosec // an index of nodes that are in memory
	}
	slices.Sort(out)
	return out
}

func likeness(j trace.Job) string { return fmt.Sprintf("%s/%s/%d", j.User, j.Kind, j.Size) }

// learn notes the run of a job that has ended.
func (w *world) learn(now int64, j trace.Job) {
	if w.book == nil {
		return
	}
	like := likeness(j)
	if w.book.Add(like, estimate.Run{Ended: epoch.Unix() + now, Took: j.Run}) {
		w.told[like] = w.book.Estimate(like)
	}
}

func (w *world) leave(j *job) {
	delete(w.jobs, j.spec.Key)
	for i := range j.pods {
		n := w.nodeOf(&j.pods[i])
		delete(w.on[n], j.pods[i].UID)
		w.nodes[n] = nil
	}
}
