package kubeletapi_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// used is a Usage.
type used struct{}

func (used) PodUsage(pod *corev1.Pod) []kubeletapi.ContainerUsage {
	var out []kubeletapi.ContainerUsage
	for _, c := range pod.Spec.Containers {
		if c.Name != "waits" {
			out = append(out, kubeletapi.ContainerUsage{
				Name: c.Name, StartTime: time.Unix(1000, 0), Time: time.Unix(1060, 0), CPUNanos: 2_500_000_000, NanoCores: 40_000_000, RSS: 3 << 20, Working: 5 << 20,
			})
		}
	}
	return out
}

func (used) NodeUsage(node string) kubeletapi.NodeUsage {
	if node != "c-gpu" {
		return kubeletapi.NodeUsage{Time: time.Unix(1061, 0), CPUNanos: 1_000_000, Working: 1}
	}
	return kubeletapi.NodeUsage{Time: time.Unix(1061, 0), CPUNanos: 7_000_000_000, NanoCores: 80_000_000, RSS: 6 << 20, Working: 10 << 20}
}

// The text is a kubelet's, as metrics-server reads it.
func TestResourceMetrics(t *testing.T) {
	f := serve(t, text(""))
	full := identity{user: "full"}
	_, body := f.do(f.client(full), full, "GET", "/metrics/resource/c-gpu")
	for _, line := range []string{
		"node_cpu_usage_seconds_total 7 1061000",
		"node_memory_working_set_bytes 1.048576e+07 1061000",
		`container_cpu_usage_seconds_total{container="main",namespace="team",pod="p"} 2.5 1060000`,
		`container_memory_working_set_bytes{container="restarted",namespace="team",pod="p"} 5.24288e+06 1060000`,
		`container_start_time_seconds{container="main",namespace="team",pod="p"} 1000`,
		`pod_cpu_usage_seconds_total{namespace="team",pod="p"} 5 1060000`,
		`pod_memory_working_set_bytes{namespace="team",pod="p"} 1.048576e+07 1060000`,
		"resource_scrape_error 0",
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
	if strings.Contains(body, "waits") {
		t.Error("a container that does not run is in it")
	}
	_, body = f.do(f.client(full), full, "GET", "/metrics/resource/c-cpu")
	if strings.Contains(body, "container_cpu") || !strings.Contains(body, "node_cpu_usage_seconds_total 0.001 ") {
		t.Errorf("a node without pods gives\n%s", body)
	}
}

func TestSummary(t *testing.T) {
	f := serve(t, text(""))
	full := identity{user: "full"}
	_, body := f.do(f.client(full), full, "GET", "/stats/summary")
	var s statsv1alpha1.Summary
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Node.NodeName != "c-gpu" || *s.Node.CPU.UsageCoreNanoSeconds != 7_000_000_000 || *s.Node.Memory.RSSBytes != 6<<20 {
		t.Errorf("node %+v", s.Node)
	}
	if len(s.Pods) != 1 || len(s.Pods[0].Containers) != 2 || *s.Pods[0].CPU.UsageNanoCores != 80_000_000 || *s.Pods[0].Containers[0].Memory.WorkingSetBytes != 5<<20 {
		t.Errorf("pods %+v", s.Pods)
	}
}
