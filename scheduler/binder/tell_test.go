package binder

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

func waiting(n int, code plan.Code) []plan.Unschedulable {
	var out []plan.Unschedulable
	for i := range n {
		uid := fmt.Sprint("gang-", i)
		out = append(out, plan.Unschedulable{GangUID: uid, Code: code, Message: "numbers", Pods: []plan.PodRef{{UID: uid + "-0"}}})
	}
	return out
}

// Each reason is told once an hour, only so many at once, and nothing is kept for
// ever.
func TestWaitsAreToldOnce(t *testing.T) {
	w := waits{told: map[waitOf]toldPod{}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	step := func(want int, all []plan.Unschedulable) {
		t.Helper()
		now = now.Add(time.Second)
		if got := len(w.news(all, now)); got != want {
			t.Errorf("%d told, want %d", got, want)
		}
	}
	step(50, waiting(70, plan.OverQuota))
	step(20, waiting(70, plan.OverQuota))
	step(0, waiting(70, plan.OverQuota))
	step(1, waiting(1, plan.QueueClosed))
	step(0, waiting(1, plan.OverQuota)) // to and fro
	alone := waiting(1, plan.NoCapacity)
	alone[0].Plain = true // has its condition, and the event with that
	step(0, alone)
	alone[0].Pods = nil
	step(0, alone)
	now = now.Add(tellAgain)
	step(3, waiting(3, plan.OverQuota))
	if len(w.told) != 3 {
		t.Errorf("%d are remembered, want 3", len(w.told))
	}
}

// Who names a PodGroup that does not exist has no other sign than the event, and no UID
// to be told apart by: each is told, and a second has only so many whatever cycles it has.
func TestEachIsToldThatItsPodGroupIsNotThere(t *testing.T) {
	all := waiting(3*tellAtOnce, plan.PodGroupNotFound)
	for i := range all {
		all[i].Gang, all[i].GangUID = "podgroup/default/"+all[i].GangUID, ""
	}
	w := waits{told: map[waitOf]toldPod{}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := map[string]int{}
	for second := range 4 {
		for cycle := range 10 {
			for _, u := range w.news(all, now.Add(time.Duration(second)*time.Second+time.Duration(cycle)*100*time.Millisecond)) {
				told[u.Gang]++
			}
		}
		if want := min((second+1)*tellAtOnce, len(all)); len(told) != want {
			t.Errorf("after second %d %d gangs were told, want %d", second, len(told), want)
		}
	}
	for gang, n := range told {
		if n != 1 {
			t.Errorf("%s was told %d times", gang, n)
		}
	}
}

// A pod that is made anew, under the same name as well, hears why it waits, though the
// reason is an old one of its gang; and no more than one pod in a while does, however fast
// those before it start.
func TestPodThatIsMadeAnewIsTold(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := waits{told: map[waitOf]toldPod{}}
	for i, step := range []struct {
		after time.Duration
		pods  []string
		told  string
	}{
		{0, []string{"a", "b"}, "a"},
		{5 * time.Second, []string{"b"}, ""},
		{tellNext, []string{"b"}, "b"},
		{tellNext + time.Second, []string{"c", "b"}, ""},
		{3 * tellNext, []string{"c", "b"}, ""},
		{4 * tellNext, []string{"d"}, "d"},
		{4*tellNext + time.Second, []string{"e"}, ""},
		{5 * tellNext, []string{"d"}, ""},
		{4*tellNext + tellAgain + time.Second, []string{"d"}, "d"},
	} {
		u := plan.Unschedulable{Gang: "podgroup/default/none", Code: plan.PodGroupNotFound, Message: "words"}
		for _, uid := range step.pods {
			u.Pods = append(u.Pods, plan.PodRef{UID: uid})
		}
		told := ""
		for _, n := range w.news([]plan.Unschedulable{u}, start.Add(step.after)) {
			told += n.Pods[0].UID
		}
		if told != step.told {
			t.Errorf("step %d: %q was told, want %q", i, told, step.told)
		}
	}
}

// A fault of a queue is told once, when it changes, when it comes back, and once an hour as
// long as it stays; not with every cycle, nor whenever amounts in it change.
func TestFaultsOfQueuesAreTold(t *testing.T) {
	q := queuesTold{}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fault := func(uid, reason, message string) plan.QueueFault {
		return plan.QueueFault{Queue: "q", UID: uid, Reason: reason, Message: message}
	}
	for i, step := range []struct {
		after time.Duration
		all   []plan.QueueFault
		told  int
	}{
		{0, nil, 0},
		{time.Second, []plan.QueueFault{fault("1", "A", "a")}, 1},
		{2 * time.Second, []plan.QueueFault{fault("1", "A", "a"), fault("1", "B", "b"), fault("2", "A", "a")}, 2},
		{time.Minute, nil, 0},
		{2 * time.Minute, []plan.QueueFault{fault("1", "A", "a")}, 0}, // to and fro
		{3 * time.Minute, []plan.QueueFault{fault("1", "A", "other")}, 0},
		{tellChanged + time.Second, []plan.QueueFault{fault("1", "A", "other")}, 1},
		{tellChanged + time.Hour, []plan.QueueFault{fault("1", "A", "other")}, 0},
		{tellChanged + time.Hour + 2*time.Second, []plan.QueueFault{fault("1", "A", "other")}, 1},
		{3 * time.Hour, nil, 0},
		{3*time.Hour + time.Second, []plan.QueueFault{fault("1", "A", "other")}, 1},
		{4 * time.Hour, nil, 0},
	} {
		if got := q.news(step.all, start.Add(step.after), func(time.Time) bool { return true }); len(got) != step.told {
			t.Errorf("step %d: %d told, want %d", i, len(got), step.told)
		}
	}
	if len(q) != 0 {
		t.Errorf("%d are remembered, want none", len(q))
	}
	// A flood is told little by little, beside what gangs wait for.
	var many []plan.QueueFault
	for i := range 3 * tellAtOnce {
		many = append(many, fault(strconv.Itoa(i), "A", "a"))
	}
	w, told := waits{told: map[waitOf]toldPod{}}, map[string]int{}
	for second := range 5 {
		got := q.news(many, start.Add(time.Duration(second)*tellWithin), w.may)
		if len(got) > tellAtOnce {
			t.Errorf("%d are told at once", len(got))
		}
		for _, f := range got {
			told[f.UID]++
		}
	}
	for _, f := range many {
		if told[f.UID] != 1 {
			t.Errorf("queue %s was told %d times", f.UID, told[f.UID])
		}
	}
}
