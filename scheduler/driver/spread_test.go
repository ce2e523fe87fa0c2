package driver_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// busy is an action that takes a while, and notes when it began.
type busy struct {
	takes time.Duration
	began *times
}

type times struct {
	mu  sync.Mutex
	all []time.Time
}

func (t *times) note() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, time.Now())
}

func (t *times) list() []time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.all)
}

func (busy) Name() string { return "busy" }
func (b busy) Run(*framework.Session) {
	b.began.note()
	<-time.After(b.takes)
}

// TestAuditsDoNotSpreadCycles: what an audit takes is no part of the cycle that comes after
// it, and makes the pause before the next one no longer.
func TestAuditsDoNotSpreadCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began times
		c, registry := cache.New(), prometheus.NewRegistry()
		timing := driver.DefaultTiming()
		timing.Audit = time.Second
		d := &driver.Driver{
			Cache: c, Pipeline: framework.Pipeline{Actions: []framework.Action{busy{time.Millisecond, &began}}}, Binder: nobody{},
			Metrics: driver.NewMetrics(registry), Timing: timing,
		}
		const takes = 250 * time.Millisecond
		audits := 0
		d.Now = func() time.Time { // each audit that is over has taken a while
			families, err := registry.Gather()
			if err != nil {
				t.Error(err)
			}
			for _, f := range families {
				if f.GetName() == "isthmus_scheduler_ledger_audits_total" {
					audits = int(f.Metric[0].GetCounter().GetValue())
				}
			}
			return time.Now().Add(time.Duration(audits) * takes)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); d.Run(ctx) }()
		for i := range 500 {
			c.SetPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}})
			<-time.After(10 * time.Millisecond)
		}
		cancel()
		<-done
		all := began.list()
		for i, at := range all[1:] {
			if gap := at.Sub(all[i]); i > 0 && gap > timing.Interval+10*time.Millisecond {
				t.Fatalf("cycle %d began %s after the one before, want %s", i+1, gap, timing.Interval)
			}
		}
		if audits < 4 {
			t.Errorf("%d audits were made", audits)
		}
	})
}

// TestCyclesAreSpread: while change follows change, cycles that take long are further
// apart, up to a bound, and what comes after a time of silence is looked at as soon as ever.
func TestCyclesAreSpread(t *testing.T) {
	timing := driver.DefaultTiming()
	for takes, apart := range map[time.Duration]time.Duration{
		time.Millisecond:       timing.Interval,
		4 * time.Millisecond:   200 * time.Millisecond,
		20 * time.Millisecond:  timing.Spread,
		250 * time.Millisecond: 500 * time.Millisecond,
	} {
		t.Run(fmt.Sprint(takes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var began times
				c := cache.New()
				d := &driver.Driver{
					Cache: c, Pipeline: framework.Pipeline{Actions: []framework.Action{busy{takes, &began}}}, Binder: nobody{},
					Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: time.Now, Timing: timing,
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); d.Run(ctx) }()
				change := func(i int) {
					c.SetPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}})
				}
				for i := range 500 {
					change(i)
					<-time.After(10 * time.Millisecond)
				}
				all := began.list()
				for i, at := range all[1:] {
					if gap := at.Sub(all[i]); i > 0 && (gap < apart || gap > apart+10*time.Millisecond) {
						t.Fatalf("cycle %d began %s after the one before, want %s", i+1, gap, apart)
					}
				}
				<-time.After(3 * time.Second) // no resync is due yet
				asked := time.Now()
				change(500)
				<-time.After(time.Second)
				all = began.list()
				if last := all[len(all)-1].Sub(asked); last != timing.Coalesce {
					t.Errorf("a change after silence is looked at after %s, want %s", last, timing.Coalesce)
				}
				cancel()
				<-done
			})
		})
	}
}
