package framework

import (
	"reflect"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// points are the plugins by what they are asked, in this cycle.
type points struct {
	gangOrder   []GangOrderer
	queueOrder  []QueueOrderer
	filters     []NodeFilter
	scorers     []NodeScorer
	judges      []RoomJudge
	domainOrder []DomainOrderer
	peers       snapshot.PeerWeights
	overlooked  snapshot.Overlooked
	plainOrder  bool // of members: their priority does not count
	queueBound  bool
	enterers    []Enterer
	unalike     bool // filters or scorers tell classes of one Kin apart
	passing     bool // answers of filters or scorers do not last beyond the cycle
	lasts       []lasts
	mateScorers []MateScorer
	admission   []Admitter
	revokers    []Revoker
	rearrangers []Rearranger

	actions []string // the actions that serve the queue; nil is all
}

// lasts is a filter or scorer whose answers last, by what they depend on.
type lasts struct {
	filters, scores bool
	by              any
}

// judged is whom a verdict is about.
type judged struct {
	class *snapshot.Class
	by    *points
	bar   *bar
}

// judgedKin is whom a verdict is about that classes of one Kin share.
type judgedKin struct {
	kin string
	by  *points
	bar *bar
}

// open makes the ledger and looks for what the plugins implement, once.
func (s *Session) open(p Pipeline) {
	s.watch = p.watch
	s.Ledger = entitlement.New(s.Snapshot, p.Entitlement())
	s.points = s.pointsFor(p.Plugins)
	s.scope = s.points
	if len(p.Profiles) > 0 {
		s.profiles = map[string]*points{}
	}
	made := map[string]*points{} // queues of one profile share what their filters say
	for queue, profile := range p.Profiles {
		pts := made[profile.Name]
		if pts == nil {
			pts = s.points
			if profile.Plugins != nil {
				pts = s.pointsFor(profile.Plugins)
			}
			own := *pts
			own.actions = profile.Actions
			pts = &own
			made[profile.Name] = pts
		}
		s.profiles[queue] = pts
	}
}

// tells reports whether what a plugin says that its answers depend on can be told from what
// it says in another cycle: a value of its own type that can be compared and has no content
// that may change.
func tells(by any, pl Plugin) bool {
	if reflect.TypeOf(by) != reflect.TypeOf(pl) {
		return false
	}
	v := reflect.ValueOf(by)
	return v.Kind() != reflect.Pointer && v.Comparable()
}

func (s *Session) pointsFor(plugins []Plugin) *points {
	out := &points{}
	for _, pl := range plugins {
		off, muted := pl.(Muted)
		if muted {
			pl = off.Plugin
		}
		if x, ok := pl.(Opener); ok {
			end := s.watch(PluginOpening, pl.Name())
			pl = x.Open(s)
			end()
		}
		if x, ok := pl.(GangOrderer); ok && !off.GangOrder {
			out.gangOrder = append(out.gangOrder, x)
		}
		if x, ok := pl.(QueueOrderer); ok && !off.QueueOrder {
			out.queueOrder = append(out.queueOrder, x)
		}
		_, kin := pl.(KinJudge)
		if x, ok := pl.(NodeFilter); ok && !off.Filter {
			out.filters, out.unalike = append(out.filters, x), out.unalike || !kin
		}
		if x, ok := pl.(NodeScorer); ok && !off.DomainOrder {
			out.scorers, out.unalike = append(out.scorers, x), out.unalike || !kin
		}
		_, filters := pl.(NodeFilter)
		_, scores := pl.(NodeScorer)
		if one := (lasts{filters: filters && !off.Filter, scores: scores && !off.DomainOrder}); one.filters || one.scores {
			if x, ok := pl.(Lasting); ok {
				one.by = x.Lasts()
			}
			out.lasts, out.passing = append(out.lasts, one), out.passing || !tells(one.by, pl)
		}
		if _, ok := pl.(MemberOrderer); ok && off.MemberOrder {
			out.plainOrder = true
		}
		if x, ok := pl.(Overlooker); ok {
			out.overlooked = x.Overlooks()
		}
		if x, ok := pl.(PeerWeigher); ok && !off.DomainOrder {
			out.peers = x.PeerWeights()
		}
		if x, ok := pl.(RoomJudge); ok && !off.DomainOrder {
			out.judges = append(out.judges, x)
		}
		if x, ok := pl.(DomainOrderer); ok && !off.DomainOrder && !off.Domains {
			out.domainOrder = append(out.domainOrder, x)
		}
		if x, ok := pl.(Enterer); ok {
			out.enterers = append(out.enterers, x)
		}
		if x, ok := pl.(MateScorer); ok && !off.DomainOrder {
			out.mateScorers = append(out.mateScorers, x)
		}
		if x, ok := pl.(Revoker); ok && !off.Revoking {
			out.revokers = append(out.revokers, x)
		}
		if x, ok := pl.(Rearranger); ok && !off.Revoking {
			out.rearrangers = append(out.rearrangers, x)
		}
		if _, ok := pl.(QueueBounder); ok && !off.Admission {
			out.queueBound = true
		}
		if x, ok := pl.(Admitter); ok && !off.Admission {
			out.admission = append(out.admission, x)
		}
	}
	return out
}

func (s *Session) pointsOf(queue string) *points {
	if p := s.profiles[queue]; p != nil {
		return p
	}
	return s.points
}

// enter says whose gang is placed from now on: the profile of its queue says
// which filters and orders count.
func (s *Session) enter(g *snapshot.Gang) {
	s.scope, s.bar = s.pointsOf(g.Queue), s.barOf(g)
	s.Txn.Overlook(s.scope.overlooked)
	for _, e := range s.scope.enterers {
		e.Enter(g)
	}
	s.mates = s.matesOf(g)
}

// PlacingOrder is the order in which a gang's waiting members are placed when not all
// can be.
func (s *Session) PlacingOrder(g *snapshot.Gang) func(a, b *snapshot.Pod) int {
	if s.pointsOf(g.Queue).plainOrder {
		return snapshot.ComparePods
	}
	return snapshot.ComparePlacing
}

// Act runs an action.
func (s *Session) Act(a Action) {
	s.action, s.look = a.Name(), nil
	defer s.watch(Acting, a.Name())()
	a.Run(s)
}

// Serves reports whether an action serves the gangs of a queue: all do unless the
// queue has a profile that names others.
func (s *Session) Serves(action, queue string) bool {
	p := s.pointsOf(queue)
	return p.actions == nil || slices.Contains(p.actions, action)
}
