package entitlement

import (
	"cmp"
	"maps"
	"slices"
	"strings"

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
	over    map[int]bool // the queues of Overs
}

// Declared reports whether queues declare what they deserve.
func (l *Ledger) Declared() bool { return l.options.Mode == Declared }

// New makes the ledger of a snapshot.
func New(s *snapshot.Snapshot, o Options) *Ledger {
	l := &Ledger{options: o, dims: s.Dims, total: available(s)}
	l.build(s)
	l.limits()
	counts := l.counts(s)
	next := l.vectors(2 * len(l.queues))
	for _, q := range l.queues {
		q.Held, q.Wanted, q.counts, q.total = next(), next(), counts, l.total
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
	l.countGuarantees()
	l.share()
	l.over = map[int]bool{}
	for i := range l.queues {
		l.noteOver(i)
	}
	slices.SortStableFunc(l.Faults, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.Queue, b.Queue), strings.Compare(a.Message, b.Message))
	})
	return l
}

// vectors makes room for so many vectors in one piece, since every cycle makes some of each
// queue, and returns what gives them out.
func (l *Ledger) vectors(count int) func() resource.Vector {
	n := l.dims.Len()
	all := make(resource.Vector, count*n)
	return func() resource.Vector {
		v := all[:n:n]
		all = all[n:]
		return v
	}
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
	var f *Fault
	for ; q != nil; q = l.up(q) {
		if q.stop != nil {
			f = q.stop // the one nearest to the root
		}
	}
	return f
}

// up is the queue above one, nil above the root.
func (l *Ledger) up(q *Queue) *Queue {
	if q.parent < 0 {
		return nil
	}
	return l.queues[q.parent]
}

// Above returns the queues from the root's child down to the one where the gangs
// of a queue are counted; nil when there is no such queue.
func (l *Ledger) Above(queue string) []*Queue {
	i, ok := l.byName[queue]
	if !ok {
		return nil
	}
	q := l.queues[l.queues[i].home]
	if q.depth == 0 {
		return nil
	}
	out := make([]*Queue, q.depth)
	for ; q.depth > 0; q = l.up(q) {
		out[q.depth-1] = q
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
	x, y = l.queues[l.queues[i].home], l.queues[l.queues[j].home]
	for x.depth > y.depth {
		x = l.up(x)
	}
	for y.depth > x.depth {
		y = l.up(y)
	}
	for x.parent != y.parent {
		x, y = l.up(x), l.up(y)
	}
	return x, y
}

// Take counts n times v as held by a gang of a queue; a queue that does not exist
// holds nothing.
func (l *Ledger) Take(queue string, v resource.Vector, n int64) {
	if i, ok := l.byName[queue]; ok {
		for at := l.queues[i].home; at >= 0; at = l.queues[at].parent {
			l.hold(at, v, n)
		}
	}
}

// Give undoes Take.
func (l *Ledger) Give(queue string, v resource.Vector, n int64) { l.Take(queue, v, -n) }

// Fork returns a ledger that starts as this one is and counts for itself from
// then on, for a what-if. What is deserved stays as it is.
func (l *Ledger) Fork() *Ledger {
	out := *l
	out.over = maps.Clone(l.over)
	out.queues = make([]*Queue, len(l.queues))
	for i, q := range l.queues {
		c := *q
		c.Held = q.Held.Clone()
		if b := q.below; b != nil {
			c.below = &guarantees{b.sum, b.idle.Clone(), make([]pair, len(b.most)), make([]pair, len(b.idlest))}
		}
		out.queues[i] = &c
	}
	return &out
}
