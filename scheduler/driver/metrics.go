package driver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Metrics are the scheduler's. Those that start with volcano_ have the names and
// meanings that dashboards made for Volcano read.
type Metrics struct {
	cycles     prometheus.Histogram
	panics     prometheus.Counter
	expired    prometheus.Counter
	mismatches prometheus.Gauge
	waiting    *prometheus.GaugeVec
	binds      *prometheus.CounterVec
	bindTime   prometheus.Histogram
	writes     *prometheus.CounterVec
	configured *prometheus.CounterVec

	latency      prometheus.Histogram
	attempts     *prometheus.CounterVec
	unscheduled  prometheus.Gauge
	queueWeight  *prometheus.GaugeVec
	queueCPU     *prometheus.GaugeVec
	queueMemory  *prometheus.GaugeVec
	queueDevices *prometheus.GaugeVec
	groups       map[string]*prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		cycles:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "isthmus_scheduler_cycle_seconds", Help: "Time of a scheduling cycle.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		panics:     prometheus.NewCounter(prometheus.CounterOpts{Name: "isthmus_scheduler_cycle_panics_total", Help: "Cycles that panicked."}),
		expired:    prometheus.NewCounter(prometheus.CounterOpts{Name: "isthmus_scheduler_assumptions_expired_total", Help: "Accepted bindings that the watch never showed."}),
		mismatches: prometheus.NewGauge(prometheus.GaugeOpts{Name: "isthmus_scheduler_ledger_differences", Help: "Differences between the ledger and the pods at the last audit; always 0."}),
		waiting:    gauge("isthmus_scheduler_waiting_gangs", "Gangs that wait, by reason.", "reason"),
		binds:      counter("isthmus_scheduler_bindings_total", "Binding calls by result.", "result"),
		bindTime:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "isthmus_scheduler_binding_seconds", Help: "Time from decision to accepted binding.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		writes:     counter("isthmus_scheduler_status_writes_total", "Status writes by kind and result.", "kind", "result"),
		configured: counter("isthmus_scheduler_configurations_total", "Configurations that were read, by result: good, invalid or unreadable.", "result"),

		latency:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "volcano_e2e_scheduling_latency_milliseconds", Help: "Time of a scheduling cycle in milliseconds.", Buckets: prometheus.ExponentialBuckets(0.5, 2, 14)}),
		attempts:     counter("volcano_schedule_attempts_total", "Gangs looked at, by result.", "result"),
		unscheduled:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "volcano_unschedule_job_count", Help: "Gangs that wait."}),
		queueWeight:  gauge("volcano_queue_weight", "Weight of a queue.", "queue_name"),
		queueCPU:     gauge("volcano_queue_allocated_milli_cpu", "CPU that a queue's gangs hold.", "queue_name"),
		queueMemory:  gauge("volcano_queue_allocated_memory_bytes", "Memory that a queue's gangs hold.", "queue_name"),
		queueDevices: gauge("volcano_queue_allocated_scalar_resources", "Devices that a queue's gangs hold.", "queue_name", "resource"),
		groups:       map[string]*prometheus.GaugeVec{},
	}
	r.MustRegister(m.cycles, m.panics, m.expired, m.mismatches, m.waiting, m.binds, m.bindTime, m.writes, m.configured,
		m.latency, m.attempts, m.unscheduled, m.queueWeight, m.queueCPU, m.queueMemory, m.queueDevices)
	for phase, word := range map[string]string{
		snapshot.GroupPending: "pending", snapshot.GroupInqueue: "inqueue", snapshot.GroupRunning: "running",
		snapshot.GroupUnknown: "unknown", snapshot.GroupCompleted: "completed",
	} {
		m.groups[phase] = gauge("volcano_queue_pod_group_"+word+"_count", "PodGroups of a queue that are "+word+".", "queue_name")
		r.MustRegister(m.groups[phase])
	}
	return m
}

// Bound implements binder.Observer.
func (m *Metrics) Bound(result string, took time.Duration) {
	m.binds.WithLabelValues(result).Inc()
	if result == "bound" {
		m.bindTime.Observe(took.Seconds())
	}
}

// Wrote implements binder.Observer.
func (m *Metrics) Wrote(kind, result string) { m.writes.WithLabelValues(kind, result).Inc() }

// Configured counts a configuration that was read.
func (m *Metrics) Configured(result string) { m.configured.WithLabelValues(result).Inc() }

// cycle takes in one cycle.
func (m *Metrics) cycle(s *snapshot.Snapshot, p plan.Plan, took time.Duration) {
	m.cycles.Observe(took.Seconds())
	m.latency.Observe(float64(took.Microseconds()) / 1000)
	m.attempts.WithLabelValues("scheduled").Add(float64(len(p.Placements)))
	m.attempts.WithLabelValues("unschedulable").Add(float64(len(p.Unschedulable)))
	m.unscheduled.Set(float64(len(p.Unschedulable)))
	m.waiting.Reset()
	for _, u := range p.Unschedulable {
		m.waiting.WithLabelValues(string(u.Code)).Inc()
	}
	m.queues(s)
}

func (m *Metrics) queues(s *snapshot.Snapshot) {
	for _, v := range []*prometheus.GaugeVec{m.queueWeight, m.queueCPU, m.queueMemory, m.queueDevices} {
		v.Reset()
	}
	for _, v := range m.groups {
		v.Reset()
	}
	held := map[string][]int64{}
	for _, q := range s.Queues { // label values come from Queue objects alone, never from pods
		m.queueWeight.WithLabelValues(q.Name).Set(float64(q.Weight))
		held[q.Name] = make([]int64, s.Dims.Len())
	}
	for _, g := range s.Gangs {
		sum := held[g.Queue]
		if sum == nil {
			continue
		}
		for d, a := range g.Held {
			sum[d] += a
		}
		if v := m.groups[g.Status.Phase]; v != nil && !g.Plain {
			v.WithLabelValues(g.Queue).Inc()
		}
	}
	for queue, sum := range held {
		for d, a := range sum {
			switch name := s.Dims.Name(d); name {
			case "cpu":
				m.queueCPU.WithLabelValues(queue).Set(float64(a))
			case "memory":
				m.queueMemory.WithLabelValues(queue).Set(float64(a))
			default:
				m.queueDevices.WithLabelValues(queue, name).Set(float64(a))
			}
		}
	}
}
