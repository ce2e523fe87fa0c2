// Package tdm shares nodes with another system by the time of day: a revocable zone of
// nodes is for pods that may be revoked, in the hours that it is open, and is cleared of
// them when it closes.
package tdm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

// Label names a node's zone.
const Label = "volcano.sh/revocable-zone"

// Plugin opens and closes zones. It is configuration alone.
type Plugin struct {
	// Zones are the hours of each zone.
	Zones map[string]Window
	// In is where the hours are meant; nil is UTC.
	In *time.Location
	// Period is how long after some were sent away the next are; 0 is at once.
	Period time.Duration
}

// Window is hours of every day, in minutes from midnight: from From until just before
// To, over midnight where To is not after From.
type Window struct{ From, To int }

// ParseWindow reads hh:mm-hh:mm.
func ParseWindow(text string) (Window, error) {
	from, to, ok := strings.Cut(text, "-")
	a, errA := time.Parse("15:04", strings.TrimSpace(from))
	b, errB := time.Parse("15:04", strings.TrimSpace(to))
	if !ok || errA != nil || errB != nil {
		return Window{}, fmt.Errorf(`is %q, must be hours of the day like "10:00-21:00"`, text)
	}
	return Window{From: a.Hour()*60 + a.Minute(), To: b.Hour()*60 + b.Minute()}, nil
}

// Open reports whether a minute of the day is inside.
func (w Window) Open(minute int) bool {
	if w.From < w.To {
		return w.From <= minute && minute < w.To
	}
	return minute >= w.From || minute < w.To
}

func (w Window) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "tdm" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// Open tells the plugin what time it is.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.In == nil {
		p.In = time.UTC
	}
	at := s.Now.In(p.In)
	return cycle{p, at.Hour()*60 + at.Minute()}
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	minute int
}

// Filter keeps pods out of zones that are closed, and of every zone those that may not
// be revoked.
func (c cycle) Filter(class *snapshot.Class, n *snapshot.Node) string {
	zone := n.Labels[Label]
	if zone == "" {
		return ""
	}
	w, known := c.Zones[zone]
	switch {
	case !known:
		return fmt.Sprintf("no hours are known of revocable zone %q", zone)
	case !c.accepts(class, zone):
		return fmt.Sprintf("only pods that may be revoked go to revocable zone %q", zone)
	case !w.Open(c.minute):
		return fmt.Sprintf("revocable zone %q is open at %s %s alone", zone, w, c.In)
	}
	return ""
}

func (cycle) accepts(class *snapshot.Class, zone string) bool {
	return slices.Contains(class.Revocable, "*") || slices.Contains(class.Revocable, zone)
}

// Score puts pods that may be revoked on nodes of zones first: others cannot go there.
func (c cycle) Score(class *snapshot.Class, n *snapshot.Node) int64 {
	if zone := n.Labels[Label]; zone != "" && c.accepts(class, zone) {
		return 100
	}
	return 0
}

// CompareGangs puts gangs first whose pods may not be revoked.
func (cycle) CompareGangs(a, b *snapshot.Gang) int { return cmp.Compare(revocable(a), revocable(b)) }

func revocable(g *snapshot.Gang) int {
	if len(g.Pods) > 0 && len(g.Pods[0].Class.Revocable) > 0 {
		return 1
	}
	return 0
}

// Revoke lists what runs in zones that are closed and may be revoked: members that a
// gang can do without, or else all of it. Disruption budgets hold; who is left goes
// when they allow it, a period after those before.
func (c cycle) Revoke(s *framework.Session) []framework.Revocation {
	if s.SinceRound(c.Name()) < c.Period {
		return nil
	}
	closed := map[string]string{}
	for _, n := range s.Snapshot.Nodes {
		if zone := n.Labels[Label]; zone != "" {
			if w, known := c.Zones[zone]; known && !w.Open(c.minute) {
				closed[n.Name] = zone
			}
		}
	}
	if len(closed) == 0 {
		return nil
	}
	in := func(p *snapshot.Pod) bool { return closed[p.Node] != "" && c.accepts(p.Class, closed[p.Node]) }
	units := whatif.Units(s, whatif.Rules{MinRun: -1}, func(g *snapshot.Gang) bool { return slices.ContainsFunc(g.Pods, in) })
	whole := map[*snapshot.Gang]bool{} // gangs of which more is there than they can do without
	for _, u := range units {
		if u.Whole && slices.ContainsFunc(u.Pods, in) {
			whole[u.Gang] = true
		}
	}
	units = slices.DeleteFunc(units, func(u *whatif.Unit) bool { return !whole[u.Gang] && !slices.ContainsFunc(u.Pods, in) })
	var out []framework.Revocation
	for _, u := range whatif.Allowed(s, units) {
		zone := ""
		for _, p := range u.Pods {
			zone = cmp.Or(closed[p.Node], zone)
		}
		out = append(out, framework.Revocation{Gang: u.Gang, Pods: u.Pods, Whole: whole[u.Gang],
			Why: fmt.Sprintf("the hours of revocable zone %q are over", cmp.Or(zone, "of its gang"))})
	}
	if len(out) > 0 && c.Period > 0 {
		s.NoteRound(c.Name(), "")
	}
	return out
}
