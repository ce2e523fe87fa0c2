// Package measure asks now and then how busy nodes are, and hands the answers to the
// cache, from where they go into snapshots: a cycle itself asks nobody. It asks
// metrics-server, through the API server, or Prometheus. What cannot be had is told
// in the log and counted; the measurements of before grow old then, and plugins
// leave old ones out.
package measure

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Keeper measures nodes while a configuration asks for it.
type Keeper struct {
	// Nodes are the real nodes there are.
	Nodes func() []snapshot.NodeSpec
	// Set takes what was measured.
	Set func([]snapshot.Load)
	// API is the API server's; metrics-server is behind it.
	API rest.Interface
	Now func() time.Time
	// Count is told how a round went: measured, or failed.
	Count func(result string)

	mu   sync.Mutex
	want *config.Measuring
	wake chan struct{}
	once sync.Once
}

const callTimeout = 10 * time.Second

// Use has nodes measured as a configuration says from now on; nil is not at all. It
// may be called at any time.
func (k *Keeper) Use(m *config.Measuring) {
	k.mu.Lock()
	k.want = m
	k.mu.Unlock()
	select {
	case k.woken() <- struct{}{}:
	default:
	}
}

func (k *Keeper) woken() chan struct{} {
	k.once.Do(func() { k.wake = make(chan struct{}, 1) })
	return k.wake
}

func (k *Keeper) wanted() *config.Measuring {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.want
}

// Run measures until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx)
	told := ""
	for {
		m := k.wanted()
		var next <-chan time.Time
		if m != nil {
			next = time.After(m.Interval)
			said := ""
			if err := k.Measure(ctx, *m); err != nil && ctx.Err() == nil {
				said = err.Error()
				if said != told {
					log.Error(err, "nodes are not measured; what was measured before counts until it is too old", "source", m.Source)
				}
			}
			told = said
		}
		select {
		case <-ctx.Done():
			return
		case <-k.woken():
		case <-next:
		}
	}
}

// Measure asks once and hands on what it was told.
func (k *Keeper) Measure(ctx context.Context, m config.Measuring) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	loads, err := k.ask(ctx, m)
	if err != nil {
		k.Count("failed")
		return err
	}
	at := k.Now().UnixNano()
	for i := range loads {
		loads[i].At = at
	}
	k.Set(loads)
	k.Count("measured")
	return nil
}

func (k *Keeper) ask(ctx context.Context, m config.Measuring) ([]snapshot.Load, error) {
	switch m.Source {
	case config.MetricsServer:
		return k.metricsServer(ctx)
	case config.Prometheus:
		return k.prometheus(ctx, m)
	}
	return nil, fmt.Errorf("no source of measurements is named %q", m.Source)
}
