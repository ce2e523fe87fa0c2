package snapshot

import (
	"slices"
	"time"
)

// Picks says which pods a plugin has to know of: those with all the labels and a lower
// priority than that of the priority class Below, "" for any.
type Picks struct {
	Labels map[string]string
	Below  string
}

// Moved is how a gang was moved. It goes with the gang's nomination, from each to the
// next.
type Moved struct {
	Times int `json:"times"`
	// At is when it was moved last, in nanoseconds since 1970.
	At int64 `json:"at"`
	// From are the nodes that it left, the last ones at the end.
	From []string `json:"from,omitempty"`
}

const (
	// remembered is how long after its last move it counts that a gang was moved.
	remembered = 24 * time.Hour
	// mostLeft bounds the nodes that are remembered of a gang.
	mostLeft = 32
)

// MovedBy returns how the gang was moved of late, nil when it was not. A move that was
// only written down is none: the scheduler that wrote it may have ended then.
func (g *Gang) MovedBy(now time.Time) *Moved {
	n := g.Nominated
	if n == nil {
		return nil
	}
	m := n.Moved
	if (m == nil || m.At != n.Since) && g.begun(n) {
		m = m.Again(time.Unix(0, n.Since), n.Leaves)
	}
	if m == nil || now.UnixNano()-m.At > int64(remembered) {
		return nil
	}
	return m
}

// OnlyToMove reports whether it was written down that the gang is moved, and nobody has
// gone for it.
func (g *Gang) OnlyToMove() bool {
	n := g.Nominated
	return n != nil && slices.ContainsFunc(n.Pods, func(np NominatedPod) bool { return np.Name != "" }) && !g.begun(n)
}

// begun reports whether a nomination is that of a move, and some pod has gone for it.
func (g *Gang) begun(n *Nomination) bool {
	return slices.ContainsFunc(n.Pods, func(np NominatedPod) bool {
		i := slices.IndexFunc(g.Pods, func(p *Pod) bool { return p.UID == np.UID })
		return np.Name != "" && (i < 0 || !g.Pods[i].Lives() && g.Pods[i].Phase != PodSucceeded)
	})
}

// Again is how a gang was moved that leaves nodes now as well. The nil one was not moved
// before.
func (m *Moved) Again(now time.Time, from []string) *Moved {
	out := &Moved{Times: 1, At: now.UnixNano()}
	if m != nil {
		out.Times = m.Times + 1
		out.From = slices.DeleteFunc(slices.Clone(m.From), func(n string) bool { return slices.Contains(from, n) })
	}
	out.From = append(out.From, from...)
	out.From = out.From[max(0, len(out.From)-mostLeft):]
	return out
}

// Rests reports whether the gang was moved so short a time ago that it is to stay where
// it is: the time doubles with each move, beginning with once.
func (m *Moved) Rests(now time.Time, once time.Duration) bool {
	if m == nil {
		return false
	}
	rest := once
	for i := 1; i < m.Times && rest < remembered; i++ {
		rest *= 2
	}
	return now.UnixNano()-m.At < int64(rest)
}
