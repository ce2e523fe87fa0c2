package provider

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

// queueFull is the reason of pods that the node's limit keeps out of the batch
// queue.
const queueFull = "BatchQueueFull"

// place is where a gang is bound and from where, how many pods it has, and what a
// scheduler knows it by (hostshape.Tag), and the Reservation that it was placed by.
type place struct {
	node, tenant string
	pods         int
	tags         []string
	reservation  string
}

// tenant is whom a gang belongs to: its namespace.
func tenant(g lifecycle.Gang) string {
	if len(g.Members) == 0 {
		return ""
	}
	return g.Members[0].Namespace
}

// inTurns orders gangs so that the namespaces take turns, and those of each stay
// in order: one that floods is not worked on before all others.
func inTurns(gangs []lifecycle.Gang) []lifecycle.Gang {
	var tenants []string
	of := map[string][]lifecycle.Gang{}
	for _, g := range gangs {
		name := tenant(g)
		if len(of[name]) == 0 {
			tenants = append(tenants, name)
		}
		of[name] = append(of[name], g)
	}
	if len(tenants) < 2 {
		return gangs
	}
	out := make([]lifecycle.Gang, 0, len(gangs))
	for turn := 0; len(out) < len(gangs); turn++ {
		for _, name := range tenants {
			if turn < len(of[name]) {
				out = append(out, of[name][turn])
			}
		}
	}
	return out
}

// locate remembers where the gangs are, so that what waits can be counted.
func (b *Bridge) locate(gangs []lifecycle.Gang, index map[string]*corev1.Pod) {
	places := make(map[backends.Key]place, len(gangs))
	for _, g := range gangs {
		at := place{pods: len(g.Members), tenant: tenant(g)}
		for _, m := range g.Members {
			p := index[m.UID]
			if p == nil {
				continue
			}
			at.node, at.reservation = p.Spec.NodeName, p.Annotations[wellknown.ReservedBy]
			if attempt := p.Annotations[wellknown.GangAttempt]; m.Attempt != "" && attempt != "" { // all members have the one
				at.tags = []string{hostshape.Tag(attempt)}
				break
			}
			at.tags = append(at.tags, hostshape.Tag(m.UID))
		}
		if at.node != "" {
			places[g.Key] = at
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.places = places
	for key := range b.queued {
		if _, ok := places[key]; !ok {
			delete(b.queued, key)
		}
	}
	for key := range b.kept {
		if _, ok := places[key]; !ok {
			delete(b.kept, key)
		}
	}
}

// waitingPods counts the pods of a node, and those of each namespace, whose jobs
// wait in the batch queue: as observed, or as admitted since. The lock must be held.
func (b *Bridge) waitingPods(node string) (all int, byTenant map[string]int) {
	byTenant = map[string]int{}
	add := func(at place) {
		all += at.pods
		byTenant[at.tenant] += at.pods
	}
	for key, at := range b.places {
		if at.node != node {
			continue
		}
		if since, ok := b.queued[key]; ok && since >= b.view.Seq {
			add(at) // the last observation began before
			continue
		}
		for _, j := range b.view.Jobs[key] {
			if j.State == backends.StatePending {
				add(at)
				break
			}
		}
	}
	return all, byTenant
}

// behind reports whether another namespace is kept out of a node's queue that has
// less in it: what becomes free is for the one that has the least. The lock must
// be held.
func (b *Bridge) behind(at place, have map[string]int) bool {
	for _, other := range b.kept {
		if other.node == at.node && other.tenant != at.tenant && have[other.tenant] < have[at.tenant] {
			return true
		}
	}
	return false
}

// admit lets the gang into the batch queue, whole, or keeps it waiting in
// Kubernetes, whole, while as many pods wait there as the node may have. A gang
// that is larger than the limit goes in when nothing else waits.
func (b *Bridge) admit(g *lifecycle.Gang, pods map[string]*corev1.Pod) error {
	node := ""
	for _, m := range g.Members {
		if p := pods[m.UID]; p != nil {
			node = p.Spec.NodeName
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := int(b.vnodes[node].MaxPodsPending)
	if _, in := b.queued[g.Key]; in || limit == 0 {
		return nil
	}
	at := place{node: node, tenant: tenant(*g), pods: len(g.Members)}
	if n, have := b.waitingPods(node); n > 0 && (n+len(g.Members) > limit || b.behind(at, have)) {
		b.kept[g.Key] = at
		// Without the number that waits now: each new text would be an event.
		return &waiting{queueFull, fmt.Sprintf("node %s has as many pods in the batch queue as it may (maxPodsPending %d); this one follows when they have started", node, limit)}
	}
	delete(b.kept, g.Key)
	b.queued[g.Key] = b.obsSeq
	return nil
}

// expel takes back an admission whose job did not come to be.
func (b *Bridge) expel(key backends.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.queued, key)
}
