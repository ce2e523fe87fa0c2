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

// place is where a gang is bound, how many pods it has, and what a scheduler
// knows it by (hostshape.Tag).
type place struct {
	node string
	pods int
	tags []string
}

// locate remembers where the gangs are, so that what waits can be counted.
func (b *Bridge) locate(gangs []lifecycle.Gang, index map[string]*corev1.Pod) {
	places := make(map[backends.Key]place, len(gangs))
	for _, g := range gangs {
		at := place{pods: len(g.Members)}
		for _, m := range g.Members {
			p := index[m.UID]
			if p == nil {
				continue
			}
			at.node = p.Spec.NodeName
			if m.Attempt != "" { // all members have the one
				at.tags = []string{hostshape.Tag(p.Annotations[wellknown.GangAttempt])}
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
}

// waitingPods counts, by node, the pods whose jobs wait in the batch queue: as
// observed, or as admitted since. The lock must be held.
func (b *Bridge) waitingPods() map[string]int {
	out := map[string]int{}
	for key, at := range b.places {
		if since, ok := b.queued[key]; ok && since >= b.view.Seq {
			out[at.node] += at.pods // the last observation began before
			continue
		}
		for _, j := range b.view.Jobs[key] {
			if j.State == backends.StatePending {
				out[at.node] += at.pods
				break
			}
		}
	}
	return out
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
	if n := b.waitingPods()[node]; n > 0 && n+len(g.Members) > limit {
		// Without the number that waits now: each new text would be an event.
		return &waiting{queueFull, fmt.Sprintf("node %s has as many pods in the batch queue as it may (maxPodsPending %d); this one follows when they have started", node, limit)}
	}
	b.queued[g.Key] = b.obsSeq
	return nil
}

// expel takes back an admission whose job did not come to be.
func (b *Bridge) expel(key backends.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.queued, key)
}
