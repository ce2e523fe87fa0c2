package snapshot

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
)

// Virtual nodes may share hosts. The provider takes what runs and waits at the
// batch system for one off the shapes of the others, and says so by
// Shapes.Counted. What was bound since is a guest on the others: it takes part in
// the packing of their shared hosts, until their shapes count it. So two gangs
// that are bound in one moment never both count on the last host.

// share prepares what the sharing of hosts needs to know of a node.
func (n *Node) share() {
	if !slices.ContainsFunc(n.Shapes.Shapes, func(s hostshape.Shape) bool { return len(s.With) > 0 }) {
		return
	}
	n.counted = make(map[string]bool, len(n.Shapes.Counted))
	for _, tag := range n.Shapes.Counted {
		n.counted[tag] = true
	}
	n.tags = make([][2]string, len(n.Residents))
	for i, r := range n.Residents {
		n.tags[i] = [2]string{hostshape.Tag(r.Job), hostshape.Tag(r.UID)}
	}
}

// counts reports whether the shapes of n have a resident of another node taken
// off: the i-th of m.
func (n *Node) counts(m *Node, i int) bool {
	return n.counted[m.tags[i][0]] || n.counted[m.tags[i][1]] || n.Shapes.CountedMore && m.Residents[i].Running
}

// shareHosts finds the nodes that share hosts, gives them their guests, and takes
// what is shared off the total where it is counted more than once.
func (s *Snapshot) shareHosts() {
	var withGuests []*Node // takes the place of Nodes at the end: guests come of those
	for i, n := range s.Nodes {
		if n.counted == nil {
			continue
		}
		with := map[int]bool{}
		for _, b := range n.hosts {
			first := true
			for _, name := range b.with {
				if k, ok := s.Node(name); ok && s.Nodes[k].counted != nil {
					with[k] = true
					first = first && n.Name < name
				}
			}
			if !first {
				s.Total.SubScaled(b.free, b.count)
			}
		}
		if s.shared == nil {
			s.shared = map[int][]int{}
		}
		state := n.state
		for k, m := range s.Nodes {
			if !with[k] {
				continue
			}
			s.shared[k] = append(s.shared[k], i)
			for j, r := range m.Residents {
				if n.counts(m, j) {
					continue
				}
				if state == n.state {
					state = state.clone()
				}
				state.welcome(n, Item{Class: r.Class, Job: r.Job, Count: 1, from: m.Name})
			}
		}
		if state != n.state {
			if withGuests == nil {
				withGuests = slices.Clone(s.Nodes)
			}
			other := *n
			other.state = state
			withGuests[i] = &other
		}
	}
	if withGuests != nil {
		s.Nodes = withGuests
	}
}

// visit tells the nodes that share hosts with a node what was put on it, or taken
// off it. What is counted in their shapes already cannot be taken off them.
func (t *Txn) visit(node int, items []Item, off bool) {
	for _, k := range t.s.shared[node] {
		n := t.s.Nodes[k]
		t.change(k, nil, off, func(st *nodeState) {
			for _, it := range items {
				it.from = t.s.Nodes[node].Name
				if off {
					st.dismiss(n, it)
				} else {
					st.welcome(n, it)
				}
			}
		})
	}
}

// guest finds the item that holds guests like it.
func (s *nodeState) guest(n *Node, it *Item) int {
	if !n.Shapes.ExclusiveComponents {
		it.Job = ""
	}
	return slices.IndexFunc(s.items, func(x Item) bool { return x.Job == it.Job && x.Class == it.Class && x.from == it.from })
}

// welcome adds guests; the node's sum does not change.
func (s *nodeState) welcome(n *Node, it Item) {
	if i := s.guest(n, &it); i >= 0 {
		s.items[i].Count += it.Count
		return
	}
	s.items = append(s.items, it)
}

// dismiss undoes welcome.
func (s *nodeState) dismiss(n *Node, it Item) {
	i := s.guest(n, &it)
	if i < 0 {
		return
	}
	s.items[i].Count -= min(it.Count, s.items[i].Count)
	if s.items[i].Count == 0 {
		s.items = slices.Delete(s.items, i, i+1)
	}
}
