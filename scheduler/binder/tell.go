package binder

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

const (
	// tellAgain is how long an event is kept by an API server unless told otherwise:
	// what is still true is told again then.
	tellAgain = time.Hour
	// tellAtOnce bounds the events of one cycle, so that a flood of gangs that wait
	// crowds out no other event; the rest follows with the next cycles.
	tellAtOnce = 50
)

// waits remembers which gangs' pods were told why they wait. The binder's lock
// guards it.
type waits struct {
	told  map[waitOf]time.Time
	swept time.Time
}

type waitOf struct {
	gang string // UID
	code plan.Code
}

// news gives those of the gangs that wait whose first pod has not heard this reason
// yet, or not for long. The numbers in a message change all the time, so only
// the code counts.
func (w *waits) news(all []plan.Unschedulable, now time.Time) []plan.Unschedulable {
	if now.Sub(w.swept) > time.Minute {
		w.swept = now
		for k, at := range w.told {
			if now.Sub(at) > tellAgain {
				delete(w.told, k)
			}
		}
	}
	var out []plan.Unschedulable
	for _, u := range all {
		// A pod of its own has its event from its condition.
		if len(u.Pods) == 0 || u.Plain && u.Code.CapacityKind() {
			continue
		}
		k := waitOf{u.GangUID, u.Code}
		if at, known := w.told[k]; known && now.Sub(at) <= tellAgain {
			continue
		}
		if len(out) == tellAtOnce {
			break
		}
		w.told[k] = now
		out = append(out, u)
	}
	return out
}

// tellWaiting has an event on the first pod of each gang that waits for another
// reason than before: kubectl describe shows a pod's events, and of a condition not
// the words.
func (b *Binder) tellWaiting(p plan.Plan, now time.Time) {
	for _, u := range b.waits.news(p.Unschedulable, now) {
		first := u.Pods[0]
		ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: first.Namespace, Name: first.Name, UID: types.UID(first.UID)}
		b.Events.Event(ref, corev1.EventTypeWarning, "FailedScheduling", string(u.Code)+": "+u.Message)
	}
}
