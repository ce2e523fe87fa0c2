package driver

import (
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// stateCollector tells the state of the last cycle, worked out when it is asked.
// Label values are names of API objects and resources.
type stateCollector struct {
	mu       sync.Mutex
	snapshot *snapshot.Snapshot
	plan     plan.Plan
	options  entitlement.Options
	now      time.Time

	retries map[string]int64    // by UID of a gang that waits
	placed  map[string]timeSpan // by UID of a gang that was placed and is still there
}

// timeSpan is when a gang was made and when it was placed last.
type timeSpan struct {
	gang          *snapshot.Gang
	created, last time.Time
}

// maxPlaced bounds what is kept when nobody asks.
const maxPlaced = 10000

// take keeps the outcome of a cycle and returns when the gangs that got their
// first place in it were made.
func (c *stateCollector) take(s *snapshot.Snapshot, p plan.Plan, o entitlement.Options, now time.Time) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshot, c.plan, c.options, c.now = s, p, o, now
	retries := make(map[string]int64, len(p.Unschedulable))
	for _, u := range p.Unschedulable {
		retries[u.GangUID] = c.retries[u.GangUID] + 1
	}
	c.retries = retries
	if len(p.Placements) == 0 {
		return nil
	}
	if c.placed == nil || len(c.placed) > maxPlaced {
		c.placed = map[string]timeSpan{}
	}
	var first []time.Time
	for _, pl := range p.Placements {
		g := s.Gang(pl.Gang)
		if g == nil {
			continue
		}
		created := time.Unix(0, g.CreatedAt)
		c.placed[pl.GangUID] = timeSpan{g, created, now}
		if g.Have() == 0 {
			first = append(first, created)
		}
	}
	return first
}

// Describe is empty: the collector is unchecked, since resources come and go.
func (c *stateCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	e := emitter{out: out, s: c.snapshot, plan: c.plan, now: c.now, retries: c.retries, told: map[string]bool{}}
	options := c.options
	e.placed = map[string]timeSpan{}
	for uid, p := range c.placed {
		if g := c.snapshot.Gang(p.gang.Key); g != nil && g.UID == uid {
			e.placed[uid] = p
		}
	}
	c.placed = maps.Clone(e.placed)
	c.mu.Unlock()
	if e.s == nil {
		return
	}
	e.jobs()
	e.queues(entitlement.New(e.s, options))
}

// emitter writes the metrics of one state.
type emitter struct {
	out     chan<- prometheus.Metric
	s       *snapshot.Snapshot
	plan    plan.Plan
	now     time.Time
	retries map[string]int64
	placed  map[string]timeSpan
	told    map[string]bool
}

type pair struct{ name, value string }

func (e *emitter) gauge(name, help string, v float64, labels ...pair) {
	names, values := make([]string, len(labels)), make([]string, len(labels))
	for i, l := range labels {
		names[i], values[i] = l.name, l.value
	}
	// Two gangs of different kinds may have one name, and a queue a fault twice: one
	// line is told for both, as the registry takes no other.
	key := name + "\n" + strings.Join(values, "\n")
	if e.told[key] {
		return
	}
	e.told[key] = true
	e.out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), prometheus.GaugeValue, v, values...)
}

func (e *emitter) jobs() {
	e.gauge("volcano_unschedule_job_count", "Gangs that wait.", float64(len(e.plan.Unschedulable)))
	for _, u := range e.plan.Unschedulable {
		id := pair{"job_id", u.Namespace + "/" + u.Name}
		e.gauge("volcano_unschedule_task_count", "Pods of a gang that wait.", float64(len(u.Pods)), id)
		e.gauge("volcano_job_retry_counts", "Cycles that found no place for a gang so far.", float64(e.retries[u.GangUID]), id)
	}
	for _, p := range e.placed {
		labels := []pair{{"job_name", p.gang.Name}, {"queue", p.gang.Queue}, {"job_namespace", p.gang.Namespace}}
		e.gauge("volcano_e2e_job_scheduling_duration", "Milliseconds from the making of a gang to its placement.", inMilliseconds(p.last.Sub(p.created)), labels...)
		e.gauge("volcano_e2e_job_scheduling_start_time", "When a gang was made, in milliseconds since 1970.", float64(p.created.UnixMilli()), labels...)
		e.gauge("volcano_e2e_job_scheduling_last_time", "When a gang was placed last, in milliseconds since 1970.", float64(p.last.UnixMilli()), labels...)
	}
	namespaces := map[string]resource.Vector{}
	for _, g := range e.s.Gangs {
		if g.Held.Zero() {
			continue
		}
		if namespaces[g.Namespace] == nil {
			namespaces[g.Namespace] = make(resource.Vector, e.s.Dims.Len())
		}
		namespaces[g.Namespace].AddScaled(g.Held, 1)
		if !g.Plain && !g.Absent { // plain pods have no job
			e.gauge("volcano_job_share", "Largest part of any resource of the cluster that a gang holds.", part(g.Held, e.s.Total), pair{"job_ns", g.Namespace}, pair{"job_id", g.Name})
		}
	}
	for name, held := range namespaces {
		e.gauge("volcano_namespace_share", "Largest part of any resource of the cluster that a namespace holds.", part(held, e.s.Total), pair{"namespace_name", name})
	}
}

// part is the dominant share as a fraction.
func part(v, of resource.Vector) float64 {
	share, _ := v.Dominant(of)
	return float64(share) / resource.ShareUnit
}

func (e *emitter) queues(l *entitlement.Ledger) {
	words := map[string]string{
		snapshot.GroupPending: "pending", snapshot.GroupInqueue: "inqueue", snapshot.GroupRunning: "running",
		snapshot.GroupUnknown: "unknown", snapshot.GroupCompleted: "completed",
	}
	counts := map[string]map[string]int{}
	inqueue := map[string]resource.Vector{}
	for _, g := range e.s.Gangs {
		if g.Plain || g.Absent {
			continue
		}
		if counts[g.Queue] == nil {
			counts[g.Queue], inqueue[g.Queue] = map[string]int{}, make(resource.Vector, e.s.Dims.Len())
		}
		counts[g.Queue][g.Status.Phase]++
		if g.Status.Phase == snapshot.GroupInqueue {
			inqueue[g.Queue].AddScaled(g.Wants, 1)
		}
	}
	recent := framework.NewRecent(e.s, l, e.now)
	for _, q := range l.Queues() {
		if q.Spec == nil || q.Own { // label values come from Queue objects alone
			continue
		}
		name := pair{"queue_name", q.Name}
		e.gauge("volcano_queue_weight", "Weight of a queue.", float64(q.Spec.Weight), name)
		e.gauge("volcano_queue_share", "Largest part that a queue holds of what it deserves.", float64(q.Share())/resource.ShareUnit, name)
		e.gauge("volcano_queue_overused", "Whether a queue holds more than it deserves.", boolean(q.Over()), name)
		if e.s.Usage != nil {
			e.gauge("isthmus_scheduler_queue_recent_share", "Part of the cluster that a queue has held on average, the more so the more recently.", float64(recent.Queue(q))/resource.ShareUnit, name)
		}
		for phase, word := range words {
			e.gauge("volcano_queue_pod_group_"+word+"_count", "PodGroups of a queue that are "+word+".", float64(counts[q.Name][phase]), name)
		}
		request := q.Held.Clone()
		request.AddScaled(q.Wanted, 1)
		e.amounts("allocated", "hold", name, q.Held, nil)
		e.amounts("deserved", "deserve", name, q.Deserved, nil)
		e.amounts("request", "hold and ask for", name, request, nil)
		e.amounts("inqueue", "that are Inqueue ask for", name, inqueue[q.Name], nil)
		e.amounts("capacity", "may hold as declared", name, q.Capability, q.Limits)
		e.amounts("real_capacity", "may hold beside what others are guaranteed", name, l.Real(q), nil)
	}
	for _, f := range l.Faults {
		e.gauge("isthmus_scheduler_queue_faults", "What is wrong with the declaration of a queue.", 1, pair{"queue_name", f.Queue}, pair{"reason", f.Reason})
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// amounts writes one vector of a queue; only, when set, says which resources.
func (e *emitter) amounts(what, words string, queue pair, v resource.Vector, only func(dim int) bool) {
	for d := range e.s.Dims.Len() {
		if only != nil && !only(d) {
			continue
		}
		var a int64
		if d < len(v) {
			a = v[d]
		}
		name := "volcano_queue_" + what
		switch res := e.s.Dims.Name(d); res {
		case "cpu":
			e.gauge(name+"_milli_cpu", "CPU that gangs of a queue "+words+".", float64(a), queue)
		case "memory":
			e.gauge(name+"_memory_bytes", "Memory that gangs of a queue "+words+".", float64(a), queue)
		default:
			e.gauge(name+"_scalar_resources", "Devices that gangs of a queue "+words+".", float64(a), queue, pair{"resource", res})
		}
	}
}
