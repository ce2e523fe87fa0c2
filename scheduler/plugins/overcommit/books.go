package overcommit

import (
	"cmp"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// books say who holds what and who waits for what. All instances of the plugin share
// them in a cycle. They are made when somebody asks: mostly nobody waits without pods.
type books struct {
	s      *framework.Session
	dims   *resource.Dims
	ledger *entitlement.Ledger // as the cycle begins; nil when nobody may ask

	nodes   []*node // parents before children
	by      map[*entitlement.Queue]*node
	leaves  map[string]*node
	counted int             // of Session.AdmittedInTurn, that are in the books
	free    resource.Vector // once what goes by itself has gone
	held    resource.Vector // by all gangs, without what goes by itself
	quota   []bool          // the dimensions that only resource quotas know
}

type booksKey struct{}

func booksOf(s *framework.Session) *books {
	return s.Note(booksKey{}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		b := &books{s: s, dims: s.Snapshot.Dims}
		if slices.ContainsFunc(s.Snapshot.Gangs, func(g *snapshot.Gang) bool { return !letIn(g) }) {
			b.ledger = s.Ledger.Fork()
		}
		return b
	}).(*books)
}

// node is a queue. Gangs are counted at leaves.
type node struct {
	queue    *entitlement.Queue
	parent   *node
	children []*node
	ranks    []*rank // of a leaf, by priority, the highest first
	// others is what the queue counts for gangs of other queues, and sum what all below
	// it do: first for those whose queue may take back nothing, then for those whose may.
	others, sum [2]tally
	real        resource.Vector // the most that it can hold
	kept        resource.Vector // what is guaranteed to those beside it
}

// rank is the gangs of one priority in a queue.
type rank struct {
	priority int32
	waiting  int
	slack    resource.Vector // held beyond minimums: equals may take it
	tally
}

// tally is what is held, what is held or wanted by gangs that were let in, and what is
// wanted by those of them of which nobody knows yet that they find no room.
type tally struct{ held, load, fresh resource.Vector }

func (b *books) tally() tally {
	return tally{b.vector(), b.vector(), b.vector()}
}

func (b *books) vector() resource.Vector { return make(resource.Vector, b.dims.Len()) }

func (t *tally) add(o tally, n int64) {
	t.held.AddScaled(o.held, n)
	t.load.AddScaled(o.load, n)
	t.fresh.AddScaled(o.fresh, n)
}

// letIn reports whether a gang counts as let in from the start: who has pods is.
func letIn(g *snapshot.Gang) bool {
	return g.Plain || g.Native || g.Status.Phase != snapshot.GroupPending || g.Unfinished()
}

// settle makes the books, and counts who was let in since they were looked at last.
func (b *books) settle() {
	if b.nodes == nil {
		b.build()
	}
	in := b.s.AdmittedInTurn()
	for _, g := range in[b.counted:] {
		n := b.leaves[g.Queue]
		if letIn(g) || n == nil {
			continue
		}
		b.wait(n, g, true)
		for ; n != nil; n = n.parent {
			b.tell(n)
		}
	}
	b.counted = len(in)
}

func (b *books) build() {
	b.free, b.held, b.leaves = b.vector(), b.vector(), map[string]*node{}
	for d := range b.dims.Len() {
		b.quota = append(b.quota, quotaOnly(b.dims.Name(d)))
	}
	b.by = map[*entitlement.Queue]*node{}
	of := func(q *entitlement.Queue) *node {
		if b.by[q] == nil {
			b.by[q] = &node{queue: q}
		}
		return b.by[q]
	}
	for _, q := range b.ledger.Queues() {
		n := of(q)
		n.real, n.kept = b.ledger.Real(q), b.ledger.Beside(q)
		b.nodes = append(b.nodes, n)
		for _, below := range b.ledger.Below(q) {
			c := of(below)
			c.parent, n.children = n, append(n.children, c)
		}
	}
	for _, n := range b.nodes {
		for e := range n.others {
			n.others[e], n.sum[e] = b.tally(), b.tally()
		}
	}
	for _, n := range b.s.Snapshot.Nodes {
		if !n.Takes() {
			continue
		}
		used := n.Used()
		for d, a := range n.Total {
			b.free[d] = resource.Add(b.free[d], max(resource.Sub(a, used[d]), 0))
		}
	}
	for _, g := range b.s.Snapshot.Gangs {
		b.enter(g)
	}
	for _, n := range slices.Backward(b.nodes) {
		b.tell(n)
	}
}

// enter counts a gang that was there when the cycle began.
func (b *books) enter(g *snapshot.Gang) {
	n := b.leafOf(g.Queue)
	held, slack := b.holds(g)
	b.held.AddScaled(held, 1)
	if n == nil {
		return
	}
	r := b.rank(n, g.Priority)
	r.held.AddScaled(held, 1)
	r.load.AddScaled(held, 1)
	r.slack.AddScaled(slack, 1)
	if letIn(g) {
		b.wait(n, g, false)
	}
}

// leafOf is where the gangs of a queue are counted, nil for a queue that does not exist.
func (b *books) leafOf(queue string) *node {
	n, known := b.leaves[queue]
	if !known {
		if above := b.ledger.Above(queue); len(above) > 0 {
			n = b.by[above[len(above)-1]]
		}
		b.leaves[queue] = n
	}
	return n
}

func (b *books) rank(n *node, priority int32) *rank {
	i, found := slices.BinarySearchFunc(n.ranks, priority, func(r *rank, p int32) int { return cmp.Compare(p, r.priority) })
	if !found {
		n.ranks = slices.Insert(n.ranks, i, &rank{priority: priority, slack: b.vector(), tally: b.tally()})
	}
	return n.ranks[i]
}

// holds is what a gang holds, without what goes by itself, which counts as free, and how
// much of that is beyond its minimum at the most.
func (b *books) holds(g *snapshot.Gang) (held, slack resource.Vector) {
	held, slack = b.vector(), b.vector()
	if g.Held.Zero() {
		return held, slack
	}
	held.AddScaled(g.Held, 1)
	var have int64
	for _, p := range g.Pods {
		if p.Counts() {
			have++
		}
		if p.Terminating && p.Node != "" && !p.Terminal() {
			held.SubScaled(p.Class.Request, 1)
			b.free.AddScaled(p.Class.Request, 1)
		}
	}
	if spare := have - g.Minimum(); spare > 0 && !g.ActsOnEviction {
		for d, a := range held {
			if a > 0 {
				slack[d] = min(largest(g, d, spare), a)
			}
		}
	}
	return held, slack
}

// largest adds up the largest requests of n of a gang's placed pods.
func largest(g *snapshot.Gang, dim int, n int64) (sum int64) {
	var all []int64
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() && !p.Terminating {
			all = append(all, p.Class.Request[dim])
		}
	}
	slices.SortFunc(all, func(a, b int64) int { return cmp.Compare(b, a) })
	for _, a := range all[:min(int64(len(all)), n)] {
		sum = resource.Add(sum, a)
	}
	return sum
}

// wait counts what a gang that was let in lacks of its minimum. What it wants beyond that
// keeps nobody out.
func (b *books) wait(n *node, g *snapshot.Gang, now bool) {
	if g.Absent || g.Status.Phase == snapshot.GroupCompleted || g.Have() >= g.Minimum() {
		return
	}
	wants := b.lacks(g)
	r := b.rank(n, g.Priority)
	r.waiting++
	r.load.AddScaled(wants, 1)
	if now || !g.Plain && !g.Native && !stuck(g, b.s.Now.UnixNano()) {
		r.fresh.AddScaled(wants, 1)
	}
}

// lacks is what a gang still wants for its minimum, where it says how much that is.
func (b *books) lacks(g *snapshot.Gang) resource.Vector {
	out := g.Wants.Clone()
	least, _ := b.dims.Vector(g.MinResources)
	for d, a := range least {
		if a > 0 {
			out[d] = max(resource.Sub(a, g.Held[d]), 0)
		}
	}
	return out
}

// stuck reports whether it was told of a gang that it has no room, and none is kept for it.
func stuck(g *snapshot.Gang, now int64) bool {
	if n := g.Nominated; n.Keeps(now) && !n.Used {
		return false
	}
	return slices.ContainsFunc(g.Status.Conditions, func(c snapshot.Condition) bool {
		return c.Type == "Unschedulable" && c.Status == "True"
	})
}

// tell works out what a queue counts for others: no more than it can hold, and for those
// who may take it back no more than it deserves. The queue above counts it from then on.
func (b *books) tell(n *node) {
	for e := range n.others {
		t := &n.sum[e]
		switch {
		case len(n.children) > 0: // they have told it
		case e == 0:
			for _, v := range t.vectors() {
				clear(v)
			}
			for _, r := range n.ranks {
				t.add(r.tally, 1)
			}
		default:
			b.yields(n)
		}
		for d := range t.held {
			n.says(e, d, tellsHeld, t.held[d])
			n.says(e, d, tellsLoad, min(t.load[d], max(n.real[d], t.held[d])))
			n.says(e, d, tellsFresh, min(t.fresh[d], max(resource.Sub(n.real[d], t.held[d]), 0)))
		}
	}
}

// The vectors of a tally.
const (
	tellsHeld = iota
	tellsLoad
	tellsFresh
)

func (t *tally) vectors() [3]resource.Vector { return [3]resource.Vector{t.held, t.load, t.fresh} }

// says notes what a queue counts for others, and puts the difference into the sum of the
// queue above, so that nobody adds up all that are beside it.
func (n *node) says(e, dim, what int, now int64) {
	at := &n.others[e].vectors()[what][dim]
	was := *at
	*at = now
	if n.parent == nil || now == was {
		return
	}
	// It only becomes more as others are let in, so a sum that is cut off stays right.
	sum := &n.parent.sum[e].vectors()[what][dim]
	*sum = resource.Add(*sum, resource.Sub(now, was))
}

// yields works out what a queue keeps against those who may take back from it.
func (b *books) yields(n *node) {
	all, kept := n.sum[0], n.sum[1]
	q, over := n.queue, false
	for d, a := range all.held {
		over = over || q.Counts(d) && a > q.Deserved[d]
	}
	for d := range all.held {
		kept.held[d], kept.load[d], kept.fresh[d] = all.held[d], all.load[d], all.fresh[d]
		switch {
		case !q.Reclaimable():
			continue
		case q.Counts(d):
			kept.load[d] = min(all.load[d], q.Deserved[d])
		}
		switch {
		case !over:
		case q.Counts(d) && all.held[d] > q.Deserved[d]:
			kept.held[d] = q.Deserved[d]
		default:
			kept.held[d] = 0 // who goes for the one gives back the other as well
		}
	}
}

// needOf is a gang's minimum, of what nodes have.
func (b *books) needOf(g *snapshot.Gang) resource.Vector {
	need, _ := b.dims.Vector(g.MinResources)
	for d := range need {
		if b.quota[d] {
			need[d] = 0
		}
	}
	return need
}

// limit is the most that may be held in a queue, and whether anything bounds it there.
func (b *books) limit(n *node, dim int) (int64, bool) {
	root := b.nodes[0]
	switch {
	case n == root && (!root.queue.Binds(dim) || !b.s.BoundsQueues()):
		return b.s.Snapshot.Total[dim], true
	case n == root:
		return min(b.s.Snapshot.Total[dim], root.queue.Capability[dim]), true
	}
	return n.real[dim], b.s.BoundsQueues() && n.real[dim] < root.real[dim]
}

// view is what counts before one gang.
type view struct {
	b *books
	// waiting is how many gangs of its queue wait that come before it.
	waiting int
	steps   []step // from its queue to the root
}

// step is what counts before a gang in its queue, or one above.
type step struct {
	node *node
	tally
}

// before adds up what counts before a gang: in its queue what is of its priority and
// above, and of other queues what these may keep against it. It is nil for a queue
// that does not exist.
func (b *books) before(g *snapshot.Gang, need resource.Vector) *view {
	n := b.leafOf(g.Queue)
	if n == nil {
		return nil
	}
	v := &view{b: b}
	sum := b.tally()
	for _, r := range n.ranks {
		if r.priority < g.Priority {
			break
		}
		v.waiting += r.waiting
		sum.add(r.tally, 1)
		if r.priority == g.Priority {
			sum.held.SubScaled(r.slack, 1)
			sum.load.SubScaled(r.slack, 1)
		}
	}
	e := 0
	if b.ledger.Entitled(g.Queue, need) {
		e = 1
	}
	for {
		v.steps = append(v.steps, step{n, tally{sum.held.Clone(), sum.load.Clone(), sum.fresh.Clone()}})
		if n.parent == nil {
			return v
		}
		sum.add(n.parent.sum[e], 1)
		sum.add(n.others[e], -1)
		n = n.parent
	}
}

// roomFor reports whether there is room, or some can be made, for a gang that nobody
// before it is about to take. Nothing is placed where there is not that much.
func (v *view) roomFor(need resource.Vector) bool {
	b := v.b
	for _, at := range v.steps {
		for d, a := range need {
			if a <= 0 {
				continue
			}
			after := resource.Add(resource.Add(at.held[d], at.fresh[d]), a)
			q := at.node.queue
			if q.Binds(d) && after > q.Capability[d] {
				return false
			}
			if at.node.parent == nil || at.node.kept[d] == 0 || after <= q.Guarantee[d] {
				continue
			}
			if after > max(resource.Sub(at.node.parent.queue.Capability[d], at.node.kept[d]), 0) {
				return false
			}
		}
	}
	all := v.steps[len(v.steps)-1]
	for d, a := range need {
		yields := resource.Sub(b.held[d], all.held[d])
		if a > 0 && resource.Add(all.fresh[d], a) > resource.Add(b.free[d], yields) {
			return false
		}
	}
	return true
}
