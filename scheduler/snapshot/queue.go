package snapshot

import "github.com/isthmus-hpc/isthmus/scheduler/resource"

// The states of a queue, as Volcano spells them.
const (
	QueueOpen    = "Open"
	QueueClosing = "Closing"
	QueueClosed  = "Closed"
)

// DequeueFIFO is the strategy under which nobody passes the first gang of a
// queue that does not fit; under any other the queue is gone through.
const DequeueFIFO = "fifo"

// Queue is a queue of gangs.
type Queue struct {
	Name     string `json:"name"`
	UID      string `json:"uid,omitempty"`
	Weight   int64  `json:"weight"`
	Priority int32  `json:"priority,omitempty"`
	// State is Open, Closed, Closing or Unknown; "" is a queue whose status
	// nobody has written yet, which is open.
	State string `json:"state,omitempty"`
	// Parent is the queue above; "" is the root.
	Parent string `json:"parent,omitempty"`
	// Capability is the most that the queue and those below may hold; a resource
	// that it does not name is not limited.
	Capability resource.List `json:"capability,omitempty"`
	// Deserved is the part that is its own when others want it too. Guarantee is
	// kept for it even while it does not use it.
	Deserved  resource.List `json:"deserved,omitempty"`
	Guarantee resource.List `json:"guarantee,omitempty"`
	// Unreclaimable queues keep what they hold beyond what they deserve.
	Unreclaimable bool `json:"unreclaimable,omitempty"`
	// Dequeue is DequeueFIFO or anything else.
	Dequeue string `json:"dequeue,omitempty"`
	// Groups say on which nodes the queue's pods go; nil is anywhere.
	Groups *NodeGroups `json:"groups,omitempty"`
	// Hierarchy and HierarchyWeights are Volcano's annotations of these names: a
	// path from the root and a weight for each step, divided by slashes.
	Hierarchy        string `json:"hierarchy,omitempty"`
	HierarchyWeights string `json:"hierarchyWeights,omitempty"`
}

// NodeGroups are names of node groups: values of the node label
// volcano.sh/nodegroup-name.
type NodeGroups struct {
	Required      []string `json:"required,omitempty"` // only there
	Preferred     []string `json:"preferred,omitempty"`
	Forbidden     []string `json:"forbidden,omitempty"` // never there
	PreferredAway []string `json:"preferredAway,omitempty"`
}

// Open reports whether the queue lets gangs in.
func (q *Queue) Open() bool { return q.State == "" || q.State == QueueOpen }

// Serves reports whether gangs that were let in are placed: while the queue is
// closing they still are, or it would never come to be closed.
func (q *Queue) Serves() bool { return q.Open() || q.State == QueueClosing }
