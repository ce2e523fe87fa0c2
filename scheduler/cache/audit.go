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
