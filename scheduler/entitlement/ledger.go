package entitlement

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Mode says what a queue deserves.
type Mode int

// The modes, each the meaning of one of Volcano's plugins.
const (
	// ByWeight (proportion) shares everything by weight, each queue getting what
	// it wants at most: what one does not want goes to the others.
	ByWeight Mode = iota
	// Declared (capacity) takes what the queues declare. A queue may hold more
	// while nobody else wants it, and what it holds beyond can be reclaimed.
	Declared
)

// Options are the choices that a configuration makes.
type Options struct {
	Mode Mode
	// Annotations takes Volcano's hierarchy annotations of queues without parent.
	Annotations bool
	// Flat has all queues below the root, whatever they say of their parents.
	Flat bool
	// Levels is how many of the queues above a queue it takes and gives by when one
	// reclaims from another, besides its own; nil is all of them.
	Levels *int64
}

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

	parent   int
	children []int
	home     int    // where its own gangs are counted
	path     []int  // from the root to itself
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

// Ledger is the tree with what everybody holds. It is for one goroutine.
type Ledger struct {
	// Faults are what is wrong with the queues' declarations, in order of name.
	Faults []Fault

	options Options
	dims    *resource.Dims
	total   resource.Vector
	queues  []*Queue
	down    []int // from the root down, parents before children
	byName  map[string]int
}

// New makes the ledger of a snapshot.
func New(s *snapshot.Snapshot, o Options) *Ledger {
	l := &Ledger{options: o, dims: s.Dims, total: available(s)}
	l.build(s)
	l.limits()
	n := s.Dims.Len()
	counts := l.counts(s)
	for _, q := range l.queues {
		q.Held, q.Wanted, q.counts, q.total = make(resource.Vector, n), make(resource.Vector, n), counts, l.total
	}
	for _, g := range s.Gangs {
		i, ok := l.byName[g.Queue]
		if !ok {
			continue
		}
		home := l.queues[l.queues[i].home]
		home.Held.AddScaled(g.Held, 1)
		home.Wanted.AddScaled(g.Wants, 1)
	}
	for _, i := range slices.Backward(l.down) {
		if q := l.queues[i]; q.parent >= 0 {
			l.queues[q.parent].Held.AddScaled(q.Held, 1)
			l.queues[q.parent].Wanted.AddScaled(q.Wanted, 1)
		}
	}
	l.share()
	slices.SortStableFunc(l.Faults, func(a, b Fault) int { return compareStrings(a.Queue, b.Queue, a.Message, b.Message) })
	return l
}

// counts are the resources that some queue declares to deserve, or to be guaranteed; nil
// is all, where what is deserved is no matter of what is declared.
func (l *Ledger) counts(s *snapshot.Snapshot) []bool {
	if l.options.Mode != Declared {
		return nil
	}
	out := make([]bool, s.Dims.Len())
	for _, q := range s.Queues {
		for _, a := range slices.Concat(q.Deserved, q.Guarantee) {
			if d, ok := s.Dims.Index(a.Name); ok && a.Amount > 0 {
				out[d] = true
			}
		}
	}
	return out
}

func compareStrings(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		switch {
		case pairs[i] < pairs[i+1]:
			return -1
		case pairs[i] > pairs[i+1]:
			return 1
		}
	}
	return 0
}

// available is what there is for the queues: everything without what pods of other
// schedulers hold, and without what is free on nodes where nobody can be placed now.
// What runs there counts: it is held. With it a queue would deserve what nobody can
// have, and another that holds all that works would have nothing beyond its part.
func available(s *snapshot.Snapshot) resource.Vector {
	out := s.Total.Clone()
	for _, n := range s.Nodes {
		out.SubScaled(n.Used(), 1)
		if !n.Takes() {
			for d, a := range n.Total {
				out[d] = resource.Sub(out[d], max(resource.Sub(a, n.Used()[d]), 0))
			}
		}
	}
	for _, g := range s.Gangs {
		out.AddScaled(g.Held, 1)
	}
	for d := range out {
		out[d] = min(max(out[d], 0), s.Total[d])
	}
	return out
}

// share works out what everybody deserves, from the root down.
func (l *Ledger) share() {
	n := l.dims.Len()
	root := l.queues[0]
	for _, q := range l.queues {
		q.Deserved = make(resource.Vector, n)
	}
	want := make([]resource.Vector, len(l.queues))
	for _, i := range slices.Backward(l.down) {
		want[i] = l.want(l.queues[i], want)
	}
	copy(root.Deserved, want[0])
	if l.options.Mode == Declared {
		copy(root.Deserved, root.Capability)
	}
	var basins []basin
	for _, i := range l.down {
		q := l.queues[i]
		if len(q.children) == 0 {
			continue
		}
		for d := range n {
			basins = basins[:0]
			var sum int64
			for _, c := range q.children {
				child := l.queues[c]
				b := basin{weight: child.Weight, low: child.Guarantee[d], high: want[c][d]}
				if l.options.Mode == Declared {
					b.weight = b.high - b.low
				}
				sum = resource.Add(sum, b.high)
				basins = append(basins, b)
			}
			if l.options.Mode == Declared && sum > q.Deserved[d] {
				l.fault(q, Fault{Reason: DeservedAboveParent, Message: fmt.Sprintf("the queues below %q deserve %s of %s in sum and there is %s for them: each gets its part of that",
					q.Name, plan.Amount(l.dims.Name(d), sum), l.dims.Name(d), plan.Amount(l.dims.Name(d), q.Deserved[d]))})
			}
			fill(q.Deserved[d], basins)
			for k, c := range q.children {
				l.queues[c].Deserved[d] = basins[k].got
			}
		}
	}
}

// want is the most that a queue is given: by weight, what it and those below hold
// and ask for; else what is declared. It is at least the guarantee and at most
// the capability.
func (l *Ledger) want(q *Queue, below []resource.Vector) resource.Vector {
	out := make(resource.Vector, l.dims.Len())
	switch {
	case l.options.Mode == ByWeight && q.Leaf():
		out.AddScaled(q.Held, 1)
		out.AddScaled(q.Wanted, 1)
	default:
		for _, c := range q.children {
			out.AddScaled(below[c], 1)
		}
	}
	if l.options.Mode == Declared && q.Spec != nil && !q.Own {
		for _, a := range q.Spec.Deserved {
			if d, ok := l.dims.Index(a.Name); ok {
				out[d] = a.Amount
			}
		}
	}
	for d := range out {
		out[d] = min(max(out[d], q.Guarantee[d]), q.Capability[d])
	}
	return out
}

// Queue returns a queue by name, with all that is below it; nil when there is none.
func (l *Ledger) Queue(name string) *Queue {
	if i, ok := l.byName[name]; ok {
		return l.queues[i]
	}
	return nil
}

// Queues returns all queues in the order of the tree: parents before children,
// children by name. Those that are Own are among them.
func (l *Ledger) Queues() []*Queue {
	out := make([]*Queue, len(l.down))
	for k, i := range l.down {
		out[k] = l.queues[i]
	}
	return out
}

// Below returns the queues right below one, by name, its Own last.
func (l *Ledger) Below(q *Queue) []*Queue {
	out := make([]*Queue, 0, len(q.children))
	for _, c := range q.children {
		out = append(out, l.queues[c])
	}
	return out
}

// Stopped returns why gangs of a queue must not be placed, nil when they may: a
// fault of its own or of a queue above it.
func (l *Ledger) Stopped(queue string) *Fault {
	q := l.Queue(queue)
	if q == nil {
		return nil
	}
	for _, i := range q.path {
		if f := l.queues[i].stop; f != nil {
			return f
		}
	}
	return nil
}

// Above returns the queues from the root's child down to the one where the gangs
// of a queue are counted; nil when there is no such queue.
func (l *Ledger) Above(queue string) []*Queue {
	i, ok := l.byName[queue]
	if !ok {
		return nil
	}
	var out []*Queue
	for _, at := range l.queues[l.queues[i].home].path[1:] {
		out = append(out, l.queues[at])
	}
	return out
}

// Branches returns where the ways from the root to two queues part: the two
// queues, children of one, through which they go. They are the same when the two
// queues are; nil when one of them does not exist.
func (l *Ledger) Branches(a, b string) (x, y *Queue) {
	i, okA := l.byName[a]
	j, okB := l.byName[b]
	if !okA || !okB {
		return nil, nil
	}
	pa, pb := l.queues[l.queues[i].home].path, l.queues[l.queues[j].home].path
	k := 0
	for k+1 < len(pa) && k+1 < len(pb) && pa[k] == pb[k] {
		k++
	}
	return l.queues[pa[k]], l.queues[pb[k]]
}

// Take counts n times v as held by a gang of a queue; a queue that does not exist
// holds nothing.
func (l *Ledger) Take(queue string, v resource.Vector, n int64) {
	if i, ok := l.byName[queue]; ok {
		for _, at := range l.queues[l.queues[i].home].path {
			l.queues[at].Held.AddScaled(v, n)
		}
	}
}

// Give undoes Take.
func (l *Ledger) Give(queue string, v resource.Vector, n int64) { l.Take(queue, v, -n) }

// Fork returns a ledger that starts as this one is and counts for itself from
// then on, for a what-if. What is deserved stays as it is.
func (l *Ledger) Fork() *Ledger {
	out := *l
	out.queues = make([]*Queue, len(l.queues))
	for i, q := range l.queues {
		c := *q
		c.Held = q.Held.Clone()
		out.queues[i] = &c
	}
	return &out
}

// Refusal is why a queue may not take more.
type Refusal struct {
	// Queue is the one whose limit stands against it: the gang's or one above.
	Queue    string
	Resource string
	// Need is what is asked for, Held what the queue holds and Limit the most it can.
	Need, Held, Limit int64
	// For names the queue for whose guarantee the rest is kept; "" when the limit
	// is the queue's capability.
	For string
}

// Words says the refusal in one sentence.
func (r *Refusal) Words() string {
	a := func(v int64) string { return plan.Amount(r.Resource, v) }
	if r.For != "" {
		return fmt.Sprintf("queue %q holds %s of %s and %s are left for it, the rest is guaranteed to %q; the gang needs %s",
			r.Queue, a(r.Held), r.Resource, a(max(resource.Sub(r.Limit, r.Held), 0)), r.For, a(r.Need))
	}
	return fmt.Sprintf("queue %q may hold %s %s and holds %s; the gang needs %s", r.Queue, a(r.Limit), r.Resource, a(r.Held), a(r.Need))
}

// Refuses returns why a queue may not take need as well, nil when it may: a
// capability of itself or above it would be passed, or what is guaranteed to
// others would be touched. Nobody is held to what he deserves here: what others
// do not use is not left idle.
func (l *Ledger) Refuses(queue string, need resource.Vector) *Refusal {
	i, ok := l.byName[queue]
	if !ok {
		return nil
	}
	path := l.queues[l.queues[i].home].path
	for k := len(path) - 1; k >= 0; k-- {
		q := l.queues[path[k]]
		for d, a := range need {
			if a <= 0 {
				continue
			}
			after := resource.Add(q.Held[d], a)
			if after > q.Capability[d] && q.Binds(d) {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d], Limit: q.Capability[d]}
			}
			if q.parent < 0 || after <= q.Guarantee[d] {
				continue
			}
			// What is guaranteed to the siblings and not yet used stays free.
			left := resource.Sub(l.queues[q.parent].Capability[d], l.queues[q.parent].Held[d])
			var whose, largest *Queue
			var kept, most, guaranteed int64
			for _, c := range l.queues[q.parent].children {
				s := l.queues[c]
				if g := s.Guarantee[d]; c != path[k] && g > 0 {
					guaranteed = resource.Add(guaranteed, g)
					if largest == nil || g > largest.Guarantee[d] {
						largest = s
					}
				}
				if idle := resource.Sub(s.Guarantee[d], s.Held[d]); c != path[k] && idle > 0 {
					kept = resource.Add(kept, idle)
					if idle > most {
						whose, most = s, idle
					}
				}
			}
			if whose != nil && a <= left && a > resource.Sub(left, kept) {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d],
					Limit: resource.Add(q.Held[d], max(resource.Sub(left, kept), 0)), For: whose.Name}
			}
			// What they use of it does not become free for others when it ends.
			if limit := max(resource.Sub(l.queues[q.parent].Capability[d], guaranteed), 0); largest != nil && after > limit {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d], Limit: limit, For: largest.Name}
			}
		}
	}
	return nil
}

// Real is the most that a queue could hold beside what is guaranteed to others: its
// capability and those above it, without what the queues beside are guaranteed.
func (l *Ledger) Real(q *Queue) resource.Vector {
	out := q.Capability.Clone()
	for at := q; at.parent >= 0; at = l.queues[at.parent] {
		up := l.queues[at.parent]
		beside := up.Capability.Clone()
		for _, c := range up.children {
			if l.queues[c] != at {
				beside.SubScaled(l.queues[c].Guarantee, 1)
			}
		}
		for d := range out {
			out[d] = max(min(out[d], beside[d]), 0)
		}
	}
	return out
}

// Near leaves those of queues from the root down to one that count when it reclaims, or
// is reclaimed from: itself and as many above it as the options say.
func (l *Ledger) Near(down []*Queue) []*Queue {
	if l.options.Levels == nil {
		return down
	}
	return down[max(0, int64(len(down))-1-*l.options.Levels):]
}

// Entitled reports whether a queue would still hold no more than it deserves of
// what it asks for if it took need: it and every queue above it, of every resource that
// counts, and there has to be one. Only then may it take from others.
func (l *Ledger) Entitled(queue string, need resource.Vector) bool {
	some := false
	for _, q := range l.Near(l.Above(queue)) {
		for d, a := range need {
			if a <= 0 || !q.Counts(d) {
				continue
			}
			if resource.Add(q.Held[d], a) > q.Deserved[d] {
				return false
			}
			some = true
		}
	}
	return some
}
