// Package whatif makes room for a gang by sending others away. It works out who
// would have to go, tries the whole placement without them, by the search that
// every action uses, and says so in the plan at once, or changes nothing. Who may
// be sent away for whom is the business of the actions that use it.
package whatif

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Unit is pods that go together: members that a gang has beyond its minimum, or
// all that is left of a gang without those.
type Unit struct {
	Gang  *snapshot.Gang
	Pods  []*snapshot.Pod
	Whole bool
	// Lost is the work that is lost: run time in seconds times the dominant share.
	Lost int64
	// Asks is what the pods ask for together. Nobody changes it.
	Asks resource.Vector

	cost int64 // what is lost, and no less than of those of its gang that go before it
	nth  int   // of those of its gang
	at   []int // the nodes of the pods, -1 for one that does not exist
	pos  int   // of those of a pool: of the gang among the holders
	sent int   // and how many of it had been sent away
}

// Rules are what makes a pod safe from everybody.
type Rules struct {
	// MinRun is how long a pod runs at least before its place may be taken; 0 is
	// DefaultMinRun, and anything negative no time at all.
	MinRun time.Duration
	// SpareWholes has no gang go as a whole, only what it has beyond its minimum.
	SpareWholes bool
}

// DefaultMinRun is long enough that a pod which was just started is not sent
// away again at once, and short beside what any job of worth takes.
const DefaultMinRun = time.Minute

// Units lists what may go, cheapest first: members beyond a minimum before whole
// gangs, lower priority before higher, little lost work before much, young before
// old. Only gangs that eligible admits are looked at. The units are shared: the caller may
// change the list, and not them.
func Units(s *framework.Session, r Rules, eligible func(*snapshot.Gang) bool) []*Unit {
	all := poolOf(s, r, "")
	for i, g := range all.gangs {
		if eligible(g) {
			all.ask(i)
		}
	}
	return all.pick()
}

// UnitsOf lists those of one queue, and looks at no other.
func UnitsOf(s *framework.Session, r Rules, queue string, eligible func(*snapshot.Gang) bool) []*Unit {
	all := poolOf(s, r, queue)
	for i, g := range all.gangs {
		if eligible(g) {
			all.ask(i)
		}
	}
	return all.pick()
}

// UnitsIn lists those of some queues, and looks at no others.
func UnitsIn(s *framework.Session, r Rules, queues []string) []*Unit {
	if len(queues) == 0 {
		return nil
	}
	all := poolOf(s, r, "")
	of := holdersOf(s).byQueue
	for _, queue := range queues {
		for _, i := range of[queue] {
			all.ask(i)
		}
	}
	return all.pick()
}

// Own lists what a gang holds beyond its minimum once those pods of it that have to be
// placed now have their place: it gives that up before it stays without them.
func Own(s *framework.Session, r Rules, b framework.Blocked) []*Unit {
	return r.own(s, b, func(p *snapshot.Pod) bool { return r.mayGo(s, p) })
}

// OwnBelow lists, of those, the pods of lower priority than each of them that have to be placed.
func OwnBelow(s *framework.Session, r Rules, b framework.Blocked) []*Unit {
	if len(b.Must) == 0 {
		return nil
	}
	least := slices.MinFunc(b.Must, func(p, o *snapshot.Pod) int { return cmp.Compare(p.Priority, o.Priority) }).Priority
	return r.own(s, b, func(p *snapshot.Pod) bool { return p.Priority < least && r.mayGo(s, p) })
}

func (r Rules) own(s *framework.Session, b framework.Blocked, mayGo func(*snapshot.Pod) bool) []*Unit {
	live := r.live(s, b.Gang)
	if !slices.ContainsFunc(live, mayGo) {
		return nil // as of nearly all that wait
	}
	var out []*Unit
	for i, ps := range slack(s, b.Gang, live, b.Must, mayGo) {
		u := newUnit(s, Unit{Gang: b.Gang, Pods: ps, nth: i})
		out = append(out, &u)
	}
	return out
}

func compare(a, b *Unit) int {
	switch { // asked so often that it matters
	case a.Whole != b.Whole:
		return order(a.Whole) - order(b.Whole)
	case a.Gang == b.Gang:
		return cmp.Compare(a.nth, b.nth)
	}
	return cmp.Or(cmp.Compare(a.Gang.Priority, b.Gang.Priority), cmp.Compare(a.cost, b.cost),
		cmp.Compare(b.Gang.CreatedAt, a.Gang.CreatedAt), strings.Compare(a.Gang.Key, b.Gang.Key))
}

func order(b bool) int {
	if b {
		return 1
	}
	return 0
}

// of splits one gang into units, and says what of it is spared.
func (r Rules) of(s *framework.Session, g *snapshot.Gang) ([]Unit, []*spared) {
	live := r.live(s, g)
	if len(live) == 0 {
		return nil, nil
	}
	mayGo := func(p *snapshot.Pod) bool { return r.mayGo(s, p) }
	fixed := slices.ContainsFunc(live, func(p *snapshot.Pod) bool { return !mayGo(p) })
	var out []Unit
	loose := map[string]bool{}
	for i, ps := range slack(s, g, live, nil, mayGo) {
		u := newUnit(s, Unit{Gang: g, Pods: ps, nth: i})
		if i > 0 {
			u.cost = max(u.cost, out[i-1].cost)
		}
		out = append(out, u)
		for _, p := range ps {
			loose[p.UID] = true
		}
	}
	core := slices.DeleteFunc(slices.Clone(live), func(p *snapshot.Pod) bool { return loose[p.UID] })
	if len(core) > 0 && !fixed && !r.SpareWholes {
		out = append(out, newUnit(s, Unit{Gang: g, Pods: core, Whole: true}))
	}
	var stay []*spared
	if fixed && !r.SpareWholes {
		if sp := r.spare(s, core); sp != nil {
			stay = append(stay, sp)
		}
	}
	for i := range out {
		if sp := covered(s, &out[i]); sp != nil {
			stay = append(stay, sp)
		}
	}
	return out, stay
}

// live lists the pods of a gang that hold something and are not going away.
func (Rules) live(s *framework.Session, g *snapshot.Gang) (out []*snapshot.Pod) {
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() && !p.Terminating && !s.Evicted(p) {
			out = append(out, p)
		}
	}
	return out
}

func newUnit(s *framework.Session, u Unit) Unit {
	u.Lost = lost(s, u.Pods)
	u.cost, u.Asks, u.at = u.Lost, make(resource.Vector, s.Snapshot.Dims.Len()), make([]int, 0, len(u.Pods))
	for _, p := range u.Pods {
		u.Asks.AddScaled(p.Class.Request, 1)
		i, ok := s.Snapshot.Node(p.Node)
		if !ok {
			i = -1
		}
		u.at = append(u.at, i)
	}
	return u
}

// mayGo reports whether a pod's place may be taken at all now.
func (r Rules) mayGo(s *framework.Session, p *snapshot.Pod) bool {
	if p.Protected != "" || p.Assumed {
		return false
	}
	return p.StartedAt == 0 || s.Now.UnixNano()-p.StartedAt >= r.safe(p)
}

// safe is for how long after its start a pod is left alone, in nanoseconds.
func (r Rules) safe(p *snapshot.Pod) int64 {
	if r.MinRun == 0 {
		r.MinRun = DefaultMinRun
	}
	return max(int64(r.MinRun), p.Cooldown)
}

// slack lists the members that the gang can do without, of those that may go, in sets that go
// together: pods of one batch job go only with all of it, and parts whole. Those of lower
// priority go first, and then those with little lost. Those that are
// coming count as if they had their place.
func slack(s *framework.Session, g *snapshot.Gang, live, coming []*snapshot.Pod, mayGo func(*snapshot.Pod) bool) [][]*snapshot.Pod {
	var have int64
	byTask := map[string]int64{}
	for _, p := range g.Pods {
		if p.Counts() && !s.Evicted(p) {
			have++
			byTask[p.Task]++
		}
	}
	for _, p := range coming {
		have++
		byTask[p.Task]++
	}
	spare := have - g.Minimum()
	if spare <= 0 || g.ActsOnEviction {
		return nil // it stands or falls together where its Job sees to that
	}
	parts := partsOf(s, g, coming)
	byJob := map[string][]*snapshot.Pod{}
	var jobs []string
	for _, p := range live {
		job := cmp.Or(p.PartOf(), p.UID)
		if i, ok := s.Snapshot.Node(p.Node); ok && s.Snapshot.Nodes[i].Virtual {
			job = p.Job(g.Key)
		}
		if byJob[job] == nil {
			jobs = append(jobs, job)
		}
		byJob[job] = append(byJob[job], p)
	}
	slices.SortStableFunc(jobs, func(a, b string) int {
		return cmp.Or(cmp.Compare(highest(byJob[a]), highest(byJob[b])), cmp.Compare(lost(s, byJob[a]), lost(s, byJob[b])), -snapshot.ComparePods(byJob[a][0], byJob[b][0]))
	})
	need := map[string]int64{}
	for _, t := range g.TaskMinimums() {
		need[t.Task] = t.Min
	}
	var out [][]*snapshot.Pod
	for _, job := range jobs {
		ps := byJob[job]
		if int64(len(ps)) > spare || slices.ContainsFunc(ps, func(p *snapshot.Pod) bool { return !mayGo(p) }) {
			continue
		}
		left := map[string]int64{}
		ok := true
		for _, p := range ps {
			left[p.Task]++
			ok = ok && byTask[p.Task]-left[p.Task] >= need[p.Task]
		}
		if !ok || !parts.spare(ps) {
			continue
		}
		for task, n := range left {
			byTask[task] -= n
		}
		spare -= int64(len(ps))
		out = append(out, ps)
	}
	return out
}

// highest is the highest priority of pods.
func highest(pods []*snapshot.Pod) int32 {
	return slices.MaxFunc(pods, func(a, b *snapshot.Pod) int { return cmp.Compare(a.Priority, b.Priority) }).Priority
}

// lost is the work that ending pods now throws away.
func lost(s *framework.Session, pods []*snapshot.Pod) int64 {
	var sum int64
	for _, p := range pods {
		if p.StartedAt == 0 {
			continue
		}
		ran := max(s.Now.UnixNano()-p.StartedAt, 0) / int64(time.Second)
		share, _ := p.Class.Request.Dominant(s.Snapshot.Total)
		sum = resource.Add(sum, resource.Mul(ran, share))
	}
	return sum
}
