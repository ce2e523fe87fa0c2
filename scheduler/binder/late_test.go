package binder_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// contended is a cluster with gangs of one pod each: those that run, and those that wait.
func contended(t *testing.T, running, waiting []string) *world {
	t.Helper()
	w := newWorld(schedtest.Pipeline(), nil)
	w.api.put(nodes, w.node("n1", 4, 0))
	w.api.put(nodes, w.node("n2", 4, 0))
	w.api.put(queues, w.queue("q", 1))
	for _, name := range slices.Concat(running, waiting) {
		w.submit(&job{name: name, size: 1, min: 1, gpus: 1, queue: "q"})
	}
	w.make()
	for _, name := range running {
		p := w.api.pod(name + "-0").DeepCopy()
		p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning
		w.api.put(pods, p)
	}
	w.start()
	t.Cleanup(func() { w.binder.Close() })
	return w
}

// claim is one for a gang for ten minutes, by which pods of other gangs go, or its own.
func (w *world) claim(gang string, evicts ...string) plan.Claim {
	c := plan.Claim{Gang: "podgroup/" + namespace + "/" + gang, GangUID: string(w.api.objects[groups][gang].GetUID()), Namespace: namespace, Name: gang}
	c.Nomination = snapshot.Nomination{Domain: "nodes", Since: w.now.UnixNano(), Until: w.now.Add(10 * time.Minute).UnixNano(), Evicted: len(evicts)}
	np := snapshot.NominatedPod{UID: string(w.api.pod(gang + "-0").UID), Node: "n1"}
	for _, name := range evicts {
		p := w.api.pod(name + "-0")
		c.Evictions = append(c.Evictions, plan.Eviction{UID: string(p.UID), Namespace: namespace, Name: p.Name, Node: p.Spec.NodeName})
		if name == gang {
			np.Name, np.Node = p.Name, "n2"
		}
	}
	c.Nomination.Pods = []snapshot.NominatedPod{np}
	return c
}

// moving is a plan by which m is moved for wide.
func (w *world) moving() plan.Plan {
	m := w.claim("m", "m")
	m.For = "podgroup/" + namespace + "/wide"
	return plan.Plan{Claims: []plan.Claim{m, w.claim("wide")}}
}

// ten lets ten seconds pass in which the binder does what it can.
func (w *world) ten(t *testing.T) {
	t.Helper()
	w.cache.Snapshot(w.now) // as a cycle does, and nothing is decided
	for _, step := range []func() error{w.busy, w.all, func() error { return w.pass(10 * time.Second) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// left fails unless a pod goes, or stays and counts as staying.
func (w *world) left(t *testing.T, gang string, goes bool) {
	t.Helper()
	p := w.api.pod(gang + "-0")
	if sent := p.DeletionTimestamp != nil; sent != goes {
		t.Errorf("pod %s was sent away: %t, want %t", p.Name, sent, goes)
	}
	if counts := w.cache.Goes(string(p.UID)); counts != goes {
		t.Errorf("pod %s counts as going away: %t, want %t", p.Name, counts, goes)
	}
}

// TestNobodyIsMovedForWhoIsGone: who is moved for a gang stays when that gang is gone.
func TestNobodyIsMovedForWhoIsGone(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world)
		goes   bool
	}{
		{name: "it waits", goes: true},
		{name: "it is gone, which is not known yet", change: func(w *world) { w.api.drop(groups, "wide") }},
		{name: "it is placed elsewhere", change: func(w *world) { w.cache.Assume(string(w.api.pod("wide-0").UID), cache.Assumption{Node: "n2"}) }},
		{name: "nobody knows of it any more", change: func(w *world) {
			w.api.drop(groups, "wide")
			w.api.drop(pods, "wide-0")
			w.cache.DeleteGroup(namespace, "wide", string(w.store[groups]["wide"].GetUID()))
			w.cache.DeletePod(string(w.store[pods]["wide-0"].GetUID()))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := contended(t, []string{"m"}, []string{"wide"})
			w.binder.Carry(w.moving())
			if c.change != nil {
				c.change(w)
			}
			for range 6 {
				w.ten(t)
			}
			w.left(t, "m", c.goes)
		})
	}
}

// TestClaimsWaitForTheirOwn: who is moved waits until the place of the gang that it is
// for is written down, and nobody else does.
func TestClaimsWaitForTheirOwn(t *testing.T) {
	w := contended(t, []string{"m", "victim"}, []string{"wide", "urgent"})
	p := w.moving()
	p.Claims = append(p.Claims, w.claim("urgent", "victim"))
	w.binder.Carry(p)
	w.api.faults = []string{"refused"} // meets wide: m writes nothing before
	w.ten(t)
	w.left(t, "victim", true)
	if w.api.pod("m-0").DeletionTimestamp != nil {
		t.Error("m was sent away before the place of wide was written down")
	}
	for range 6 {
		w.ten(t)
	}
	w.left(t, "m", true)
}

// TestLateClaimsAreDropped: what could not be carried out while it counted is not
// carried out afterwards.
func TestLateClaimsAreDropped(t *testing.T) {
	refuse := func(w *world) { w.api.faults = slices.Repeat([]string{"refused"}, 1000) }
	down := func(w *world) { w.api.faults = append([]string{""}, slices.Repeat([]string{"down"}, 1000)...) } // after the nomination
	for _, c := range []struct {
		name  string
		lasts time.Duration // how long calls fail
		fails func(w *world)
		goes  bool
	}{
		{name: "a nomination, for a minute", lasts: time.Minute, fails: refuse, goes: true},
		{name: "a nomination, for three", lasts: 3 * time.Minute, fails: refuse},
		{name: "an eviction, for nine", lasts: 9 * time.Minute, fails: down, goes: true},
		{name: "an eviction, for eleven", lasts: 11 * time.Minute, fails: down},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := contended(t, []string{"victim"}, []string{"urgent"})
			w.binder.Carry(plan.Plan{Claims: []plan.Claim{w.claim("urgent", "victim")}})
			c.fails(w)
			for end := w.now.Add(c.lasts); w.now.Before(end); {
				w.ten(t)
			}
			w.api.faults = nil
			for range 6 {
				w.ten(t)
			}
			w.left(t, "victim", c.goes)
		})
	}
}

// TestGivingRoomUpIsWritten: also the end of a nomination is written down, so that a
// scheduler that starts afterwards does not take it up.
func TestGivingRoomUpIsWritten(t *testing.T) {
	w := contended(t, nil, []string{"urgent"})
	c := w.claim("urgent")
	c.Nomination.Until, c.Nomination.Pods = c.Nomination.Since, nil
	w.binder.Carry(plan.Plan{Claims: []plan.Claim{c}})
	w.ten(t)
	if all := w.api.objects[groups]["urgent"].GetAnnotations(); len(all) != 1 {
		t.Errorf("the nomination is not written: %v", all)
	}
}

// TestRoomForNativePodGroups: a PodGroup of Kubernetes' own API is none of Volcano's, and
// room is made for it though it is written down nowhere.
func TestRoomForNativePodGroups(t *testing.T) {
	w := contended(t, []string{"victim"}, []string{"urgent"})
	c := w.claim("urgent", "victim")
	c.Native, c.Name = true, "none-of-volcanos"
	w.binder.Carry(plan.Plan{Claims: []plan.Claim{c}})
	for range 3 {
		w.ten(t)
	}
	w.left(t, "victim", true)
}
