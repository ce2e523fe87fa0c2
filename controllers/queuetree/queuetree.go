// Package queuetree says how queues stand to each other and which of them take new
// work, for all who have to know. It is pure.
package queuetree

import (
	"slices"
	"strings"

	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// Root is the queue that all others are beneath.
const Root = "root"

// Parent is the name of the queue above q, "" for the root itself.
func Parent(q *scheduling.Queue) string {
	switch {
	case q.Name == Root:
		return ""
	case q.Spec.Parent == "":
		return Root
	}
	return q.Spec.Parent
}

// IsOpen says that a queue takes new work. One without a state is new, and will be.
func IsOpen(q *scheduling.Queue) bool {
	return q.Status.State == "" || q.Status.State == scheduling.QueueStateOpen
}

// Verdict is why a queue takes no new Jobs or PodGroups.
type Verdict string

// The verdicts.
const (
	Takes    Verdict = "" // it takes them
	NotFound Verdict = "QueueNotFound"
	NotOpen  Verdict = "QueueNotOpen"
	NotLeaf  Verdict = "QueueNotLeaf" // others are beneath it, and those have the work
)

// Judge says whether the queue of a name takes new work. beneath are the names of
// the queues right beneath it, in order; found is nil when there is no such queue.
// The queue default is as good as there: the controllers make it.
func Judge(name string, queues []scheduling.Queue) (v Verdict, found *scheduling.Queue, beneath []string) {
	for i := range queues {
		q := &queues[i]
		if q.Name == name {
			found = q
		} else if Parent(q) == name {
			beneath = append(beneath, q.Name)
		}
	}
	slices.SortFunc(beneath, strings.Compare)
	switch {
	case name == Root || len(beneath) > 0:
		return NotLeaf, found, beneath
	case found == nil && name == scheduling.DefaultQueue:
		return Takes, nil, nil
	case found == nil:
		return NotFound, nil, nil
	case !IsOpen(found):
		return NotOpen, found, nil
	}
	return Takes, found, nil
}
