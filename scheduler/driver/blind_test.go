package driver_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// counted counts cycles.
type counted struct{ cycles *atomic.Int32 }

func (counted) Name() string             { return "counted" }
func (c counted) Run(*framework.Session) { c.cycles.Add(1) }

// taken is a right to read pods that is taken away.
type taken struct{ away, asked atomic.Int32 }

func (r *taken) Denied(kind string) bool {
	if kind == "pods" {
		r.asked.Add(1)
	}
	return kind == "pods" && r.away.Load() == 1
}
func (*taken) Refresh(context.Context) {}

// TestNothingIsDecidedBlindly: while pods may not be read no cycle runs, the loop lives,
// and it goes on when they may.
func TestNothingIsDecidedBlindly(t *testing.T) {
	var cycles atomic.Int32
	r := &taken{}
	r.away.Store(1)
	c := cache.New()
	c.Rights = r
	d := &driver.Driver{
		Cache: c, Pipeline: framework.Pipeline{Actions: []framework.Action{counted{&cycles}}}, Binder: nobody{},
		Metrics: driver.NewMetrics(prometheus.NewRegistry()), Now: time.Now, Timing: driver.Timing{Resync: 10 * time.Millisecond, Audit: time.Hour},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	defer func() { cancel(); <-done }()
	controllertest.Eventually(t, within, func(context.Context) string {
		if r.asked.Load() < 5 {
			return "the loop stands still"
		}
		return ""
	})
	if n := cycles.Load(); n != 0 || !d.Alive() {
		t.Fatalf("%d cycles ran blindly, alive: %t", n, d.Alive())
	}
	r.away.Store(0)
	controllertest.Eventually(t, within, func(context.Context) string {
		if cycles.Load() == 0 {
			return "it does not go on"
		}
		return ""
	})
}
