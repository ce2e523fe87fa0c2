package snapshot

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Whole is a gang's minimum, those of its tasks and those of its parts.
type Whole struct {
	Min   int64         `json:"min"`
	Tasks []TaskMinimum `json:"tasks,omitempty"`
	// Parts are those of the policies that ask for any part, in the order of the PodGroup.
	Parts []PartMinimum `json:"parts,omitempty"`
}

// PartMinimum is how many parts of a policy a gang needs, and how many pods make one of them.
type PartMinimum struct {
	Policy string `json:"policy"`
	Size   int64  `json:"size"`
	Min    int64  `json:"min"`
}

// wholeWords come before what a Whole is in a message.
const wholeWords = "it has had all that it needs: "

// wholeAtMost bounds such a message, in bytes.
const wholeAtMost = 1000

// Words is a Whole as a message, by which a scheduler that starts anew knows of it. Of
// nil, and of one with very many tasks, it is "".
func (w *Whole) Words() string {
	if w == nil {
		return ""
	}
	text, err := json.Marshal(w)
	if err != nil || len(wholeWords)+len(text) > wholeAtMost {
		return ""
	}
	return wholeWords + string(text)
}

// WholeWords are the Words of the gang's Whole: every cycle asks for those of all gangs, so
// they are made when the gang is compiled.
func (g *Gang) WholeWords() string {
	if g.worded == g.Whole {
		return g.words
	}
	return g.Whole.Words()
}

func (g *Gang) keepWords() { g.worded, g.words = g.Whole, g.Whole.Words() }

// ReadWhole is the Whole that a message tells, nil when it tells none.
func ReadWhole(message string) *Whole {
	text, ok := strings.CutPrefix(message, wholeWords)
	var w Whole
	if !ok || json.Unmarshal([]byte(text), &w) != nil || w.Min < 1 {
		return nil
	}
	return &w
}

// NoteWhole remembers what the gang needs if it has that, and forgets it when the gang
// holds nothing any more. It is called whenever a gang has changed, before Short. A
// binding that may fail yet gives it nothing.
func (g *Gang) NoteWhole() {
	defer func() {
		g.Unmade = g.unmade()
		g.keepWords()
	}()
	switch now := g.minimums(); {
	case !g.holds():
		g.Whole = nil
	case g.UnderWay():
	case g.lacks(now, (*Pod).left) == "":
		g.Whole = &now
	}
}

// minimums are those that the gang has now.
func (g *Gang) minimums() Whole {
	w := Whole{Min: g.Minimum(), Tasks: g.TaskMinimums()}
	for i := range g.SubGroups {
		if p := &g.SubGroups[i]; p.Min > 0 {
			w.Parts = append(w.Parts, PartMinimum{Policy: p.Name, Size: p.Size, Min: p.Min})
		}
	}
	return w
}

// Short reports whether the gang holds places that are of no use to it: too few of
// its members are left for its minimum, or an attempt lacks members and nobody has
// taken it up. Members that have ended by themselves, well or not, have had their
// run: what follows from that is their owner's business.
func (g *Gang) Short() bool {
	if g.Plain || g.Absent {
		return false
	}
	return g.holds() && g.Lacks() != "" || len(g.OpenAttempts()) > 0
}

// Shortness measures for how long a gang has been Short, all told, since it last had what
// it needs or held nothing. It stands still while the gang is Unmade, which says nothing of
// its owner having had enough of it: members that are replaced every few minutes are
// missing each time for a moment.
type Shortness struct {
	since int64 // as GangSpec.ShortSince
	spent int64 // for how long it was short, in nanoseconds, while it stands still
	// made is what the gang could have of what it needed by the pods that there were when
	// it was last Unmade, and madeAt since when; nil while it is not.
	made   *Whole
	madeAt int64
}

// wantedAfter is for how long a gang has to have the same pods, too few for its minimum,
// until these are taken for all that its owner wants: longer than a controller takes to
// make lost ones anew.
const wantedAfter = 5 * time.Minute

// From has a gang that is not known to be short be so since a time, if that is past.
func (s *Shortness) From(since, now int64) {
	if s.since == 0 && since != 0 {
		s.since = min(since, now)
	}
}

// Note sets the gang's ShortSince and UnmadeSince, and its Whole where its owner has scaled
// it up again: what it was to have before that, for long, is what it had. It is called
// whenever a gang has changed, after NoteWhole. A gang that would have enough by bindings
// that may fail yet is not Short, but has been all the while if they do.
func (s *Shortness) Note(g *Gang, now int64) {
	g.ShortSince, g.UnmadeSince = 0, 0
	s.scaled(g, now)
	switch {
	case g.Short():
		if s.since == 0 {
			s.since, s.spent = now-s.spent, 0
		}
		g.ShortSince = s.since
	case g.Unmade != "":
		if s.since != 0 {
			s.since, s.spent = 0, max(0, now-s.since)
		}
	case !g.UnderWay():
		*s = Shortness{}
	}
}

// scaled has a gang that was Unmade measured by what it was to have then, if that was for
// long, and nothing of that is known to have been lost before.
func (s *Shortness) scaled(g *Gang, now int64) {
	if g.Unmade != "" {
		if made := g.made(); s.made == nil || !reflect.DeepEqual(*s.made, made) {
			s.made, s.madeAt = &made, now
		}
		g.UnmadeSince = s.madeAt
		return
	}
	if s.made != nil && s.spent == 0 && g.Whole != nil && now-s.madeAt >= int64(wantedAfter) && g.lacks(g.need(), (*Pod).left) != "" {
		g.Whole = s.made
	}
	s.made = nil
}

// made is what the gang can have of what it must not lose by the pods that there are.
func (g *Gang) made() Whole {
	need := g.need()
	w := Whole{Min: min(need.Min, int64(len(g.Pods)))}
	tasks, parts := map[string]int64{}, map[string]int64{}
	for _, p := range g.Pods {
		tasks[p.Task]++
	}
	for _, t := range need.Tasks {
		w.Tasks = append(w.Tasks, TaskMinimum{Task: t.Task, Min: min(t.Min, tasks[t.Task])})
	}
	all := g.Parts()
	for _, p := range need.Parts {
		for _, part := range all {
			if part.Policy.Name == p.Policy && int64(len(part.Pods)) >= max(p.Size, 1) {
				parts[p.Policy]++
			}
		}
		w.Parts = append(w.Parts, PartMinimum{Policy: p.Policy, Size: p.Size, Min: min(p.Min, parts[p.Policy])})
	}
	return w
}

// Lacks says in a clause what the gang has lost of its minimum, "" for nothing. A
// minimum that was raised since the gang last had it is no loss: what runs of it is of
// use while the others wait. Nor is what Unmade says.
func (g *Gang) Lacks() string {
	if g.Unmade != "" {
		return ""
	}
	return g.lacks(g.need(), (*Pod).left)
}

// unmade works Unmade out. A pod that goes away, or whose place was taken from it, counts:
// it comes back. What there are too few of is measured by what the gang needs now: without
// that it is not placed anew.
func (g *Gang) unmade() string {
	if !slices.ContainsFunc(g.Pods, func(p *Pod) bool { return p.Lives() && p.Phase == PodRunning }) {
		return ""
	}
	if g.lacks(g.minimums(), func(*Pod) bool { return true }) == "" {
		return ""
	}
	return g.lacks(g.need(), (*Pod).left)
}

// need is what the gang must not lose: the lesser of what it needs now and what it needed
// when it last had that, nothing of tasks and policies that had no minimum then. A Whole
// names all that had one, whether this program saw it or was told of it by one before.
func (g *Gang) need() Whole {
	need, had := g.minimums(), g.Whole
	if had == nil {
		return need
	}
	need.Min = min(need.Min, had.Min)
	tasks := make(map[string]int64, len(had.Tasks))
	for _, t := range had.Tasks {
		tasks[t.Task] = t.Min
	}
	var both []TaskMinimum
	for _, t := range need.Tasks {
		if n, ok := tasks[t.Task]; ok {
			both = append(both, TaskMinimum{Task: t.Task, Min: min(t.Min, n)})
		}
	}
	need.Tasks = both
	parts := make(map[string]PartMinimum, len(had.Parts))
	for _, p := range had.Parts {
		parts[p.Policy] = p
	}
	need.Parts = slices.DeleteFunc(need.Parts, func(p PartMinimum) bool { return parts[p.Policy].Min < 1 })
	for i := range need.Parts {
		p := &need.Parts[i]
		p.Size, p.Min = min(p.Size, parts[p.Policy].Size), min(p.Min, parts[p.Policy].Min)
	}
	return need
}

// HasMinimum reports whether so many members of the gang are placed and alive, or have
// succeeded, that nothing more is needed, in all, of each task and of each policy for parts.
func (g *Gang) HasMinimum() bool { return g.lacks(g.minimums(), (*Pod).Counts) == "" }

// IsBound is HasMinimum without bindings that may fail yet.
func (g *Gang) IsBound() bool {
	return g.lacks(g.minimums(), func(p *Pod) bool { return p.Counts() && !p.Assumed }) == ""
}

// lacks says what the gang has too few of for all of need, where the pods that has
// chooses count.
func (g *Gang) lacks(need Whole, has func(*Pod) bool) string {
	if n := count(g.Pods, has); n < need.Min {
		return fmt.Sprintf("%d of the %d members that it needs are left", n, need.Min)
	}
	if len(need.Tasks) > 0 {
		of := map[string]int64{}
		for _, p := range g.Pods {
			if has(p) {
				of[p.Task]++
			}
		}
		for _, t := range need.Tasks {
			if n := of[t.Task]; n < t.Min {
				return fmt.Sprintf("%d of the %d members that it needs of task %q are left", n, t.Min, t.Task)
			}
		}
	}
	if len(need.Parts) == 0 {
		return ""
	}
	sizes := make(map[string]int64, len(need.Parts))
	for _, p := range need.Parts {
		sizes[p.Policy] = max(p.Size, 1)
	}
	ready := map[string]int64{}
	for _, part := range g.Parts() {
		if size, ok := sizes[part.Policy.Name]; ok && count(part.Pods, has) >= size {
			ready[part.Policy.Name]++
		}
	}
	for _, p := range need.Parts {
		if n := ready[p.Policy]; n < p.Min {
			return fmt.Sprintf("%d of the %d parts of policy %q that it needs are left whole", n, p.Min, p.Policy)
		}
	}
	return ""
}

// UnderWay reports whether bindings of members were sent that are not confirmed.
func (g *Gang) UnderWay() bool {
	return slices.ContainsFunc(g.Pods, func(p *Pod) bool { return p.Assumed })
}

func count(pods []*Pod, has func(*Pod) bool) int64 {
	var n int64
	for _, p := range pods {
		if has(p) {
			n++
		}
	}
	return n
}

func (g *Gang) holds() bool {
	for _, p := range g.Pods {
		if p.Lives() {
			return true
		}
	}
	return false
}

// Lives reports whether the pod has a place and is neither done nor going away.
func (p *Pod) Lives() bool { return p.Node != "" && !p.Terminal() && !p.Terminating }

// left reports whether the pod is placed, or has had its run.
func (p *Pod) left() bool { return p.Counts() || p.Phase == PodFailed && !p.Lost }

// Left counts the members that are placed or have ended by themselves.
func (g *Gang) Left() int64 { return count(g.Pods, (*Pod).left) }

// OpenAttempts lists the ids of the attempts that lack members and that nobody has
// taken up, in order.
func (g *Gang) OpenAttempts() []string {
	type attempt struct {
		size, members int64
		closed        bool
	}
	var by map[string]*attempt
	var out []string
	for _, p := range g.Pods {
		if p.Attempt == "" || p.Node == "" || p.Size <= 1 {
			continue
		}
		a := by[p.Attempt]
		if a == nil {
			if by == nil {
				by = map[string]*attempt{}
			}
			a = &attempt{}
			by[p.Attempt] = a
		}
		a.size, a.members = max(a.size, p.Size), a.members+1
		a.closed = a.closed || p.Submitted || p.Phase != PodPending || p.Terminating
	}
	for id, a := range by {
		if !a.closed && a.members < a.size {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
