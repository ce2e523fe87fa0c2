package resource

import (
	"slices"
	"sort"
	"strings"
)

// Quantity is an amount of a named resource.
type Quantity struct {
	Name   string `json:"name"`
	Amount int64  `json:"amount"`
}

// List is a set of quantities ordered by name, each name once.
type List []Quantity

// MakeList orders quantities by name and adds up equal names.
func MakeList(qs ...Quantity) List { return Take(slices.Clone(qs)) }

// Take is MakeList of quantities that are the list's from then on.
func Take(out []Quantity) List {
	slices.SortFunc(out, func(a, b Quantity) int { return strings.Compare(a.Name, b.Name) })
	n := 0
	for _, q := range out {
		if n > 0 && out[n-1].Name == q.Name {
			out[n-1].Amount = Add(out[n-1].Amount, q.Amount)
			continue
		}
		out[n] = q
		n++
	}
	return out[:n:n]
}

// Get returns the amount of a name, 0 when absent.
func (l List) Get(name string) int64 {
	i := sort.Search(len(l), func(i int) bool { return l[i].Name >= name })
	if i < len(l) && l[i].Name == name {
		return l[i].Amount
	}
	return 0
}

// Dims is the table of resource names of one snapshot, in name order. It is
// immutable: vectors over one table are never mixed with those of another.
type Dims struct {
	names []string
	index map[string]int
}

// NewDims interns names; order and repetition do not matter.
func NewDims(names []string) *Dims {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	d := &Dims{names: sorted, index: make(map[string]int, len(sorted))}
	for i, n := range sorted {
		d.index[n] = i
	}
	return d
}

// Len is the number of dimensions.
func (d *Dims) Len() int { return len(d.names) }

// Name returns the name of dimension i.
func (d *Dims) Name(i int) string { return d.names[i] }

// Names returns all names in order; the caller must not change the slice.
func (d *Dims) Names() []string { return d.names }

// Index returns the dimension of a name.
func (d *Dims) Index(name string) (int, bool) {
	i, ok := d.index[name]
	return i, ok
}

// Vector turns a list into a vector; missing holds the positive quantities whose
// names the table does not know, which therefore nobody offers.
func (d *Dims) Vector(l List) (v Vector, missing List) {
	v = make(Vector, len(d.names))
	for _, q := range l {
		if i, ok := d.index[q.Name]; ok {
			v[i] = q.Amount
		} else if q.Amount > 0 {
			missing = append(missing, q)
		}
	}
	return v, missing
}

// List turns a vector back into quantities, leaving out zeros.
func (d *Dims) List(v Vector) List {
	var out List
	for i, a := range v {
		if a != 0 && i < len(d.names) {
			out = append(out, Quantity{Name: d.names[i], Amount: a})
		}
	}
	return out
}

// Vector is one amount a dimension. The methods treat a dimension that is
// missing at the end of the other vector as zero, and so never panic.
type Vector []int64

func (v Vector) at(i int) int64 {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// Clone returns a copy.
func (v Vector) Clone() Vector { return slices.Clone(v) }

// AddScaled adds n times w to v in place, saturating.
func (v Vector) AddScaled(w Vector, n int64) {
	for i := range v {
		if a := w.at(i); a != 0 {
			v[i] = Add(v[i], Mul(a, n))
		}
	}
}

// SubScaled subtracts n times w from v in place, saturating.
func (v Vector) SubScaled(w Vector, n int64) {
	for i := range v {
		if a := w.at(i); a != 0 {
			v[i] = Sub(v[i], Mul(a, n))
		}
	}
}

// Covers reports whether v holds at least w in every dimension that w asks for.
func (v Vector) Covers(w Vector) bool {
	for i, a := range w {
		if a > 0 && v.at(i) < a {
			return false
		}
	}
	return true
}

// Times returns how many times w fits into v, at most limit; a w that asks for
// nothing fits limit times.
func (v Vector) Times(w Vector, limit int64) int64 {
	n := limit
	for i, a := range w {
		if a <= 0 {
			continue
		}
		have := v.at(i)
		if have < a {
			return 0
		}
		n = min(n, have/a)
	}
	return max(n, 0)
}

// Dominant returns the largest share that v has of total in any dimension, and
// that dimension; -1 when v asks for nothing. The first of equal ones wins.
func (v Vector) Dominant(total Vector) (share int64, dim int) {
	dim = -1
	for i, a := range v {
		if a <= 0 {
			continue
		}
		if s := Share(a, total.at(i)); dim < 0 || s > share {
			share, dim = s, i
		}
	}
	return share, dim
}

// Zero reports whether every amount is zero.
func (v Vector) Zero() bool {
	for _, a := range v {
		if a != 0 {
			return false
		}
	}
	return true
}

// Compare orders vectors by their amounts from the first dimension on.
func (v Vector) Compare(w Vector) int { return slices.Compare(v, w) }
