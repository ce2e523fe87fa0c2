package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// sameApart compares a plan with that of a cycle which looks at each gang by itself.
func sameApart(pipe framework.Pipeline, w *schedtest.World, p plan.Plan) error {
	pipe.Actions = slices.Concat([]framework.Action{mutant{(*framework.Session).Apart}}, pipe.Actions)
	if got, want := fmt.Sprintf("%+v", p), fmt.Sprintf("%+v", scheduler.Cycle(pipe, w.Snapshot(), w.Now)); got != want {
		return fmt.Errorf("plans differ when gangs that are alike are looked at together:\n%s\n%s", got, want)
	}
	return nil
}

// submitters are users who submit gangs of a few kinds again and again to a small cluster.
type submitters struct {
	r       *rand.Rand
	queues  int
	groups  []string // options of a kind's group
	pods    [][]string
	urgent  int // how many priorities there are
	made    int
	running []string
}

func newSubmitters(r *rand.Rand, do func(string, ...any)) *submitters {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	some := func(odds int, format string, a ...any) string {
		if r.IntN(odds) > 0 {
			return ""
		}
		return " " + fmt.Sprintf(format, a...)
	}
	for i := range in(1, 4) {
		do("node n%d cpu=16 gpu=%d label.zone=%d", i, in(2, 8), i%2)
	}
	for i := range in(0, 2) {
		do("virtual v%d shape=%d*cpu=8,gpu=%d", i, in(1, 3), in(1, 4))
	}
	u := &submitters{r: r, queues: in(1, 3), urgent: in(1, 3)}
	for i := range u.queues {
		do("queue q%d weight=%d%s%s%s", i, in(1, 3), some(4, "fifo"), some(4, "cap.gpu=%d", in(4, 12)), some(3, "deserved.gpu=%d", in(1, 6)))
	}
	if r.IntN(6) == 0 {
		do("reserve r from=%dm for=2h nodes=n0 queues=q0", in(0, 40))
	}
	for range in(2, 6) {
		var pods []string
		size := 0
		for task := range in(1, 2) {
			n := in(1, 3)
			size += n
			pods = append(pods, fmt.Sprintf("t%d %d cpu=1 gpu=%d%s%s%s%s%s", task, n, in(0, 4), some(10, "select.zone=1"), some(12, "port=80"),
				some(12, "lab.a=b apart=zone:a=b"), some(12, "lab.a=b near=zone:a=b"), some(12, "priority=%d", task)+some(6, "protected=test")))
		}
		group := fmt.Sprintf("min=%d%s%s%s%s", in(max(1, size-1), size),
			some(12, "loose"), some(10, "task.t0=1"), some(10, "patient"), some(14, "topology=soft:1"))
		u.groups, u.pods = append(u.groups, group), append(u.pods, pods)
	}
	return u
}

// submit writes another group of some kind, of a run time that is known or not.
func (u *submitters) submit(do func(string, ...any)) {
	k := u.r.IntN(len(u.groups))
	estimate := ""
	if u.r.IntN(3) > 0 {
		estimate = fmt.Sprintf(" estimate=%dm", []int{5, 20, 60}[u.r.IntN(3)])
	}
	name := fmt.Sprintf("g%d", u.made)
	u.made++
	do("group %s queue=q%d priority=%d %s%s", name, u.r.IntN(u.queues), u.r.IntN(u.urgent), u.groups[k], estimate)
	for _, pods := range u.pods[k] {
		do("pods %s %s", name, pods)
	}
	u.running = append(u.running, name)
}

// TestTwins: in deep queues, in which most gangs are like others, the plan is the same to the
// byte as if each were looked at by itself.
func TestTwins(t *testing.T) {
	pipes := []framework.Pipeline{
		schedtest.Pipeline(), capacityWith(t, ""),
		pipelineOf(t, config.Standard+"configurations: [{name: backfill, arguments: {unknownRunTimes: pass}}]\n"),
		pipelineOf(t, config.Standard+"configurations: [{name: backfill, arguments: {conservative: true}}]\n"),
		pipelineOf(t, config.Standard+"configurations: [{name: backfill, arguments: {heads: 3}}]\n"),
		pipelineOf(t, strings.Replace(config.Standard, "- name: locality", "- name: binpack\n  - name: nodeorder\n  - name: network-topology-aware\n  - name: task-topology", 1)),
		pipelineOf(t, strings.Replace(config.Standard, "backfill, ", "", 1)),
		pipelineOf(t, strings.Replace(config.Standard, "elastic, preempt, reclaim", "reclaim", 1)),
		pipelineOf(t, strings.Replace(strings.Replace(config.Standard, "- name: proportion", "- name: capacity", 1), "elastic, preempt, reclaim", "reclaim", 1)),
	}
	alike, codes, claims := 0, map[plan.Code]int{}, map[string]int{}
	for seed := range uint64(seeds(t)) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := schedtest.NewWorld()
		do := func(format string, args ...any) {
			if _, err := w.Do(fmt.Sprintf(format, args...)); err != nil {
				t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
			}
		}
		pipe := pipes[seed%uint64(len(pipes))]
		pipe.Actions = append(slices.Clip(pipe.Actions), mutant{func(s *framework.Session) {
			twins := map[*framework.Twin]int{}
			for _, g := range s.Snapshot.Gangs {
				if of := s.TwinOf(g); of != nil && s.Waits(g) != nil {
					twins[of]++
				}
			}
			for _, n := range twins {
				alike += n - 1
			}
		}})
		users := newSubmitters(r, do)
		for round := range 4 {
			for range 6 + r.IntN(20) {
				users.submit(do)
			}
			p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			if err := sameApart(pipe, w, p); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			for _, u := range p.Unschedulable {
				codes[u.Code]++
			}
			for _, c := range p.Claims {
				claims[c.Action]++
			}
			w.Apply(p)
			do("settle %dm", 1+r.IntN(15))
			for range r.IntN(4) {
				do("finish %s", users.running[r.IntN(len(users.running))])
			}
			for _, p := range w.Pods("") {
				p.Terminating = p.Terminating || p.Node != "" && p.Protected == "" && r.IntN(12) == 0
			}
		}
	}
	t.Logf("%d gangs were like one before; waits: %v; claims: %v", alike, codes, claims)
	if alike < seeds(t) {
		t.Errorf("only %d gangs were like one before", alike)
	}
}

// TestTwinsOnceOthersHaveGone: what is going away is counted as given back from the first time
// that anybody asks, so the first of two twins may not reclaim what the second may.
func TestTwinsOnceOthersHaveGone(t *testing.T) {
	pipe := pipelineOf(t, strings.Replace(strings.Replace(config.Standard, "- name: proportion", "- name: capacity", 1), "elastic, preempt, reclaim", "reclaim", 1))
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n cpu=64 gpu=8", "queue a deserved.gpu=6", "queue b deserved.gpu=2",
		"group stays min=2 queue=a", "pods stays w 2 cpu=1 gpu=1", "group goes min=2 queue=a", "pods goes w 2 cpu=1 gpu=1",
		"group b1 min=1 queue=b", "pods b1 w 1 cpu=1 gpu=1", "group b2 min=1 queue=b", "pods b2 w 1 cpu=1 gpu=1",
		"group b3 min=1 queue=b", "pods b3 w 1 cpu=1 gpu=1", "group b4 min=1 queue=b", "pods b4 w 1 cpu=1 gpu=1",
		"cycle", "settle 10m", "terminate goes",
		"group first min=1 queue=a", "pods first w 1 cpu=1 gpu=3", "group second min=1 queue=a", "pods second w 1 cpu=1 gpu=3",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	if err := sameApart(pipe, w, p); err != nil {
		t.Fatal(err)
	}
	if len(p.Claims) == 0 {
		t.Errorf("nothing is reclaimed:\n%s", p)
	}
}
