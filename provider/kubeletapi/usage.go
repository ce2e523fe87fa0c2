package kubeletapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ContainerUsage is what one running container has used.
type ContainerUsage struct {
	Name      string
	StartTime time.Time
	Time      time.Time // of the measurement
	CPUNanos  uint64    // since StartTime, never less than before
	NanoCores uint64    // lately
	RSS       uint64    // bytes
	Working   uint64    // bytes
}

// NodeUsage is what the pods of a virtual node have used since the daemon knows
// them. CPUNanos never falls, although pods end.
type NodeUsage struct {
	Time      time.Time
	CPUNanos  uint64
	NanoCores uint64
	RSS       uint64
	Working   uint64
}

// Usage tells what pods use. Its methods answer from memory.
type Usage interface {
	// PodUsage gives the containers that were measured; it may be empty.
	PodUsage(pod *corev1.Pod) []ContainerUsage
	// NodeUsage gives the sum over the pods of one virtual node.
	NodeUsage(node string) NodeUsage
}

// summary answers /stats/summary. All nodes are served at one address, so it is
// of all their pods.
func (s *Server) summary(w http.ResponseWriter, _ *http.Request) {
	out := statsv1alpha1.Summary{Pods: []statsv1alpha1.PodStats{}}
	nodes := map[string]bool{}
	var all NodeUsage
	for _, p := range s.pods.Pods() {
		if name := p.Spec.NodeName; !nodes[name] {
			nodes[name] = true
			out.Node.NodeName = name
			one := s.usage.NodeUsage(name)
			all.CPUNanos += one.CPUNanos
			all.NanoCores += one.NanoCores
			all.RSS += one.RSS
			all.Working += one.Working
			if one.Time.After(all.Time) {
				all.Time = one.Time
			}
		}
		if p.Status.Phase != corev1.PodRunning {
			continue
		}
		out.Pods = append(out.Pods, s.podStats(p))
	}
	if len(nodes) > 1 {
		out.Node.NodeName = ""
	}
	if !all.Time.IsZero() {
		out.Node.CPU = cpuStats(all.Time, all.CPUNanos, all.NanoCores)
		out.Node.Memory = memoryStats(all.Time, all.RSS, all.Working)
	}
	s.json(w, out)
}

func (s *Server) podStats(p *corev1.Pod) statsv1alpha1.PodStats {
	out := statsv1alpha1.PodStats{
		PodRef:     statsv1alpha1.PodReference{Name: p.Name, Namespace: p.Namespace, UID: string(p.UID)},
		StartTime:  p.CreationTimestamp,
		Containers: []statsv1alpha1.ContainerStats{},
	}
	if p.Status.StartTime != nil {
		out.StartTime = *p.Status.StartTime
	}
	var sum NodeUsage
	for _, c := range s.usage.PodUsage(p) {
		out.Containers = append(out.Containers, statsv1alpha1.ContainerStats{
			Name: c.Name, StartTime: metav1.NewTime(c.StartTime),
			CPU: cpuStats(c.Time, c.CPUNanos, c.NanoCores), Memory: memoryStats(c.Time, c.RSS, c.Working),
		})
		sum.add(c)
	}
	if !sum.Time.IsZero() {
		out.CPU, out.Memory = cpuStats(sum.Time, sum.CPUNanos, sum.NanoCores), memoryStats(sum.Time, sum.RSS, sum.Working)
	}
	return out
}

func (u *NodeUsage) add(c ContainerUsage) {
	u.CPUNanos += c.CPUNanos
	u.NanoCores += c.NanoCores
	u.RSS += c.RSS
	u.Working += c.Working
	if c.Time.After(u.Time) {
		u.Time = c.Time
	}
}

func cpuStats(at time.Time, nanos, nanoCores uint64) *statsv1alpha1.CPUStats {
	return &statsv1alpha1.CPUStats{Time: metav1.NewTime(at), UsageCoreNanoSeconds: &nanos, UsageNanoCores: &nanoCores}
}

func memoryStats(at time.Time, rss, working uint64) *statsv1alpha1.MemoryStats {
	return &statsv1alpha1.MemoryStats{Time: metav1.NewTime(at), UsageBytes: &working, WorkingSetBytes: &working, RSSBytes: &rss}
}

// resource answers /metrics/resource, of all nodes served here, and
// /metrics/resource/{node}, which the node's annotation names to metrics-server.
func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	reg := prometheus.NewRegistry()
	if err := reg.Register(&resourceCollector{s: s, node: r.PathValue("node")}); err != nil {
		http.Error(w, fmt.Sprintf("metrics: %v", err), http.StatusInternalServerError)
		return
	}
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, r)
}

// The names, labels and help texts are a kubelet's (pkg/kubelet/metrics/collectors).
var (
	containerLabels = []string{"container", "pod", "namespace"}
	podLabels       = []string{"pod", "namespace"}

	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels, nil)
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels, nil)
	podCPU          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podLabels, nil)
	podMemory       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", podLabels, nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

// resourceCollector collects for one node, or for all when node is "".
type resourceCollector struct {
	s    *Server
	node string
}

var _ prometheus.Collector = (*resourceCollector)(nil)

// Describe is prometheus.Collector.
func (c *resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, containerStart, containerCPU, containerMemory, podCPU, podMemory, scrapeError} {
		ch <- d
	}
}

// Collect is prometheus.Collector.
func (c *resourceCollector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, at time.Time, nanos uint64, labels ...string) {
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(nanos)/float64(time.Second), labels...))
	}
	gauge := func(d *prometheus.Desc, at time.Time, bytes uint64, labels ...string) {
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(bytes), labels...))
	}
	nodes := map[string]bool{}
	if c.node != "" {
		nodes[c.node] = true
	}
	for _, p := range c.s.pods.Pods() {
		if c.node != "" && p.Spec.NodeName != c.node {
			continue
		}
		nodes[p.Spec.NodeName] = true
		if p.Status.Phase != corev1.PodRunning {
			continue
		}
		var sum NodeUsage
		for _, u := range c.s.usage.PodUsage(p) {
			ch <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(u.StartTime.UnixNano())/float64(time.Second), u.Name, p.Name, p.Namespace)
			counter(containerCPU, u.Time, u.CPUNanos, u.Name, p.Name, p.Namespace)
			gauge(containerMemory, u.Time, u.Working, u.Name, p.Name, p.Namespace)
			sum.add(u)
		}
		if !sum.Time.IsZero() {
			counter(podCPU, sum.Time, sum.CPUNanos, p.Name, p.Namespace)
			gauge(podMemory, sum.Time, sum.Working, p.Name, p.Namespace)
		}
	}
	var all NodeUsage
	for name := range nodes {
		u := c.s.usage.NodeUsage(name)
		all.CPUNanos += u.CPUNanos
		all.Working += u.Working
		if u.Time.After(all.Time) {
			all.Time = u.Time
		}
	}
	if !all.Time.IsZero() {
		counter(nodeCPU, all.Time, all.CPUNanos)
		gauge(nodeMemory, all.Time, all.Working)
	}
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
}
