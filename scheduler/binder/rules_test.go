package binder_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// play runs a history and then sees it come to rest, with every invariant looked at
// after every line.
func play(w *world, script []op) error {
	for i, o := range script {
		err := w.do(o)
		if err == nil {
			err = w.sound()
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if w.binder == nil {
		return nil
	}
	defer w.binder.Close()
	if err := w.rest(); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	if err := w.again(); err != nil {
		return fmt.Errorf("started once more: %w", err)
	}
	return w.drain()
}

// round is a second, or longer, of a cluster where nothing goes wrong.
func (w *world) round(d time.Duration) error {
	w.make()
	w.run()
	for _, step := range []func() error{w.all, w.cycle, w.busy, w.all, func() error { return w.pass(d) }} {
		if err := step(); err != nil {
			return err
		}
	}
	return w.inVain()
}

// inVain is R8: pods were sent away a few rounds ago for a gang that is not placed.
func (w *world) inVain() error {
	for _, c := range w.plans.Claims {
		if len(c.Evictions) > 0 {
			w.wanted[c.Name] = w.cycles
		}
	}
	for _, j := range w.jobs {
		if since, ok := w.wanted[j.name]; ok && (w.have(j) >= j.min || j.over) {
			delete(w.wanted, j.name)
		} else if ok && w.cycles-since > soon {
			return fmt.Errorf("R8: pods were sent away %d cycles ago for gang %s, which is not placed:\n%s", w.cycles-since, j.name, w.plans)
		}
	}
	return nil
}

const (
	// soon is a cycle and 5 seconds after the last fault, within which a gang is whole
	// or nowhere, in rounds of a second (R6).
	soon = 6
	// later is when gangs that lost members have been seen to as well: a grace of 5
	// minutes and what can be taken from one another by then, in rounds of 20 seconds.
	later = 60
)

// rest ends all faults. Gangs that were being bound are whole soon (R6), nobody is
// sent away for one that is not placed then (R8), and after a while nothing happens
// any more (R8) and no gang is partial, whatever it lost.
func (w *world) rest() error {
	w.api.faults, w.calm, w.held = nil, true, false
	w.operate(op{verb: "back"})
	for _, name := range w.api.names(nodes) {
		n, _ := w.api.objects[nodes][name].(*corev1.Node)
		if n.Spec.Unschedulable {
			w.operate(op{verb: "cordon", a: slices.Index(w.api.names(nodes), name)})
		}
	}
	refused := time.Duration(0)
	if w.api.hit > 0 {
		refused = holdFor // a refusal is told, and the gang rests for so long
	}
	quiet := 0
	for i := range soon + int(refused/time.Second) + later {
		d := time.Second
		if i >= soon+int(refused/time.Second) {
			d = 20 * time.Second
			if i == soon+int(refused/time.Second) {
				if p := w.partial(false); len(p) > 0 {
					return fmt.Errorf("R6: %d s after the last fault gangs are partial: %v", i, p)
				}
			}
		}
		if err := w.round(d); err != nil {
			return err
		}
		if len(w.plans.Placements)+len(w.plans.Claims)+len(w.plans.Releases) > 0 || len(w.retries)+len(w.wanted) > 0 || len(w.partial(true)) > 0 && i < soon+later-1 {
			quiet = 0
		} else if quiet++; quiet > 2 {
			break
		}
	}
	switch p := w.partial(true); {
	case quiet <= 2:
		return fmt.Errorf("R8: no rest: the last plan was\n%s", w.plans)
	case len(p) > 0:
		return fmt.Errorf("R6: gangs are partial for good: %v", p)
	}
	return nil
}

// again starts another scheduler: what it counts as held is what the one before did.
func (w *world) again() error {
	if len(w.assumed) > 0 {
		return fmt.Errorf("R7: %d bindings are assumed at rest", len(w.assumed))
	}
	if err := w.pass(3 * time.Minute); err != nil { // a pod that would not go is left alone for two
		return err
	}
	before := w.cache.Snapshot(w.now)
	w.start()
	return differ(before, w.cache.Snapshot(w.now))
}

// drain is R9: as long as gangs end, one that waits and would fit an empty cluster is
// placed within 3 cycles of the room becoming free, in whatever order.
func (w *world) drain() error {
	for range 2*len(w.jobs) + 1 {
		placed := 0
		for range 3 {
			if err := w.round(time.Second); err != nil {
				return err
			}
			placed += len(w.plans.Placements)
		}
		running := 0
		for _, j := range w.jobs {
			if !j.over && w.have(j) >= j.min {
				running++
				w.finish(j)
			}
		}
		if running > 0 {
			continue
		}
		for _, j := range w.jobs {
			if !j.over && w.possible(j) {
				return fmt.Errorf("R9: gang %s waits in an empty cluster (%d placements of others):\n%s", j.name, placed, w.plans)
			}
		}
		return nil
	}
	return fmt.Errorf("R9: gangs still wait after all others have ended:\n%s", w.plans)
}

// possible reports whether a gang is placed in an empty cluster.
func (w *world) possible(j *job) bool {
	alone := cache.New()
	to := into{alone}
	for _, k := range []int{nodes, queues} {
		for _, o := range w.api.objects[k] {
			to.set(k, o)
		}
	}
	pg, _ := w.api.objects[groups][j.name].(*volcanov1.PodGroup)
	pg = pg.DeepCopy()
	pg.Status.Phase = volcanov1.PodGroupInqueue
	to.set(groups, pg)
	for _, p := range w.of(j) {
		to.set(pods, p)
	}
	return len(scheduler.Cycle(schedtest.Pipeline(), alone.Snapshot(w.now), w.now).Placements) > 0
}

// sound looks at what the API server has: no node holds more than it offers, and no
// gang is in two domains or has two members of one rank.
func (w *world) sound() error {
	used := map[string]int64{}
	for _, j := range w.jobs {
		domains, ranks := map[string]bool{}, map[string]bool{}
		for _, p := range w.of(j) {
			if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded {
				continue
			}
			used[p.Spec.NodeName] += int64(j.gpus)
			if p.DeletionTimestamp != nil && j.hurt {
				continue // it goes, on a node that was lost maybe: the others have been placed without it
			}
			domain := "nodes"
			if strings.HasPrefix(p.Spec.NodeName, "v") {
				domain = p.Spec.NodeName
				rank := p.Annotations[wellknown.GangAttempt] + "/" + p.Annotations[wellknown.GangRank]
				if ranks[rank] && !j.hurt {
					return fmt.Errorf("gang %s has two members of rank %s", j.name, rank)
				}
				ranks[rank] = true
			}
			if domains[domain] = true; len(domains) > 1 {
				return fmt.Errorf("gang %s is in several domains", j.name)
			}
		}
	}
	for _, name := range w.api.names(nodes) {
		n, _ := w.api.objects[nodes][name].(*corev1.Node)
		if has := n.Status.Allocatable[gpu]; used[name] > has.Value() {
			return fmt.Errorf("node %s has %d GPUs, and %d are used", name, has.Value(), used[name])
		}
	}
	return nil
}

// partial lists gangs that are placed in part, though nothing happened to them since
// their first member was bound, or with always whatever happened.
func (w *world) partial(always bool) (out []string) {
	for _, j := range w.jobs {
		if n := w.have(j); n > 0 && n < j.min && !j.over && (always || !j.hurt) {
			out = append(out, fmt.Sprintf("%s (%d of %d)", j.name, n, j.min))
		}
	}
	return out
}
