package lifecycle_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

func ofGroup(p *lifecycle.Pod) { p.Group = "ns/ring" }

// keyOf is the key that pods of a PodGroup, all without a record, are a gang under.
func keyOf(t *testing.T, pods ...lifecycle.Pod) backends.Key {
	t.Helper()
	gangs := lifecycle.Gangs("o", pods)
	if len(gangs) != 1 || !backends.ValidKey(gangs[0].Key) {
		t.Fatalf("gangs %+v", gangs)
	}
	return gangs[0].Key
}

// A claim is for the pods that it was made for, and whoever comes later, or makes it
// anew, has a key that no pod has had.
func TestClaims(t *testing.T) {
	x, y, z := pod("x", 2, 0, ofGroup), pod("y", 2, 0, ofGroup), pod("z", 2, 0, ofGroup)
	has := func(p lifecycle.Pod, key backends.Key) lifecycle.Pod {
		p.Intent = key
		return p
	}
	two := keyOf(t, x, y)
	if two != lifecycle.KeyFor("o", "a", []string{"x", "y"}) {
		t.Errorf("the first claim is %s", two)
	}
	for name, pods := range map[string][]lifecycle.Pod{
		"the lead alone": {has(x, two), y}, "both": {has(x, two), has(y, two)}, "in any order": {y, has(x, two)},
		"one that goes does not count": {has(x, two), y, pod("z", 2, 0, ofGroup, deleting)},
	} {
		if got := keyOf(t, pods...); got != two {
			t.Errorf("%s: key %s, want %s to go on", name, got, two)
		}
	}
	three := keyOf(t, has(x, two), has(y, two), z)
	if lifecycle.Claims("o", "a", three, []lifecycle.Pod{x, y}) || !lifecycle.Claims("o", "a", three, []lifecycle.Pod{z, y, x}) || !lifecycle.Later(three, two) {
		t.Errorf("claim %s of three after %s", three, two)
	}
	again := keyOf(t, has(x, three), has(y, two))
	if again == two || !lifecycle.Later(again, three) || !lifecycle.Claims("o", "a", again, []lifecycle.Pod{x, y}) {
		t.Errorf("claim %s of two again after %s", again, three)
	}
	if got := keyOf(t, has(x, two), has(y, three)); got == two || !lifecycle.Later(got, three) {
		t.Errorf("the lead's claim %s goes on as %s although the other was claimed later by %s", two, got, three)
	}
	if got := keyOf(t, x, has(y, two)); got == two {
		t.Error("a claim without its lead goes on")
	}
	for _, forged := range []backends.Key{two + "$(id)", two + "zzz", two + "-1", "x", two[:12]} {
		if got := keyOf(t, has(x, forged), y); got == forged {
			t.Errorf("what a user wrote, %q, is a key", forged)
		}
	}
	// Rounds end, and begin anew.
	p, seen := x, map[backends.Key]bool{}
	for i := range 1400 {
		q := y
		if i%2 == 1 {
			q = z
		}
		key := keyOf(t, p, q)
		if len(key) > 15 || i < 1000 && seen[key] || i > 0 && !lifecycle.Later(key, p.Intent) {
			t.Fatalf("claim %d after %s is %s", i, p.Intent, key)
		}
		seen[key] = true
		p.Intent = key
	}
}

// Whatever a daemon sees, a job is not recorded on who is left of a claim when one of
// its members goes meanwhile: the lead, on which it must be recorded, may be the one.
func TestNoRecordOfABrokenClaim(t *testing.T) {
	key := keyOf(t, pod("x", 2, 0, ofGroup), pod("y", 2, 0, ofGroup), pod("z", 2, 0, ofGroup))
	for gone := range 3 {
		var pods []lifecycle.Pod
		for _, uid := range []string{"x", "y", "z"} {
			pods = append(pods, pod(uid, 2, 0, ofGroup, intent(key)))
		}
		g := lifecycle.Gangs("o", pods)[0]
		g.Members[gone].Deleting = true
		held := backends.Job{ID: "7", Key: key, State: backends.StatePending, Held: true}
		step := lifecycle.Next(g, lifecycle.Knowledge{Complete: true, Jobs: []backends.Job{held}}, now)
		if len(step.Actions) != 1 || step.Actions[0].Verb != lifecycle.Forget {
			t.Errorf("member %d goes: %s", gone, fmt.Sprint(step.Actions))
		}
	}
}
