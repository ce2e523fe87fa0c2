package snapshot

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Txn is a what-if on top of a snapshot: placements that can be taken back to a
// checkpoint. It is for one goroutine.
type Txn struct {
	s      *Snapshot
	anew   []*nodeState // what was set, nil where nothing was: see state
	undo   []change
	guards []*Txn
	peers  *peerIndex // nil where no pod says anything about others
	// changes are the nodes whose state was set anew, one after the other.
	changes []int32
	// claims is what is promised of volumes and devices, opening what was at the
	// beginning; nil where no pod claims any.
	claims, opening *claims.State
	overlooked      Overlooked
}

type change struct {
	txn  *Txn
	node int
	was  *nodeState
	// items were put on the node, or taken off it, in the index of peers.
	items []Item
	off   bool
	// claims, when set, is what was promised before, and the rest is unset.
	claims *claims.State
}

// Mark is a point a transaction can return to.
type Mark int

// Begin opens a transaction.
func (s *Snapshot) Begin() *Txn {
	t := &Txn{s: s, anew: make([]*nodeState, len(s.Nodes))}
	if s.peers {
		t.peers = newPeerIndex(s)
	}
	t.claims = s.promises()
	t.opening = t.claims
	return t
}

// state is what is on a node now. It is that of the snapshot until it is set.
func (t *Txn) state(node int) *nodeState {
	if st := t.anew[node]; st != nil {
		return st
	}
	return t.s.Nodes[node].state
}

// Checkpoint returns the present point.
func (t *Txn) Checkpoint() Mark { return Mark(len(t.undo)) }

// Rollback takes back everything since m.
func (t *Txn) Rollback(m Mark) {
	for i := len(t.undo) - 1; i >= int(m); i-- {
		c := &t.undo[i]
		if c.claims != nil {
			c.txn.claims = c.claims
			continue
		}
		c.txn.set(c.node, c.was)
		c.txn.countPeers(c.node, c.items, !c.off)
	}
	t.undo = t.undo[:m]
}

func (t *Txn) set(node int, st *nodeState) {
	t.anew[node] = st
	t.changes = append(t.changes, int32(node)) //nolint:gosec // a position
}

// Changes counts how often a node was changed, taking back included.
func (t *Txn) Changes() int { return len(t.changes) }

// ChangedSince lists the nodes changed since Changes gave n, some more than once.
func (t *Txn) ChangedSince(n int) []int32 { return t.changes[n:] }

// Plain reports whether the room of real nodes for classes without claims, and how well they
// suit, depends on these nodes alone, whatever the class.
func (t *Txn) Plain() bool { return t.peers == nil && len(t.guards) == 0 }

// Entangled reports whether the room of a node for a class, or how well it suits, depends
// on more than the node or may do so later: on pods elsewhere, or on other transactions.
func (t *Txn) Entangled(c *Class) bool { return len(t.guards) > 0 || t.peers.cares(c) }

// Fork returns a transaction that starts where this one is and shares nothing
// with it from then on.
func (t *Txn) Fork() *Txn {
	return &Txn{s: t.s, anew: slices.Clone(t.anew), peers: t.peers.clone(), claims: t.claims, opening: t.opening, overlooked: t.overlooked}
}

// Guard makes the transaction answer for others as well: what is placed has to
// fit all of them and is placed in all of them. Rollback takes it back in all.
// Each call replaces the guards before.
func (t *Txn) Guard(guards ...*Txn) { t.guards = guards }

// Guards are those of the last call of Guard.
func (t *Txn) Guards() []*Txn { return t.guards }

func (t *Txn) change(node int, items []Item, off bool, f func(*nodeState)) {
	t.changeOne(t, node, items, off, f)
	for _, g := range t.guards {
		t.changeOne(g, node, items, off, f)
	}
}

func (t *Txn) changeOne(in *Txn, node int, items []Item, off bool, f func(*nodeState)) {
	was := in.state(node)
	next := was.clone()
	f(next)
	t.undo = append(t.undo, change{txn: in, node: node, was: was, items: items, off: off})
	in.set(node, next)
	in.countPeers(node, items, off)
}

func (t *Txn) countPeers(node int, items []Item, off bool) {
	if t.peers == nil {
		return
	}
	for _, it := range items {
		n := it.Count
		if off {
			n = -n
		}
		t.peers.add(node, it.Class, n, it.Leaving)
	}
}

// Remove takes pods off a node, or gives up room that is kept for some. The caller
// knows that they are there.
func (t *Txn) Remove(node int, it Item) {
	if it.Kept {
		t.Unkeep(node, it)
		return
	}
	t.change(node, []Item{it}, true, func(st *nodeState) { t.s.Nodes[node].free(st, it) })
	t.visit(node, []Item{it}, true)
	t.leaveClaims(node, it)
}

// Free returns what is left of a node's sum; a dimension may be negative when
// the node shrank under its pods.
func (t *Txn) Free(node int) resource.Vector {
	free := t.s.Nodes[node].Total.Clone()
	free.SubScaled(t.state(node).used, 1)
	return free
}

// FreeOf is Free in one dimension.
func (t *Txn) FreeOf(node, dim int) int64 {
	return resource.Sub(t.s.Nodes[node].Total[dim], t.state(node).used[dim])
}

// Room returns how many pods of a class a real node can still take, at most
// limit. It is one at the most where each pod decides about the next.
func (t *Txn) Room(node int, c *Class, limit int64) int64 {
	n := t.Capacity(node, c, limit)
	if n > 0 && t.peers.concerns(c) {
		if t.peers.refuses(node, c) != "" {
			return 0
		}
		n = 1
	}
	for _, g := range t.guards {
		if n > 0 && g.peers.concerns(c) && g.peers.refuses(node, c) != "" {
			return 0
		}
	}
	return n
}

// Capacity is Room as far as other pods do not matter.
func (t *Txn) Capacity(node int, c *Class, limit int64) int64 {
	st := t.state(node)
	total := t.s.Nodes[node].Total
	n := limit
	for d, a := range c.Request {
		if a <= 0 {
			continue
		}
		left := resource.Sub(total[d], st.used[d])
		if left < a {
			return 0
		}
		n = min(n, left/a)
	}
	if n > 0 && len(c.HostPorts) > 0 && !t.overlooked.Ports {
		if st.takenPort(c) != nil {
			return 0
		}
		n = 1
	}
	if box := t.s.Nodes[node].gpus; n > 0 && box != nil && box.concerns(c) {
		n = box.room(st.gpus, c, n)
	}
	for _, g := range t.guards {
		if n == 0 {
			break
		}
		n = g.Capacity(node, c, n)
	}
	return n
}

// PortReason says which host port of a class is taken on a real node, "" when none is.
func (t *Txn) PortReason(node int, c *Class) string {
	if len(c.HostPorts) == 0 || t.overlooked.Ports {
		return ""
	}
	if p := t.state(node).takenPort(c); p != nil {
		return fmt.Sprintf("host port %s is taken", p)
	}
	return ""
}

// GPUReason says why no pod of a class finds its GPUs on a real node, "" when one
// does or the node does not describe any.
func (t *Txn) GPUReason(node int, c *Class) string {
	if box := t.s.Nodes[node].gpus; box != nil && box.concerns(c) {
		return box.why(t.state(node).gpus, c)
	}
	return ""
}

// Put places pods on a real node. The caller has asked Room. It returns the GPUs
// that each pod gets, nil where the node does not describe any that they ask for.
func (t *Txn) Put(node int, it Item) [][]string {
	n := t.s.Nodes[node]
	seats := n.numaConcerns(it.Class)
	if n.gpus == nil || !n.gpus.concerns(it.Class) {
		t.change(node, []Item{it}, false, func(st *nodeState) {
			st.add(n, it)
			if seats {
				n.seatAll(st, it)
			}
		})
		return nil
	}
	it.Devices = nil
	t.changeOne(t, node, []Item{it}, false, func(st *nodeState) {
		st.add(n, it)
		for range it.Count {
			it.Devices = append(it.Devices, n.gpus.pick(st.gpus, it.Class))
		}
		if seats {
			n.seatAll(st, it)
		}
	})
	for _, g := range t.guards {
		t.changeOne(g, node, []Item{it}, false, func(st *nodeState) {
			st.add(n, it)
			for i := range it.Count {
				n.gpus.hold(st.gpus, it.Class, it.devices(i))
			}
			if seats {
				n.seatAll(st, it)
			}
		})
	}
	return it.Devices
}

// devices are the GPUs of the item's pod i, nil where they are not known.
func (it Item) devices(i int64) []string {
	if i < int64(len(it.Devices)) {
		return it.Devices[i]
	}
	return nil
}

// HostFit is the answer to whether items fit a virtual node.
type HostFit struct {
	Fits bool
	// Guarded says that only a guard of the transaction stands against it.
	Guarded bool
	// Short are the dimensions of the sum that lack something, as name, need and free.
	Short []Shortage
	// Placed is how many of each item found a host, when the sum sufficed.
	Placed []int64
	// Touched is what is left on the hosts that took the items; Largest is the
	// most that one host has free in each dimension, before they were placed.
	Touched resource.Vector
	Largest resource.Vector
}

// Shortage is one resource that does not suffice.
type Shortage struct {
	Resource string `json:"resource"`
	Need     int64  `json:"need"`
	Free     int64  `json:"free"`
	// Largest is the most that one host or node has free.
	Largest int64 `json:"largest"`
}

// TryHosts asks whether items fit a virtual node together with all that is
// there: by the sum and, where the node tells its hosts, by packing. It changes
// nothing.
func (t *Txn) TryHosts(node int, items []Item) HostFit {
	out := t.tryHosts(node, items)
	for _, g := range t.guards {
		if out.Fits && !g.tryHosts(node, items).Fits {
			out.Fits, out.Guarded = false, true
		}
	}
	return out
}

func (t *Txn) tryHosts(node int, items []Item) HostFit {
	n, st := t.s.Nodes[node], t.state(node)
	free := t.Free(node)
	need := make(resource.Vector, t.s.Dims.Len())
	for _, it := range items {
		need.AddScaled(it.Class.Request, it.Count)
	}
	out := HostFit{Touched: free.Clone(), Largest: free}
	var before packing
	if n.hosts != nil {
		before = n.pack(st.items, nil)
		out.Largest = largestOf(before.bins, free, n.packed)
	}
	for d, a := range need {
		if a > 0 && free[d] < a {
			out.Short = append(out.Short, Shortage{Resource: t.s.Dims.Name(d), Need: a, Free: max(free[d], 0), Largest: max(out.Largest[d], 0)})
		}
	}
	if len(out.Short) > 0 {
		return out
	}
	if n.hosts == nil {
		out.Touched.SubScaled(need, 1)
		out.Fits = true
		return out
	}
	p := n.pack(st.items, items)
	// What is there must find hosts as before: a newcomer never displaces it. Some
	// of it may have none already, on a node that shrank under its pods.
	out.Placed, out.Fits = p.placed, p.homeless <= before.homeless
	for i, it := range items {
		out.Fits = out.Fits && p.placed[i] == it.Count
	}
	out.Touched = make(resource.Vector, len(free))
	for _, b := range p.bins {
		if b.mine {
			out.Touched.AddScaled(b.free, b.count)
		}
	}
	return out
}

func largestOf(bins []bin, free resource.Vector, packed []bool) resource.Vector {
	out := free.Clone()
	for d := range out {
		if !packed[d] {
			continue
		}
		out[d] = 0
		for _, b := range bins {
			out[d] = max(out[d], b.free[d])
		}
	}
	return out
}

// PutHosts places items on a virtual node. The caller has asked TryHosts.
func (t *Txn) PutHosts(node int, items []Item) {
	t.change(node, items, false, func(st *nodeState) {
		for _, it := range items {
			st.add(t.s.Nodes[node], it)
		}
	})
	t.visit(node, items, false)
}

// Keep holds room of a node for pods without saying which of its GPUs they get;
// there may be less than that. Unkeep undoes it.
func (t *Txn) Keep(node int, it Item) {
	t.change(node, nil, false, func(st *nodeState) { st.add(t.s.Nodes[node], it) })
	t.visit(node, []Item{it}, false)
}

// Unkeep undoes Keep.
func (t *Txn) Unkeep(node int, it Item) {
	t.change(node, nil, false, func(st *nodeState) { st.remove(t.s.Nodes[node], it) })
	t.visit(node, []Item{it}, true)
}
