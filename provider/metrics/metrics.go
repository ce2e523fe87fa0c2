// Package metrics counts what a virtual kubelet does at the batch system and at
// the API server, and shows what waits. The names are listed in the chart's
// README; a test compares.
package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/effect"
)

// State is what the daemon knows at a moment.
type State struct {
	// Observed is when the last complete list of jobs was made; zero is never.
	Observed  time.Time
	Reachable bool
	// Jobs of ours by state, and pods that wait by reason.
	Jobs    map[backends.State]int
	Waiting map[string]int
	// Ownerless jobs are seen and not cancelled yet; Braked says that none will be.
	Ownerless int
	Braked    bool
}

// Metrics is an effect.Gate that measures what goes through it, and a
// prometheus.Collector.
type Metrics struct {
	next     effect.Gate
	now      func() time.Time
	state    func() State
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	adopted  prometheus.Counter
}

var (
	_ effect.Gate          = (*Metrics)(nil)
	_ prometheus.Collector = (*Metrics)(nil)

	jobs      = prometheus.NewDesc("isthmus_vnode_jobs", "Our batch jobs by state.", []string{"state"}, nil)
	waiting   = prometheus.NewDesc("isthmus_vnode_pods_waiting", "Pods that wait, by reason.", []string{"reason"}, nil)
	age       = prometheus.NewDesc("isthmus_vnode_observation_age_seconds", "Time since the last complete list of jobs.", nil, nil)
	reachable = prometheus.NewDesc("isthmus_vnode_batch_system_reachable", "1 while the batch system answers.", nil, nil)
	ownerless = prometheus.NewDesc("isthmus_vnode_ownerless_jobs", "Batch jobs of ours that no pod owns.", nil, nil)
	braked    = prometheus.NewDesc("isthmus_vnode_sweep_braked", "1 while ownerless jobs are left alone until an administrator has looked.", nil, nil)
)

// New measures what passes on its way to next. state must be safe to call at any
// time and must not block.
func New(next effect.Gate, now func() time.Time, state func() State) *Metrics {
	return &Metrics{
		next: next, now: now, state: state,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "isthmus_vnode_effect_seconds", Help: "Duration of calls to the batch system, its file system and the API server, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 15),
		}, []string{"effect"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "isthmus_vnode_effect_failures_total", Help: "Calls that failed, by kind and class of error.",
		}, []string{"effect", "class"}),
		adopted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "isthmus_vnode_adopted_jobs_total", Help: "Jobs whose submission was not known to have succeeded and that were found and taken over.",
		}),
	}
}

// Adopted counts a job that was taken over.
func (m *Metrics) Adopted() { m.adopted.Inc() }

// Do performs fn through the next gate.
func (m *Metrics) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	began := m.now()
	err := m.next.Do(ctx, name, fn)
	m.seconds.WithLabelValues(name).Observe(m.now().Sub(began).Seconds())
	if err != nil {
		m.failures.WithLabelValues(name, effect.Class(err)).Inc()
	}
	return err
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	m.seconds.Describe(out)
	m.failures.Describe(out)
	m.adopted.Describe(out)
	for _, d := range []*prometheus.Desc{jobs, waiting, age, reachable, ownerless, braked} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.seconds.Collect(out)
	m.failures.Collect(out)
	m.adopted.Collect(out)
	s := m.state()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range s.Jobs {
		gauge(jobs, float64(n), string(state))
	}
	for reason, n := range s.Waiting {
		gauge(waiting, float64(n), reason)
	}
	if !s.Observed.IsZero() {
		gauge(age, m.now().Sub(s.Observed).Seconds())
	}
	gauge(reachable, one(s.Reachable))
	gauge(ownerless, float64(s.Ownerless))
	gauge(braked, one(s.Braked))
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
