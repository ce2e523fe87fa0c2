package provider_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// The batch system is away for ten minutes while jobs run, wait and arrive: no
// pod fails, no job runs twice, and everything converges afterwards.
func TestOutageOfTenMinutes(t *testing.T) {
	w := newWorld(t, 12*time.Minute, providertest.Sound())
	running := w.gang("running", 3)
	for range 4 {
		w.tick()
	}
	for _, uid := range running {
		if p := w.api.Get(uid); p.Status.Phase != corev1.PodRunning {
			t.Fatalf("pod %s is %s before the outage", p.Name, p.Status.Phase)
		}
	}
	w.system.Outage(10 * time.Minute)
	end := w.system.Now().Add(10 * time.Minute)
	for i := range 12 {
		w.gang(fmt.Sprintf("new-%d", i), 1)
	}
	shown := false
	for w.system.Now().Before(end) {
		w.tick()
		shown = shown || !w.bridge.View().Reachable
		for _, p := range w.api.List() {
			if p.Status.Phase == corev1.PodFailed {
				t.Fatalf("pod %s failed in the outage: %s", p.Name, p.Status.Message)
			}
		}
	}
	if !shown {
		t.Error("the outage was never shown")
	}
	for range 1200 { // the jobs of 12 minutes need room one after the other
		w.tick()
		if w.settled() {
			break
		}
	}
	for _, p := range w.api.List() {
		if p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("pod %s is %s (%s)", p.Name, p.Status.Phase, p.Status.Message)
		}
	}
}

// Whatever the number of pods, a tick is one list query (reliability figure P4).
func TestOneListCallATick(t *testing.T) {
	w := newWorld(t, time.Hour, providertest.Sound())
	for i := range 200 {
		w.gang(fmt.Sprintf("g%d", i), 1)
	}
	for range 4 {
		w.tick()
	}
	before := w.system.Calls()[fake.OpObserve]
	const ticks = 10
	for range ticks {
		w.bridge.Pass(t.Context(), true)
		w.bridge.Wait()
		w.bridge.Pass(t.Context(), false)
		w.bridge.Wait()
		w.system.Advance(tickTime)
		w.clock.SetTime(w.system.Now())
	}
	if got := w.system.Calls()[fake.OpObserve] - before; got != ticks {
		t.Errorf("%d list calls in %d ticks", got, ticks)
	}
}
