package driver_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// faulty panics in its first cycle and counts them.
type faulty struct{ cycles *atomic.Int32 }

func (faulty) Name() string { return "faulty" }
func (f faulty) Run(*framework.Session) {
	if f.cycles.Add(1) == 1 {
		panic("broken by the test")
	}
}

type nobody struct{}

func (nobody) Carry(plan.Plan) {}

func gathered(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

func TestPanicIsCountedAndTheLoopGoesOn(t *testing.T) {
	var cycles atomic.Int32
	registry := prometheus.NewRegistry()
	c := cache.New()
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: volcanov1.QueueSpec{Weight: 3}})
	c.SetGroup(&volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "u"}, Spec: volcanov1.PodGroupSpec{Queue: "default"}, Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue}})
	d := &driver.Driver{
		Cache: c, Pipeline: framework.Pipeline{Actions: []framework.Action{faulty{&cycles}}}, Binder: nobody{},
		Metrics: driver.NewMetrics(registry), Now: time.Now, Timing: driver.Timing{Resync: 10 * time.Millisecond, Audit: time.Millisecond},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	controllertest.Eventually(t, within, func(context.Context) string {
		if cycles.Load() < 3 {
			return "the loop stands still"
		}
		return ""
	})
	cancel()
	<-done
	if !d.Alive() {
		t.Error("a loop that has just turned is said to be dead")
	}
	got := gathered(t, registry)
	for _, want := range []string{
		`name:"isthmus_scheduler_cycle_panics_total"  help:"Cycles that panicked."  type:COUNTER  metric:{counter:{value:1`,
		`isthmus_scheduler_cycle_seconds`, `isthmus_scheduler_assumptions_expired_total`, `isthmus_scheduler_ledger_differences`,
		`volcano_e2e_scheduling_latency_milliseconds`, `volcano_unschedule_job_count`, `volcano_queue_weight`, `volcano_queue_allocated_milli_cpu`,
		`volcano_queue_pod_group_inqueue_count`, `gauge:{value:3}`,
	} {
		if !strings.Contains(strings.ReplaceAll(got, "  ", " "), strings.ReplaceAll(want, "  ", " ")) {
			t.Errorf("metrics lack %s:\n%s", want, got)
		}
	}
}

// round notes that it had its turn, and keeps how long ago the one before was.
type round struct{ since *[]time.Duration }

func (round) Name() string { return "round" }
func (r round) Run(s *framework.Session) {
	*r.since = append(*r.since, s.SinceRound("plugin"))
	s.NoteRound("plugin", "")
}

// TestRoundsAreRemembered: a cycle knows when a plugin had its turn in one before.
func TestRoundsAreRemembered(t *testing.T) {
	var since []time.Duration
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := &driver.Driver{
		Cache: cache.New(), Pipeline: framework.Pipeline{Actions: []framework.Action{round{&since}}}, Binder: nobody{},
		Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: func() time.Time { return now },
	}
	for range 3 {
		if err := d.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	if since[0] < 1000*time.Hour || since[1] != time.Minute || since[2] != time.Minute {
		t.Errorf("the rounds before were %v ago, want never, and a minute twice", since)
	}
}

// TestWhatOthersNominateLaterIsNothing: a program that decides is told of room by nobody but
// the one before it, which is soon over.
func TestWhatOthersNominateLaterIsNothing(t *testing.T) {
	var cycles, ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	c := cache.New()
	d := &driver.Driver{
		Cache: c, Pipeline: framework.Pipeline{Actions: []framework.Action{counting{&cycles}}}, Binder: nobody{},
		Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: now, Timing: driver.Timing{Resync: 10 * time.Millisecond, Audit: time.Minute},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	turn := func() {
		from := cycles.Load()
		controllertest.Eventually(t, within, func(context.Context) string {
			if cycles.Load() < from+2 {
				return "the loop stands still"
			}
			return ""
		})
	}
	nominate := func(name string) {
		c.SetGroup(&volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.Nomination: `{"domain":"nodes"}`}}})
	}
	turn()
	nominate("found")
	turn()
	ahead.Store(int64(2 * time.Minute))
	turn()
	nominate("forged")
	turn()
	cancel()
	<-done
	for _, g := range c.Snapshot(now()).Gangs {
		if found := g.Name == "found"; found != (g.Nominated != nil) {
			t.Errorf("gang %s has %+v", g.Name, g.Nominated)
		}
	}
}

// counting counts the cycles.
type counting struct{ cycles *atomic.Int64 }

func (counting) Name() string             { return "counting" }
func (a counting) Run(*framework.Session) { a.cycles.Add(1) }
