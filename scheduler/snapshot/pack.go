package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Item is a number of equal pods of one batch job.
type Item struct {
	Class *Class
	Job   string
	Count int64
	// Devices are the GPUs of each pod, where they are known.
	Devices [][]string
	// Cells are the processors of each pod by NUMA node, where they are known.
	Cells [][]CellShare
	// Leaving says that the pods terminate.
	Leaving bool
	// Kept says that nobody is there yet and room is only kept, as by Txn.Keep.
	Kept bool

	from string // the node the pods are bound to, where it is another that shares hosts
}

// bin is a number of hosts in equal state.
type bin struct {
	count  int64
	free   resource.Vector
	owners []owner // multi-component jobs on these hosts; filled only where components are exclusive
	mine   bool    // holds pods that the question was about
	with   []string
}

type owner struct {
	job       string
	component int
}

// load is an Item made ready for packing.
type load struct {
	request   resource.Vector
	job       string
	component int
	count     int64
	mine      bool
	share     int64
	index     int // position among the asked items, -1 for residents
	from      string
}

// hostsOf turns shapes into bins, smallest host first, so that small pods do
// not spoil large hosts, and says which dimensions packing has to look at: what
// no shape names is limited by the node's sum alone.
func hostsOf(s *hostshape.Shapes, dims *resource.Dims) ([]bin, []bool) {
	packed := make([]bool, dims.Len())
	bins := make([]bin, 0, len(s.Shapes))
	for i := len(s.Shapes) - 1; i >= 0; i-- { // the wire order is largest first
		b := bin{count: s.Shapes[i].Count, free: make(resource.Vector, dims.Len()), with: s.Shapes[i].With}
		for name, amount := range s.Shapes[i].Resources {
			if d, ok := dims.Index(name); ok {
				b.free[d] = amount
				packed[d] = true
			}
		}
		bins = append(bins, b)
	}
	return bins, packed
}

// packing is the outcome of packing residents and asked items together.
type packing struct {
	placed   []int64 // of each asked item
	homeless int64   // residents that found no host
	bins     []bin
}

// pack puts everything into the hosts by first-fit decreasing: the pods with
// the largest dominant share first. Equal pods are placed together, so the cost
// grows with the number of distinct requests and shapes, not with the pods.
func (n *Node) pack(residents, asked []Item) packing {
	loads := n.loads(residents, asked)
	bins := slices.Clone(n.hosts)
	for i := range bins {
		bins[i].free = bins[i].free.Clone()
	}
	out := packing{placed: make([]int64, len(asked))}
	for _, l := range loads {
		var put int64
		bins, put = l.place(bins)
		if l.index >= 0 {
			out.placed[l.index] = put
		} else {
			out.homeless = resource.Add(out.homeless, l.count-put)
		}
	}
	out.bins = bins
	return out
}

// loads orders everything to pack. Residents of equal request are merged unless
// their job has several components and those must not share hosts.
func (n *Node) loads(residents, asked []Item) []load {
	components := n.components(residents, asked)
	total := n.hostTotal()
	var out []load
	add := func(it Item, index int) {
		l := load{request: n.masked(it.Class.Request), count: it.Count, mine: index >= 0, index: index, component: -1, from: it.from}
		if cs := components[it.Job]; len(cs) > 1 {
			l.job = it.Job
			l.component = slices.IndexFunc(cs, func(v resource.Vector) bool { return v.Compare(it.Class.Request) == 0 })
		}
		l.share, _ = l.request.Dominant(total)
		out = append(out, l)
	}
	for _, it := range residents {
		add(it, -1)
	}
	for i, it := range asked {
		add(it, i)
	}
	slices.SortStableFunc(out, func(a, b load) int {
		return cmp.Or(-cmp.Compare(a.share, b.share), -a.request.Compare(b.request),
			cmp.Compare(a.index, b.index), strings.Compare(a.job, b.job), strings.Compare(a.from, b.from))
	})
	merged := out[:0]
	for _, l := range out {
		if k := len(merged) - 1; k >= 0 && l.index < 0 && merged[k].index < 0 && l.job == merged[k].job && l.from == merged[k].from && l.request.Compare(merged[k].request) == 0 {
			merged[k].count = resource.Add(merged[k].count, l.count)
			continue
		}
		merged = append(merged, l)
	}
	return merged
}

// components lists the distinct requests of every job, where hosts are exclusive.
func (n *Node) components(residents, asked []Item) map[string][]resource.Vector {
	if !n.Shapes.ExclusiveComponents {
		return nil
	}
	out := map[string][]resource.Vector{}
	for _, items := range [][]Item{residents, asked} {
		for _, it := range items {
			if it.Job == "" {
				continue
			}
			at, found := slices.BinarySearchFunc(out[it.Job], it.Class.Request, resource.Vector.Compare)
			if !found {
				out[it.Job] = slices.Insert(out[it.Job], at, it.Class.Request)
			}
		}
	}
	return out
}

func (n *Node) masked(v resource.Vector) resource.Vector {
	out := v.Clone()
	for d := range out {
		if !n.packed[d] {
			out[d] = 0
		}
	}
	return out
}

func (n *Node) hostTotal() resource.Vector {
	total := make(resource.Vector, len(n.packed))
	for _, b := range n.hosts {
		total.AddScaled(b.free, b.count)
	}
	return total
}

// place puts as many pods of l as fit into bins, splitting a group of equal
// hosts into full ones, one partly filled one and untouched ones.
func (l load) place(bins []bin) ([]bin, int64) {
	left := l.count
	out := make([]bin, 0, len(bins)+2)
	for _, b := range bins {
		each := int64(0)
		if left > 0 && l.allowed(b) {
			each = b.free.Times(l.request, left)
		}
		if each == 0 {
			out = append(out, b)
			continue
		}
		full := min(left/each, b.count)
		if full > 0 {
			out = append(out, l.fill(b, full, each))
			left -= full * each
		}
		rest := b.count - full
		if rest > 0 && left > 0 { // fewer than each are left
			out = append(out, l.fill(b, 1, left))
			left = 0
			rest--
		}
		if rest > 0 {
			b.count = rest
			out = append(out, b)
		}
	}
	return out, l.count - left
}

func (l load) allowed(b bin) bool {
	if l.from != "" && !slices.Contains(b.with, l.from) {
		return false
	}
	for _, o := range b.owners {
		if l.component >= 0 && o.job == l.job && o.component != l.component {
			return false
		}
	}
	return true
}

func (l load) fill(b bin, hosts, each int64) bin {
	f := bin{count: hosts, free: b.free.Clone(), owners: b.owners, mine: b.mine || l.mine, with: b.with}
	f.free.SubScaled(l.request, each)
	if l.component >= 0 && !slices.Contains(b.owners, owner{l.job, l.component}) {
		f.owners = append(slices.Clone(b.owners), owner{l.job, l.component})
	}
	return f
}
