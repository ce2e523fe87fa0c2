package entitlement_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// refusal is Ledger.Refuses as it is meant: by a look at everybody beside each queue on the way.
func refusal(s *snapshot.Snapshot, l *entitlement.Ledger, queue string, need resource.Vector) *entitlement.Refusal {
	above := l.Above(queue)
	if above == nil && l.Queue(queue) == nil {
		return nil
	}
	path := append([]*entitlement.Queue{l.Queues()[0]}, above...)
	for k := len(path) - 1; k >= 0; k-- {
		q := path[k]
		for d, a := range need {
			after := resource.Add(q.Held[d], a)
			out := &entitlement.Refusal{Queue: q.Name, Resource: s.Dims.Name(d), Need: a, Held: q.Held[d], Limit: q.Capability[d]}
			switch {
			case a <= 0:
				continue
			case after > q.Capability[d] && q.Binds(d):
				return out
			case k == 0 || after <= q.Guarantee[d]:
				continue
			}
			left := resource.Sub(path[k-1].Capability[d], path[k-1].Held[d])
			var kept, most, guaranteed, largest int64
			var whose, whom string
			for _, o := range l.Below(path[k-1]) {
				if o == q {
					continue
				}
				guaranteed += o.Guarantee[d]
				if o.Guarantee[d] > largest {
					largest, whom = o.Guarantee[d], o.Name
				}
				idle := max(min(o.Guarantee[d]-o.Held[d], o.Guarantee[d]), 0)
				kept += idle
				if idle > most {
					most, whose = idle, o.Name
				}
			}
			if kept > 0 && a <= left && a > left-kept {
				out.Limit, out.For = resource.Add(q.Held[d], max(left-kept, 0)), whose
				return out
			}
			if limit := max(path[k-1].Capability[d]-guaranteed, 0); guaranteed > 0 && after > limit {
				out.Limit, out.For = limit, whom
				return out
			}
		}
	}
	return nil
}

// TestRefusalsNeedNoLookAtEverybody: what is kept up with what is taken and given says the
// same as a look at all queues, in forks as well, and so does what each queue could hold.
func TestRefusalsNeedNoLookAtEverybody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world(rapid.Int64Range(0, 40).Draw(t, "total"))
		drawQueues(t, w)
		s := w.Snapshot()
		ledgers := []*entitlement.Ledger{entitlement.New(s, entitlement.Options{Mode: entitlement.Declared, Annotations: true})}
		taken := []map[string]int64{{}}
		amounts := func() resource.Vector {
			v := make(resource.Vector, s.Dims.Len())
			for d := range v {
				v[d] = rapid.Int64Range(0, 9).Draw(t, "amount")
			}
			return v
		}
		one := amounts()
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				i, queue := rapid.IntRange(0, len(ledgers)-1).Draw(t, "ledger"), rapid.SampledFrom(w.Queues).Draw(t, "queue").Name
				n := rapid.Int64Range(-taken[i][queue], 3).Draw(t, "times")
				taken[i][queue] += n
				if n < 0 {
					ledgers[i].Give(queue, one, -n)
				} else {
					ledgers[i].Take(queue, one, n)
				}
			},
			"fork": func(t *rapid.T) {
				i := rapid.IntRange(0, len(ledgers)-1).Draw(t, "ledger")
				more := map[string]int64{}
				for q, n := range taken[i] {
					more[q] = n
				}
				ledgers, taken = append(ledgers, ledgers[i].Fork()), append(taken, more)
			},
			"": func(t *rapid.T) {
				l, need := ledgers[rapid.IntRange(0, len(ledgers)-1).Draw(t, "ledger")], amounts()
				for _, q := range w.Queues {
					got, want := l.Refuses(q.Name, need), refusal(s, l, q.Name, need)
					if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
						t.Fatalf("queue %s, %v: %+v, want %+v", q.Name, need, got, want)
					}
				}
				for _, q := range l.Queues() {
					sum := make(resource.Vector, s.Dims.Len())
					for _, up := range l.Queues() {
						for _, c := range l.Below(up) {
							if c == q {
								for _, o := range l.Below(up) {
									if o != q {
										sum.AddScaled(o.Guarantee, 1)
									}
								}
							}
						}
					}
					if got := l.Beside(q); got.Compare(sum) != 0 {
						t.Fatalf("beside %s %v is guaranteed, want %v", q.Name, got, sum)
					}
				}
			},
		})
	})
}
