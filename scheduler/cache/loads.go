package cache

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// SetLoads takes in how busy nodes were measured to be, in place of what was
// measured before.
func (c *Cache) SetLoads(loads []snapshot.Load) {
	loads = slices.Clone(loads)
	slices.SortFunc(loads, func(a, b snapshot.Load) int { return strings.Compare(a.Node, b.Node) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loads = loads // never changed: snapshots share it
	c.signal()
}

// NoteRounds remembers when plugins had their turn to send pods away, and who was looked
// at last. A new scheduler knows of none.
func (c *Cache) NoteRounds(rounds []plan.Round, at time.Time) {
	if len(rounds) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	times, turns := maps.Clone(c.rounds), maps.Clone(c.turns) // snapshots share those before
	if times == nil {
		times, turns = map[string]int64{}, map[string]string{}
	}
	for _, r := range rounds {
		times[r.Plugin] = at.UnixNano()
		if r.After != "" {
			turns[r.Plugin] = r.After
		}
	}
	c.rounds, c.turns = times, turns
}

// RealNodes lists the real nodes that are known, in the order of their names. They
// must not be changed.
func (c *Cache) RealNodes() []snapshot.NodeSpec {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []snapshot.NodeSpec
	for _, e := range c.nodes {
		if e.spec != nil && !e.spec.Virtual {
			out = append(out, *e.spec)
		}
	}
	slices.SortFunc(out, func(a, b snapshot.NodeSpec) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// SetOpinions takes in what an extender said, in place of all that it said before.
// They are sorted and belong to the cache from then on.
func (c *Cache) SetOpinions(opinions []snapshot.Opinion) {
	s := &snapshot.Snapshot{}
	s.SetOpinions(opinions)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opinions = s.Opinions // never changed: snapshots share it
	c.signal()
}

// objects are what the watches hold.
type objects struct {
	pods  corelisters.PodLister
	nodes corelisters.NodeLister
}

func (c *Cache) listed() *objects {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects
}

// PodObject is a pod as the watch holds it, nil when it does not. It must not be
// changed.
func (c *Cache) PodObject(namespace, name string) *corev1.Pod {
	if o := c.listed(); o != nil {
		if p, err := o.pods.Pods(namespace).Get(name); err == nil {
			return p
		}
	}
	return nil
}

// NodeObject is a node as the watch holds it, nil when it does not. It must not be
// changed.
func (c *Cache) NodeObject(name string) *corev1.Node {
	if o := c.listed(); o != nil {
		if n, err := o.nodes.Get(name); err == nil {
			return n
		}
	}
	return nil
}
