package binder

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestFiguresAreRefreshedAFewAtATime: while one gang after the other ends, the words of
// thousands that wait change with every cycle. Those are written a few at a time, the oldest
// first and each at last; another reason, or a count, is written at once.
func TestFiguresAreRefreshedAFewAtATime(t *testing.T) {
	const gangs, seconds = 2000, 150
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := cache.New()
	for i := range gangs {
		name := fmt.Sprintf("g%05d", i)
		c.SetGroup(&volcanov1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), ResourceVersion: "1"},
			Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue, Conditions: []volcanov1.PodGroupCondition{
				{Type: "Unschedulable", Status: "True", Reason: "NotEnoughResources", Message: "0 are free"},
			}},
		})
	}
	b := New(Config{Cache: c, Events: &record.FakeRecorder{}, Now: func() time.Time { return now }, NewID: func() string { return "" }})
	defer b.Close()
	reasons := map[int]string{}
	told := func(second int) plan.Plan {
		var p plan.Plan
		for i := range gangs {
			name, reason := fmt.Sprintf("g%05d", i), "NotEnoughResources"
			if r := reasons[i]; r != "" {
				reason = r
			}
			p.Statuses = append(p.Statuses, plan.Status{Gang: "podgroup/ns/" + name, GangUID: name, Namespace: "ns", Name: name, Want: snapshot.GroupStatus{
				Phase: snapshot.GroupInqueue, Conditions: []snapshot.Condition{{Type: "Unschedulable", Status: "True", Reason: reason, Message: fmt.Sprint(second, " are free")}},
			}})
		}
		return p
	}
	var most, sum int
	times := map[string]int{}
	for second := 1; second <= seconds; second++ {
		now = now.Add(time.Second)
		b.note(told(second), now)
		most = max(most, len(b.wishes))
		for uid := range b.wishes { // all that is to be written is
			sum++
			times[uid]++
			b.written[uid] = now
			b.refreshes.wrote(uid, now)
			delete(b.wishes, uid)
		}
	}
	if most > refreshAtOnce || sum > refreshAtOnce+seconds*int(time.Second/refreshEvery) {
		t.Errorf("%d writes, up to %d in a cycle", sum, most)
	}
	if sum < seconds*int(time.Second/refreshEvery) {
		t.Errorf("%d writes only", sum)
	}
	if len(times) != sum {
		t.Errorf("%d writes for %d gangs, while %d were never refreshed", sum, len(times), gangs-len(times))
	}
	for i := range 700 {
		reasons[i] = "OverQuota"
	}
	now = now.Add(time.Second)
	b.note(told(seconds), now)
	if got := len(b.wishes); got < 700 || got > 700+refreshAtOnce {
		t.Errorf("%d are written when 700 have another reason", got)
	}
}
