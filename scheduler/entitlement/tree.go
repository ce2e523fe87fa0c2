package entitlement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Root is the name of the queue that all others are below.
const Root = "root"

// maxWeight is the largest weight of a queue, as in the Queue's schema.
const maxWeight = 65535

// Fault is what is wrong with a queue's declaration.
type Fault struct {
	Queue string
	// Reason is one word, Message one sentence for people.
	Reason, Message string
	// Stops says that gangs of the queue are not placed until it is mended. Other
	// faults are made good by taking less than was declared.
	Stops bool
}

// The reasons of faults.
const (
	ParentNotFound      = "ParentNotFound"
	ParentCycle         = "ParentCycle"
	BadHierarchy        = "BadHierarchy"
	GuaranteeAboveLimit = "GuaranteeAboveLimit" // more than the capability, of itself or of one above
	GuaranteeAboveTotal = "GuaranteeAboveTotal" // the queues below one are guaranteed more than there is for them
	DeservedAboveParent = "DeservedAboveParent" // the queues below one deserve more than it does
)

// build makes the tree. It fills queues, byName and faults.
func (l *Ledger) build(s *snapshot.Snapshot) {
	root := &Queue{Name: Root, Weight: 1, parent: -1}
	made := make([]Queue, len(s.Queues)) // in one piece
	l.queues = append(make([]*Queue, 0, len(made)+1), root)
	l.byName = make(map[string]int, len(made)+1)
	l.byName[Root] = 0
	for i, q := range s.Queues {
		if q.Name == Root {
			root.Spec = q
			continue
		}
		l.byName[q.Name] = len(l.queues)
		made[i] = Queue{Name: q.Name, Spec: q, Weight: min(max(q.Weight, 1), maxWeight), Priority: q.Priority}
		l.queues = append(l.queues, &made[i])
	}
	declared := len(l.queues)
	for i := 1; i < declared; i++ {
		l.queues[i].parent = l.parentOf(l.queues[i])
	}
	from := make([]int, len(l.queues))
	for i := 1; i < declared; i++ {
		l.breakCycle(i, from)
	}
	// Children follow in the order of their names.
	order := make([]int, 0, len(l.queues))
	for i := 1; i < len(l.queues); i++ {
		order = append(order, i)
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(l.queues[a].Name, l.queues[b].Name) })
	for _, i := range order {
		p := l.queues[l.queues[i].parent]
		p.children = append(p.children, i)
	}
	// A queue with others below it may have gangs of its own; they share with
	// those others as if they were in one more queue.
	for i, n := 0, len(l.queues); i < n; i++ {
		q := l.queues[i]
		q.home = i
		if len(q.children) == 0 || q.Spec == nil {
			continue
		}
		q.home = len(l.queues)
		q.children = append(q.children, q.home)
		l.queues = append(l.queues, &Queue{Name: q.Name, Spec: q.Spec, Weight: 1, Own: true, Priority: q.Priority, parent: i, home: q.home})
	}
	l.rank(0, 0)
}

// rank notes how deep each queue is and the order from the root down.
func (l *Ledger) rank(at, depth int) {
	l.queues[at].depth = depth
	l.down = append(l.down, at)
	for _, c := range l.queues[at].children {
		l.rank(c, depth+1)
	}
}

// parentOf finds or makes the queue above q.
func (l *Ledger) parentOf(q *Queue) int {
	switch {
	case l.options.Flat:
		return 0
	case q.Spec.Parent != "":
		if at, ok := l.byName[q.Spec.Parent]; ok {
			return at
		}
		l.fault(q, Fault{Reason: ParentNotFound, Stops: true, Message: fmt.Sprintf("queue %q: its parent %q does not exist", q.Name, q.Spec.Parent)})
	case l.options.Annotations && q.Spec.Hierarchy != "":
		at, err := l.annotated(q)
		if err == nil {
			return at
		}
		l.fault(q, Fault{Reason: BadHierarchy, Message: fmt.Sprintf("queue %q: %v; it is taken to be below %s", q.Name, err, Root)})
	}
	return 0
}

// maxDepth bounds the annotation's path.
const maxDepth = 64

// annotated reads Volcano's hierarchy annotations: the steps between the root and
// the queue are made where no queue of that path is there yet.
func (l *Ledger) annotated(q *Queue) (int, error) {
	steps := strings.Split(strings.Trim(q.Spec.Hierarchy, "/"), "/")
	weights := strings.Split(strings.Trim(q.Spec.HierarchyWeights, "/"), "/")
	switch {
	case steps[0] != Root:
		return 0, fmt.Errorf("its hierarchy %q does not begin with %s", q.Spec.Hierarchy, Root)
	case len(steps) > maxDepth:
		return 0, fmt.Errorf("its hierarchy has %d steps, at most %d are allowed", len(steps), maxDepth)
	case len(steps) != len(weights):
		return 0, fmt.Errorf("its hierarchy has %d steps and %d weights", len(steps), len(weights))
	}
	at := 0
	for i, step := range steps {
		w, err := strconv.ParseInt(weights[i], 10, 64)
		if err != nil || w < 1 || step == "" {
			return 0, fmt.Errorf("its hierarchy-weights %q are not whole numbers of at least 1, or a step of %q is empty", q.Spec.HierarchyWeights, q.Spec.Hierarchy)
		}
		w = min(w, maxWeight)
		switch {
		case i == 0:
		case i == len(steps)-1:
			q.Weight = w
		default:
			path := strings.Join(steps[:i+1], "/")
			next, ok := l.byName[path]
			if !ok { // a queue's name has no slash, so a path is never one
				next = len(l.queues)
				l.byName[path] = next
				l.queues = append(l.queues, &Queue{Name: path, Weight: w, parent: at})
			}
			at = next
		}
	}
	return at, nil
}

// breakCycle hangs every queue of a cycle below the root, if one leads to such a cycle. From
// has by queue from which one it was reached first, 0 for not yet: each is passed once.
func (l *Ledger) breakCycle(i int, from []int) {
	at := i
	for at > 0 && from[at] == 0 {
		from[at] = i
		at = l.queues[at].parent
	}
	if at <= 0 || from[at] != i {
		return // it leads to the root, as what was passed before does by now
	}
	// at is in the cycle, i perhaps only below it.
	ring := []int{at}
	for next := l.queues[at].parent; next != at; next = l.queues[next].parent {
		ring = append(ring, next)
	}
	first := slices.Index(ring, slices.Min(ring)) // the same words whoever finds it
	ring = append(ring[first:], ring[:first]...)
	names := make([]string, 0, len(ring)+1)
	for _, r := range append(ring, ring[0]) {
		names = append(names, l.queues[r].Name)
	}
	for _, r := range ring {
		q := l.queues[r]
		l.fault(q, Fault{Reason: ParentCycle, Stops: true, Message: fmt.Sprintf("queue %q: its parents go round in a circle: %s", q.Name, strings.Join(names, ", "))})
		q.parent = 0
	}
}

func (l *Ledger) fault(q *Queue, f Fault) {
	f.Queue = q.Name
	l.Faults = append(l.Faults, f)
	if f.Stops && q.stop == nil {
		q.stop = &f
	}
}

// limits sets floor and limit of every queue, from what is declared: bottom up
// what it is guaranteed, top down the most it can hold.
func (l *Ledger) limits() {
	n, next := l.dims.Len(), l.vectors(2*len(l.queues)+1)
	for _, i := range l.down {
		q := l.queues[i]
		q.Capability = next()
		for d := range q.Capability {
			q.Capability[d] = resource.Max
			if q.parent >= 0 {
				q.Capability[d] = l.queues[q.parent].Capability[d]
			} else {
				q.Capability[d] = l.total[d]
			}
		}
		q.Guarantee = next()
		if q.Spec == nil || q.Own {
			continue
		}
		for _, c := range q.Spec.Capability {
			if d, ok := l.dims.Index(c.Name); ok {
				if q.limits == nil {
					q.limits, q.binds = make([]bool, n), make([]bool, n)
				}
				most := max(c.Amount, 0)
				q.limits[d], q.binds[d] = true, most <= q.Capability[d]
				q.Capability[d] = min(q.Capability[d], most)
			}
		}
		for _, g := range q.Spec.Guarantee {
			if d, ok := l.dims.Index(g.Name); ok {
				q.Guarantee[d] = max(g.Amount, 0)
			}
		}
	}
	below := next()
	for _, i := range slices.Backward(l.down) {
		q := l.queues[i]
		clear(below)
		for _, c := range q.children {
			below.AddScaled(l.queues[c].Guarantee, 1)
		}
		for d := range q.Guarantee {
			q.Guarantee[d] = max(q.Guarantee[d], below[d])
			if q.Guarantee[d] <= q.Capability[d] {
				continue
			}
			if own := q.Spec != nil && q.Spec.Guarantee.Get(l.dims.Name(d)) > q.Capability[d]; own {
				l.fault(q, Fault{Reason: GuaranteeAboveLimit, Message: fmt.Sprintf("queue %q is guaranteed %s of %s and can hold at most %s", q.Name, plan.Amount(l.dims.Name(d), q.Guarantee[d]), l.dims.Name(d), plan.Amount(l.dims.Name(d), q.Capability[d]))})
			}
			q.Guarantee[d] = q.Capability[d]
		}
	}
	// What the queues below one are guaranteed has to fit into what it has.
	for _, i := range l.down {
		q := l.queues[i]
		if len(q.children) == 0 {
			continue
		}
		for d := range n {
			var sum int64
			for _, c := range q.children {
				sum = resource.Add(sum, l.queues[c].Guarantee[d])
			}
			if sum <= q.Guarantee[d] {
				continue
			}
			l.fault(q, Fault{Reason: GuaranteeAboveTotal, Message: fmt.Sprintf("the queues below %q are guaranteed %s of %s in sum and there is %s for them: each gets its part of that", q.Name, plan.Amount(l.dims.Name(d), sum), l.dims.Name(d), plan.Amount(l.dims.Name(d), q.Guarantee[d]))})
			for _, c := range q.children {
				l.queues[c].Guarantee[d] = resource.Part(l.queues[c].Guarantee[d], q.Guarantee[d], sum)
			}
		}
	}
}
