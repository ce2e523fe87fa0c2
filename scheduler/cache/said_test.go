package cache

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// TestPriorityBelowZero: a gang is as urgent as the most urgent of its pods, also where
// all are less urgent than a pod of which nobody says anything.
func TestPriorityBelowZero(t *testing.T) {
	for name, tc := range map[string]struct {
		of   []int32
		want int32
	}{
		"one":           {of: []int32{-10}, want: -10},
		"two":           {of: []int32{-10, -3}, want: -3},
		"on both sides": {of: []int32{-10, 4}, want: 4},
	} {
		c := New()
		for i, priority := range tc.of {
			p := pod(string(rune('a'+i)), "g", "1")
			p.Spec.Priority = ptr.To(priority)
			c.SetPod(p)
		}
		pg := podGroup("g", 1)
		pg.Spec.PriorityClassName = ""
		c.SetGroup(pg)
		s := c.Snapshot(start)
		if len(s.Gangs) != 1 || s.Gangs[0].Priority != tc.want {
			t.Errorf("%s: %+v, want one gang of priority %d", name, s.Gangs, tc.want)
		}
	}
}

// TestPreemptableAsVolcanoReadsIt: every form of a boolean counts, and what is none keeps
// the pod where it is.
func TestPreemptableAsVolcanoReadsIt(t *testing.T) {
	for text, yes := range map[string]bool{
		"true": true, "1": true, "T": true, "True": true,
		"false": false, "0": false, "f": false, "FALSE": false, "no": false, "yes": false, "": false,
	} {
		m := map[string]string{volcanov1.PodPreemptable: text}
		if yields(m) != yes || keeps(m) == yes {
			t.Errorf("%q: yields %t, keeps %t", text, yields(m), keeps(m))
		}
	}
	if yields(nil) || keeps(nil) {
		t.Error("nobody said anything")
	}
}

// TestResizedPodHoldsWhatItHasYet: what a pod gives back is free once the kubelet has
// taken it, and what it asks for beyond what it has is its own at once.
func TestResizedPodHoldsWhatItHasYet(t *testing.T) {
	for spec, want := range map[string]int64{"2": 8000, "8": 8000, "9": 9000} {
		p := bound(pod("a", "g", spec), "n", "attempt", 1, 0)
		had := corev1.ResourceList{"cpu": kresource.MustParse("8")}
		p.Status.Phase = corev1.PodRunning
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: had, Resources: &corev1.ResourceRequirements{Requests: had}}}
		c := New()
		c.SetNode(node("n", "16"))
		c.SetGroup(podGroup("g", 1))
		c.SetPod(p)
		s := c.Snapshot(start)
		d, ok := s.Dims.Index("cpu")
		if !ok || s.Nodes[0].Used()[d] != want {
			t.Errorf("%s cpu asked for and 8 given: %d are used, want %d", spec, s.Nodes[0].Used()[d], want)
		}
	}
}

// TestRequestsAreTheLibrarys: whatever a status says or lacks, a pod holds what
// Kubernetes' own schedulers count.
func TestRequestsAreTheLibrarys(t *testing.T) {
	cpu := func(n string) corev1.ResourceList { return corev1.ResourceList{"cpu": kresource.MustParse(n)} }
	status := func(had, has string) []corev1.ContainerStatus {
		out := []corev1.ContainerStatus{{Name: "c"}}
		if had != "" {
			out[0].AllocatedResources = cpu(had)
		}
		if has != "" {
			out[0].Resources = &corev1.ResourceRequirements{Requests: cpu(has)}
		}
		return out
	}
	infeasible := []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible}}
	seen := map[int64]bool{}
	for _, conditions := range [][]corev1.PodCondition{nil, infeasible} {
		for _, statuses := range [][]corev1.ContainerStatus{nil, status("", ""), status("4", ""), status("1", "3"), status("8", "2")} {
			for _, inits := range [][]corev1.ContainerStatus{nil, {{Name: "i", AllocatedResources: cpu("9")}}} {
				p := pod("a", "g", "2")
				p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: cpu("1")}}}
				p.Spec.Overhead = cpu("250m")
				p.Status.Conditions, p.Status.ContainerStatuses, p.Status.InitContainerStatuses = conditions, statuses, inits
				q := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true})["cpu"]
				got := requests(p).Get("cpu")
				if got != q.MilliValue() {
					t.Errorf("conditions %v, statuses %v, %v: %dm are held, want %s", conditions, statuses, inits, got, q.String())
				}
				seen[got] = true
			}
		}
	}
	if len(seen) < 5 {
		t.Errorf("the cases tell only %v apart", seen)
	}
}

// TestRestartsAreOneRun: a container that was started again has run since its pod began.
func TestRestartsAreOneRun(t *testing.T) {
	p := pod("a", "g", "1")
	p.Status.Phase = corev1.PodSucceeded
	p.Status.StartTime = &metav1.Time{Time: start}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		StartedAt: metav1.NewTime(start.Add(3 * time.Hour)), FinishedAt: metav1.NewTime(start.Add(4 * time.Hour)),
	}}}}
	for restarts, want := range map[int32]time.Duration{0: time.Hour, 2: 4 * time.Hour} {
		p.Status.ContainerStatuses[0].RestartCount = restarts
		h := historyOf(p)
		if got := time.Duration(h.ended - h.began); got != want {
			t.Errorf("%d restarts: it took %s, want %s", restarts, got, want)
		}
	}
}
