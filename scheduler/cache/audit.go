package cache

import (
	"fmt"
	"slices"
)

// Audit recounts from the pods alone who is on which node and in which gang, and
// lists where what is kept up to date differs: nothing when it is right.
func (c *Cache) Audit() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	onNode, inGang := map[string]int{}, map[string]int{}
	for uid, e := range c.pods {
		if p := c.seat(e); p.Node != "" && !p.Terminal() {
			onNode[p.Node]++
			if n := c.nodes[p.Node]; n == nil || n.pods[uid] != e {
				out = append(out, fmt.Sprintf("pod %s/%s is on node %s and not counted there", p.Namespace, p.Name, p.Node))
			}
		}
		if e.gang != "" {
			inGang[e.gang]++
			if g := c.gangs[e.gang]; g == nil || g.pods[uid] != e {
				out = append(out, fmt.Sprintf("pod %s/%s is of gang %s and not counted there", e.pod.Namespace, e.pod.Name, e.gang))
			}
		}
	}
	for name, n := range c.nodes {
		if len(n.pods) != onNode[name] {
			out = append(out, fmt.Sprintf("node %s: %d pods are counted, %d are there", name, len(n.pods), onNode[name]))
		}
		if n.snap != nil && len(n.snap.Residents) != len(n.pods) {
			out = append(out, fmt.Sprintf("node %s: cycles see %d pods, %d are there", name, len(n.snap.Residents), len(n.pods)))
		}
	}
	out = append(out, c.auditBeside()...)
	for key, g := range c.gangs {
		if len(g.pods) != inGang[key] {
			out = append(out, fmt.Sprintf("gang %s: %d pods are counted, %d are there", key, len(g.pods), inGang[key]))
		}
		if g.snap != nil && len(g.snap.Pods) != len(g.pods) {
			out = append(out, fmt.Sprintf("gang %s: cycles see %d pods, %d are there", key, len(g.snap.Pods), len(g.pods)))
		}
	}
	slices.Sort(out)
	return out
}

// auditBeside lists what is kept beside the objects and should have gone with them, or
// once the watch told what it stood for.
func (c *Cache) auditBeside() (out []string) {
	for uid, a := range c.assumed {
		switch e := c.pods[uid]; {
		case e == nil:
			out = append(out, fmt.Sprintf("a binding of pod %s to node %s is counted, and there is no such pod", uid, a.Node))
		case e.pod.Node != "" || e.pod.Terminal():
			out = append(out, fmt.Sprintf("pod %s/%s is on node %s, and its binding to %s still counts as under way", e.pod.Namespace, e.pod.Name, e.pod.Node, a.Node))
		}
	}
	for uid := range c.evictions {
		if c.pods[uid] == nil {
			out = append(out, fmt.Sprintf("an eviction of pod %s is counted, and there is no such pod", uid))
		}
	}
	claimants := 0
	for _, e := range c.pods {
		if e.spec.Claims != nil {
			claimants++
		}
	}
	if claimants != c.claimed.claimants {
		out = append(out, fmt.Sprintf("%d pods with claims are counted, %d are there", c.claimed.claimants, claimants))
	}
	return out
}
