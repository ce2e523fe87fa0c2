package scheduler

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Condition types and statuses as Volcano spells them, and reasons of good news.
const (
	unschedulable = "Unschedulable"
	scheduled     = "Scheduled"
	isTrue        = "True"
	isFalse       = "False"

	readyReason    = "GangReady"
	admittedReason = "Admitted"
	notStale       = "NothingHeldInVain"
)

// groupStatus works out what a PodGroup's status should say, by Volcano's rules,
// and whether it says something else now. What this cycle places, and
// what is only assumed to be bound, does not count before the watch shows it.
func groupStatus(s *framework.Session, g *snapshot.Gang) (snapshot.GroupStatus, bool) {
	if g.Plain || g.Absent {
		return snapshot.GroupStatus{}, false
	}
	if g.Native {
		return nativeStatus(s, g)
	}
	wait := s.Waits(g)
	want := snapshot.GroupStatus{Phase: g.Status.Phase}
	seen := &g.Seen
	want.Succeeded, want.Failed, want.Running = seen.Succeeded, seen.Failed, seen.Running
	allocated := seen.Succeeded + seen.Failed + seen.Bound
	stuck := wait != nil && !wait.Satisfied && !wait.Early && wait.Code != plan.Held
	switch {
	case g.Status.Phase == snapshot.GroupCompleted && seen.Live == 0:
		// The pods of a completed gang are cleaned up in time; what it came to stays.
		want.Succeeded, want.Failed = max(want.Succeeded, g.Status.Succeeded), max(want.Failed, g.Status.Failed)
	case want.Running > 0 && stuck:
		want.Phase = snapshot.GroupUnknown
	case allocated >= g.Minimum():
		want.Phase = snapshot.GroupRunning
		if want.Succeeded+want.Failed == allocated {
			want.Phase = snapshot.GroupCompleted
		}
	case s.Admitted(g):
		want.Phase = snapshot.GroupInqueue
	case g.Status.Phase != snapshot.GroupInqueue:
		want.Phase = snapshot.GroupPending
	}
	want.Conditions = staleness(conditions(g, wait, stuck, allocated >= g.Minimum(), s.Admitted(g)), g, s.IsShort(g))
	want.Conditions = wholeness(want.Conditions, scheduled, g.WholeWords())
	return want, !want.Equal(g.Status)
}

// Quarantine is the status of a gang that is left out for a while, and whether
// there is an object to write it on.
func Quarantine(g *snapshot.Gang, message string) (plan.Status, bool) {
	want := g.Status
	want.Conditions = set(g.Status.Conditions, snapshot.Condition{Type: unschedulable, Status: isTrue, Reason: string(plan.Quarantined), Message: plan.Bound(message)})
	return plan.Status{Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Want: want}, !g.Plain && !g.Absent && !g.Native
}

// nativeStatus works out the one condition of a PodGroup of Kubernetes' own API:
// whether it has been scheduled once. That it has stays true.
func nativeStatus(s *framework.Session, g *snapshot.Gang) (snapshot.GroupStatus, bool) {
	const initially = "PodGroupInitiallyScheduled"
	want := snapshot.GroupStatus{Conditions: g.Status.Conditions}
	if slices.ContainsFunc(want.Conditions, func(c snapshot.Condition) bool { return c.Type == initially && c.Status == isTrue }) {
		if g.Whole != nil { // that it has ended is no reason for a write
			want.Conditions = wholeness(want.Conditions, initially, g.WholeWords())
		}
		return want, !want.Equal(g.Status)
	}
	var placed int64
	for _, p := range g.Pods {
		if p.Phase == snapshot.PodSucceeded || p.Node != "" && !p.Assumed && !p.Terminating {
			placed++
		}
	}
	switch wait := s.Waits(g); {
	case placed >= g.Minimum():
		want.Conditions = set(want.Conditions, snapshot.Condition{Type: initially, Status: isTrue, Reason: scheduled})
		want.Conditions = wholeness(want.Conditions, initially, (&snapshot.Whole{Min: g.Minimum()}).Words())
	case wait != nil && !wait.Early && wait.Code != plan.Held:
		want.Conditions = set(want.Conditions, snapshot.Condition{Type: initially, Status: isFalse, Reason: unschedulable, Message: wait.Message})
	}
	return want, !want.Equal(g.Status)
}

// nodeCounts lists the HyperNodes whose status tells another number of nodes.
func nodeCounts(s *snapshot.Snapshot) []plan.NodeCounts {
	if len(s.HyperNodes) == 0 {
		return nil
	}
	places := make(map[string]*snapshot.Place, len(s.Places))
	for _, p := range s.Places {
		places[p.Name] = p
	}
	var out []plan.NodeCounts
	for _, h := range s.HyperNodes {
		if p := places[h.Name]; p != nil && p.Count != h.NodeCount {
			out = append(out, plan.NodeCounts{HyperNode: h.Name, UID: h.UID, Count: p.Count, Problem: p.Problem})
		}
	}
	return out
}

// conditions carries the conditions over, changed by what this cycle found.
// A gang that is neither stuck nor placed nor just let in keeps what it had. What the
// condition of one that is placed says in words is left to wholeness.
func conditions(g *snapshot.Gang, wait *plan.Unschedulable, stuck, placed, admitted bool) []snapshot.Condition {
	out := g.Status.Conditions
	switch {
	case stuck:
		out = set(out, snapshot.Condition{Type: unschedulable, Status: isTrue, Reason: groupReason(wait.Code), Message: wait.Message})
	case placed:
		out = lift(set(out, snapshot.Condition{Type: scheduled, Status: isTrue, Reason: readyReason, Message: messageOf(out, scheduled)}), readyReason)
	case admitted:
		out = lift(out, admittedReason)
	}
	return out
}

// messageOf is what the condition of a type says in words, "" where there is none.
func messageOf(cs []snapshot.Condition, of string) string {
	if i := slices.IndexFunc(cs, func(c snapshot.Condition) bool { return c.Type == of }); i >= 0 {
		return cs[i].Message
	}
	return ""
}

// staleness says whether the gang holds places that are of no use to it, or too few for
// want of pods. Of gangs that never did nothing is said.
func staleness(cs []snapshot.Condition, g *snapshot.Gang, why string) []snapshot.Condition {
	switch {
	case why != "" && g.ShortSince == 0:
		return set(cs, snapshot.Condition{Type: snapshot.Stale, Status: isTrue, Reason: snapshot.PodsMissing, Message: why})
	case why != "":
		return set(cs, snapshot.Condition{Type: snapshot.Stale, Status: isTrue, Reason: snapshot.BelowMinimum, Message: why})
	case slices.ContainsFunc(cs, func(c snapshot.Condition) bool { return c.Type == snapshot.Stale && c.Status == isTrue }):
		return set(cs, snapshot.Condition{Type: snapshot.Stale, Status: isFalse, Reason: notStale})
	}
	return cs
}

// wholeness has the condition that the gang is placed tell what it needed when it last
// had that, for a scheduler after this one: what is raised later is not taken for lost.
func wholeness(cs []snapshot.Condition, placed, words string) []snapshot.Condition {
	i := slices.IndexFunc(cs, func(c snapshot.Condition) bool { return c.Type == placed && c.Status == isTrue })
	if i < 0 {
		return cs
	}
	c := cs[i]
	c.Message = words
	return set(cs, c)
}

// lift turns an Unschedulable condition that is true into a false one.
func lift(cs []snapshot.Condition, reason string) []snapshot.Condition {
	if slices.ContainsFunc(cs, func(c snapshot.Condition) bool { return c.Type == unschedulable && c.Status == isTrue }) {
		return set(cs, snapshot.Condition{Type: unschedulable, Status: isFalse, Reason: reason})
	}
	return cs
}

// set returns conditions with c among them. Those given stay as they are: they are
// of a snapshot, and most say so already.
func set(cs []snapshot.Condition, c snapshot.Condition) []snapshot.Condition {
	at, found := slices.BinarySearchFunc(cs, c.Type, func(x snapshot.Condition, t string) int { return strings.Compare(x.Type, t) })
	if !found {
		return slices.Insert(slices.Clone(cs), at, c)
	}
	if cs[at] != c {
		cs = slices.Clone(cs)
		cs[at] = c
	}
	return cs
}

// groupReason is the condition's reason: Volcano's word where it has one.
func groupReason(c plan.Code) string {
	switch c {
	case plan.NoCapacity, plan.NodesDontMatch:
		return "NotEnoughResources"
	case plan.NotEnoughPods:
		return "NotEnoughTasks"
	case plan.NotEnoughTaskPods:
		return "NotEnoughPodsOfTask"
	}
	return string(c)
}
