package driver_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// carried keeps plans.
type carried chan plan.Plan

func (c carried) Carry(p plan.Plan) { c <- p }

// filling is a driver over a cache that has a gang of three without pods, where its
// plans go, and what makes a pod of the gang.
func filling(now func() time.Time, timing driver.Timing, made metav1.Time) (d *driver.Driver, plans carried, pod func(name string)) {
	c := cache.New()
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	c.SetGroup(&volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", CreationTimestamp: made},
		Spec:       volcanov1.PodGroupSpec{Queue: "default", MinMember: 3}, Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	pod = func(name string) {
		c.SetPod(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.PodGroupName: "g"}},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerIsthmus, Containers: []corev1.Container{{Name: "main"}}},
		})
	}
	plans = make(carried, 100)
	return &driver.Driver{Cache: c, Pipeline: schedtest.Pipeline(), Binder: plans, Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: now, Timing: timing}, plans, pod
}

// lacks is what a plan tells of pods that the gang lacks: on its PodGroup, and whether
// the pods have an event for it.
func lacks(p plan.Plan) (told string, event bool) {
	for _, s := range p.Statuses {
		for _, c := range s.Want.Conditions {
			told += c.Message
		}
	}
	for _, u := range p.Unschedulable {
		event = event || u.Code == plan.NotEnoughPods && !u.Early
	}
	return told, event
}

// TestGangsThatAreBeingMadeLackNothingYet: while the pods of a gang are made one after
// the other nothing is written of those that are not there, and if no more come it is.
func TestGangsThatAreBeingMadeLackNothingYet(t *testing.T) {
	now := time.Unix(1000, 0)
	d, plans, pod := filling(func() time.Time { return now }, driver.Timing{}, metav1.Time{})
	for _, step := range []struct {
		after time.Duration
		pod   string
		want  string
	}{
		{0, "", ""},
		{1500 * time.Millisecond, "a", ""},
		{1500 * time.Millisecond, "b", ""},
		{1500 * time.Millisecond, "", ""},
		{time.Second, "", "the gang has 2 pods and needs 3"},
	} {
		now = now.Add(step.after)
		if step.pod != "" {
			pod(step.pod)
		}
		if err := d.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		told, event := lacks(<-plans)
		if !strings.Contains(told, step.want) || step.want == "" && told != "" || event != (step.want != "") {
			t.Errorf("%s after the start it is told %q, want %q; an event: %t", now.Sub(time.Unix(1000, 0)), told, step.want, event)
		}
	}
}

// TestNewGangsLackNothingYet: the pods of a PodGroup that was made ten seconds ago may not
// have begun to be made.
func TestNewGangsLackNothingYet(t *testing.T) {
	now := time.Unix(1000, 0)
	d, plans, pod := filling(func() time.Time { return now }, driver.Timing{}, metav1.NewTime(now))
	pod("a")
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, ""}, {9 * time.Second, ""}, {2 * time.Second, "the gang has 1 pods and needs 3"}} {
		now = now.Add(step.after)
		if err := d.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if told, _ := lacks(<-plans); !strings.Contains(told, step.want) || step.want == "" && told != "" {
			t.Errorf("%s after it was made it is told %q, want %q", now.Sub(time.Unix(1000, 0)), told, step.want)
		}
	}
}

// TestWhatIsToldLaterIsTold: nothing happens any more, and it is told all the same long
// before cycles run for their own sake.
func TestWhatIsToldLaterIsTold(t *testing.T) {
	d, plans, pod := filling(time.Now, driver.Timing{Resync: time.Hour, Audit: time.Hour}, metav1.Time{})
	pod("a")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	defer func() { cancel(); <-done }()
	deadline := time.After(within)
	for {
		select {
		case p := <-plans:
			if told, _ := lacks(p); strings.Contains(told, "has 1 pods") {
				return
			}
		case <-deadline:
			t.Fatal("it is not told")
		}
	}
}
