package snapshot

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Lineage hands on from one snapshot of a cluster to the next what still holds, so that a
// snapshot costs what changed. What it knows is of compiled nodes and is taken for these
// alone, each known by its address, so a snapshot is the same as one without a lineage
// whatever came before. The zero value knows nothing. It is for
// one caller at a time.
type Lineage struct {
	dims   *resource.Dims
	nodes  []*Node // as they were given
	blocks []block
	kinds  *kinds
	memory Memory
}

// Memory is where a cycle leaves what one over a later snapshot of the lineage may go on
// from. Snapshots do not depend on it, and no decision may. It is safe for concurrent use:
// whoever takes what is there has it alone, and finds nothing if it is taken. It has room for
// one; nil has none.
type Memory chan any

// Take takes what was left, nil for nothing.
func (m Memory) Take() any {
	select {
	case left := <-m:
		return left
	default:
		return nil
	}
}

// Leave leaves something in place of what is there.
func (m Memory) Leave(what any) {
	m.Take()
	select {
	case m <- what:
	default: // another was faster
	}
}

// Memory is that of the snapshot's lineage; nil, which keeps nothing, where it has none.
func (s *Snapshot) Memory() Memory { return s.memory }

// kinds are the positions of real and of virtual nodes.
type kinds struct{ real, virtual []int }

// blockLen is how many nodes are summed up together.
const blockLen = 64

// block is what nodes that follow one another come to.
type block struct {
	total, used, shut resource.Vector
	virtual           uint64 // which are
	peers, selective  bool
}

func blockOf(nodes []*Node, dims *resource.Dims) block {
	n := dims.Len()
	all := make(resource.Vector, 3*n)
	b := block{total: all[:n:n], used: all[n : 2*n : 2*n], shut: all[2*n:]}
	for i, node := range nodes {
		b.total.AddScaled(node.Total, 1)
		b.used.AddScaled(node.state.used, 1)
		b.peers = b.peers || node.peers
		if node.Virtual {
			b.virtual |= 1 << i
			b.selective = b.selective || len(node.Serves) > 0
		}
		if !node.Takes() {
			for d, a := range node.Total {
				b.shut[d] = resource.Add(b.shut[d], max(resource.Sub(a, node.state.used[d]), 0))
			}
		}
	}
	return b
}

// Assemble is the function Assemble of nodes that are in order of their names and gangs in
// that of their keys.
func (l *Lineage) Assemble(dims *resource.Dims, nodes []*Node, gangs []*Gang, queues []*Queue) *Snapshot {
	slices.SortFunc(queues, func(a, b *Queue) int { return strings.Compare(a.Name, b.Name) })
	n := dims.Len()
	if l.memory == nil {
		l.memory = make(Memory, 1)
	}
	s := &Snapshot{Dims: dims, Nodes: nodes, Gangs: gangs, Queues: queues, Total: make(resource.Vector, n), used: make(resource.Vector, n), shut: make(resource.Vector, n), memory: l.memory}
	for _, b := range l.sum(s) {
		s.Total.AddScaled(b.total, 1)
		s.used.AddScaled(b.used, 1)
		s.shut.AddScaled(b.shut, 1)
		s.peers, s.selective = s.peers || b.peers, s.selective || b.selective
	}
	for _, g := range gangs {
		s.peers = s.peers || g.peers
	}
	s.shareHosts()
	return s
}

// sum gives the blocks of a snapshot's nodes, and the snapshot its kinds. Blocks of nodes
// of before, at the same places, are those of before.
func (l *Lineage) sum(s *Snapshot) []block {
	nodes := s.Nodes
	if l.dims != s.Dims {
		l.dims, l.nodes, l.blocks, l.kinds = s.Dims, nil, nil, nil
	}
	blocks := make([]block, 0, (len(nodes)+blockLen-1)/blockLen)
	alike := l.kinds != nil && len(nodes) == len(l.nodes)
	for at := 0; at < len(nodes); at += blockLen {
		to, k := min(at+blockLen, len(nodes)), len(blocks)
		if k < len(l.blocks) && to <= len(l.nodes) && (to == at+blockLen || to == len(l.nodes)) && slices.Equal(l.nodes[at:to], nodes[at:to]) {
			blocks = append(blocks, l.blocks[k])
			continue
		}
		b := blockOf(nodes[at:to], s.Dims)
		alike = alike && b.virtual == l.blocks[k].virtual
		blocks = append(blocks, b)
	}
	if !alike {
		l.kinds = kindsOf(nodes)
	}
	l.nodes, l.blocks = nodes, blocks
	s.kinds = l.kinds
	return blocks
}

func kindsOf(nodes []*Node) *kinds {
	k := &kinds{}
	for i, n := range nodes {
		if n.Virtual {
			k.virtual = append(k.virtual, i)
		} else {
			k.real = append(k.real, i)
		}
	}
	return k
}

// Real are the positions of the real nodes, Virtual those of the virtual ones. Nobody
// changes them.
func (s *Snapshot) Real() []int { return s.kinds.real }

// Virtual is described with Real.
func (s *Snapshot) Virtual() []int { return s.kinds.virtual }

// Selective reports whether some virtual node serves some namespaces only.
func (s *Snapshot) Selective() bool { return s.selective }

// Used is what residents take of all nodes together.
func (s *Snapshot) Used() resource.Vector { return s.used.Clone() }

// Shut is what is free on the nodes where nobody can be placed now.
func (s *Snapshot) Shut() resource.Vector { return s.shut.Clone() }
