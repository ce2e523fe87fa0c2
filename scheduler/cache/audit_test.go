package cache

import (
	"strings"
	"testing"
)

// TestAuditFindsDrift damages what the cache keeps up to date in each way that it
// could go wrong: the audit tells of it.
func TestAuditFindsDrift(t *testing.T) {
	for name, damage := range map[string]func(c *Cache){
		"not counted there":                 func(c *Cache) { delete(c.nodes["n"].pods, "uid-a") },
		"1 pods are counted":                func(c *Cache) { delete(c.pods, "uid-a") },
		"cycles see 1 pods":                 func(c *Cache) { delete(c.nodes["n"].pods, "uid-a") },
		"of gang podgroup/ns/g":             func(c *Cache) { delete(c.gangs["podgroup/ns/g"].pods, "uid-a") },
		"an eviction of pod x is counted":   func(c *Cache) { c.evictions["x"] = eviction{} },
		"a binding of pod x to node n is":   func(c *Cache) { c.assumed["x"] = Assumption{Node: "n"} },
		"its binding to n still counts":     func(c *Cache) { c.assumed["uid-a"] = Assumption{Node: "n"} },
		"1 pods with claims are counted, 0": func(c *Cache) { c.claimed.claimants++ },
		"gang podgroup/ns/g":                func(c *Cache) { c.gangs["podgroup/ns/g"].snap.Pods = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := New()
			c.SetNode(node("n", "4"))
			c.SetGroup(podGroup("g", 1))
			c.SetPod(bound(pod("a", "g", "1"), "n", "attempt", 1, 0))
			c.Snapshot(start)
			if found := c.Audit(); len(found) > 0 {
				t.Fatalf("before: %q", found)
			}
			damage(c)
			if found := strings.Join(c.Audit(), "\n"); !strings.Contains(found, name) {
				t.Errorf("found %q, want %q", found, name)
			}
		})
	}
}
