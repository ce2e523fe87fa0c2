package framework

import (
	"math"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// MateScorer says how well real nodes suit pods by the members of their own gang
// that are there.
type MateScorer interface {
	// Mates returns what it says of one gang, nil for nothing.
	Mates(g *snapshot.Gang) Mates
}

// Mates is what a MateScorer says of one gang. Pods are placed one after the other
// then, and as if nothing were said where that finds no place for all.
type Mates interface {
	// Sets are the pods in the order in which they are placed, those of a set
	// together where there is room.
	Sets(pods []*snapshot.Pod) [][]*snapshot.Pod
	// Score is how well a node suits a pod of a task, by the members of tasks that are
	// there, those among them that are of its set or were there before, and how many
	// further pods of its set, of all, would fit.
	Score(task string, there, near func(task string) int64, with, all int64) int64
}

// mates is the gang whose pods are placed with regard to each other.
type mates struct {
	Mates
	there []map[string]int64 // by node: members by task, before anything is tried
}

// matesOf asks the plugins about a gang; the first that says something counts. Pods
// that claim volumes or devices go where those are, whatever their gang would rather.
func (s *Session) matesOf(g *snapshot.Gang) *mates {
	if slices.ContainsFunc(g.Pods, func(p *snapshot.Pod) bool { return p.Class.Claims != nil }) {
		return nil
	}
	for _, m := range s.scope.mateScorers {
		if says := m.Mates(g); says != nil {
			return &mates{Mates: says, there: s.membersByNode(g)}
		}
	}
	return nil
}

// membersByNode counts the placed members of a gang, those of this cycle included.
func (s *Session) membersByNode(g *snapshot.Gang) []map[string]int64 {
	out := make([]map[string]int64, len(s.Snapshot.Nodes))
	count := func(node, task string) {
		if i, ok := s.Snapshot.Node(node); ok {
			if out[i] == nil {
				out[i] = map[string]int64{}
			}
			out[i][task]++
		}
	}
	tasks := map[string]string{}
	for _, p := range g.Pods {
		tasks[p.UID] = p.Task
		if p.Node != "" && !p.Terminal() {
			count(p.Node, p.Task)
		}
	}
	for pl := range s.placements(g) {
		for _, b := range pl.Binds {
			count(b.Node, tasks[b.UID])
		}
	}
	return out
}

// spreadMates puts pods of several groups on real nodes, each where its gang's
// members and its set suit it, and returns those that found no place. Its changes
// stay in the transaction.
func (s *Session) spreadMates(job string, groups []group, d Domain, beside []Assignment) (out []Assignment, left []*snapshot.Pod) {
	there := members{s.mates.there, map[seat]int64{}}
	for _, a := range beside {
		for _, p := range a.Pods {
			there.more[seat{a.Node, p.Task}]++
		}
	}
	var pods []*snapshot.Pod
	for _, g := range groups {
		pods = append(pods, g.pods...)
	}
	order := snapshot.ComparePlacing
	if s.scope.plainOrder {
		order = snapshot.ComparePods
	}
	slices.SortFunc(pods, order)
	seated := newSeating()
	for _, set := range s.mates.Sets(pods) {
		near := members{s.mates.there, map[seat]int64{}}
		for i, p := range set {
			node, ok := s.bestMate(p, set[i+1:], d, there, near)
			if !ok {
				left = append(left, p)
				continue
			}
			devices := s.Txn.Put(node, item(job, set[i:i+1]))
			there.more[seat{node, p.Task}]++
			near.more[seat{node, p.Task}]++
			seated.add(node, p, devices)
		}
	}
	return seated.out, left
}

// seat is where pods of a task are.
type seat struct {
	node int
	task string
}

// members are the pods of a gang by node and task: those of before, and more.
type members struct {
	before []map[string]int64
	more   map[seat]int64
}

func (m members) on(node int) func(task string) int64 {
	return func(task string) int64 { return m.before[node][task] + m.more[seat{node, task}] }
}

// bestMate chooses the node of one pod, of whose set the others are still to come.
func (s *Session) bestMate(p *snapshot.Pod, others []*snapshot.Pod, d Domain, there, near members) (int, bool) {
	best, found := candidate{}, false
	for _, c := range s.candidates(p.Class, 1, d) {
		node := int(c.node)
		score := s.mates.Score(p.Task, there.on(node), near.on(node), s.fitting(node, p, others), int64(len(others)))
		c.likes = resource.Add(c.likes, score)
		if !found || c.compare(best) < 0 {
			best, found = c, true
		}
	}
	return int(best.node), found
}

// fitting is how many of the pods still fit a node beside p, by amounts alone.
func (s *Session) fitting(node int, p *snapshot.Pod, others []*snapshot.Pod) int64 {
	need := p.Class.Request.Clone()
	var n int64
	for _, o := range others {
		fits := true
		for dim, a := range o.Class.Request {
			if a > 0 && resource.Add(need[dim], a) > max(s.Txn.FreeOf(node, dim), 0) {
				fits = false
				break
			}
		}
		if fits {
			need.AddScaled(o.Class.Request, 1)
			n = min(n+1, math.MaxInt32)
		}
	}
	return n
}
