package framework

import (
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Whoever may write PodGroups can write a nomination on one. What this scheduler has not
// decided itself counts as far as the one before it could have decided it.

// plausible are those of the rooms of an inherited nomination that the gang could use: one
// for each name, no more than it has members that are there, and asking together for no
// more than these do. Room for members that are there goes before that for members that are
// yet to be made anew. All rooms of a queue together are no more than what it and those
// above it may ever hold, and there are none where nothing of it may be placed.
func (s *Session) plausible(g *snapshot.Gang, rooms []keptRoom) []keptRoom {
	if _, ok := QueueReason(s, g); !ok {
		return nil
	}
	there := map[string]bool{}
	left := make(resource.Vector, s.Snapshot.Dims.Len())
	for _, p := range g.Pods {
		if p.Phase != snapshot.PodSucceeded {
			there[p.Name] = true
			left.AddScaled(p.Class.Request, 1)
		}
	}
	members, sum := len(there), make(resource.Vector, len(left))
	take := make([]bool, len(rooms))
	named := map[string]bool{}
	for _, known := range []bool{true, false} {
		for i, r := range rooms {
			if there[r.pod.Name] != known || named[r.pod.Name] || len(named) == members || !left.Covers(r.pod.Class.Request) {
				continue
			}
			take[i], named[r.pod.Name] = true, true
			left.SubScaled(r.pod.Class.Request, 1)
			sum.AddScaled(r.pod.Class.Request, 1)
		}
	}
	if !s.promise(g.Queue, sum) {
		return nil
	}
	var out []keptRoom
	for i, r := range rooms {
		if take[i] {
			out = append(out, r)
		}
	}
	return out
}

// promise counts what gangs of a queue have been left of rooms, and reports whether the
// queue and those above it may ever hold as much.
func (s *Session) promise(queue string, v resource.Vector) bool {
	above := s.Ledger.Above(queue)
	if s.promised == nil {
		s.promised = map[string]resource.Vector{}
	}
	for _, q := range above {
		all := s.promised[q.Name]
		if all == nil {
			all = make(resource.Vector, len(v))
			s.promised[q.Name] = all
		}
		for d, a := range v {
			if a > 0 && q.Limits(d) && resource.Add(all[d], a) > q.Capability[d] {
				return false
			}
		}
	}
	for _, q := range above {
		s.promised[q.Name].AddScaled(v, 1)
	}
	return true
}

// lately is how long after it began to run a pod may be one that room was made for.
const lately = 15 * time.Minute

// MadeRoomFor reports whether others were sent away for the gang a while ago: who is sent
// away for the next in its place went in vain. An inherited nomination has to be of a pod
// that waits for the room, or has not run for longer than any is kept.
func (s *Session) MadeRoomFor(g *snapshot.Gang) bool {
	n := g.Nominated
	if !n.Keeps(s.Now.UnixNano()) || g.OnlyToMove() {
		return false
	}
	if !g.Inherited || s.Nominated(g) {
		return true
	}
	m := s.rollOf(g)
	there := func(p *snapshot.Pod, node string) bool {
		return p != nil && p.Node == node && (p.StartedAt == 0 || s.Now.UnixNano()-p.StartedAt < int64(lately))
	}
	for _, np := range n.Pods {
		if there(m.byUID[np.UID], np.Node) || np.Name != "" && there(m.byName[np.Name], np.Node) {
			return true
		}
	}
	return false
}

// KeepsOn reports whether room is kept for the gang on a node.
func (s *Session) KeepsOn(g *snapshot.Gang, node int) bool {
	for _, r := range s.kept[g.Key] {
		if r.node == node {
			return true
		}
	}
	return false
}
