package driver_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
)

// TestEveryMetricOfDashboards runs the driver over a cluster in which a gang runs,
// one fits and one waits, and scrapes it. Each name that dashboards made for
// Volcano read has a row.
func TestEveryMetricOfDashboards(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	made := metav1.NewTime(now.Add(-time.Minute))
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": kresource.MustParse(cpu), "memory": kresource.MustParse("1Gi"), "nvidia.com/gpu": kresource.MustParse("1")}
	}
	r := prometheus.NewRegistry()
	m := driver.NewMetrics(r)
	c := cache.New()
	c.Created = m.Created
	c.SetNode(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n"},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{"cpu": kresource.MustParse("8"), "memory": kresource.MustParse("4Gi"), "nvidia.com/gpu": kresource.MustParse("4"), "pods": kresource.MustParse("110")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	})
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: volcanov1.QueueSpec{Weight: 2, Capability: corev1.ResourceList{"cpu": kresource.MustParse("60"), "memory": kresource.MustParse("4Gi"), "nvidia.com/gpu": kresource.MustParse("4")}}})
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "lost"}, Spec: volcanov1.QueueSpec{Weight: 1, Parent: "nowhere"}})
	for name, g := range map[string]struct{ cpu, node string }{"runs": {"1", "n"}, "fits": {"1", ""}, "waits": {"50", ""}} {
		c.SetGroup(&volcanov1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("g-" + name), CreationTimestamp: made},
			Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: "q"}, Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
		})
		c.SetPod(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "ns", UID: types.UID("p-" + name), CreationTimestamp: metav1.NewTime(made.Add(time.Second)),
				Annotations: map[string]string{volcanov1.KubeGroupNameAnnotationKey: name},
			},
			Spec: corev1.PodSpec{SchedulerName: "volcano", NodeName: g.node, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(g.cpu)}}}},
		})
	}
	d := &driver.Driver{Cache: c, Pipeline: schedtest.Pipeline(), Binder: nobody{}, Metrics: m, Now: func() time.Time { return now }, Timing: driver.DefaultTiming()}
	if err := d.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Bound("bound", time.Millisecond)
	server := httptest.NewServer(promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	defer server.Close()
	text, err := fetch.Text(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Fields(`e2e_scheduling_latency_milliseconds_count
		e2e_job_scheduling_latency_milliseconds_count e2e_job_scheduling_duration e2e_job_scheduling_start_time e2e_job_scheduling_last_time
		plugin_scheduling_latency_milliseconds_count action_scheduling_latency_milliseconds_count task_scheduling_latency_milliseconds_count
		open_session_duration_milliseconds_count schedule_attempts_total pod_preemption_victims total_preemption_attempts eviction_transactions_total
		unschedule_task_count unschedule_job_count job_retry_counts job_share namespace_share queue_share queue_weight queue_overused
		queue_pod_group_inqueue_count queue_pod_group_pending_count queue_pod_group_running_count queue_pod_group_unknown_count
		queue_pod_group_completed_count controller_job_to_pod_creation_latency_milliseconds_count`)
	for _, what := range []string{"allocated", "deserved", "request", "capacity", "real_capacity", "inqueue"} {
		for _, unit := range []string{"milli_cpu", "memory_bytes", "scalar_resources"} {
			rows = append(rows, "queue_"+what+"_"+unit)
		}
	}
	for _, name := range rows {
		if !strings.Contains(text, "\nvolcano_"+name+"{") && !strings.Contains(text, "\nvolcano_"+name+" ") {
			t.Errorf("volcano_%s is not told", name)
		}
	}
	for _, line := range []string{
		`volcano_queue_allocated_milli_cpu{queue_name="q"} 1000`,
		`volcano_queue_request_milli_cpu{queue_name="q"} 52000`,
		`volcano_queue_capacity_scalar_resources{queue_name="q",resource="nvidia.com/gpu"} 4`,
		`volcano_queue_overused{queue_name="q"} 0`,
		`volcano_job_retry_counts{job_id="ns/waits"} 1`,
		`volcano_job_share{job_id="runs",job_ns="ns"} 0.25`,
		`volcano_schedule_attempts_total{result="unschedulable"} 1`,
		`isthmus_scheduler_queue_faults{queue_name="lost",reason="ParentNotFound"} 1`,
		`isthmus_scheduler_ledger_differences 0`, `isthmus_scheduler_ledger_audits_total 0`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("not told: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
