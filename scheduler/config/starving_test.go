package config_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestWhoStarves: by the first tier in which a plugin says who starves, and all that do there,
// a gang that has its minimum gives up a member for one of higher priority, or does not.
func TestWhoStarves(t *testing.T) {
	for _, c := range []struct {
		tiers, action string
		want          int
	}{
		{"[{plugins: [{name: priority}, {name: gang}]}]", "preempt", 0},
		{"[{plugins: [{name: priority}, {name: gang, enableJobStarving: false}]}]", "preempt", 1},
		{"[{plugins: [{name: priority}, {name: gang, enableJobStarving: false}]}]", "gangpreempt", 0},
		{"[{plugins: [{name: priority}, {name: gang, enableJobStarving: false}]}]", "elastic", 0},
		{"[{plugins: [{name: priority}]}, {plugins: [{name: gang}]}]", "preempt", 1},
		{"[{plugins: [{name: gang}]}, {plugins: [{name: priority}]}]", "preempt", 0},
		{"[{plugins: [{name: drf}]}, {plugins: [{name: priority}]}]", "preempt", 1},
		{"[{plugins: [{name: priority}, {name: tdm}]}]", "preempt", 0},
		{"[{plugins: [{name: drf}]}]", "preempt", 0},
	} {
		text := "actions: \"allocate, " + c.action + "\"\ntiers: " + c.tiers + "\n"
		p := configured(t, text, schedtest.NewWorld(), "node n1 cpu=2", "group a min=1", "pods a w 2 cpu=1", "cycle", "settle 1h", "pods a x 1 cpu=1 priority=5")
		var n int
		for _, claim := range p.Claims {
			n += len(claim.Evictions)
		}
		if n != c.want {
			t.Errorf("%d pods go for another of their gang, want %d, by\n%s", n, c.want, text)
		}
	}
}
