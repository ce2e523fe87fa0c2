package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// peerRules checks placements against pod affinity, anti-affinity and spread by
// looking at all pairs of pods.
type peerRules struct{ w *schedtest.World }

func (r peerRules) node(name string) *snapshot.NodeSpec {
	for i := range r.w.Nodes {
		if r.w.Nodes[i].Name == name {
			return &r.w.Nodes[i]
		}
	}
	return nil
}

func selects(t snapshot.PeerTerm, p *schedtest.Pod) bool {
	for k, v := range t.Selector.MatchLabels {
		if p.Needs.Labels[k] != v {
			return false
		}
	}
	return true
}

// near lists the pods other than p that t selects in the domain that node is in.
func (r peerRules) near(t snapshot.PeerTerm, node *snapshot.NodeSpec, p *schedtest.Pod) (n int) {
	value, ok := node.Labels[t.Key]
	for _, o := range r.w.Pods("") {
		if o != p && ok && o.Node != "" && selects(t, o) && r.node(o.Node).Labels[t.Key] == value {
			n++
		}
	}
	return n
}

func (r peerRules) anywhere(t snapshot.PeerTerm, p *schedtest.Pod) bool {
	for _, o := range r.w.Pods("") {
		if o != p && o.Node != "" && selects(t, o) {
			if _, ok := r.node(o.Node).Labels[t.Key]; ok {
				return true
			}
		}
	}
	return false
}

// wrong says what p on node breaks, beside all that is placed.
func (r peerRules) wrong(p *schedtest.Pod, node *snapshot.NodeSpec) string {
	for _, o := range r.w.Pods("") {
		if o == p || o.Node == "" || o.Needs.Peers == nil {
			continue
		}
		for _, t := range o.Needs.Peers.Apart {
			a, hasA := r.node(o.Node).Labels[t.Key]
			b, hasB := node.Labels[t.Key]
			if hasA && hasB && a == b && selects(t, p) {
				return fmt.Sprintf("%s does not want %s near", o.Name, p.Name)
			}
		}
	}
	if p.Needs.Peers == nil {
		return ""
	}
	for _, t := range p.Needs.Peers.Apart {
		if r.near(t, node, p) > 0 {
			return fmt.Sprintf("%s is near what it does not want", p.Name)
		}
	}
	missing, any, self := false, false, true
	for _, t := range p.Needs.Peers.Near {
		if _, ok := node.Labels[t.Key]; !ok {
			return fmt.Sprintf("%s is on a node without %s", p.Name, t.Key)
		}
		missing = missing || r.near(t, node, p) == 0
		any = any || r.anywhere(t, p)
		self = self && selects(t, p)
	}
	if missing && !(self && !any) {
		return fmt.Sprintf("%s is not near what it wants", p.Name)
	}
	for _, t := range p.Needs.Peers.Spread {
		value, ok := node.Labels[t.Key]
		if !ok {
			return fmt.Sprintf("%s is on a node without %s", p.Name, t.Key)
		}
		counts := map[string]int{}
		for i := range r.w.Nodes {
			if v, ok := r.w.Nodes[i].Labels[t.Key]; ok {
				counts[v] = r.near(t.PeerTerm, &r.w.Nodes[i], p)
			}
		}
		if selects(t.PeerTerm, p) {
			counts[value]++
		}
		before, least := counts[value], -1
		if selects(t.PeerTerm, p) {
			counts[value]--
		}
		for _, n := range counts {
			if least < 0 || n < least {
				least = n
			}
		}
		if int64(before-least) > t.MaxSkew {
			return fmt.Sprintf("%s makes the spread uneven: %d in its domain, %d in another", p.Name, before, least)
		}
	}
	return ""
}

// TestPeersAgainstPairs draws nodes in zones and gangs whose pods want each
// other near, apart or spread, runs cycles until nothing changes, and compares
// every pod, placed or waiting, with what looking at all pairs says.
func TestPeersAgainstPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range worldsEach {
			peersWorld(t)
		}
	})
}

func peersWorld(t *rapid.T) {
	w := schedtest.NewWorld()
	for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
		n := schedtest.Real(fmt.Sprintf("n%d", i), append(amounts(int64(rapid.IntRange(1, 4).Draw(t, "cpu")), 0), resource.Quantity{Name: "pods", Amount: 110})...)
		n.Labels = map[string]string{"host": n.Name}
		if z := rapid.IntRange(0, 2).Draw(t, "zone"); z > 0 {
			n.Labels["zone"] = fmt.Sprint(z)
		}
		w.SetNode(n)
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "gangs") {
		size := rapid.IntRange(1, 3).Draw(t, "size")
		c := snapshot.ClassSpec{Requests: amounts(1, 0), Namespace: "default", Labels: map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}}
		term := func() snapshot.PeerTerm {
			return snapshot.PeerTerm{Key: rapid.SampledFrom([]string{"host", "zone"}).Draw(t, "key"), Namespaces: []string{"default"},
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "wants")}}}
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 1:
			c.Peers = &snapshot.Peers{Near: []snapshot.PeerTerm{term()}}
		case 2:
			c.Peers = &snapshot.Peers{Apart: []snapshot.PeerTerm{term()}}
		case 3:
			c.Peers = &snapshot.Peers{Spread: []snapshot.SpreadTerm{{PeerTerm: term(), MaxSkew: int64(rapid.IntRange(1, 2).Draw(t, "skew")), MinDomains: 1, Hard: true}}}
		}
		w.AddGang(fmt.Sprintf("g%d", i), int64(size)).AddPods("w", size, c)
	}
	rules := peerRules{w}
	var p plan.Plan
	for range 10 {
		p = scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
		if len(p.Placements) == 0 {
			w.Apply(p)
			break
		}
		// One pod after the other, as the scheduler decided them: a spread is even at
		// the moment of placing. Within a gang the order is the scheduler's own, so a
		// pod that is right at any point of it is right.
		for _, pl := range p.Placements {
			left := pl.Binds
			for len(left) > 0 {
				next := -1
				why := ""
				for i, b := range left {
					pod := podOf(w, b.UID)
					if why = rules.wrong(pod, rules.node(b.Node)); why == "" {
						next = i
						break
					}
				}
				if next < 0 {
					t.Fatalf("%s\n%s", why, p)
				}
				podOf(w, left[next].UID).Node = left[next].Node
				left = append(left[:next:next], left[next+1:]...)
			}
		}
		w.Apply(p)
	}
	for _, g := range w.Gangs {
		if len(g.Pods) != 1 || g.Pods[0].Node != "" {
			continue
		}
		if slices.ContainsFunc(p.Unschedulable, func(u plan.Unschedulable) bool { return u.Gang == g.Key && u.Code == plan.Reserved }) {
			continue // it would put off the planned start of another
		}
		for i := range w.Nodes {
			used := int64(0)
			for _, o := range w.Pods("") {
				if o.Node == w.Nodes[i].Name {
					used += 1000
				}
			}
			if used+1000 <= w.Nodes[i].Allocatable.Get("cpu") && rules.wrong(g.Pods[0], &w.Nodes[i]) == "" {
				t.Fatalf("%s waits and could be on %s", g.Pods[0].Name, w.Nodes[i].Name)
			}
		}
	}
}

func podOf(w *schedtest.World, uid string) *schedtest.Pod {
	for _, p := range w.Pods("") {
		if p.UID == uid {
			return p
		}
	}
	return nil
}
