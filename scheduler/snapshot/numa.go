package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// The policies of a pod, and of a kubelet's topology manager.
const (
	NUMABestEffort = "best-effort"
	NUMARestricted = "restricted"
	NUMASingle     = "single-numa-node"
)

// NUMA is the processors of a real node by NUMA node.
type NUMA struct {
	// Policy is that of the kubelet's topology manager; Static says that its CPU
	// manager gives whole processors to containers.
	Policy string `json:"policy,omitempty"`
	Static bool   `json:"static,omitempty"`
	// Cells are ordered by id.
	Cells []Cell `json:"cells,omitempty"`
}

// Cell is one NUMA node: how many processors it has, and how many of them no
// container had to itself when the node told.
type Cell struct {
	ID   int64 `json:"id"`
	CPUs int64 `json:"cpus"`
	Free int64 `json:"free"`
}

// NUMAAsk is what a pod wants of NUMA nodes: for each container the processors that
// it gets to itself.
type NUMAAsk struct {
	Policy string  `json:"policy"`
	CPUs   []int64 `json:"cpus"`
}

// CellShare is processors of one NUMA node.
type CellShare struct {
	ID   int64 `json:"id"`
	CPUs int64 `json:"cpus"`
}

// numaConcerns reports whether the processors of pods of c are counted by NUMA node.
func (n *Node) numaConcerns(c *Class) bool { return n.NUMA != nil && c.NUMA != nil && !n.Virtual }

// freeCells is what is free of each NUMA node beside the residents. What the node
// tells lags behind: pods that are bound and do not run yet are not in it, and by
// what has been decided for all there cannot be more than the rest.
func (n *Node) freeCells() []int64 {
	if n.NUMA == nil {
		return nil
	}
	told, rest := make([]int64, len(n.NUMA.Cells)), make([]int64, len(n.NUMA.Cells))
	for i, c := range n.NUMA.Cells {
		told[i], rest[i] = c.Free, c.CPUs
	}
	for _, r := range n.Residents {
		for _, share := range r.Class.checked(r.Cells) {
			if i, ok := n.cell(share.ID); ok {
				rest[i] -= share.CPUs
				if !r.Running {
					told[i] -= share.CPUs
				}
			}
		}
	}
	for i := range told {
		told[i] = max(min(told[i], rest[i]), 0)
	}
	return told
}

func (n *Node) cell(id int64) (int, bool) {
	return slices.BinarySearchFunc(n.NUMA.Cells, id, func(c Cell, id int64) int { return cmp.Compare(c.ID, id) })
}

// checked is a pod's shares if they are what its class asks for, else none: they
// are read from an annotation.
func (c *Class) checked(shares []CellShare) []CellShare {
	if c.NUMA == nil {
		return nil
	}
	var want, have int64
	for _, k := range c.NUMA.CPUs {
		want += k
	}
	for _, s := range shares {
		if s.CPUs < 0 || s.CPUs > want {
			return nil
		}
		have += s.CPUs
	}
	if have != want {
		return nil
	}
	return shares
}

// seat finds each container of a pod its processors as the pod's policy wants, in
// free, which it changes, and returns the sum by NUMA node and the most nodes that
// one container has. ok is false, with free in any state, where there are none.
func (n *Node) seat(c *Class, free []int64) (shares []CellShare, spread int, ok bool) {
	sum := make([]int64, len(free))
	for _, k := range c.NUMA.CPUs {
		if k == 0 {
			continue
		}
		cells := n.choose(c.NUMA.Policy, k, free)
		if cells == nil {
			return nil, 0, false
		}
		spread = max(spread, len(cells))
		for _, i := range cells {
			take := min(k, free[i])
			free[i] -= take
			sum[i] += take
			k -= take
		}
	}
	for i, v := range sum {
		if v > 0 {
			shares = append(shares, CellShare{ID: n.NUMA.Cells[i].ID, CPUs: v})
		}
	}
	return shares, spread, true
}

// choose returns the NUMA nodes that k processors come from, nil for none: one, the
// fullest that has them, or else as few as there can be. The policy says how many
// are too many.
func (n *Node) choose(policy string, k int64, free []int64) []int {
	one := -1
	for i, f := range free {
		if f >= k && (one < 0 || f < free[one]) {
			one = i
		}
	}
	switch {
	case one >= 0:
		return []int{one}
	case policy == NUMASingle:
		return nil
	}
	cells := largest(k, free)
	if policy != NUMARestricted {
		return cells
	}
	whole := make([]int64, len(free))
	for i, c := range n.NUMA.Cells {
		whole[i] = c.CPUs
	}
	if len(cells) > len(largest(k, whole)) {
		return nil // more than an empty node would need
	}
	return cells
}

// largest are the fewest positions whose amounts add up to k, nil where all do not.
func largest(k int64, amounts []int64) []int {
	order := make([]int, len(amounts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(amounts[b], amounts[a]) })
	for n, i := range order {
		if k -= amounts[i]; k <= 0 {
			return order[:n+1]
		}
	}
	return nil
}

// NUMASpread is over how many NUMA nodes the processors of one container of a pod
// would be on a real node as it is now; ok is false where its policy cannot be met.
// It is 0 where nothing is asked for or known.
func (t *Txn) NUMASpread(node int, c *Class) (spread int, ok bool) {
	n := t.s.Nodes[node]
	if !n.numaConcerns(c) {
		return 0, true
	}
	_, spread, ok = n.seat(c, slices.Clone(t.state(node).numa))
	return spread, ok
}

// Cells hands out the processors of NUMA nodes to pods that are placed for good.
type Cells struct {
	s    *Snapshot
	free map[int][]int64 // by position of the node
}

// Cells begins with what is free in the snapshot.
func (s *Snapshot) Cells() *Cells { return &Cells{s: s, free: map[int][]int64{}} }

// Give returns the processors that a pod gets on a node, nil for none.
func (c *Cells) Give(node int, class *Class) []CellShare {
	n := c.s.Nodes[node]
	if !n.numaConcerns(class) {
		return nil
	}
	free, ok := c.free[node]
	if !ok {
		free = slices.Clone(n.state.numa)
	}
	trial := slices.Clone(free)
	shares, _, ok := n.seat(class, trial)
	if ok {
		free = trial
	}
	c.free[node] = free
	return shares
}

// seatAll takes what pods get from a node's free processors. Where their policy
// cannot be met nothing is taken: who asked knows that.
func (n *Node) seatAll(st *nodeState, it Item) {
	for range it.Count {
		trial := slices.Clone(st.numa)
		if _, _, ok := n.seat(it.Class, trial); !ok {
			return
		}
		st.numa = trial
	}
}

// unseat gives back what pods had.
func (n *Node) unseat(st *nodeState, it Item) {
	for _, shares := range it.Cells {
		for _, share := range it.Class.checked(shares) {
			if i, ok := n.cell(share.ID); ok {
				st.numa[i] = min(st.numa[i]+share.CPUs, n.NUMA.Cells[i].CPUs)
			}
		}
	}
}

// CellsText writes shares in one word, like 0=4,1=2; none are "".
func CellsText(shares []CellShare) string {
	out := make([]string, 0, len(shares))
	for _, s := range shares {
		out = append(out, fmt.Sprintf("%d=%d", s.ID, s.CPUs))
	}
	return strings.Join(out, ",")
}

// ParseCells reads what CellsText wrote.
func ParseCells(text string) []CellShare {
	var out []CellShare
	for _, part := range strings.Split(text, ",") {
		var s CellShare
		if n, err := fmt.Sscanf(part, "%d=%d", &s.ID, &s.CPUs); n == 2 && err == nil {
			out = append(out, s)
		}
	}
	return out
}
