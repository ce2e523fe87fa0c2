package cache

import (
	"fmt"
	"maps"
	"slices"
	"time"

	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Snapshot returns the present state; it is immutable and the cache's work goes
// on beside it.
func (c *Cache) Snapshot(now time.Time) *snapshot.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dims == nil || len(c.classes) > 2*len(c.pods)+1024 {
		c.recompile()
	}
	c.forgetSelectors()
	c.lookAnew()
	c.expireEvictions(now)
	c.sole = c.sole || !c.inherits.IsZero() && now.After(c.inherits)
	c.forgetImages()
	nodes := make([]*snapshot.Node, 0, len(c.nodes))
	for _, e := range c.ordered() {
		if e.snap == nil {
			e.snap = snapshot.NewNode(c.withImages(c.withNUMA(*e.spec), e), c.residents(e), c.dims)
		}
		nodes = append(nodes, e.snap)
	}
	gangs := make([]*snapshot.Gang, 0, len(c.gangs))
	for _, e := range c.byKey.list() {
		c.awaitGroup(e, now)
		if e.out.of(e, now) {
			continue
		}
		if e.hold != "" && !now.Before(e.until) {
			e.hold, e.code, e.snap = "", "", nil
		}
		if e.snap == nil {
			e.snap = c.compileGang(e.key, e, now)
		}
		gangs = append(gangs, e.snap)
	}
	s := c.lineage.Assemble(c.dims, nodes, gangs, slices.Collect(maps.Values(c.queues)))
	s.SetBudgets(c.allBudgets())
	s.SetReservations(c.allReservations())
	s.Loads, s.Opinions, s.Rounds, s.Turns = c.loads, c.opinions, c.rounds, c.turns
	s.SetQuotas(c.allQuotas())
	s.Usage = c.usage()
	s.Claims = c.world()
	s.Namespaces = c.namespaceLabels()
	return c.topology(s)
}

// recompile starts over with the table of names and the classes.
func (c *Cache) recompile() {
	var specs []snapshot.NodeSpec
	for _, e := range c.nodes {
		e.snap = nil
		if e.spec != nil {
			specs = append(specs, *e.spec)
		}
	}
	for _, g := range c.gangs {
		g.snap = nil
	}
	c.dims = snapshot.DimsOf(specs)
	c.classes = map[string]*snapshot.Class{}
	c.era++
}

func (c *Cache) residents(n *nodeEntry) []snapshot.Resident {
	out := make([]snapshot.Resident, 0, len(n.pods))
	for uid, e := range n.pods {
		p := c.seat(e)
		out = append(out, snapshot.Resident{UID: uid, Class: c.class(e), Job: p.Job(e.gang), Devices: p.Devices, Cells: p.Cells, Running: p.Phase == snapshot.PodRunning, Leaving: p.Terminating})
	}
	return out
}

// class is what scheduling sees of a pod's needs, its queue's included.
func (c *Cache) class(e *podEntry) *snapshot.Class {
	groups := c.groupsOf(e)
	k := e.known
	if k.class != nil && k.era == c.era && k.groups == groups {
		return k.class
	}
	key := e.class
	if groups != nil {
		key = fmt.Sprintf("%s\n%q", key, *groups)
	}
	cl := c.classes[key]
	if cl == nil {
		spec := e.spec
		spec.Groups = groups
		if groups != nil {
			cl = snapshot.NewClass(spec, spec.Key(), c.dims)
		} else {
			cl = snapshot.NewClass(spec, key, c.dims)
		}
		c.classes[key] = cl
	}
	k.class, k.groups, k.era = cl, groups, c.era
	return cl
}

// groupsOf are the node groups of the queue that a pod is in, nil for none.
func (c *Cache) groupsOf(e *podEntry) *snapshot.NodeGroups {
	if e.gang == "" {
		return nil
	}
	name := e.stand.queue
	if g := c.gangs[e.gang]; g != nil && g.group != nil {
		name = firstOf(g.group.Queue, name)
	}
	if q := c.queues[name]; q != nil {
		return q.Groups
	}
	return nil
}

func (c *Cache) compileGang(key string, e *gangEntry, now time.Time) *snapshot.Gang {
	pods := make([]*snapshot.Pod, 0, len(e.pods))
	var priority int32 // of the most urgent pod; it may be below zero
	patient, acts := e.group != nil && e.group.patient, c.actsOnEviction(e) || e.group != nil && e.group.whole
	for _, pe := range e.pods {
		p := c.seat(pe)
		p.Class = c.class(pe)
		p.Budgets = c.budgetsOf(pe)
		if e.group != nil && e.group.protected != "" && p.Protected == "" {
			p.Protected = e.group.protected
		}
		if c.guarded != "" && len(p.Budgets) > 0 && p.Protected == "" {
			p.Protected = c.guarded
		}
		p.Picked = c.picked(pe)
		p.Movable = p.Protected == "" && (p.Movable || pe.job != "" && e.group != nil && e.group.yields) && !acts
		if len(pods) == 0 || pe.priority > priority {
			priority = pe.priority
		}
		pods = append(pods, &p)
		patient = patient || pe.patient
	}
	spec := snapshot.GangSpec{Key: key}
	switch {
	case e.group != nil:
		spec = e.group.GangSpec
		spec.Priority = c.priorityOf(e.group, priority, len(pods) > 0)
		if spec.Queue == "" {
			spec.Queue = firstOf(e.ofPods().Queue, volcanov1.DefaultQueue)
		}
		if len(e.group.policies) > 0 {
			assign(e.group.policies, pods, func(uid string) map[string]string { return e.pods[uid].labels })
		}
		if e.written != nil {
			spec.Status = *e.written
		}
	case len(e.pods) > 0:
		spec = e.ofPods()
		spec.Priority = priority
	}
	e.noteGrowth(now)
	spec.GrewAt, spec.ActsOnEviction = e.grew, acts
	spec.Hold, spec.HoldCode, spec.Patient, spec.Data = e.hold, e.code, patient, c.dataOf(spec.Namespace, e)
	spec.Nominated, spec.Inherited = e.nomination(spec.Nominated)
	spec.Strangers = c.strangersOf(key)
	estimated(&spec, e.pods)
	named := ""
	if e.group != nil {
		named = e.group.estimateKey
	}
	c.learnFrom(&spec, named, e.pods)
	g := snapshot.NewGang(spec, pods, c.dims)
	e.noteUsed(g)
	e.noteShort(g, now)
	return g
}
