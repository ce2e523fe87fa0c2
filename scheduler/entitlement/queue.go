package entitlement

import (
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Queue is a queue in the tree. Fields are read only.
type Queue struct {
	Name string
	// Spec is nil for the root where no such queue exists, and for a step of a
	// hierarchy annotation.
	Spec     *snapshot.Queue
	Weight   int64
	Priority int32
	// Own stands for the gangs of a queue that has queues below it.
	Own bool

	// Guarantee <= Deserved <= Capability; no resource is unlimited, since the
	// root has what the cluster has.
	Guarantee, Deserved, Capability resource.Vector
	// Held is what the gangs of the queue and of those below hold, with this
	// cycle's placements. Wanted is what their other pods ask for beside that.
	Held, Wanted resource.Vector

	below    *guarantees // of the queues right below, nil for none
	parent   int
	children []int
	home     int    // where its own gangs are counted
	depth    int    // how many are above it
	limits   []bool // the resources that its own capability names; nil for none
	binds    []bool // those of them that it bounds closer than those above and what there is
	counts   []bool // see Counts; nil for all
	total    resource.Vector
	stop     *Fault
}

// Counts reports whether a resource has a say in what the queue deserves. Where queues
// declare what they deserve only what one of them declares does: of anything else, such
// as pods, nobody deserves more or less than another.
func (q *Queue) Counts(dim int) bool { return q.counts == nil || q.counts[dim] }

// Root reports whether all others are below it.
func (q *Queue) Root() bool { return q.parent < 0 }

// Reclaimable reports whether others may take what the queue holds beyond what
// it deserves.
func (q *Queue) Reclaimable() bool { return q.Spec == nil || !q.Spec.Unreclaimable }

// Leaf reports whether no queue is below it.
func (q *Queue) Leaf() bool { return len(q.children) == 0 }

// Excess is what the queue holds beyond what it deserves, never negative.
func (q *Queue) Excess() resource.Vector {
	out := make(resource.Vector, len(q.Held))
	for d, a := range q.Held {
		if q.Counts(d) {
			out[d] = max(resource.Sub(a, q.Deserved[d]), 0)
		}
	}
	return out
}

// Limits reports whether the queue's own capability, and not only what there is,
// bounds a resource.
func (q *Queue) Limits(dim int) bool { return q.limits != nil && q.limits[dim] }

// Binds reports whether the queue's own capability is what bounds a resource: where
// more is declared than there is, it is not the queue that stands against a gang.
func (q *Queue) Binds(dim int) bool { return q.binds != nil && q.binds[dim] }

// Over reports whether the queue holds more than it deserves of some resource.
func (q *Queue) Over() bool {
	for d, a := range q.Held {
		if a > q.Deserved[d] && q.Counts(d) {
			return true
		}
	}
	return false
}

// Share is the largest part that the queue holds of what it deserves, in any
// resource that counts, in units of 1/resource.ShareUnit.
func (q *Queue) Share() (most int64) {
	for d, a := range q.Held {
		if a > 0 && q.Counts(d) {
			most = max(most, resource.Share(a, q.Deserved[d]))
		}
	}
	return most
}

// Part is the largest part that the queue holds of what there is, in any resource, in the
// same units.
func (q *Queue) Part() int64 {
	most, _ := q.Held.Dominant(q.total)
	return most
}
