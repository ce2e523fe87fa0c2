package binder

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

const (
	// tellAgain is how long an event is kept by an API server unless told otherwise:
	// what is still true is told again then.
	tellAgain = time.Hour
	// tellAtOnce bounds the events of tellWithin, however many cycles that has, so that
	// a flood of gangs that wait crowds out no other event: what sends them off drops
	// what it has no room for. The rest follows with later cycles.
	tellAtOnce = 50
	tellWithin = time.Second
	// tellNext is the least time until another pod of a gang hears the same reason, when
	// the one that heard it no longer waits: the members of a gang may be many, and start
	// one by one.
	tellNext = 30 * time.Second
)

// waits remembers which gangs' pods were told why they wait. The binder's lock
// guards it.
type waits struct {
	told  map[waitOf]toldPod
	swept time.Time
	since time.Time // of those that are counted
	count int
}

// waitOf is a reason of a gang. All that name a PodGroup which does not exist have no
// UID.
type waitOf struct {
	gang, uid string
	code      plan.Code
}

// toldPod is the pod that heard a reason, and when.
type toldPod struct {
	uid string
	at  time.Time
}

// news gives those of the gangs that wait of which no pod has heard this reason yet,
// or not for long, or none that still waits: an event is read on the pod that it is on.
// The numbers in a message change all the time, so only the code counts.
func (w *waits) news(all []plan.Unschedulable, now time.Time) []plan.Unschedulable {
	if now.Sub(w.swept) > time.Minute {
		w.swept = now
		for k, told := range w.told {
			if now.Sub(told.at) > tellAgain {
				delete(w.told, k)
			}
		}
	}
	var out []plan.Unschedulable
	for _, u := range all {
		// A pod of its own has its event from its condition.
		if len(u.Pods) == 0 || u.Early || u.Plain && u.Code.CapacityKind() {
			continue
		}
		k := waitOf{u.Gang, u.GangUID, u.Code}
		if told, known := w.told[k]; known && now.Sub(told.at) <= tellAgain && (now.Sub(told.at) < tellNext || told.stillWaits(u.Pods)) {
			continue
		}
		if !w.may(now) {
			break
		}
		w.told[k] = toldPod{u.Pods[0].UID, now}
		out = append(out, u)
	}
	return out
}

// stillWaits says that the pod that was told is among those that wait.
func (t toldPod) stillWaits(pods []plan.PodRef) bool {
	return slices.ContainsFunc(pods, func(p plan.PodRef) bool { return p.UID == t.uid })
}

// may counts one more event, if there is room for it now.
func (w *waits) may(now time.Time) bool {
	if now.Sub(w.since) >= tellWithin {
		w.since, w.count = now, 0
	}
	if w.count >= tellAtOnce {
		return false
	}
	w.count++
	return true
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

// tellChanged is the least time from one event of a reason of a queue to the next, when its
// words change: amounts in them follow the nodes.
const tellChanged = 5 * time.Minute

// queuesTold remembers what was told of queues. The binder's lock guards it.
type queuesTold map[queueReason]toldOf

type queueReason struct{ uid, reason string }

type toldOf struct {
	message string
	at      time.Time
}

// news gives the faults of queues that were not told yet, that are told in other words now,
// or that are as they were for so long that an event of them is no longer kept; what there
// is no room for now stays news.
func (q queuesTold) news(all []plan.QueueFault, now time.Time, may func(time.Time) bool) []plan.QueueFault {
	var out []plan.QueueFault
	are := make(map[queueReason]bool, len(all))
	for _, f := range all {
		k := queueReason{f.UID, f.Reason}
		are[k] = true
		told, known := q[k]
		age := now.Sub(told.at)
		if known && (age < tellChanged || told.message == f.Message && age <= tellAgain) {
			continue
		}
		if !may(now) {
			continue
		}
		q[k] = toldOf{f.Message, now}
		out = append(out, f)
	}
	for k, told := range q {
		if !are[k] && now.Sub(told.at) >= tellChanged {
			delete(q, k) // mended: told at once when it is so again
		}
	}
	return out
}

// tellQueues has an event on each queue with which something is wrong: a Queue has no
// conditions.
func (b *Binder) tellQueues(p plan.Plan, now time.Time) {
	for _, f := range b.queues.news(p.Queues, now, b.waits.may) {
		ref := &corev1.ObjectReference{APIVersion: volcanov1.SchemeGroupVersion.String(), Kind: "Queue", Name: f.Queue, UID: types.UID(f.UID)}
		b.Events.Event(ref, corev1.EventTypeWarning, f.Reason, f.Message)
	}
}
