package binder_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// op is one line of a history. Its numbers mean something in any state, so that what
// is left of a history when lines are taken out is one as well.
type op struct {
	verb       string
	a, b, c, d int
}

func (o op) String() string { return fmt.Sprintf("%s %d %d %d %d", o.verb, o.a, o.b, o.c, o.d) }

// history draws the life of a small cluster. With faults, calls fail, schedulers are
// restarted and nodes are lost.
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
			add([]string{"cordon", "weigh"}[r.IntN(2)], r.IntN(4), in(1, 3))
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
		w.submit(&job{name: fmt.Sprintf("g%d", len(w.jobs)), size: o.a, min: o.b, gpus: o.c, queue: fmt.Sprintf("q%d", o.d%max(1, len(w.api.objects[queues]))), prio: int32(o.d / 2)})
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
	w.api.faults, w.calm = nil, true
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

// seeds is how many histories are tried: 500, or what ISTHMUS_SIMULATED_SEEDS says.
func seeds(t *testing.T) int {
	text := os.Getenv("ISTHMUS_SIMULATED_SEEDS")
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ISTHMUS_SIMULATED_SEEDS=%q is not a positive number", text)
	}
	return n
}

// draw is the history of a seed: every other one is without faults, and in
// every eighth the cache is looked at after each event and not after cycles alone.
func draw(seed int) (script []op, closely bool) {
	return history(rand.New(rand.NewPCG(uint64(seed), 3)), seed%2 == 1), seed%16 < 2
}

// TestCacheInHistories plays random histories with the real cache, cycle and binder
// against a simulated API server that is late, fails, and whose watches are cut: what
// the cache has kept up to date is at every moment what a new one would say (R7), no
// node is over-committed, gangs are whole soon after the last fault (R6), nobody is
// sent away in vain (R8), nobody starves (R9), and a restart at any point loses and
// doubles nothing. A failure is shown as the shortest history that still fails.
func TestCacheInHistories(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // many small worlds, of which none stays
	var cycles, events, starts, hit, sent int
	for seed := range seeds(t) {
		script, closely := draw(seed)
		run := func(script []op) (*world, error) {
			w := newWorld(schedtest.Pipeline(), nil)
			w.closely = closely
			return w, play(w, script)
		}
		w, err := run(script)
		if err != nil {
			script, err = shrink(script, err, func(s []op) error { _, err := run(s); return err })
			t.Fatalf("seed %d: %v\n%s", seed, err, lines(script))
		}
		cycles, events, starts, hit, sent = cycles+w.cycles, events+w.events, starts+w.starts, hit+w.api.hit, sent+w.sent
	}
	if seeds(t) >= 100 && (sent == 0 || hit == 0) {
		t.Errorf("%d pods were sent away and %d calls failed", sent, hit)
	}
	t.Logf("%d histories: %d cycles, %d events told, %d schedulers, %d calls that failed, %d pods sent away", seeds(t), cycles, events, starts, hit, sent)
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

// forgets is a cache that does not take in what lost says.
type forgets struct {
	feed
	lost func(kind int, o metav1.Object, gone bool) bool
}

func (f forgets) set(kind int, o metav1.Object) {
	if !f.lost(kind, o, false) {
		f.feed.set(kind, o)
	}
}

func (f forgets) del(kind int, o metav1.Object) {
	if !f.lost(kind, o, true) {
		f.feed.del(kind, o)
	}
}

// TestForgetfulCachesAreFound plays histories with caches that forget one kind of
// update each: it is noticed within a few seeds, and what is shown is a shorter
// history that still fails, and does not with the cache as it is.
func TestForgetfulCachesAreFound(t *testing.T) {
	for name, lost := range map[string]func(kind int, o metav1.Object, gone bool) bool{
		"the end of a pod": func(kind int, o metav1.Object, gone bool) bool {
			p, ok := o.(*corev1.Pod)
			return ok && !gone && p.Status.Phase == corev1.PodSucceeded
		},
		"the deletion of a pod": func(kind int, _ metav1.Object, gone bool) bool { return kind == pods && gone },
		"the start of a pod": func(_ int, o metav1.Object, gone bool) bool {
			p, ok := o.(*corev1.Pod)
			return ok && !gone && p.Status.Phase == corev1.PodRunning
		},
		"the cordon of a node": func(_ int, o metav1.Object, gone bool) bool {
			n, ok := o.(*corev1.Node)
			return ok && !gone && n.Spec.Unschedulable
		},
		"the loss of a node": func(kind int, _ metav1.Object, gone bool) bool { return kind == nodes && gone },
		"the weight of a queue": func(_ int, o metav1.Object, gone bool) bool {
			q, ok := o.(*volcanov1.Queue)
			return ok && !gone && q.Spec.Weight == 3
		},
		"the deletion of a PodGroup": func(kind int, _ metav1.Object, gone bool) bool { return kind == groups && gone },
	} {
		t.Run(name, func(t *testing.T) {
			found(t, "R7", schedtest.Pipeline(), func(f feed) feed { return forgets{f, lost} })
		})
	}
}

// spoils is an action that does something wrong.
type spoils func(*framework.Session)

// Name and Run implement framework.Action.
func (spoils) Name() string { return "spoils" }

// Run spoils the plan.
func (f spoils) Run(s *framework.Session) { f(s) }

// TestInvariantsCanFail plays them with schedulers that decide wrongly.
func TestInvariantsCanFail(t *testing.T) {
	for name, spoil := range map[string]func(*framework.Session){
		"gangs are partial": func(s *framework.Session) {
			for i, p := range s.Plan.Placements {
				s.Plan.Placements[i].Binds = slices.DeleteFunc(p.Binds, func(b plan.Bind) bool { return strings.HasSuffix(b.Name, "-1") })
			}
		},
		"R8: no rest": func(s *framework.Session) {
			for _, g := range s.Snapshot.Gangs {
				for _, p := range g.Pods {
					if p.Phase == snapshot.PodRunning && len(s.Plan.Releases) == 0 {
						s.Plan.Releases = []plan.Eviction{{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Gang: g.Key, Node: p.Node}}
					}
				}
			}
		},
		"R9: gang g1 waits": func(s *framework.Session) {
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool { return p.Name == "g1" })
		},
		"R8: pods were sent away": func(s *framework.Session) { // and the room is not taken
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool {
				return slices.ContainsFunc(s.Snapshot.Gangs, func(g *snapshot.Gang) bool {
					return g.Key == p.Gang && g.Nominated != nil && g.Nominated.Evicted > 0
				})
			})
		},
		"GPUs, and": func(s *framework.Session) {
			for i := range s.Plan.Placements {
				for k := range s.Plan.Placements[i].Binds {
					s.Plan.Placements[i].Binds[k].Node = s.Snapshot.Nodes[0].Name
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := schedtest.Pipeline()
			pipe.Actions = append(slices.Clone(pipe.Actions), spoils(spoil))
			found(t, name, pipe, nil)
		})
	}
}

// found looks for a history in which what is wrong with a scheduler is noticed.
func found(t *testing.T, says string, pipe framework.Pipeline, spoil func(feed) feed) {
	t.Helper()
	said := map[string]bool{}
	for seed := range 60 {
		script, _ := draw(seed)
		again := func(s []op) error { return play(newWorld(pipe, spoil), s) }
		err := again(script)
		if err == nil || !strings.Contains(err.Error(), says) {
			said[fmt.Sprint(err)] = true
			continue
		}
		same := func(s []op) error { // another rule broken by fewer lines would show nothing of this one
			if err := again(s); err != nil && strings.Contains(err.Error(), says) {
				return err
			}
			return nil
		}
		short, err := shrink(script, err, same)
		if len(short) >= len(script) || same(short) == nil {
			t.Errorf("seed %d: %v\nis shown by %d of %d lines:\n%s", seed, err, len(short), len(script), lines(short))
		}
		if err := play(newWorld(schedtest.Pipeline(), nil), short); err != nil {
			t.Errorf("seed %d: the history fails without what is wrong: %v", seed, err)
		}
		t.Logf("seed %d, %d lines of %d: %.200v", seed, len(short), len(script), err)
		return
	}
	t.Errorf("nobody noticed in 60 histories; they said %.2000v", said)
}
