package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// queueFaults are what is wrong with queues, in order of their names and the reasons: with
// what they declare, with what those above them do while gangs wait for it, and that they
// are not open while gangs wait in them.
func queueFaults(ses *framework.Session) []plan.QueueFault {
	type key struct{ queue, reason string }
	words := map[key][]string{}
	add := func(queue, reason, message string) {
		k := key{queue, reason}
		if !slices.Contains(words[k], message) {
			words[k] = append(words[k], message)
		}
	}
	for _, f := range ses.Ledger.Faults {
		add(f.Queue, f.Reason, f.Message)
	}
	for _, u := range ses.Plan.Unschedulable {
		if u.Code != plan.QueueClosed && u.Code != plan.QueueInvalid {
			continue // as of nearly all
		}
		g := ses.Snapshot.Gang(u.Gang)
		if g == nil {
			continue
		}
		if u.Code == plan.QueueClosed {
			add(g.Queue, string(u.Code), fmt.Sprintf("%s, and gangs wait in it: they start once it is open", u.Message))
		} else if f := ses.Ledger.Stopped(g.Queue); f != nil {
			add(g.Queue, f.Reason, f.Message)
		}
	}
	var out []plan.QueueFault
	for k, messages := range words {
		if q := ses.Snapshot.Queue(k.queue); q != nil { // steps of paths in annotations are no objects
			out = append(out, plan.QueueFault{Queue: k.queue, UID: q.UID, Reason: k.reason, Message: plan.Bound(strings.Join(messages, "; "))})
		}
	}
	slices.SortFunc(out, func(a, b plan.QueueFault) int {
		return cmp.Or(strings.Compare(a.Queue, b.Queue), strings.Compare(a.Reason, b.Reason))
	})
	return out
}
