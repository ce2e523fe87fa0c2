package cache

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// everything is a configuration in which every action and plugin is named; the verb is for
// the one of two that share queues.
const everything = `
actions: "enqueue, allocate, backfill, elastic, preempt, reclaim, repair, consolidate, shuffle"
tiers:
- plugins:
  - name: priority
  - name: gang
  - name: sla
  - name: tdm
    arguments: {tdm.revocable-zone.x: "10:00-21:00"}
- plugins:
  - name: overcommit
  - name: drf
  - name: %s
  - name: predicates
  - name: nodegroup
  - name: binpack
  - name: nodeorder
    arguments: {leastrequested.weight: 2, balancedresource.weight: 3, imagelocality.weight: 1}
  - name: numa-aware
  - name: task-topology
  - name: network-topology-aware
  - name: resourcequota
  - name: deviceshare
  - name: resource-strategy-fit
  - name: usage
  - name: fairshare
  - name: rescheduling
`

// seeds is how many random clusters a test draws: what ISTHMUS_SIMULATED_SEEDS says, or else
// usual.
func seeds(t *testing.T, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv("ISTHMUS_SIMULATED_SEEDS")
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mostStep is how long an object or a cycle may take in so small a cluster.
const mostStep = 10 * time.Second

// TestOddObjects gives caches objects that nobody would write on purpose, plays cycles in
// between with all that can be configured, and carries out what they decide. Nothing
// panics, nor takes long, and what is counted as held is what a recount finds.
// ISTHMUS_SIMULATED_SEEDS sets how many caches are filled; 300 else.
func TestOddObjects(t *testing.T) {
	for seed := range seeds(t, 300) {
		r := odd{rand.New(rand.NewPCG(seed, 7))}
		text := config.Standard
		if r.IntN(3) > 0 {
			text = fmt.Sprintf(everything, pick(r, "proportion", "capacity"))
		}
		c, _, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if wrong := r.play(c.Pipeline()); wrong != "" {
			t.Fatalf("seed %d, %s", seed, wrong)
		}
	}
}

// play fills a cache and schedules, and says at which step what went wrong, "" for nothing.
func (r odd) play(pipe framework.Pipeline) (wrong string) {
	c, now, step := New(), start, ""
	defer func() {
		switch x := recover().(type) {
		case nil:
		case *scheduler.Failure:
			wrong = fmt.Sprintf("%s: gang %q, action %q: %v\n%s", step, x.Gang, x.Action, x.Cause, x.Stack)
		default:
			wrong = fmt.Sprintf("%s: %v\n%s", step, x, debug.Stack())
		}
	}()
	for i := range 60 {
		began := time.Now()
		step = fmt.Sprintf("step %d, %s", i, r.change(c))
		if r.IntN(3) == 0 {
			step += " and a cycle"
			now = now.Add(time.Duration(r.IntN(200)-20) * time.Second) // clocks go back, too
			if other := carryOut(c, pipe, now); other != "" {
				return step + ": " + other
			}
			if found := append(c.Snapshot(now).Audit(), c.Audit()...); len(found) > 0 {
				return fmt.Sprintf("%s: %q", step, found)
			}
		}
		if took := time.Since(began); took > mostStep {
			return fmt.Sprintf("%s took %v", step, took)
		}
	}
	return ""
}

// change changes one thing in a cache and names its kind.
func (r odd) change(c *Cache) string {
	switch r.IntN(12) {
	case 0, 1:
		c.SetNode(r.node())
		return "a node"
	case 2, 3, 4, 5:
		c.SetPod(r.pod())
		return "a pod"
	case 6, 7:
		c.SetGroup(r.podGroup())
		return "a PodGroup"
	case 8:
		c.SetQueue(r.queue())
		return "a queue"
	case 9:
		c.SetHyperNode(r.hyperNode())
		return "a HyperNode"
	case 10:
		c.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: r.name("pc", 3)}, Value: r.number32(), GlobalDefault: r.IntN(2) == 0})
		return "a priority class"
	}
	switch r.IntN(4) {
	case 0:
		c.DeleteNode(pick(r, "n1", "v1"), pick(r, "u1", "u2"))
	case 1:
		c.DeletePod("uid-" + r.name("p", 40))
	case 2:
		c.DeleteGroup("ns", r.name("g", 8), pick(r, "a", "b"))
	default:
		c.DeleteQueue(pick(r, "default", "q1", "q2"), pick(r, "a", "b"))
	}
	return "a deletion"
}

// carryOut plays a cycle, and has what it decides count as done. It says if one that
// remembers nothing of those before it decides something else.
func carryOut(c *Cache, pipe framework.Pipeline, now time.Time) (wrong string) {
	s := c.Snapshot(now)
	fresh := schedtest.FromNothing(pipe, s, now)
	p := scheduler.Cycle(pipe, s, now)
	if !reflect.DeepEqual(p, fresh) {
		wrong = fmt.Sprintf("it is planned\n%s\nand by a cycle that remembers nothing\n%s", p, fresh)
	}
	for _, pl := range p.Placements {
		for _, b := range pl.Binds {
			c.Assume(b.UID, Assumption{Node: b.Node, Attempt: "of " + pl.Gang, Size: pl.Size, Rank: b.Rank, Devices: Devices(b.Devices)})
		}
	}
	for _, claim := range p.Claims {
		c.Nominate(claim.Gang, claim.GangUID, claim.Nomination)
		for _, e := range claim.Evictions {
			c.Evict(e.UID, now)
		}
	}
	return wrong
}
