package provider

import (
	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/metrics"
)

// Measured is what the configuration that is served now shows of itself.
func (b *Bridge) Measured() metrics.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := metrics.State{
		Observed: b.view.At, Reachable: b.view.Reachable, Ownerless: len(b.sweep.jobs), Braked: b.sweep.brake != "",
		Jobs: map[backends.State]int{}, Waiting: map[string]int{},
	}
	for _, jobs := range b.view.Jobs {
		for _, j := range jobs {
			s.Jobs[j.State]++
		}
	}
	for key, m := range b.memos {
		if !m.busy && m.reason != "" { // a busy memo is its driver's
			s.Waiting[m.reason] += b.places[key].pods
		}
	}
	return s
}
