package cache

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// podEntry is a pod as far as scheduling sees it.
type podEntry struct {
	pod      snapshot.Pod // as the API says; Class is unset
	class    string       // see visible
	spec     snapshot.ClassSpec
	known    *known // the spec, once the class is known
	gang     string // "" when the pod is not ours
	stand    standing
	priority int32
	patient  bool
	job      string // UID of the Job that makes it anew under its name, "" for none
	// estimate is how long the pod runs, and who says so.
	estimate     int64
	estimateFrom string

	past   history
	handed handed
	// bound is when the pod got its node, in nanoseconds since 1970; 0 before. The API
	// tells it in whole seconds.
	bound int64
	// reads names datasets.
	reads []string
	// images are those of its containers; pictured says that its class has them.
	images   []string
	pictured bool

	labels                  map[string]string
	waitReason, waitMessage string // the PodScheduled=False condition shown now

	on string // the node entry this pod is linked to
}

// standing is a gang as one of its pods has it, when there is no PodGroup object.
type standing struct {
	uid, namespace, name, queue string
	plain, native, absent       bool
	createdAt, waitAtMost       int64 // as in snapshot.GangSpec
}

// standing is the gang that the pod speaks for.
func (e *podEntry) standing() snapshot.GangSpec {
	s := &e.stand
	return snapshot.GangSpec{
		Key: e.gang, UID: s.uid, Namespace: s.namespace, Name: s.name, Plain: s.plain, Native: s.native, Absent: s.absent,
		Queue: s.queue, CreatedAt: s.createdAt, MinMember: 1, WaitAtMost: s.waitAtMost,
	}
}

// equal reports whether two entries say the same. Where the pod is linked to is no part of
// that; that the classes are the same says that the needs are.
func (e *podEntry) equal(o *podEntry) bool {
	return e.pod.Phase == o.pod.Phase && e.bound == o.bound && e.waitReason == o.waitReason && e.waitMessage == o.waitMessage &&
		e.pod.StartedAt == o.pod.StartedAt && e.pod.Assumed == o.pod.Assumed && e.needsEqual(o, &e.pod)
}

// needsEqual reports whether two entries, the first with another seat, say the same but for
// what equal looks at itself.
func (e *podEntry) needsEqual(o *podEntry, seat *snapshot.Pod) bool {
	return e.class == o.class && e.gang == o.gang && e.stand == o.stand && e.priority == o.priority && e.patient == o.patient &&
		e.job == o.job && e.estimate == o.estimate && e.estimateFrom == o.estimateFrom && e.past == o.past && e.handed == o.handed &&
		e.pictured == o.pictured && seat.SameBut(&o.pod) && slices.Equal(e.reads, o.reads) && slices.Equal(e.images, o.images) &&
		maps.Equal(e.labels, o.labels)
}

// SetPod takes in a pod of any scheduler.
func (c *Cache) SetPod(p *corev1.Pod) { c.setPod(p, false) }

// Correct takes in a pod that was read beside the watch, unless the watch has told
// meanwhile that it is gone.
func (c *Cache) Correct(p *corev1.Pod) { c.setPod(p, true) }

func (c *Cache) setPod(p *corev1.Pod, known bool) {
	e := newPodEntry(p, c.ours(p))
	c.mu.Lock()
	defer c.mu.Unlock()
	if known && c.pods[e.pod.UID] == nil {
		return
	}
	if e.gang == "" {
		c.noteStranger(p)
	}
	c.learn(e)
	c.ask(e)
	c.visible(e)
	old := c.pods[e.pod.UID]
	if old != nil && old.equal(e) {
		return
	}
	little := old != nil && c.little(old, e)
	var kept *snapshot.Node // what a node holds does not depend on whether its pods' bindings are confirmed
	if little && old.on != "" && (old.pod.Phase == snapshot.PodRunning) == (e.pod.Phase == snapshot.PodRunning) {
		kept = c.nodes[old.on].snap
	}
	if e.pod.Node != "" || e.pod.Terminal() {
		c.unassume(e.pod.UID) // the watch tells the truth now
	}
	if g := c.gangs[e.gang]; old == nil && e.gang != "" && e.pod.Node == "" && g != nil && g.group != nil && c.Created != nil {
		c.Created(p.CreationTimestamp.Sub(time.Unix(0, g.group.CreatedAt)))
	}
	c.unlink(old)
	c.claimant(old, -1)
	c.claimant(e, 1)
	c.pods[e.pod.UID] = e
	c.link(e)
	if kept != nil {
		c.nodes[e.on].snap = kept
	}
	if little {
		c.signalLater()
	} else {
		c.signal()
	}
}

// DeletePod forgets a pod.
func (c *Cache) DeletePod(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods[uid]
	if old == nil {
		return
	}
	c.forgetStranger(uid)
	c.unlink(old)
	c.claimant(old, -1)
	delete(c.pods, uid)
	c.unassume(uid)
	delete(c.evictions, uid)
	c.signal()
}

// Pod returns the placement of a pod, assumptions included, and whether it exists.
func (c *Cache) Pod(uid string) (snapshot.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return c.seat(e), true
	}
	return snapshot.Pod{}, false
}

// Displayed is what a pod's PodScheduled condition says of why it waits.
func (c *Cache) Displayed(uid string) (reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return e.waitReason, e.waitMessage
	}
	return "", ""
}

// seat is the pod's node and placement with the assumption applied.
func (c *Cache) seat(e *podEntry) snapshot.Pod {
	p := e.pod
	if a, ok := c.assumed[p.UID]; ok && p.Node == "" {
		p.Node, p.Attempt, p.Size, p.Rank, p.Devices, p.Cells, p.Assumed = a.Node, a.Attempt, a.Size, a.Rank, a.Devices, a.Cells, true
	}
	if ev, ok := c.evictions[p.UID]; ok {
		if ev.spared == "" {
			p.Terminating = true
		} else if p.Protected == "" {
			p.Protected = ev.spared
		}
	}
	return p
}

func (c *Cache) link(e *podEntry) {
	c.claimed.idle.seated(e.pod.UID)
	if p := c.seat(e); p.Node != "" && !p.Terminal() {
		e.on = p.Node
		n := c.node(e.on)
		n.pods[p.UID], n.snap = e, nil
	}
	if e.isUndue() {
		c.setUndue(e, true)
	}
	if e.gang != "" {
		g := c.gang(e.gang)
		g.pods[e.pod.UID], g.snap = e, nil
	}
}

func (c *Cache) unlink(e *podEntry) {
	if e == nil {
		return
	}
	if e.on != "" {
		n := c.node(e.on)
		delete(n.pods, e.pod.UID)
		n.snap = nil
		if n.spec == nil && len(n.pods) == 0 {
			delete(c.nodes, e.on)
		}
		e.on = ""
	}
	if e.isUndue() {
		c.setUndue(e, false)
	}
	if e.gang != "" {
		g := c.gang(e.gang)
		delete(g.pods, e.pod.UID)
		g.snap = nil
		if g.group == nil && len(g.pods) == 0 {
			c.forgetGang(g)
		}
	}
}

func (c *Cache) touch(e *podEntry) {
	c.claimed.idle.seated(e.pod.UID)
	if e.gang != "" {
		c.gang(e.gang).snap = nil
	}
	if n := c.nodes[e.on]; n != nil && !c.sights.none() { // who goes counts for less there
		n.snap = nil
	}
}
