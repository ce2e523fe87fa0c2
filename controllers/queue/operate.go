package queue

import (
	"fmt"
	"slices"
	"strings"

	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// closedByParent is the annotation on a queue that was closed because its parent
// was; it opens again with the parent.
const closedByParent = "volcano.sh/closed-by-parent"

// isFor says that a Command is for a queue.
func isFor(c *bus.Command) bool {
	if c.TargetObject == nil || c.TargetObject.Kind != "Queue" || c.DeletionTimestamp != nil {
		return false
	}
	group, _, _ := strings.Cut(c.TargetObject.APIVersion, "/")
	return group == scheduling.GroupName
}

// oldest is the Command for a queue that is next, nil when there is none.
func oldest(commands []bus.Command) *bus.Command {
	var first *bus.Command
	for i := range commands {
		c := &commands[i]
		if !isFor(c) {
			continue
		}
		if first == nil || c.CreationTimestamp.Before(&first.CreationTimestamp) ||
			c.CreationTimestamp.Equal(&first.CreationTimestamp) && c.Name < first.Name {
			first = c
		}
	}
	return first
}

// operate carries a Command out on queues: it changes their states and the
// annotation closedByParent. Closing takes the queues beneath along, opening
// brings those back that closing took. Doing it twice is doing it once. refusal
// says why nothing was done, "" otherwise.
func operate(queues []scheduling.Queue, c *bus.Command) (refusal string) {
	byName, children := map[string]*scheduling.Queue{}, map[string][]*scheduling.Queue{}
	for i := range queues {
		q := &queues[i]
		byName[q.Name] = q
		if parent := queuetree.Parent(q); parent != "" {
			children[parent] = append(children[parent], q)
		}
	}
	target := byName[c.TargetObject.Name]
	switch {
	case target == nil:
		return fmt.Sprintf("there is no queue %s", c.TargetObject.Name)
	case c.TargetObject.UID != "" && c.TargetObject.UID != target.UID:
		return fmt.Sprintf("the command is for an earlier queue named %s", target.Name)
	}
	switch bus.Action(c.Action) {
	case bus.CloseQueueAction:
		if target.Name == queuetree.Root {
			return "the queue root is never closed: all others are beneath it"
		}
		shut(target)
		delete(target.Annotations, closedByParent) // it stays closed when the parent opens
		descend(children, target, func(q *scheduling.Queue) bool {
			if queuetree.IsOpen(q) {
				shut(q)
				annotate(q)
			}
			return true
		})
	case bus.OpenQueueAction:
		if parent := byName[queuetree.Parent(target)]; parent != nil && !queuetree.IsOpen(parent) {
			return fmt.Sprintf("its parent %s is %s; open that first", parent.Name, parent.Status.State)
		}
		target.Status.State = scheduling.QueueStateOpen
		delete(target.Annotations, closedByParent)
		descend(children, target, func(q *scheduling.Queue) bool {
			if q.Annotations[closedByParent] != "true" {
				return queuetree.IsOpen(q) // what its owner closed stays closed, with all beneath
			}
			q.Status.State = scheduling.QueueStateOpen
			delete(q.Annotations, closedByParent)
			return true
		})
	default:
		return fmt.Sprintf("a queue knows the actions %s and %s, not %q", bus.OpenQueueAction, bus.CloseQueueAction, c.Action)
	}
	return ""
}

// shut begins to close a queue; the ledger finishes when no PodGroup is left.
func shut(q *scheduling.Queue) {
	if q.Status.State != scheduling.QueueStateClosed {
		q.Status.State = scheduling.QueueStateClosing
	}
}

func annotate(q *scheduling.Queue) {
	if q.Annotations == nil {
		q.Annotations = map[string]string{}
	}
	q.Annotations[closedByParent] = "true"
}

// descend calls do for the queues beneath one, parents first; it goes no deeper
// where do says no. A loop of parents is gone through once.
func descend(children map[string][]*scheduling.Queue, from *scheduling.Queue, do func(*scheduling.Queue) bool) {
	seen := map[string]bool{from.Name: true}
	todo := slices.Clone(children[from.Name])
	for len(todo) > 0 {
		q := todo[0]
		todo = todo[1:]
		if seen[q.Name] {
			continue
		}
		seen[q.Name] = true
		if do(q) {
			todo = append(todo, children[q.Name]...)
		}
	}
}
