// Package fairshare remembers what queues and namespaces have held, so that those
// who have had much of late can be made to wait for those who have had little. What
// was held fades with a half-life. It is pure, bounded in size, and works in whole
// numbers, so that equal input gives equal bytes on every machine.
package fairshare

import (
	"cmp"
	"maps"
	"math/big"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

const (
	// DefaultHalfLife is a week, as is usual with batch systems.
	DefaultHalfLife = 7 * 24 * time.Hour
	// LeastHalfLife is the shortest that there is.
	LeastHalfLife = time.Minute
	// MaxKeys bounds the pairs of queue and namespace that are remembered: about
	// 300 KiB, which an object of the API server can hold. Who held least is forgotten.
	MaxKeys = 1000
	// Longest is how many seconds a pod that has not begun to run is taken to have held
	// its place at most, where nobody has looked for longer.
	Longest = 60
)

// roots are 2^-(1/2), 2^-(1/4), 2^-(1/8) and so on, in units of 2^-63, rounded down.
var roots = func() (out [32]uint64) {
	v := new(big.Int).Lsh(big.NewInt(1), 62) // a half
	for i := range out {
		v.Sqrt(v.Lsh(v, 63))
		out[i] = v.Uint64()
	}
	return out
}()

// Decay is what is left of v after a time, both times in seconds: a half for each
// half-life, rounded down. A negative time leaves all of it.
func Decay(v, after, halfLife int64) int64 {
	if v <= 0 || halfLife <= 0 {
		return 0
	}
	if after <= 0 {
		return v
	}
	halves := after / halfLife
	if halves >= 63 {
		return 0
	}
	v >>= halves
	rest, factor := uint64(after%halfLife), uint64(1)<<63
	for i := range roots { // the digits of rest/halfLife after the point
		rest *= 2
		if rest >= uint64(halfLife) {
			rest -= uint64(halfLife)
			factor, _ = bits.Mul64(factor, roots[i])
			factor <<= 1
		}
	}
	hi, lo := bits.Mul64(uint64(v), factor)
	return int64(hi<<1 | lo>>63) //nolint:gosec // at most v
}

// Average turns what was held into the part of the cluster that is held on average,
// the present counting most: who holds a part for ever comes to just that part.
func Average(v, halfLife int64) int64 {
	// A half-life by the natural logarithm of 2 is how long all that was ever held
	// counts together.
	return resource.Part(v, 693147, max(halfLife, 1)*1000000)
}

type key struct{ queue, namespace string }

// Book remembers. It is not safe for concurrent use.
type Book struct {
	at       int64 // seconds since 1970; 0 for never
	halfLife int64 // seconds
	held     map[key]map[string]int64
}

// New returns an empty book.
func New() *Book {
	return &Book{halfLife: int64(DefaultHalfLife / time.Second), held: map[key]map[string]int64{}}
}

// Keys counts the pairs of queue and namespace that are remembered.
func (b *Book) Keys() int { return len(b.held) }

// SetHalfLife has all fade by another half-life from now on.
func (b *Book) SetHalfLife(d time.Duration) {
	b.halfLife = int64(max(d, LeastHalfLife) / time.Second)
}

// advance lets all fade until a time, in seconds.
func (b *Book) advance(at int64) {
	if at <= b.at {
		return
	}
	if b.at > 0 {
		for k, of := range b.held {
			for name, v := range of {
				if v = Decay(v, at-b.at, b.halfLife); v > 0 {
					of[name] = v
				} else {
					delete(of, name)
				}
			}
			if len(of) == 0 {
				delete(b.held, k)
			}
		}
	}
	b.at = at
}

// Record adds what is held in a snapshot, from when it was called last until now. A
// pod that began to run in between counts from then on; what ended in between does
// not count. It does nothing unless a second has passed.
func (b *Book) Record(s *snapshot.Snapshot, now time.Time) {
	last, at := b.at, now.Unix()
	if at <= last {
		return
	}
	b.advance(at)
	for _, g := range s.Gangs {
		if g.Held.Zero() {
			continue
		}
		k := key{g.Queue, g.Namespace}
		for _, p := range g.Pods {
			if p.Node == "" || p.Terminal() {
				continue
			}
			from := last
			switch started := p.StartedAt / int64(time.Second); {
			case started > last:
				from = started
			case p.StartedAt == 0:
				from = max(last, at-Longest)
			}
			if last == 0 {
				from = max(from, at-Longest) // what was before is not known
			}
			if from < at {
				b.add(k, p.Class.Request, s, at-from)
			}
		}
	}
	b.bound()
}

func (b *Book) add(k key, request resource.Vector, s *snapshot.Snapshot, seconds int64) {
	of := b.held[k]
	for d, a := range request {
		if a <= 0 || s.Total[d] <= 0 {
			continue
		}
		if of == nil {
			of = map[string]int64{}
			b.held[k] = of
		}
		part := min(resource.Share(a, s.Total[d]), resource.ShareUnit)
		of[s.Dims.Name(d)] = resource.Add(of[s.Dims.Name(d)], resource.Mul(part, seconds))
	}
}

// bound forgets those who held least.
func (b *Book) bound() {
	if len(b.held) <= MaxKeys {
		return
	}
	keys := b.keys()
	slices.SortStableFunc(keys, func(x, y key) int { return cmp.Compare(b.most(y), b.most(x)) })
	for _, k := range keys[MaxKeys:] {
		delete(b.held, k)
	}
}

func (b *Book) most(k key) (v int64) {
	for _, a := range b.held[k] {
		v = max(v, a)
	}
	return v
}

func (b *Book) keys() []key {
	return slices.SortedFunc(maps.Keys(b.held), func(x, y key) int {
		return cmp.Or(strings.Compare(x.queue, y.queue), strings.Compare(x.namespace, y.namespace))
	})
}

// Usage is what is remembered, as a snapshot has it.
func (b *Book) Usage() *snapshot.Usage {
	u := &snapshot.Usage{At: b.at, HalfLife: b.halfLife}
	for _, k := range b.keys() {
		var held resource.List
		for name, a := range b.held[k] {
			held = append(held, resource.Quantity{Name: name, Amount: a})
		}
		u.Of = append(u.Of, snapshot.UsageOf{Queue: k.queue, Namespace: k.namespace, Held: resource.MakeList(held...)})
	}
	return u
}

// Merge takes in what another book knows, of each pair the larger: two books are of
// the same cluster. It may be repeated.
func (b *Book) Merge(o *Book) {
	if o.at == 0 {
		return
	}
	if b.at == 0 {
		b.at = o.at
	}
	at := max(b.at, o.at)
	b.advance(at)
	later := o.at
	for k, of := range o.held {
		for name, v := range of {
			if v = Decay(v, at-later, b.halfLife); v <= 0 {
				continue
			}
			if b.held[k] == nil {
				b.held[k] = map[string]int64{}
			}
			b.held[k][name] = max(b.held[k][name], v)
		}
	}
	b.bound()
}
