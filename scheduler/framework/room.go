package framework

import (
	"iter"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Blocked is a gang whose minimum found no room in this cycle.
type Blocked struct {
	Gang *snapshot.Gang
	// Job is the batch job that Must, the members that have to be placed
	// together, would belong to.
	Job  string
	Must []*snapshot.Pod
	// Twin is what TwinOf says of the gang.
	Twin *Twin
}

// Block notes that the minimum of a gang found no room; later actions may make some.
func (s *Session) Block(b Blocked) {
	if b.Twin == nil {
		b.Twin = s.TwinOf(b.Gang)
	}
	s.blocked = append(s.blocked, b)
}

// turnOf is when a blocked gang was looked at first, as a position in blocked, and whether
// it was. Hardly any cycle asks.
func (s *Session) turnOf(g *snapshot.Gang) (int, bool) {
	if s.turns == nil {
		s.turns = make(map[*snapshot.Gang]int, len(s.blocked))
	}
	for ; s.inTurns < len(s.blocked); s.inTurns++ {
		g := s.blocked[s.inTurns].Gang
		if _, looked := s.turns[g]; !looked {
			s.turns[g] = s.inTurns
		}
	}
	turn, looked := s.turns[g]
	return turn, looked
}

// BlockedCount is how often Block was called.
func (s *Session) BlockedCount() int { return len(s.blocked) }

// BlockedGangs lists the gangs without room in the order in which they were looked at.
// Those that room was made for, by the time that it is their turn, are not among them, nor
// those of which members were sent away, that need more now than was looked for, nor those
// whose queue has a profile without the action that runs.
func (s *Session) BlockedGangs() iter.Seq[Blocked] {
	return func(yield func(Blocked) bool) {
		for _, b := range slices.Clone(s.blocked) {
			if !s.claimed[b.Gang.Key] && s.sent[b.Gang] == 0 && s.Serves(s.action, b.Gang.Queue) && !yield(b) {
				return
			}
		}
	}
}

// keptRoom is what is kept on one node for pods of a nominated gang.
type keptRoom struct {
	node int
	pod  *snapshot.Pod
	// at is when the pod has ended at the latest, and guessed says that nobody knows.
	at      int64
	guessed bool
}

// like reports whether the two can be counted as one item: ports are no amounts.
func (r keptRoom) like(o keptRoom) bool {
	return r.node == o.node && r.at == o.at && r.pod.Class == o.pod.Class && len(r.pod.Class.HostPorts) == 0
}

const newJobSuffix = "/new"

// newJob is the batch job of members that are not placed yet.
func newJob(g *snapshot.Gang) string { return g.Key + newJobSuffix }

// NewJob is the batch job that these members will be: the same for all that are
// placed in one cycle, but one for each of a loose gang.
func NewJob(g *snapshot.Gang, pods []*snapshot.Pod) string {
	if g.Loose && len(pods) == 1 {
		return newJob(g) + "/" + pods[0].UID
	}
	return newJob(g)
}

// Nominated reports whether room is kept for the gang.
func (s *Session) Nominated(g *snapshot.Gang) bool { return len(s.kept[g.Key]) > 0 }

// keep puts the pods of a nomination that still wait where room was made for
// them. The pods in the way may still be there: then the node has less than nothing free.
// One that this scheduler has inherited counts as far as it is plausible.
func (s *Session) keep(g *snapshot.Gang, n *snapshot.Nomination, inherited bool) {
	if !n.Keeps(s.Now.UnixNano()) || n.Used {
		return
	}
	if begun, _ := s.moving(g, n); !begun {
		return
	}
	if g.HasMinimum() && !slices.ContainsFunc(n.Pods, func(p snapshot.NominatedPod) bool { return p.Name != "" }) {
		return // it found its minimum elsewhere, and for more than that no room is made
	}
	at, guessed := resource.Add(n.Until, g.Estimate), g.Estimate <= 0
	if guessed {
		at = resource.Add(n.Until, int64(unknownRun))
	}
	var rooms []keptRoom
	for _, np := range n.Pods {
		node, ok := s.Snapshot.Node(np.Node)
		if ok && np.Name != "" {
			if p := s.standIn(g, np); p != nil {
				rooms = append(rooms, keptRoom{node, p, at, guessed})
			}
			continue
		}
		if p := s.rollOf(g).byUID[np.UID]; ok && p != nil && p.Waits() {
			rooms = append(rooms, keptRoom{node, p, at, guessed})
		}
	}
	if inherited {
		rooms = s.plausible(g, rooms)
	}
	if len(rooms) > 0 {
		s.turn()
		s.kept[g.Key] = rooms
		s.Rehold(g)
		s.forgetEnds()
	}
}

// Unhold lets the gang itself use the room that is kept for it. It is followed
// by Rehold.
func (s *Session) Unhold(g *snapshot.Gang) {
	s.openReserved(g)
	if s.Nominated(g) {
		s.turn()
		s.unheld = g.Key
		s.forgetEnds()
		s.salt = g.Key + " "
		s.fillRooms(g, false)
		s.countRooms(g, -1)
	}
}

// Rehold keeps the room again for those pods that were not placed meanwhile.
func (s *Session) Rehold(g *snapshot.Gang) {
	s.kept[g.Key] = slices.DeleteFunc(s.kept[g.Key], func(r keptRoom) bool { return s.placed[r.pod.UID] })
	s.fillRooms(g, true)
	s.countRooms(g, 1)
	if s.unheld == g.Key {
		s.unheld = ""
		s.forgetEnds()
	}
	s.salt = ""
	s.closeReserved(g)
}

func (s *Session) fillRooms(g *snapshot.Gang, put bool) {
	rooms := s.kept[g.Key]
	for len(rooms) > 0 {
		it := snapshot.Item{Class: rooms[0].pod.Class, Job: newJob(g), Count: 1}
		n := 1
		for n < len(rooms) && rooms[n].node == rooms[0].node && rooms[n].pod.Class == it.Class {
			n++
		}
		it.Count = int64(n)
		if put {
			s.Txn.Keep(rooms[0].node, it)
		} else {
			s.Txn.Unkeep(rooms[0].node, it)
		}
		rooms = rooms[n:]
	}
}

// countRooms counts what is kept as held, n times.
func (s *Session) countRooms(g *snapshot.Gang, n int64) {
	for _, r := range s.kept[g.Key] {
		s.Ledger.Take(g.Queue, r.pod.Class.Request, n)
	}
}

// WhatIf runs f with txn in place of the cycle's own transaction.
func (s *Session) WhatIf(txn *snapshot.Txn, f func()) {
	was, failed, salt := s.Txn, s.failed, s.salt
	s.Txn, s.failed, s.salt = txn, map[string][]plan.DomainReason{}, ""
	defer func() { s.Txn, s.failed, s.salt = was, failed, salt }()
	f()
}

// Future returns the state once every pod that is going away is gone, as a
// transaction of the caller's own. The room that is kept for g itself is free, and that
// which others only expect who were looked at after it.
func (s *Session) Future(g *snapshot.Gang) *snapshot.Txn {
	s.leaving()
	txn := s.fork(s.afterLeaving())
	s.WhatIf(txn, func() {
		s.fillRooms(g, false)
		for _, e := range s.behind(g) {
			s.fillRooms(e.gang, false)
		}
		s.freeReserved(g)
	})
	return txn
}

type leave struct {
	node int
	item snapshot.Item
}

// Leaving reports whether anything is going away.
func (s *Session) Leaving() bool { return len(s.leaving()) > 0 }

// leaving lists what goes away by itself, or because this cycle says so. From the
// first time that anybody asks, the ledger counts it as given back.
func (s *Session) leaving() []leave {
	s.going()
	if !s.givenBack {
		s.givenBack = true
		s.turn()
		s.eachGoing(func(g *snapshot.Gang, p *snapshot.Pod) { s.Ledger.Give(g.Queue, p.Class.Request, 1) })
	}
	return s.goes
}

// going is leaving, and nothing is given back: the queues still hold it.
func (s *Session) going() []leave {
	if !s.goingKnown {
		s.goingKnown = true
		s.eachGoing(s.leave)
	}
	return s.goes
}

func (s *Session) eachGoing(f func(*snapshot.Gang, *snapshot.Pod)) {
	for _, g := range s.Snapshot.Gangs {
		if g.AllWait() {
			continue
		}
		for _, p := range g.Pods {
			if p.Terminating && p.Node != "" && !p.Terminal() {
				f(g, p)
			}
		}
	}
}

func (s *Session) leave(g *snapshot.Gang, p *snapshot.Pod) {
	if i, ok := s.Snapshot.Node(p.Node); ok && !p.Terminal() {
		s.goes = append(s.goes, leave{i, p.Item(g.Key)})
		if s.goesOn == nil {
			s.goesOn = map[int][]snapshot.Item{}
		}
		s.goesOn[i] = append(s.goesOn[i], p.Item(g.Key))
	}
}

// Evicted reports whether this cycle has sent the pod away.
func (s *Session) Evicted(p *snapshot.Pod) bool { return s.evicted[p.UID] }

// Sent counts the pods of a gang that this cycle has sent away.
func (s *Session) Sent(g *snapshot.Gang) int { return s.sent[g] }

// SentInTurn has the gang of each pod that this cycle has sent away, in that order. Nobody
// changes it.
func (s *Session) SentInTurn() []*snapshot.Gang { return s.sentOf }

// Evict notes that a pod goes and returns the entry for the plan.
func (s *Session) Evict(g *snapshot.Gang, p *snapshot.Pod) plan.Eviction {
	s.leaving() // what goes by itself is listed before what is sent
	s.startWithout(g, p)
	s.turn()
	s.evicted[p.UID] = true
	s.sent[g]++
	s.sentOf = append(s.sentOf, g)
	s.leave(g, p)
	s.Ledger.Give(g.Queue, p.Class.Request, 1)
	s.sendOwned(g, p)
	return plan.Eviction{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Gang: g.Key, Node: p.Node}
}

// Claim makes a fit for members of a gang the room that is kept for it, and
// tells so in the plan. The fit was found in the future that the evictions make.
func (s *Session) Claim(b Blocked, f *Fit, until int64, c plan.Claim) {
	s.claim(b.Gang, f, until, c, false)
}

func (s *Session) claim(g *snapshot.Gang, f *Fit, until int64, c plan.Claim, byName bool) {
	s.turn()
	s.unplan(g)
	s.startWith(g, false)
	s.Unhold(g)
	s.kept[g.Key], s.unheld = nil, ""
	n := nomination(s, f, byName)
	n.Since, n.Until, n.Evicted, n.Moved = s.Now.UnixNano(), until, len(c.Evictions), g.MovedBy(s.Now)
	if byName {
		n.Leaves = left(c, n)
	}
	c.Gang, c.GangUID, c.Namespace, c.Name, c.Plain, c.Native, c.Nomination = g.Key, g.UID, g.Namespace, g.Name, g.Plain, g.Native, n
	s.Plan.Claims = append(s.Plan.Claims, c)
	s.claimed[g.Key] = true
	s.keep(g, &n, false)
	s.startWith(g, true)
	s.takeExpected(g)
}

// Move makes a fit for the members of a gang that this cycle sends away the room that
// is kept for those that its owner makes anew under their names. The fit was found in
// the future that the evictions of c make.
func (s *Session) Move(g *snapshot.Gang, f *Fit, until int64, c plan.Claim) {
	s.claim(g, f, until, c, true)
}

// left lists the nodes that those who are moved leave, each once.
func left(c plan.Claim, n snapshot.Nomination) []string {
	var out []string
	known := make(map[string]bool, len(n.Pods)) // where some stay, and what is listed
	for _, p := range n.Pods {
		known[p.Node] = true
	}
	for _, e := range c.Evictions {
		if !known[e.Node] {
			known[e.Node] = true
			out = append(out, e.Node)
		}
	}
	return out
}

// standIn is who room is kept for in place of a pod that was moved: the pod that took
// its name and waits, before there is one something of its size, and nobody when it is
// placed or needs no place any more.
func (s *Session) standIn(g *snapshot.Gang, np snapshot.NominatedPod) *snapshot.Pod {
	if p := s.rollOf(g).byName[np.Name]; p != nil {
		switch {
		case p.Waits():
			return p
		case p.Phase == snapshot.PodSucceeded, p.UID != np.UID && p.Node != "" && !p.Terminating:
			return nil
		}
	}
	spec := snapshot.ClassSpec{Requests: np.Needs}
	if s.sizes == nil {
		s.sizes = map[string]*snapshot.Class{}
	}
	key := spec.Key()
	if s.sizes[key] == nil {
		s.sizes[key] = snapshot.NewClass(spec, key, s.Snapshot.Dims)
	}
	return &snapshot.Pod{Name: np.Name, Namespace: g.Namespace, Phase: snapshot.PodPending, Class: s.sizes[key]}
}

// Expect keeps a fit for the rest of the cycle only: what is in its way goes by
// itself, on its nodes or of what its queue may hold, and nobody else is to count on it.
// Where nothing goes the gang is held back
// for the sake of another, which this room may be for; so it is where the gang would put
// off a planned start there.
func (s *Session) Expect(b Blocked, f *Fit) {
	g := b.Gang
	if s.Nominated(g) {
		s.claimed[g.Key] = true
		return
	}
	if f = s.besideStarts(b, f); f == nil {
		return
	}
	s.leaving()
	what := "waits for pods on " + f.Domain.Name + " that are going away"
	if !slices.ContainsFunc(f.Assigned, func(a Assignment) bool { return len(s.goesOn[a.Node]) > 0 }) {
		if was := s.Waits(g); was == nil || was.Code != plan.OverQuota || !s.Leaving() {
			return
		}
		what = "waits for pods that are going away: with them its queue would hold too much"
	}
	n := nomination(s, f, false)
	n.Until = s.Now.UnixNano() + 1
	s.expected = append(s.expected, expectation{g, s.waited(g)})
	s.claimed[g.Key] = true
	s.keep(g, &n, false)
	s.takeExpected(g)
	s.Wait(g, plan.Unschedulable{Code: plan.Nominated, Message: what})
}

func nomination(s *Session, f *Fit, byName bool) snapshot.Nomination {
	n := snapshot.Nomination{Domain: f.Domain.Name}
	type at struct {
		pod  *snapshot.Pod
		node int
	}
	var all []at
	for _, a := range f.Assigned {
		for _, p := range a.Pods {
			all = append(all, at{p, a.Node})
		}
	}
	slices.SortFunc(all, func(a, b at) int { return snapshot.ComparePods(a.pod, b.pod) })
	for _, a := range all {
		np := snapshot.NominatedPod{UID: a.pod.UID, Node: s.Snapshot.Nodes[a.node].Name}
		if byName {
			np.Name, np.Needs = a.pod.Name, a.pod.Class.Requests
		}
		n.Pods = append(n.Pods, np)
	}
	return n
}
