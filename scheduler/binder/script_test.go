package binder_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/binder"
)

// op is one line of a history. Its numbers mean something in any state, so that what
// is left of a history when lines are taken out is one as well.
type op struct {
	verb       string
	a, b, c, d int
}

func (o op) String() string { return fmt.Sprintf("%s %d %d %d %d", o.verb, o.a, o.b, o.c, o.d) }

// history draws the life of a small cluster. With faults, calls fail, schedulers are
// restarted, nodes are lost, and the watch of pods is held back for minutes, in which
// pods go and are made anew.
func history(r *rand.Rand, faults bool) (out []op) {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	add := func(verb string, n ...int) {
		n = append(n, 0, 0, 0, 0)
		out = append(out, op{verb, n[0], n[1], n[2], n[3]})
	}
	for range in(1, 2) {
		add("node", in(2, 8))
	}
	for range in(0, 1) {
		add("node", in(1, 4), in(1, 3))
	}
	for range in(1, 2) {
		add("queue", in(1, 3))
	}
	add("start")
	held := 0 // steps for which the watch of pods is held back yet
	for range in(10, 18) {
		switch r.IntN(8) {
		case 0, 1, 2:
			size := in(1, 4)
			add("submit", size, in(1, size), in(0, 4), r.IntN(6))
			add("make")
		case 3:
			add([]string{"finish", "finish", "kill", "cancel"}[r.IntN(4)], r.IntN(50))
		case 4:
			add("run")
		case 5:
			add([]string{"cordon", "weigh", "grow", "grow"}[r.IntN(4)], r.IntN(4), in(1, 3))
		case 6:
			add("pass", in(1, 50))
		}
		if faults {
			switch r.IntN(6) {
			case 0:
				add("fault", r.IntN(len(faultKinds)), in(1, 3))
			case 1:
				add("start")
			case 2:
				add([]string{"lose", "back"}[r.IntN(2)], r.IntN(4))
			case 3:
				if held == 0 {
					add("hold")
					held = in(3, 6)
				}
			}
		}
		if held > 0 {
			add("pass", in(30, 90))
			if r.IntN(2) == 0 {
				add("kill", r.IntN(50))
				add([]string{"run", "make"}[r.IntN(2)])
				add("make")
			}
			if held--; held == 0 {
				add("let go")
			}
		}
		// What the scheduler hears is late, in any order between kinds, and sometimes told twice.
		for range in(1, 4) {
			add("deliver", r.IntN(kinds), in(1, 6))
		}
		if r.IntN(4) == 0 {
			add([]string{"again", "relist"}[r.IntN(2)], r.IntN(kinds))
		}
		if r.IntN(2) == 0 {
			add("all")
		}
		add("cycle")
		for range in(1, 4) {
			add("work", r.IntN(len(binder.Kinds)), in(1, 4))
			if faults && r.IntN(6) == 0 { // between two writes
				add([]string{"start", "kill"}[r.IntN(2)], r.IntN(50))
			}
		}
		if r.IntN(2) == 0 {
			add("busy")
		}
	}
	if r.IntN(3) > 0 { // those that others have to go for
		add("run")
		for range 2 {
			size := in(1, 3)
			add("submit", size, size, in(1, 4), in(4, 5))
		}
	}
	return out
}

// draw is the history of a seed: every other one is without faults, and in
// every eighth the cache is looked at after each event and not after cycles alone.
func draw(seed int) (script []op, closely bool) {
	return history(rand.New(rand.NewPCG(uint64(seed), 3)), seed%2 == 1), seed%16 < 2
}

// do carries one line out.
func (w *world) do(o op) error {
	if w.binder == nil && !slices.Contains([]string{"node", "queue", "start"}, o.verb) {
		return nil
	}
	switch o.verb {
	case "node":
		name := fmt.Sprintf("n%d", len(w.api.objects[nodes]))
		if o.b > 0 {
			name = fmt.Sprintf("v%d", len(w.api.objects[nodes]))
		}
		w.api.put(nodes, w.node(name, o.a, o.b))
	case "queue":
		w.api.put(queues, w.queue(fmt.Sprintf("q%d", len(w.api.objects[queues])), int32(o.a)))
	case "start":
		w.start()
		return w.agrees()
	case "submit":
		w.submit(&job{name: fmt.Sprintf("g%d", len(w.jobs)), size: o.a, min: o.b, gpus: o.c, queue: fmt.Sprintf("q%d", o.d%max(1, len(w.api.objects[queues]))), prio: int32(o.d / 2), ranked: len(w.jobs)%2 == 1})
	case "grow":
		if j := w.job(o.a); j != nil {
			j.size += o.b
		}
	case "make":
		w.make()
	case "run":
		w.run()
	case "finish", "cancel":
		if j := w.job(o.a); j != nil && o.verb == "finish" {
			w.finish(j)
		} else if j != nil {
			w.cancel(j)
		}
	case "kill":
		if names := w.api.names(pods); len(names) > 0 {
			p := w.api.pod(names[o.a%len(names)])
			w.hurts(p)
			w.api.remove(p)
		}
	case "cordon", "weigh", "lose", "back":
		w.operate(o)
	case "pass":
		return w.pass(time.Duration(o.a) * time.Second)
	case "fault":
		for range o.b {
			w.api.faults = append(w.api.faults, faultKinds[o.a%len(faultKinds)])
		}
	case "deliver":
		return w.deliver(o.a%kinds, o.b)
	case "hold", "let go":
		w.held = o.verb == "hold"
	case "again":
		for _, obj := range w.store[o.a%kinds] {
			w.feed.set(o.a%kinds, obj)
		}
		return w.agrees()
	case "relist":
		w.relist(o.a % kinds)
		return w.agrees()
	case "all":
		return w.all()
	case "cycle":
		return w.cycle()
	case "work":
		return w.work(binder.Kinds[o.a%len(binder.Kinds)], o.b)
	case "busy":
		return w.busy()
	}
	return nil
}

// operate is what people and machines do to nodes and queues.
func (w *world) operate(o op) {
	kind := nodes
	if o.verb == "weigh" {
		kind = queues
	}
	names := w.api.names(kind)
	if o.verb == "back" {
		for _, n := range w.lost {
			n = n.DeepCopy()
			n.UID = w.uid()
			w.api.put(nodes, n)
		}
		w.lost = nil
		return
	}
	if len(names) == 0 {
		return
	}
	name := names[o.a%len(names)]
	switch obj := w.api.objects[kind][name].(type) {
	case *corev1.Node:
		if o.verb == "lose" {
			w.lost = append(w.lost, obj)
			w.api.drop(nodes, name)
			return
		}
		obj = obj.DeepCopy()
		obj.Spec.Unschedulable = !obj.Spec.Unschedulable
		w.api.put(nodes, obj)
	default:
		w.api.put(queues, w.queue(name, int32(o.b)))
	}
}

func lines(script []op) string {
	var out []string
	for _, o := range script {
		out = append(out, o.String())
	}
	return strings.Join(out, "\n")
}

func shrink(script []op, err error, play func([]op) error) ([]op, error) {
	for size := len(script) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(script); {
			shorter := slices.Delete(slices.Clone(script), at, at+size)
			if e := play(shorter); e != nil {
				script, err = shorter, e
			} else {
				at += size
			}
		}
	}
	return script, err
}
