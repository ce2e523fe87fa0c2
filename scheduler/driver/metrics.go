package driver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
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
	audits     prometheus.Counter
	waiting    *prometheus.GaugeVec
	binds      *prometheus.CounterVec
	bindTime   prometheus.Histogram
	writes     *prometheus.CounterVec
	configured *prometheus.CounterVec
	measured   *prometheus.CounterVec
	extended   *prometheus.CounterVec
	rights     *prometheus.GaugeVec

	latency     prometheus.Histogram
	jobLatency  prometheus.Histogram
	taskLatency prometheus.Histogram
	opening     prometheus.Histogram
	creation    prometheus.Histogram
	plugins     *prometheus.HistogramVec
	actions     *prometheus.HistogramVec
	attempts    *prometheus.CounterVec
	victims     prometheus.Gauge
	preemptions prometheus.Counter
	evictions   *prometheus.CounterVec
	state       *stateCollector
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
		expired:    prometheus.NewCounter(prometheus.CounterOpts{Name: "isthmus_scheduler_assumptions_expired_total", Help: "Accepted bindings that the watch did not show in time."}),
		mismatches: prometheus.NewGauge(prometheus.GaugeOpts{Name: "isthmus_scheduler_ledger_differences", Help: "Differences between the ledger and the pods at the last audit; always 0."}),
		audits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "isthmus_scheduler_ledger_audits_total", Help: "How often the ledger was recomputed from the pods and compared."}),
		waiting:    gauge("isthmus_scheduler_waiting_gangs", "Gangs that wait, by reason.", "reason"),
		binds:      counter("isthmus_scheduler_bindings_total", "Binding calls by result.", "result"),
		bindTime:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "isthmus_scheduler_binding_seconds", Help: "Time from decision to accepted binding.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		writes:     counter("isthmus_scheduler_status_writes_total", "Status writes by kind and result.", "kind", "result"),
		configured: counter("isthmus_scheduler_configurations_total", "Configurations that were read, by result: good, invalid or unreadable.", "result"),
		measured:   counter("isthmus_scheduler_measurements_total", "Times that the loads of nodes were asked for, by result: measured or failed.", "result"),
		extended:   counter("isthmus_scheduler_extender_rounds_total", "Times that the extender was asked about the pods of one class, by result: answered or failed.", "result"),
		rights:     gauge("isthmus_scheduler_rights_missing", "1 for each right that the scheduler asked for and that no role grants it; 0 once it is granted.", "verb", "resource"),

		latency:     milliseconds("volcano_e2e_scheduling_latency_milliseconds", "Time of a scheduling cycle."),
		jobLatency:  milliseconds("volcano_e2e_job_scheduling_latency_milliseconds", "Time from the making of a gang to its placement."),
		taskLatency: milliseconds("volcano_task_scheduling_latency_milliseconds", "Time from the decision about a pod to its accepted binding."),
		opening:     milliseconds("volcano_open_session_duration_milliseconds", "Time to open a cycle: ledger of queues and plugins."),
		creation:    milliseconds("volcano_controller_job_to_pod_creation_latency_milliseconds", "Time from the making of a PodGroup to that of each of its pods, in whole seconds as the API tells."),
		plugins:     prometheus.NewHistogramVec(latencies("volcano_plugin_scheduling_latency_milliseconds", "Time of a plugin when a cycle opens."), []string{"plugin", "OnSession"}),
		actions:     prometheus.NewHistogramVec(latencies("volcano_action_scheduling_latency_milliseconds", "Time of an action."), []string{"action"}),
		attempts:    counter("volcano_schedule_attempts_total", "Gangs looked at, by result.", "result"),
		victims:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "volcano_pod_preemption_victims", Help: "Pods that the last cycle which evicted any chose to evict for others."}),
		preemptions: prometheus.NewCounter(prometheus.CounterOpts{Name: "volcano_total_preemption_attempts", Help: "Times that room was made by eviction."}),
		evictions:   counter("volcano_eviction_transactions_total", "Sets of evictions that were decided together, by action.", "action"),
		state:       &stateCollector{retries: map[string]int64{}},
	}
	r.MustRegister(m.cycles, m.panics, m.expired, m.mismatches, m.audits, m.waiting, m.binds, m.bindTime, m.writes, m.configured, m.measured, m.extended, m.rights,
		m.latency, m.jobLatency, m.taskLatency, m.opening, m.creation, m.plugins, m.actions, m.attempts, m.victims, m.preemptions, m.evictions, m.state)
	for _, action := range []string{"preempt", "reclaim", "gangpreempt", "gangreclaim", "elastic"} {
		m.evictions.WithLabelValues(action) // told as 0 before the first
	}
	return m
}

func latencies(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.5, 2, 20)}
}

func milliseconds(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(latencies(name, help))
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Bound implements binder.Observer.
func (m *Metrics) Bound(result string, took time.Duration) {
	m.binds.WithLabelValues(result).Inc()
	if result == "bound" {
		m.bindTime.Observe(took.Seconds())
		m.taskLatency.Observe(inMilliseconds(took))
	}
}

// Wrote implements binder.Observer.
func (m *Metrics) Wrote(kind, result string) { m.writes.WithLabelValues(kind, result).Inc() }

// Configured counts a configuration that was read.
func (m *Metrics) Configured(result string) { m.configured.WithLabelValues(result).Inc() }

// Measured counts a time that the loads of nodes were asked for.
func (m *Metrics) Measured(result string) { m.measured.WithLabelValues(result).Inc() }

// Extended counts a time that the extender was asked about pods.
func (m *Metrics) Extended(result string) { m.extended.WithLabelValues(result).Inc() }

// Right takes in that a right is missing, or no longer is.
func (m *Metrics) Right(verb, resource string, missing bool) {
	g := m.rights.WithLabelValues(verb, resource)
	g.Set(0)
	if missing {
		g.Set(1)
	}
}

// Created takes in how long after its PodGroup a pod was made.
func (m *Metrics) Created(after time.Duration) { m.creation.Observe(inMilliseconds(after)) }

// watch is the pipeline's: it measures the parts of cycles.
func (m *Metrics) watch(now func() time.Time) func(kind, name string) func() {
	return func(kind, name string) func() {
		start := now()
		return func() {
			took := inMilliseconds(now().Sub(start))
			switch kind {
			case framework.Opening:
				m.opening.Observe(took)
			case framework.PluginOpening:
				m.plugins.WithLabelValues(name, "OnSessionOpen").Observe(took)
			case framework.Acting:
				m.actions.WithLabelValues(name).Observe(took)
			}
		}
	}
}

// cycle takes in one cycle. What can be worked out when somebody asks is kept for
// then: a cycle costs no more because its state is shown.
func (m *Metrics) cycle(s *snapshot.Snapshot, p plan.Plan, o entitlement.Options, now time.Time, took time.Duration) {
	m.cycles.Observe(took.Seconds())
	m.latency.Observe(inMilliseconds(took))
	m.attempts.WithLabelValues("scheduled").Add(float64(len(p.Placements)))
	m.attempts.WithLabelValues("unschedulable").Add(float64(len(p.Unschedulable)))
	m.waiting.Reset()
	for _, u := range p.Unschedulable {
		m.waiting.WithLabelValues(string(u.Code)).Inc()
	}
	victims := 0
	for _, c := range p.Claims {
		if len(c.Evictions) > 0 {
			victims += len(c.Evictions)
			m.preemptions.Inc()
			m.evictions.WithLabelValues(c.Action).Inc()
		}
	}
	if victims > 0 { // the next cycle, which has none, comes long before anybody reads it
		m.victims.Set(float64(victims))
	}
	for _, created := range m.state.take(s, p, o, now) {
		m.jobLatency.Observe(inMilliseconds(now.Sub(created)))
	}
}
