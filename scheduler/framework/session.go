package framework

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Session is one cycle under way.
type Session struct {
	Snapshot *snapshot.Snapshot
	Txn      *snapshot.Txn
	Now      time.Time
	Plan     plan.Plan
	// Ledger says what every queue is owed and holds, with this cycle's placements.
	Ledger *entitlement.Ledger

	*points                     // of queues without a profile
	profiles map[string]*points // by queue
	scope    *points            // of the queue whose gang is being placed
	mates    *mates             // of that gang, nil when its pods do not care for each other
	action   string             // the one that runs
	look     *snapshot.Gang     // the gang that is looked at
	watch    func(kind, name string) (end func())

	inqueue  map[string]bool // gangs admitted in this cycle
	letIn    []*snapshot.Gang
	short    map[string]string
	waiting  map[*snapshot.Gang]int // position in Plan.Unschedulable, nil before there are any
	verdicts map[judged]*verdict
	ofKin    map[judgedKin]*verdict // those of verdicts that classes share
	real     []int                  // positions of real nodes
	virtual  []int                  // positions of virtual nodes
	// selective says that some virtual node serves some namespaces only.
	selective bool
	// copying says that virtual nodes count to which something has to be copied first.
	copying   bool
	failed    map[string][]plan.DomainReason
	byLabel   map[string][]*snapshot.Place
	unmet     map[string]int // of the last pod that found no node for its claims: nodes by reason
	salt      string         // part of the key of failed: what else the answer depends on
	follow    *follow        // over the cycle's own transaction
	whatIf    *follow        // over the last other one, nil before the first
	marks     marks          // see marked
	memory    *memory        // of the cycle before, nil for nothing; see leave
	otherThan basis          // see others
	// madeOfKin and madeRanked are the keys of ofKin and of the cycle's own ranked, in the
	// order in which they were made.
	madeOfKin  []judgedKin
	madeRanked []judged
	found      []candidate // what candidates listed last
	spent      spent       // see goOn

	blocked    []Blocked
	turns      map[*snapshot.Gang]int     // see turnOf
	inTurns    int                        // how many of blocked are in turns
	rolls      map[*snapshot.Gang]*roll   // of gangs with nominations, see rollOf
	kept       map[string][]keptRoom      // by gang: what is kept for it
	promised   map[string]resource.Vector // by queue: what inherited nominations keep
	claimed    map[string]bool            // gangs that this cycle makes room for
	expected   []expectation
	sizes      map[string]*snapshot.Class // what is kept for pods that are not there yet
	cells      *snapshot.Cells            // of NUMA nodes, with what this cycle's pods get
	placed     map[string]bool            // pods that this cycle places
	committed  map[string][]int           // positions of a gang's placements in Plan
	evicted    map[string]bool            // pods that this cycle sends away
	sent       map[*snapshot.Gang]int     // how many those are, by gang
	sentOf     []*snapshot.Gang           // the gang of each, in their order
	goes       []leave
	goesOn     map[int][]snapshot.Item // the same by node
	future     *view                   // with those gone
	goingKnown bool
	givenBack  bool
	revoked    bool

	reserved *reserved
	bar      *bar   // of the gang that is being placed
	opened   string // the reservations that it may use, as part of the key of failed

	backfill *Backfill
	heads    []head
	ends     []end // valid once endsKnown, with the first merged of those that are started
	steps    []int // see stepsOf, nil when not worked out
	guessed  int   // position of the first of ends that is guessed, once steps are
	started  []starting
	merged   int
	unheld   string    // the gang that uses what is kept for it
	endsOn   [][]int32 // see endsByNode, nil when not worked out
	views    []*view   // at times when some have ended, by time
	asked    int       // how often one was asked for
	notes    map[any]any

	endsKnown bool

	twins   map[Twin]*Twin
	single  bool    // see Apart
	turned  int     // see Turned
	headsAt []int64 // when the planned starts are, in order, nil when not worked out
}

// NewSession opens a cycle over s.
func NewSession(p Pipeline, s *snapshot.Snapshot, now time.Time) *Session {
	defer p.watch(Opening, "")()
	ses := &Session{
		Snapshot: s, Txn: s.Begin(), Now: now,
		inqueue:  map[string]bool{},
		verdicts: map[judged]*verdict{},
		ofKin:    map[judgedKin]*verdict{},
		failed:   map[string][]plan.DomainReason{},
		byLabel:  map[string][]*snapshot.Place{},
		cells:    s.Cells(),
		kept:     map[string][]keptRoom{}, claimed: map[string]bool{}, placed: map[string]bool{}, committed: map[string][]int{}, evicted: map[string]bool{},
		sent: map[*snapshot.Gang]int{}, notes: map[any]any{},
	}
	ses.follow = newFollow(ses.Txn)
	for _, a := range p.Actions {
		if x, ok := a.(Backfiller); ok {
			b := x.Backfill()
			ses.backfill = &b
		}
	}
	ses.open(p)
	ses.real, ses.virtual, ses.selective = s.Real(), s.Virtual(), s.Selective()
	for _, g := range s.Gangs {
		ses.keep(g, g.Nominated, g.Inherited)
	}
	ses.reserve()
	return ses
}

// Note returns what is kept under a key for the length of the cycle, which make makes
// when it is asked for first: for what several actions need and is dear to work out.
func (s *Session) Note(key any, make func() any) any {
	v, ok := s.notes[key]
	if !ok {
		v = make()
		s.notes[key] = v
	}
	return v
}

// Look notes whose turn it is, so that a panic can be told from whom.
func (s *Session) Look(g *snapshot.Gang) { s.look = g }

// Looking returns the action that runs and the key of the gang that it looks at,
// "" for none.
func (s *Session) Looking() (action, gang string) {
	if s.look != nil {
		gang = s.look.Key
	}
	return s.action, gang
}

// CompareGangs is the order in which gangs are served: by the plugins, then
// age, then UID.
func (s *Session) CompareGangs(a, b *snapshot.Gang) int {
	order := s.gangOrder
	if a.Queue == b.Queue {
		order = s.pointsOf(a.Queue).gangOrder
	}
	for _, o := range order {
		if c := o.CompareGangs(a, b); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), strings.Compare(a.UID, b.UID), strings.Compare(a.Key, b.Key))
}

// CompareQueues is the order in which queues are served at this moment: by the
// plugins, which compare the two where their ways from the root part, then name.
func (s *Session) CompareQueues(a, b *snapshot.Queue) int {
	if x, y := s.Ledger.Branches(a.Name, b.Name); x != y {
		for _, o := range s.queueOrder {
			if c := o.CompareQueues(x, y); c != 0 {
				return c
			}
		}
	}
	return strings.Compare(a.Name, b.Name)
}

// Refused returns why a plugin keeps a pending PodGroup out for now, nil when none does.
func (s *Session) Refused(g *snapshot.Gang) *plan.Unschedulable {
	for _, a := range s.pointsOf(g.Queue).admission {
		if u := a.Refuse(g); u != nil {
			return u
		}
	}
	return nil
}

// Admit notes that a gang's PodGroup becomes Inqueue.
func (s *Session) Admit(g *snapshot.Gang) {
	s.inqueue[g.Key] = true
	s.letIn = append(s.letIn, g)
}

// AdmittedInTurn lists the gangs that Admit was called for, in that order. Nobody
// changes it.
func (s *Session) AdmittedInTurn() []*snapshot.Gang { return s.letIn }

// BoundsQueues reports whether what is let in is bounded for each queue.
func (s *Session) BoundsQueues() bool { return s.queueBound }

// Admitted reports whether Admit was called for the gang.
func (s *Session) Admitted(g *snapshot.Gang) bool { return s.inqueue[g.Key] }

// Wait notes that a gang waits; a later reason in the same cycle replaces an
// earlier one.
func (s *Session) Wait(g *snapshot.Gang, u plan.Unschedulable) {
	u.Gang, u.GangUID, u.Namespace, u.Name, u.Plain = g.Key, g.UID, g.Namespace, g.Name, g.Plain
	u.Message, u.Early = plan.Bound(u.Message), early(g, u.Code, s.Now)
	u.Pods = g.Refs()
	if len(s.committed[g.Key]) > 0 {
		u.Pods = slices.DeleteFunc(slices.Clone(u.Pods), func(p plan.PodRef) bool { return s.placed[p.UID] })
	}
	if i, ok := s.waiting[g]; ok {
		s.Plan.Unschedulable[i] = u
		return
	}
	if s.waiting == nil {
		n := 0
		for _, g := range s.Snapshot.Gangs {
			if g.Waiting > 0 {
				n++
			}
		}
		s.waiting, s.Plan.Unschedulable = make(map[*snapshot.Gang]int, n), make([]plan.Unschedulable, 0, n)
	}
	s.waiting[g] = len(s.Plan.Unschedulable)
	s.Plan.Unschedulable = append(s.Plan.Unschedulable, u)
}

const (
	// Filling is how long after its last pod a gang may lack more before anybody is told:
	// whoever makes a gang makes its pods one after the other.
	Filling = 2 * time.Second
	// appearing is how long after its creation a gang may lack pods before anybody is told.
	appearing = 10 * time.Second
)

// early reports whether a gang that has no place yet lacks what may be on its way. A pod
// that has just been made is held until its PodGroup is.
func early(g *snapshot.Gang, why plan.Code, now time.Time) bool {
	within := func(at int64, d time.Duration) bool {
		since := now.UnixNano() - at
		return at != 0 && since >= 0 && since < int64(d)
	}
	switch why {
	case plan.NotEnoughPods, plan.NotEnoughTaskPods, plan.Gated, plan.PodGroupNotFound:
		return g.Have() == 0 && (within(g.GrewAt, Filling) || within(g.CreatedAt, appearing))
	case plan.Held:
		return g.Plain && within(g.CreatedAt, appearing)
	}
	return false
}

// Waits returns why a gang waits, nil when nothing was noted.
func (s *Session) Waits(g *snapshot.Gang) *plan.Unschedulable {
	if i, ok := s.waiting[g]; ok {
		return &s.Plan.Unschedulable[i]
	}
	return nil
}

// Short notes that a gang holds places that are of no use to it, and why.
func (s *Session) Short(g *snapshot.Gang, why string) {
	if s.short == nil {
		s.short = map[string]string{}
	}
	s.short[g.Key] = plan.Bound(why)
}

// IsShort returns what Short was told of a gang, "" for nothing.
func (s *Session) IsShort(g *snapshot.Gang) string { return s.short[g.Key] }

// Placing reports whether this cycle has placed members of the gang.
func (s *Session) Placing(g *snapshot.Gang) bool {
	return len(s.committed[g.Key]) > 0 && slices.ContainsFunc(g.Pods, func(p *snapshot.Pod) bool { return s.placed[p.UID] })
}

// IsPlaced reports whether this cycle has placed the pod.
func (s *Session) IsPlaced(p *snapshot.Pod) bool { return s.placed[p.UID] }

// Rest counts a fit, which is in the transaction, as placed for the cycle: it is for a gang
// that will have it after a rest, and nothing is written to the plan.
func (s *Session) Rest(g *snapshot.Gang, job string, f *Fit) {
	s.turn()
	for _, a := range f.Assigned {
		for _, p := range a.Pods {
			s.Ledger.Take(g.Queue, p.Class.Request, 1)
			s.countOwned(g, p)
		}
	}
	if s.backfill != nil {
		s.started = append(s.started, starting{g, job, f.Assigned})
	}
}
